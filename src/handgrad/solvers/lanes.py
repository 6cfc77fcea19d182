"""The problems of the solver, its lanes, and the objective of each."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from handgrad import objective
from handgrad.objective import Rows, product
from handgrad.shapes import Bool, Float, Int
from handgrad.solvers.kronecker import Curvature, reciprocal

ABSENT = 1e4  # −bias of a class that is left out: exp underflows to 0 there
MEMORY = 8

RUNNING, CONVERGED, PRECISION, ITERATIONS = range(4)


class Problems(NamedTuple):
    """J problems: a penalty each, which column of the weights (N, F), whose columns sum to 1, and where each starts.

    The bias of a class that a fold leaves out is −ABSENT in its start, and stays there.
    """

    l2: Float[Array, " J"]
    fold: Int[Array, " J"]
    weights: Float[Array, "N F"]
    starts: Float[Array, "F P+1 C"]


class Solutions(NamedTuple):
    """What is known of J problems, in the solver's coordinates, the bias being the last row of V."""

    V: Float[Array, "J P+1 C"]
    iterations: Int[Array, " J"]
    passes: Int[Array, " J"]
    status: Int[Array, " J"]


class Settings(NamedTuple):
    """When a lane is done: gap ≤ tol·loss, or where l2 is 0 ‖∇‖ ≤ tol·norm0 of its fold, or no iterations are left."""

    tol: Float[Array, ""]
    max_iterations: Int[Array, ""]
    norm0: Float[Array, " F"]


class Lanes(NamedTuple):
    """The state of K lanes."""

    problem: Int[Array, " K"]  # J where there is none left
    fold: Int[Array, " K"]
    l2: Float[Array, " K"]
    weights: Float[Array, "N K"]
    present: Bool[Array, "K C"]  # the classes that are not left out
    V: Float[Array, "K P+1 C"]
    Z: Float[Array, "N K C"]
    loss: Float[Array, " K"]
    gradient: Float[Array, "K P+1 C"]  # in the eigenbasis of A, as S and Y
    S: Float[Array, "K m D"]
    Y: Float[Array, "K m D"]
    R: Float[Array, "K m m"]  # s_i·y_j for i ≤ j, oldest first; 1 on the diagonal where there is no pair
    iterations: Int[Array, " K"]
    passes: Int[Array, " K"]
    stalled: Int[Array, " K"]  # iterations since there was progress
    strikes: Int[Array, " K"]
    best: Float[Array, " K"]  # smallest gap, or squared norm of the gradient where l2 is 0


def present_classes(bias: Float[Array, "F C"]) -> Bool[Array, "F C"]:
    """Which classes are not left out."""
    return bias > -ABSENT / 2


def begin(rows: Rows, curvature: Curvature, problems: Problems, V: Array, problem: Int[Array, " K"]) -> Lanes:
    """Lanes at the start of their problems."""
    lanes, width, C = V.shape
    at = jnp.minimum(problem, problems.l2.shape[0] - 1)
    l2, fold = problems.l2[at], problems.fold[at]
    weights, starts = problems.weights[:, fold], problems.starts[fold]
    # V may come from another fold: a class that this one leaves out, or that alone has, is put where this one starts.
    present = present_classes(starts[:, -1])
    V = jnp.where((present & present_classes(V[:, -1]))[:, None], V, starts)
    V = jnp.where(present[:, None], V - _mean(present, V), V)
    Z = objective.multiply(rows, V)
    loss, gradient = evaluate(rows, curvature, weights, l2, V, Z)
    count, memory = jnp.zeros(lanes, jnp.int32), jnp.zeros((lanes, MEMORY, width * C), V.dtype)
    R = jnp.broadcast_to(jnp.eye(MEMORY, dtype=V.dtype)[None], (lanes, MEMORY, MEMORY))
    best = jnp.full(lanes, jnp.inf, V.dtype)
    return Lanes(
        problem,
        fold,
        l2,
        weights,
        present,
        V,
        Z,
        loss,
        gradient,
        memory,
        memory,
        R,
        count,
        count + 2,
        count,
        count,
        best,
    )


