"""A table that processes read together, each its share of the rows: what each finds, put together."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from handgrad import processes
from handgrad.data.encoding import Encoding, stream_rows
from handgrad.data.tables import Table
from handgrad.streams import Stream, of_blocks

SENT_BYTES = 2**24  # of rows that a process sends to the others at once


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


def encode_for_all(encoding: Encoding, table: Table) -> Stream:
    """X of a table in its file, all rows of it for each process: each reads some of them and sends them to the others.

    What a process has read it keeps, where the table is to be held.
    """
    assert table.file is not None
    file, num_rows, num_features = table.file, table.num_rows, len(encoding.offset)
    size = max(1, min(SENT_BYTES // (4 * num_features), -(-num_rows // processes.count())))
    kept: dict[int, np.ndarray] = {}

    def own(first: int) -> np.ndarray:
        begin = min(num_rows, first + processes.index() * size)
        rows = np.arange(begin, min(num_rows, begin + size))
        X = np.zeros((size, num_features), np.float32)
        X[: len(rows)] = stream_rows(encoding, file, rows).in_memory()
        return X

    def blocks() -> Iterator[np.ndarray]:
        for first in range(0, num_rows, size * processes.count()):
            X = kept[first] if first in kept else own(first)
            if file.is_held:
                kept[first] = X
            yield processes.gather(X).reshape(-1, num_features)[: num_rows - first]

    return of_blocks("encode", (num_rows, num_features), np.dtype(np.float32), blocks)
