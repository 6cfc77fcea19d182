"""Tables of what was measured, from benchmarks/*.json, so that no figure on a page is written by hand.

A file has its tables as they are shown, under `tables`, or the rows that a script wrote with all their digits, of which
tables are made here, rounded.
"""

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from pages.lines import ROOT

CASES = {"X frozen": "dL/dW alone", "W frozen": "dL/dX alone", "distillation": "a student beside a teacher of its size"}
# The forms of bench_head.py, what they are called, and the library whose version is said.
FORMS = {
    "plain": ("plain", None),
    "handgrad recompute": ("recompute", None),
    "tokamax xla": ("tokamax {}", "tokamax"),
    "tokamax chunked_xla": ("tokamax {}, chunked", "tokamax"),
    "jax-cce": ("jax-cce {}", "jax-cce"),
    "torch": ("torch {}", "torch"),
    "torch chunked": ("torch {}, chunked", "torch"),
    "torch plain": ("torch {}, plain", "torch"),
    "Liger": ("Liger {}", "liger-kernel"),
    "cut cross-entropy": ("cut cross-entropy {}", "cut-cross-entropy"),
    "products alone": ("products alone", None),
}
COMPILED = {
    "plain": "plain",
    "handgrad": "handgrad",
    "handgrad, recompute": "`recompute=True`",
    "handgrad, recompute, transposed": "and `transposed=True`",
    "jax-cce": "jax-cce 0.1.0",
    "products alone": "products alone",
}


class Table(NamedTuple):
    """What a table says, and its cells: a number, words, or None where nothing was measured."""

    caption: str
    columns: list[str]
    rows: list[list[Any]]


class Measured(NamedTuple):
    """A file of benchmarks/, as it is shown."""

    script: str
    machine: str
    tables: dict[str, Table]


def measured(name: str) -> Measured:
    """What benchmarks/NAME.json holds."""
    path = ROOT / "benchmarks" / f"{name}.json"
    if not path.is_file():
        raise ValueError(f"figures: there is no benchmarks/{name}.json.")
    found = json.loads(path.read_text())
    if name in MADE:
        script, tables = MADE[name]
        return Measured(script, found.get("machine") or _versions(found), tables(found))
    if "tables" not in found:
        raise ValueError(f"figures: how benchmarks/{name}.json is shown has to be written in scripts/pages/figures.py.")
    tables = {key: Table(**table) for key, table in found["tables"].items()}
    return Measured(found["script"], found["machine"], tables)


def show_figures(name: str, *chosen: str) -> str:
    """The tables of a file, or those of them that are chosen; how they were measured; how to do it again."""
    script, machine, tables = measured(name)
    for key in chosen:
        if key not in tables:
            raise ValueError(f"figures: benchmarks/{name}.json has no {key}; it has {', '.join(tables)}.")
    parts = [f"{table.caption}\n\n{_markdown(table)}" for key, table in tables.items() if key in (chosen or tables)]
    again = " and ".join(f"`python {each}`" for each in script.split(" and "))
    note = f"{machine}. Numbers in `benchmarks/{name}.json`. To repeat it: {again}.\n{{ .measured }}"
    return "\n\n".join([*parts, note])


