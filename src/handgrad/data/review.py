"""What a person would notice on looking through a table's columns."""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from handgrad.data.naming import join, printable
from handgrad.data.problems import Problem
from handgrad.data.tables import Column, Table

MOST_WORDS = 1000  # a feature each
FEWEST_ROWS = 20  # of which it can be said that most texts differ
FEW = range(3, 11)  # different whole numbers that may be codes
DATES = 1900_01_01, 2100_12_31
PEEK = 200  # rows that are looked at before all are

LIKE_NUMBER = re.compile(r"[(+-]?[€$£¥]?[.,]?[0-9]")

LIKE_IDS = (
    "texts differ in most rows, as names and ids do",
    "Pass such columns through by --id, or leave them out by --drop.",
)
TOO_MANY = (f"texts have more than {MOST_WORDS:,} different values, of which each would be a feature", LIKE_IDS[1])


def review(table: Table, problems: list[Problem]) -> list[str]:
    """Add columns of text that cannot be learnt from; and in sentences what else to know."""
    assert table.columns is not None
    numbering, codes, dates, like_numbers = [], [], [], []
    for name, column in table.columns.items():
        if column.kind == "text":
            review_text(name, len(column.words), int(np.count_nonzero(column.values >= 0)), column.words, problems)
            if 2 * sum(map(bool, map(LIKE_NUMBER.match, column.words[:MOST_WORDS]))) > min(
                len(column.words), MOST_WORDS
            ):
                like_numbers.append(f"{name} ({printable(column.words[0])!r})")
        elif column.kind == "number" and len(column.values) >= FEWEST_ROWS and _is_whole(column.values[:PEEK]):
            kind_of = _look_at_whole(column)
            numbering += [name] if kind_of == "id" else []
            codes += [name] if kind_of == "code" else []
            dates += [name] if kind_of == "date" else []
    notes = []
    if like_numbers:
        notes.append(f"texts that begin as numbers do are taken as texts: {join(like_numbers)}.")
    if numbering:
        notes.append(f"whole numbers that differ in every row look like ids: {join(numbering)}; --id or --drop them.")
    if dates:
        notes.append(
            f"whole numbers that look like dates are taken as quantities: {join(dates)}; 2026-11-26 is a date."
        )
    if codes:
        notes.append(f"few different whole numbers are taken as quantities, not as classes: {join(codes)}.")
    return notes


def say_marks(columns: Mapping[str, Column]) -> list[str]:
    """In which columns marks were taken for those between thousands, or for a unit, and a number for the day."""
    said: dict[str, list[str]] = {}
    for name, column in columns.items():
        if column.grouping:
            said.setdefault(f"numbers with {column.grouping!r} between thousands", []).append(name)
        if column.sign:
            said.setdefault(f"numbers in units of {column.sign!r}", []).append(name)
        if column.kind in ("day-first date", "month-first date"):
            said.setdefault(f"{column.kind}s", []).append(name)
    return [f"read as {what}: {join(names)}." for what, names in said.items()]


def review_text(name: str, words: int, rows: int, examples: Iterable[str], problems: list[Problem]) -> None:
    """Add a column that has so many different texts in so many rows, where it cannot be learnt from."""
    kind = LIKE_IDS if words > rows / 2 and rows >= FEWEST_ROWS else TOO_MANY if words > MOST_WORDS else None
    if kind is not None:
        where = f"{printable(name)} ({words:,} texts in {rows:,} rows, such as {printable(next(iter(examples)))!r})"
        problems.append(Problem(kind[0], where, kind[1]))


def _is_whole(values: np.ndarray) -> bool:
    return values.dtype.kind in "iu" or bool((values == np.floor(values)).all())


def _look_at_whole(column: Column) -> str:
    """What it looks like.

    "date" where all are as 20261126, "id" where each row has its own whole number, "code" where few are in many rows,
    else "".
    """
    values = column.values
    low, high = values.min(), values.max()
    num_rows = len(values)
    if not np.isfinite([low, high]).all():
        return ""
    if DATES[0] <= low <= high <= DATES[1] and _is_whole(values):
        month, day = values // 100 % 100, values % 100
        if month.min() >= 1 and month.max() <= 12 and day.min() >= 1 and day.max() <= 31:
            return "date"
    if high - low >= num_rows - 1:
        return "id" if _is_whole(values) and len(np.unique(values)) == num_rows else ""
    is_code = high - low < 100 and len(np.unique(values[:PEEK])) in FEW and _is_whole(values)
    return "code" if is_code and len(np.unique(values)) in FEW else ""
