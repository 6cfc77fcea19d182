"""The classes of a table: their names as they stand, in the order of a person, and which one is each row's."""

import decimal
from typing import Any, NamedTuple

import numpy as np

from handgrad.data.naming import natural_key, printable, spell_alike
from handgrad.data.problems import Problem
from handgrad.data.tables import ClassName
from handgrad.data.words import EXACT, codes_of, is_text, to_words

NO_CLASS = ("rows have no class", "Leave them out in the file, or in fit and train by --missing drop-rows.")
ONE_CLASS = "Two classes at least are needed."
QUANTITY = "A class needs two rows on average. Is it a quantity and not a class?"


class Classes(NamedTuple):
    """Names, and for each row the index of its own, −1 where it has none."""

    names: tuple[ClassName, ...]
    labels: np.ndarray


def from_column(name: str, values: Any, problems: list[Problem], *, is_typed: bool) -> Classes:
    """The classes in a column of Arrow's; of text only the empty cell is none, for a class may be called NA."""
    import pyarrow
    import pyarrow.types as kinds

    names: list[ClassName]
    dtype = values.type.value_type if kinds.is_dictionary(values.type) else values.type
    if kinds.is_integer(dtype) or kinds.is_floating(dtype) or kinds.is_decimal(dtype) or kinds.is_boolean(dtype):
        codes, names = _from_numbers(values)
    else:
        if not is_text(dtype):
            try:
                values = values.cast("string")
            except pyarrow.ArrowException:
                problems.append(
                    Problem("classes are neither numbers nor texts", f"{printable(name)} ({printable(str(dtype))})", "")
                )
                return Classes((), np.zeros(len(values), np.int32))
        codes, words = to_words(values)
        texts = [word.strip() for word in words.to_pylist()]
        names = list(texts) if is_typed else _as_integers(spell_alike(texts))
    return check(index(names, codes), name, problems)


def _from_numbers(values: Any) -> tuple[np.ndarray, list[ClassName]]:
    encoded = values.dictionary_encode().unify_dictionaries().combine_chunks() if values.num_chunks else None
    if encoded is None:
        return np.zeros(0, np.int32), []
    names = [_plain(name) for name in encoded.dictionary.to_pylist()]
    return codes_of(encoded), names


def _plain(name: Any) -> ClassName:
    """1.0 as 1, and what is no number as no name."""
    if isinstance(name, decimal.Decimal):
        return int(name) if name == name.to_integral_value() else float(name)
    if isinstance(name, float):
        return "" if name != name else int(name) if abs(name) < EXACT and name.is_integer() else name
    return name


def _as_integers(names: list[str]) -> list[ClassName]:
    """Integers that are written as integers are, where all names are: sorted as such, and as an array has them."""
    try:
        integers = [int(name) for name in names if name]
    except ValueError:
        return list(names)
    if [str(integer) for integer in integers] != [name for name in names if name]:
        return list(names)
    return [int(name) if name and -(2**63) <= int(name) < 2**64 else name for name in names]


def from_array(y: np.ndarray, name: str, problems: list[Problem]) -> Classes:
    """The classes in an array (N,) of integers, whole or other numbers, booleans or texts."""
    different, codes = np.unique(y, return_inverse=True)
    names = [_plain(each) for each in different.tolist()]
    if y.dtype.kind in "US":
        names = list(spell_alike([str(each).strip() for each in names]))
    return check(index(names, codes), name, problems)


def index(names: list[ClassName], codes: np.ndarray) -> Classes:
    """Names that may be alike, and a code for each row, as classes: only those that a row has, in their order."""
    used = np.bincount(codes[codes >= 0], minlength=len(names)).astype(bool) if len(names) else np.zeros(0, bool)
    different = {names[code]: None for code in np.flatnonzero(used).tolist() if names[code] != ""}
    in_order = sorted(different, key=natural_key)
    place = {each: number for number, each in enumerate(in_order)}
    places = np.array([*(place.get(each, -1) for each in names), -1], np.int32)
    return Classes(tuple(in_order), places[codes])


def allow_any(problems: list[Problem]) -> None:
    """Take out what is wrong with classes only where they are to be learnt from: a model may be tried on any."""
    problems[:] = [problem for problem in problems if problem.advice not in (ONE_CLASS, QUANTITY)]


def check(classes: Classes, name: str, problems: list[Problem]) -> Classes:
    """Add what is wrong with the classes."""
    labels, where = classes.labels, printable(name)
    missing = labels < 0
    num_rows = len(labels) - int(missing.sum())
    if missing.any():
        first = int(np.argmax(missing)) + 1
        problems.append(Problem(NO_CLASS[0], f"{missing.sum():,} by {where}, the first is row {first}", NO_CLASS[1]))
    if any(isinstance(each, float) and np.isinf(each) for each in classes.names):
        problems.append(Problem("an infinite number is a class", where, "Leave such rows out, or write what it means."))
    if len(classes.names) == 1:
        problems.append(Problem(f"all {num_rows:,} rows are of class {classes.names[0]!r}", "", ONE_CLASS))
    elif len(classes.names) > num_rows / 2:
        problems.append(Problem(f"{num_rows:,} rows have {len(classes.names):,} classes by {where}", "", QUANTITY))
    return classes
