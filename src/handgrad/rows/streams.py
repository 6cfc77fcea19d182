"""Rows that stay where they are kept, and are read anew, block after block, for each pass over them.

A source is whatever begins anew each time it is gone over: an object whose `__iter__` gives blocks, or one with `reset`
and `next`, which gives None or raises StopIteration at the end. Its blocks may have any number of rows; they are
copied, so that it may use one buffer for all of them. It must give the same rows in one order in each pass: their
number is held against that of the first, and so are a few of them, with their targets. What it raises arrives as it is.
Sparse blocks are those of a stream of sparse rows.
"""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from handgrad import arguments, processes
from handgrad.frames import as_array, as_data, as_targets
from handgrad.mapped import of_mapped
from handgrad.rows.parts import to_csr
from handgrad.sparse_streams import SparseStream, of_sparse_blocks
from handgrad.streams import Fill, Stream, of_blocks, scale_rows

BLOCK_VALUES = 2**22  # of a block of a stream that is gone over once
LEAST_MAPPED = 2**26  # bytes of a memory map, from which on it is read in blocks
FORMS = "X, (X, targets) or (X, targets, weights)"


def is_source(X: Any) -> bool:
    """Whether X is gone over block by block: no array, no list of rows, no frame."""
    if isinstance(X, Stream | SparseStream) or (hasattr(X, "reset") and hasattr(X, "next")):
        return True
    is_array = any(hasattr(X, name) for name in ("ndim", "__array__", "dtypes", "keys"))
    return hasattr(X, "__iter__") and not is_array and not isinstance(X, (list, tuple, str, bytes, set, frozenset))


