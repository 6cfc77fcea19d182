"""Reading tables: whatever people have their rows in, a file of one of many formats or an object of Python's.

Whatever is wrong is a ValueError (FileNotFoundError where there is no such file) of one line that names the file, all
that is wrong with it, the places, and what to do.
"""

import codecs
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from handgrad.data import arrays, arrow, delimited, svmlight
from handgrad.data.array_tables import Arrays, assemble_arrays
from handgrad.data.assembly import Roles, assemble
from handgrad.data.encoding import Encoding
from handgrad.data.naming import join, printable
from handgrad.data.objects import as_numpy
from handgrad.data.sources import Source, find_source
from handgrad.data.tables import MISSING, Missing, Table
from handgrad.data.words import returning_memory


def read_table(
    source: Any,
    *,
    target: str | None = None,
    labels: Any = None,
    features: str | None = None,
    missing: Missing | None = None,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
    weight: str | None = None,
    ids: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    separator: str = "",
    decimal: str = "",
    quote: str = "",
    text_encoding: str = "",
    encoding: Encoding | None = None,
) -> Table:
    """Read features and classes.

    Columns come from .csv, .tsv and .txt, also as .gz, .bz2 and .zst, from .parquet, a file or a folder, .arrow and
    .feather; from a data frame of pandas or polars, a table of pyarrow's, a dictionary of arrays (N,). Arrays come from
    .npz, .npy, .safetensors, IDX and, sparse, .svmlight and .libsvm files; from NumPy's and SciPy's arrays, and a
    dictionary of arrays of which one is (N, P).

    A column of text is one of numbers, true and false, or dates where its values are such, and of texts otherwise; a
    value among numbers or dates that is none is refused, and so is what may be read in two ways, as 03/04/2026. Numbers
    may have marks between thousands, and all of them the sign of a unit, such as %.
    An empty cell and NA, N/A, NaN, null and none in any case are missing values in a feature; in the classes only the
    empty cell is. An array (N, H, W) or (N, H, W, channels) is one of images; so are unsigned bytes (N, P), P a square
    of 64 or more.

    Args:
      source: a path, `-` for standard input, or an object as above.
      target: of columns, the one with the classes.
      labels: of arrays, the classes: the name of an array in the same file, the path of a file, or an array (N,).
      features: of arrays, the name of the one with the features.
      missing: what is done where a feature has no value: "mean", "median", "most-frequent", "indicator", see
        `fit_encoding`, or "drop-rows"; refused if None.
      drop, keep: columns to leave out, or all that are to be features.
      weight: the column (or array) with the rows' weights.
      ids: columns (or arrays) that are passed through and are no features.
      group, time: the column (or array) that says which rows belong together, or when a row was.
      separator, decimal, quote, text_encoding: how text is written; found out where left out.
      encoding: of a model that is to be tried on the table: columns are then taken as that needs them, and there may be
        any classes, also a single one.

    Returns:
      Table.

    Raises:
      FileNotFoundError, ValueError: a file that is missing or damaged, or whose content is not as above.
      ImportError: columns are read without pyarrow.

    Example:
      >>> table = read_table({"colour": ["red", "blue"] * 4, "size": range(8), "kind": ["a", "b"] * 4}, target="kind")
      >>> table.class_names, table.columns["colour"].kind, table.columns["size"].kind
      (('a', 'b'), 'text', 'number')
    """
    roles = Roles(target, tuple(drop), tuple(keep), weight, tuple(ids), group, time)
    if missing not in (None, *MISSING):
        raise ValueError(f"read_table: missing must be one of {', '.join(MISSING)}; got {missing!r}.")
    with open_data(source, as_format(separator, decimal, quote, text_encoding), encoding) as data:
        if not isinstance(data, arrow.Columns):
            arrays_ = choose(data, roles, labels, features)
            return assemble_arrays(arrays_, roles, missing, num_inputs=_num_inputs(encoding))
        if features is not None or isinstance(labels, (str, os.PathLike)):
            raise ValueError(
                f"{data.name}: --features and --labels name arrays, and this has columns: --target names one."
            )
        with returning_memory():
            return assemble(data, roles, missing, encoding, labels=labels)


