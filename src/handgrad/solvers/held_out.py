"""Scores of fits on rows that they were not trained on, in float64."""

import warnings
from typing import NamedTuple

import numpy as np

from handgrad.formulas import Params
from handgrad.formulas.by_row import exact_losses, one_hot
from handgrad.rows import Parts
from handgrad.shapes import Bool, Float


class Scored(NamedTuple):
    """Rows, their labels (N,) or distributions (N, C), and their weights in each of F folds, 0 where a fold does not
    hold a row out; `counted` are those that have a finite loss.
    """

    parts: Parts
    targets: np.ndarray
    weights: Float[np.ndarray, "N F"]
    counted: Float[np.ndarray, "N F"]


def prepare_scores(
    function: str,
    parts: Parts,
    targets: np.ndarray,
    weights: Float[np.ndarray, "N F"],
    present: Bool[np.ndarray, "F C"],
) -> Scored:
    """What is to be scored, where these classes are present in the rows that each fold is trained on.

    Another class has probability 0, and its rows an infinite loss, whatever the penalty is.

    Warns:
      RuntimeWarning: such rows, and folds without weight, which are left out.

    Raises:
      ValueError: nothing is left.
    """
    weights = weights.astype(np.float64)
    lacks = (~present).T.astype(np.float64)
    unknown = ((lacks[targets] if targets.ndim == 1 else targets @ lacks) > 0) & (weights > 0)
    counted = np.where(unknown, 0, weights)
    empty = np.flatnonzero(parts.sum(counted.sum(axis=0)) == 0)
    if len(empty) == counted.shape[1]:
        raise ValueError(
            f"{function}: the rows held out for validation must have weight, and classes that are trained on; none has."
        )
    if unknown.any():
        rows = unknown.any(axis=1)
        T = one_hot(np, targets[rows], present.shape[1], np.float64)
        classes = np.flatnonzero(np.any((T @ unknown[rows]) * lacks > 0, axis=1))
        warnings.warn(
            f"{function}: {np.sum(rows)} rows are left out of the validation loss, being of classes "
            f"({', '.join(map(str, classes))}) that the rows trained on lack. Stratify the folds, or use fewer.",
            RuntimeWarning,
            stacklevel=3,
        )
    if len(empty):
        warnings.warn(
            f"{function}: folds {', '.join(map(str, empty))} are left out of the validation, where no row has weight.",
            RuntimeWarning,
            stacklevel=3,
        )
    return Scored(parts, targets, weights, counted)


def mean_scores(scored: Scored, fitted: list[Params]) -> tuple[Float[np.ndarray, " J"], Float[np.ndarray, " J"]]:
    """Mean cross-entropy and accuracy of each fold's J parameters on its rows, in the mean over the folds."""
    totals = scored.parts.sum(np.stack([scored.counted.sum(axis=0), scored.weights.sum(axis=0)]))
    scores = [
        _score(scored, fold, params) / totals[:, fold, None]
        for fold, params in enumerate(fitted)
        if totals[0, fold] > 0
    ]
    return tuple(np.mean(scores, axis=0))


def _score(scored: Scored, fold: int, params: Params) -> Float[np.ndarray, "2 J"]:
    """The sums over the rows of the loss and of what is right."""
    W, b = (np.asarray(array, np.float64) for array in params)
    classes = np.isfinite(b[0, 0])
    V = np.concatenate([W, np.where(classes, b, 0)], axis=1)
    sums = np.zeros((2, len(V)))
    for rows, block in scored.parts.blocks():
        w, counted = scored.weights[rows, fold], scored.counted[rows, fold]
        if not w.any():
            continue
        Z, known = np.where(classes[:, None], block.times(V), -np.inf), counted > 0
        T = one_hot(np, scored.targets[rows], len(classes), np.float64)
        right = Z.argmax(axis=1) == T.argmax(axis=0)
        at = np.ix_(classes, known)
        of_loss = [exact_losses(logits[at], T[at]) @ counted[known] for logits in Z]
        sums += np.stack([np.array(of_loss), right @ w])
    return scored.parts.sum(sums)
