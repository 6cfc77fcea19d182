"""Arrays in files that are mapped: read where they lie, and without filling the memory with their pages."""

import dataclasses
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from handgrad.streams import Fill, Pages, Stream

POPULATE = 22  # MADV_POPULATE_READ, from Linux 5.14 on
PIECE_BYTES = 2**24  # of a file, whose pages are in memory at once where rows are copied


def of_mapped(X: np.memmap) -> Stream:
    """A stream of a memory map (N, P)."""
    pages = pages_of(X)
    return Stream(X.shape, X.dtype, lambda: filling_from(pages), pages=pages if X.flags.c_contiguous else None)


def pages_of(X: np.memmap) -> Pages:
    """A memory map whose pages are brought into memory for a reading, and those that were read are let go."""
    held: Any = getattr(X, "_mmap", None)
    if X.mode == "c" or not hasattr(held, "madvise"):  # what a copy on write has written is in no file
        held = None
    start_of_map = 0 if held is None else np.frombuffer(held, np.uint8).ctypes.data

    def advise(advice: int, start: int, end: int) -> None:
        if held is not None and start < end:
            low, high = (place - start_of_map for place in np.lib.array_utils.byte_bounds(X[start:end]))
            low -= low % mmap.PAGESIZE
            held.madvise(advice, low, min(high, len(held)) - low)

    def bring(start: int, end: int) -> None:
        try:
            advise(POPULATE, start, end)
        except OSError:  # not of every system; a number of each page does it too
            bytes_ = X[start:end].reshape(-1).view(np.uint8)
            bytes_[:: mmap.PAGESIZE].max(initial=0)

    def let_go(start: int, end: int) -> None:
        advise(mmap.MADV_DONTNEED, start, end)

    return Pages(np.asarray(X), bring, let_go)


def sameness_of(X: np.memmap) -> Callable[[], bool]:
    """What tells whether a file still has its size, and what is before the array: where it ends too soon a reading of
    its pages would be the end of the process.
    """
    held: Any = X._mmap  # type: ignore[attr-defined]
    size, header = held.size(), slice(0, X.offset % mmap.ALLOCATIONGRANULARITY)
    before = held[header]
    return lambda: held.size() == size and held[header] == before


def watched(pages: Pages, watch: Callable[[int, int], Any]) -> Pages:
    """Pages that are looked at as they are brought: watch(start, end) is called before."""

    def bring(start: int, end: int) -> None:
        watch(start, end)
        pages.bring(start, end)

    return dataclasses.replace(pages, bring=bring)


def part_of(pages: Pages, start: int, end: int) -> Pages:
    """Of the rows those from one to another."""
    return Pages(
        pages.rows[start:end],
        lambda first, last: pages.bring(start + first, start + last),
        lambda first, last: pages.let_go(start + first, start + last),
    )


def filling_from(pages: Pages, chosen: np.ndarray | None = None) -> Fill:
    """A pass over the rows, or over those with some indices, ascending, in which they are copied."""
    rows = pages.rows
    chosen = np.arange(len(rows)) if chosen is None else chosen
    at_once = max(1, PIECE_BYTES // max(1, rows[:1].nbytes))
    place = 0

    def fill(array: np.ndarray) -> int:
        nonlocal place
        count = 0
        while count < len(array) and place < len(chosen):
            own = chosen[place : place + len(array) - count]
            start = int(own[0])
            own = own[: np.searchsorted(own, start + at_once)]
            end = int(own[-1]) + 1
            into = array[count : count + len(own)]
            if rows.flags.c_contiguous:
                pages.bring(start, end)
            if end - start == len(own):
                into[:] = rows[start:end]
            else:
                np.take(rows, own, axis=0, out=into, mode="clip")
            pages.let_go(start, end)
            place, count = place + len(own), count + len(own)
        return count

    return fill
