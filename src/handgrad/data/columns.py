"""Columns as Arrow holds them, taken for what they are: numbers, booleans, dates or texts."""

import re
from typing import Any

import numpy as np

from handgrad.data.dates import Dates, parse_dates
from handgrad.data.naming import printable
from handgrad.data.problems import Problem
from handgrad.data.tables import DATES, Column, Kind
from handgrad.data.words import (
    EXACT,
    MISSING_WORDS,
    days_of,
    is_text,
    parse_numbers,
    spell,
    spread,
    to_numpy,
    to_words,
)

_INTEGER = re.compile(r"[+-]?[0-9]+")

MOST_SPELLINGS = 16 + 32  # of true and false
NONE_SUCH = {
    "number": ("columns of numbers hold what is none", "Correct it, or leave those cells empty."),
    "date": ("columns of dates hold what is none", "Correct it, or leave those cells empty."),
    "day-first date": ("columns of dates as day/month hold what is none", "Write them as 2026-11-26."),
    "month-first date": ("columns of dates as month/day hold what is none", "Write them as 2026-11-26."),
}
INFINITE = ("numbers are infinite", "Leave such rows out, or fill them in.")
INEXACT = (
    "integers are beyond 2**53, where float64 does not tell neighbours apart",
    "Numbers that name something? Leave the column out by --drop or --id. Quantities? Subtract an offset.",
)


def take(
    name: str,
    values: Any,
    problems: list[Problem],
    wanted: Kind | None = None,
    *,
    is_typed: bool = True,
    decimal: str = ".",
) -> Column:
    """A column as what it is.

    Args:
      name: for the problems.
      values: a chunked array of Arrow's.
      problems: a list to which is added what is wrong.
      wanted: the kind that it must have; None for that which it has.
      is_typed: whether text is text; False where it is what stands in a file and may mean anything.
      decimal: the mark in numbers that are texts.
    """
    import pyarrow

    try:
        return _take(name, values, problems, wanted, is_typed=is_typed, decimal=decimal)
    except pyarrow.ArrowException:  # types that Arrow has, and does not convert
        return _refuse_type(name, values, problems)


def _take(
    name: str, values: Any, problems: list[Problem], wanted: Kind | None, *, is_typed: bool, decimal: str
) -> Column:
    import pyarrow.types as kinds

    dtype = values.type
    while kinds.is_dictionary(dtype) and not is_text(dtype.value_type):
        values = values.cast(dtype.value_type)
        dtype = values.type
    if kinds.is_null(dtype):
        return Column(wanted, np.full(len(values), -1, np.int32)) if wanted == "text" else _missing(wanted, len(values))
    if wanted == "text" and not (kinds.is_dictionary(dtype) or is_text(dtype)):
        return _from_texts(name, spell(values), problems, wanted, is_typed=True, decimal=decimal)
    if kinds.is_boolean(dtype):
        return Column("boolean", to_numpy(values.cast("uint8")))
    if kinds.is_integer(dtype) or kinds.is_floating(dtype) or kinds.is_decimal(dtype):
        return Column("number", _from_numbers(name, values, problems))
    if kinds.is_date(dtype) or kinds.is_timestamp(dtype):
        return Column("date", days_of(values))
    if kinds.is_time(dtype) or kinds.is_duration(dtype):
        unit = "s" if kinds.is_date32(dtype) else getattr(dtype, "unit", "s")
        return Column("number", to_numpy(values.cast("int64")) / {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit])
    if kinds.is_dictionary(dtype) or is_text(dtype):
        return _from_texts(name, values, problems, wanted, is_typed=is_typed, decimal=decimal)
    return _refuse_type(name, values, problems)


def _refuse_type(name: str, values: Any, problems: list[Problem]) -> Column:
    where = f"{printable(name)} ({printable(str(values.type))})"
    problems.append(Problem("columns are of a type that is neither numbers, texts nor dates", where, "", can_drop=True))
    return Column("number", np.zeros(len(values)))


def _missing(wanted: Kind | None, num_rows: int) -> Column:
    """A column without any value, of which only a model knows what it would be."""
    return Column(wanted or "number", np.full(num_rows, np.nan))


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _from_numbers(name: str, values: Any, problems: list[Problem]) -> np.ndarray:
    import pyarrow.types as kinds

    if kinds.is_decimal(values.type):
        if values.type.scale <= 0:
            _require_exact(name, values, problems)
        values = values.cast("float64")
    elif kinds.is_integer(values.type) and values.type.bit_width == 64:
        _require_exact(name, values, problems)
    numbers = to_numpy(values)
    if numbers.dtype.kind == "f":
        _require_finite(name, numbers, problems)
    return numbers


def _require_exact(name: str, values: Any, problems: list[Problem]) -> None:
    import pyarrow
    import pyarrow.compute as compute

    extremes = compute.min_max(values)
    low, high = extremes["min"].as_py(), extremes["max"].as_py()
    if low is None or max(abs(low), abs(high)) <= 2**53:
        return
    limits = [pyarrow.scalar(limit).cast(values.type) for limit in (2**53, -(2**53) if low < 0 else 0)]
    is_beyond = compute.or_(compute.greater(values, limits[0]), compute.less(values, limits[1]))
    row = int(compute.index(is_beyond, True).as_py())
    problems.append(Problem(INEXACT[0], f"{printable(name)} ({values[row].as_py()} in row {row + 1})", INEXACT[1]))


