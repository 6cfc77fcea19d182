"""References for the fits in float64 NumPy and SciPy. Imports nothing from handgrad."""

import numpy as np
import scipy.optimize
from scipy.special import log_softmax, softmax


def one_hot(targets, num_classes):
    targets = np.asarray(targets)
    return targets.astype(np.float64) if targets.ndim == 2 else np.eye(num_classes)[targets]


def in_float64(X):
    """Dense or SciPy's sparse X."""
    return X.astype(np.float64) if hasattr(X, "tocsr") else np.asarray(X, np.float64)


def objective(W, b, X, T, l2, weights=None):
    """Mean cross-entropy + (l2/2)‖W‖², and its gradient."""
    X, W = in_float64(X), np.asarray(W, np.float64)
    w = np.ones(X.shape[0]) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    Z = X @ W + np.asarray(b, np.float64).reshape(1, -1)
    D = w[:, None] * (softmax(Z, axis=1) - T)
    loss = -np.sum(w[:, None] * T * log_softmax(Z, axis=1)) + l2 / 2 * np.sum(W**2)
    return loss, X.T @ D + l2 * W, D.sum(axis=0)


def relative_gap(W, b, X, targets, l2, weights=None):
    """‖∇_W‖²/(2·l2·F) with b minimised exactly: a bound on (F − min F)/F that no library had a word in."""
    T = one_hot(targets, W.shape[1])
    X = in_float64(X)
    w = np.ones(X.shape[0]) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    b = np.asarray(b, np.float64).reshape(-1)
    without_bias = X @ np.asarray(W, np.float64)
    for _ in range(30):
        Y = softmax(without_bias + b, axis=1)
        db = w @ (Y - T)
        G = np.diag(w @ Y) - (w[:, None] * Y).T @ Y
        b = b - np.linalg.pinv(G, rcond=1e-12, hermitian=True) @ db
    loss, dW, _ = objective(W, b, X, T, l2, weights)
    return np.sum(dW**2) / (2 * l2) / loss


def minimise(X, targets, num_classes, l2, weights=None):
    """The minimum by SciPy's trust-region method with exact curvature products."""
    X = np.asarray(X, np.float64)
    T, shape = one_hot(targets, num_classes), (X.shape[1] + 1, num_classes)
    w = np.ones(len(X)) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()

    def value_and_gradient(v):
        V = v.reshape(shape)
        loss, dW, db = objective(V[:-1], V[-1], X, T, l2, weights)
        return loss, np.concatenate([dW, db[None]]).ravel()

    def curvature(v, u):
        V, U = v.reshape(shape), u.reshape(shape)
        Y, dZ = softmax(X @ V[:-1] + V[-1], axis=1), X @ U[:-1] + U[-1]
        D = w[:, None] * Y * (dZ - np.sum(Y * dZ, axis=1, keepdims=True))
        return np.concatenate([X.T @ D + l2 * U[:-1], D.sum(axis=0)[None]]).ravel()

    options = {"gtol": 1e-12, "maxiter": 1000}
    found = scipy.optimize.minimize(
        value_and_gradient, np.zeros(shape).ravel(), jac=True, hessp=curvature, method="trust-ncg", options=options
    )
    V = found.x.reshape(shape)
    return found.fun, V[:-1], V[-1]


# --- What a claim is held to ---------------------------------------------------------------------------------------


def problem(X, targets, arguments):
    """X, T and weights of sum 1 in float64, of the rows and classes that have weight; and which classes those are."""
    C = arguments["num_classes"]
    X = np.asarray(X, np.float64)
    T = np.eye(C)[targets] if targets.ndim == 1 else np.asarray(targets, np.float64)
    T = T / T.sum(axis=1, keepdims=True)
    w = np.asarray(arguments.get("weights", np.ones(len(X))), np.float64)
    w = w / max(w.max(), 1e-300)
    wT = w[:, None] * T * np.asarray(arguments.get("class_weights", np.ones(C)))
    total = wT.sum()
    w = wT.sum(axis=1)
    rows, classes = w > 0, wT.sum(axis=0) > 0
    T = (wT[rows] / w[rows, None])[:, classes]
    return X[rows], T, w[rows] / (total if total > 0 else 1), classes


