r"""Whether a fit without a penalty has a minimum, decided by a proof or not at all.

F is convex, so that it has a minimum unless some way leads down, or stays level, for ever and is not level both ways.

**It has one** if the Hessian at some point says so. Let λ be the Newton decrement there and μ the Hessian's smallest
eigenvalue. Along a direction u with uᵀHu = 1 the logits of row i have the range ρ_i ≤ √2·‖x_i‖·‖u‖ ≤ √2·‖x_i‖/√μ, and
the third derivative is at most ρ = max ρ_i times the second. The slope, −λ at worst, therefore grows to −λ + 1/ρ or
more. All slopes end above 0, and F has a minimum, if

    λ·√2·max ‖x_i‖/√μ < 1

Newton's method makes λ as small as rounding allows where there is a minimum. Features that others determine change
nothing, and are left out: x_i is in an orthonormal basis of what is left.

**It has none** if the classes can be separated: some direction lowers the logit of no row's own class against any
other's, and raises some. Logits that are right in every row are such a direction themselves. Otherwise a linear program
looks for one. It holds some rows only, to which those that it violates are added until there is none.

References: Albert and Anderson, *On the existence of maximum likelihood estimates in logistic regression models*
(1984); Bach, *Self-concordant analysis for logistic regression* (2010).
"""

from typing import NamedTuple

import numpy as np

from handgrad.formulas.by_row import exact_losses, softmax
from handgrad.shapes import Bool, Float
from handgrad.solvers.data import Data
from handgrad.solvers.folds import Folds

EPS = float(np.finfo(np.float64).eps)
NEWTON_STEPS = 30
NEWTON_OPERATIONS = 2e10  # for one Hessian: a second or so
MOST_UNKNOWNS = 1500  # of a Hessian and of a linear program
DENSE_BYTES = 2**31
ROUNDS = 60  # of the linear program
NEARLY_DETERMINED = 1e-8
FEASIBLE = 1e-9  # features are from 0 to 1 there, and the direction's entries from −1 to 1
GAIN = 1e-6


class Verdict(NamedTuple):
    """Whether there is a minimum, None where that is undecided, with the minimum in the solver's coordinates where
    Newton's method found it; or else the classes that can be separated.
    """

    exists: bool | None
    V: Float[np.ndarray, "P1 C"] | None = None
    separated: tuple[int, ...] = ()


def decide(data: Data, folds: Folds, V: Float[np.ndarray, "P1 C"]) -> Verdict:
    """Whether F of the first fold has a minimum without a penalty.

    V, in the solver's coordinates, is where Newton's method begins.
    """
    weights = folds.weights[:, 0]
    rows, classes = weights > 0, np.flatnonzero(folds.present[0])
    if len(classes) < 2 or not data.parts.sum(weights.sum()) > 0:
        return Verdict(exists=True)
    if data.parts.num_processes > 1:
        return Verdict(exists=None)
    T = data.distributions()[np.ix_(classes, rows)].T
    Z = np.concatenate([block.times(V[None, :, classes])[0].T for _, block in data.blocks()])[rows]
    if _gains(Z, T > 0).min() > 1e-12 * np.abs(Z).max():
        return Verdict(exists=False, separated=tuple(classes.tolist()))
    unknowns = (data.num_features + 1) * (len(classes) - 1)
    if unknowns > MOST_UNKNOWNS:
        return Verdict(exists=None)
    X = np.concatenate([block.dense() for _, block in data.blocks()], dtype=np.float64)[rows]
    affordable = len(X) * unknowns**2 <= NEWTON_OPERATIONS
    if affordable:
        exists, found, Z = _newton(X, T, weights[rows], Z, intercept=data.intercept)
        if exists:
            minimum = np.array(V)
            minimum[:, classes] = found
            return Verdict(exists=True, V=minimum)
    order = np.argsort(_gains(Z, T > 0).min(axis=1))
    separated = _separate(X, T > 0, order, intercept=data.intercept)
    if separated:
        return Verdict(exists=False, separated=tuple(classes[list(separated)].tolist()))
    # Where a Hessian could not prove a minimum, a program that finds no separation does not either.
    return Verdict(exists=None if separated is None or affordable else True)


