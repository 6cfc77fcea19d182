"""Rows that the host multiplies: sparse ones, which SciPy does in half the time of what XLA has for them, and few dense
ones, for which to call a compiled program takes longer than what it does.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from handgrad.rows.blocks import Block, DenseBlock
from handgrad.rows.parts import Parts, sparse_blocks
from handgrad.rows.sparse import SparseBlock
from handgrad.shapes import Float

BLOCK_BYTES = 2**20  # of a dense block, and of what has columns for its rows: they stay in the cache
SPARSE_BYTES = 2**25  # of what has columns for the rows of a sparse block
FEW = 2**19  # numbers in X, or in the logits


class HostRows:
    """The rows in the dtype of the solver, about their centre if they are dense."""

    home = None

    def __init__(self, parts: Parts, centre: Float[np.ndarray, " P"], scale: float, one: float, dtype: np.dtype):
        self.parts, self.shape, self.dtype = parts, parts.shape, np.dtype(dtype)
        part = parts.parts[0]
        self._dense: DenseBlock | None = None
        self._sparse: Callable[[], Iterable[tuple[slice, SparseBlock]]] = list
        if not parts.is_sparse:
            X = (np.asarray(part.X).astype(self.dtype) - centre.astype(self.dtype)) * self.dtype.type(scale)
            # By columns: products of NumPy's take half the time with XT in one piece, and as long with X as it then is.
            self._dense = DenseBlock(np.asfortranarray(X), self.dtype.type(one))
            return
        begin = functools.partial(sparse_blocks, part, centre, scale, one, self.dtype, np.float64)
        held = None if parts.is_streamed else list(begin())
        self._sparse = begin if held is None else lambda: held

    def place(self, by_row: np.ndarray) -> np.ndarray:
        """An array with an entry for each row, as it is."""
        return by_row

    def sum(
        self, of: Callable[..., Any], by_row: tuple[Any, ...], shared: Any, *, columns: int, static: Any = None
    ) -> Any:
        """As `DenseRows.sum`, in NumPy's arrays."""
        sums = (of(block, *(array[rows] for array in by_row), shared, static) for rows, block in self._blocks(columns))
        found = functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), sums)
        return found if self.parts.num_processes == 1 else self.parts.sum(found)

    def _blocks(self, columns: int) -> Iterator[tuple[slice, Block]]:
        """Dense ones are so small that they, and what has so many columns, stay in the cache."""
        for rows, block in self._sparse():
            for own, piece in block.pieces(SPARSE_BYTES // 8 // columns):
                yield slice(rows.start + own.start, rows.start + own.stop), piece
        if self._dense is not None:
            size = max(1, BLOCK_BYTES // self.dtype.itemsize // max(self.shape[1], columns))
            for start in range(0, self.shape[0], size):
                rows = slice(start, start + size)
                yield rows, self._dense._replace(X=self._dense.X[rows])


def are_few(parts: Parts, num_classes: int) -> bool:
    """Whether the rows are dense ones with which NumPy takes no longer than XLA, and compiles nothing."""
    alone = len(parts.devices) == 1 and parts.num_processes == 1
    return alone and parts.num_rows * max(parts.shape[1], num_classes) <= FEW
