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

Reference: Sun and Tran-Dinh, *Generalized self-concordant functions* (2019).
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from handgrad.formulas.by_row import exact_losses, exact_residual, rise, softmax
from handgrad.rows import Block
from handgrad.shapes import Bool, Float
from handgrad.solvers.bias import BIAS_STEPS, ROUGH_STEPS, Minimum, minimise_bias
from handgrad.solvers.data import Data, as_given, times_centre
from handgrad.solvers.folds import Folds
from handgrad.solvers.penalty import L2
from handgrad.solvers.sums import pieces

LOGIT_BYTES = 2**27  # of the logits of the problems that are certified together
FEW_BYTES = 2**22  # of rows that are held
MOVED = 3e-7  # in nats
EPS = float(np.finfo(np.float64).eps)

Blocks = Callable[[], Iterable[tuple[slice, Block]]]


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
    V: Float[np.ndarray, "J P1 C"]
    loss: Float[np.ndarray, " J"]
    gap: Float[np.ndarray, " J"]
    excess: Float[np.ndarray, " J"]
    gradient_norm: Float[np.ndarray, " J"]
    solver_norm: Float[np.ndarray, " J"]


def certify(
    data: Data,
    V: Float[np.ndarray, "J P1 C"],
    folds: Folds,
    fold: np.ndarray,
    l2: Float[np.ndarray, " J"],
    *,
    broken_off: Bool[np.ndarray, " J"] | bool = False,
) -> Certified:
    """The parameters that are returned for V of the solver, and what is true of them. Two passes over the data.

    Args:
      data: as `prepare` gives it.
      V: in the solver's coordinates, finite.
      folds: the weights of the rows, and the classes that there are.
      fold: which of them each problem has.
      l2: the penalties.
      broken_off: which of them are not thought to be near the optimum, so that a bias that costs much is not worth it.
    """
    steps = np.where(np.broadcast_to(broken_off, len(V)), ROUGH_STEPS, BIAS_STEPS)
    # All processes take as many at once, whatever rows they have.
    num_rows = -(-data.parts.shape[0] // data.parts.num_processes)
    group = max(1, LOGIT_BYTES // (8 * num_rows * V.shape[2]))
    parts = []
    for start in range(0, len(V), group):
        part = slice(start, start + group)
        of_part = folds.weights[:, fold[part]], folds.present[fold[part]], L2(l2[part]), steps[part]
        with np.errstate(all="ignore"):  # what leaves the range has no finite gap
            parts.append(_certify(data, V[part], *of_part))
    return Certified(*map(np.concatenate, zip(*parts, strict=True)))


def _certify(
    data: Data, V: np.ndarray, weights: np.ndarray, present: np.ndarray, given: L2, steps: np.ndarray
) -> Certified:
    K, C = V.shape[0], V.shape[2]
    most = float(np.finfo(data.dtype).max)
    W = np.clip(V[:, :-1] * data.scale, -most, most).astype(data.dtype)
    W *= present[:, None]
    start = np.where(present, V[:, -1], 0)
    V = np.concatenate([W / data.scale, np.zeros((K, 1, C))], axis=1)  # which has its bias last
    # Kept where that is cheap, else computed anew each time that they are gone over.
    kept, blocks = None, _held(data.blocks, data.parts.num_rows, data.num_features)
    if 8 * data.parts.num_rows * K * C <= LOGIT_BYTES:
        kept = np.empty((K, C, data.parts.num_rows))
        for rows, block in blocks():
            kept[..., rows] = block.times(V)

    def of_problem(k: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The logits without bias, targets and weights of problem k, of the rows and classes that it has."""
        if kept is not None:
            for rows in pieces(C, data.parts.num_rows):
                yield _restrict(kept[k][:, rows], data.distributions(rows), weights[rows, k], present[k])
            return
        for rows, block in blocks():
            Z = block.times(V[k : k + 1])[0]
            yield _restrict(Z, data.distributions(rows), weights[rows, k], present[k])

    minima = [Minimum(start[k, present[k]], 0.0, 0.0) for k in range(K)]
    if data.intercept:
        over = [_held(functools.partial(of_problem, k), data.parts.num_rows, K * C) for k in range(K)]
        minima = [minimise_bias(over[k], minima[k].b, data.parts.sum, rough_steps=steps[k]) for k in range(K)]
    biases = [_rounded(data, W[k], start[k], minima[k].b, present[k]) for k in range(K)]
    b, best, added = map(np.stack, zip(*biases, strict=True))
    V[:, -1] = best
    sums = _sums(data, blocks, kept, V, weights, present, added)

    penalty = L2(given.strength * data.scale**2)
    distances = [penalty.distance(dV[:, :-1] + penalty.gradient(V[:, :-1])) for dV in sums.gradients]
    loss = sums.loss + penalty.value(V[:, :-1])
    decrement, kappa = (np.array([minimum[i] for minimum in minima]) for i in (1, 2))
    about_zero = np.zeros(data.num_features)
    if data.parts.is_sparse:  # whose logits and gradients are differences of those about 0, rounded before
        about_zero = data.scale * np.abs(data.centre)
    largest = sums.largest + 2 * (about_zero @ np.abs(V[:, :-1])).max(axis=1)
    rounding = EPS * (4 + largest) * np.sqrt(sums.trace + about_zero @ about_zero)
    left = 5 * np.sqrt(sums.trace * decrement) + rounding
    excess = np.maximum(sums.excess, 0)
    bound = penalty.gap(distances[0] + left)
    rounding = EPS * (4 + largest) * sums.loss
    gap = np.where(kappa <= 0.5, bound + excess + decrement + rounding, np.inf)
    gap = np.where(given.strength > 0, np.minimum(gap, loss), np.where(loss == 0, 0, np.inf))  # no F is below 0
    of_bias = np.linalg.norm(sums.gradients[-1][:, -1], axis=1)
    norm, solver_norm = (np.hypot(distances[-1] / scale, of_bias) for scale in (data.scale, 1))
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
    gradients: list[Float[np.ndarray, "K P1 C"]]  # of the mean loss, at b* first


def _held(pieces: Callable[[], Iterable[Any]], num_rows: int, columns: int) -> Callable[[], Iterable[Any]]:
    """What goes over these pieces of rows in float64, which of few are made once."""
    if 8 * num_rows * columns > FEW_BYTES:
        return pieces
    held = list(pieces())
    return lambda: held


def _sums(
    data: Data,
    blocks: Blocks,
    kept: np.ndarray | None,
    V: np.ndarray,
    weights: np.ndarray,
    present: np.ndarray,
    added: np.ndarray,
) -> _Sums:
    """One reading of X, and another one of its rows where their logits are not kept."""
    K = len(V)
    # Whether the gradients at the two biases differ by more than float32 shows of their norm.
    moved = bool(np.any(np.ptp(added, axis=1) > MOVED))
    loss, largest, excess, trace = np.zeros((4, K))
    total = np.zeros(((1 + moved) * K, *V.shape[1:]))
    for rows, block in blocks():
        Z = block.times(V) if kept is None else kept[..., rows] + V[:, -1, :, None]
        T, w = data.distributions(rows), weights[rows]
        trace += block.row_squares() @ w
        D = np.zeros(((1 + moved) * K, *T.shape))
        for k, piece in itertools.product(range(K), pieces(*T.shape)):
            counted = w[piece, k] > 0
            if not counted.any():
                continue
            everything = counted.all() and present[k].all()
            chosen = slice(None) if everything else np.ix_(present[k], counted)
            best, own, weight = Z[k][:, piece][chosen], T[:, piece][chosen], w[piece, k][counted]
            Y, u = softmax(best), added[k, present[k]]
            excess[k] += weight @ rise(Y, own, u)
            D[k][:, piece][chosen] = weight * exact_residual(Y, own)
            at = best + u[:, None]
            loss[k] += weight @ exact_losses(at, own)
            largest[k] = max(largest[k], np.abs(at).max())
            if moved:
                D[K + k][:, piece][chosen] = weight * exact_residual(softmax(at), own)
        total += block.transposed_times(D)
    largest = data.parts.gather(largest).max(axis=0)
    loss, excess, trace, total = data.parts.sum((loss, excess, trace, total))
    return _Sums(loss, largest, excess, trace, [total[:K], *([total[K:]] if moved else [])])


def _restrict(
    Z: np.ndarray, T: np.ndarray, w: np.ndarray, classes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the rows that have weight, these classes."""
    rows = w > 0
    if not rows.all():
        Z, T, w = Z[:, rows], T[:, rows], w[rows]
    return (Z, T, w) if classes.all() else (Z[classes], T[classes], w)
