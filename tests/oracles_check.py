"""Gradients as people write them, right and wrong, in NumPy; they share no line with handgrad."""

import collections

import numpy as np


def softmax(Z, axis=1):
    exponentials = np.exp(Z - Z.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def pieces(params, X, targets, weights=None):
    """Z, Y, T and each row's part of the mean, as a column."""
    W, b = params
    Z = X @ W + b
    T = np.eye(Z.shape[1], dtype=X.dtype)[targets] if targets.ndim == 1 else targets
    w = np.ones(len(X), X.dtype) if weights is None else weights
    return Z, softmax(Z), T, (w / (w.sum() or 1))[:, None]


def right(params, X, targets, weights=None):
    _, Y, T, share = pieces(params, X, targets, weights)
    D = share * (Y - T)
    return X.T @ D, D.sum(axis=0)


def right_divided_late(params, X, targets, weights=None):
    _, Y, T, _ = pieces(params, X, targets)
    D = Y - T if weights is None else weights[:, None] * (Y - T)
    n = len(X) if weights is None else weights.sum() or 1
    return {"dW": X.T @ D / n, "db": D.sum(axis=0, keepdims=True) / n}


Pieces = collections.namedtuple("Pieces", "W b X Z Y T share dW db")


def changed(change):
    """The right gradient with something else for (dW, db), made from its pieces."""

    def gradient(params, X, *data):
        dW, db = (array.copy() for array in right(params, X, *data))
        return change(Pieces(*params, X, *pieces(params, X, *data), dW, db))

    return gradient


def of_residual(residual):
    """The gradient that another dL/dZ gives."""

    def change(r):
        D = residual(r)
        return r.X.T @ D, D.sum(axis=0)

    return changed(change)


def with_rows(choose):
    """The right gradient of other rows, as a share of all."""

    def gradient(params, X, targets, weights=None):
        rows = choose(len(X))
        dW, db = right(params, X[rows], targets[rows], None if weights is None else weights[rows])
        w = np.ones(len(X)) if weights is None else weights
        return dW * w[rows].sum() / w.sum(), db * w[rows].sum() / w.sum()

    return gradient


def jacobian(Y, G):
    return Y * (G - (Y * G).sum(axis=1, keepdims=True))


def put(array, index, value):
    array[index] = value
    return array


def entry_off(dW):
    index = np.unravel_index(np.abs(dW).argmax(), dW.shape)
    return put(dW, index, 1.01 * dW[index])


# Each mistake, and what of its name stands in the diagnosis, for three classes or more.
MISTAKES = {
    "T − Y": (of_residual(lambda r: r.share * (r.T - r.Y)), "the sign is wrong"),
    "sum": (of_residual(lambda r: r.share * (r.Y - r.T) * len(r.X)), "= N"),
    "−sum": (of_residual(lambda r: r.share * (r.T - r.Y) * len(r.X)), "the sign is wrong"),
    "mean over classes": (of_residual(lambda r: r.share * (r.Y - r.T) / r.Y.shape[1]), "= 1/C"),
    "doubled": (of_residual(lambda r: 2 * r.share * (r.Y - r.T)), "2 times what is right"),
    "−5.5": (of_residual(lambda r: -5.5 * r.share * (r.Y - r.T)), "-5.5 times what is right"),
    "no T": (of_residual(lambda r: r.share * r.Y), "T is not subtracted"),
    "no Y": (of_residual(lambda r: -r.share * r.T), "Y is left out"),
    "t + 1": (of_residual(lambda r: r.share * (r.Y - np.roll(r.T, 1, axis=1))), "t + 1 stands for t"),
    "t − 1": (of_residual(lambda r: r.share * (r.Y - np.roll(r.T, -1, axis=1))), "t − 1 stands for t"),
    "axis 0": (of_residual(lambda r: r.share * (softmax(r.Z, 0) - r.T)), "the softmax goes over the rows"),
    "logits": (of_residual(lambda r: r.share * (r.Z - r.T)), "the logits stand where the probabilities should"),
    "sigmoid": (of_residual(lambda r: r.share * (1 / (1 + np.exp(-r.Z)) - r.T)), "a sigmoid"),
    "softmax of softmax": (of_residual(lambda r: r.share * (softmax(r.Y) - r.T)), "the softmax is taken twice"),
    "reversed": (of_residual(lambda r: r.share * (r.Y - r.T)[:, ::-1]), "the classes stand in reverse order"),
    "exp": (of_residual(lambda r: r.share * (np.exp(r.Z) - r.T)), "exp(Z) is not divided"),
    "no bias": (of_residual(lambda r: r.share * (softmax(r.X @ r.W) - r.T)), "the bias is not in the logits"),
    "J(Y − T)": (of_residual(lambda r: r.share * jacobian(r.Y, r.Y - r.T)), "the softmax's derivative once more"),
    "Y(1 − Y)": (of_residual(lambda r: r.share * (r.Y - r.T) * r.Y * (1 - r.Y)), "is multiplied by Y(1 − Y)"),
    "transposed": (changed(lambda r: (r.dW.T, r.db)), "dW: transposed"),
    "−5 dW": (changed(lambda r: (-5.5 * r.dW, r.db)), "dW: each entry is -5.5 times what is right"),
    "no db": (changed(lambda r: (r.dW, 0 * r.db)), "db: 0 throughout"),
    "l2": (changed(lambda r: (r.dW + 0.25 * r.W, r.db)), "dW: 0.25·W is added"),
    "a class": (changed(lambda r: (put(r.dW, np.s_[:, 1], 3 * r.dW[:, 1]), r.db)), "class 1 alone is wrong"),
    "a feature": (changed(lambda r: (put(r.dW, 2, 0), r.db)), "feature 2 alone is wrong"),
    "an entry": (changed(lambda r: (entry_off(r.dW), r.db)), "one entry alone is wrong"),
    "a row out": (with_rows(lambda N: np.arange(N) != 3), "row 3 is left out"),
    "a row twice": (with_rows(lambda N: np.r_[:N, 3]), "row 3 is counted twice"),
}
