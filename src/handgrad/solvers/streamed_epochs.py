"""Epochs over rows that are read for each of them, every row once, in an order that is as random as the source allows.

Some rows, all that are in memory, are mixed with each other, and the batches are cut of them. A file that is mapped is
read in short runs of rows, whose order is drawn anew for each epoch, so that all its rows are mixed; another source is
read from its first row to its last, and rows that lie far from each other never meet. The order follows from the key of
the epoch alone. Where all rows are mixed at once, it is that of rows in memory.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from handgrad.solvers.batches import evaluate_block, run_batches, step_with, sum_gradient
from handgrad.streams import Stream

BUFFER_BYTES = 2**26  # of rows that are mixed with each other
RUN_BYTES = 2**18  # of rows that stay together
OF_RUNS = 2**32 - 1  # beyond the number of any buffer
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

    def of_rows(self, X: np.ndarray, rows: Any, start: int) -> tuple[Any, ...]:
        """Some rows with what is known of them, held to be finite."""
        with np.errstate(over="ignore"):
            X = X.astype(self.dtype, copy=True)
        if not np.isfinite(np.add.reduce(X, axis=None, dtype=np.float64)):
            wrong = np.flatnonzero(~np.isfinite(X).all(axis=1))
            raise ValueError(
                f"train: X must be finite in {self.dtype}; got a NaN, an infinity or too large a number in row "
                f"{start + int(wrong[0])}. Leave such rows out, or fill them in."
            )
        return X, self.targets[rows], None if self.weights is None else self.weights[rows]

    def blocks(self) -> Iterator[tuple[Any, ...]]:
        """The rows in their order."""
        start = 0
        for X in self.stream.blocks(rows_at_once(self)):
            yield self.of_rows(X, slice(start, start + len(X)), start)
            start += len(X)


def rows_at_once(data: Streamed, batch_size: int = 1) -> int:
    """How many rows are mixed with each other: some batches."""
    row_bytes = data.shape[1] * np.dtype(data.dtype).itemsize
    return max(1, BUFFER_BYTES // row_bytes // batch_size) * batch_size


def run_streamed(params, state, key, data, _, rates, l2, *, optimizer, batch_size) -> Any:
    """As `run_epoch`, of `Streamed` rows, without what comes of a validation."""
    num_rows = data.shape[0]
    sums: list[Any] = []
    if batch_size is None or batch_size >= num_rows:
        total = 0.0, jax.tree.map(np.zeros_like, params)
        for block in data.blocks():
            total = sum_gradient(params, block, total)
            jax.block_until_ready(total)
        sums.append(total[0])
        params, state = step_with(params, state, total, num_rows, rates[0], l2, optimizer=optimizer)
    else:
        first = 0
        for block in mixed(data, key, rows_at_once(data, batch_size)):
            steps = -(-len(block[0]) // batch_size)
            own = rates[first : first + steps]
            params, state, of_rows = run_batches(
                params, state, block, own, l2, optimizer=optimizer, batch_size=batch_size
            )
            jax.block_until_ready(sums[-1:])  # what is read goes no further ahead than one block
            sums.append(of_rows)
            first += steps
    return params, state, (sum(map(float, sums)) / num_rows,)


def evaluate_streamed(params: Any, validation: Streamed) -> tuple[float, float]:
    """Mean loss and accuracy."""
    num_rows, total, hits = validation.shape[0], 0.0, 0
    for block in validation.blocks():
        loss, right = evaluate_block(params, block)
        total, hits = total + float(loss), hits + int(right)
    mass = num_rows if validation.weights is None else float(validation.weights.sum(dtype=np.float64))
    return total / (mass or 1), hits / num_rows


def mixed(data: Streamed, key: jax.Array, size: int) -> Iterator[tuple[Any, ...]]:
    """All rows, so many at a time, and these in an order that is drawn."""
    for number, (rows, X) in enumerate(_together(data.stream, key, size)):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, number) if number else key, len(rows)))
        whole = data.of_rows(X, rows, int(rows[0]))
        yield tuple(None if array is None else array[order] for array in whole)


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
        yield rows, pages.rows[rows]
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
