"""Dense rows on one device or on several, of one process or of many: each device sweeps its own.

Rows lie in chunks, and a compiled program goes over a chunk in blocks of rows, so that each block is read from memory
once though it is multiplied twice. It is told how many of a chunk's rows count, and knows nothing of how many there are
in all: small data are padded to few sizes, and the last chunk of large data to that of the others.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from handgrad.rows.blocks import DenseBlock
from handgrad.rows.parts import Parts
from handgrad.shapes import Float

# Of X as it is stored. On a CPU a chunk is taken where it lies; elsewhere each costs a call, of a millisecond or two.
CHUNK_BYTES = 2**25
OTHER_CHUNK_BYTES = 2**28
LEAST_ROWS = 2**11  # to which small data are padded, or these bytes
LEAST_BYTES = 2**22
# Of a block of X, widened, and of what has C columns. On a CPU both then stay in the cache; elsewhere a block is what
# keeps all of a device at work.
CPU_BYTES = 3 * 2**20
OTHER_BYTES = 2**28
LARGE_BYTES = 2**23  # in place of CPU_BYTES where the sums are more than those: they are gone over for each block
CPU_ROWS = 2**13  # of few features: (200000, 30, 3) takes 7 ms in such blocks, and 18 in ones of 4 MB
# What one core does alone goes on beside the products of the other block: (10000, 784, 80) takes 18 ms where blocks one
# after the other take 22, (20000, 100, 5) 1.2 where they take 1.8.
CPU_AT_ONCE = 2
ALIGNED = 64  # rows of a chunk, a multiple
ALIGNMENT = 64  # bytes, at which JAX takes an array of NumPy's on a CPU as it is; elsewhere it copies it


class Chunk(NamedTuple):
    """Some of a device's rows, those of one or of two ranges, and how many rows they are padded to."""

    ranges: tuple[tuple[int, int], ...]
    size: int

    def count(self, num_rows: int) -> int:
        """How many there are of so many rows of a device."""
        return sum(max(0, min(num_rows, stop) - start) for start, stop in self.ranges)


class Cut(NamedTuple):
    """What a chunk is cut into blocks by: how many numbers a row has in what is made of it, and where it is made."""

    columns: int
    on_cpu: bool


class Blocks(NamedTuple):
    """How many rows of a chunk a block has, and how many blocks are summed at once."""

    rows: int
    at_once: int