def exact_objective(W, b, X, T, w, l2):
    """F at W and b (C,), in long double; w of sum 1."""
    W, b, X, T, w = (np.asarray(array, np.longdouble) for array in (W, b, X, T, w))
    Z = X @ W + b
    below = Z.max(axis=1, keepdims=True) - Z
    rest = np.exp(-below)
    rest[np.arange(len(Z)), below.argmin(axis=1)] = 0
    return w @ (np.sum(T * below, axis=1) + np.log1p(rest.sum(axis=1))) + np.longdouble(l2) / 2 * np.sum(W**2)


def lowest(X, T, w, l2, starts):
    """The lowest F, in long double, that Newton's method finds from these starts, about the mean of X."""
    mean = w @ X
    X = X - mean
    N, P = X.shape
    C = T.shape[1]
    ones = np.concatenate([X, np.ones((N, 1))], axis=1)
    penalty = np.repeat(np.append(np.full(P, l2), 0), C)
    best = np.inf
    for W, b in starts:
        V = np.concatenate([W, (b + mean @ W)[None]])
        V = V - V.mean(axis=1, keepdims=True)
        F = exact_objective(V[:-1], V[-1], X, T, w, l2)
        for _ in range(200):
            Z = ones @ V
            Y = np.exp(Z - Z.max(axis=1, keepdims=True))
            Y /= Y.sum(axis=1, keepdims=True)
            gradient = (ones.T @ (w[:, None] * (Y - T))).ravel() + penalty * V.ravel()
            S = Y[:, :, None] * np.eye(C) - Y[:, :, None] * Y[:, None]
            H = np.einsum("n,np,nq,ncd->pcqd", w, ones, ones, S, optimize=True).reshape(C * (P + 1), -1)
            H += np.diag(penalty)
            size = np.sqrt(np.maximum(np.diag(H), 1e-300))
            step = -(np.linalg.pinv(H / size[:, None] / size, rcond=1e-14, hermitian=True) @ (gradient / size)) / size
            step, better = step.reshape(V.shape), False
            for halved in range(40):
                new = V + step / 2**halved
                new_F = exact_objective(new[:-1], new[-1], X, T, w, l2)
                if new_F < F:
                    V, F, better = new, new_F, True
                    break
            if not better:
                break
        best = min(best, F)
    return best


def separable(X, T):
    """Whether a direction lowers no row's own classes against another and raises some, by a linear program."""
    low, width = X.min(axis=0), np.ptp(X, axis=0)
    X = np.concatenate([(X[:, width > 0] - low[width > 0]) / width[width > 0], np.ones((len(X), 1))], axis=1)
    d, C = X.shape[1], T.shape[1]
    above, goal = [], np.zeros((d, C))
    for x, row in zip(X, T, strict=True):
        own = np.flatnonzero(row > 0)
        for c in range(C):
            gain = np.zeros((d, C))
            gain[:, own[0]] += x
            gain[:, c] -= x
            above += [gain, -gain] if row[c] > 0 else [gain]
            goal += 0 if row[c] > 0 else gain
    if not above:
        return False
    A = np.stack(above).reshape(len(above), -1)
    tolerances = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    about = {"A_ub": -A, "b_ub": np.zeros(len(A)), "bounds": (-1, 1)}
    for presolve in (True, False):  # after which HiGHS now and then gives up, though 0 is a point
        answer = scipy.optimize.linprog(-goal.ravel(), options=tolerances | {"presolve": presolve}, **about)
        if answer.success:
            return bool(-answer.fun > 1e-8)
    raise ArithmeticError(f"a linear program of {A.shape} was not solved: {answer.message}")
