"""Where the rows of X lie: each part on one device, or on the host, of this process.

A part is a range of the rows of X, all of its columns. What is known row by row, such as targets, is held on the host,
for the rows of this process, part after part. Sums over the rows are sums over parts, and then over the processes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from handgrad import arguments, processes
from handgrad.processes import Share
from handgrad.rows.blocks import Block, DenseBlock
from handgrad.rows.sparse import SparseBlock, cut, in_dtype
from handgrad.shapes import Float
from handgrad.sparse_streams import SparseStream
from handgrad.streams import Stream, ahead, scale_rows

BLOCK_BYTES = 2**22  # of a block of rows in float64, which stays in the cache
SPARSE_ROWS = 2**17  # of a block
EPS = float(np.finfo(np.float64).eps)
FAR = 100  # deviations from 0, beyond which a sparse product loses to the centre what a feature is about it


class Part(NamedTuple):
    """Rows on one device."""

    rows: slice  # of X
    X: Any  # NumPy's array, JAX's on one device, SciPy's in CSR form, or a stream of dense or sparse rows
    device: Any  # None for sparse rows, which are multiplied on the host
    tiles: tuple[Any, ...] = ()  # of sparse rows

    @property
    def num_rows(self) -> int:
        """How many."""
        return self.X.shape[0]


class Parts(NamedTuple):
    """The rows of this process, and how many there are in all."""

    parts: tuple[Part, ...]
    shape: tuple[int, int]  # of all of X
    dtype: np.dtype
    is_sparse: bool
    num_processes: int  # that hold rows of it
    devices: tuple[Any, ...]  # of all processes, in the order of their rows

    @property
    def num_rows(self) -> int:
        """Of this process."""
        return sum(part.num_rows for part in self.parts)

    @property
    def is_streamed(self) -> bool:
        """Whether the rows are read anew for each pass."""
        return isinstance(self.parts[0].X, Stream | SparseStream)

    @property
    def num_entries(self) -> float:
        """How many numbers X has for each process, not counting the zeros that are not stored."""
        if self.is_sparse:
            X = self.parts[0].X
            entries = X.entries.number.sum() if isinstance(X, SparseStream) else X.nnz
            return float(self.sum(np.array(entries))) / self.num_processes
        return self.shape[0] * self.shape[1] / self.num_processes

    def slices(self) -> Iterator[slice]:
        """The parts' rows among those of this process."""
        start = 0
        for part in self.parts:
            yield slice(start, start + part.num_rows)
            start += part.num_rows

    def of_rows(self, array: Any) -> np.ndarray:
        """What an array with an entry for each row of X has for those of this process, on the host."""
        whole = not isinstance(array, jax.Array) or array.is_fully_addressable
        if whole:
            host = np.asarray(array)
            if len(self.parts) == 1 and self.parts[0].num_rows == len(host):
                return host
            return np.concatenate([host[part.rows] for part in self.parts] or [host[:0]])
        return np.concatenate([_rows_of_shards(array, part.rows) for part in self.parts])

    def sum(self, tree: Any) -> Any:
        """Sums of this process's arrays over all processes, the same bit for bit in each."""
        return jax.tree.map(lambda every: every.sum(axis=0), self.gather(tree))

    def gather(self, tree: Any) -> Any:
        """NumPy's arrays of every process, along a new first axis."""
        if self.num_processes == 1:
            return jax.tree.map(lambda array: np.asarray(array)[None], tree)
        return processes.gather(tree)

    def blocks(
        self, centre: Float[np.ndarray, " P"] | None = None, scale: float = 1.0, one: float = 1.0
    ) -> Iterator[tuple[slice, Block]]:
        """The rows of this process in float64, on the host, block by block."""
        P = self.shape[1]
        for rows, part in zip(self.slices(), self.parts, strict=True):
            if self.is_sparse:
                about = np.zeros(P) if centre is None else centre
                # What is given and returned is float64 in any case.
                yield from sparse_blocks(part, about, scale, one, np.float64, np.longdouble)
                continue
            start = rows.start
            if isinstance(part.X, Stream):
                offset, scales = part.X.about(0.0 if centre is None else centre, scale)
                for read in part.X.stored_blocks(max(1, BLOCK_BYTES // (8 * P))):
                    X = np.empty(read.shape)
                    scale_rows(read, offset, scales, X)
                    yield slice(start, start + len(X)), DenseBlock(X, one)
                    start += len(X)
                continue
            for read in _cut(part.X, max(1, BLOCK_BYTES // (8 * P))):
                X = read.astype(np.float64)
                if scale != 1:
                    X *= scale
                if centre is not None:
                    X -= centre * scale
                yield slice(start, start + len(X)), DenseBlock(X, one)
                start += len(X)


def sparse_blocks(
    part: Part, centre: Float[np.ndarray, " P"], scale: float, one: float, dtype: Any, wide: Any
) -> Iterator[tuple[slice, SparseBlock]]:
    """Sparse rows in a dtype, or in a wide one where a centre that is algebra would lose too much."""
    own = np.dtype(wide if is_far(part, centre) else dtype)
    about = np.asarray(centre * scale, own), own.type(one)
    if isinstance(part.X, SparseStream):
        together = ahead(map(cut, part.X.chunks()))
    else:
        count = max(1, SPARSE_ROWS // max(1, part.tiles[0].shape[1]))
        together = (part.tiles[first : first + count] for first in range(0, len(part.tiles), count))
    start = 0
    for tiles in together:
        block = SparseBlock(tuple(in_dtype(tile, own, scale) for tile in tiles), *about)
        stop = start + sum(tile.shape[1] for tile in tiles)
        yield slice(start, stop), block
        start = stop


def _cut(X: Any, size: int) -> Iterator[np.ndarray]:
    """The rows, so many at a time."""
    return (np.asarray(X[start : start + size]) for start in range(0, X.shape[0], size))


def locate(function: str, X: Any, mesh: Any = None) -> Parts:
    """Where the rows of X lie. With a mesh, an array on the host is dealt out over its devices, row after row."""
    if mesh is not None and not isinstance(mesh, jax.sharding.Mesh):
        raise TypeError(f"{function}: mesh must be a jax.sharding.Mesh, with devices; got {type(mesh).__name__}.")
    shape, dtype = tuple(X.shape), np.dtype(X.dtype)
    if isinstance(X, Stream | SparseStream) and processes.count() > 1:
        numbers = processes.gather(np.array(shape[0]))
        X = Share(X, int(numbers[: processes.index()].sum()), int(numbers.sum()))
    own, start, count = (X.X, X.start, processes.count()) if isinstance(X, Share) else (X, 0, 1)
    if isinstance(own, SparseStream) or arguments.is_sparse(own):
        if mesh is not None:
            raise ValueError(f"{function}: mesh is for dense data; sparse X is multiplied on the host. Leave it out.")
        own = own if isinstance(own, SparseStream) else to_csr(function, own)
        tiles = () if isinstance(own, SparseStream) else cut(own)
        part = Part(slice(start, start + own.shape[0]), own, None, tiles)
        return Parts((part,), tuple(X.shape), dtype, True, count, ())
    if isinstance(X, Share):
        return _of_share(function, X, jax.devices() if mesh is None else list(mesh.devices.ravel()))
    if isinstance(X, Stream):
        on = (_default_device(),) if mesh is None else tuple(mesh.devices.ravel())
        return Parts((Part(slice(0, shape[0]), X, on[0]),), shape, dtype, False, 1, on)
    if isinstance(X, jax.Array) and len(X.sharding.device_set) > 1:
        if mesh is not None:
            raise ValueError(
                f"{function}: mesh is for data on the host; got X on {len(X.sharding.device_set)} devices."
            )
        parts, holders = _shards(function, X)
        return Parts(parts, shape, dtype, False, 1 if X.is_fully_addressable else processes.count(), holders)
    if isinstance(X, np.ndarray) and not dtype.isnative:
        dtype = dtype.newbyteorder("=")
        X = X.astype(dtype)
    if mesh is None:
        device = next(iter(X.sharding.device_set)) if isinstance(X, jax.Array) else _default_device()
        return Parts((Part(slice(0, shape[0]), X, device),), shape, dtype, False, 1, (device,))
    devices = mesh.devices.ravel()
    if any(device.process_index != jax.process_index() for device in devices):
        raise ValueError(
            f"{function}: mesh must be of this process's devices for data on the host; got one over several processes. "
            "Make X of each process's rows with jax.make_array_from_process_local_data."
        )
    parts = tuple(part for part in _dealt(np.asarray(X), 0, list(devices)) if part.num_rows)
    return Parts(parts, shape, dtype, False, 1, tuple(part.device for part in parts))


def _dealt(X: np.ndarray, start: int, devices: Sequence[Any]) -> list[Part]:
    """As many rows to each device, or one more."""
    ends = [round(len(X) * (i + 1) / len(devices)) for i in range(len(devices))]
    return [
        Part(slice(start + begin, start + end), X[begin:end], device)
        for begin, end, device in zip([0, *ends], ends, devices, strict=False)
    ]


def _of_share(function: str, X: Share, devices: Sequence[Any]) -> Parts:
    """The rows of this process on its devices, none of which is left out, since all have to sum together."""
    of_process = devices_of_processes(function, devices)
    own = of_process[processes.index()]
    parts = [Part(slice(X.start, X.start + X.X.shape[0]), X.X, own[0])]
    if not isinstance(X.X, Stream):
        parts = _dealt(X.X, X.start, own)
    every = tuple(device for devices in of_process.values() for device in devices)
    return Parts(tuple(parts), X.shape, np.dtype(X.dtype), False, len(of_process), every)


def devices_of_processes(function: str, devices: Sequence[Any]) -> dict[int, list[Any]]:
    """The devices of each process, of all of them as many, by its number."""
    of_process: dict[int, list[Any]] = {}
    for device in sorted(devices, key=lambda device: device.process_index):
        of_process.setdefault(device.process_index, []).append(device)
    numbers = {place: len(own) for place, own in of_process.items()}
    if len(numbers) < processes.count() or len(set(numbers.values())) > 1:
        raise ValueError(
            f"{function}: rows that processes have a share of need as many devices of each of the "
            f"{processes.count()} processes; got {numbers}, by the number of the process. Start them alike."
        )
    return of_process


def to_csr(function: str, X: Any) -> Any:
    """X in SciPy's CSR form, its duplicates added up; the caller's own arrays where they are that already."""
    import scipy.sparse

    if not hasattr(X, "tocsr"):
        match type(X).__name__:
            case "BCSR":
                arrays = _stored(X.data), np.asarray(X.indices), np.asarray(X.indptr)
                X = scipy.sparse.csr_array(arrays, shape=X.shape)
            case "BCOO":
                X = X.update_layout(n_batch=0, n_dense=0)
                indices = np.asarray(X.indices)
                inside = np.all(indices < np.asarray(X.shape), axis=1)  # where its padding is not
                X = scipy.sparse.coo_array((_stored(X.data)[inside], tuple(indices[inside].T)), shape=X.shape)
            case other:
                raise TypeError(f"{function}: sparse X must be SciPy's, BCOO or BCSR; got {other}. Convert it first.")
    csr = scipy.sparse.csr_array(X)
    if not csr.has_canonical_format:
        csr = csr.copy()
        csr.sum_duplicates()
    if csr.nnz < 2**31 and max(csr.shape) < 2**31:  # which a product reads in less time
        small = [array.astype(np.int32, copy=False) for array in (csr.indices, csr.indptr)]
        csr = scipy.sparse.csr_array((csr.data, *small), shape=csr.shape)
    return csr


def _stored(values: Any) -> np.ndarray:
    """Values of a sparse array of JAX's in a dtype that SciPy has."""
    narrow = jax.dtypes.issubdtype(values.dtype, np.floating) and values.dtype.itemsize < 4
    return np.asarray(values).astype(np.float32) if narrow else np.asarray(values)


def is_far(part: Part, centre: Float[np.ndarray, " P"]) -> bool:
    """Whether a feature of sparse rows that varies, such as a year, is far from 0."""
    if not centre.any():
        return False
    # Each zero adds μ² to the squares about μ, so that such a feature has next to none.
    is_streamed = isinstance(part.X, SparseStream)
    entries = part.X.entries.number if is_streamed else sum(np.diff(tile.indptr) for tile in part.tiles)
    full = np.flatnonzero((entries > (1 - FAR**-2) * part.num_rows) & (centre != 0))
    if is_streamed:
        relative = part.X.entries.deviations(centre, full) / np.abs(centre[full])
        return bool(np.any((relative > 4 * EPS) & (relative < 1 / FAR)))
    values = (np.concatenate([tile.data[slice(*tile.indptr[p : p + 2])] for tile in part.tiles]) for p in full)
    off = [of_feature / centre[p] - 1 for p, of_feature in zip(full, values, strict=True)]
    return any(4 * EPS < np.sqrt(np.mean(x**2)) < 1 / FAR for x in off)


def _default_device() -> Any:
    return next(iter(jax.device_put(np.float32(0)).devices()))


def _shards(function: str, X: jax.Array) -> tuple[tuple[Part, ...], tuple[Any, ...]]:
    """The parts of an array that lies on several devices, and their devices; of rows that several hold, one counts."""
    holders: dict[tuple[int, int], Any] = {}
    device: Any
    for device, (rows, columns) in X.sharding.devices_indices_map(X.shape).items():
        if columns.indices(X.shape[1])[:2] != (0, X.shape[1]):
            raise ValueError(
                f"{function}: X must be sharded by rows alone, each device having all {X.shape[1]} columns of its "
                f"rows; got {X.sharding}. Move it with jax.device_put(X, NamedSharding(mesh, PartitionSpec(axis)))."
            )
        start, stop, _ = rows.indices(X.shape[0])
        if start < stop and ((start, stop) not in holders or device.id < holders[start, stop].id):
            holders[start, stop] = device
    shards = {shard.device: shard.data for shard in X.addressable_shards}
    ranges = sorted(holders)
    parts = tuple(
        Part(slice(*rows), shards[holders[rows]], holders[rows]) for rows in ranges if holders[rows] in shards
    )
    if not parts:
        raise ValueError(f"{function}: X must have rows on every process that calls; this one has none. Shard X anew.")
    return parts, tuple(holders[rows] for rows in ranges)


def _rows_of_shards(array: jax.Array, rows: slice) -> np.ndarray:
    """These rows of an array of which this process has some shards."""
    pieces = {}
    for shard in array.addressable_shards:
        start, stop, _ = shard.index[0].indices(array.shape[0])
        low, high = max(start, rows.start), min(stop, rows.stop)
        if low < high and low not in pieces:
            pieces[low] = np.asarray(shard.data)[low - start : high - start]
    found = np.concatenate([pieces[low] for low in sorted(pieces)]) if pieces else np.zeros((0, *array.shape[1:]))
    if len(found) != rows.stop - rows.start:
        raise ValueError(
            f"targets and weights must lie where the rows of X lie; of rows {rows.start} to {rows.stop} this process "
            f"has {len(found)}. Give them the sharding of X, or whole to every process."
        )
    return found
