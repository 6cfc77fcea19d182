"""Dense rows on one device or on several: each device sweeps its own, and what travels are sums over them.

Rows lie in chunks, and a compiled program goes over a chunk in blocks of rows, so that each block is read from memory
once though it is multiplied twice. It is told how many of a chunk's rows count, and knows nothing of how many there are
in all: small data, and the last chunk of large data, are padded to few sizes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad.rows.blocks import DenseBlock
from handgrad.rows.parts import Parts
from handgrad.shapes import Float

CHUNK_BYTES = 2**25
LEAST_ROWS = 2**11  # to which small data are padded, or these bytes
LEAST_BYTES = 2**22
# Of a block of X, widened, and of what has C columns. On a CPU both then stay in the cache; elsewhere a block is what
# keeps all of a device at work.
CPU_BYTES = 3 * 2**20
OTHER_BYTES = 2**28
ALIGNED = 64  # rows, so that a chunk of an aligned array is aligned and is not copied


class Chunk(NamedTuple):
    """Rows on a device, of which the first `num_rows` count."""

    X: Array
    num_rows: Array


class DenseRows:
    """The rows of this process on their devices."""

    def __init__(self, parts: Parts, centre: Float[np.ndarray, " P"], scale: float, one: float, dtype: np.dtype):
        self.parts, self.dtype = parts, np.dtype(dtype)
        self.shape = parts.shape
        self.home = parts.parts[0].device  # where sums come to
        self._chunks, self._ranges = [], []
        self._about = {}
        for rows, part in zip(parts.slices(), parts.parts, strict=True):
            on_cpu = part.device.platform == "cpu"
            for start, stop, size in _chunks_of(part, on_cpu):
                X = _padded(part.X, start, stop, size, keep=not on_cpu)
                put = jax.device_put(X, part.device)
                self._chunks.append(Chunk(put, jax.device_put(np.int32(stop - start), part.device)))
                self._ranges.append((slice(rows.start + start, rows.start + stop), size, part.device))
            about = np.asarray(centre, self.dtype), np.asarray(scale, self.dtype), np.asarray(one, self.dtype)
            self._about[part.device] = jax.device_put(about, part.device)

    def place(self, by_row: np.ndarray) -> list[Array]:
        """An array with an entry for each row of this process, on the devices of the rows."""
        placed = []
        for rows, size, device in self._ranges:
            padding = [(0, size - (rows.stop - rows.start))] + [(0, 0)] * (by_row.ndim - 1)
            placed.append(jax.device_put(np.pad(by_row[rows], padding), device))
        return placed

    def sum(
        self, of: Callable[..., Any], by_row: tuple[list[Array], ...], shared: Any, *, columns: int, static: Any = None
    ) -> Any:
        """Σ over the blocks of of(block, *by_row, shared, static), on the first device; over all processes.

        Args:
          of: a function of a block, what the rows' arrays have for it, `shared` and `static`, which gives a tree of
            sums over the block's rows. Rows that do not count have weight 0 in the last of by_row.
          by_row: as `place` gives them, the weights last.
          shared: a tree of arrays that each device is sent.
          columns: how many numbers a row has in what `of` makes of it, which blocks are cut by.
          static: what the compiled program depends on; hashable.
        """
        sent = {device: shared if len(self._about) == 1 else jax.device_put(shared, device) for device in self._about}
        totals: dict[Any, Any] = {}
        for index, (chunk, (_, _, device)) in enumerate(zip(self._chunks, self._ranges, strict=True)):
            own = tuple(array[index] for array in by_row)
            block_rows = _block_rows(chunk.X.shape, columns, self.dtype, device.platform == "cpu")
            part = _sum_chunk(of, static, block_rows, self._about[device], chunk, own, sent[device])
            totals[device] = part if device not in totals else _add(totals[device], part)
        return _over_devices_and_processes(self.parts, totals)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sum_chunk(of: Any, static: Any, block_rows: int, about: Any, chunk: Chunk, by_row: Any, shared: Any) -> Any:
    centre, scale, one = about
    last = jnp.maximum(chunk.num_rows - block_rows, 0)

    def block(start: Array) -> Any:
        # The last block reaches back, so that it is whole; what it has of the one before does not count in it.
        at = jnp.minimum(start, last)
        X, *own = (jax.lax.dynamic_slice_in_dim(array, at, block_rows) for array in (chunk.X, *by_row))
        fresh = at + jnp.arange(block_rows, dtype=jnp.int32) >= start
        own[-1] = jnp.where(fresh.reshape(-1, *[1] * (own[-1].ndim - 1)), own[-1], 0)
        return of(DenseBlock((X.astype(centre.dtype) - centre[None]) * scale, one), *own, shared, static)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(block, jnp.int32(0)))
    num_blocks = (chunk.num_rows + block_rows - 1) // block_rows
    return jax.lax.fori_loop(0, num_blocks, lambda i, sums: jax.tree.map(jnp.add, sums, block(i * block_rows)), zeros)


@jax.jit
def _add(a: Any, b: Any) -> Any:
    return jax.tree.map(jnp.add, a, b)


def _over_devices_and_processes(parts: Parts, totals: dict[Any, Any]) -> Any:
    """Sums of size of the parameters are all that travels."""
    home, *others = totals
    total = totals[home]
    for device in others:
        total = _add(total, jax.device_put(totals[device], home))
    if parts.num_processes == 1:
        return total
    return jax.device_put(parts.sum(jax.tree.map(np.asarray, total)), home)


def _chunks_of(part: Any, on_cpu: bool) -> list[tuple[int, int, int]]:
    """The chunks of a part: first row, row after the last, and how many rows it is padded to."""
    num_rows, row_bytes = part.num_rows, part.X.shape[1] * part.X.dtype.itemsize
    if isinstance(part.X, jax.Array) and not on_cpu:
        return [(0, num_rows, num_rows)]  # cut there it would be copied
    rows = max(ALIGNED, CHUNK_BYTES // row_bytes // ALIGNED * ALIGNED)
    whole = [(start, start + rows, rows) for start in range(0, num_rows - rows + 1, rows)]
    left = num_rows - len(whole) * rows
    if left:
        whole.append((num_rows - left, num_rows, min(rows, _padded_rows(left, row_bytes))))
    return whole


def _padded_rows(num_rows: int, row_bytes: int) -> int:
    """One of few numbers of rows, since each is compiled anew: four from each power of two to the next."""
    least = max(1, min(LEAST_ROWS, LEAST_BYTES // row_bytes))
    octave = 2 ** max(0, (max(num_rows, least) - 1).bit_length() - 3)
    return -(-max(num_rows, least) // octave) * octave


def _padded(X: Any, start: int, stop: int, size: int, *, keep: bool) -> Any:
    if keep and isinstance(X, jax.Array):
        return X
    host = np.asarray(X)[start:stop]
    if size == stop - start:
        return host
    padded = np.zeros((size, host.shape[1]), host.dtype)
    padded[: stop - start] = host
    return padded


def _block_rows(shape: tuple[int, int], columns: int, dtype: np.dtype, on_cpu: bool) -> int:
    limit = CPU_BYTES if on_cpu else OTHER_BYTES
    rows = max(1, min(limit // (shape[1] * dtype.itemsize), limit // (columns * dtype.itemsize)))
    if rows >= shape[0]:
        return shape[0]
    return max(1, rows // ALIGNED * ALIGNED)
