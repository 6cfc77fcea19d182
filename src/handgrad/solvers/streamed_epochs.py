"""Epochs over rows that are read for each of them, every row once, in an order that is as random as the source allows.

Some rows, all that are in memory, are mixed with each other, and the batches are cut of them. A file that is mapped is
read in short runs of rows, whose order is drawn anew for each epoch, so that all its rows are mixed; another source is
read from its first row to its last, and rows that lie far from each other never meet. The order follows from the key of
the epoch alone. Where all rows are mixed at once, it is that of rows in memory.

Processes that share the rows draw the same order. Of each batch a process has the rows that it has read, about as many
as the others; its devices sum over them, and sums of the size of the parameters are all that travels.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from handgrad import processes
from handgrad.precision import wide_dtype
from handgrad.rows.parts import devices_of_processes
from handgrad.solvers.batches import evaluate_block, run_batches, run_shared, step_with, sum_gradient
from handgrad.streams import Stream, filling

BUFFER_BYTES = 2**26  # of rows that are mixed with each other
RUN_BYTES = 2**18  # of rows that stay together
OF_RUNS = 2**32 - 1  # beyond the number of any buffer
ROOM = 16  # parts of a batch, one of which a process may have less than there is room for: each room is compiled anew
SORTED = 0.5  # how far the shares of the classes may be from those of all rows, from 0 to 1


class Streamed(NamedTuple):
    """Rows of a stream, in the dtype in which they are trained on, and on the host what is known of each."""

    stream: Stream
    dtype: Any
    targets: np.ndarray
    weights: np.ndarray | None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, P)."""
        return self.stream.shape

    @property
    def own(self) -> np.ndarray | None:
        """Which rows the stream gives, of those that processes share; None for all."""
        owners = self.stream.owners
        return None if owners is None else np.flatnonzero(owners == processes.index())

    def of_rows(self, X: np.ndarray, rows: Any) -> tuple[Any, ...]:
        """Some rows with what is known of them, held to be finite."""
        with np.errstate(over="ignore"):
            X = X.astype(self.dtype, copy=True)
        if not np.isfinite(np.add.reduce(X, axis=None, dtype=np.float64)):
            wrong = np.flatnonzero(~np.isfinite(X).all(axis=1))
            raise ValueError(
                f"train: X must be finite in {self.dtype}; got a NaN, an infinity or too large a number in row "
                f"{np.r_[rows][wrong[0]]}. Leave such rows out, or fill them in."
            )
        return X, self.targets[rows], None if self.weights is None else self.weights[rows]

    def blocks(self) -> Iterator[tuple[Any, ...]]:
        """The rows in their order, of those that processes share those of this one."""
        start, own = 0, self.own
        for X in self.stream.blocks(rows_at_once(self)):
            rows = slice(start, start + len(X))
            yield self.of_rows(X, rows if own is None else own[rows])
            start += len(X)

    def of_all(self, sums: Any) -> Any:
        """Sums over the rows that `blocks` gives, over all rows."""
        if self.stream.owners is None:
            return sums
        return jax.tree.map(lambda every: every.sum(axis=0), processes.gather(sums))