def read_features(
    source: Any,
    encoding: Encoding | None = None,
    *,
    target: str | None = None,
    ids: Sequence[str] = (),
    features: str | None = None,
    separator: str = "",
    decimal: str = "",
    quote: str = "",
    text_encoding: str = "",
) -> Table:
    """Read features alone, to predict from.

    Args:
      source: as for `read_table`, with or without its classes.
      encoding: of the model, which says the columns that are needed and the kind of each; None for all, as they stand.
      target: a column to leave out where it is there.
      ids, features, separator, decimal, quote, text_encoding: as for `read_table`.

    Returns:
      Table, without labels. Columns that the encoding does not know are in its `columns` without their values' being
      looked at; `encode` says so.

    Raises:
      FileNotFoundError, ValueError, ImportError: as `read_table`.

    Example:
      >>> table = read_features({"colour": ["red", "blue"], "size": [1, 2], "kind": ["a", "b"]}, target="kind")
      >>> list(table.columns), table.labels
      (['colour', 'size'], None)
    """
    roles = Roles(None, (), (), None, tuple(ids), None, None)
    with open_data(source, as_format(separator, decimal, quote, text_encoding), encoding) as data:
        if isinstance(data, arrow.Columns):
            with returning_memory():
                return assemble(data, roles, None, encoding, needs_classes=False, ignored=target)
        arrays_ = choose(data, roles, None, features, is_labelled=False)
        return assemble_arrays(arrays_, roles, None, num_inputs=_num_inputs(encoding))


def _num_inputs(encoding: Encoding | None) -> int | None:
    """How many entries of an array a model takes."""
    return len(encoding.fill) if encoding is not None and encoding.inputs is None else None


def as_format(separator: str, decimal: str, quote: str, text_encoding: str) -> delimited.Format:
    """How text is written, as far as that is given."""
    separator = {"\\t": "\t", "tab": "\t", "comma": ",", "semicolon": ";", "space": " "}.get(separator, separator)
    for name, mark in (("separator", separator), ("quote", quote)):
        if len(mark) > 1 or mark in ("\n", "\r", "\0") or not mark.isascii():
            raise ValueError(f"--{name} must be one character of ASCII; got {mark!r}.")
    if decimal not in ("", ".", ","):
        raise ValueError(f"--decimal must be . or ,; got {decimal!r}.")
    if separator and separator == quote:
        raise ValueError(f"--separator must be another character than --quote; got {separator!r}.")
    with contextlib.suppress(LookupError, ValueError):
        "".encode(text_encoding or "utf-8")
        return delimited.Format(separator, decimal, quote, text_encoding and codecs.lookup(text_encoding).name)
    raise ValueError(
        f"--encoding must be one that Python knows, such as utf-8, utf-16 or cp1252; got {text_encoding!r}."
    )


class _Arrays(NamedTuple):
    """Arrays that can be read: which there are, and of a single one where its classes may be."""

    name: str
    arrays: Mapping[str, Any]
    source: Source | None
    first_index: int | None = None  # as in `Table`


@contextlib.contextmanager
def open_data(
    source: Any, format_: delimited.Format, encoding: Encoding | None = None, *, in_blocks: bool = False
) -> Iterator[arrow.Columns | _Arrays]:
    """What can be read of a file or of an object, its features in blocks where they are not to be in memory."""
    if not isinstance(source, (str, os.PathLike)):
        yield _from_object(source)
        return
    with find_source(source) as found:
        if found.format == "delimited":
            text, notes = delimited.look_at(found, format_)
            yield _as_columns(text, notes)
        elif found.format in ("parquet", "arrow"):
            yield arrow.from_file(found)
        elif found.format == "svmlight":
            read = svmlight.stored if in_blocks else svmlight.read
            own, first = read(found, encoding and encoding.first_index)
            yield _Arrays(found.name, own, None, first)
        else:
            yield _Arrays(found.name, arrays.stored_arrays(found), found)


