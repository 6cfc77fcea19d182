"""Sparse rows, multiplied on the host by SciPy, which is twice as fast there as what XLA has for them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from handgrad.rows.blocks import SparseBlock
from handgrad.rows.parts import Parts, in_dtype
from handgrad.shapes import Float

BLOCK_ROWS = 2**17
FAR = 100  # deviations from 0, beyond which float32 would lose to the centre what a feature is about it


class SparseRows:
    """Rows in CSR form, and their transpose in CSR form, in the dtype of the solver, or wider where that loses much."""

    def __init__(self, parts: Parts, centre: Float[np.ndarray, " P"], scale: float, one: float, dtype: np.dtype):
        self.parts, self.dtype = parts, np.dtype(dtype)
        self.shape = parts.shape
        self.home = jax.local_devices()[0]
        own = np.dtype(np.float64) if _is_far(parts, centre) else self.dtype
        about = np.asarray(centre * scale, own), own.type(one)
        self._blocks = []
        part = parts.parts[0]
        for start in range(0, parts.num_rows, BLOCK_ROWS):
            whole = parts.num_rows <= BLOCK_ROWS
            X = part.X if whole else part.X[start : start + BLOCK_ROWS]
            XT = part.XT if whole else X.T.tocsr()
            block = SparseBlock(in_dtype(X, own, scale), in_dtype(XT, own, scale), *about)
            self._blocks.append((slice(start, start + X.shape[0]), block))

    def place(self, by_row: np.ndarray) -> np.ndarray:
        """An array with an entry for each row, as it is."""
        return by_row

    def sum(
        self, of: Callable[..., Any], by_row: tuple[Any, ...], shared: Any, *, columns: int, static: Any = None
    ) -> Any:
        """As `DenseRows.sum`, in NumPy's arrays."""
        shared = jax.tree.map(np.asarray, shared)
        sums = (of(block, *(array[rows] for array in by_row), shared, static) for rows, block in self._blocks)
        return functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), sums)


def _is_far(parts: Parts, centre: Float[np.ndarray, " P"]) -> bool:
    """Whether a feature that varies, such as a year, is far from 0."""
    if not centre.any():
        return False
    XT, N = parts.parts[0].XT, parts.num_rows
    feature = np.repeat(np.arange(len(centre)), np.diff(XT.indptr))
    relative = XT.data / np.where(centre == 0, 1, centre)[feature]
    sums, squares = (np.bincount(feature, power, len(centre)) for power in (relative, relative**2))
    variance = squares / N - 2 * sums / N + 1  # of x/μ − 1, about 0
    return bool(np.any((variance < FAR**-2) & (variance > 1e-14) & (centre != 0)))