def rows_at_once(data: Streamed, batch_size: int = 1) -> int:
    """How many rows are mixed with each other: some batches."""
    row_bytes = data.shape[1] * np.dtype(data.dtype).itemsize
    return max(1, BUFFER_BYTES // row_bytes // batch_size) * batch_size


def run_streamed(params, state, key, data, _, rates, l2, *, optimizer, batch_size) -> Any:
    """As `run_epoch`, of `Streamed` rows, without what comes of a validation."""
    num_rows = data.shape[0]
    if batch_size is None or batch_size >= num_rows:
        total = np.zeros((), rates.dtype), jax.tree.map(np.zeros_like, params)
        for block in data.blocks():
            total = sum_gradient(params, block, total)
            jax.block_until_ready(total)
        total = data.of_all(total)
        params, state = step_with(params, state, total, num_rows, rates[0], l2, optimizer=optimizer)
        return params, state, (float(total[0]) / num_rows,)
    size = rows_at_once(data, batch_size)
    if data.stream.owners is not None:
        return _run_shared(params, state, key, data, rates, l2, size, optimizer=optimizer, batch_size=batch_size)
    sums: list[Any] = []
    first = 0
    for block in mixed(data, key, size):
        steps = -(-len(block[0]) // batch_size)
        own = rates[first : first + steps]
        params, state, of_rows = run_batches(params, state, block, own, l2, optimizer=optimizer, batch_size=batch_size)
        jax.block_until_ready(sums[-1:])  # what is read goes no further ahead than one block
        sums.append(of_rows)
        first += steps
    return params, state, (sum(map(float, sums)) / num_rows,)


def _run_shared(params, state, key, data, rates, l2, size, *, optimizer, batch_size) -> Any:
    """As `run_streamed`, of rows that processes share, on all devices of them."""
    of_process = devices_of_processes("train", jax.devices())
    mesh = Mesh(np.array([device for devices in of_process.values() for device in devices]), ("rows",))
    everywhere, by_rows = NamedSharding(mesh, P()), NamedSharding(mesh, P(None, "rows"))

    def replicated(leaf):
        return jax.make_array_from_process_local_data(everywhere, np.asarray(leaf), np.shape(leaf))

    def sharded(array):
        shape = len(array), array.shape[1] * len(of_process), *array.shape[2:]
        return jax.make_array_from_process_local_data(by_rows, array, shape)

    params, state = jax.tree.map(replicated, (params, state))
    sums: list[Any] = []
    first = 0
    for counts, block in _dealt(data, key, size, batch_size, len(of_process[processes.index()])):
        own = rates[first : first + len(counts)]
        of_all = jax.tree.map(sharded, block)
        params, state, of_rows = run_shared(params, state, of_all, counts, own, l2, optimizer=optimizer, mesh=mesh)
        jax.block_until_ready(sums[-1:])
        sums.append(of_rows)
        first += len(counts)
    params, state, sums = jax.tree.map(lambda array: array.addressable_data(0), (params, state, sums))
    return params, state, (sum(map(float, sums)) / data.shape[0],)


def evaluate_streamed(params: Any, validation: Streamed) -> tuple[float, float]:
    """Mean loss and accuracy."""
    num_rows, total, hits = validation.shape[0], 0.0, 0
    for block in validation.blocks():
        loss, right = evaluate_block(params, block)
        total, hits = total + float(loss), hits + int(right)
    total, hits = validation.of_all((total, hits))
    mass = num_rows if validation.weights is None else float(validation.weights.sum(dtype=np.float64))
    return float(total) / (mass or 1), int(hits) / num_rows


def mixed(data: Streamed, key: jax.Array, size: int) -> Iterator[tuple[Any, ...]]:
    """All rows, so many at a time, and these in an order that is drawn."""
    for number, (rows, X) in enumerate(_together(data.stream, key, size)):
        order = _order(key, number, len(rows))
        yield tuple(None if array is None else array[order] for array in data.of_rows(X, rows))


def _order(key: jax.Array, number: int, num_rows: int) -> np.ndarray:
    """That of the rows which are mixed with each other as the so-manieth."""
    return np.asarray(jax.random.permutation(jax.random.fold_in(key, number) if number else key, num_rows))


def _dealt(
    data: Streamed, key: jax.Array, size: int, batch_size: int, num_devices: int
) -> Iterator[tuple[np.ndarray, tuple[Any, ...]]]:
    """As `mixed`, of rows that processes share: of each batch how many rows it has, and those of this process.

    The arrays are (steps, rows, …), of so many rows, that each of so many devices has as many and those of each process
    have room; what is left of it weighs nothing.
    """
    owners, own, dtype = data.stream.owners, data.own, wide_dtype(data.dtype)
    assert owners is not None
    assert own is not None
    fill = filling("train", (len(own), data.shape[1]), data.stream.blocks(max(1, size // processes.count())))
    part = -(-batch_size // ROOM)
    for number, start in enumerate(range(0, data.shape[0], size)):
        of_rows = owners[start : start + size]
        is_own = of_rows == processes.index()
        X = np.empty((np.count_nonzero(is_own), data.shape[1]), data.stream.dtype)
        fill(X)
        order = _order(key, number, len(of_rows))
        batches = np.arange(len(order)) // batch_size
        counts = np.bincount(batches)
        room = -(-np.bincount(of_rows[order] * len(counts) + batches).max() // part) * part
        room = -(-room // num_devices) * num_devices
        mine = is_own[order]
        rows, batch = order[mine], batches[mine]
        into = batch * room + np.arange(len(rows)) - np.searchsorted(batch, batch)
        X, targets, weights = data.of_rows(X[np.cumsum(is_own)[rows] - 1], start + rows)
        weights = np.ones(len(rows), dtype) if weights is None else weights
        block = tuple(_put(array, into, len(counts), room) for array in (X, targets, weights))
        yield counts.astype(dtype), block


def _put(array: np.ndarray, into: np.ndarray, steps: int, room: int) -> np.ndarray:
    """Rows at places of an array that is zeros elsewhere."""
    found = np.zeros((steps * room, *array.shape[1:]), array.dtype)
    found[into] = array
    return found.reshape(steps, room, *array.shape[1:])


def _together(stream: Stream, key: jax.Array, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows that are mixed with each other, by their indices and as they are."""
    num_rows, pages = stream.shape[0], stream.pages
    if pages is None or num_rows <= size:
        start = 0
        for X in stream.blocks(size):
            yield np.arange(start, start + len(X)), X
            start += len(X)
        return
    run = max(1, RUN_BYTES // pages.rows[0].nbytes)
    runs = np.asarray(jax.random.permutation(jax.random.fold_in(key, OF_RUNS), -(-num_rows // run)))
    order = (runs[:, None] * run + np.arange(run)).ravel()
    order = order[order < num_rows]
    for start in range(0, num_rows, size):
        rows = order[start : start + size]
        pages.bring(0, 0)  # which looks whether the file is what it was
        yield rows, stream.of_stored(pages.rows[rows], rows)
        pages.let_go(0, num_rows)


def how_sorted(data: Streamed, num_classes: int, batch_size: int | None) -> str | None:
    """What is to be said where the rows that are mixed with each other are of other classes than all rows are."""
    num_rows, T = data.shape[0], data.targets
    size = num_rows if batch_size is None else rows_at_once(data, batch_size)
    if data.stream.pages is not None or num_rows <= size or T.ndim != 1 or size < 10 * num_classes:
        return None
    shares = np.bincount(T, minlength=num_classes) / num_rows
    away = 0.0
    for start in range(0, num_rows, size):
        own = T[start : start + size]
        away += np.abs(np.bincount(own, minlength=num_classes) - len(own) * shares).sum() / (2 * num_rows)
    if away <= SORTED:
        return None
    return (
        f"the rows come nearly sorted by class, and only {size:,} of them are mixed at a time, so that the steps go "
        "after one class and then the next. Shuffle them once and store them so; those of a map are all mixed."
    )
