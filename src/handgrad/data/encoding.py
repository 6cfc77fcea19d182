"""How a table becomes X: texts become zeros and ones, missing values are filled, numbers are scaled.

All of it is measured on the rows to train on and kept as plain values and arrays, so that it can be stored with a model
and done again to whatever the model is to predict from.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from handgrad import processes
from handgrad.data.lacking import OF_MODEL, missing_problem
from handgrad.data.moments import blocks_of
from handgrad.data.naming import join, say_absent
from handgrad.data.problems import say
from handgrad.data.tables import DATES, Column, Filed, Kind, Table
from handgrad.sparse_streams import SparseStream, of_sparse_blocks
from handgrad.streams import Stream, of_blocks

LOOKED_AT = 4096  # rows
LARGEST = float(np.finfo(np.float32).max)
SEEN_WORDS = 3  # how many unknown words a note shows


class Input(NamedTuple):
    """A column that a model reads; `words` are those of its texts that get a feature each."""

    name: str
    kind: Kind
    words: tuple[str, ...] = ()


class Encoding(NamedTuple):
    """What is done to the inputs, columns or entries of an array, to make the features of X of them.

    A number becomes one feature, a text one for each word, and after all of these come the indicators of missing
    values. A feature is then (x − offset) · scale.

    Attributes:
      inputs: the columns, in the order of their features; None where the data are an array.
      missing: as in `Table`.
      left_out: columns that a table may have and that are no inputs.
      image_shape, first_index: as in `Table`.
      fill: for each input what stands for a missing value, of a text an index into its words; NaN where nothing does.
      has_indicator: for each input whether a feature says that its value is missing.
      offset, scale: of the features, (P,), float64.

    Example:
      >>> from handgrad.data import encode, fit_encoding, read_table
      >>> rows = {"age": [41, 25, 30, 24], "town": ["Ulm", "Bonn"] * 2, "ill": ["no", "yes"] * 2}
      >>> table = read_table(rows, target="ill")
      >>> encoding = fit_encoding(table)
      >>> encoding.feature_names, encoding.offset.tolist()
      (('age', 'town=Bonn', 'town=Ulm'), [30.0, 0.0, 0.0])
    """

    inputs: tuple[Input, ...] | None
    missing: str | None
    left_out: tuple[str, ...]
    image_shape: tuple[int, ...] | None
    first_index: int | None
    fill: np.ndarray
    has_indicator: np.ndarray
    offset: np.ndarray
    scale: np.ndarray

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """What X's columns stand for; None where the data are an array."""
        if self.inputs is None:
            return None
        names = [name for each in self.inputs for name in features_of(each)]
        indicated = [each for each, has in zip(self.inputs, self.has_indicator, strict=True) if has]
        return tuple(names + [f"{each.name} is missing" for each in indicated])


class Encoded(NamedTuple):
    """X as a model takes it.

    Attributes:
      X: (N, P), float32; SciPy's CSR where the data are sparse; of a table in its file, rows that are read and encoded
        anew for each pass, as `handgrad.fit` takes them; with `jax.distributed` each process has its share of them.
      rows: the rows of the table that X has, ascending; None for all. Others lack a value, and missing is "drop-rows".
      notes: what the data have that the training rows had not, a sentence each.

    Example:
      >>> from handgrad.data import encode, fit_encoding, read_table
      >>> rows = {"age": [41, 25, 30, 24], "town": ["Ulm", "Bonn"] * 2, "ill": ["no", "yes"] * 2}
      >>> table = read_table(rows, target="ill")
      >>> encoded = encode(fit_encoding(table), table)
      >>> encoded.X.shape, encoded.X.dtype, encoded.rows, encoded.notes
      ((4, 3), dtype('float32'), None, ())
    """

    X: Any
    rows: np.ndarray | None
    notes: tuple[str, ...]


