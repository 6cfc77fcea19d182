"""Rows that are read anew, block after block, for each pass over them."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

Fill = Callable[[np.ndarray], int]  # puts the next rows into an array; how many there were, fewer only at the end


@dataclasses.dataclass(frozen=True)  # and no tuple, which would be a list of rows
class Stream:
    """Rows that are read for each pass.

    Attributes:
      shape: (N, P).
      dtype: of what is read.
      begin: begins a pass.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    begin: Callable[[], Fill]

    @property
    def size(self) -> int:
        """N·P."""
        return self.shape[0] * self.shape[1]

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """The rows, so many at a time, while the next ones are read; a block is the caller's until the next."""
        buffers = [np.empty((rows, self.shape[1]), self.dtype) for _ in range(2)]
        fill = self.begin()
        with ThreadPoolExecutor(1) as reader:
            future = reader.submit(fill, buffers[0])
            while count := future.result():
                block = buffers[0][:count]
                buffers.reverse()
                future = reader.submit(fill, buffers[0])
                yield block


def of_blocks(
    function: str, shape: tuple[int, int], dtype: np.dtype, begin: Callable[[], Iterator[np.ndarray]]
) -> Stream:
    """A stream of blocks (n, P) of any sizes, which begin anew where they are asked for."""
    return Stream(shape, dtype, lambda: _filler(function, shape, begin()))


def _filler(function: str, shape: tuple[int, int], blocks: Iterator[np.ndarray]) -> Fill:
    """Puts the rows of blocks of any size together."""
    rest = np.empty((0, shape[1]))
    seen = 0

    def fill(array: np.ndarray) -> int:
        nonlocal rest, seen
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
        seen += count
        if seen > shape[0] or (count < len(array) and seen != shape[0]):
            raise ValueError(
                f"{function}: a source must give the same rows in each pass; got {shape[0]} in the first and "
                f"{'more' if seen > shape[0] else seen} in a later one."
            )
        return count

    return fill
