"""What is done to a table before training: some rows are held out, and the features are scaled."""

from typing import NamedTuple

import numpy as np

from handgrad.data.splitting import hash_rows, split_rows
from handgrad.data.tables import Table


class Scaling(NamedTuple):
    """x' = (x − offset) · scale for each feature: two arrays (P,) of float64."""

    offset: np.ndarray
    scale: np.ndarray


class Split(NamedTuple):
    """A table ready for training: scaled features (N, P) of float32 and labels (N,), to train on and held out."""

    scaling: Scaling
    X: np.ndarray
    labels: np.ndarray
    X_held_out: np.ndarray
    labels_held_out: np.ndarray


def split_and_scale(table: Table) -> Split:
    """Hold out a fifth of each class, always the same rows, and scale by what is measured on the others."""
    train_rows, _, held_out_rows = split_rows(table.labels, hash_rows({"X": table.X}), validation=0.0)
    scaling = fit_scaling(table, train_rows)
    X = apply_scaling(scaling, table.X)
    return Split(scaling, X[train_rows], table.labels[train_rows], X[held_out_rows], table.labels[held_out_rows])


def fit_scaling(table: Table, rows: np.ndarray) -> Scaling:
    """The scaling of a table, measured on the given rows of it.

    The pixels of an image share a unit, and how much one of them varies means something: they are brought to [0, 1]
    by one common offset and scale. Columns of a table share nothing: each gets mean 0 and standard deviation 1, and a
    constant one becomes 0.

    Args:
      table: the table.
      rows: indices of the rows to measure, those to train on.

    Returns:
      Scaling.

    Example:
      >>> table = Table(np.array([[1.0, 7.0], [3.0, 7.0]]), np.array([0, 1]), ("a", "b"), None, None, None)
      >>> fit_scaling(table, np.array([0, 1]))
      Scaling(offset=array([2., 7.]), scale=array([1., 1.]))
    """
    X = table.X[rows]
    if table.image_shape is not None:
        lowest, highest = float(X.min()), float(X.max())
        num_features = X.shape[1]
        scale = 1 / (highest - lowest) if highest > lowest else 1.0
        return Scaling(np.full(num_features, lowest), np.full(num_features, scale))
    # Measured from the first row and in units of the range: the mean and the variance of values such as 1e9 + 0.001·i
    # lose every digit otherwise, and a constant column comes out as exactly 0 and not as rounding to be blown up.
    first = X[0].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # of values that apply_scaling refuses
        deviation = X - first
        value_range = np.ptp(deviation, axis=0)
        value_range[value_range == 0] = 1
        deviation /= value_range
        standard_deviation = deviation.std(axis=0) * value_range
        standard_deviation[standard_deviation == 0] = 1
        return Scaling(first + deviation.mean(axis=0) * value_range, 1 / standard_deviation)


def apply_scaling(scaling: Scaling, X: np.ndarray) -> np.ndarray:
    """The features to compute with, (X − offset) · scale: computed in float64, returned in float32.

    Raises:
      ValueError: values so large that the scaled ones have no float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = X - scaling.offset
        scaled *= scaling.scale
        scaled = scaled.astype(np.float32)
    if not np.isfinite(scaled).all():
        row, column = np.argwhere(~np.isfinite(scaled))[0]
        raise ValueError(
            f"column {column + 1} of the features has {X[row, column]:g} in row {row + 1}, which is too large to "
            "scale. Leave such rows out."
        )
    return scaled
