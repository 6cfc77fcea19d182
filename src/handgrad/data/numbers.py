"""Features in a file that are numbers and nothing else, read as they are stored, for whoever scales them himself."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from handgrad.data import arrow
from handgrad.data.array_tables import Arrays, as_features
from handgrad.data.assembly import Plan
from handgrad.data.naming import printable
from handgrad.data.tables import Numbers
from handgrad.streams import Fill, filling, same_rows

Watch = Callable[[int, int], Any]


def numbers_of_columns(data: arrow.Columns, plan: Plan, cut: arrow.Cut, num_rows: int, watch: Watch) -> Numbers | None:
    """Columns of which none lacks a value; None where their types are not all of numbers."""
    if data.numbers is None:
        return None
    first = next(pass_over(data.name, cut.begin(1)))
    types = [first[plan.stands[name]].type for name in plan.names]
    if not all(map(_is_number, types)):
        return None
    dtype = np.result_type(np.float32, *(each.to_pandas_dtype() for each in types))
    read = data.numbers

    def begin(names: Sequence[str] | None) -> Fill:
        assert names is not None
        blocks = pass_over(data.name, read([plan.stands[name] for name in names]))
        return _watched(filling(data.name, (num_rows, len(names)), blocks), num_rows, watch)

    return Numbers(dtype, begin)


def _is_number(type_: Any) -> bool:
    import pyarrow.types

    return pyarrow.types.is_floating(type_) or pyarrow.types.is_integer(type_)


def numbers_of_array(arrays: Arrays, num_rows: int, watch: Watch) -> Numbers | None:
    """An array of which no entry is missing; None where its rows are not stored as they are taken."""
    read = next(iter(arrays.X.cut()))
    X = as_features(arrays.name, read)[0]
    if not (np.may_share_memory(X, read) and X.dtype.isnative):
        return None

    def begin(_: Sequence[str] | None) -> Fill:
        return _watched(same_rows(arrays.name, num_rows, arrays.X.fill()), num_rows, watch)

    return Numbers(X.dtype, begin)


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
