"""The bias that minimises the loss for given W, up to rounding; what rounding leaves is bounded, see `certificate`.

References: Darroch and Ratcliff, *Generalized iterative scaling for log-linear models* (1972); Doyle and Snell, *Random
walks and electric networks* (1984).
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from handgrad.formulas.by_row import exact_residual, softmax
from handgrad.rows import product
from handgrad.shapes import Float

BIAS_STEPS = 100
# That conjugate gradients may leave rough where W was broken off far from the optimum: a hundred of them take 85 s for
# 1000 classes and 20,000 rows, after which κ is as useless.
ROUGH_STEPS = 8
WHOLE_CLASSES = 400  # for which G is formed
HELD_BYTES = 2**28  # of Y, for the products with a G that is not


class Minimum(NamedTuple):
    """b*, and the λ² and κ that rounding leaves."""

    b: Float[np.ndarray, " C"]
    decrement: float
    kappa: float


Pieces = Callable[[], Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]]


def minimise_bias(
    pieces: Pieces,
    b: Float[np.ndarray, " C"],
    over_processes: Callable = lambda sums: sums,
    *,
    rough_steps: int = BIAS_STEPS,
) -> Minimum:
    """The bias that minimises f(b) = Σ w l(Z + b, T), for classes that all have weight.

    Newton's method: the gradient is Σ w(Y − T), the Hessian G = Σ w (diag y − yyᵀ), new in each step. A step of range Δ
    is multiplied by log(1 + Δ)/Δ, with which it goes down from anywhere; far away it takes turns with the step of
    generalised iterative scaling, log π − log Σ w y, which goes down too, and far where a class is rare.

    Args:
      pieces: gives Z (C, n), T (C, n) and w (n,) of some rows after the other, each time that it is called.
      b: where to begin.
      over_processes: adds up sums over the rows of each process.
      rough_steps: after how many steps that conjugate gradients leave rough κ is given up.
    """
    shares, before = over_processes(sum(product(T, w) for _, T, w in pieces())), np.inf
    if not shares.any():
        return Minimum(b, 0.0, 0.0)
    rough = 0
    for number in range(BIAS_STEPS):
        newton = _newton_step(pieces, b, shares, over_processes)
        step, spread = newton.step, float(np.ptp(newton.step))
        kappa = np.sqrt(newton.resistance * newton.decrement)
        # From here on rounding decides.
        if not kappa > newton.enough or (spread < 1e-3 and newton.decrement > before / 2):
            break
        rough += newton.is_rough
        if rough > rough_steps or not 0 < spread < np.inf:
            kappa = np.inf
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
    """−G⁺∇f, bounds on λ² and on R, Σ w y, the κ below which nothing is to be gained, and whether the step is rough."""

    step: Float[np.ndarray, " C"]
    decrement: float
    resistance: float
    mean: Float[np.ndarray, " C"]
    enough: float = 1e-13
    is_rough: bool = False


def _newton_step(pieces: Pieces, b: np.ndarray, shares: np.ndarray, over_processes: Callable) -> _Newton:
    whole, hub = len(b) <= WHOLE_CLASSES, int(shares.argmax())

    held: list[Any] = []

    def sums(Z, T, w):
        Y = softmax(Z + b[:, None])
        if not whole and Y.nbytes + sum(array.nbytes for array, _ in held) <= HELD_BYTES:
            held.append((Y, w))
        wY = w * Y
        return product(exact_residual(Y, T), w), wY.sum(axis=1), product(wY, Y.T if whole else Y[hub])

    found = [sums(*piece) for piece in pieces()]
    gradient, mean, second = over_processes(tuple(map(sum, zip(*found, strict=True))))
    nothing = _Newton(np.zeros_like(mean), 0.0, np.inf, mean)
    if not mean.all():
        return nothing
    if whole:
        return _by_inverse(gradient, mean, second) or nothing

    def times(v):
        """Gv."""
        all_held = len(held) == len(found)
        Ys = held if all_held else ((softmax(Z + b[:, None]), w) for Z, _, w in pieces())
        return mean * v - over_processes(sum(Y @ (w * (v @ Y)) for Y, w in Ys))

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
    # G leaves nothing but rounding of a constant, of which no step would ever get rid.
    step, residue = np.zeros_like(gradient), gradient.mean() - gradient
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
    is_rough = bool(np.abs(residue).sum() > 1e-3 * first)
    return _Newton(step - step.mean(), float(decrement), resistance, mean, 1e-6, is_rough)
