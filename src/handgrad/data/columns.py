"""The columns of a .csv: read as text, then taken as numbers or as the names of classes."""

import csv
import difflib
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from handgrad.data.naming import list_columns, spell_alike

_INTEGER = re.compile(r"[+-]?[0-9]+")
# What stands for a missing number, in any case. In the column of the classes these are names like any other.
_MISSING = ("", "na", "n/a", "#na", "#n/a", "<na>", "nan", "+nan", "-nan", "null", "none")


def read_header(path: pathlib.Path) -> list[str]:
    """The columns' names as they stand."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            names = next((row for row in csv.reader(file) if row), [])
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path}: is not text in UTF-8 with values separated by commas.") from None
    if not names:
        raise ValueError(f"{path}: is empty.")
    trimmed = _trim(names)
    if "" in trimmed:
        raise ValueError(
            f"{path}: column {trimmed.index('') + 1} has no name. An index that pandas wrote? Write with index=False."
        )
    repeated = [name for name in dict.fromkeys(trimmed) if trimmed.count(name) > 1]
    if repeated:
        raise ValueError(f"{path}: has more than one column {repeated[0]!r}. Give each its own name.")
    return names


def _trim(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names]


def read_columns(path: pathlib.Path) -> dict[str, Any]:
    """The columns as text, names and values without the space around them."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
    except ImportError:
        raise ImportError("reading .csv needs pyarrow: pip install 'handgrad[app]'") from None
    names = read_header(path)
    try:
        # Types are not guessed, for pyarrow guesses from the first block. One thread, so that errors name the row.
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string())),
        )
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if table.column_names != names:
        raise ValueError(f"{path}: the first line is not one of names with commas between them.")
    if table.num_rows == 0:
        raise ValueError(f"{path}: has a header and no rows.")
    return {
        name: pyarrow.compute.utf8_trim_whitespace(column)
        for name, column in zip(_trim(names), table.itercolumns(), strict=True)
    }


def to_features(path: pathlib.Path, columns: dict[str, Any]) -> np.ndarray:
    """The columns as features (N, P)."""
    X = np.empty((len(next(iter(columns.values()))), len(columns)))
    for index, (name, column) in enumerate(columns.items()):
        X[:, index] = _to_numbers(path, name, column)
    return X


def _to_numbers(path: pathlib.Path, name: str, column: Any) -> np.ndarray:
    import pyarrow
    import pyarrow.compute

    lower = pyarrow.compute.utf8_lower(column)
    _require_values(path, name, pyarrow.compute.is_in(lower, value_set=pyarrow.array(_MISSING)))
    numbers = _cast(column, pyarrow.float64())
    if numbers is None:
        numbers = _cast(column, pyarrow.bool_())
    if numbers is None:
        row = next(row for row, text in enumerate(column) if _cast(text, pyarrow.float64()) is None)
        raise ValueError(
            f"{path}: column {name!r} must be numbers; got {column[row].as_py()!r} in row {row + 1}. Leave the column "
            "out, or encode it as numbers."
        )
    numbers = numbers.to_numpy().astype(np.float64)
    infinite = np.flatnonzero(np.isinf(numbers))
    if infinite.size:
        raise ValueError(
            f"{path}: column {name!r} is infinite in row {infinite[0] + 1}. Leave such rows out or fill them in."
        )
    for row in np.flatnonzero(np.abs(numbers) >= 2.0**53).tolist():
        text = column[row].as_py()
        if _INTEGER.fullmatch(text) and int(text) != int(numbers[row]):
            raise ValueError(
                f"{path}: column {name!r} has the integer {text} in row {row + 1}; beyond 2**53 float64 does not tell "
                "neighbours apart. A number that names something? Leave it out. A quantity? Subtract an offset."
            )
    return numbers


def _cast(values: Any, dtype: Any) -> Any:
    """A column, or one value of it, as numbers; None if they are none."""
    import pyarrow

    try:
        return values.cast(dtype)
    except pyarrow.ArrowInvalid:
        return None


def to_classes(path: pathlib.Path, name: str, column: Any) -> np.ndarray:
    """The column as names of classes, integers or text."""
    import pyarrow.compute

    _require_values(path, name, pyarrow.compute.equal(column, ""))
    texts = spell_alike(np.array(column.to_pylist()))
    # Integers that are written as integers are, become integers: sorted as such, and as an .npz has them.
    try:
        integers = texts.astype(np.int64)
    except (ValueError, OverflowError):
        return texts
    return integers if (integers.astype(str) == texts).all() else texts


def _require_values(path: pathlib.Path, name: str, is_missing: Any) -> None:
    rows = np.flatnonzero(is_missing.to_numpy())
    if rows.size:
        raise ValueError(
            f"{path}: column {name!r} has no value in row {rows[0] + 1}. Leave such rows out or fill them in."
        )


def require_columns(path: pathlib.Path, names: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse columns that lack one of the names."""
    missing = [name for name in names if name not in set(columns)]
    if missing:
        close = difflib.get_close_matches(missing[0], columns, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"{path}: has no column {missing[0]!r}{more}.{guess} {list_columns(columns)}")
