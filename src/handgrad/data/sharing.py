"""A table that processes read together, each its share of the rows: what each finds, put together."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from handgrad import processes
from handgrad.data.encoding import Encoding, stream_rows
from handgrad.data.tables import Table
from handgrad.sparse_streams import dense
from handgrad.streams import Stream, of_blocks

DEALT_BYTES = 2**26  # of rows of which each process has a share
READ_BYTES = 2**22  # of rows that are read at once


def own_rows(num_rows: int) -> tuple[int, int | None]:
    """The rows that this process looks at; what is after so many rows, if anything is, the last one does."""
    own = processes.share(num_rows)
    return own.start, None if processes.index() == processes.count() - 1 else own.stop


def joined_arrays(arrays: list[np.ndarray], dtype: Any) -> np.ndarray:
    """The arrays of this process, and of the others, one after the other."""
    own = np.concatenate([np.empty(0, dtype), *arrays])
    return np.concatenate(processes.gather_values(own))


def of_all_processes(
    lacking: dict[str, tuple[int, int]], present: dict[str, int], words: dict[str, dict[str, None]]
) -> tuple[dict[str, tuple[int, int]], dict[str, int], dict[str, dict[str, None]]]:
    """What is known of the columns, put together in the order of the rows."""
    (lacking, present, words), *others = processes.gather_values((lacking, present, words))
    for of_lacking, of_present, of_words in others:
        for name, (count, row) in of_lacking.items():
            before = lacking.get(name, (0, row))
            lacking[name] = before[0] + count, before[1]
        present = {name: count + of_present[name] for name, count in present.items()}
        for name, own in of_words.items():
            words.setdefault(name, {}).update(own)
    return lacking, present, words


def encode_dealt(encoding: Encoding, table: Table) -> Stream:
    """X of a table in its file, of every few rows that follow one another some for each process.

    So each of them has about as many rows of a batch as the others, whatever rows these are drawn from.
    """
    assert table.file is not None
    file, num_rows, num_features = table.file, table.num_rows, len(encoding.offset)
    period = max(1, DEALT_BYTES // (4 * num_features))
    owners = processes.dealt(num_rows, period)
    own = np.flatnonzero(owners == processes.index())
    shape = len(own), num_features

    def blocks() -> Iterator[np.ndarray]:
        for rows in np.split(own, np.searchsorted(own, range(period, num_rows, period))):
            yield from dense(stream_rows(encoding, file, rows)).blocks(max(1, READ_BYTES // (4 * num_features)))

    if file.is_held:
        X = of_blocks("encode", shape, np.dtype(np.float32), blocks).in_memory()
        stream = of_blocks("encode", shape, np.dtype(np.float32), lambda: iter([X]))
    else:
        stream = of_blocks("encode", shape, np.dtype(np.float32), blocks)
    return dataclasses.replace(stream, shape=(num_rows, num_features), owners=owners)
