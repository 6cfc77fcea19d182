"""What a table is once it has been read: columns of a kind each, or one array, and what else stands beside each row."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from handgrad.streams import Fill, Pages

ClassName = bool | int | float | str
Kind = Literal["number", "boolean", "date", "day-first date", "month-first date", "text"]
DATES: tuple[Kind, ...] = ("date", "day-first date", "month-first date")
Missing = Literal["mean", "median", "most-frequent", "indicator", "drop-rows"]
MISSING: tuple[Missing, ...] = ("mean", "median", "most-frequent", "indicator", "drop-rows")


class Column(NamedTuple):
    """A column as it was read.

    Attributes:
      kind: what its values are; of dates as 03/04/2026 also which part is the day.
      values: (N,). Of text int32, indices into `words`, −1 where a value is missing; else numbers of any real dtype,
        NaN where one is missing: booleans as 0 and 1, dates as days since 1970-01-01, UTC.
      words: the different texts.
      grouping, sign: what stood between the thousands, and with each number, where they were texts.

    Example:
      >>> from handgrad.data import read_table
      >>> rows = {"town": ["Ulm", "Bonn", "Ulm", ""], "ill": ["no", "yes"] * 2}
      >>> table = read_table(rows, target="ill", missing="mean")
      >>> column = table.columns["town"]
      >>> column.kind, column.words, column.values.tolist(), column.is_missing().tolist()
      ('text', ('Ulm', 'Bonn'), [0, 1, 0, -1], [False, False, False, True])
    """

    kind: Kind
    values: np.ndarray
    words: tuple[str, ...] = ()
    grouping: str = ""
    sign: str = ""

    def is_missing(self) -> np.ndarray:
        """Whether each row lacks its value, (N,)."""
        if self.kind == "text":
            return self.values < 0
        return np.isnan(self.values) if self.values.dtype.kind == "f" else np.zeros(len(self.values), bool)


class Numbers(NamedTuple):
    """Features that are numbers, none of which is missing, as they are stored in their file.

    Attributes:
      dtype: that holds all of them.
      begin: begins a pass over the columns of these names, or over an array, whose columns have none: over the rows
        whose indices, ascending, are given. Of the file what is from the first to the last of them is read.
      pages: of an array that is mapped these rows, where they lie together; else None.
    """

    dtype: np.dtype
    begin: Callable[[Sequence[str] | None, np.ndarray], Fill]
    pages: Callable[[np.ndarray], Pages | None] = lambda _: None


class Filed(NamedTuple):
    """Features that stay in their file.

    Attributes:
      begin: begins a pass: tables of a few of the rows each, ascending, and nothing but their features; of the rows
        whose indices, ascending, are given. Of the file what is from the first to the last of them is read.
      keys: what each row is known by, as `table_keys` has it, (N,), uint64.
      kinds: of the columns, by name; None of an array.
      num_inputs: columns, those of an array too.
      numbers: the same rows, where nothing need be done to them but to read; else None.
      is_sparse: whether X is SciPy's CSR.
      is_held: whether what is encoded of them is kept in memory, of several processes the share of each.
    """

    begin: Callable[[np.ndarray], Iterator["Table"]]
    keys: np.ndarray
    kinds: Mapping[str, Kind] | None
    num_inputs: int
    numbers: Numbers | None = None
    is_sparse: bool = False
    is_held: bool = False

    def take(self, rows: np.ndarray) -> "Filed":
        """Some of the rows, ascending."""
        numbers = self.numbers
        if numbers is not None:
            every, pages = numbers.begin, numbers.pages
            numbers = numbers._replace(
                begin=lambda names, own: every(names, rows[own]), pages=lambda own: pages(rows[own])
            )
        return self._replace(
            begin=lambda own: self.begin(rows[own]),
            keys=self.keys[rows],
            numbers=numbers,
        )


class Table(NamedTuple):
    """Rows, and what their numbers stand for. Features are columns, or an array, or stay in their file.

    Attributes:
      X: features (N, P) that came as an array, dense or SciPy's CSR, numbers as they were read; else None.
      columns: features that came as columns, by name and in the order of the file; else None.
      labels: (N,), int32: indices into class_names; None where the data have no classes, as those to predict from.
      class_names: the classes, in the order a person would give them.
      target: the name of the column with the classes; None for arrays.
      image_shape: (H, W) or (H, W, channels) where a row of X is an image.
      missing: what is done where a feature has no value; None where none lacks one, or such rows are refused.
      weights: of the rows, (N,), float64.
      ids: columns that are passed through, as text (N,), by name.
      groups: (N,), int32: rows of one group are not independent of one another.
      times: (N,), float64: when each row was; later ones must not be trained on.
      left_out: names of columns that were there and are no features.
      notes: what was found out or decided in reading, a sentence each.
      first_index: what the first column is called in an .svmlight file, 0 or 1; None of other data.
      file: features that are read anew for each pass over them, as `stream_table` has it; else None.

    Example:
      >>> from handgrad.data import load_digits
      >>> digits = load_digits()
      >>> digits.num_rows, digits.X.shape, digits.labels[:4].tolist(), digits.image_shape
      (1797, (1797, 64), [0, 1, 2, 3], (8, 8))
    """

    X: Any = None
    columns: dict[str, Column] | None = None
    labels: np.ndarray | None = None
    class_names: tuple[ClassName, ...] = ()
    target: str | None = None
    image_shape: tuple[int, ...] | None = None
    missing: Missing | None = None
    weights: np.ndarray | None = None
    ids: Mapping[str, np.ndarray] = MappingProxyType({})
    groups: np.ndarray | None = None
    times: np.ndarray | None = None
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    first_index: int | None = None
    file: Filed | None = None

    @property
    def relative_weights(self) -> np.ndarray | None:
        """The weights divided by a power of two, exactly: the largest is near 1, and no sum of them overflows."""
        if self.weights is None or not self.weights.size:
            return self.weights
        return np.ldexp(self.weights, -int(np.frexp(self.weights.max())[1]))

    @property
    def is_sparse(self) -> bool:
        """Whether the features are sparse."""
        return self.file.is_sparse if self.file is not None else hasattr(self.X, "indptr")

    @property
    def num_rows(self) -> int:
        """N."""
        if self.file is not None:
            return len(self.file.keys)
        return len(next(iter(self.columns.values())).values) if self.columns is not None else self.X.shape[0]

    def take(self, rows: np.ndarray) -> "Table":
        """The features of some of the rows, ascending, and nothing else."""
        if self.file is not None:
            return Table(file=self.file.take(rows), image_shape=self.image_shape)
        if self.columns is None:
            return Table(self.X[rows], image_shape=self.image_shape)
        return Table(columns={name: own._replace(values=own.values[rows]) for name, own in self.columns.items()})
