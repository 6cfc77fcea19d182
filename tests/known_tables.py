"""Real tables that scikit-learn and statsmodels ship, as the .csv files that a person would have of them."""

import csv
import gzip
import importlib.resources
import re
from pathlib import Path

import pytest

# Of each: where it is, the target, and what a person must add on being told so.
OF_OPENML = {
    "kr-vs-kp": ("id_3", "class", {}),
    "glass": ("id_40675", "class", {}),
    "penguins": ("id_42585", "species", {"missing": "mean"}),
    "titanic": (
        "id_40945",
        "survived",
        {"missing": "median", "drop": ("boat", "body"), "ids": ("name", "ticket", "cabin", "home.dest")},
    ),
    "zoo": ("id_62", "type", {"ids": ("animal",)}),
}
OF_SCIKIT_LEARN = ("breast_cancer", "digits", "iris", "wine")
OF_STATSMODELS = {"anes96": "vote", "fair": "rate_marriage", "spector": "GRADE"}
NAMES = (*OF_OPENML, *OF_SCIKIT_LEARN, *OF_STATSMODELS)


def write(name: str, folder: Path) -> tuple[Path, str, dict]:
    """The table as a file, the column to predict, and the arguments that it needs besides."""
    path = folder / f"{name}.csv"
    if name in OF_SCIKIT_LEARN:
        datasets = pytest.importorskip("sklearn.datasets")
        data = getattr(datasets, f"load_{name}")()
        names = [data.target_names[label] for label in data.target]
        rows = [[*row, label] for row, label in zip(data.data.tolist(), names, strict=True)]
        header, target, needed = [*data.feature_names, "class"], "class", {}
    elif name in OF_OPENML:
        folder_name, target, needed = OF_OPENML[name]
        header, rows = _read_arff(folder_name)
    else:
        datasets = pytest.importorskip("statsmodels.datasets", reason="statsmodels, which ships it, is not installed")
        data = getattr(datasets, name).load_pandas().data
        header, rows, target, needed = list(data.columns), data.to_numpy().tolist(), OF_STATSMODELS[name], {}
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path, target, needed


def _read_arff(folder: str) -> tuple[list[str], list[list[str]]]:
    pytest.importorskip("sklearn")
    files = importlib.resources.files("sklearn") / "datasets" / "tests" / "data" / "openml" / folder
    found = [file for file in files.iterdir() if file.name.endswith(".arff.gz")] if files.is_dir() else []
    if not found:
        pytest.skip("this scikit-learn ships without the tables of its tests")
    text = gzip.decompress(found[0].read_bytes()).decode()
    head, _, body = re.split(r"(@data[^\n]*\n)", text, maxsplit=1, flags=re.IGNORECASE)
    names = re.findall(r"^@attribute\s+(?:'([^']+)'|\"([^\"]+)\"|(\S+))", head, flags=re.IGNORECASE | re.MULTILINE)
    lines = [line for line in body.splitlines() if line.strip() and not line.startswith("%")]
    quote = '"' if '"' in body else "'"
    rows = csv.reader(lines, quotechar=quote, skipinitialspace=True, escapechar="\\")
    return ["".join(each) for each in names], [["" if cell.strip() == "?" else cell for cell in row] for row in rows]