def blocks_of_source(function: str, X: Any) -> Iterator[Any]:
    """The blocks of X alone, from one pass over a source; each is good until the next."""
    if isinstance(X, Stream):
        return X.blocks(max(1, BLOCK_VALUES // X.shape[1]))
    if isinstance(X, SparseStream):
        return X.chunks()
    return (block.X for block in _blocks_of(function, X))


def open_source(function: str, X: Any, targets: Any, weights: Any) -> tuple[Any, Any, Any]:
    """A stream of a source, its targets and its weights; what is no source is given back as it came.

    A source is gone over once, for the number of its rows and for what is known row by row.

    Raises:
      TypeError, ValueError: a source that can be gone over only once, or whose blocks do not fit each other; targets
        that come twice, or not at all.
    """
    if isinstance(X, np.memmap) and X.ndim == 2 and X.nbytes >= LEAST_MAPPED and X.dtype.isnative:
        return of_mapped(X), targets, weights
    if isinstance(X, Stream | SparseStream) or not is_source(X):
        return X, targets, weights
    num_rows, first = 0, None
    found: list[tuple[Any, ...]] = []
    known: list[bytes] = []
    with processes.together():
        for block in _blocks_of(function, X):
            first = first or block
            known += [_bytes_of(block, row) for row in _looked_at(num_rows, block.num_rows)]
            num_rows += block.num_rows
            found.append(tuple(None if own is None else own.copy() for own in block[1:]))
    first = _alike_over_processes(function, first)
    if first is None or not first.X.shape[1]:
        raise ValueError(
            f"{function}: X must have rows and columns; got a source without. Give blocks of shape (n, P)."
        )
    found = found or [first[1:]]
    for name, given, column in (("targets", targets, 0), ("weights", weights, 1)):
        if given is not None and found[0][column] is not None:
            raise ValueError(f"{function}: {name} come with the blocks of X and beside it. Leave out one of them.")
    if found[0][0] is not None:
        targets = np.concatenate([each for each, _ in found])
    elif targets is None:
        raise ValueError(f"{function}: targets must be given, or come with the blocks of X, as (X, targets).")
    if found[0][1] is not None:
        weights = np.concatenate([each for _, each in found])
    of = of_blocks if isinstance(first.X, np.ndarray) else of_sparse_blocks
    shape = num_rows, first.X.shape[1]
    again = functools.partial(_same_again, function, X, known, _form(first.X))
    return of(function, shape, first.X.dtype, again), targets, weights


def _looked_at(start: int, count: int) -> list[int]:
    """Which rows of a block are known again: of all those with the numbers 0, 1, 2, 4, 8 and so on."""
    numbers = [0, *(2**power for power in range((start + count).bit_length()))]
    return [number - start for number in numbers if start <= number < start + count]


def _bytes_of(block: "_Read", row: int) -> bytes:
    """What a row is known by, its target and its weight too."""
    X, *beside = block
    of_X = [X[row]]
    if not isinstance(X, np.ndarray):
        entries = slice(*X.indptr[row : row + 2])
        of_X = [X.indices[entries], X.data[entries]]
    return b"".join(own.tobytes() for own in (*of_X, *(each[row] for each in beside if each is not None)))


def _same_again(function: str, source: Any, known: list[bytes], form: tuple[Any, str]) -> Iterator[Any]:
    """A later pass, held to have the rows of the first where these are known."""
    start, rest = 0, iter(known)
    for block in _blocks_of(function, source):
        if _form(block.X) != form:
            (columns,), dtype = _form(block.X)
            raise ValueError(
                f"{function}: a source must give the same rows in each pass; got {columns} columns of {dtype} in a "
                f"later pass, and {form[0][0]} of {form[1]} in the first."
            )
        for row in _looked_at(start, block.num_rows):
            own = _bytes_of(block, row)
            if own != next(rest, own):
                raise ValueError(
                    f"{function}: a source must give the same rows in each pass, in one order; row {start + row} is "
                    "another one in a later pass than in the first. Shuffle or draw once, before."
                )
        yield block.X
        start += block.num_rows


def _alike_over_processes(function: str, first: "_Read | None") -> "_Read | None":
    """A block of this process; one without rows where it has none and others have."""
    if processes.count() == 1:
        return first
    none = (
        None
        if first is None
        else first._replace(X=first.X[:0], targets=_none_of(first.targets), weights=_none_of(first.weights))
    )
    every = processes.gather_values(none)
    alike = None if first is None else tuple(own is not None and _form(own) for own in first)
    processes.require_alike(function, {"the columns and dtypes of X, targets and weights": alike})
    return first or next(filter(None, every), None)


def _none_of(by_row: Any) -> Any:
    return None if by_row is None else by_row[:0]


class _Read(NamedTuple):
    X: Any  # NumPy's array, or SciPy's in CSR form
    targets: Any
    weights: Any

    @property
    def num_rows(self) -> int:
        return self.X.shape[0]


def _blocks_of(function: str, source: Any) -> Iterator[_Read]:
    """One pass over a source's blocks, those without rows left out."""
    first: _Read | None = None
    for given in _pass_over(function, source):
        X, targets, weights = _parts_of(function, given)
        for name, own in (("X", X), ("targets", targets), ("weights", weights)):
            if isinstance(own, np.ma.MaskedArray):
                arguments.check_plain(function, name, own)
        X = _numbers_of(function, X)
        targets = None if targets is None else np.asarray(as_targets(function, targets))
        weights = None if weights is None else np.asarray(as_array(function, weights, "weights"))
        block = _Read(X, targets, weights)
        first = first or block
        _require_alike(function, block, first)
        if block.num_rows:
            yield block


def _parts_of(function: str, given: Any) -> tuple[Any, Any, Any]:
    """X, targets and weights of a block; a list may be one of rows, if it is not of arrays."""
    if not (isinstance(given, tuple) or (isinstance(given, list) and given and hasattr(given[0], "shape"))):
        return given, None, None
    if not 1 <= len(given) <= 3:
        raise TypeError(f"{function}: a source's blocks must be {FORMS}; got a {type(given).__name__} of {len(given)}.")
    return (*given, None, None)[:3]


def _numbers_of(function: str, given: Any) -> Any:
    """X of a block, dense in an order of bytes and a dtype that NumPy computes with, or in CSR form."""
    is_sparse = arguments.is_sparse(given)
    X = given if is_sparse else np.asarray(as_data(function, given))
    if X.dtype == jax.numpy.bfloat16:  # whose numbers are all in float32
        X = X.astype(np.float32)
    if len(X.shape) != 2 or X.dtype.kind not in "fiu":
        got = f"{type(given).__name__} of shape {X.shape} and {X.dtype}" if X.shape else type(given).__name__
        raise TypeError(f"{function}: a source's blocks must be {FORMS}, X numbers (n, P); got a {got}.")
    if is_sparse:
        return to_csr(function, X)
    return X if X.dtype.isnative else X.astype(X.dtype.newbyteorder("="))


def _require_alike(function: str, block: _Read, first: _Read) -> None:
    for name, own, of_first in zip(("X", "targets", "weights"), block, first, strict=True):
        if (own is None) != (of_first is None):
            raise ValueError(f"{function}: {name} must come with each of a source's blocks, or with none.")
        if own is None:
            continue
        if own.shape[0] != block.num_rows:
            raise ValueError(f"{function}: a block's {name} must have its {block.num_rows} rows; got {len(own)}.")
        if _form(own) != _form(of_first):
            raise ValueError(
                f"{function}: a source's blocks must be alike; got {name} {of_first.shape} of {_form(of_first)[1]} and "
                f"{own.shape} of {_form(own)[1]}."
            )


def _form(array: Any) -> tuple[Any, str]:
    return array.shape[1:], f"{'' if isinstance(array, np.ndarray) else 'sparse '}{array.dtype}"


def _pass_over(function: str, source: Any) -> Iterator[Any]:
    if hasattr(source, "reset") and hasattr(source, "next"):
        source.reset()
        while True:
            try:
                block = source.next()
            except StopIteration:
                return
            if block is None:
                return
            yield block
        return
    blocks = iter(source)
    if blocks is source:
        raise TypeError(
            f"{function}: X is gone over many times, and a {type(source).__name__} only once. Give an object whose "
            "__iter__ begins anew, or one with reset() and next()."
        )
    yield from blocks


def about(fill: Fill, offset: Any, scale: Any, rows: np.ndarray) -> Fill:
    """A pass over (x − offset)·scale, taken in float64, by way of an array for some rows as they are read."""

    def fill_about(array: np.ndarray) -> int:
        count = 0
        while count < len(array):
            into = array[count : count + len(rows)]
            read = fill(rows[: len(into)])
            scale_rows(rows[:read], offset, scale, into[:read])
            count += read
            if read < len(into):
                break
        return count

    return fill_about
