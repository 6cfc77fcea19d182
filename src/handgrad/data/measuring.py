"""The encoding of a table, measured on the rows to train on."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from handgrad import processes
from handgrad.data.encoding import Encoding, Input
from handgrad.data.moments import Moments, blocks_of, measure
from handgrad.data.naming import join, natural_key
from handgrad.data.tables import Column, Kind, Table

MOST_TALLIED = 2**20  # different numbers in a column of a file, of which the median can be found


def fit_encoding(table: Table, rows: np.ndarray | None = None) -> Encoding:
    """The encoding of a table, measured on some rows of it.

    - Numbers, booleans and dates get mean 0 and standard deviation 1, missing values filled in; columns that are the
      same in all rows are left out. Constant entries of an array become 0.
    - The pixels of an image share a unit, and how much one of them varies means something: they are brought to [0, 1]
      by one common offset and scale.
    - Sparse features are not centred, so that they stay sparse: each is divided by its largest magnitude.
    - A text becomes one feature for each of its words, 1 where the row has that word. Zeros and ones stay as they are.

    A missing number is filled by the mean, the median or the most frequent number, a missing text by the most frequent
    word; with "indicator" by the mean, and a feature says where that was done: for a text one more beside its words.

    Args:
      table: the table; what is done where a value is missing stands in `table.missing`.
      rows: indices of the rows to measure, those to train on; all if None.

    Returns:
      Encoding.

    Raises:
      ValueError: no column has two values, or one has none at all.

    Example:
      >>> from handgrad.data import encode
      >>> age, town = Column("number", np.array([20.0, 40.0])), Column("text", np.array([1, 0]), ("Bonn", "Ulm"))
      >>> encoding = fit_encoding(Table(columns={"age": age, "town": town}))
      >>> encoding.feature_names
      ('age', 'town=Bonn', 'town=Ulm')
      >>> encode(encoding, Table(columns={"age": age, "town": town})).X.tolist()
      [[-1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    seen = _look(table, rows) if table.file is None else _read(table, rows)
    if seen.kinds is None:
        return _of_array(table, seen)
    place = {name: index for index, name in enumerate(name for name, kind in seen.kinds.items() if kind != "text")}
    parts = [
        _of_text(table.missing, name, seen.words[name])
        if kind == "text"
        else _of_number(table.missing, name, kind, seen, place[name])
        for name, kind in seen.kinds.items()
    ]
    kept = [part for part in parts if part is not None]
    if not kept:
        raise ValueError(
            f"each of the columns {join(list(seen.kinds))} has one value in all rows to train on; there is nothing "
            "to learn from."
        )
    inputs, fill, indicated, offset, scale = zip(*kept, strict=True)
    constant = [name for name, part in zip(seen.kinds, parts, strict=True) if part is None]
    zeros, ones = np.zeros(sum(indicated)), np.ones(sum(indicated))
    return Encoding(
        inputs=inputs,
        missing=table.missing,
        left_out=(*table.left_out, *constant),
        image_shape=None,
        first_index=None,
        fill=np.array(fill, np.float64),
        has_indicator=np.array(indicated),
        offset=np.concatenate([*offset, zeros]),
        scale=np.concatenate([*scale, ones]),
    )


def constant_columns(encoding: Encoding, table: Table) -> tuple[str, ...]:
    """The columns of the table that the encoding left out since they have one value in all rows to train on."""
    names = (table.columns or {}) if table.file is None else table.file.kinds or {}
    return tuple(name for name in encoding.left_out if name in names)


# --- What is seen of the rows to train on -----------------------------------------------------------------------------


class _Words(NamedTuple):
    counts: dict[str, int]  # the rows that have each, none of them 0
    missing: int

    def joined(self, other: "_Words") -> "_Words":
        """With those of other rows added to it."""
        self.counts.update({word: self.counts.get(word, 0) + count for word, count in other.counts.items()})
        return _Words(self.counts, self.missing + other.missing)


class _Seen(NamedTuple):
    """What an encoding follows from.

    Attributes:
      kinds: of the columns, by name; None of an array.
      moments: of the columns of numbers, in their order.
      words: of the columns of text, by name.
      fill: what stands for a missing value in the column of numbers with this index.
    """

    kinds: Mapping[str, Kind] | None
    moments: Moments
    words: dict[str, _Words]
    fill: Callable[[int], float]


def _look(table: Table, rows: np.ndarray | None) -> _Seen:
    """In memory."""
    columns = table.columns
    if table.is_sparse:
        return _of_largest(_largest(table.X if rows is None else table.X[rows]))
    numbers = table.X if columns is None else [column.values for column in columns.values() if column.kind != "text"]
    moments = measure(blocks_of(numbers, rows), table.X.shape[1] if columns is None else len(numbers))

    def fill(index: int) -> float:
        values = numbers[:, index] if isinstance(numbers, np.ndarray) else numbers[index]
        values = values if rows is None else values[rows]
        if table.missing == "median":
            return float(np.nanmedian(values.astype(np.float64)))
        different, counts = np.unique(values[~np.isnan(values)], return_counts=True)
        return float(different[np.argmax(counts)])

    texts = {name: column for name, column in (columns or {}).items() if column.kind == "text"}
    kinds = None if columns is None else {name: column.kind for name, column in columns.items()}
    return _Seen(kinds, moments, {name: _count(column, rows) for name, column in texts.items()}, fill)


def _largest(X: Any) -> np.ndarray:
    """The largest magnitude of each sparse feature."""
    return abs(X).max(axis=0).toarray().astype(np.float64).ravel()


def _of_largest(largest: np.ndarray) -> _Seen:
    zeros = np.zeros(len(largest))
    return _Seen(None, Moments(zeros, zeros, zeros, largest, zeros, largest), {}, lambda _: np.nan)


def _count(column: Column, rows: np.ndarray | None) -> _Words:
    codes = column.values if rows is None else column.values[rows]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.words))
    known = np.flatnonzero(counts).tolist()
    return _Words({column.words[code]: int(counts[code]) for code in known}, int(np.count_nonzero(codes < 0)))


