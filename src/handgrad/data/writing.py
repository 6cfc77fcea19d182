"""Writing tables that are safe to open: no cell is a formula, ends a line, or moves the cursor of a terminal."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

_BLOCK = 10_000  # rows that are put into words at once
# What a spreadsheet computes: a text that begins so, unless it is a number.
_FORMULA = re.compile(r"\s*[=+\-@]")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?inf|nan")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


Values = Sequence[Any] | np.ndarray


def write_table(
    file: TextIO, columns: Mapping[str, Values] | Sequence[tuple[str, Values]], *, has_names: bool = True
) -> None:
    r"""Write columns as a .csv, in UTF-8 if the file is opened so.

    A text that a spreadsheet would take for a formula gets an apostrophe before it, and characters that are not to be
    printed stand as escapes, as in Python: \r, \x1b. Numbers have the fewest digits that read back as the same.

    Args:
      file: opened for text, with newline="".
      columns: by their names, or in pairs of a name and values, texts or numbers, (N,); None is an empty cell.
      has_names: whether the names stand above, which they do not where rows are added to others.

    Example:
      >>> import sys
      >>> write_table(sys.stdout, {"class": ["=1+1", "a, b"], "probability": np.array([0.5, 0.25])})
      class,probability
      '=1+1,0.5
      "a, b",0.25
    """
    writer = csv.writer(file, lineterminator="\n")
    names, arrays = zip(*(columns.items() if isinstance(columns, Mapping) else columns), strict=True)
    if has_names:
        writer.writerow(map(cell, names))
    for start in range(0, len(arrays[0]), _BLOCK):
        writer.writerows(zip(*(_words(array[start : start + _BLOCK]) for array in arrays), strict=True))


def _words(values: Sequence[Any] | np.ndarray) -> Iterable[str]:
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        return map(str, values)  # numpy's own numbers, so that float32 has its own digits
    return map(cell, values.tolist() if isinstance(values, np.ndarray) else values)


def cell(value: Any) -> str:
    """What stands in a cell for a value."""
    if value is None:
        return ""
    text = str(value)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        text = f"'{text}"
    return _UNPRINTABLE.sub(lambda match: repr(match[0])[1:-1], text)
