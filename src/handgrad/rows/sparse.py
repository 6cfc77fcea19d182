"""Sparse rows, multiplied by SciPy on the host.

X is held as the transposes of tiles of its rows, (P, n) in CSR form, of so few rows that a tile's logits stay in the
cache: they are what is gone to out of order, in both products, while W and its gradient are gone over once a tile. Of
60,000 rows of 76 words, 47,236 words in all and 53 classes XV takes 60 ms where SciPy takes 105 with X, and XᵀD 67
where SciPy takes 165 and more with X transposed as a whole.

The pieces of a product are computed in threads, each of them by one: their number changes no bit of the answer.
"""

import contextvars
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from handgrad.rows.blocks import product
from handgrad.shapes import Float

TILE_ROWS = 2**12  # at least
TILE_DENSITY = 8  # entries of a tile for each feature, at least: W is read once a tile
PIECES = 8  # of the features
SHARED = 2**21  # multiplications, for more of which threads are started


class SparseBlock(NamedTuple):
    """Rows that are scaled already; the centre is algebra, so that zeros stay zeros.

    What is done is done in the dtype of the tiles, which may be wider than that of what is given and returned.
    """

    tiles: tuple[Any, ...]  # (P, n) each
    centre: Float[np.ndarray, " P"]  # in the units of X
    one: Any

    def pieces(self, num_rows: int) -> Iterator[tuple[slice, "SparseBlock"]]:
        """Blocks of whole tiles, of so many rows where tiles are no larger, and which rows each has."""
        first, rows = 0, self._rows()
        for i, own in enumerate(rows):
            if i + 1 == len(rows) or rows[i + 1].stop - rows[first].start > num_rows:
                yield slice(rows[first].start, own.stop), self._replace(tiles=self.tiles[first : i + 1])
                first = i + 1

    def times(self, V: np.ndarray) -> np.ndarray:
        K, width, C = V.shape
        columns = np.ascontiguousarray(V.transpose(1, 0, 2).reshape(width, K * C), self.centre.dtype)
        rows = self._rows()
        Z = np.empty((rows[-1].stop, K * C), columns.dtype)
        shift = self.one * columns[-1] - product(self.centre[None], columns[:-1])[0]

        def multiply(tile: Any, own: slice) -> None:
            np.add(tile.T @ columns[:-1], shift, out=Z[own])

        if columns[:-1].any():
            self._share(multiply, list(zip(self.tiles, rows, strict=True)), K * C)
        else:  # as a fit begins
            Z[:] = shift
        return Z.T.reshape(K, C, -1).astype(V.dtype, copy=False)

    def transposed_times(self, D: np.ndarray) -> np.ndarray:
        from scipy.sparse._sparsetools import csr_matvecs  # what @ calls: that adds to an array which is 0 at first

        K, C, n = D.shape
        columns = np.ascontiguousarray(D.reshape(K * C, n).T, self.centre.dtype)
        total = columns.sum(axis=0)
        G = np.empty((len(self.centre) + 1, K * C), columns.dtype)

        def multiply(start: int, stop: int) -> None:
            piece = G[start:stop]
            np.multiply(self.centre[start:stop, None], -total, out=piece)
            for tile, own in zip(self.tiles, self._rows(), strict=True):
                entries = tile.indptr[start : stop + 1], tile.indices, tile.data
                csr_matvecs(stop - start, tile.shape[1], K * C, *entries, columns[own].ravel(), piece.ravel())

        self._share(multiply, self._pieces(), K * C)
        G[-1] = self.one * total
        return G.reshape(-1, K, C).transpose(1, 0, 2).astype(D.dtype, copy=False)

    def second_moment(self, s: np.ndarray) -> np.ndarray:
        own = s.astype(self.centre.dtype, copy=False)
        weighted = [tile.multiply(own[None, rows]) for tile, rows in zip(self.tiles, self._rows(), strict=True)]
        sums, total = sum(tile.sum(axis=1) for tile in weighted), own.sum()
        mixed = np.outer(self.centre, sums)
        A = sum((left @ tile.T).toarray() for left, tile in zip(weighted, self.tiles, strict=True)) - mixed - mixed.T
        A += total * np.outer(self.centre, self.centre)
        last = self.one * (sums - self.centre * total)
        return np.block([[A, last[:, None]], [last[None], self.one * total]]).astype(s.dtype, copy=False)

    def column_squares(self, s: np.ndarray) -> np.ndarray:
        own, total = s.astype(self.centre.dtype, copy=False), s.sum(dtype=self.centre.dtype)
        squares = self.centre**2 * total
        for tile, rows in zip(self.tiles, self._rows(), strict=True):
            squares += _squared(tile) @ own[rows] - 2 * self.centre * (tile @ own[rows])
        return np.append(np.maximum(squares, 0), self.one * total).astype(s.dtype)

    def row_squares(self) -> np.ndarray:
        ones = np.ones_like(self.centre)
        squares = [_squared(tile).T @ ones - 2 * (tile.T @ self.centre) for tile in self.tiles]
        return np.maximum(np.concatenate(squares) + self.centre @ self.centre, 0)

    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        tiles = [tile for tile in self.tiles if tile.shape[1]]
        if not tiles:  # of a process without rows
            return np.full(len(self.centre), np.inf), np.full(len(self.centre), -np.inf)
        least, most = zip(*((tile.min(axis=1).toarray(), tile.max(axis=1).toarray()) for tile in tiles), strict=True)
        return np.min(least, axis=0).ravel(), np.max(most, axis=0).ravel()

    def are_finite(self) -> np.ndarray:
        finite = [np.bincount(tile.indices[~np.isfinite(tile.data)], minlength=tile.shape[1]) for tile in self.tiles]
        return np.concatenate(finite) == 0

    def dense(self) -> np.ndarray:
        return np.concatenate([tile.T.toarray() for tile in self.tiles]) - self.centre

    def _rows(self) -> list[slice]:
        """Which rows each tile has."""
        ends = np.cumsum([tile.shape[1] for tile in self.tiles]).tolist()
        return [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]

    def _pieces(self) -> list[tuple[int, int]]:
        """Ranges of the features with about as many entries each."""
        before = sum(tile.indptr for tile in self.tiles)
        cuts = np.searchsorted(before, np.linspace(0, before[-1], PIECES + 1)[1:-1]).tolist()
        cuts = sorted({0, *cuts, len(self.centre)})
        return list(itertools.pairwise(cuts))

    def _share(self, work: Callable[..., None], pieces: Sequence[tuple[Any, ...]], columns: int) -> None:
        """Do the work of each piece, which writes where no other does."""
        threads = min(_processors(), len(pieces))
        if threads == 1 or sum(tile.nnz for tile in self.tiles) * columns < SHARED:
            for piece in pieces:
                work(*piece)
            return
        with ThreadPoolExecutor(threads) as pool:  # with the caller's settings for errors, as NumPy has them
            for done in [pool.submit(contextvars.copy_context().run, work, *piece) for piece in pieces]:
                done.result()


def cut(csr: Any) -> tuple[Any, ...]:
    """The tiles of rows in CSR form."""
    num_rows, num_features = csr.shape
    size = max(TILE_ROWS, TILE_DENSITY * num_features * num_rows // max(1, csr.nnz))
    count = max(1, round(num_rows / size))
    ends = [num_rows * (i + 1) // count for i in range(count)]
    return tuple(csr[start:stop].T.tocsr() for start, stop in zip([0, *ends], ends, strict=False))


def in_dtype(X: Any, dtype: Any, scale: float = 1.0) -> Any:
    """X in CSR form with its values, times a power of two, in the dtype, on the same indices."""
    import scipy.sparse

    values = X.data if scale == 1 else X.data.astype(np.float64) * scale
    return scipy.sparse.csr_array((values.astype(dtype, copy=False), X.indices, X.indptr), shape=X.shape)


def _squared(csr: Any) -> Any:
    """The squares of what is stored; SciPy's own product of two arrays takes ten times as long."""
    return type(csr)((csr.data**2, csr.indices, csr.indptr), shape=csr.shape)


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