def _from_object(data: Any) -> arrow.Columns | _Arrays:
    if isinstance(data, Mapping) and any(len(getattr(each, "shape", ())) >= 2 for each in data.values()):
        arrays_ = {str(key): _as_array(f"the dictionary's {key}", each) for key, each in data.items()}
        return _Arrays("the dictionary", arrays_, None)
    columns = arrow.from_frame(data)
    if columns is not None:
        return columns
    if hasattr(data, "shape") and (hasattr(data, "__array__") or hasattr(data, "tocsr")):
        return _Arrays("the array", {"X": _as_array("the array", data)}, None)
    raise ValueError(
        "a table is read from a path, a data frame of pandas or polars, a table of pyarrow's, a dictionary of arrays "
        f"or an array (N, P); got {type(data).__name__}."
    )


def _as_array(name: str, data: Any) -> Any:
    if not hasattr(data, "tocsr"):
        return as_numpy(name, data)
    import scipy.sparse

    return scipy.sparse.csr_array(data)


def _as_columns(text: delimited.Delimited, notes: Sequence[str]) -> arrow.Columns:
    separator = delimited.SEPARATORS.get(text.format.separator, text.format.separator)
    return arrow.Columns(
        name=text.source.name,
        names=[name for name in text.names if name.strip()],
        read=lambda wanted, texts: delimited.read(text, texts, wanted),
        is_typed=False,
        cut=lambda wanted, texts: delimited.cut(text, texts, wanted),
        decimal=text.format.decimal,
        notes=tuple(filter(None, (*notes, delimited.nameless_columns(text)))),
        hint=f" It was read as separated by {separator}s; --separator names another." if len(text.names) == 1 else "",
    )


def choose(
    data: _Arrays,
    roles: Roles,
    labels: Any,
    features: str | None,
    *,
    is_labelled: bool = True,
    load: Callable[[Any], Any] | None = None,
) -> Arrays:
    """The arrays in their roles, the features as `load` has them."""
    for option, names in (("target", roles.target), ("drop", roles.drop), ("keep", roles.keep)):
        if names:
            raise ValueError(
                f"{data.name}: --{option} names columns, and this is an array; --labels names its classes."
            )
    has_name = isinstance(labels, str) and labels in data.arrays
    x, y = arrays.choose(data.name, data.arrays, features, labels if has_name else None)
    beside = [name for name in (*roles.ids, roles.weight, roles.group, roles.time) if name is not None]
    absent = [name for name in beside if name not in data.arrays]
    if absent:
        raise ValueError(f"{data.name}: has no array {printable(absent[0])!r}. {arrays.list_arrays(data.arrays)}")
    used = {x, *beside, *([y] if y is not None else [])}
    others = [name for name in data.arrays if name not in used]
    found = None
    if is_labelled and labels is not None and not has_name:
        found = arrays.read_labels(labels) if isinstance(labels, (str, os.PathLike)) else as_numpy("labels", labels)
    elif is_labelled and y is not None:
        found = np.asarray(_load(data.arrays[y]))
    elif is_labelled:
        path = arrays.labels_beside(data.source) if data.source else None
        if path is None:
            raise ValueError(
                f"{data.name}: needs --labels, the classes: an array in it or another file. "
                f"{arrays.list_arrays(data.arrays)}"
            )
        found = arrays.read_labels(path)
    return Arrays(
        name=data.name,
        X=(load or _load)(data.arrays[x]),
        y=found,
        others={name: np.asarray(_load(data.arrays[name])) for name in beside},
        notes=(f"features from {x}; arrays left out: {join(others)}.",) if others and is_labelled else (),
        first_index=data.first_index,
    )


def _load(array: Any) -> Any:
    return array.load() if isinstance(array, arrays.Stored) else array
