"""Streamed rows on one device or on several: read, brought to the devices and summed, one chunk after the other.

While a chunk is summed the next one is read, by a thread. Three buffers of a chunk are all of X that is in memory.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from handgrad.rows.dense import ALIGNED, CHUNK_BYTES, add, block_rows, sum_chunk
from handgrad.rows.parts import Parts
from handgrad.rows.streams import about, aligned
from handgrad.shapes import Float
from handgrad.streams import Fill, Stream

BUFFERS = 3  # one is read, one is summed, and one may still be


class StreamedRows:
    """Rows of a stream, every device getting as many rows of a chunk as the others."""

    def __init__(self, parts: Parts, centre: Float[np.ndarray, " P"], scale: float, one: float, dtype: np.dtype):
        self.parts, self.dtype, self.shape = parts, np.dtype(dtype), parts.shape
        self._stream: Stream = parts.parts[0].X
        local = [device for device in parts.devices if device.process_index == jax.process_index()]
        self.home = local[0]
        self.mesh = None if len(parts.devices) == 1 else Mesh(np.array(parts.devices), ("rows",))
        # What is wider than the solver's dtype is centred before it is narrowed.
        self._centre: np.ndarray | None
        self._centre, self._scale = (centre, scale) if _is_wider(parts.dtype, self.dtype) else (None, 1.0)
        if self._centre is not None:
            centre, scale = np.zeros_like(centre), 1.0
        self._about = self._replicated(tuple(np.asarray(number, self.dtype) for number in (centre, scale, one)))
        self._read_dtype = parts.dtype if self._centre is None else self.dtype
        row_bytes = parts.shape[1] * self._read_dtype.itemsize
        most = max(ALIGNED, CHUNK_BYTES // row_bytes // ALIGNED * ALIGNED)
        rows = int(parts.gather(np.array(parts.num_rows)).max())
        self._size = min(most, -(-rows // len(local) // ALIGNED) * ALIGNED or ALIGNED)  # of a device, in a chunk
        self._num_devices = len(local)
        self._num_chunks = -(-rows // (self._size * len(local)))
        chunk = self._size * len(local), parts.shape[1]
        self._buffers = [aligned(chunk, self._read_dtype) for _ in range(BUFFERS)]

    def place(self, by_row: np.ndarray) -> np.ndarray:
        """An array with an entry for each row, which stays on the host."""
        return by_row

    def sum(
        self, of: Callable[..., Any], by_row: tuple[Any, ...], shared: Any, *, columns: int, static: Any = None
    ) -> Any:
        """As `DenseRows.sum`, from one reading of the stream."""
        on_cpu = self.home.platform == "cpu"
        rows = block_rows(self._size, self.shape[1], columns, self.dtype, on_cpu)
        shared, total = self._replicated(shared), None
        chunk = self._size * self._num_devices
        buffers = self._buffers
        fill, summed = self._begin(chunk), deque[Any]()
        with ThreadPoolExecutor(1) as reader:
            future = reader.submit(fill, buffers[0])
            for number in range(self._num_chunks):
                X, count = buffers[number % BUFFERS], future.result()
                if len(summed) == BUFFERS - 1:
                    jax.block_until_ready(summed.popleft())  # of the buffer that is filled next
                future = reader.submit(fill, buffers[(number + 1) % BUFFERS])
                X[count:] = X[:1] if count else 0  # with rows that there are, so that nothing overflows in them
                begin = number * chunk
                own = [_padded(array[begin : begin + count], chunk) for array in by_row]
                counts = np.clip(count - self._size * np.arange(self._num_devices), 0, self._size).astype(np.int32)
                arrays = [self._placed(array) for array in (X, counts, *own)]
                part = sum_chunk(of, static, rows, self.mesh, self._about, tuple(arrays), shared)
                total = part if total is None else add(total, part)
                summed.append(part)
            if future.result():
                raise ValueError("a source must give the same rows in each pass; got more than in the first.")
        jax.block_until_ready(list(summed))  # the buffers are given back
        return total if self.mesh is None else jax.tree.map(lambda array: array.addressable_data(0), total)

    def _begin(self, chunk: int) -> Fill:
        fill = self._stream.begin()
        if self._centre is None:
            return fill
        return about(fill, self._centre, self._scale, np.empty((chunk, self.shape[1]), self.parts.dtype))

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


def _is_wider(given: np.dtype, dtype: np.dtype) -> bool:
    return given.kind == "f" and given.itemsize > dtype.itemsize
