"""A table made ready to train on: split, and encoded as is measured on the rows to train on."""

from typing import Any, NamedTuple

import numpy as np

from handgrad.data.encoding import Encoding, encode
from handgrad.data.measuring import constant_columns, fit_encoding
from handgrad.data.naming import join
from handgrad.data.splitting import TEST, Parts, describe_gaps, split_rows, table_keys
from handgrad.data.tables import Table


class Part(NamedTuple):
    """Some rows of a table: X (N, P) as `encode` gives it, labels (N,), and weights (N,) where there are some.

    Example:
      >>> from handgrad.data import load_digits
      >>> X, labels, weights = split_and_scale(load_digits()).test
      >>> X.shape, X.dtype, labels.shape, weights
      ((359, 64), dtype('float32'), (359,), None)
    """

    X: Any
    labels: np.ndarray
    weights: np.ndarray | None


class Split(NamedTuple):
    """A table ready to train on.

    Attributes:
      encoding: what was done to the table, measured on the rows to train on.
      rows: of the table, in each part.
      train, validation, test: the parts.
      notes: which classes a part lacks and which columns are constant, a sentence each.

    Example:
      >>> from handgrad.data import load_digits
      >>> digits = split_and_scale(load_digits(), validation=0.1)
      >>> [len(part.labels) for part in (digits.train, digits.validation, digits.test)], digits.encoding.image_shape
      ([1259, 179, 359], (8, 8))
    """

    encoding: Encoding
    rows: Parts
    train: Part
    validation: Part
    test: Part
    notes: tuple[str, ...]


def split_and_scale(table: Table, *, validation: float = 0.0, test: float = TEST, seed: int = 0) -> Split:
    """Split the rows as `split_rows` does, by their groups or times where the table has them, and encode them.

    Args:
      table: with labels. Rows are known by their ids where these are there and differ, else by all that they hold.
      validation, test, seed: as in `split_rows`.

    Returns:
      Split.

    Raises:
      ValueError: as `split_rows`, `fit_encoding` and `encode`; rows of a part that all weigh 0.

    Example:
      >>> from handgrad.data import load_digits
      >>> digits = split_and_scale(load_digits())
      >>> digits.train.X.shape, digits.test.X.shape
      ((1438, 64), (359, 64))
    """
    labels = table.labels
    if labels is None:
        raise ValueError("split_and_scale: the table must have labels; got one to predict from, without them.")
    rows = split_rows(
        labels,
        table_keys(table),
        validation=validation,
        test=test,
        seed=seed,
        groups=table.groups,
        times=table.times,
    )
    weights = table.relative_weights
    for what, part in zip(("train on", "watch", "test"), rows, strict=True):
        if weights is not None and len(part) and not weights[part].any():
            raise ValueError(
                f"split_and_scale: the {len(part):,} rows to {what} all weigh 0, and say nothing. Leave such rows out, "
                "or split in another way: by another seed, or without groups or times."
            )
    encoding = fit_encoding(table, rows.train)
    X = encode(encoding, table).X if table.file is None else None
    train, held_out, tested = (
        Part(
            encode(encoding, table.take(part)).X if X is None else X[part],
            labels[part],
            None if weights is None else weights[part],
        )
        for part in rows
    )
    notes = describe_gaps(labels, rows, table.class_names)
    constant = constant_columns(encoding, table)
    if constant:
        notes.append(f"columns with one value in all rows to train on are left out: {join(constant)}")
    return Split(encoding, rows, train, held_out, tested, tuple(notes))
