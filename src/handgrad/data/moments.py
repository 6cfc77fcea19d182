"""Count, mean and variance of each column, from one reading of the numbers, exact where sums of squares are not."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK_VALUES = 2**18  # 2 MB, which stay in the cache
BLOCK_COLUMNS = 64


class Moments(NamedTuple):
    """Of each column; all arrays (P,), float64, or numbers where they are of one column.

    Attributes:
      count: how many values there are.
      missing: how many are missing.
      mean: of those that are there.
      deviation: their standard deviation.
      low, high: the least and the largest.
      above: the mean less the least, where it was measured: of large numbers that differ little it has more digits.
    """

    count: Any
    missing: Any
    mean: Any
    deviation: Any
    low: Any
    high: Any
    above: Any = None

    def at(self, index: int) -> "Moments":
        """Those of one column."""
        return Moments(*(field[index] for field in self))

    def filled(self, fill: Any) -> "Moments":
        """The moments where every missing value is `fill`."""
        rows = self.count + self.missing
        share = self.missing / rows
        away = np.where(share > 0, fill - self.mean, 0.0)
        return Moments(
            count=rows,
            missing=0 * self.missing,
            mean=self.mean + away * share,
            deviation=np.hypot(self.deviation * np.sqrt(1 - share), away * np.sqrt(share * (1 - share))),
            low=np.where(share > 0, np.minimum(self.low, fill), self.low),
            high=np.where(share > 0, np.maximum(self.high, fill), self.high),
            above=self.above + away * share + np.where(share > 0, np.maximum(self.low - fill, 0), 0),
        )

    def joined(self, other: "Moments") -> "Moments":
        """Those of other values too, put together as `measure` does with its blocks."""
        rows = self.count + other.count
        n, one, two = np.maximum(rows, 1), self.count, other.count
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            shift = (other.low - self.low) + (other.above - self.above)
            shift = np.where((one > 0) & (two > 0), shift, 0.0)
            mean = np.where(one > 0, self.mean + shift * (two / n), other.mean)
            own = np.hypot(self.deviation * np.sqrt(one / n), other.deviation * np.sqrt(two / n))
            deviation = np.hypot(own, shift * np.sqrt((one / n) * (two / n)))
            low, high = np.fmin(self.low, other.low), np.fmax(self.high, other.high)
            above = np.where(one > 0, self.above + (self.low - low) + shift * (two / n), other.above)
        return Moments(rows, self.missing + other.missing, mean, deviation, low, high, above)

    def scale(self) -> Any:
        """1 / the standard deviation; 1 where all values are one, or rounding leaves nothing of their difference."""
        return 1 / np.where((self.deviation > 0) & (self.high > self.low), self.deviation, 1.0)


def blocks_of(X: np.ndarray | Sequence[np.ndarray], rows: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray]]:
    """The numbers in blocks that fit the cache: which columns, and their values in float64, a column to a row.

    Args:
      X: an array (N, P), or P columns (N,).
      rows: which rows; all if None.
    """
    if isinstance(X, np.ndarray):
        num_rows = X.shape[0] if rows is None else len(rows)
        step = max(BLOCK_VALUES // max(X.shape[1], 1), 1)
        for start in range(0, num_rows, step):
            block = X[start : start + step] if rows is None else X[rows[start : start + step]]
            yield slice(0, X.shape[1]), block.astype(np.float64).T
        return
    for first in range(0, len(X), BLOCK_COLUMNS):
        columns = [column if rows is None else column[rows] for column in X[first : first + BLOCK_COLUMNS]]
        step = BLOCK_VALUES // len(columns)
        for start in range(0, len(columns[0]), step):
            block = np.stack([column[start : start + step] for column in columns], dtype=np.float64, casting="unsafe")
            yield slice(first, first + len(columns)), block


def measure(blocks: Iterator[tuple[slice, np.ndarray]], num_columns: int) -> Moments:
    """The moments of P columns.

    Each block is measured from the first value of its column, and about its own mean: the mean and the variance of
    values such as 1e9 + 0.001·i lose every digit otherwise, and a constant column comes out as exactly 0. Blocks are
    put together as Chan, Golub and LeVeque do ("Updating formulae and a pairwise algorithm for computing sample
    variances", 1979): with δ the difference of two means, n = n₁ + n₂,

        mean = mean₁ + δ n₂/n        squares = squares₁ + squares₂ + δ² n₁ n₂/n

    Where the range is so large or so small that its square is no number, all is in units of a power of two near it.
    """
    first = np.full(num_columns, np.nan)
    count, missing, mean, squares = (np.zeros(num_columns) for _ in range(4))
    low, high = np.full(num_columns, np.inf), np.full(num_columns, -np.inf)
    unit = np.ones(num_columns)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for columns, block in blocks:
            absent = np.isnan(block)
            has_absent = bool(absent.any())
            least, most = np.fmin.reduce(block, axis=1), np.fmax.reduce(block, axis=1)
            low[columns], high[columns] = np.fmin(low[columns], least), np.fmax(high[columns], most)
            _renew_units(columns, low, high, unit, mean, squares)
            origin = first[columns]
            unknown = np.isnan(origin)
            if unknown.any():
                origin = np.where(unknown, least, origin)
                first[columns] = origin
            away = (block - np.where(np.isnan(origin), 0, origin)[:, None]) / unit[columns][:, None]
            if has_absent:
                away[absent] = 0
            gone = absent.sum(axis=1) if has_absent else 0
            here = block.shape[1] - gone
            own = away.sum(axis=1) / np.maximum(here, 1)
            away -= own[:, None]
            if has_absent:
                away[absent] = 0
            total = count[columns] + here
            shift = own - mean[columns]
            squares[columns] += np.einsum("ij,ij->i", away, away) + shift**2 * count[columns] * here / np.maximum(
                total, 1
            )
            mean[columns] += shift * here / np.maximum(total, 1)
            count[columns] = total
            missing[columns] += gone
        deviation = np.sqrt(squares / np.maximum(count, 1)) * unit
        return Moments(count, missing, first + mean * unit, deviation, low, high, (first - low) + mean * unit)


def _renew_units(
    columns: slice, low: np.ndarray, high: np.ndarray, unit: np.ndarray, mean: np.ndarray, squares: np.ndarray
) -> None:
    """Let the unit be a power of two near the range, where the range is such that its square is no longer exact."""
    spread = high[columns] - low[columns]
    exponent = np.frexp(np.where(np.isfinite(spread) & (spread > 0), spread, 1.0))[1]
    wanted = np.where(np.abs(exponent) > 400, np.ldexp(1.0, np.clip(exponent, -1000, 1000)), 1.0)
    ratio = unit[columns] / wanted
    mean[columns] *= ratio
    squares[columns] = squares[columns] * ratio * ratio  # not their square, which may be infinite
    unit[columns] = wanted