def features_of(column: Input) -> list[str]:
    """The names of the features that an input becomes, the indicator apart."""
    return [f"{column.name}={word}" for word in column.words] if column.kind == "text" else [column.name]


def encode(encoding: Encoding, table: Table) -> Encoded:
    """X of a table, computed in float64 and rounded once.

    Args:
      encoding: of the table that was trained on.
      table: columns by the encoding's names, among any others, or an array with its number of inputs.

    Returns:
      Encoded.

    Raises:
      ValueError: a column is not there or of another kind, a value is missing and nothing stands for it, or a value is
        so large that the scaled one has no float32.

    Example:
      >>> from handgrad.data import fit_encoding, read_table
      >>> rows = {"age": [41, 25, 30, 24], "town": ["Ulm", "Bonn"] * 2, "ill": ["no", "yes"] * 2}
      >>> table = read_table(rows, target="ill")
      >>> print(encode(fit_encoding(table), table).X[:, 1:])
      [[0. 1.]
       [1. 0.]
       [0. 1.]
       [1. 0.]]
    """
    if table.file is not None:
        return _encode_blocks(encoding, table)
    if encoding.inputs is None:
        return _encode_array(encoding, table.X)
    if table.columns is None:
        raise ValueError(
            f"the model was trained on the columns {join([each.name for each in encoding.inputs])}; got an array "
            f"{table.X.shape}, whose columns have no names."
        )
    columns = _wanted_columns(encoding, table.columns)
    rows = _complete_rows(encoding, columns)
    if rows is not None:
        columns = [column._replace(values=column.values[rows]) for column in columns]
    num_rows = table.num_rows if rows is None else len(rows)
    X = np.zeros((num_rows, len(encoding.offset)), np.float32)
    notes, start = [], 0
    numbers: list[tuple[int, int]] = []  # which input, which feature
    indicator = len(encoding.offset) - int(encoding.has_indicator.sum())
    for index, (each, column) in enumerate(zip(encoding.inputs, columns, strict=True)):
        if each.kind == "text":
            notes += _encode_text(each, column, encoding.fill[index], X[:, start : start + len(each.words)])
            start += len(each.words)
        else:
            numbers.append((index, start))
            start += 1
        if encoding.has_indicator[index]:
            X[:, indicator] = column.is_missing()
            indicator += 1
    _encode_numbers(encoding, columns, numbers, X)
    known = {*encoding.left_out, *(each.name for each in encoding.inputs)}
    unknown = [name for name in table.columns if name not in known]
    if unknown:
        notes.append(f"columns that the model was not trained on are left out: {join(unknown)}.")
    return Encoded(X, rows, tuple(notes))


def _encode_blocks(encoding: Encoding, table: Table) -> Encoded:
    assert table.file is not None
    own = processes.share(table.num_rows)
    X: Any = stream_rows(encoding, table.file, np.arange(own.start, own.stop))
    if table.file.is_held:
        X = X.in_memory()
    return Encoded(processes.Share(X, own.start, table.num_rows) if processes.is_shared() else X, None, ())


def stream_rows(encoding: Encoding, file: Filed, rows: np.ndarray) -> Stream | SparseStream:
    """X of some rows."""
    shape = len(rows), len(encoding.offset)

    def blocks() -> Iterator[Any]:
        start = int(rows[0]) if len(rows) else 0
        for block in file.begin(rows):
            try:
                yield encode(encoding, block).X
            except ValueError as error:
                raise ValueError(
                    f"{error} (Its block begins at row {start + 1:,} of them.)" if start else error
                ) from None
            start += block.num_rows

    if file.is_sparse and not encoding.offset.any():
        return of_sparse_blocks("encode", shape, np.dtype(np.float32), blocks)
    return _as_stored(encoding, file, rows, shape) or of_blocks("encode", shape, np.dtype(np.float32), blocks)


