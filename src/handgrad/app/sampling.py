"""Rows of a table that stays in its file, brought into memory to be looked at one by one."""

from typing import NamedTuple

import numpy as np

from handgrad.data import Encoding, Part, Parts, Split, Table, encode
from handgrad.data.filed import read_rows

MOST_SAMPLED = 20_000  # rows trained on, and as many that test
MOST_VALUES = 2**25


class Sample(NamedTuple):
    """Some of the rows, in memory.

    Attributes:
      rows: which they are, ascending.
      table, split: of these rows alone.
      tested: which of the rows that test are among them, by their place in that part.
      is_whole: whether these are all that are trained on or test.
    """

    rows: np.ndarray
    table: Table
    split: Split
    tested: np.ndarray
    is_whole: bool


def part_of(table: Table, encoding: Encoding, rows: np.ndarray) -> Part:
    """Some rows of a table in its file, encoded, in memory."""
    some = read_rows(table, rows)
    assert some.labels is not None
    return Part(encode(encoding, some).X, some.labels, some.relative_weights)


def sample(table: Table, split: Split, tested: np.ndarray) -> Sample:
    """Rows evenly out of those trained on and of those that test; some places in the test are among them."""
    most = max(1, min(MOST_SAMPLED, MOST_VALUES // len(split.encoding.offset)))
    train, validation, test = split.rows
    train, validation = (part[:: -(-len(part) // most) or 1] for part in (train, validation))
    tested = np.union1d(np.arange(0, len(test), -(-len(test) // most) or 1), tested)
    test = test[tested]
    rows = np.union1d(np.union1d(train, validation), test)
    some = read_rows(table, rows)
    X, labels, weights = encode(split.encoding, some).X, some.labels, some.relative_weights
    assert labels is not None
    places = Parts(*(np.searchsorted(rows, part) for part in (train, validation, test)))
    trained, watched, tests = (Part(X[own], labels[own], None if weights is None else weights[own]) for own in places)
    is_whole = all(len(own) == len(part) for own, part in zip(places, split.rows, strict=True))
    return Sample(rows, some, Split(split.encoding, places, trained, watched, tests, split.notes), tested, is_whole)