def _markdown(table: Table) -> str:
    columns = zip(*table.rows, strict=True)
    sides = ["--:" if any(isinstance(cell, (int, float)) for cell in cells) else "---" for cells in columns]
    lines = [table.columns, sides, *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    # Sizes such as 2048, 512 and 784-10 stay on one line.
    text = "–" if value is None else re.sub(r"(?<=\d), (?=\d)", ",\N{NO-BREAK SPACE}", str(value))
    return re.sub(r"(?<=\d)-(?=\d)", "\N{NON-BREAKING HYPHEN}", text)


def _versions(found: dict[str, Any]) -> str:
    known = {tuple(part["versions"].items()) for part in found.values() if isinstance(part, dict)}
    versions = dict(pair for pairs in sorted(known) for pair in pairs)
    return "Compiled with " + ", ".join(f"{library} {version}" for library, version in versions.items())


def _in_order(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _head(found: dict[str, Any]) -> dict[str, Table]:
    """The times of all that was run, and the memory of what says how much it takes."""
    by = {(", ".join(map(str, row["shape"])), row["case"], row["form"]): row for row in found["rows"]}
    cases = sorted({key[:2]: None for key in by}, key=lambda case: case[1] == "distillation")
    forms = {
        form: label.format(found["versions"].get(library))
        for form, (label, library) in FORMS.items()
        if any(key[2] == form for key in by)
    }
    weighing = [form for form in forms if any(key[2] == form and by[key]["temporary_bytes"] for key in by)]

    def cells(case: tuple[str, str], form: str, key: str, scale: float, digits: int | None) -> Any:
        value = by.get((*case, form), {}).get(key)
        return None if value is None else round(value * scale, digits)

    time = (
        f"Value and gradient in {found['dtype']}: handgrad's milliseconds, and what the others take of that. The plain "
        "form is optax's loss of X@W; *products alone* are the matrix products and nothing else."
    )
    memory = "The megabytes that each needs beside arguments and results."
    return {
        "head": Table(
            time,
            ["N, P, C", "what", "handgrad, ms", *forms.values()],
            [
                [case[0], CASES.get(case[1], case[1]), cells(case, "handgrad", "milliseconds", 1, None)]
                + [cells(case, form, "ratio", 1, 2) for form in forms]
                for case in cases
            ],
        ),
        "memory": Table(
            memory,
            ["N, P, C", "what", "handgrad", *(forms[form] for form in weighing)],
            [
                [case[0], CASES.get(case[1], case[1])]
                + [cells(case, form, "temporary_bytes", 1e-6, None) for form in ("handgrad", *weighing)]
                for case in cases
            ],
        ),
    }


def _head_compiled(found: dict[str, Any]) -> dict[str, Table]:
    memory, times = [], []
    for device, part in found.items():
        if not isinstance(part, dict) or "axes" in part["rows"][0]:
            continue
        by = {(tuple(row["shape"]), row["form"]): row for row in part["rows"]}
        for shape in _in_order(key[0] for key in by):
            of = [by.get((shape, form), {}) for form in COMPILED]
            sizes = ", ".join(map(str, shape))
            memory.append([device, sizes, *map(_megabytes, of)])
            ours, products = (by[shape, form].get("estimated_seconds") for form in ("handgrad", "products alone"))
            if ours and products:
                times.append([device, sizes, round(ours / products, 2)])
    return {
        "memory": Table(
            "The head in bfloat16, value and all gradients: the megabytes that the program needs beside its arguments "
            "and results. The plain form is optax's loss of `(X @ W).astype(float32)`.",
            ["device", "N, P, C", *COMPILED.values()],
            memory,
        ),
        "times": Table(
            "The TPU compiler's own estimate of the time of a block of rows, over that of its three products alone.",
            ["device", "N, P, C", "ratio"],
            times,
        ),
    }


def _megabytes(row: dict[str, Any]) -> Any:
    if "error" in row:
        return "more than there is" if "RESOURCE_EXHAUSTED" in row["error"] else None
    return round(row["temporary_bytes"] / 1e6) if "temporary_bytes" in row else None


def _fit_compiled(found: dict[str, Any]) -> dict[str, Table]:
    rows = [
        [
            device,
            ", ".join(map(str, part["sizes"])),
            part["dtype_of_X"],
            round(part["peak_bytes_beside_X"] / 1e6),
            round(part["processor_seconds"]),
            round(part["processor_seconds_with_blocks"]),
        ]
        for device, part in found.items()
        if isinstance(part, dict)
    ]
    caption = (
        "The programs of `fit`: the megabytes that the largest of them needs beside X, and in how many seconds of a "
        "processor they compile, first without those of each class's own block of the Hessian, which a fit takes up "
        "after P/8 iterations."
    )
    columns = ["device", "N, P, C", "X", "MB beside X", "seconds", "with blocks"]
    return {"memory": Table(caption, columns, rows)}


def _tables(found: dict[str, Any]) -> dict[str, Table]:
    rows = [
        [
            f".{part['format']}, {part['rows']} rows of {part['features']} numbers",
            *(part[f"{library}_seconds"] for library in ("handgrad", "pyarrow")),
            part["ratio"],
            *(part[f"{library}_peak_beyond_X_in_X"] for library in ("handgrad", "pyarrow")),
        ]
        for part in found.values()
        if isinstance(part, dict)
    ]
    caption = (
        "Reading a file into rows of float32: `handgrad.data` and pyarrow with its guesses, the ratio of their times, "
        "and the most memory beside the rows, in sizes of the rows."
    )
    columns = ["file", "handgrad, s", "pyarrow, s", "ratio", "memory of handgrad", "memory of pyarrow"]
    return {"reading": Table(caption, columns, rows)}


def _stream(found: dict[str, Any]) -> dict[str, Table]:
    rows = [
        [
            part["kind"],
            part["peak_gb"],
            *(f"{part[f'{what}_seconds']:.2f}, {part[f'{what}_cpu']:.2f}" for what in ("pass", "read", "in_memory")),
            round(part["ratio"], 2),
            round(part["fit_seconds"]),
            part["loss"],
        ]
        for part in found["kinds"]
    ]
    other = found["partial_fit"]
    caption = (
        f"A file of {found['rows']:,} × {found['features']} float32 ({found['file_bytes'] / 1e9:.1f} GB), fitted to a "
        "relative gap of 1e-5 with a certificate. Of a pass over it: seconds and processor seconds, those of reading "
        "the file into rows alone, those of computing alone with the rows in memory, and the ratio of the pass to the "
        "longer of these. Parquet is read into rows by pyarrow alone. In as long as the first fit took, "
        f"{other['seconds']:.0f} s, scikit-learn's `SGDClassifier.partial_fit` came to a loss of {other['loss']:.4f}."
    )
    pass_ = ["a pass, s", "reading, s", "in memory, s", "ratio"]
    return {"stream": Table(caption, ["file", "memory at its peak, GB", *pass_, "fit, s", "loss"], rows)}


MADE = {
    "head_cpu": ("scripts/bench_head.py", _head),
    "head_cpu_313": ("scripts/bench_head.py", _head),
    "head_h100": ("scripts/bench_head.py", _head),
    "head_compiled": ("scripts/compile_accelerators.py", _head_compiled),
    "fit_compiled": ("scripts/compile_accelerators.py", _fit_compiled),
    "tables_cpu": ("scripts/bench_tables.py", _tables),
    "stream_cpu": ("scripts/bench_stream.py", _stream),
}
