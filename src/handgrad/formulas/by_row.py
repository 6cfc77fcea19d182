"""The loss of each row and Y − T, for targets that are known to be right: what a solver sums.

Arrays are (C, n), with the classes before the rows, so that all operations run along the rows.
"""

from typing import Any

import numpy as np

from handgrad.shapes import Float


def losses(xp: Any, Z: Float[Any, "C n"], targets: Any) -> tuple[Float[Any, " n"], Float[Any, "C n"]]:
    """Each row's cross-entropy, and Y.

    Args:
      xp: the array library.
      Z: logits (C, n).
      targets: labels (n,), or distributions (n, C) whose rows sum to 1.
    """
    shifted = Z - xp.max(Z, axis=0, keepdims=True)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=0, keepdims=True)
    # −Σ T (Z − m) + log Σ exp(Z − m): no difference of large numbers where the target's logit is the largest.
    of_target = xp.sum(one_hot(xp, targets, len(Z), Z.dtype) * shifted, axis=0)
    return xp.log(total[0]) - of_target, exponentials / total


def residual(xp: Any, Y: Float[Any, "C n"], targets: Any) -> Float[Any, "C n"]:
    """Y − T."""
    return Y - one_hot(xp, targets, len(Y), Y.dtype)


def one_hot(xp: Any, targets: Any, num_classes: int, dtype: Any) -> Float[Any, "C n"]:
    """T, of labels or of distributions."""
    if targets.ndim == 2:
        return targets.T
    classes = xp.arange(num_classes, dtype=targets.dtype)
    return (targets[None, :] == classes[:, None]).astype(dtype)


# --- In float64, exact relative to themselves however small they are, for distributions T (C, n) ---------------------


def softmax(Z: Float[np.ndarray, "C n"]) -> Float[np.ndarray, "C n"]:
    """Y."""
    Y = Z - Z.max(axis=0)
    np.exp(Y, out=Y)
    Y /= Y.sum(axis=0)
    return Y


def exact_residual(Y: Float[np.ndarray, "C n"], T: Float[np.ndarray, "C n"]) -> Float[np.ndarray, "C n"]:
    """Y − T, with minus the sum of the others in place of y − 1 where a target is certain."""
    certain = T == 1
    others = np.where(certain, 0, Y).sum(axis=0)
    return np.where(certain, -others, Y - T)


def exact_losses(Z: Float[np.ndarray, "C n"], T: Float[np.ndarray, "C n"]) -> Float[np.ndarray, " n"]:
    """Each row's cross-entropy: Σ T (m − Z) + log(1 + Σ exp(Z − m) but for the largest)."""
    below = Z.max(axis=0) - Z
    others = np.exp(-below)
    others[below.argmin(axis=0), np.arange(Z.shape[1])] = 0
    return np.sum(T * below, axis=0) + np.log1p(others.sum(axis=0))


def rise(Y: Float[np.ndarray, "C n"], T: Float[np.ndarray, "C n"], u: Float[np.ndarray, " C"]) -> Float[Any, " n"]:
    """By how much each row's loss rises as u is added to its logits: log Σ_j y_j exp(u_j − u_t) − Σ_j T_j (u_j − u_t).

    Its t is the likeliest target: what then adds up is as small as 1 − y_t, and nothing is lost.
    """
    likeliest = T.argmax(axis=0)
    targets = np.unique(likeliest)  # fewer than the rows
    differences = u - u[targets, None]
    own = np.searchsorted(targets, likeliest), np.arange(len(likeliest))
    # For all of these targets: of ten classes the product takes a third of the time that it takes to choose first.
    return np.log1p((np.expm1(differences) @ Y)[own]) - (differences @ T)[own]
