r"""How far given parameters are from the optimum: proved of the very parameters that are returned, in float64.

The parameters W are taken as they are returned, rounded to their dtype. With f(b) = F(W, b) and b* its minimiser,

    F(W, b) − min F = [f(b) − f(b*)] + [f(b*) − min F]        f(b*) − min F ≤ ‖∇_W F(W, b*)‖² / (2·l2)

since F is l2-strongly convex in W once b is minimised out. It is also the duality gap: the dual point Y = softmax(Z) is
feasible where Σ w(Y − T) = 0, which is ∇_b = 0, and has the value Σ w H(y_i) − ‖∇_W − l2·W‖²/(2·l2); F less that is the
right side. Without ∇_b = 0 it is no bound at all.

b* is found by Newton's method on C numbers, up to rounding, and what rounding leaves is counted. With G = ∇²f, λ² the
decrement ∇fᵀG⁺∇f, and R = max_jk (e_j − e_k)ᵀG⁺(e_j − e_k), a change v of the bias has a range ρ ≤ √R·h, h² = vᵀGv.
Along it the third derivative of log-sum-exp is at most ρ times the second, so with ψ(x) = e^(−x) + x − 1, which makes
ψ(ρ)/ρ² fall with ρ,

    f(b + v) − f(b) ≥ −λh + h²·ψ(ρ)/ρ² ≥ (ψ(x) − κx)/R        x = √R·h        κ = √R·λ

whose minimum over x is −(κ + (1 − κ) log(1 − κ))/R ≥ −λ² where κ ≤ 1/2. There v = b* − b has x ≤ 1.6 and h ≤ 3.2λ, and
with ‖(diag y − yyᵀ)v‖² ≤ ½ vᵀ(diag y − yyᵀ)v the gradient moves by

    ‖∇_W(b*) − ∇_W(b)‖ ≤ √(tr A · e^1.6 h²/2) ≤ 5·√(tr A)·λ        A = Σ w (x − μ)(x − μ)ᵀ

The bias that is returned is b* − μW, rounded to the dtype. Where that adds u to the logits it costs
Σ w (log Σ_j y_j exp(u_j) − ⟨T, u⟩).

References: Sun and Tran-Dinh, *Generalized self-concordant functions* (2019); Darroch and Ratcliff, *Generalized
iterative scaling for log-linear models* (1972).
"""

from typing import NamedTuple

import numpy as np

from handgrad.shapes import Bool, Float
from handgrad.solvers.data import Data, Folds, as_given, times_centre

BIAS_STEPS = 100
LOGIT_BYTES = 2**27  # of the logits of the problems that are certified together
MOVED = 3e-7  # in nats
EPS = float(np.finfo(np.float64).eps)


class Certified(NamedTuple):
    """J sets of parameters, and what is true of them.

    Attributes:
      W, b: (J, P, C) and (J, 1, C), for the data as they were given, in the dtype of the fit.
      V: the same in the solver's coordinates, in float64, with b* for the bias, (J, P+1, C).
      loss: F(W, b), (J,).
      gap: a bound on F(W, b) − min F, infinite where there is none, (J,).
      excess: how much of the gap is due to the rounding of b, (J,).
      gradient_norm: ‖∇F(W, b)‖ for the features about their mean, (J,).
      solver_norm: that in the solver's coordinates, s times as large in W, (J,).
    """

    W: np.ndarray
    b: np.ndarray
    V: Float[np.ndarray, "J P+1 C"]
    loss: Float[np.ndarray, " J"]
    gap: Float[np.ndarray, " J"]
    excess: Float[np.ndarray, " J"]
    gradient_norm: Float[np.ndarray, " J"]
    solver_norm: Float[np.ndarray, " J"]