def _mean(present: Bool[Array, "K C"], V: Array) -> Float[Array, "K P+1 1"]:
    mask = present[:, None].astype(V.dtype)
    return jnp.sum(mask * V, axis=2, keepdims=True) / jnp.sum(mask, axis=2, keepdims=True)


# --- The objective of each lane ------------------------------------------------------------------------------------


def gradient_of(rows: Rows, curvature: Curvature, l2: Array, V: Array, D: Array) -> Float[Array, "K P+1 C"]:
    """XᵀD + l2·W in the eigenbasis of A."""
    return curvature.rotate(objective.backward(rows, D).at[:, :-1].add(l2[:, None, None] * V[:, :-1]))


def evaluate(rows: Rows, curvature: Curvature, weights: Array, l2: Array, V: Array, Z: Array) -> tuple[Array, Array]:
    """F and its gradient in V, whose logits are Z."""
    rows_loss, Y = objective.losses(rows, Z)
    loss = jnp.sum(weights * rows_loss, axis=0) + l2 / 2 * jnp.sum(V[:, :-1] ** 2, axis=(1, 2))
    return loss, gradient_of(rows, curvature, l2, V, objective.residual(rows, weights, Y))


def measure_of(
    gradient: Array, loss: Array, state: Lanes, curvature: Curvature, settings: Settings
) -> tuple[Array, Array]:
    """What is to become small, and whether it is.

    With a penalty that is, about, the gap: ‖∇_W‖²/(2·l2) were b at its minimum, and ½ ∇_b G⁺ ∇_b, what b is off.
    """
    of_features = jnp.sum(gradient[:, :-1] ** 2, axis=(1, 2))
    db = product(gradient[:, -1:], curvature.U)[:, 0]
    gap = of_features * reciprocal(2 * state.l2) + jnp.sum(db**2 * reciprocal(curvature.g), axis=1) / 2
    square = of_features + jnp.sum(gradient[:, -1] ** 2, axis=1)
    at_most = jnp.where(state.l2 > 0, settings.tol * loss, (settings.tol * settings.norm0[state.fold]) ** 2)
    measure = jnp.where(state.l2 > 0, gap, square)
    return measure, measure <= at_most


def rounding_of(rows: Rows, weights: Float[Array, "N K"], Z: Float[Array, "N K C"]) -> Float[Array, " K"]:
    """‖δ∇_W‖², about: what rounding makes of the gradient.

    A logit is known to u|Z|, u being half the spacing of numbers about 1, hence y to u·y(1 − y)|Z|, and to u·y by its
    own rounding; errors of different rows are independent:

        ‖δ∇_W‖² ≈ u² Σ_i w_i² ‖x_i‖² Σ_c (y + y(1 − y)|Z|)²_ic
    """
    _, Y = objective.losses(rows, Z)
    errors = jnp.sum((Y + Y * (1 - Y) * jnp.abs(Z)) ** 2, axis=2)
    sizes = jnp.sum(rows.X**2, axis=1)
    return (jnp.finfo(Z.dtype).eps / 2) ** 2 * jnp.sum(weights**2 * sizes[:, None] * errors, axis=0)


def norms_at_zero(rows: Rows, problems: Problems) -> Float[Array, " F"]:
    """The gradient's norm at W = 0, b = 0, which is what "small" is measured by where there is no penalty."""
    present = present_classes(problems.starts[:, -1]).astype(problems.weights.dtype)
    Y = jnp.broadcast_to((present / jnp.sum(present, axis=1, keepdims=True))[None], (rows.X.shape[0], *present.shape))
    gradient = objective.backward(rows, objective.residual(rows, problems.weights, Y))
    return jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2)))
