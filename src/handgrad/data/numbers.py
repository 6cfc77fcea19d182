"""Features in a file that are numbers and nothing else, read as they are stored, for whoever scales them himself."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from handgrad.data import arrow
from handgrad.data.array_tables import Arrays, as_features
from handgrad.data.assembly import Plan
from handgrad.data.naming import printable
from handgrad.data.tables import Numbers
from handgrad.mapped import filling_from, pages_of, part_of, sameness_of, watched
from handgrad.streams import Fill, Pages, chosen, filling, same_rows

Watch = Callable[[int, int], Any]


def numbers_of_columns(data: arrow.Columns, plan: Plan, cut: arrow.Cut, num_rows: int, watch: Watch) -> Numbers | None:
    """Columns of which none lacks a value; None where their types are not all of numbers."""
    if data.numbers is None:
        return None
    first = next(pass_over(data.name, cut.begin(1, 0, None)))
    types = [first[plan.stands[name]].type for name in plan.names]
    if not all(map(_is_number, types)):
        return None
    dtype = np.result_type(np.float32, *(each.to_pandas_dtype() for each in types))
    read = data.numbers

    def begin(names: Sequence[str] | None, rows: np.ndarray) -> Fill:
        assert names is not None
        wanted, shape = [plan.stands[name] for name in names], len(names)

        def fill(first: int, last: int) -> Fill:
            blocks = pass_over(data.name, read(wanted, first, None if last == num_rows else last))
            return filling(data.name, (last - first, shape), blocks)

        return _of_rows(fill, rows, shape, dtype, watch)

    return Numbers(dtype, begin)


def _is_number(type_: Any) -> bool:
    import pyarrow.types

    return pyarrow.types.is_floating(type_) or pyarrow.types.is_integer(type_)


def numbers_of_array(arrays: Arrays, num_rows: int, watch: Watch) -> Numbers | None:
    """An array of which no entry is missing; None where its rows are not stored as they are taken."""
    read = next(iter(arrays.X.cut(0, None)))
    X = as_features(arrays.name, read)[0]
    if not (np.may_share_memory(X, read) and X.dtype.isnative):
        return None
    mapped = None if arrays.X.map is None else arrays.X.map()
    if mapped is not None and len(mapped) == num_rows:
        return _of_map(arrays.name, as_features(arrays.name, mapped)[0], watch)

    def begin(_: Sequence[str] | None, rows: np.ndarray) -> Fill:
        def fill(first: int, last: int) -> Fill:
            read = arrays.X.fill(first, None if last == num_rows else last)
            return same_rows(arrays.name, last - first, read)

        return _of_rows(fill, rows, X.shape[1], X.dtype, watch)

    return Numbers(X.dtype, begin)


def _of_map(name: str, X: np.memmap, watch: Watch) -> Numbers:
    """An array that is mapped: nothing of it is copied but where rows are chosen."""
    is_same = sameness_of(X)
    every = pages_of(X)

    def said(rows: np.ndarray) -> Pages:
        def look(start: int, end: int) -> None:
            if not is_same():
                raise ValueError(f"{name}: has changed since it was first read.")
            if start < end:
                watch(end - int(rows[0]), int(rows[-1]) + 1 - int(rows[0]))

        return watched(every, look)

    def begin(_: Sequence[str] | None, rows: np.ndarray) -> Fill:
        return filling_from(said(rows), rows)

    def pages(rows: np.ndarray) -> Pages | None:
        if not len(rows) or rows[-1] + 1 - rows[0] != len(rows):
            return None
        return part_of(said(rows), int(rows[0]), int(rows[-1]) + 1)

    return Numbers(X.dtype, begin, pages)


def _of_rows(
    fill: Callable[[int, int], Fill], rows: np.ndarray, num_features: int, dtype: np.dtype, watch: Watch
) -> Fill:
    """A pass over rows, ascending, by way of one from the first of them to the last."""
    if not len(rows):
        return lambda _: 0
    first, last = int(rows[0]), int(rows[-1]) + 1
    read = _watched(fill(first, last), last - first, watch)
    return read if last - first == len(rows) else chosen(read, rows - first, num_features, dtype)


def pass_over(name: str, blocks: Iterator[Any]) -> Iterator[Any]:
    """The blocks; whatever reading them raises as one line."""
    while True:
        try:
            block = next(blocks, None)
        except Exception as error:  # damaged bytes make Arrow raise almost anything
            message = " ".join(str(error).split())
            if message.startswith(f"{name}: "):
                raise
            raise ValueError(f"{name}: is damaged, or has changed ({printable(message)}).") from None
        if block is None:
            return
        yield block


def _watched(fill: Fill, num_rows: int, watch: Watch) -> Fill:
    """A pass that says how far it is."""
    done = 0

    def fill_watched(array: np.ndarray) -> int:
        nonlocal done
        count = fill(array)
        done += count
        if count:
            watch(done, num_rows)
        return count

    return fill_watched