def _as_stored(encoding: Encoding, file: Filed, rows: np.ndarray, shape: tuple[int, int]) -> Stream | None:
    """Features that are numbers of the file, offset and scaled, and nothing else."""
    if file.numbers is None or len(encoding.fill) != shape[1]:
        return None
    names = None
    if encoding.inputs is None:
        if file.kinds is not None or file.num_inputs != shape[1]:
            return None
    else:
        kinds = file.kinds or {}
        if any(not {each.kind, kinds.get(each.name)} <= {"number", "boolean"} for each in encoding.inputs):
            return None
        names = [each.name for each in encoding.inputs]
    begin = functools.partial(file.numbers.begin, names, rows)
    about: dict[str, Any] = {"stored": file.numbers.dtype, "offset": encoding.offset, "scale": encoding.scale}
    pages = file.numbers.pages(rows)

    def refuse(row: int, column: int) -> None:
        what = f"column {column + 1} of the features" if names is None else f"column {names[column]!r}"
        _refuse_large(what, row)

    return Stream(shape, np.dtype(np.float32), begin, **about, refuse=refuse, pages=pages)


def _wanted_columns(encoding: Encoding, columns: Mapping[str, Column]) -> list[Column]:
    assert encoding.inputs is not None
    absent = [each.name for each in encoding.inputs if each.name not in columns]
    if absent:
        raise ValueError(f"the table: {say_absent(absent, list(columns))}")
    for each in encoding.inputs:
        if _LIKE[columns[each.name].kind] != _LIKE[each.kind]:
            raise ValueError(
                f"column {each.name!r} must be {KINDS[each.kind]}, as what the model was trained on; got "
                f"{KINDS[columns[each.name].kind]}."
            )
    return [columns[each.name] for each in encoding.inputs]


KINDS = {"number": "numbers", "boolean": "true and false", "text": "text", **dict.fromkeys(DATES, "dates")}
_LIKE = KINDS | {"boolean": "numbers"}


def _complete_rows(encoding: Encoding, columns: list[Column]) -> np.ndarray | None:
    """The rows to encode, None for all; where a value is missing that must not be, an error with every such column."""
    inputs = zip(encoding.inputs or (), columns, encoding.fill, encoding.has_indicator, strict=True)
    missing = {
        each.name: where
        for each, column, fill, has in inputs
        if np.isnan(fill) and not has and (where := column.is_missing()).any()
    }
    if not missing:
        return None
    if encoding.missing != "drop-rows":
        raise ValueError(say("the table", [missing_problem(*each, OF_MODEL) for each in missing.items()]))
    return np.flatnonzero(~np.logical_or.reduce(list(missing.values())))


def _encode_text(each: Input, column: Column, fill: float, X: np.ndarray) -> list[str]:
    place = {word: index for index, word in enumerate(each.words)}
    places = np.array([*(place.get(word, -1) for word in column.words), -2 if np.isnan(fill) else int(fill)])
    feature = places[column.values]  # −1, a missing value, finds the last
    rows = np.flatnonzero(feature >= 0)
    X[rows, feature[rows]] = 1
    unknown = np.bincount(column.values[feature == -1], minlength=len(column.words))
    if not unknown.any():
        return []
    words = [column.words[code] for code in np.argsort(-unknown, kind="stable")[: np.count_nonzero(unknown)]]
    return [
        f"column {each.name!r} has {np.count_nonzero(unknown):,} texts in {unknown.sum():,} rows that no row to train "
        f"on has, and they count as none: {join([repr(word) for word in words], SEEN_WORDS)}."
    ]


