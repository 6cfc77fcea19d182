"""The encoding of a table, measured on the rows to train on."""

import numpy as np

from handgrad.data.encoding import Encoding, Input
from handgrad.data.moments import Moments, blocks_of, measure
from handgrad.data.naming import join, natural_key
from handgrad.data.tables import Column, Table


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
    if table.columns is None:
        return _fit_array(table, rows)
    numbers = {name: column for name, column in table.columns.items() if column.kind != "text"}
    moments = measure(blocks_of([column.values for column in numbers.values()], rows), len(numbers))
    by_name = {name: index for index, name in enumerate(numbers)}
    parts = [
        _fit_text(table, name, column, rows)
        if column.kind == "text"
        else _fit_number(table, name, column, rows, moments.at(by_name[name]))
        for name, column in table.columns.items()
    ]
    kept = [part for part in parts if part is not None]
    if not kept:
        raise ValueError(
            f"each of the columns {join(list(table.columns))} has one value in all rows to train on; there is nothing "
            "to learn from."
        )
    inputs, fill, indicated, offset, scale = zip(*kept, strict=True)
    constant = [name for name, part in zip(table.columns, parts, strict=True) if part is None]
    zeros, ones = np.zeros(sum(indicated)), np.ones(sum(indicated))
    return Encoding(
        inputs=inputs,
        missing=table.missing,
        left_out=(*table.left_out, *constant),
        image_shape=None,
        fill=np.array(fill, np.float64),
        has_indicator=np.array(indicated),
        offset=np.concatenate([*offset, zeros]),
        scale=np.concatenate([*scale, ones]),
    )


def constant_columns(encoding: Encoding, table: Table) -> tuple[str, ...]:
    """The columns of the table that the encoding left out since they have one value in all rows to train on."""
    return tuple(name for name in encoding.left_out if name in (table.columns or {}))


_Part = tuple[Input, float, bool, np.ndarray, np.ndarray]


def _fit_text(table: Table, name: str, column: Column, rows: np.ndarray | None) -> _Part | None:
    codes = column.values if rows is None else column.values[rows]
    counts = np.bincount(codes[codes >= 0], minlength=len(column.words))
    known = sorted(np.flatnonzero(counts).tolist(), key=lambda code: natural_key(column.words[code]))
    indicated = table.missing == "indicator" and bool((codes < 0).any())
    if len(known) + indicated < 2:
        return None
    words = tuple(column.words[code] for code in known)
    fill = float(np.argmax(counts[known])) if table.missing in ("mean", "median", "most-frequent") else np.nan
    return Input(name, "text", words), fill, indicated, np.zeros(len(words)), np.ones(len(words))


def _fit_number(table: Table, name: str, column: Column, rows: np.ndarray | None, moments: Moments) -> _Part | None:
    present = int(moments.count)
    if not present:
        raise ValueError(f"column {name!r} has no value in any row to train on; --drop {name} leaves it out.")
    indicated = table.missing == "indicator" and moments.missing > 0
    if moments.low == moments.high and not indicated:
        return None
    values = column.values if rows is None else column.values[rows]
    fill = _fill(table.missing, values, moments)
    filled = moments if np.isnan(fill) else moments.filled(fill)
    return Input(name, column.kind), fill, indicated, np.array([filled.mean]), np.array([filled.scale()])


def _fill(missing: str | None, values: np.ndarray, moments: Moments) -> float:
    if missing in ("mean", "indicator"):
        return float(moments.mean)
    if missing == "median":
        return float(np.nanmedian(values))
    if missing == "most-frequent":
        different, counts = np.unique(values[~np.isnan(values)] if moments.missing else values, return_counts=True)
        return float(different[np.argmax(counts)])
    return np.nan


def _fit_array(table: Table, rows: np.ndarray | None) -> Encoding:
    X, num_inputs = table.X, table.X.shape[1]
    indicated = np.zeros(num_inputs, bool)
    fill = np.full(num_inputs, np.nan)
    if not isinstance(X, np.ndarray):
        largest = abs(X if rows is None else X[rows]).max(axis=0)
        largest = np.asarray(largest.todense() if hasattr(largest, "todense") else largest, np.float64).ravel()
        offset, scale = np.zeros(num_inputs), 1 / np.where(largest > 0, largest, 1)
    else:
        moments = measure(blocks_of(X, rows), num_inputs)
        if not moments.count.all():
            column = int(np.argmin(moments.count))
            raise ValueError(f"column {column + 1} of the features has no value in any row to train on. Leave it out.")
        if table.missing in ("mean", "indicator"):
            fill = moments.mean
        elif table.missing is not None and table.missing != "drop-rows":
            fill = np.array(
                [
                    _fill(table.missing, X[:, i] if rows is None else X[rows, i], moments.at(i))
                    for i in range(num_inputs)
                ]
            )
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
        fill=fill,
        has_indicator=indicated,
        offset=np.concatenate([offset, np.zeros(more)]),
        scale=np.concatenate([scale, np.ones(more)]),
    )