def _read(table: Table, rows: np.ndarray | None) -> _Seen:
    """In one pass over a file, in which each process measures its share of the rows."""
    assert table.file is not None
    begin, kinds = table.file.begin, table.file.kinds
    rows = np.arange(table.num_rows) if rows is None else rows
    rows = rows[processes.share(len(rows))]
    if table.is_sparse:
        largest = np.zeros(table.file.num_inputs)
        for block in begin(rows):
            np.maximum(largest, _largest(block.X), out=largest)
        return _of_largest(processes.gather(largest).max(axis=0))
    words = {name: _Words({}, 0) for name, kind in (kinds or {}).items() if kind == "text"}
    num_numbers = table.file.num_inputs - len(words)
    is_tallied = table.missing in ("median", "most-frequent")
    tallies = [(np.empty(0), np.empty(0, np.int64))] * (num_numbers if is_tallied else 0)

    def numbers_of(block: Table) -> Any:
        if block.columns is None:
            return block.X
        for name in words:
            words[name] = words[name].joined(_count(block.columns[name], None))
        return [column.values for column in block.columns.values() if column.kind != "text"]

    def blocks() -> Iterator[tuple[slice, np.ndarray]]:
        for block in begin(rows):
            for columns, values in blocks_of(numbers_of(block), None):
                for index, own in zip(range(len(tallies))[columns], values, strict=is_tallied):
                    tallies[index] = _tally(tallies[index], *np.unique(own[~np.isnan(own)], return_counts=True))
                yield columns, values

    def fill(index: int) -> float:
        different, counts = tallies[index]
        if table.missing == "most-frequent":
            return float(different[np.argmax(counts)])
        until = np.cumsum(counts)
        middle = np.searchsorted(until, [(until[-1] - 1) // 2, until[-1] // 2], side="right")
        return float(different[middle].mean())

    every = processes.gather_values((measure(blocks(), num_numbers), words, tallies))
    moments, words, tallies = every[0]
    for of_moments, of_words, of_tallies in every[1:]:
        moments = moments.joined(of_moments)
        words = {name: own.joined(of_words[name]) for name, own in words.items()}
        tallies = [_tally(own, *others) for own, others in zip(tallies, of_tallies, strict=True)]
    return _Seen(kinds, moments, words, fill)


def _tally(
    before: tuple[np.ndarray, np.ndarray], own: np.ndarray, own_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How often there is each value, with some more of them."""
    different, place = np.unique(np.concatenate([before[0], own]), return_inverse=True)
    if len(different) > MOST_TALLIED:
        raise ValueError(
            f"a column of numbers has more than {MOST_TALLIED:,} different ones, of which neither the median nor the "
            "most frequent is found in passes over a file. Take --missing mean or indicator."
        )
    return different, np.bincount(place, np.concatenate([before[1], own_counts])).astype(np.int64)


# --- What follows from it ---------------------------------------------------------------------------------------------

_Part = tuple[Input, float, bool, np.ndarray, np.ndarray]


def _of_text(missing: str | None, name: str, words: _Words) -> _Part | None:
    known = sorted(words.counts, key=natural_key)
    indicated = missing == "indicator" and words.missing > 0
    if len(known) + indicated < 2:
        return None
    fill = np.nan
    if missing in ("mean", "median", "most-frequent"):
        fill = float(np.argmax([words.counts[word] for word in known]))
    return Input(name, "text", tuple(known)), fill, indicated, np.zeros(len(known)), np.ones(len(known))


def _of_number(missing: str | None, name: str, kind: Kind, seen: _Seen, index: int) -> _Part | None:
    moments = seen.moments.at(index)
    if not moments.count:
        raise ValueError(f"column {name!r} has no value in any row to train on; --drop {name} leaves it out.")
    indicated = missing == "indicator" and moments.missing > 0
    if moments.low == moments.high and not indicated:
        return None
    fill = _fill(missing, seen, index)
    filled = moments if np.isnan(fill) else moments.filled(fill)
    return Input(name, kind), fill, indicated, np.array([filled.mean]), np.array([filled.scale()])


def _fill(missing: str | None, seen: _Seen, index: int) -> float:
    if missing in ("mean", "indicator"):
        return float(seen.moments.mean[index])
    return seen.fill(index) if missing in ("median", "most-frequent") else np.nan


def _of_array(table: Table, seen: _Seen) -> Encoding:
    moments, num_inputs = seen.moments, len(seen.moments.mean)
    indicated = np.zeros(num_inputs, bool)
    fill = np.full(num_inputs, np.nan)
    if table.is_sparse:
        offset, scale = np.zeros(num_inputs), 1 / np.where(moments.high > 0, moments.high, 1)
    else:
        if not moments.count.all():
            column = int(np.argmin(moments.count))
            raise ValueError(f"column {column + 1} of the features has no value in any row to train on. Leave it out.")
        fill = np.array([_fill(table.missing, seen, index) for index in range(num_inputs)])
        if table.missing == "indicator":
            indicated = moments.missing > 0
        filled = moments if np.isnan(fill).any() else moments.filled(fill)
        if table.image_shape is not None:
            lowest, highest = float(filled.low.min()), float(filled.high.max())
            offset = np.full(num_inputs, lowest)
            scale = np.full(num_inputs, 1 / (highest - lowest) if highest > lowest else 1.0)
        else:
            offset, scale = filled.mean, filled.scale()
    more = int(indicated.sum())
    return Encoding(
        inputs=None,
        missing=table.missing,
        left_out=table.left_out,
        image_shape=table.image_shape,
        first_index=table.first_index,
        fill=fill,
        has_indicator=indicated,
        offset=np.concatenate([offset, np.zeros(more)]),
        scale=np.concatenate([scale, np.ones(more)]),
    )
