"""Sparse rows that are read anew, block after block, for each pass over them, and dense only where that is asked."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from handgrad.shapes import Float, Int
from handgrad.streams import Stream, ahead, of_blocks, other_rows

MOST_ROWS = 2**17  # of a chunk
CHUNK_ENTRIES = 2**21, 2**24  # in between as many as there are for each feature in a tile
DENSE_VALUES = 2**20  # at a time


@dataclasses.dataclass(frozen=True)  # and no tuple, which would be a list of rows
class SparseStream:
    """Sparse rows that are read for each pass.

    Attributes:
      shape: (N, P).
      dtype: of the values.
      begin: begins a pass: blocks (n, P) of any sizes in SciPy's CSR form, duplicates added up, each good until the
        next.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    begin: Callable[[], Iterator[Any]]

    def chunks(self) -> Iterator[Any]:
        """The rows in CSR form, as many together as fit, which does not depend on what comes in one block.

        The next are read while some are used. There is one chunk at least, which has no rows where there are none.
        """
        return ahead(_joined(self.begin(), self.shape[1], self.dtype))

    @functools.cached_property
    def entries(self) -> "Entries":
        """What is known of each feature's entries, from a pass of its own."""
        P = self.shape[1]
        number, first, total, squares = np.zeros(P, np.int64), *np.zeros((3, P))
        with np.errstate(over="ignore", invalid="ignore"):
            for chunk in self.chunks():
                values = chunk.data.astype(np.float64)
                is_new = np.flatnonzero(number[chunk.indices] == 0)[::-1]
                first[chunk.indices[is_new]] = values[is_new]  # of several the first one, which comes last here
                values -= first[chunk.indices]
                number += np.bincount(chunk.indices, minlength=P)
                total += np.bincount(chunk.indices, values, P)
                squares += np.bincount(chunk.indices, values**2, P)
        return Entries(number, first, total, squares)

    def in_memory(self) -> Any:
        """All of the rows."""
        return stacked(list(self.chunks()))


class Entries(NamedTuple):
    """Of what is stored of each feature: how many there are, the first, and the sums of what others differ from it by
    and of the squares of that, in which nothing is lost where they are nearly alike.
    """

    number: Int[np.ndarray, " P"]
    first: Float[np.ndarray, " P"]
    total: Float[np.ndarray, " P"]
    squares: Float[np.ndarray, " P"]

    def deviations(self, centre: Float[np.ndarray, " P"], features: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The root of the mean of (x − μ)² over the entries of some features that have some."""
        number, first, total, squares = (array[features] for array in self)
        shift = first - centre[features]
        return np.sqrt(np.maximum(squares + shift * (2 * total + number * shift), 0) / number)


def of_sparse_blocks(
    function: str, shape: tuple[int, int], dtype: np.dtype, begin: Callable[[], Iterator[Any]]
) -> SparseStream:
    """A stream of blocks in CSR form, held to have so many rows in each pass."""

    def begin_same() -> Iterator[Any]:
        seen = 0
        for block in begin():
            seen += block.shape[0]
            if seen > shape[0]:
                raise other_rows(function, shape[0], seen)
            yield block
        if seen != shape[0]:
            raise other_rows(function, shape[0], seen)

    return SparseStream(shape, dtype, begin_same)


def dense(stream: Stream | SparseStream) -> Stream:
    """A stream with all its zeros, of which there are a few rows at a time."""
    if isinstance(stream, Stream):
        return stream
    step = max(1, DENSE_VALUES // stream.shape[1])

    def begin() -> Iterator[np.ndarray]:
        for chunk in stream.chunks():
            yield from (chunk[start : start + step].toarray() for start in range(0, chunk.shape[0], step))

    return of_blocks("dense", stream.shape, stream.dtype, begin)


def _joined(blocks: Iterator[Any], num_features: int, dtype: np.dtype) -> Iterator[Any]:
    """Chunks of as many rows as fit."""
    import scipy.sparse

    least, most = CHUNK_ENTRIES
    most_entries = min(max(least, 8 * num_features), most)
    held: list[Any] = []
    rows = entries = 0
    for block in blocks:
        start = 0
        while start < block.shape[0]:
            room = np.searchsorted(block.indptr, block.indptr[start] + most_entries - entries, side="right") - 1
            stop = min(max(int(room), start), start + MOST_ROWS - rows, block.shape[0])
            if stop == start and not held:  # a row of more entries than a chunk has
                stop += 1
            if stop > start:
                held.append(block[start:stop])  # a copy, as SciPy makes one: the block is good until the next
                rows, entries, start = rows + stop - start, entries + held[-1].nnz, stop
            if start < block.shape[0] or rows == MOST_ROWS:
                yield stacked(held)
                held, rows, entries = [], 0, 0
    yield stacked(held or [scipy.sparse.csr_array((0, num_features), dtype=dtype)])


def stacked(pieces: list[Any]) -> Any:
    """Rows in CSR form, one after the other."""
    import scipy.sparse

    return pieces[0] if len(pieces) == 1 else scipy.sparse.vstack(pieces, format="csr")