def certify(
    data: Data,
    V: Float[np.ndarray, "J P+1 C"],
    folds: Folds,
    fold: np.ndarray,
    l2: Float[np.ndarray, " J"],
) -> Certified:
    """The parameters that are returned for V of the solver, and what is true of them. Two passes over the data.

    Args:
      data: as `prepare` gives it.
      V: in the solver's coordinates, finite.
      folds: the weights of the rows, and the classes that there are.
      fold: which of them each problem has.
      l2: the penalties.
    """
    group = max(1, LOGIT_BYTES // (8 * data.X.shape[0] * V.shape[2]))
    parts = []
    for start in range(0, len(V), group):
        part = slice(start, start + group)
        parts.append(_certify(data, V[part], folds.weights[:, fold[part]], folds.present[fold[part]], l2[part]))
    return Certified(*map(np.concatenate, zip(*parts, strict=True)))


def _certify(data: Data, V: np.ndarray, weights: np.ndarray, present: np.ndarray, l2: np.ndarray) -> Certified:
    K, C = V.shape[0], V.shape[2]
    most = float(np.finfo(data.dtype).max)
    W = np.clip(V[:, :-1] * data.scale, -most, most).astype(data.dtype)
    W = np.where(present[:, None], W, 0)
    Z, squares = _logits(data, W / data.scale)
    T = data.targets if data.targets.ndim == 2 else np.eye(C)[data.targets]
    biases = [_certify_bias(data, W[k], V[k, -1], Z[:, k], T, weights[:, k], present[k]) for k in range(K)]
    b, best, loss, rounding, excess, decrement, kappa, moved, D, D_best = map(np.stack, zip(*biases, strict=True))

    V = np.concatenate([W / data.scale, best[:, None]], axis=1)
    penalty = l2 * data.scale**2
    loss += penalty / 2 * np.sum(V[:, :-1] ** 2, axis=(1, 2))
    of_penalty = penalty[:, None, None] * V[:, :-1]
    dW_best = _transposed_times(data, D_best) + of_penalty
    dW = _transposed_times(data, D) + of_penalty if moved.any() else dW_best
    trace = squares @ weights
    left = 5 * np.sqrt(trace * decrement) + 4 * EPS * np.sqrt(trace)  # the latter for the rounding of the sums
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bound = (np.sqrt(np.sum(dW_best**2, axis=(1, 2))) + left) ** 2 / (2 * penalty)
    gap = np.where(kappa <= 0.5, bound + excess + decrement + rounding, np.inf)
    gap = np.where(l2 > 0, np.minimum(gap, loss), np.where(loss == 0, 0, np.inf))  # no F is below 0
    db = np.sum(D, axis=1)
    of_bias = np.sum(db**2, axis=1)
    norm, solver_norm = (np.sqrt(np.sum(of**2, axis=(1, 2)) + of_bias) for of in (dW / data.scale, dW))
    return Certified(W, b, V, loss, gap, excess, norm, solver_norm)


def _certify_bias(
    data: Data,
    W: np.ndarray,
    start: np.ndarray,
    Z: np.ndarray,
    T: np.ndarray,
    weights: np.ndarray,
    classes: Bool[np.ndarray, " C"],
):
    """Of one problem: b as it is returned, b*, the mean loss, its rounding, f(b) − f(b*), λ², κ, and D at b and b*.

    Before these, whether the two D differ by more than float32 shows of the gradient's norm.
    """
    rows = weights > 0
    w, Z, T = weights[rows], _restrict(Z, rows, classes), _restrict(T, rows, classes)
    found = minimise_bias(Z, T, w, start[classes])
    best = np.array(start, np.float64)
    best[classes] = found.b
    params = as_given(data, W, best, classes)
    # How much the logits of params exceed those of W with b*.
    added = np.asarray(params.b[0] + times_centre(data.centre, W) - best, np.float64)[classes]
    at = Z + (found.b + added)
    excess = max(float(w @ rise(found.Y, T, added)), 0.0)
    D, D_best = np.zeros((2, len(weights), len(start)))
    at_rows = np.ix_(rows, classes)
    D[at_rows] = D_best[at_rows] = w[:, None] * residual(found.Y, T)
    if moved := float(np.ptp(added)) > MOVED if added.size else False:
        D[at_rows] = w[:, None] * residual(softmax(at), T)
    loss = float(w @ losses(at, T))
    rounding = EPS * (4 + np.max(np.abs(at), initial=0)) * loss
    return params.b, best, loss, rounding, excess, found.decrement, found.kappa, moved, D, D_best


def rise(Y: Float[np.ndarray, "N C"], T: Float[np.ndarray, "N C"], u: Float[np.ndarray, " C"]) -> np.ndarray:
    """By how much each row's loss rises as u is added to its logits: log Σ_j y_j exp(u_j − u_t) − Σ_j T_j (u_j − u_t).

    Its t is the likeliest target: what then adds up is as small as 1 − y_t, and nothing is lost.
    """
    t = T.argmax(axis=1)
    differences = u - u[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.log1p(np.sum(Y * np.expm1(differences)[t], axis=1)) - np.sum(T * differences[t], axis=1)


# --- min over b ----------------------------------------------------------------------------------------------------


class Minimum(NamedTuple):
    """b*, Y there, and the λ² and κ that rounding leaves."""

    b: Float[np.ndarray, " C"]
    Y: Float[np.ndarray, "N C"]
    decrement: float
    kappa: float


def minimise_bias(Z: Float[np.ndarray, "N C"], T: np.ndarray, w: np.ndarray, b: Float[np.ndarray, " C"]) -> Minimum:
    """The bias that minimises f(b) = Σ w l(Z + b, T), for classes that all have weight.

    Newton's method: the gradient is Σ w(Y − T), the Hessian G = Σ w (diag y − yyᵀ), new in each step. A step of range Δ
    is multiplied by log(1 + Δ)/Δ, with which it goes down from anywhere; far away it takes turns with the step of
    generalised iterative scaling, log π − log Σ w y, which goes down too, and far where a class is rare.
    """
    if not len(w):
        return Minimum(b, softmax(Z), 0.0, 0.0)
    shares, before = w @ T, np.inf
    for number in range(BIAS_STEPS):
        Y = softmax(Z + b)
        gradient = w @ residual(Y, T)
        step, resistance = _newton_step(Y, w, gradient)
        decrement, spread = float(-gradient @ step), float(np.ptp(step))
        kappa = np.sqrt(resistance * abs(decrement))
        # From here on rounding decides.
        if not kappa > 1e-13 or (spread < 1e-3 and decrement > before / 2):
            break
        before = decrement
        if spread > 0.5 and number % 2 == 0:
            b = b + np.log(shares / (w @ Y))
        else:
            b = b + step * (np.log1p(spread) / spread)
    else:
        kappa = np.inf
    return Minimum(b, Y, abs(decrement), kappa if np.isfinite(kappa) else np.inf)


def _newton_step(Y: np.ndarray, w: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, float]:
    """−G⁺∇f, and a bound on R, which is at most 4 times the largest entry of the diagonal of G⁺.

    In units in which Σ w y is 1, so that rare classes count as others. √(Σ w y) is the eigenvector of eigenvalue 0
    there; its square, added, makes the matrix invertible and changes nothing for vectors whose entries sum to 0.
    """
    mean = w @ Y
    root = np.sqrt(mean)
    if not root.all():
        return np.zeros_like(mean), np.inf
    # Its rows sum to 0, which gives the diagonal, Σ w y(1 − y), without a difference of near numbers.
    G = -(w[:, None] * Y).T @ Y
    np.fill_diagonal(G, 0)
    np.fill_diagonal(G, -G.sum(axis=1))
    try:
        inverse = np.linalg.inv(G / root[:, None] / root + np.outer(root, root))
    except np.linalg.LinAlgError:
        return np.zeros_like(mean), np.inf
    step = -(inverse @ (gradient / root)) / root
    diagonal = np.diagonal(inverse) / mean
    return step - step.mean(), 4 * float(diagonal.max()) if (diagonal > 0).all() else np.inf


# --- Softmax and products in float64 -------------------------------------------------------------------------------


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


def _restrict(array: np.ndarray, rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
    array = array if rows.all() else array[rows]
    return array if classes.all() else array[:, classes]


def _logits(data: Data, W: Float[np.ndarray, "K P C"]) -> tuple[Float[np.ndarray, "N K C"], Float[np.ndarray, " N"]]:
    """X'W for each of K, and ‖x'‖² of each row."""
    K, P, C = W.shape
    columns = W.transpose(1, 0, 2).reshape(P, K * C)
    Z, squares = np.empty((len(data.X), K * C)), np.empty(len(data.X))
    for part, block in data.blocks():
        np.matmul(block, columns, out=Z[part])
        squares[part] = np.einsum("np,np->n", block, block)
    return Z.reshape(-1, K, C), squares


def _transposed_times(data: Data, D: Float[np.ndarray, "K N C"]) -> Float[np.ndarray, "K P C"]:
    """X'ᵀD for each of K."""
    K, N, C = D.shape
    columns = D.transpose(1, 0, 2).reshape(N, K * C)
    total = np.zeros((data.X.shape[1], K * C))
    for part, block in data.blocks():
        total += block.T @ columns[part]
    return total.reshape(-1, K, C).transpose(1, 0, 2)