class DenseRows:
    """The rows of this process on their devices, every device having as many chunks as the others."""

    def __init__(self, parts: Parts, centre: Float[np.ndarray, " P"], scale: float, one: float, dtype: np.dtype):
        self.parts, self.dtype, self.shape = parts, np.dtype(dtype), parts.shape
        devices = parts.devices
        self.home = next(device for device in devices if device.process_index == jax.process_index())
        self.mesh = None if len(devices) == 1 else Mesh(np.array(devices), ("rows",))
        self._on_cpu = self.home.platform == "cpu"
        about = tuple(np.asarray(number, self.dtype) for number in (centre, scale, one))
        self._about = jax.device_put(about, self.home) if self.mesh is None else self._replicated(about)
        most = int(parts.gather(np.array(max(part.num_rows for part in parts.parts))).max())
        row_bytes = parts.shape[1] * parts.dtype.itemsize
        stays = isinstance(parts.parts[0].X, jax.Array) and not self._on_cpu  # cut on its device it would be copied
        self._chunks = [Chunk(((0, most),), most)] if stays else _chunks_of(most, row_bytes, self._on_cpu)
        self._X = [self._rows_of(chunk, stays) for chunk in self._chunks]
        self._num_rows = [
            self._assembled([np.array([chunk.count(part.num_rows)], np.int32) for part in parts.parts])
            for chunk in self._chunks
        ]

    def place(self, by_row: np.ndarray) -> list[Array]:
        """An array with an entry for each row of this process, on the devices of the rows."""
        pieces = [by_row[rows] for rows in self.parts.slices()]
        return [self._assembled([_padded(piece, chunk) for piece in pieces]) for chunk in self._chunks]

    def sum(
        self, of: Callable[..., Any], by_row: tuple[list[Array], ...], shared: Any, *, columns: int, static: Any = None
    ) -> Any:
        """Σ over the blocks of all devices of of(block, *by_row, shared, static), on the home device.

        Args:
          of: a function of a block, what the rows' arrays have for it, `shared` and `static`, which gives a tree of
            sums over the block's rows. Rows that do not count have weight 0 in the last of by_row.
          by_row: as `place` gives them, the weights last.
          shared: a tree of arrays that each device is sent.
          columns: how many numbers a row has in what `of` makes of it, which blocks are cut by.
          static: what the compiled program depends on; hashable.
        """
        shared, total = self._replicated(shared), None
        for index, X in enumerate(self._X):
            own = X, self._num_rows[index], *(array[index] for array in by_row)
            part = sum_chunk(of, static, Cut(columns, self._on_cpu), self.mesh, self._about, own, shared)
            total = part if total is None else add(total, part)
        return total if self.mesh is None else jax.tree.map(lambda array: array.addressable_data(0), total)

    def _rows_of(self, chunk: Chunk, stays: bool) -> Any:
        """X's rows of a chunk: an array, or a flat one in which they begin somewhere."""
        # All processes have to call the same program: what one of them knows of its rows does not decide it.
        if self._on_cpu and self.parts.num_processes == 1 and len(self._chunks) > 1:
            flat = [flat_rows(part.X, chunk, self.dtype) for part in self.parts.parts]
            arrays, leads = zip(*flat, strict=True)
            return self._assembled(list(arrays)), self._assembled([np.array([lead], np.int32) for lead in leads])
        return self._assembled([_padded(part.X, chunk, keep=stays, filled=True) for part in self.parts.parts])

    def _assembled(self, pieces: list[Any]) -> Array:
        """One array of the pieces of this process's devices, each where it belongs."""
        devices = [part.device for part in self.parts.parts]
        if self.mesh is None:
            return jax.device_put(pieces[0], devices[0])
        shape = (pieces[0].shape[0] * self.mesh.size, *pieces[0].shape[1:])
        placed = [jax.device_put(piece, device) for piece, device in zip(pieces, devices, strict=True)]
        return jax.make_array_from_single_device_arrays(shape, NamedSharding(self.mesh, P("rows")), placed)

    def _replicated(self, tree: Any) -> Any:
        """The same arrays for every device."""
        if self.mesh is None:
            return tree
        everywhere = NamedSharding(self.mesh, P())

        def of_leaf(leaf: Any) -> Array:
            placed = [jax.device_put(leaf, part.device) for part in self.parts.parts]
            return jax.make_array_from_single_device_arrays(np.shape(leaf), everywhere, placed)

        return jax.tree.map(of_leaf, tree)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def sum_chunk(of: Any, static: Any, cut: Cut, mesh: Mesh | None, about: Any, own: Any, shared: Any) -> Any:
    """Σ over the blocks of a chunk, over all devices of the mesh."""
    if mesh is None:
        return _sum_blocks(of, static, cut, about, own, shared)

    def of_device(about: Any, own: Any, shared: Any) -> Any:
        # Sums of the size of the parameters are all that travels.
        return jax.lax.psum(_sum_blocks(of, static, cut, about, own, shared), "rows")

    specs = P(), P("rows"), P()
    return jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)(about, own, shared)