def _encode_numbers(encoding: Encoding, columns: list[Column], numbers: list[tuple[int, int]], X: np.ndarray) -> None:
    inputs, features = np.array(numbers, np.int64).reshape(-1, 2).T
    offset, scale, fill = encoding.offset[features], encoding.scale[features], encoding.fill[inputs]
    start = 0
    for which, block in blocks_of([columns[index].values for index in inputs], None):
        rows = slice(start, start + block.shape[1])
        start = rows.stop % len(X)
        _scale(block, offset[which, None], scale[which, None], fill[which, None])
        into = features[which]
        is_run = into[-1] - into[0] == len(into) - 1
        with np.errstate(over="ignore"):
            X[rows, slice(into[0], into[-1] + 1) if is_run else into] = block.T
        if not _is_within(block) and not np.isfinite(X[rows][:, into]).all():
            row, column = np.argwhere(~np.isfinite(X[rows][:, into]))[0]
            _refuse_large(f"column {(encoding.inputs or ())[inputs[which][column]].name!r}", rows.start + row)


def _is_within(block: np.ndarray) -> bool:
    """Whether all numbers are so small that float32 has them, and none is missing."""
    return bool(block.min() >= -LARGEST and block.max() <= LARGEST)


def _scale(block: np.ndarray, offset: np.ndarray, scale: np.ndarray, fill: np.ndarray) -> None:
    """(x − offset) · scale in place, what is missing filled in."""
    if np.isnan(block).any():
        np.copyto(block, fill, where=np.isnan(block))
    with np.errstate(over="ignore", invalid="ignore"):
        block -= offset
        block *= scale


def _encode_array(encoding: Encoding, X: Any) -> Encoded:
    num_inputs = len(encoding.fill)
    if X is None or X.shape[1] != num_inputs:
        got = "columns with names" if X is None else f"{X.shape[1]} in a row"
        raise ValueError(f"the model was trained on {num_inputs} features; got {got}.")
    if not isinstance(X, np.ndarray):
        return _encode_sparse(encoding, X)
    rows = None
    filled = ~np.isnan(encoding.fill) | encoding.has_indicator
    if X.dtype.kind == "f" and not filled.all():
        lacks = np.zeros(len(X), bool)
        for start in range(0, len(X), LOOKED_AT):
            some = X[start : start + LOOKED_AT]
            with np.errstate(over="ignore", invalid="ignore"):
                if not np.isfinite(some.sum()):
                    lacks[start : start + LOOKED_AT] = (np.isnan(some) & ~filled).any(axis=1)
        if lacks.any():
            if encoding.missing != "drop-rows":
                raise ValueError(say("the table", [missing_problem("the features", lacks, OF_MODEL)]))
            rows = np.flatnonzero(~lacks)
    num_rows = len(X) if rows is None else len(rows)
    result = np.empty((num_rows, len(encoding.offset)), np.float32)
    start = 0
    for _, block in blocks_of(X, rows):
        into = result[start : start + block.shape[1]]
        into[:, num_inputs:] = np.isnan(block[encoding.has_indicator]).T
        _scale(block, encoding.offset[:num_inputs, None], encoding.scale[:num_inputs, None], encoding.fill[:, None])
        with np.errstate(over="ignore"):
            into[:, :num_inputs] = block.T
        if not _is_within(block) and not np.isfinite(into).all():
            row, column = np.argwhere(~np.isfinite(into))[0]
            _refuse_large(f"column {column + 1} of the features", start + row)
        start += block.shape[1]
    return Encoded(result, rows, ())


def _encode_sparse(encoding: Encoding, X: Any) -> Encoded:
    if encoding.offset.any():
        return _encode_array(encoding, X.toarray())
    data = X.data.astype(np.float64) * encoding.scale[X.indices]
    with np.errstate(over="ignore"):
        scaled = data.astype(np.float32)
    if not np.isfinite(scaled).all():
        entry = int(np.argmin(np.isfinite(scaled)))
        row = int(np.searchsorted(X.indptr, entry, side="right")) - 1
        _refuse_large(f"column {X.indices[entry] + 1} of the features", row)
    return Encoded(type(X)((scaled, X.indices, X.indptr), shape=X.shape), None, ())


def _refuse_large(what: str, row: int) -> None:
    raise ValueError(f"{what} has a number in row {row + 1} that is too large to scale. Leave such rows out.")
