"""Columns as Arrow holds them, taken for what they are: numbers, booleans, dates or texts."""

import re
from typing import Any

import numpy as np

from handgrad.data.naming import printable
from handgrad.data.problems import Problem
from handgrad.data.tables import Column, Kind
from handgrad.data.words import (
    EXACT,
    MISSING_WORDS,
    days_of,
    is_text,
    parse_dates,
    parse_numbers,
    spell,
    spread,
    to_numpy,
    to_words,
)

_INTEGER = re.compile(r"[+-]?[0-9]+")

NO_NUMBER = (
    "columns of numbers hold what is none",
    "Correct it, leave those cells empty, or leave the columns out by --drop.",
)
INFINITE = ("numbers are infinite", "Leave such rows out, or fill them in.")
INEXACT = (
    "integers are beyond 2**53, where float64 does not tell neighbours apart",
    "Numbers that name something? Leave the column out by --drop or --id. Quantities? Subtract an offset.",
)
NO_COLUMN = ("columns are of a type that is neither numbers, texts nor dates", "Leave them out by --drop.")


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
    import pyarrow.types as kinds

    dtype = values.type
    while kinds.is_dictionary(dtype) and not is_text(dtype.value_type):
        values = values.cast(dtype.value_type)
        dtype = values.type
    if wanted == "text" and not (kinds.is_dictionary(dtype) or is_text(dtype)):
        return _from_texts(name, spell(values), problems, wanted, is_typed=True, decimal=decimal)
    if kinds.is_boolean(dtype):
        return Column("boolean", to_numpy(values.cast("uint8")))
    if kinds.is_integer(dtype) or kinds.is_floating(dtype) or kinds.is_decimal(dtype) or kinds.is_null(dtype):
        return Column("number", _from_numbers(name, values, problems))
    if kinds.is_date(dtype) or kinds.is_timestamp(dtype):
        return Column("date", days_of(values))
    if kinds.is_time(dtype) or kinds.is_duration(dtype):
        unit = "s" if kinds.is_date32(dtype) else getattr(dtype, "unit", "s")
        return Column("number", to_numpy(values.cast("int64")) / {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[unit])
    if kinds.is_dictionary(dtype) or is_text(dtype):
        return _from_texts(name, values, problems, wanted, is_typed=is_typed, decimal=decimal)
    problems.append(Problem(NO_COLUMN[0], f"{printable(name)} ({printable(str(dtype))})", NO_COLUMN[1]))
    return Column("number", np.zeros(len(values)))


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _from_numbers(name: str, values: Any, problems: list[Problem]) -> np.ndarray:
    import pyarrow.types as kinds

    if kinds.is_integer(values.type) and values.type.bit_width == 64:
        _require_exact(name, values, problems)
    if kinds.is_decimal(values.type) or kinds.is_null(values.type):
        values = values.cast("float64")
    numbers = to_numpy(values)
    if numbers.dtype.kind == "f":
        _require_finite(name, numbers, problems)
    return numbers


def _require_exact(name: str, values: Any, problems: list[Problem]) -> None:
    import pyarrow.compute as compute

    extremes = compute.min_max(values)
    low, high = extremes["min"].as_py(), extremes["max"].as_py()
    if low is None or max(abs(low), abs(high)) <= 2**53:
        return
    is_beyond = (
        compute.or_(compute.greater(values, 2**53), compute.less(values, -(2**53)))
        if low < 0
        else (compute.greater(values, 2**53))
    )
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

    lower = set(compute.utf8_lower(words.slice(0, 3)).to_pylist())
    if wanted in (None, "boolean", "number") and len(words) <= 2 and lower <= {"true", "false"} and lower:
        values = compute.equal(compute.utf8_lower(words), "true").to_numpy(zero_copy_only=False)
        return Column("boolean", spread(values.astype(np.float64), codes))
    if wanted in (None, "date"):
        days = parse_dates(name, words, problems)
        if days is not None:
            return Column("date", spread(days, codes))
    numbers, is_number, grouping = parse_numbers(words, decimal)
    share = counts[is_number].sum() / max(counts.sum(), 1)
    if wanted is None and share < 0.5:
        return None
    if not is_number.all():
        first = int(np.argmax(np.isin(codes, np.flatnonzero(~is_number))))
        count, rows = counts[~is_number].sum(), counts.sum()
        text = printable(words[int(codes[first])].as_py())
        where = f"{printable(name)} ({text!r} in row {first + 1}" + (f", {count:,} of {rows:,})" if count > 1 else ")")
        problems.append(Problem(NO_NUMBER[0], where, NO_NUMBER[1]))
    values = spread(np.where(is_number, numbers, 0), codes)
    _require_finite(name, values, problems)
    for index in np.flatnonzero(np.abs(numbers) >= EXACT).tolist():
        text = words[index].as_py()
        if _INTEGER.fullmatch(text) and np.isfinite(numbers[index]) and int(text[:400]) != int(numbers[index]):
            row = int(np.argmax(codes == index))
            problems.append(Problem(INEXACT[0], f"{printable(name)} ({printable(text)} in row {row + 1})", INEXACT[1]))
            break
    return Column("number", values, grouping=grouping)
