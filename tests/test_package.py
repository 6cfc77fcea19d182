"""The package as a whole: its names, its layers, what importing it costs, its documents."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import handgrad
from handgrad import formulas

ROOT = Path(__file__).parents[1]
PACKAGE = Path(handgrad.__file__).parent
MODULES = sorted(
    module.name for module in pkgutil.walk_packages([str(PACKAGE)], "handgrad.") if not module.name.endswith("__main__")
)

# A module imports only from rows below its own.
LAYERS = [
    ["app"],
    ["estimator", "public"],
    ["models", "scikit"],
    ["solvers", "check", "network"],
    ["reference", "rows"],
    ["initialization", "fused"],
    ["head_loss"],
    ["sweep", "layer_sweep"],
    ["spread"],
    ["schedules"],
    ["tile", "block_sizes"],
    ["head"],
    ["formulas", "compiled", "lowering"],
    ["data", "arguments"],
    ["progress", "launching", "mapped", "sparse_streams"],
    ["files", "frames", "precision", "processes", "settings", "shapes", "showing", "streams"],
]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_formulas_stand_compiled_under_the_same_names():
    for name in formulas.__all__:
        function = getattr(handgrad, name)
        if name not in ("Params", "Layer"):
            assert inspect.unwrap(function) is getattr(formulas, name)
            assert hasattr(function, "lower")


def test_public_names_have_docstrings():
    for name in handgrad.__all__:
        assert len(getattr(handgrad, name).__doc__) > 40, name


def test_every_public_name_is_there_before_it_is_asked_for():
    code = "import sys, handgrad; print('jax' in sys.modules, set(handgrad.__all__) <= set(dir(handgrad)))"
    assert run(code) == "False True\n"
    names = {}
    exec("from handgrad import *", names)
    assert set(handgrad.__all__) <= set(names)


def test_importing_handgrad_imports_nothing_heavy():
    heavy = ["jaxtyping", "matplotlib", "pandas", "pyarrow", "rich", "safetensors", "sklearn", "torch", "typer"]
    loaded = run(f"import sys, handgrad.public; print([name for name in {heavy} if name in sys.modules])")
    alone = run(f"import sys, jax, optax; print([name for name in {heavy} if name in sys.modules])")
    assert loaded == alone == "[]\n"
    code = "import sys, handgrad, handgrad.app.fitting; handgrad.fit; print('optax' in sys.modules); handgrad.train"
    assert run(f"{code}; print('optax' in sys.modules)") == "False\nTrue\n"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_rows_below_its_own(module):
    path = Path(importlib.util.find_spec(module).origin)
    row = next(row for row, names in enumerate(LAYERS) if module.split(".")[1] in names)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "handgrad":
            inner = node.module.split(".")[1:]
            for name in inner[:1] or [alias.name for alias in node.names]:
                if name != module.split(".")[1] and not name.startswith("__"):
                    assert any(name in names for names in LAYERS[row + 1 :]), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_are_true(module):
    result = doctest.testmod(importlib.import_module(module), extraglobs={"np": np, "handgrad": handgrad}, report=True)
    assert result.failed == 0


def test_the_version_stands_in_the_changelog_and_the_citation():
    if not (ROOT / "CHANGELOG.md").exists():
        pytest.skip("the tests run apart from the repository")
    assert f"## [{handgrad.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {handgrad.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_extras_name_what_exists():
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("the tests run apart from the repository")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"app", "test", "cuda", "tpu", "all"} <= set(extras)


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the tests run apart from the repository")
def test_the_tests_that_the_pages_name_exist():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for path in pages for name in re.findall(r"`(test_\w+)`", path.read_text())}
    written = {name for path in ROOT.glob("tests/*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    assert len(named) > 8
    assert named <= written


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the tests run apart from the repository")
def test_the_page_on_the_architecture_names_what_exists_and_the_rows_as_they_are():
    page, picture = (ROOT / "docs" / name for name in ("architecture.md", "images/architecture.svg"))
    named = set(re.findall(r"`([\w/]+\.py|[\w/]+/)`", page.read_text()))
    drawn = set(re.findall(r"[\w/]+\.py", picture.read_text()))
    assert len(named) > 20
    assert len(drawn) > 10
    assert [name for name in named if not (PACKAGE / name).exists()] == []
    assert [name for name in drawn if not ((PACKAGE / name).exists() or (PACKAGE / "solvers" / name).exists())] == []
    table = page.read_text().split("## What may import what")[1]
    rows = [re.findall(r"`(\w+)`", line) for line in table.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row] == LAYERS


@pytest.mark.skipif(not (ROOT / "scripts").exists(), reason="the tests run apart from the repository")
def test_scripts_name_what_exists():
    # matplotlib is in the extra dev alone
    paths = [
        path
        for path in (ROOT / "scripts").glob("*.py")
        if importlib.util.find_spec("matplotlib") or "matplotlib" not in path.read_text()
    ]
    command = [sys.executable, "-c", f"import {', '.join(sorted(path.stem for path in paths))}"]
    done = subprocess.run(command, cwd=ROOT / "scripts", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
