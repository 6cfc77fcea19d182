"""Softmax, Y − T and the losses of rows in float64, exact relative to themselves however small they are."""

import numpy as np

from handgrad.shapes import Float


def softmax(Z: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Y."""
    Y = Z - Z.max(axis=1, keepdims=True)
    np.exp(Y, out=Y)
    Y /= Y.sum(axis=1, keepdims=True)
    return Y


def residual(Y: Float[np.ndarray, "N C"], T: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Y − T, exact relative to itself where a target is certain: y − 1 is then minus the sum of the others."""
    certain = T == 1
    others = np.sum(Y, axis=1, keepdims=True, where=~certain)
    return np.where(certain, -others, Y - T)


def losses(Z: Float[np.ndarray, "N C"], T: Float[np.ndarray, "N C"]) -> Float[np.ndarray, " N"]:
    """Each row's cross-entropy, exact relative to itself: Σ T (m − Z) + log(1 + Σ exp(Z − m) but for the largest)."""
    below = Z.max(axis=1, keepdims=True) - Z
    others = np.exp(-below)
    others[np.arange(len(Z)), below.argmin(axis=1)] = 0
    return np.einsum("nc,nc->n", T, below) + np.log1p(others.sum(axis=1))


def rise(Y: Float[np.ndarray, "N C"], T: Float[np.ndarray, "N C"], u: Float[np.ndarray, " C"]) -> np.ndarray:
    """By how much each row's loss rises as u is added to its logits: log Σ_j y_j exp(u_j − u_t) − Σ_j T_j (u_j − u_t).

    Its t is the likeliest target: what then adds up is as small as 1 − y_t, and nothing is lost.
    """
    differences = u - u[T.argmax(axis=1)][:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.log1p(np.sum(Y * np.expm1(differences), axis=1)) - np.sum(T * differences, axis=1)