def _sum_blocks(of: Any, static: Any, cut: Cut, about: Any, own: Any, shared: Any) -> Any:
    (centre, scale, one), (X, (num_rows,), *by_row) = about, own
    num_features = centre.shape[0]

    def rows_from(start: Array, block_rows: int) -> Array:
        if not isinstance(X, tuple):
            return jax.lax.dynamic_slice_in_dim(X, start, block_rows)
        flat, (lead,) = X
        rows = jax.lax.dynamic_slice_in_dim(flat, lead + start * num_features, block_rows * num_features)
        return rows.reshape(block_rows, num_features)

    def block(start: Array, block_rows: int) -> Any:
        # The last block reaches back, so that it is whole; what it has of the one before does not count in it. Nor does
        # any row of one after it.
        at = jnp.minimum(start, jnp.maximum(num_rows - block_rows, 0))
        arrays = [jax.lax.dynamic_slice_in_dim(array, at, block_rows) for array in by_row]
        fresh = at + jnp.arange(block_rows, dtype=jnp.int32) >= start
        arrays[-1] = jnp.where(fresh.reshape(-1, *[1] * (arrays[-1].ndim - 1)), arrays[-1], 0)
        about_centre = (rows_from(at, block_rows).astype(centre.dtype) - centre[None]) * scale
        return of(DenseBlock(about_centre, one), *arrays, shared, static)

    sums = jax.eval_shape(functools.partial(block, block_rows=1), jnp.int32(0))
    num_sums = sum(leaf.size for leaf in jax.tree.leaves(sums))
    block_rows, at_once = blocks_of(len(by_row[-1]), num_features, num_sums, cut, centre.dtype)
    together = at_once * block_rows

    def add_blocks(i: Array, sums: Any) -> Any:
        each = [block(i * together + j * block_rows, block_rows) for j in range(at_once)]
        return functools.reduce(add, each, sums)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sums)
    return jax.lax.fori_loop(0, (num_rows + together - 1) // together, add_blocks, zeros)


@jax.jit
def add(a: Any, b: Any) -> Any:
    """The sum of two trees."""
    return jax.tree.map(jnp.add, a, b)


def _chunks_of(num_rows: int, row_bytes: int, on_cpu: bool) -> list[Chunk]:
    """The chunks of a device's rows.

    The last one, which is padded and so copied, has the first few rows and the last few: before and after a whole chunk
    there are then bytes of X, and it can begin where memory is aligned. It is padded to the size of the others, so that
    what is compiled for them serves it.
    """
    limit = CHUNK_BYTES if on_cpu else OTHER_CHUNK_BYTES
    rows = max(ALIGNED, limit // row_bytes // ALIGNED * ALIGNED)
    margin = -(-ALIGNMENT // row_bytes)
    count = max(0, num_rows - 2 * margin) // rows
    if not count:
        return [Chunk(((0, num_rows),), _padded_rows(num_rows, row_bytes))]
    end = margin + count * rows
    whole = [Chunk(((start, start + rows),), rows) for start in range(margin, end, rows)]
    full = min(num_rows, end + rows - margin)
    left = [((0, margin), (end, full)), *([((full, num_rows),)] if full < num_rows else [])]
    return [*whole, *(Chunk(ranges, rows) for ranges in left)]


def _padded_rows(num_rows: int, row_bytes: int) -> int:
    """One of few numbers of rows, since each is compiled anew: four from each power of two to the next."""
    least = max(1, min(LEAST_ROWS, LEAST_BYTES // row_bytes))
    octave = 2 ** max(0, (max(num_rows, least) - 1).bit_length() - 3)
    return -(-max(num_rows, least) // octave) * octave


def flat_rows(X: Any, chunk: Chunk, dtype: np.dtype) -> tuple[np.ndarray, int]:
    """A chunk's numbers in one row from an aligned address on, of every chunk as many, so that one program serves them
    all; and how many come before those of the chunk. Those of X where they are, or a copy: where X is laid out
    otherwise, or does not have them all.

    Args:
      X: an array, on the host.
      chunk: some of its rows.
      dtype: of the sums.
    """
    host = np.asarray(X)
    (start, stop), *others = chunk.ranges
    width, most = host.shape[1], ALIGNMENT // host.itemsize
    if not others and stop - start == chunk.size and host.flags.c_contiguous:
        numbers, first = host.reshape(-1), start * width
        lead = (numbers[first:].ctypes.data % ALIGNMENT) // host.itemsize
        begin = first - lead
        end = begin + chunk.size * width + most
        if begin >= 0 and end <= numbers.size:
            return numbers[begin:end], lead
    flat = aligned((chunk.size * width + most,), host.dtype)
    # No block reaches further beyond the rows that there are: what comes then is not read.
    _fill(flat[: chunk.size * width].reshape(-1, width), host, chunk, LARGE_BYTES // (width * dtype.itemsize) + ALIGNED)
    return flat, 0


def _fill(array: np.ndarray, rows: np.ndarray, chunk: Chunk, end: int | None = None) -> None:
    """Write the rows of a chunk to an array, and up to `end` rows like the first, so that nothing can overflow there
    that could not anyway.
    """
    count = 0
    for start, stop in chunk.ranges:
        piece = rows[start:stop]  # of a chunk that other devices alone have rows in, none
        array[count : count + len(piece)] = piece
        count += len(piece)
    array[count:end] = rows[:1] if len(rows) else 0


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array of zeros that JAX takes as it is on a CPU; it needs no memory where it is not written to."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def _padded(X: Any, chunk: Chunk, *, keep: bool = False, filled: bool = False) -> Any:
    """The rows of a chunk that there are, on the host, and more, of zeros or if `filled` like the first, to its size.

    An array that has that size is kept where it is, if that is wished.
    """
    if keep and X.shape[0] == chunk.size:
        return X
    whole = np.asarray(X)
    start, stop = chunk.ranges[0]
    if len(whole) >= stop == start + chunk.size:
        return whole[start:stop]
    padded = np.zeros((chunk.size, *whole.shape[1:]), whole.dtype)
    _fill(padded, whole, chunk, None if filled else 0)
    return padded


def blocks_of(rows: int, num_features: int, num_sums: int, cut: Cut, dtype: np.dtype) -> Blocks:
    """The blocks of so many rows, from which so many sums are made."""
    limit, most, at_once = OTHER_BYTES // dtype.itemsize, rows, 1
    if cut.on_cpu:
        limit, most, at_once = CPU_BYTES // dtype.itemsize, CPU_ROWS, CPU_AT_ONCE
        if num_sums > limit:
            limit, at_once = LARGE_BYTES // dtype.itemsize, 1
    most = max(1, min(limit // num_features, limit // cut.columns, most))
    if most >= rows:
        return Blocks(rows, 1)
    if not cut.on_cpu:
        return Blocks(most if most < ALIGNED else most // ALIGNED * ALIGNED, 1)
    # As few as may be, all about as large, since one that is left over takes as long as another.
    count = at_once * -(-rows // (at_once * most))
    block = -(-rows // count)
    return Blocks(block if block < ALIGNED else -(-block // ALIGNED) * ALIGNED, at_once)
