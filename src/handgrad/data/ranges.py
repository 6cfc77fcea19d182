"""Which rows of a file are read, where that is not all of them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from handgrad.data.sources import Source

PIECE = 2**24  # bytes that are looked at for the ends of lines
STEP = 2**12  # rows, of which the first one's place in the file is kept


class Range(NamedTuple):
    """Rows from one on up to another, or to the end if None."""

    first: int
    last: int | None

    def meets(self, start: int, num_rows: int) -> bool:
        """Whether it has any of so many rows that begin there."""
        return start + num_rows > self.first and (self.last is None or start < self.last)

    def of(self, start: int, num_rows: int) -> tuple[int, int]:
        """Which of so many rows that begin there: from one, and how many."""
        begin = max(0, self.first - start)
        end = num_rows if self.last is None else min(num_rows, self.last - start)
        return begin, max(0, end - begin)


ALL = Range(0, None)


def placed(batches: Iterator[Any], start: int) -> Iterator[tuple[int, Any]]:
    """Batches and where each begins, the first of them there."""
    for batch in batches:
        yield start, batch
        start += len(batch)


def until(placed: Iterator[tuple[int, Any]], wished: Range) -> Iterator[tuple[int, Any]]:
    """Those that begin before the range has ended."""
    for start, batch in placed:
        if not wished.meets(start, len(batch)) and start >= wished.first:
            return
        yield start, batch


def find_rows(source: Source, num_rows: int) -> np.ndarray | None:
    """Where in the file every STEP-th row begins, and where the last one ends; None where lines do not tell."""
    starts, rest, at, row = list[int](), b"", 0, -1  # the line with the names is row −1
    with open(source.path, "rb") as file:
        piece = b"\n"
        while piece:
            piece = file.read(PIECE)
            text = np.frombuffer(rest + (piece or b"\n"), np.uint8)
            ends = np.flatnonzero(text == ord("\n")) + 1
            begins = np.append(0, ends)[:-1]
            lengths = ends - begins
            begins = begins[(lengths > 2) | ((lengths == 2) & (text[begins] != ord("\r")))]  # empty lines are no rows
            starts += (at + begins[(row + np.arange(len(begins))) % STEP == 0]).tolist()
            row, end = row + len(begins), int(ends[-1]) if ends.size else 0
            rest, at = text[end:].tobytes(), at + end
    return np.array([*starts, at]) if row == num_rows else None
