"""Rows that are read anew, block after block, for each pass over them."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

Fill = Callable[[np.ndarray], int]  # puts the next rows into an array; how many there were, fewer only at the end
Item = TypeVar("Item")

PIECE_VALUES = 2**17  # that are scaled at once: 1 MB of float64, which stays in the cache


@dataclasses.dataclass(frozen=True)  # and no tuple, which would be a list of rows
class Stream:
    """Rows that are read for each pass: (x − offset)·scale of what is stored.

    What sums over the rows does so about a centre anyway: offset and scale become part of that, and cost nothing.

    Attributes:
      shape: (N, P).
      dtype: of the rows.
      begin: begins a pass over what is stored.
      stored: its dtype; that of the rows if None.
      offset, scale: (P,), float64; None where the rows are what is stored.
      refuse: called with a row and a column where what is scaled is too large for the dtype, or no number; raises.
      pages: where all of it lies in a file that is mapped, that array, and what brings rows of it into memory or lets
        them go.
      owners: (N,), of rows that processes share, which process has each; what is read are those of this process.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    begin: Callable[[], Fill]
    stored: np.dtype | None = None
    offset: np.ndarray | None = None
    scale: np.ndarray | None = None
    refuse: Callable[[int, int], Any] | None = None
    pages: "Pages | None" = None
    owners: np.ndarray | None = None

    @property
    def size(self) -> int:
        """N·P."""
        return self.shape[0] * self.shape[1]

    @property
    def stored_dtype(self) -> np.dtype:
        """Of what is read."""
        return self.dtype if self.stored is None else self.stored

    def about(self, centre: Any = 0.0, scale: float = 1.0) -> tuple[Any, Any]:
        """The offset and scale, from what is stored, of rows about a centre and at a scale."""
        if self.offset is None or self.scale is None:
            return centre, scale
        return self.offset + centre / self.scale, self.scale * scale

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """The rows, so many at a time, while the next ones are read; a block is the caller's until the next."""
        scaled, start = None if self.offset is None else np.empty((rows, self.shape[1]), self.dtype), 0
        for block in self.stored_blocks(rows):
            yield self.of_stored(block, start + np.arange(len(block)), scaled)
            start += len(block)

    def of_stored(self, stored: np.ndarray, numbers: np.ndarray, into: np.ndarray | None = None) -> np.ndarray:
        """Rows of what is stored with these numbers; where they are scaled the first of an array, or a new one."""
        if self.offset is None:
            return stored
        into = np.empty(stored.shape, self.dtype) if into is None else into[: len(stored)]
        scale_rows(stored, *self.about(), into)
        if self.refuse is not None and not np.isfinite(np.add.reduce(into, axis=None, dtype=np.float64)):
            row, column = np.argwhere(~np.isfinite(into))[0]
            self.refuse(int(numbers[row]), int(column))
        return into

    def in_memory(self) -> np.ndarray:
        """All of the rows."""
        array, start = np.empty(self.shape, self.dtype), 0
        for block in self.blocks(max(1, PIECE_VALUES // self.shape[1])):
            array[start : start + len(block)] = block
            start += len(block)
        return array

    def stored_blocks(self, rows: int) -> Iterator[np.ndarray]:
        """As `blocks`, of what is stored."""
        buffers = [np.empty((rows, self.shape[1]), self.stored_dtype) for _ in range(2)]
        fill = self.begin()
        with ThreadPoolExecutor(1) as reader:
            future = reader.submit(fill, buffers[0])
            while count := future.result():
                block = buffers[0][:count]
                buffers.reverse()
                future = reader.submit(fill, buffers[0])
                yield block


@dataclasses.dataclass(frozen=True)
class Pages:
    """An array in a file that is mapped."""

    rows: np.ndarray
    bring: Callable[[int, int], None]  # from a row to another, the latter not included
    let_go: Callable[[int, int], None]


def scale_rows(rows: np.ndarray, offset: Any, scale: Any, into: np.ndarray) -> None:
    """(x − offset)·scale, taken in float64 and rounded once."""
    step = max(1, PIECE_VALUES // rows.shape[1])
    wide = np.empty((min(step, len(rows)), rows.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            own = wide[: len(some)]
            np.subtract(some, offset, out=own)
            own *= scale
            into[start : start + step] = own


def of_blocks(
    function: str, shape: tuple[int, int], dtype: np.dtype, begin: Callable[[], Iterator[np.ndarray]], **about: Any
) -> Stream:
    """A stream of blocks (n, P) of any sizes, which begin anew where they are asked for."""
    return Stream(shape, dtype, lambda: filling(function, shape, begin()), **about)


def filling(function: str, shape: tuple[int, int], blocks: Iterator[np.ndarray]) -> Fill:
    """Puts the rows of blocks of any size together."""
    rest = np.empty((0, shape[1]))

    def fill(array: np.ndarray) -> int:
        nonlocal rest
        count = 0
        while count < len(array):
            if not len(rest):
                block = next(blocks, None)
                if block is None:
                    break
                rest = block
                if rest.shape[1] != shape[1]:
                    raise ValueError(f"{function}: a source must give the same rows in each pass; got other columns.")
            take = min(len(array) - count, len(rest))
            array[count : count + take] = rest[:take]
            rest, count = rest[take:], count + take
        return count

    return same_rows(function, shape[0], fill)


def same_rows(function: str, num_rows: int, fill: Fill) -> Fill:
    """A pass that must have so many rows."""
    seen = 0

    def fill_same(array: np.ndarray) -> int:
        nonlocal seen
        count = fill(array)
        seen += count
        if seen > num_rows or (count < len(array) and seen != num_rows):
            raise other_rows(function, num_rows, seen)
        return count

    return fill_same


def other_rows(function: str, num_rows: int, seen: int) -> ValueError:
    """What is raised where a later pass has other rows than the first."""
    return ValueError(
        f"{function}: a source must give the same rows in each pass; got {num_rows} in the first and "
        f"{'more' if seen > num_rows else seen} in a later one."
    )


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each of which is made while the one before is used."""
    with ThreadPoolExecutor(1) as maker:
        future = maker.submit(next, items, None)
        while (item := future.result()) is not None:
            future = maker.submit(next, items, None)
            yield item


def chosen(fill: Fill, rows: np.ndarray, num_features: int, dtype: np.dtype) -> Fill:
    """Of a pass the rows with these indices, ascending."""
    read = np.empty((max(1, PIECE_VALUES // num_features), num_features), dtype)
    start, end, place = 0, 0, 0  # of what is read, and of the indices

    def fill_chosen(array: np.ndarray) -> int:
        nonlocal start, end, place
        count = 0
        while count < len(array) and place < len(rows):
            if rows[place] >= end:
                start, end = end, end + fill(read)
                if start == end:
                    break
                continue
            own = rows[place : place + len(array) - count]
            own = own[: np.searchsorted(own, end)] - start
            np.take(read, own, axis=0, out=array[count : count + len(own)], mode="clip")
            count, place = count + len(own), place + len(own)
        return count

    return fill_chosen
