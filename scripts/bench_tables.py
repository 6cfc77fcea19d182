"""Times reading tables: `handgrad.data` against pyarrow's own reading with conversion to rows of float32.

Run: python scripts/bench_tables.py [FILE.json]

The tables are drawn from a seed and written into a temporary folder, 1.5 GB in all. Each reading is a process of its
own, which has read a small table before, so that what importing takes counts for neither; the two take turns, and a
ratio is the median of those of neighbours. Memory is the peak above what the process had before, from /proc, so on
Linux alone. The statistics by which columns are scaled are measured apart: pyarrow has none.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

NAME, SMALL = "kind", "a,kind\n" + "1.5,x\n2,y\n" * 50
# Rows, features, the format, how often, and what handgrad may take of pyarrow's time.
TABLES = {
    "long": (1_000_000, 19, "csv", 7, 1.3),
    "wide": (2_000, 20_000, "csv", 3, 1.5),
    "columns": (1_000_000, 100, "parquet", 5, 1.2),
}


def write(folder, name):
    """Numbers of six digits in each column but the last, which holds one of three classes."""
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    rows, features, form, _, _ = TABLES[name]
    rng, path, writer = np.random.default_rng(0), folder / f"{name}.{form}", None
    for start in range(0, rows, 100_000):
        X = rng.normal(size=(features, min(100_000, rows - start)))
        X = X.round(5) if form == "csv" else X
        columns = {f"feature_{index}": column for index, column in enumerate(X)}
        columns[NAME] = np.array(["red", "green", "blue"])[rng.integers(0, 3, X.shape[1])]
        table = pyarrow.table(columns)
        if writer is None:
            writer = (pyarrow.csv.CSVWriter if form == "csv" else pyarrow.parquet.ParquetWriter)(path, table.schema)
        writer.write_table(table)
    writer.close()
    return path


# --- One reading, in a process of its own -----------------------------------------------------------------------------


def by_pyarrow(path):
    """The table by pyarrow's defaults, its columns written into rows, the classes as numbers."""
    import pyarrow.csv
    import pyarrow.parquet

    table = pyarrow.csv.read_csv(path) if path.endswith("csv") else pyarrow.parquet.read_table(path)
    names = [name for name in table.column_names if name != NAME]
    X = np.empty((table.num_rows, len(names)), np.float32)
    for index, name in enumerate(names):
        X[:, index] = table.column(name).to_numpy()
    labels = table.column(NAME).dictionary_encode().unify_dictionaries().combine_chunks().indices.to_numpy()
    return X, labels


def by_handgrad(path):
    """The same by `read_table` and `encode`, with an encoding that leaves the numbers as they are."""
    from handgrad.data import Encoding, encode, read_table
    from handgrad.data.encoding import Input

    table = read_table(path, target=NAME)
    inputs, P = tuple(Input(name, "number") for name in table.columns), len(table.columns)
    as_it_is = Encoding(inputs, None, (), None, None, np.full(P, np.nan), np.zeros(P, bool), np.zeros(P), np.ones(P))
    return encode(as_it_is, table).X, table.labels


def measure(who, path, small):
    """Seconds, peak bytes beyond what there was, bytes of X, and a few numbers of it to compare."""
    read = {"pyarrow": by_pyarrow, "handgrad": by_handgrad}[who]
    read(small)
    before, start = status("VmRSS:"), time.perf_counter()
    X, labels = read(path)
    seconds, peak = time.perf_counter() - start, status("VmHWM:") - before
    sample = X[:: len(X) // 7, :: X.shape[1] // 7].astype(float).ravel().tolist()
    found = {"seconds": seconds, "peak": peak, "X": X.nbytes, "sample": sample, "labels": len(labels)}
    if who == "handgrad":
        from handgrad.data import fit_encoding, read_table

        table = read_table(path, target=NAME)
        start = time.perf_counter()
        fit_encoding(table)
        found["statistics"] = time.perf_counter() - start
    return found


def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


# --- All of them ------------------------------------------------------------------------------------------------------


def race(path, small, repeats):
    """The runs of both, in turns."""
    runs = {"pyarrow": [], "handgrad": []}
    for number in range(repeats):
        for who in sorted(runs, reverse=bool(number % 2)):
            command = [sys.executable, __file__, "--one", who, path, small]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            runs[who].append(json.loads(done.stdout.splitlines()[-1]))
    first, second = (runs[who][0] for who in runs)
    if first["sample"] != second["sample"] or first["labels"] != second["labels"]:
        raise AssertionError(f"{path}: handgrad and pyarrow do not read the same numbers")
    return runs


def summary(name, path, runs):
    rows, features, form, repeats, bound = TABLES[name]
    ours, theirs = runs["handgrad"], runs["pyarrow"]
    ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(ours, theirs, strict=True))
    X = ours[0]["X"]
    return {
        "rows": rows,
        "features": features,
        "format": form,
        "file_bytes": os.path.getsize(path),
        "repeats": repeats,
        "handgrad_seconds": round(statistics.median(run["seconds"] for run in ours), 3),
        "pyarrow_seconds": round(statistics.median(run["seconds"] for run in theirs), 3),
        "ratio": round(ratio, 2),
        "bound_of_ratio": bound,
        "statistics_seconds": round(statistics.median(run["statistics"] for run in ours), 3),
        "X_bytes": X,
        "handgrad_peak_beyond_X_in_X": round(statistics.median(run["peak"] for run in ours) / X - 1, 2),
        "pyarrow_peak_beyond_X_in_X": round(statistics.median(run["peak"] for run in theirs) / X - 1, 2),
    }


def main(out):
    from measure import machine

    results = {"machine": machine()}
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.csv"
        small.write_text(SMALL)
        for name in TABLES:
            path = write(Path(folder), name)
            results[name] = summary(name, path, race(str(path), str(small), TABLES[name][3]))
            path.unlink()
            print(name, json.dumps(results[name], indent=1), flush=True)
    if out:
        Path(out).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measure(*sys.argv[2:])))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else None)