def check_affordable(function: str, data: Data) -> None:
    """Check that data of which `decide` needs every number, sparse or streamed ones, are small enough for that."""
    unknowns = (data.num_features + 1) * (data.num_classes - 1)
    needed = 8 * data.parts.num_rows * data.num_features
    is_held = not (data.parts.is_sparse or data.parts.is_streamed) or data.parts.num_processes > 1
    if not is_held and unknowns <= MOST_UNKNOWNS and needed > DENSE_BYTES:
        raise ValueError(
            f"{function}: with l2=0 it has to be decided whether the loss has a minimum, for which X is made dense "
            f"in memory: {needed} bytes, more than {DENSE_BYTES}. Take l2 > 0, however small, or fewer rows."
        )


def _gains(Z: Float[np.ndarray, "N C"], own: Bool[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """By how much the least of each row's own logits exceeds each other one; for its own, how little they differ.

    All ≥ 0 for a direction Z along which no loss grows for ever.
    """
    least = np.min(np.where(own, Z, np.inf), axis=1, keepdims=True)
    most = np.max(np.where(own, Z, -np.inf), axis=1, keepdims=True)
    return np.where(own, np.where(own.sum(axis=1, keepdims=True) > 1, least - most, np.inf), least - Z)


# --- A minimum, by Newton's method ---------------------------------------------------------------------------------


def _newton(X: np.ndarray, T: np.ndarray, w: np.ndarray, Z: np.ndarray, *, intercept: bool):
    """Whether there is a minimum (None where it is not proved), V there, and its logits; begun at the logits Z."""
    mean = X.mean(axis=0) if intercept else np.zeros(X.shape[1])
    deviation = np.sqrt(np.mean((X - mean) ** 2, axis=0))
    varying = deviation > 4 * EPS * np.abs(X).max(axis=0)
    unit = np.where(varying, deviation, 1)
    U, s, Vt = np.linalg.svd((X - mean)[:, varying] / unit[varying], full_matrices=False)
    rank = int(np.sum(s > max(X.shape) * EPS * s[0])) if s.size else 0
    # A feature that is nearly determined by others is known to few digits where it is not.
    is_resolved = rank == 0 or s[rank - 1] > NEARLY_DETERMINED * s[0]
    root = np.sqrt(len(X))
    B = np.concatenate([U[:, :rank] * root, np.ones((len(X), int(intercept)))], axis=1)  # BᵀB = N·I
    contrasts = np.linalg.svd(np.ones((1, T.shape[1])))[2][1:].T  # an orthonormal basis of what sums to 0, (C, C − 1)
    if not B.size:  # no feature but such as are 0: all parameters have the same loss
        return True, np.zeros((X.shape[1] + 1, T.shape[1])), np.zeros_like(Z)
    theta = B.T @ Z @ contrasts / len(X)
    longest = np.sqrt(2 * np.max(np.sum(B**2, axis=1)))
    exists, before = None, np.inf
    for _ in range(NEWTON_STEPS):
        Y = softmax(contrasts @ (B @ theta).T).T
        gradient = (B.T @ (w[:, None] * (Y - T)) @ contrasts).ravel()
        values, vectors = np.linalg.eigh(_hessian(B, Y, w, contrasts))
        # Less what rounding may have added to it; and the gradient's rounding is added to λ.
        least = values[0] - 10 * EPS * len(values) * values[-1]
        if not least > 0:
            break
        along = vectors.T @ gradient
        decrement = np.sqrt(np.sum(along**2 / values))
        if is_resolved and (decrement + 16 * EPS * longest / np.sqrt(least)) * longest < np.sqrt(least):
            exists = True
        if exists and decrement > before / 2:  # from here on rounding decides
            break
        before = decrement
        step = -(vectors @ (along / values)).reshape(theta.shape)
        Z, dZ = B @ theta @ contrasts.T, B @ step @ contrasts.T
        part, here = 1.0, w @ exact_losses(Z.T, T.T)
        # A step of range 1/2 or less goes down, up to rounding, which is not to be taken for a rise.
        while part * np.ptp(dZ, axis=1).max() > 0.5 and not (
            w @ exact_losses((Z + part * dZ).T, T.T) <= here - 0.1 * part * decrement**2
        ):
            part /= 2
        theta = theta + part * step
    W = np.zeros((X.shape[1], T.shape[1]))
    W[varying] = Vt[:rank].T / unit[varying, None] @ (theta[:rank] * (root / s[:rank, None])) @ contrasts.T
    V = np.concatenate([W, theta[rank:].sum(axis=0, keepdims=True) @ contrasts.T - mean @ W])
    return exists, V, B @ theta @ contrasts.T


def _hessian(B: np.ndarray, Y: np.ndarray, w: np.ndarray, contrasts: np.ndarray) -> Float[np.ndarray, "D D"]:
    """Σ w x xᵀ ⊗ Qᵀ(diag y − yyᵀ)Q, Q being the contrasts."""
    d, c = B.shape[1], contrasts.shape[1]
    H = np.empty((d, c, d, c))
    mixed = Y @ contrasts
    for i in range(c):
        for j in range(i + 1):
            curvature = w * (Y @ (contrasts[:, i] * contrasts[:, j]) - mixed[:, i] * mixed[:, j])
            H[:, i, :, j] = H[:, j, :, i] = (B * curvature[:, None]).T @ B
    return H.reshape(d * c, d * c)


# --- A separation, by a linear program -----------------------------------------------------------------------------


def _separate(
    X: np.ndarray, own: Bool[np.ndarray, "N C"], order: np.ndarray, *, intercept: bool
) -> tuple[int, ...] | None:
    """The classes with a row that some direction separates from all others, () if there is none, None if undecided.

    maximise Σ gains over all rows    where each gain ≥ 0 in the rows held, and every entry of the direction in [−1, 1]

    `order` has first the rows that are likely to matter.
    """
    from scipy.optimize import linprog

    low, width = X.min(axis=0), np.ptp(X, axis=0)
    if not intercept:
        low, width = np.zeros_like(low), np.abs(X).max(axis=0)
    features = (X[:, width > 0] - low[width > 0]) / width[width > 0]
    features = np.append(features, np.ones((len(X), int(intercept))), axis=1)
    d, C = features.shape[1], own.shape[1]
    first = own.argmax(axis=1)
    goal = np.zeros((d, C))
    for c in range(C):
        goal[:, c] = features.T @ (np.where(first == c, (~own).sum(axis=1), 0.0) - ~own[:, c])
    batch = 2 * d * (C - 1)
    held = order[: 2 * batch]
    for _ in range(ROUNDS):
        constraints = _constraints(features[held], own[held], first[held])
        about = {"A_ub": constraints, "b_ub": np.zeros(len(constraints)), "bounds": (-1, 1)}
        for presolve in (True, False):  # after which HiGHS now and then gives up
            options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10, "presolve": presolve}
            answer = linprog(-goal[:, 1:].ravel(), options=options, **about)
            if answer.status == 0:
                break
        else:
            return None
        direction = np.concatenate([np.zeros((d, 1)), answer.x.reshape(d, C - 1)], axis=1)
        gains = _gains(features @ direction, own)
        violated = np.flatnonzero(gains.min(axis=1) < -FEASIBLE)
        if not len(violated) and np.max(gains, where=~own, initial=0) > GAIN:
            alone = np.where(own, np.inf, gains).min(axis=1) > GAIN
            return tuple(np.unique(first[alone]).tolist()) or tuple(range(C))
        if -answer.fun <= FEASIBLE:
            return ()
        new = np.setdiff1d(violated, held)
        if not len(new):
            return None
        held = np.concatenate([held, new[np.argsort(gains[new].min(axis=1))][:batch]])
    return None


def _constraints(features: np.ndarray, own: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A with A·direction ≤ 0 where no gain is negative; the first class's entries, all 0, are left out."""
    C = own.shape[1]
    rows, others = np.nonzero(np.arange(C) != first[:, None])
    A = np.zeros((len(rows), features.shape[1], C))
    each = np.arange(len(rows))
    A[each, :, others] = features[rows]
    A[each, :, first[rows]] = -features[rows]
    free = A[:, :, 1:].reshape(len(rows), -1)
    return np.concatenate([free, -free[own[rows, others]]])  # own logits are equal
