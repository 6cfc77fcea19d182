"""Which rows are trained on, which choose among models, and which test: the same rows in whatever order they come.

A row's part follows from what the row holds, or from its id, and never from its place. Where rows are not independent
they go by groups, of which none is in two parts, or by time, later rows being tested on earlier ones.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from handgrad.data.tables import Column, Table

TEST, VALIDATION = 0.2, 0.1
# Rows that are equal are copies of each other, and a copy of what was trained on is no test: they stay together. But
# where there are that many rows to each that differs, they are draws of few possible ones, each a draw of its own.
DRAWS = 4


class Parts(NamedTuple):
    """Indices of rows, ascending, that share no row and have all of them.

    Example:
      >>> labels = np.repeat([0, 1], 10)
      >>> train, validation, test = split_rows(labels, hash_rows({"x": np.arange(20)}), validation=0.1)
      >>> len(train), len(validation), len(test)
      (14, 2, 4)
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_rows(
    labels: np.ndarray,
    keys: np.ndarray,
    *,
    validation: float = VALIDATION,
    test: float = TEST,
    seed: int = 0,
    groups: np.ndarray | None = None,
    times: np.ndarray | None = None,
) -> Parts:
    """A split of the rows, of each class as near to the same fractions as its rows, or the groups, allow.

    A class is trained on before it is tested, and tested before it is validated: its only row is trained on, and of two
    rows one is tested. Rows with equal keys are in one part, unless the rows are more than four times as many as the
    different ones among them.

    Args:
      labels: integer labels (N,), from 0.
      keys: what a row is known by, (N,) of uint64, as `hash_rows` gives them.
      validation, test: fractions of the rows, each in [0, 1), less than 1 together.
      seed: the same one gives the same split.
      groups: values (N,) of any kind: rows of the same one are in the same part.
      times: values (N,) that can be sorted: the latest rows test, those before them validate, the earliest are trained
        on, rows of the same time in the same part. The classes and the seed then have no say.

    Returns:
      Parts.

    Raises:
      ValueError: fractions that leave nothing; groups and times; fewer of either than parts; nothing left to test.

    Example:
      >>> labels = np.repeat([0, 1, 2], [10, 5, 1])
      >>> parts = split_rows(labels, hash_rows({"x": np.arange(16)}), validation=0.0)
      >>> [np.bincount(labels[rows], minlength=3).tolist() for rows in (parts.train, parts.test)]
      [[8, 4, 1], [2, 1, 0]]
    """
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(
            "split_rows: validation and test must be fractions of the rows, 0 or more and less than 1 together; got "
            f"{validation} and {test}."
        )
    if groups is not None and times is not None:
        raise ValueError("split_rows: rows are split by groups or by times, not by both; leave one of them out.")
    fractions = np.array([1 - validation - test, test, validation])
    if times is not None:
        return _as_parts(_part_by_time(times, fractions))
    if groups is None:
        units, hashes = _units(labels, keys)
    else:
        hashes, units = np.unique(hash_rows({"": groups}), return_inverse=True)
        _require_parts("groups", len(hashes), fractions)
    part = _part_of_each(labels, units, _mix(hashes ^ _mix(np.array([seed], np.uint64))), fractions)
    if test > 0 and not (part == 1).any():
        raise ValueError("split_rows: no row is left to test, for each class has but one, or copies of one.")
    return _as_parts(part[units])


def _as_parts(part: np.ndarray) -> Parts:
    train, test, validation = (np.flatnonzero(part == number) for number in range(3))
    return Parts(train, validation, test)


def _require_parts(what: str, count: int, fractions: np.ndarray) -> None:
    if count < np.count_nonzero(fractions):
        raise ValueError(
            f"split_rows: {np.count_nonzero(fractions)} parts, to train, validate and test, need as many {what}; got "
            f"{count} different {'one' if count == 1 else 'ones'}. Take another column, or split without it."
        )


