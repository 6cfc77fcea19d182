"""What a table is once it has been read: columns of four kinds, or one array, and what else stands beside each row."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

ClassName = bool | int | float | str
Kind = Literal["number", "boolean", "date", "text"]
Missing = Literal["mean", "median", "most-frequent", "indicator", "drop-rows"]
MISSING: tuple[Missing, ...] = ("mean", "median", "most-frequent", "indicator", "drop-rows")


class Column(NamedTuple):
    """A column as it was read.

    Attributes:
      kind: what its values are.
      values: (N,). Of text int32, indices into `words`, −1 where a value is missing; else numbers of any real dtype,
        NaN where one is missing: booleans as 0 and 1, dates as days since 1970-01-01, UTC.
      words: the different texts.
    """

    kind: Kind
    values: np.ndarray
    words: tuple[str, ...] = ()

    def is_missing(self) -> np.ndarray:
        """Whether each row lacks its value, (N,)."""
        if self.kind == "text":
            return self.values < 0
        return np.isnan(self.values) if self.values.dtype.kind == "f" else np.zeros(len(self.values), bool)


class Table(NamedTuple):
    """Rows, and what their numbers stand for. Features are either columns or an array.

    Attributes:
      X: features (N, P) that came as an array, dense or SciPy's CSR, numbers as they were read; None for columns.
      columns: features that came as columns, by name and in the order of the file; None for an array.
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

    @property
    def num_rows(self) -> int:
        """N."""
        return len(next(iter(self.columns.values())).values) if self.columns is not None else self.X.shape[0]
