"""Streamed rows on one device or on several: read, brought to the devices and summed, one chunk after the other.

While the device sums a chunk the next one is read. Three chunks are all of X that is in memory. What is stored
is centred and scaled where it is summed, unless it is wider than what is summed; of a file that is mapped even the copy
is left out, on a CPU, and its pages are what is summed.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from handgrad.rows.dense import ALIGNED, CHUNK_BYTES, Chunk, Cut, add, aligned, flat_rows, sum_chunk
from handgrad.rows.parts import Parts
from handgrad.rows.streams import about
from handgrad.shapes import Float
from handgrad.streams import PIECE_VALUES, Pages, Stream

BUFFERS = 3  # one is read, one is summed, and one may still be
MODERATE = 1e30  # centres and scales up to which, and down to one over which, float32 loses nothing
SAME = 1e-12  # of two numbers that differ by the rounding of float64

Bring = Callable[[int], tuple[Any, int]]  # of a chunk by its number: X's rows, and how many there are


class StreamedRows:
    """Rows of a stream, every device getting as many rows of a chunk as the others."""

    def __init__(self, parts: Parts, centre: Float[np.ndarray, " P"], scale: float, one: float, dtype: np.dtype):
        self.parts, self.dtype, self.shape = parts, np.dtype(dtype), parts.shape
        self._stream: Stream = parts.parts[0].X
        local = [device for device in parts.devices if device.process_index == jax.process_index()]
        self.home = local[0]
        self.mesh = None if len(parts.devices) == 1 else Mesh(np.array(parts.devices), ("rows",))
        # What is wider than the solver's dtype is centred before it is narrowed.
        self._host: tuple[Any, Any] | None = None
        self._read_dtype = self._stream.stored_dtype
        offset, scales = self._stream.about(centre, scale)
        narrow = np.asarray(offset, self.dtype).astype(np.float64)
        # Without an intercept the offset is no centre, which might be rounded as well.
        is_same = np.all(np.abs(narrow - offset) <= SAME * np.abs(offset))
        if not (is_same and stays_stored(self._stream, self.dtype)):
            self._host, self._read_dtype = (offset, scales), self.dtype
            offset, scales = np.zeros_like(centre), 1.0
        scales = np.asarray(scales, self.dtype)
        of_block = np.asarray(offset, self.dtype), scales if scales.ndim == 0 else scales[None]
        self._about = self._replicated((*of_block, np.asarray(one, self.dtype)))
        row_bytes = parts.shape[1] * self._read_dtype.itemsize
        may_be_pages = self.home.platform == "cpu" and self.mesh is None and self._host is None
        self._pages: Pages | None = self._stream.pages if may_be_pages else None
        most = max(ALIGNED, CHUNK_BYTES // row_bytes // ALIGNED * ALIGNED)
        rows = int(parts.gather(np.array(parts.num_rows)).max())
        self._size = min(most, -(-rows // len(local) // ALIGNED) * ALIGNED or ALIGNED)  # of a device, in a chunk
        self._num_devices = len(local)
        self._num_chunks = -(-rows // (self._size * len(local)))
        chunk = self._size * len(local), parts.shape[1]
        count = BUFFERS if self._pages is None else 0
        self._buffers = [aligned(chunk, self._read_dtype) for _ in range(count)]

    def place(self, by_row: np.ndarray) -> np.ndarray:
        """An array with an entry for each row, which stays on the host."""
        return by_row

    def sum(
        self, of: Callable[..., Any], by_row: tuple[Any, ...], shared: Any, *, columns: int, static: Any = None
    ) -> Any:
        """As `DenseRows.sum`, from one reading of the stream."""
        cut = Cut(columns, self.home.platform == "cpu")
        shared, total = self._replicated(shared), None
        chunk = self._size * self._num_devices
        bring, summed = self._begin(), deque[Any]()
        for number in range(self._num_chunks):
            if len(summed) == BUFFERS - 1:
                jax.block_until_ready(summed.popleft())  # of the buffer that is filled next
            X, count = bring(number)
            begin = number * chunk
            own = [_padded(array[begin : begin + count], chunk) for array in by_row]
            counts = np.clip(count - self._size * np.arange(self._num_devices), 0, self._size).astype(np.int32)
            arrays = [jax.tree.map(self._placed, array) for array in (X, counts, *own)]
            part = sum_chunk(of, static, cut, self.mesh, self._about, tuple(arrays), shared)
            total = part if total is None else add(total, part)
            summed.append(part)
        jax.block_until_ready(list(summed))  # the buffers are given back
        if bring(self._num_chunks)[1]:
            raise ValueError("a source must give the same rows in each pass; got more than in the first.")
        return total if self.mesh is None else jax.tree.map(lambda array: array.addressable_data(0), total)

    def _begin(self) -> Bring:
        """What brings one chunk after another."""
        if self._pages is not None:
            return lambda number: self._bring_pages(number, self._pages)
        fill = self._stream.begin()
        if self._host is not None:
            piece = max(1, PIECE_VALUES // self.shape[1]), self.shape[1]
            fill = about(fill, *self._host, np.empty(piece, self._stream.stored_dtype))

        def bring(number: int) -> tuple[np.ndarray, int]:
            X = self._buffers[number % BUFFERS]
            count = fill(X)
            X[count:] = X[:1] if count else 0  # with rows that there are, so that nothing overflows in them
            return X, count

        return bring

    def _bring_pages(self, number: int, pages: Any) -> tuple[Any, int]:
        """A chunk of a file that is mapped: its rows in one flat array, and where in it they begin."""
        X, size = pages.rows, self._size
        start, end = number * size, min((number + 1) * size, len(X))
        pages.let_go(max(0, start - BUFFERS * size), min(max(0, start - (BUFFERS - 1) * size), len(X)))
        if start >= end:
            return None, 0
        pages.bring(start, end)
        flat, lead = flat_rows(X, Chunk(((start, end),), size), self.dtype)
        return (flat, np.array([lead], np.int32)), end - start

    def _placed(self, array: np.ndarray) -> jax.Array:
        """Rows of a chunk, those of this process, on its devices."""
        if self.mesh is None:
            return jax.device_put(array, self.home)
        shape = len(array) * self.parts.num_processes, *array.shape[1:]
        return jax.make_array_from_process_local_data(NamedSharding(self.mesh, P("rows")), array, shape)

    def _replicated(self, tree: Any) -> Any:
        if self.mesh is None:
            return jax.device_put(tree, self.home)
        everywhere = NamedSharding(self.mesh, P())
        return jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(everywhere, np.asarray(leaf), np.shape(leaf)), tree
        )


def _padded(array: np.ndarray, rows: int) -> np.ndarray:
    if len(array) == rows:
        return array
    return np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])


def stays_stored(stream: Stream, dtype: np.dtype) -> bool:
    """Whether what is stored is centred and scaled where it is summed, in this dtype; else before, in float64."""
    given = stream.stored_dtype
    is_wider = given.itemsize > (dtype.itemsize if given.kind == "f" else 2)
    if stream.offset is None or stream.scale is None:
        return not is_wider
    with np.errstate(divide="ignore"):
        size = np.abs(np.stack([stream.offset, stream.scale, 1 / stream.scale]))
    return not is_wider and bool(np.all(size <= MODERATE))


def centre_as_summed(stream: Stream, centre: Float[np.ndarray, " P"], dtype: np.dtype) -> Float[np.ndarray, " P"]:
    """The centre of a stream's rows, rounded so that what is taken off what is stored is a number of the dtype."""
    if not stays_stored(stream, dtype):
        return centre
    rounded = np.asarray(stream.about(centre)[0], dtype).astype(np.float64)
    if stream.offset is None or stream.scale is None:
        return rounded
    return (rounded - stream.offset) * stream.scale
