"""Some rows are held out, and what is done to the features is measured on the others."""

from typing import NamedTuple

import numpy as np

from handgrad.data.encoding import Encoding, encode
from handgrad.data.measuring import fit_encoding
from handgrad.data.tables import Table


class Split(NamedTuple):
    """A table ready for training: features (N, P) of float32 and labels (N,), to train on and held out."""

    encoding: Encoding
    X: np.ndarray
    labels: np.ndarray
    X_held_out: np.ndarray
    labels_held_out: np.ndarray


def split_and_scale(table: Table) -> Split:
    """Hold out a fifth of each class, always the same rows, and encode as is measured on the others."""
    assert table.labels is not None
    train_rows, held_out_rows = split_rows(table.labels)
    encoding = fit_encoding(table, train_rows)
    X = encode(encoding, table).X
    return Split(encoding, X[train_rows], table.labels[train_rows], X[held_out_rows], table.labels[held_out_rows])


def split_rows(labels: np.ndarray, *, fraction: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random split of the rows, of each class the same fraction.

    Args:
      labels: integer labels (N,).
      fraction: of each class's rows, how many are held out. At least one is and at least one is not where the class
        has two rows; a class's only row is not.
      seed: of the random numbers; the same one gives the same split.

    Returns:
      The indices of the rows to train on, and of those held out, both in ascending order.

    Example:
      >>> train_rows, held_out_rows = split_rows(np.array([0, 0, 0, 0, 0, 1, 1, 2]))
      >>> len(train_rows), len(held_out_rows)
      (6, 2)
    """
    generator = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
        held_out[rows[:count]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
