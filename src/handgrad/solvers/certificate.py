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

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from handgrad.shapes import Bool, Float
from handgrad.solvers.data import Data, Folds, as_given, times_centre
from handgrad.solvers.penalty import L2

BIAS_STEPS = 100
LOGIT_BYTES = 2**27  # of the logits of the problems that are certified together
PIECE_BYTES = 2**21  # of the logits that are looked at together, which then stay in the cache
MOVED = 3e-7  # in nats
WHOLE_CLASSES = 400  # for which G is formed
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
    group = max(1, LOGIT_BYTES // (8 * data.parts.num_rows * V.shape[2]))
    parts = []
    for start in range(0, len(V), group):
        part = slice(start, start + group)
        parts.append(_certify(data, V[part], folds.weights[:, fold[part]], folds.present[fold[part]], L2(l2[part])))
    return Certified(*map(np.concatenate, zip(*parts, strict=True)))


def _certify(data: Data, V: np.ndarray, weights: np.ndarray, present: np.ndarray, given: L2) -> Certified:
    K, C = V.shape[0], V.shape[2]
    most = float(np.finfo(data.dtype).max)
    W = np.clip(V[:, :-1] * data.scale, -most, most).astype(data.dtype)
    W = np.where(present[:, None], W, 0)
    V = np.concatenate([W / data.scale, np.where(present, V[:, -1], 0)[:, None]], axis=1)
    without_bias = np.concatenate([V[:, :-1], np.zeros((K, 1, C))], axis=1)
    # Kept where that is cheap, else computed anew each time that they are gone over.
    kept = None
    if 8 * data.parts.num_rows * K * C <= LOGIT_BYTES:
        kept = np.empty((K, C, data.parts.num_rows))
        for rows, block in data.blocks():
            kept[..., rows] = block.times(without_bias)

    def pieces(k: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The logits without bias, targets and weights of problem k, of the rows and classes that it has."""
        if kept is not None:
            size = max(1, PIECE_BYTES // (8 * C))
            for rows in (slice(start, start + size) for start in range(0, data.parts.num_rows, size)):
                yield _restrict(kept[k][:, rows].T, _distributions(data, rows), weights[rows, k], present[k])
            return
        for rows, block in data.blocks():
            Z = block.times(without_bias[k : k + 1])[0].T
            yield _restrict(Z, _distributions(data, rows), weights[rows, k], present[k])

    minima = [Minimum(V[k, -1, present[k]], 0.0, 0.0) for k in range(K)]
    if data.intercept:
        minima = [minimise_bias(lambda k=k: pieces(k), minima[k].b, data.parts.sum) for k in range(K)]
    biases = [_rounded(data, W[k], V[k, -1], minima[k].b, present[k]) for k in range(K)]
    b, best, added = map(np.stack, zip(*biases, strict=True))
    V[:, -1] = best
    sums = _sums(data, kept, V, weights, present, added)

    penalty = L2(given.strength * data.scale**2)
    at_best, here, trace = sums.at_best, sums.here, sums.trace
    loss = sums.loss + penalty.value(V[:, :-1])
    decrement, kappa = (np.array([minimum[i] for minimum in minima]) for i in (1, 2))
    left = 5 * np.sqrt(trace * decrement) + 4 * EPS * np.sqrt(trace)  # the latter for the rounding of the sums
    excess = np.maximum(sums.excess, 0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bound = penalty.gap(penalty.distance(at_best[:, :-1], V[:, :-1]) + left)
    rounding = EPS * (4 + sums.largest) * sums.loss
    gap = np.where(kappa <= 0.5, bound + excess + decrement + rounding, np.inf)
    gap = np.where(given.strength > 0, np.minimum(gap, loss), np.where(loss == 0, 0, np.inf))  # no F is below 0
    of_bias = np.sum(here[:, -1] ** 2, axis=1)
    solver_norm = penalty.distance(here[:, :-1], V[:, :-1])
    norm, solver_norm = (np.hypot(distance, np.sqrt(of_bias)) for distance in (solver_norm / data.scale, solver_norm))
    return Certified(W, b, V, loss, gap, excess, norm, solver_norm)


def _rounded(
    data: Data, W: np.ndarray, start: np.ndarray, b: Float[np.ndarray, " c"], classes: Bool[np.ndarray, " C"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bias as it is returned, b* of all classes, and by how much the logits of the former exceed those of b*."""
    best = np.array(start, np.float64)
    best[classes] = b
    params = as_given(data, W, best, classes)
    added = np.zeros_like(best)
    if data.intercept:
        added[classes] = (params.b[0] + times_centre(data.centre, W) - best)[classes]
    return params.b, best, added


class _Sums(NamedTuple):
    """Sums over the rows, of K problems: at b* and, where it differs, at the bias that is returned."""

    loss: Float[np.ndarray, " K"]  # at the latter
    largest: Float[np.ndarray, " K"]  # the largest logit
    excess: Float[np.ndarray, " K"]  # f(b) − f(b*)
    trace: Float[np.ndarray, " K"]  # tr A
    here: Float[np.ndarray, "K P+1 C"]  # the gradients of the mean loss
    at_best: Float[np.ndarray, "K P+1 C"]


def _sums(
    data: Data, kept: np.ndarray | None, V: np.ndarray, weights: np.ndarray, present: np.ndarray, added: np.ndarray
):
    """One reading of X, and another one of its rows where their logits are not kept."""
    K, _, C = V.shape
    # Whether the gradients at the two biases differ by more than float32 shows of their norm.
    moved = bool(np.any(np.ptp(added, axis=1) > MOVED))
    loss, largest, excess, trace = np.zeros((4, K))
    total = np.zeros(((1 + moved) * K, *V.shape[1:]))
    for rows, block in data.blocks():
        Z = block.times(V) if kept is None else kept[..., rows] + V[:, -1, :, None]
        T, w = _distributions(data, rows), weights[rows]
        trace += block.row_squares() @ w
        D = np.zeros(((1 + moved) * K, C, len(T)))
        for k in range(K):
            counted = w[:, k] > 0
            if not counted.any():
                continue
            at_rows = np.ix_(counted, present[k])
            best, own, weight = Z[k].T[at_rows], T[at_rows], w[counted, k]
            Y, u = softmax(best), added[k, present[k]]
            excess[k] += weight @ rise(Y, own, u)
            D[k].T[at_rows] = weight[:, None] * residual(Y, own)
            at = best + u
            loss[k] += weight @ losses(at, own)
            largest[k] = max(largest[k], np.abs(at).max())
            if moved:
                D[K + k].T[at_rows] = weight[:, None] * residual(softmax(at), own)
        total += block.transposed_times(D)
    largest = data.parts.gather(largest).max(axis=0)
    loss, excess, trace, total = data.parts.sum((loss, excess, trace, total))
    return _Sums(loss, largest, excess, trace, total[-K:], total[:K])


def rise(Y: Float[np.ndarray, "N C"], T: Float[np.ndarray, "N C"], u: Float[np.ndarray, " C"]) -> np.ndarray:
    """By how much each row's loss rises as u is added to its logits: log Σ_j y_j exp(u_j − u_t) − Σ_j T_j (u_j − u_t).

    Its t is the likeliest target: what then adds up is as small as 1 − y_t, and nothing is lost.
    """
    differences = u - u[T.argmax(axis=1)][:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        return np.log1p(np.sum(Y * np.expm1(differences), axis=1)) - np.sum(T * differences, axis=1)


# --- min over b ----------------------------------------------------------------------------------------------------


class Minimum(NamedTuple):
    """b*, and the λ² and κ that rounding leaves."""

    b: Float[np.ndarray, " C"]
    decrement: float
    kappa: float


Pieces = Callable[[], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]]


def minimise_bias(pieces: Pieces, b: Float[np.ndarray, " C"], over_processes: Callable = lambda sums: sums) -> Minimum:
    """The bias that minimises f(b) = Σ w l(Z + b, T), for classes that all have weight.

    Newton's method: the gradient is Σ w(Y − T), the Hessian G = Σ w (diag y − yyᵀ), new in each step. A step of range Δ
    is multiplied by log(1 + Δ)/Δ, with which it goes down from anywhere; far away it takes turns with the step of
    generalised iterative scaling, log π − log Σ w y, which goes down too, and far where a class is rare.

    Args:
      pieces: gives Z (n, C), T (n, C) and w (n,) of some rows after the other, each time that it is called.
      b: where to begin.
      over_processes: adds up sums over the rows of each process.
    """
    shares, before = over_processes(sum(w @ T for _, T, w in pieces())), np.inf
    if not shares.any():
        return Minimum(b, 0.0, 0.0)
    for number in range(BIAS_STEPS):
        newton = _newton_step(pieces, b, shares, over_processes)
        step, spread = newton.step, float(np.ptp(newton.step))
        kappa = np.sqrt(newton.resistance * newton.decrement)
        # From here on rounding decides.
        if not kappa > 1e-13 or (spread < 1e-3 and newton.decrement > before / 2):
            break
        before = newton.decrement
        if spread > 0.5 and number % 2 == 0:
            b = b + np.log(shares / newton.mean)
        else:
            b = b + step * (np.log1p(spread) / spread)
    else:
        kappa = np.inf
    return Minimum(b, newton.decrement, kappa if np.isfinite(kappa) else np.inf)


class _Newton(NamedTuple):
    """−G⁺∇f, bounds on λ² and on R, and Σ w y."""

    step: Float[np.ndarray, " C"]
    decrement: float
    resistance: float
    mean: Float[np.ndarray, " C"]


def _newton_step(pieces: Pieces, b: np.ndarray, shares: np.ndarray, over_processes: Callable) -> _Newton:
    whole, hub = len(b) <= WHOLE_CLASSES, int(shares.argmax())

    def sums(Z, T, w):
        Y = softmax(Z + b)
        wY = w[:, None] * Y
        return w @ residual(Y, T), wY.sum(axis=0), wY.T @ (Y if whole else Y[:, hub])

    gradient, mean, second = over_processes(tuple(map(sum, zip(*(sums(*piece) for piece in pieces()), strict=True))))
    nothing = _Newton(np.zeros_like(mean), 0.0, np.inf, mean)
    if not mean.all():
        return nothing
    if whole:
        return _by_inverse(gradient, mean, second) or nothing

    def times(v):
        """Gv."""
        mixed = (Y.T @ (w * (Y @ v)) for Y, w in ((softmax(Z + b), w) for Z, _, w in pieces()))
        return mean * v - over_processes(sum(mixed))

    return _by_conjugate_gradients(times, gradient, mean, second, hub)


def _by_inverse(gradient: np.ndarray, mean: np.ndarray, second: np.ndarray) -> _Newton | None:
    """The step with G itself; R is at most 4 times the largest entry of the diagonal of G⁺.

    In units in which Σ w y is 1, so that rare classes count as others. √(Σ w y) is the eigenvector of eigenvalue 0
    there; its square, added, makes the matrix invertible and changes nothing for vectors whose entries sum to 0.
    """
    root = np.sqrt(mean)
    # Its rows sum to 0, which gives the diagonal, Σ w y(1 − y), without a difference of near numbers.
    G = -second
    np.fill_diagonal(G, 0)
    np.fill_diagonal(G, -G.sum(axis=1))
    try:
        inverse = np.linalg.inv(G / root[:, None] / root + np.outer(root, root))
    except np.linalg.LinAlgError:
        return None
    step = -(inverse @ (gradient / root)) / root
    diagonal = np.diagonal(inverse) / mean
    resistance = 4 * float(diagonal.max()) if (diagonal > 0).all() else np.inf
    return _Newton(step - step.mean(), abs(float(gradient @ step)), resistance, mean)


def _by_conjugate_gradients(
    times: Callable, gradient: np.ndarray, mean: np.ndarray, conductance: np.ndarray, hub: int
) -> _Newton:
    """The step where G would be too large to form, to a thousandth; what is left of Gδ = −∇f is counted in λ.

    G is the Laplacian of a network in which classes j and k are joined by the conductance Σ w y_j y_k. No resistance in
    it is more than that of the way over one class alone, the hub: R ≤ 2 max_j 1/Σ w y_j y_hub; and for r whose entries
    sum to 0, rᵀG⁺r ≤ R (Σ|r|/2)².
    """
    with np.errstate(divide="ignore"):
        resistance = 2 * float(np.max(1 / np.delete(conductance, hub)))
    step, residue = np.zeros_like(gradient), -gradient
    z = residue / mean
    direction, product = z - z.mean(), residue @ z
    first = np.abs(residue).sum()
    for _ in range(50):
        if not np.abs(residue).sum() > 1e-3 * first:
            break
        G_direction = times(direction)
        curvature = direction @ G_direction
        if not curvature > 0:
            break
        step = step + product / curvature * direction
        residue = residue - product / curvature * G_direction
        z = residue / mean
        product, last = residue @ z, product
        direction = z + product / last * direction
        direction = direction - direction.mean()
    left = np.sqrt(resistance) * np.abs(residue).sum() / 2
    # gᵀG⁺g ≤ (‖Gδ‖ + ‖g + Gδ‖)² in the norm of G⁺, and δᵀGδ = −(g + r)ᵀδ.
    decrement = (np.sqrt(max(float(-(gradient + residue) @ step), 0.0)) + left) ** 2
    return _Newton(step - step.mean(), float(decrement), resistance, mean)


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


def _restrict(Z: np.ndarray, T: np.ndarray, w: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Of the rows that have weight, these classes."""
    rows = w > 0
    if not rows.all():
        Z, T, w = Z[rows], T[rows], w[rows]
    return (Z, T, w) if classes.all() else (Z[:, classes], T[:, classes], w)


def _distributions(data: Data, rows: slice) -> Float[np.ndarray, "n C"]:
    """T of some rows."""
    targets = data.targets[rows]
    if targets.ndim == 2:
        return targets
    T = np.zeros((len(targets), data.num_classes))
    T[np.arange(len(targets)), targets] = 1
    return T
