"""The documentation: what it shows is run, what it claims is computed, what it points to is there."""

import contextlib
import doctest
import importlib.util
import inspect
import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import handgrad
import handgrad.data
from handgrad import formulas

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [path for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))) if path.exists()]
FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
NUMBER = re.compile(r"[-−+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")
SIGNIFICANT = 5e-4  # of a number on a page, four digits; the last ones are another machine's
PUBLIC = {"handgrad": handgrad, "handgrad.formulas": formulas, "handgrad.data": handgrad.data}

if not DOCS.exists():
    pytest.skip("the tests run apart from the repository", allow_module_level=True)


@pytest.fixture(scope="module")
def pages():
    """The package in scripts/ that makes a site of docs/."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        yield importlib.import_module("pages.directives")
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def name_of(path):
    return str(path.relative_to(ROOT))


each_page = pytest.mark.parametrize("path", PAGES, ids=name_of)


def read(text):
    """The fences of a page, as (language, first line, body), and its lines without them, numbered."""
    fences, prose, opened = [], [], None
    for number, line in enumerate(text.split("\n"), 1):
        mark = FENCE.match(line)
        if opened is None and mark:
            opened = (*mark.groups(), number, [])
        elif opened is not None and line.strip() == opened[1]:
            indent, _, language, start, body = opened
            fences.append((language.strip(), start + 1, "\n".join(each.removeprefix(indent) for each in body)))
            opened = None
        elif opened is not None:
            opened[4].append(line)
        else:
            prose.append((number, line))
    assert opened is None, f"a fence that opens at line {opened[3]} has no end"
    return fences, prose


def words_and_numbers(text):
    """The words of an output, and its numbers."""
    words = NUMBER.sub("#", " ".join(text.split()))
    return words, [float(number.replace("−", "-")) for number in NUMBER.findall(text)]


def assert_prints(printed, shown):
    """The same words, and the same numbers to four significant digits."""
    (got, numbers), (wanted, expected) = words_and_numbers(printed), words_and_numbers(shown)
    assert got == wanted, f"printed:\n{printed}\nshown:\n{shown}"
    for number, value in zip(numbers, expected, strict=True):
        assert math.isclose(number, value, rel_tol=SIGNIFICANT), f"{number}, shown as {value}, in\n{printed}"


# --- What it shows is run ---------------------------------------------------------------------------------------------


def code_of(path):
    """The blocks of Python, each with the output that is shown after it, or None."""
    fences, _ = read(path.read_text())
    for fence, after in itertools.pairwise([*fences, ("", 0, "")]):
        if fence[0] == "python":
            gap = path.read_text().split("\n")[fence[1] + fence[2].count("\n") + 1 : after[1] - 2]
            yield fence[1], fence[2], after[2] if after[0] == "text" and not any(map(str.strip, gap)) else None


@pytest.mark.messages  # and NumPy's arrays where the hook wants JAX's
@each_page
def test_the_code_of_a_page_runs_and_prints_what_is_shown(path, tmp_path, monkeypatch):
    blocks = list(code_of(path))
    if not blocks:
        return
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__page__"}
    # As its reader has it, whose promotion is JAX's own.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for line, code, shown in blocks:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("\n" * (line - 1) + code, path, "exec"), names)
            if shown is not None:
                assert_prints(printed.getvalue(), shown)


@pytest.mark.slow
@each_page
def test_the_commands_of_a_page_run(path, tmp_path):
    blocks = [body for language, _, body in read(path.read_text())[0] if language == "sh"]
    blocks = [body for body in blocks if body.startswith("# run\n")]
    if not blocks:
        return
    program = f'#!/bin/sh\nexec "{sys.executable}" -m handgrad "$@"\n'
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "handgrad").write_text(program)
    (tmp_path / "bin" / "handgrad").chmod(0o755)
    (tmp_path / "work").mkdir()
    search = f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    source = str(Path(handgrad.__file__).parents[1])
    for body in blocks:
        environment = os.environ | {"PATH": search, "PYTHONPATH": source}
        run = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", body],
            cwd=tmp_path / "work",
            env=environment,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, f"{body}\n{run.stdout}\n{run.stderr}"


def test_every_fence_says_what_it_is():
    known = {"python", "python no-run", "text", "sh", "csv", "json", "yaml", "toml", "markdown"}
    for path in PAGES:
        for language, line, body in read(path.read_text())[0]:
            assert language in known, f"{name_of(path)}, line {line}: {language!r}"
            assert language != "python no-run" or compile(body, name_of(path), "exec")


def test_a_wrong_output_would_be_seen():
    assert_prints("loss 0.69315  [1. 2.]\n", "loss 0.6931 [1. 2.]")
    for wrong in ("loss 0.6931 [1. 3.]", "loss 0.6941 [1. 2.]", "loss: 0.6931 [1. 2.]", "loss 0.6931 [1. 2.] [3.]"):
        with pytest.raises(AssertionError):
            assert_prints("loss 0.69315  [1. 2.]\n", wrong)


# --- What it claims is computed ---------------------------------------------------------------------------------------


def displayed():
    """Every formula on lines of its own, with the page that it is on."""
    for path in PAGES[1:]:
        text = "\n".join(line for _, line in read(path.read_text())[1])
        yield from ((formula.strip(), name_of(path)) for formula in re.findall(r"\$\$(.+?)\$\$", text, re.DOTALL))


def written():
    if not (DOCS / "formulas.py").exists():
        return {}
    spec = importlib.util.spec_from_file_location("docs_formulas", DOCS / "formulas.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FORMULAS


FORMULAS = written()


def test_every_formula_is_computed_and_none_besides():
    shown = dict(displayed())
    assert {formula: page for formula, page in shown.items() if formula not in FORMULAS} == {}
    assert set(FORMULAS) <= set(shown)


@pytest.mark.messages
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_is_what_handgrad_computes(formula, x64):
    for seed in range(2):
        pairs = FORMULAS[formula](np.random.default_rng(seed))
        assert pairs
        for by_formula, by_handgrad in pairs:
            by_formula, by_handgrad = np.asarray(by_formula), np.asarray(by_handgrad)
            assert by_formula.shape == by_handgrad.shape
            assert np.isfinite(by_formula).all()
            # Relative to the largest entry, since a sum that is 0 has no digits of its own.
            largest = np.abs(by_formula).max(initial=np.finfo(float).tiny)
            np.testing.assert_allclose(by_handgrad, by_formula, rtol=1e-6, atol=1e-6 * largest)


def test_figures_are_those_of_the_benchmarks(pages):
    figures = importlib.import_module("pages.figures")
    text = "".join(path.read_text() for path in PAGES)
    shown, named = set(re.findall(r'figures\("(\w+)"', text)), set(re.findall(r"(\w+)\.json", text))
    assert {path.stem for path in (ROOT / "benchmarks").glob("*.json")} <= shown | named
    for name in shown:
        found = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())
        page = figures.show_figures(name).replace("\N{NO-BREAK SPACE}", " ").replace("\N{NON-BREAKING HYPHEN}", "-")
        for table in found.get("tables", {}).values():
            for row in table["rows"]:
                assert "| " + " | ".join("–" if cell is None else str(cell) for cell in row) + " |" in page
        for script in figures.measured(name).script.split(" and "):
            assert (ROOT / script.split()[0]).is_file()
            assert f"`python {script}`" in page
        assert figures.measured(name).machine in page


def test_figures_that_a_script_wrote_are_rounded_and_not_moved(pages):
    figures = importlib.import_module("pages.figures")
    found = json.loads((ROOT / "benchmarks" / "head_cpu.json").read_text())
    rows = {tuple(row[:2]): row for row in figures.measured("head_cpu").tables["head"].rows}
    memory = {tuple(row[:2]): row for row in figures.measured("head_cpu").tables["memory"].rows}
    columns = figures.measured("head_cpu").tables["head"].columns
    forms = {"plain": "plain", "torch chunked": "torch 2.13.0, chunked", "jax-cce": "jax-cce 0.1.0"}
    for row in found["rows"]:
        case = figures.CASES.get(row["case"], row["case"])
        place = ", ".join(map(str, row["shape"])), case
        cells = rows[place]
        if row["form"] == "handgrad":
            assert abs(cells[2] - row["milliseconds"]) <= 0.5
            assert abs(memory[place][2] - row["temporary_bytes"] / 1e6) <= 0.5
        elif row["form"] in forms:
            assert abs(float(cells[columns.index(forms[row["form"]])]) - row["ratio"]) <= 0.005
    found = json.loads((ROOT / "benchmarks" / "head_compiled.json").read_text())
    table = figures.measured("head_compiled").tables["memory"]
    cells = {tuple(row[:2]): row for row in table.rows}
    for row in found["H100"]["rows"]:
        if row["form"] == "handgrad, recompute":
            shown = cells["H100", ", ".join(map(str, row["shape"]))][table.columns.index("`recompute=True`")]
            assert abs(shown - row["temporary_bytes"] / 1e6) <= 0.5


def test_the_figures_of_the_readme_are_among_them(pages):
    figures = importlib.import_module("pages.figures")
    known = set()
    for name in set(re.findall(r'figures\("(\w+)"', (DOCS / "figures.md").read_text())):
        for table in figures.measured(name).tables.values():
            numbers = [float(each) for row in table.rows for each in re.findall(r"\d+(?:\.\d+)?", str(row))]
            known |= {*numbers, *(round(number / 1000, 2) for number in numbers)}  # seconds of milliseconds
    _, _, fast = PAGES[0].read_text().partition("## How fast")
    shown = [float(each) for line in re.findall(r"^\|.*", fast, re.MULTILINE) for each in re.findall(r"\d+\.\d+", line)]
    assert len(shown) > 8
    assert set(shown) <= known


def test_the_table_of_scaling_is_what_its_script_makes_of_what_was_compiled(pages):
    scaling = importlib.import_module("compiled_scaling")
    found = json.loads((ROOT / "benchmarks" / "scaling_compiled.json").read_text())
    assert scaling.table(found) in (DOCS / "scaling.md").read_text()


# --- What it points to is there ---------------------------------------------------------------------------------------


def anchors_of(path):
    """What a link to a place on a page may name: headings as they are written in lower case, and ids."""
    found = set()
    for _, line in read(path.read_text())[1]:
        found |= set(re.findall(r"\{[^{}]*#([\w.-]+)[^{}]*\}", line))
        found |= set(re.findall(r'\{\{ entry\("([\w.]+)"', line))
        if line.startswith("#"):
            words = re.sub(r"[^\w\s-]", "", line.lstrip("#").strip().lower())
            found.add(re.sub(r"[-\s]+" if path.parent != ROOT else r"\s", "-", words))
        if "{{ program()" in line:
            found |= {f"handgrad-{name}" for name in ("fit", "probe", "train", "check", "predict", "export", "bench")}
    return found


@each_page
def test_every_link_leads_somewhere(path):
    for number, line in read(path.read_text())[1]:
        line = re.sub(r"`[^`]*`", "code", line)
        for target in re.findall(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"", line):
            target = "".join(target)
            if re.match(r"https?://|mailto:", target):
                continue
            file, _, anchor = target.partition("#")
            there = path if not file else (path.parent / file).resolve()
            where = f"{name_of(path)}, line {number}: {target}"
            assert there.exists(), where
            assert path == PAGES[0] or not file or DOCS in there.parents, f"{where} is not of the site"
            assert not anchor or there.suffix != ".md" or anchor in anchors_of(there), where


@each_page
def test_what_a_page_shows_of_the_source_is_there(path, pages):
    if path != PAGES[0]:
        assert pages.expand(path.read_text().split("\n"), str(path.relative_to(DOCS)))


@pytest.mark.parametrize(
    "directive",
    [
        'source("handgrad.formulas.losses.nothing")',
        'source("handgrad.nothing.logit_gradient")',
        'source("handgrad.formulas.losses.logit_gradient", "nothing")',
        'source("handgrad.formulas.losses.logit_gradient", "return", "D = ")',
        'test("tests/test_losses.py::test_nothing")',
        'test("tests/test_nothing.py::test_both_forms_of_the_loss_are_equal")',
        'picture("images/nothing.svg", "a picture")',
        'figures("nothing")',
        'figures("training_cpu", "nothing")',
        'entry("handgrad.nothing")',
        'nothing("x")',
    ],
)
def test_what_is_not_there_ends_the_build(pages, directive):
    with pytest.raises(ValueError, match=r"docs/a/page\.md"):
        pages.expand([f"{{{{ {directive} }}}}"], "a/page.md")


def test_the_lines_that_are_shown_are_those_of_the_source(pages):
    line = '{{ source("handgrad.formulas.losses.logit_gradient") }}'
    shown = pages.expand([line, "```text", line, "```"], "page.md")
    start = next(index for index, text in enumerate(shown) if text.startswith("```python"))
    end = shown.index("```", start)
    title = re.fullmatch(r'```python title="(.*), lines (\d+)–(\d+)"', shown[start])
    source = (ROOT / title[1]).read_text().split("\n")[int(title[2]) - 1 : int(title[3])]
    assert source[0].startswith("def logit_gradient(")
    assert shown[start + 1 : end] == [each for each in source if each in shown[start + 1 : end]]
    assert shown[end - 1] == source[-1]
    assert not any('"""' in each for each in shown[start:end])
    assert "(reference/formulas.md#handgrad.logit_gradient)" in shown[end + 2]
    assert shown[-3:] == ["```text", line, "```"]
    assert pages.expand(["```python no-run", "go()", "```"], "page.md") == ["```python", "go()", "```"]
    assert pages.expand(["```sh", "# run", "go", "```"], "page.md") == ["```sh", "go", "```"]
    part = pages.expand(['{{ source("handgrad.formulas.losses.logit_gradient", "D = ", "return") }}'], "page.md")
    assert part[1:3] == [each.strip() for each in source[-2:]]


