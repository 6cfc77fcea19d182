"""Sparse rows, multiplied on the host by SciPy, which is twice as fast there as what XLA has for them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from handgrad.rows.blocks import SparseBlock
from handgrad.rows.parts import Parts, in_dtype, is_far
from handgrad.shapes import Float

BLOCK_ROWS = 2**17


class SparseRows:
    """Rows in CSR form, and their transpose in CSR form, in the dtype of the solver, or wider where that loses much."""

    def __init__(self, parts: Parts, centre: Float[np.ndarray, " P"], scale: float, one: float, dtype: np.dtype):
        self.parts, self.dtype = parts, np.dtype(dtype)
        self.shape = parts.shape
        self.home = jax.local_devices()[0]
        own = np.dtype(np.float64) if is_far(parts.parts[0], centre) else self.dtype
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
