"""Folds: the weights of some of the rows, the classes that these have, and where a fit of them begins.

A class without weight has no optimum: its bias would fall for ever. It is left out, which is what that comes to in the
end: W_c = 0, b_c = −∞, and probability 0. Without an intercept it is a class like any other.
"""

from typing import NamedTuple

import numpy as np

from handgrad.formulas import Params
from handgrad.shapes import Bool, Float
from handgrad.solvers.data import Data, times_centre


class Folds(NamedTuple):
    """F selections of the rows: weights whose columns have sum 1 (0 where all are 0), the classes that have weight, and
    where a fit begins, in the solver's coordinates.
    """

    weights: Float[np.ndarray, "N F"]
    present: Bool[np.ndarray, "F C"]
    starts: Float[np.ndarray, "F P1 C"]


def make_folds(function: str, data: Data, weights: Float[np.ndarray, "N F"]) -> Folds:
    """The folds of these weights. They start at W = 0 and the best bias for it, log π, π being the classes' shares."""
    total = data.parts.sum(weights.sum(axis=0))
    shares = weights / np.where(total > 0, total, 1)
    lost = (weights > 0) & (shares < np.finfo(data.dtype).tiny)
    if lost.any():
        row, fold = np.argwhere(lost)[0]
        raise ValueError(
            f"{function}: weights must not become 0 in {data.dtype}; that of row {row} is {shares[row, fold]:.2g} of "
            "their sum. Give such rows weight 0, or use float64 (jax.enable_x64)."
        )
    if data.targets.ndim == 2:
        of_classes = shares.T @ data.targets
    else:
        of_classes = np.stack([np.bincount(data.targets, column, data.num_classes) for column in shares.T])
    of_classes = data.parts.sum(of_classes.astype(np.float64))  # NumPy counts no rows in integers
    present = of_classes > 0
    present |= ~present.any(axis=1, keepdims=True)  # all rows weigh 0: any parameters will do
    starts = np.zeros((shares.shape[1], data.num_features + 1, data.num_classes))
    if not data.intercept:
        return Folds(shares, np.ones_like(present), starts)
    logs = np.log(np.where(of_classes > 0, of_classes, 1))
    starts[:, -1] = np.where(
        present, logs - np.sum(logs, axis=1, keepdims=True) / present.sum(axis=1, keepdims=True), 0
    )
    return Folds(shares, present, starts)


def start_at(data: Data, params: Params, folds: Folds) -> Folds:
    """Folds of which the first starts at the params. A class that they leave out and that has weight starts as ever."""
    W, b = (np.asarray(array, dtype=np.float64) for array in params)
    known = folds.present[0] & np.isfinite(b[0])
    bias = b + times_centre(data.centre, W).astype(np.float64) if data.intercept else np.zeros_like(b)
    V = np.concatenate([W / data.scale, bias])
    V = np.where(known, V - np.sum(V, axis=1, keepdims=True, where=known) / max(known.sum(), 1), folds.starts[0])
    return folds._replace(starts=np.concatenate([V[None], folds.starts[1:]]))