def test_a_test_that_is_shown_is_whole(pages):
    shown = pages.expand(['{{ test("tests/test_docs.py::test_a_test_that_is_shown_is_whole") }}'], "page.md")
    assert shown[0] == '??? proof "Proved by `test_a_test_that_is_shown_is_whole`"'
    assert "\n".join(shown).replace("\n    ", "\n").split("\n")[3:-1] == inspect.getsource(
        test_a_test_that_is_shown_is_whole
    ).rstrip().split("\n")


def test_every_page_is_in_the_navigation():
    _, _, navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")
    listed = re.findall(r"[\w/-]+\.md", navigation)
    assert sorted(listed) == sorted(str(path.relative_to(DOCS)) for path in PAGES[1:])


# --- The reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"{package}.{name}" for package, module in PUBLIC.items() for name in module.__all__])
def test_a_public_name_has_an_entry_and_an_example(pages, name):
    names = importlib.import_module("pages.names")
    package, _, own = name.rpartition(".")
    what = inspect.unwrap(getattr(PUBLIC[package], own)) if own not in ("formulas", "network") else None
    documented = getattr(PUBLIC[package], own) if what is None else what
    _, _, example = inspect.getdoc(documented).partition("\nExample:\n")
    assert doctest.DocTestParser().get_examples(example), "an example in its docstring"
    entries = [
        each for path in sorted((DOCS / "reference").glob("*.md")) for each in names.ENTRY.findall(path.read_text())
    ]
    assert sum(names.homes()[each] == names.homes()[name] for each in entries) == 1