def _units(labels: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The unit (N,) that each row is a part of, and the hash of each unit: of equal rows together, or of one row."""
    order = np.lexsort((keys, labels))
    hashes = keys[order]
    starts, sizes = _runs(hashes, labels[order])
    unit = np.repeat(np.arange(len(starts)), sizes)
    if len(starts) * DRAWS >= len(order):
        hashes = hashes[starts]
    else:  # which of the equal rows is the first of them makes no difference
        hashes = _mix(hashes + (np.arange(len(order)) - starts[unit]).astype(np.uint64))
        unit = np.arange(len(order))
    units = np.empty_like(unit)
    units[order] = unit
    return units, hashes


def _runs(*sorted_values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal entries starts, and its length."""
    is_new = np.ones(len(sorted_values[0]), dtype=bool)
    is_new[1:] = np.any([values[1:] != values[:-1] for values in sorted_values], axis=0)
    starts = np.flatnonzero(is_new)
    return starts, np.diff(starts, append=len(is_new))


def _part_of_each(labels: np.ndarray, units: np.ndarray, hashes: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """The part of each unit: 0 to train, 1 to test, 2 to validate.

    Units that have the same number of rows of each class are alike, and each part gets its fraction of them, rounded
    down, in the order of their hashes. The few that this leaves go, the largest first, where they are needed most.
    """
    num_classes = int(labels.max()) + 1
    pairs, counts = np.unique(units * num_classes + labels, return_counts=True)
    pair_unit, pair_class = np.divmod(pairs, num_classes)
    starts, lengths = _runs(pair_unit)
    kinds = np.add.reduceat(_mix(_mix(pair_class.astype(np.uint64)) + counts.astype(np.uint64)), starts)

    order = np.lexsort((hashes, kinds))
    starts_of_kind, units_of_kind = _runs(kinds[order])
    shares = np.floor(units_of_kind[:, None] * fractions + 1e-9).astype(np.int64)
    place = np.arange(len(order)) - np.repeat(starts_of_kind, units_of_kind)
    turns = [1, 2, 0, 3]  # the test's rows first: however many validate, they are the same; 3 is no part yet
    ends = np.repeat(np.cumsum(shares[:, turns[:3]], axis=1), units_of_kind, axis=0)
    part = np.empty(len(order), dtype=np.int64)
    part[order] = np.take(turns, (place[:, None] >= ends).sum(axis=1))

    wanted = fractions[:, None] * np.bincount(labels, minlength=num_classes)
    there = np.zeros_like(wanted)
    is_placed = part[pair_unit] < 3
    np.add.at(there, (part[pair_unit[is_placed]], pair_class[is_placed]), counts[is_placed])
    sizes = np.add.reduceat(counts, starts)
    rest = np.flatnonzero(part == 3)
    for unit in rest[np.lexsort((hashes[rest], -sizes[rest]))].tolist():
        own = slice(starts[unit], starts[unit] + lengths[unit])
        part[unit] = _neediest(wanted[:, pair_class[own]], there[:, pair_class[own]], counts[own])
        there[part[unit], pair_class[own]] += counts[own]
    return part


def _neediest(wanted: np.ndarray, there: np.ndarray, counts: np.ndarray) -> int:
    """The part to get a unit with so many rows of some classes, where the parts want so many and have so many."""
    for part in range(3):  # a class is in the training part, then in the test, then in the validation part
        if wanted[part, 0] > 0 and (there[part] == 0).any():
            return part
    # What Σ (there − wanted)²/wanted grows by.
    with np.errstate(divide="ignore"):
        return int(np.argmin((counts * (2 * (there - wanted) + counts) / wanted).sum(axis=1)))


def _part_by_time(times: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    moments, moment = np.unique(times, return_inverse=True)
    _require_parts("times", len(moments), fractions)
    rows_until = np.cumsum(np.bincount(moment))
    part = np.zeros(len(moments), dtype=np.int64)
    end, rows = len(moments), float(len(times))
    for number, parts_before in ((1, 1 + (fractions[2] > 0)), (2, 1)):
        if fractions[number] > 0:
            rows -= fractions[number] * len(times)
            # The cut between two moments that is nearest to the fraction, and leaves a moment to each part before.
            start = int(parts_before + np.argmin(np.abs(rows_until[parts_before - 1 : end - 1] - rows)))
            part[start:end] = number
            end = start
    return part[moment]


def describe_gaps(labels: np.ndarray, parts: Parts, class_names: Sequence[object]) -> list[str]:
    """A sentence for each part that lacks classes, with the numbers of their rows.

    Example:
      >>> describe_gaps(np.array([0, 0, 1]), Parts(np.array([0, 2]), np.array([], int), np.array([1])), ["a", "b"])
      ["not tested, for want of rows: the classes 'b' (1)"]
    """
    total = np.bincount(labels, minlength=len(class_names))
    sentences = []
    for what, rows in zip(("trained on", "validated", "tested"), parts, strict=True):
        lacking = np.flatnonzero((np.bincount(labels[rows], minlength=len(class_names)) == 0) & (total > 0))
        if rows.size and lacking.size:
            names = [f"{class_names[index]!r} ({total[index]})" for index in lacking[:10]]
            more = f" and {lacking.size - 10} more" if lacking.size > 10 else ""
            sentences.append(f"not {what}, for want of rows: the classes {', '.join(names)}{more}")
    return sentences


# --- What a row is known by -------------------------------------------------------------------------------------------


def table_keys(table: Table) -> np.ndarray:
    """What the rows of a table are known by, (N,): by their ids where all differ, else by all their features.

    Example:
      >>> keys = table_keys(Table(X=np.array([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]])))
      >>> bool(keys[0] == keys[2] != keys[1])
      True
    """
    if table.ids:
        keys = hash_rows(table.ids)
        if len(np.unique(keys)) == len(keys):
            return keys
    if table.file is not None:
        return table.file.keys
    if table.columns is None:
        return hash_rows({"X": table.X})
    return hash_rows({name: _as_numbers(column) for name, column in table.columns.items()})


def _as_numbers(column: Column) -> np.ndarray:
    if column.kind != "text":
        return column.values
    # A missing value, −1, finds the last.
    return np.array([*map(_hash_text, column.words), _hash_text("")], np.uint64)[column.values]


def hash_rows(columns: Mapping[str, Any]) -> np.ndarray:
    """A number for each row, equal for equal rows, whatever the order of rows and columns.

    Args:
      columns: by name, values (N,) or (N, P): numbers, whose dtype makes no difference, dates, text, or SciPy's CSR.

    Returns:
      (N,) of uint64.

    Example:
      >>> a, b = np.array([1, 2, 1]), np.array(["x", "y", "x"])
      >>> keys = hash_rows({"a": a, "b": b})
      >>> bool(keys[0] == keys[2] != keys[1]), bool((keys == hash_rows({"b": b, "a": a.astype(float)})).all())
      (True, True)
    """
    if not columns:
        raise ValueError("hash_rows: there must be a column; got none.")
    total = np.zeros(next(iter(columns.values())).shape[0], np.uint64)
    for name, values in columns.items():
        start = _mix(np.array([_hash_text(str(name))], np.uint64))
        if hasattr(values, "indptr"):
            rows = np.repeat(np.arange(values.shape[0]), np.diff(values.indptr))
            np.add.at(total, rows, _hash_entries(values.data, start + values.indices.astype(np.uint64)))
            continue
        for number, column in enumerate(values.T if values.ndim == 2 else [values]):
            total += _hash_entries(column, start + np.uint64(number))
    return total


def _hash_entries(entries: np.ndarray, place: np.ndarray) -> np.ndarray:
    bits = _bits(entries)
    hashes = _mix(bits ^ _mix(place))
    hashes[bits == 0] = 0  # zeros that are stored count as those that are not
    return hashes


def _bits(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind in "mM":
        return column.view(np.int64).astype(np.uint64)
    if column.dtype.kind in "fiub":
        numbers = column.astype(np.float64) + 0.0  # −0 is 0
        numbers[np.isnan(numbers)] = np.nan  # of many bit patterns one
        bits = numbers.view(np.uint64)
        if column.dtype.kind in "iu" and column.dtype.itemsize == 8:
            large = np.abs(numbers) >= 2.0**53
            bits[large] = column[large].astype(np.uint64)
        return bits
    texts, index = np.unique(column.astype(str), return_inverse=True)
    return np.array([_hash_text(text) for text in texts.tolist()], np.uint64)[index]


def _hash_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of the 64-bit integers after which all bits depend on all.

    Reference: Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators* (2014), as Stafford tuned it.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