def _require_finite(name: str, numbers: np.ndarray, problems: list[Problem]) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(numbers.sum(dtype=np.float64)):  # no value is missing or infinite
            return
    infinite = np.isinf(numbers)
    if infinite.any():
        problems.append(Problem(INFINITE[0], f"{printable(name)} (in row {np.argmax(infinite) + 1})", INFINITE[1]))


# --- Texts ------------------------------------------------------------------------------------------------------------


def _from_texts(
    name: str, values: Any, problems: list[Problem], wanted: Kind | None, *, is_typed: bool, decimal: str
) -> Column:
    import pyarrow
    import pyarrow.compute as compute

    codes, words = to_words(values)
    words = compute.utf8_trim_whitespace(words)
    is_word = compute.invert(compute.is_in(compute.utf8_lower(words), pyarrow.array(MISSING_WORDS)))
    place = np.full(len(words) + 1, -1, np.int32)  # its last entry is that of no text
    kept = np.flatnonzero(is_word.to_numpy(zero_copy_only=False))
    different = words.take(pyarrow.array(kept)).dictionary_encode()  # what was trimmed may be alike
    place[kept] = different.indices.to_numpy()
    codes, words = place[codes], different.dictionary
    counts = np.bincount(codes + 1, minlength=len(words) + 1)[1:]
    if not counts.all():  # a dictionary may hold what no row has
        used = np.flatnonzero(counts)
        place = np.full(len(words) + 1, -1, np.int32)
        place[used] = np.arange(len(used), dtype=np.int32)
        codes, words, counts = place[codes], words.take(pyarrow.array(used)), counts[used]
    if wanted != "text" and (not is_typed or wanted is not None):
        meant = _as_meant(name, codes, words, counts, problems, wanted, decimal)
        if meant is not None:
            return meant
    return Column("text", codes, tuple(words.to_pylist()))


def _as_meant(
    name: str,
    codes: np.ndarray,
    words: Any,
    counts: np.ndarray,
    problems: list[Problem],
    wanted: Kind | None,
    decimal: str,
) -> Column | None:
    """The column that a text stands for where it is not one of texts."""
    import pyarrow.compute as compute

    if not len(words):
        return _missing(wanted, len(codes))
    lower = set(compute.utf8_lower(words.slice(0, MOST_SPELLINGS + 1)).to_pylist())
    if wanted in (None, "boolean", "number") and len(words) <= MOST_SPELLINGS and lower <= {"true", "false"}:
        values = compute.equal(compute.utf8_lower(words), "true").to_numpy(zero_copy_only=False)
        return Column("boolean", spread(values.astype(np.float64), codes))
    rows, of_dates = counts.sum(), list[Problem]()
    dates = parse_dates(name, words, of_dates, wanted) if wanted is None or wanted in DATES else None
    if wanted in DATES or (dates is not None and counts[dates.is_date].sum() >= rows / 2):
        problems += of_dates
        dates = dates or Dates(np.zeros(len(words)), np.zeros(len(words), bool), wanted or "date")
        _require_all(dates.kind, name, words, codes, counts, dates.is_date, problems)
        return Column(dates.kind, spread(dates.days, codes))
    found = parse_numbers(words, decimal)
    if wanted is None and counts[found.is_number].sum() < rows / 2:
        return None
    _require_all("number", name, words, codes, counts, found.is_number, problems)
    values = spread(np.where(found.is_number, found.values, 0), codes)
    _require_finite(name, values, problems)
    for index in np.flatnonzero(np.abs(found.values) >= EXACT).tolist():
        text = words[index].as_py()
        plain = text.replace(found.grouping, "") if found.grouping else text
        number = found.values[index]
        if _INTEGER.fullmatch(plain) and np.isfinite(number) and int(plain[:400]) != int(number):
            row = int(np.argmax(codes == index))
            problems.append(Problem(INEXACT[0], f"{printable(name)} ({printable(text)} in row {row + 1})", INEXACT[1]))
            break
    return Column("number", values, grouping=found.grouping, sign=found.sign)


def _require_all(
    kind: Kind,
    name: str,
    words: Any,
    codes: np.ndarray,
    counts: np.ndarray,
    is_such: np.ndarray,
    problems: list[Problem],
) -> None:
    """Add that some texts are not of the kind that the others are."""
    if is_such.all():
        return
    first = int(np.argmax(np.isin(codes, np.flatnonzero(~is_such))))
    count, rows = counts[~is_such].sum(), counts.sum()
    text = printable(words[int(codes[first])].as_py())
    where = f"{printable(name)} ({text!r} in row {first + 1}" + (f", {count:,} of {rows:,})" if count > 1 else ")")
    problems.append(Problem(NONE_SUCH[kind][0], where, NONE_SUCH[kind][1], can_drop=True))
