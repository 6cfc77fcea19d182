"""Embeddings from files: an array (N, P) and N classes, in one file or several."""

import os
import pathlib
import re
from typing import Any

import numpy as np

from handgrad.data import Table, read_table
from handgrad.data.naming import join, say_absent


def read_embeddings(
    features: pathlib.Path, labels: str, test_features: pathlib.Path | None, test_labels: str | None, name: str | None
) -> tuple[Table, int | None]:
    """The table of all rows, and how many of them, the first, are to be trained on; None where that is to be dealt.

    Features keep the dtype that they are stored in, which `handgrad.fit` widens block by block.

    Raises:
      FileNotFoundError, ValueError: files that are none, or do not fit each other.
    """
    table = _read(features, labels, name)
    if test_features is None:
        return table, None
    tested = _read(test_features, str(test_labels), name)
    assert table.labels is not None
    assert tested.labels is not None
    if tested.X.shape[1] != table.X.shape[1]:
        raise ValueError(
            f"{test_features}: must have {table.X.shape[1]} features, as {features}; got {tested.X.shape[1]}."
        )
    places = {str(each): number for number, each in enumerate(table.class_names)}
    unknown = [str(each) for each in tested.class_names if str(each) not in places]
    if unknown:
        raise ValueError(f"{test_features}: has rows of classes that {features} has none of: {join(unknown, 10)}.")
    number = np.array([places[str(each)] for each in tested.class_names], np.int32)
    X = np.concatenate([table.X, tested.X])
    labels_ = np.concatenate([table.labels, number[tested.labels]])
    return table._replace(X=X, labels=labels_, notes=(*table.notes, *tested.notes)), len(table.labels)


def _read(features: pathlib.Path, labels: str, name: str | None) -> Table:
    y: Any = _read_parquet(pathlib.Path(labels), None)[0] if _is_parquet(labels) else labels
    source: Any = features
    if _is_parquet(features):
        columns, source = _read_parquet(features, y if isinstance(y, str) and not os.path.exists(y) else None, name)
        y, name = columns if columns is not None else y, None
    try:
        table = read_table(source, labels=y, features=name, missing="mean")  # rows that lack a value are told below
    except ValueError as error:
        raise ValueError(re.sub("^the array(?=:)", str(features), str(error))) from None
    if not isinstance(table.X, np.ndarray):
        raise ValueError(f"{features}: must hold an array (N, P) of numbers; `handgrad fit` takes other tables.")
    X = table.X
    if X.dtype.kind == "f" and np.isnan(np.add.reduce(X, axis=None, dtype=np.float64)):
        lacking = np.flatnonzero(np.isnan(X).any(axis=1))
        raise ValueError(
            f"{features}: embeddings must have no NaN; got {len(lacking):,} of {len(X):,} rows with one: "
            f"{join([str(row + 1) for row in lacking], 5)}. Compute these anew, or write features and labels without "
            "them, those of numpy.isfinite(X).all(axis=1)."
        )
    return table._replace(image_shape=None)


def _is_parquet(path: Any) -> bool:
    return str(path).endswith((".parquet", ".pq"))


def _read_parquet(path: pathlib.Path, labels: str | None, name: str | None = None) -> tuple[Any, Any]:
    """The column of labels, and the others as one array: one column of lists, or columns of numbers."""
    import pyarrow as pa
    import pyarrow.parquet

    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    try:
        data = pyarrow.parquet.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: is no parquet, or is damaged or cut short.") from error
    absent = [each for each in (labels, name) if each is not None and each not in data.column_names]
    if absent:
        raise ValueError(f"{path}: {say_absent(absent, data.column_names)}")
    if labels is None and len(data.column_names) == 1 and name is None and not _is_list(data.column(0).type):
        return _numbers(data.column(0)), None
    y = None if labels is None else _numbers(data.column(labels))
    wanted = [name] if name else [each for each in data.column_names if each != labels]
    lists = [each for each in wanted if _is_list(data.column(each).type)]
    if len(lists) == 1:
        column = data.column(lists[0]).combine_chunks()
        sizes = np.unique(np.asarray(pa.compute.list_value_length(column)))
        if len(sizes) != 1 or column.null_count:
            raise ValueError(f"{path}: the lists in {lists[0]!r} must have the same length; got {sizes.tolist()[:5]}.")
        return y, np.asarray(column.flatten()).reshape(len(column), int(sizes[0]))
    return y, np.stack([_numbers(data.column(each)) for each in wanted], axis=1)


def _is_list(kind: Any) -> bool:
    import pyarrow.types as kinds

    return kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)


def _numbers(column: Any) -> np.ndarray:
    values = column.to_numpy()
    return values.astype(str) if values.dtype == object else values
