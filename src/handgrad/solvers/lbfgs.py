r"""L-BFGS for softmax regressions, K at once, compiled whole.

Each lane solves one problem, a penalty and weights, on data that all lanes share, so that one product serves them all.
A lane that is done takes up the next problem, started from the nearest that is solved. What is found here is as good as
rounding allows; what is true of it `certificate` says.

With S and Y the last steps and changes of the gradient, R the upper triangle of SᵀY and D its diagonal, the two loops
of L-BFGS are two triangular systems:

    R a = Sᵀ∇        r = M⁻¹(∇ − Y a)        Rᵀ δ = D a − Yᵀ r        direction = −(r + S δ)

M⁻¹ is the preconditioner of `kronecker`, times s·y / y·M⁻¹y of the newest pair, which corrects its scale (a fifth fewer
iterations). Gradients, S and Y are kept in the eigenbasis of A, where M is all but diagonal.

References: Nocedal and Wright, *Numerical Optimization* (2006), algorithm 7.4; Byrd, Nocedal and Schnabel,
*Representations of quasi-Newton matrices* (1994).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from handgrad import objective
from handgrad.objective import Rows, product
from handgrad.shapes import Bool, Float
from handgrad.solvers.kronecker import (
    Curvature,
    factor_classes,
    factor_features,
    invert_blocks,
    precondition,
    reciprocal,
)
from handgrad.solvers.lanes import (
    CONVERGED,
    ITERATIONS,
    MEMORY,
    PRECISION,
    RUNNING,
    Lanes,
    Problems,
    Settings,
    Solutions,
    begin,
    evaluate,
    gradient_of,
    measure_of,
    rounding_of,
)
from handgrad.solvers.search import search

PAYBACK = 4
PATIENCE = 40  # iterations without progress before the memory is dropped
STRIKES = 3  # times that it is dropped before rounding is taken to be what stops the lane


def solve(
    rows: Rows,
    problems: Problems,
    settings: Settings,
    *,
    lanes: int,
    dense: bool,
    callback: Callable[..., None] | None = None,
) -> Solutions:
    """Solve every problem, `lanes` of them at a time; the first ones are started at the starts of their folds.

    `dense` takes A with all its eigenvectors, else its diagonal. `callback` gets iteration, loss and gap of lane 0.
    """
    num_problems, C = problems.l2.shape[0], problems.starts.shape[2]
    curvature = factor_features(rows, jnp.mean(problems.weights, axis=1), lanes, C, dense=dense)
    counts = jnp.zeros(num_problems, jnp.int32)
    V = problems.starts[problems.fold]
    solutions = Solutions(V, counts, counts, counts)
    state = begin(rows, curvature, problems, V[:lanes], jnp.arange(lanes, dtype=jnp.int32))

    def body(carry):
        state, curvature, solutions = carry
        curvature = _renew(rows, state, curvature)
        state, done, stuck = _iterate(rows, state, curvature, settings)
        busy = state.problem < num_problems
        out = state.iterations >= settings.max_iterations
        state, solutions = jax.lax.cond(
            jnp.any(busy & (done | stuck | out)),
            lambda: _settle(rows, curvature, problems, state, solutions, settings, busy, done, stuck),
            lambda: (state, solutions),
        )
        if callback is not None:
            jax.debug.callback(callback, state.iterations[0], state.loss[0], state.best[0], ordered=True)
        return state, curvature, solutions

    def running(carry):
        return jnp.any(carry[0].problem < num_problems)

    return jax.lax.while_loop(running, body, (state, curvature, solutions))[2]


# --- One iteration -------------------------------------------------------------------------------------------------


def _iterate(
    rows: Rows, state: Lanes, curvature: Curvature, settings: Settings
) -> tuple[Lanes, Bool[Array, " K"], Bool[Array, " K"]]:
    """A step of every lane; which of them look done, and which are stuck."""
    direction = _direction(state, curvature)
    d = curvature.rotate_back(direction)
    dZ = objective.multiply(rows, d)
    slope = jnp.sum(state.gradient * direction, axis=(1, 2))
    step = search(rows, state.weights, state.l2, (state.V, state.Z, state.loss), (d, dZ, slope))
    V = state.V + step.alpha[:, None, None] * d
    gradient = gradient_of(rows, curvature, state.l2, V, step.D)
    measure, small = measure_of(gradient, step.loss, state, curvature, settings)
    found = step.found & jnp.isfinite(measure)
    progress = (step.loss < state.loss * (1 - 4 * jnp.finfo(V.dtype).eps)) | (measure < 0.8 * state.best)
    S, Y, R = _remember(state, step.alpha[:, None, None] * direction, gradient - state.gradient, found)
    stalled = jnp.where(progress & found, 0, state.stalled + 1)
    state = state._replace(
        V=_where(found, V, state.V),
        Z=state.Z + jnp.where(found, step.alpha, 0)[None, :, None] * dZ,
        loss=_where(found, step.loss, state.loss),
        gradient=_where(found, gradient, state.gradient),
        S=S,
        Y=Y,
        R=R,
        iterations=state.iterations + 1,
        passes=state.passes + 2,
        stalled=stalled,
        best=jnp.minimum(state.best, jnp.where(found, measure, jnp.inf)),
    )
    return state, small & found, ~found | (stalled >= PATIENCE)


def _renew(rows: Rows, state: Lanes, curvature: Curvature) -> Curvature:
    """G renewed at 0, 1, 2, 4, 8, … iterations of a lane, the blocks each time that they have paid for themselves."""

    def factors() -> Curvature:
        g, U = factor_classes(state.weights, objective.losses(rows, state.Z)[1])
        return curvature._replace(g=g, U=U)

    def blocks() -> Curvature:
        inverses = invert_blocks(rows, state.weights, objective.losses(rows, state.Z)[1], state.l2)
        usable = jnp.all(jnp.isfinite(inverses))
        return curvature._replace(blocks=inverses, has_blocks=usable, age=jnp.zeros_like(curvature.age))

    count = state.iterations
    curvature = jax.lax.cond(jnp.any((count & (count - 1)) == 0), factors, lambda: curvature)
    if curvature.blocks is None:
        return curvature
    # C products N×P×P are the work of P/2 iterations of a lane, done at about twice the rate.
    period = max(8, rows.X.shape[1] // (PAYBACK * count.shape[0]))
    return jax.lax.cond(curvature.age >= period, blocks, lambda: curvature._replace(age=curvature.age + 1))


def _direction(state: Lanes, curvature: Curvature) -> Float[Array, "K P+1 C"]:
    shape = state.gradient.shape
    gradient, newest = state.gradient.reshape(shape[0], -1), state.Y[:, -1]

    def inverse(vector):
        return precondition(curvature, state.l2, state.present, vector.reshape(shape)).reshape(vector.shape)

    a = _triangular(state.R, _times(state.S, gradient))
    r = inverse(gradient - _times(state.Y.mT, a))
    diagonal = jnp.diagonal(state.R, axis1=1, axis2=2)
    yMy = jnp.sum(newest * inverse(newest), axis=1)
    r = jnp.where(yMy > 0, diagonal[:, -1] * reciprocal(yMy), 1)[:, None] * r
    delta = _triangular(state.R, diagonal * a - _times(state.Y, r), transpose=True)
    return -(r + _times(state.S.mT, delta)).reshape(shape)


def _remember(state: Lanes, s: Array, y: Array, found: Array) -> tuple[Array, Array, Array]:
    """S, Y and R with a new pair for the oldest; with an empty one where it has no positive curvature."""
    sy = jnp.sum(s * y, axis=(1, 2))
    good = found & (sy > 0)
    s, y = (_where(good, x, jnp.zeros_like(x)).reshape(x.shape[0], 1, -1) for x in (s, y))
    S = jnp.concatenate([state.S[:, 1:], s], axis=1)
    Y = jnp.concatenate([state.Y[:, 1:], y], axis=1)
    column = _times(S, y[:, 0]).at[:, -1].set(jnp.where(good, sy, 1))
    R = jnp.zeros_like(state.R).at[:, :-1, :-1].set(state.R[:, 1:, 1:]).at[:, :, -1].set(column)
    return S, Y, R


def _times(matrices: Float[Array, "K m D"], vectors: Float[Array, "K D"]) -> Float[Array, "K m"]:
    return product(matrices, vectors[..., None])[..., 0]


def _triangular(R: Float[Array, "K m m"], right: Float[Array, "K m"], *, transpose: bool = False) -> Array:
    solve = jax.lax.linalg.triangular_solve
    return solve(R, right[..., None], left_side=True, lower=False, transpose_a=transpose)[..., 0]


def _where(chosen: Bool[Array, " K"], new: Array, old: Array) -> Array:
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)


# --- Lanes and problems --------------------------------------------------------------------------------------------


def _settle(rows, curvature, problems, state, solutions, settings, busy, done, stuck):
    """Store and replace the lanes that are done; where one is stuck, or out of iterations, look at all of them anew.

    Whether those that look done are, the certificate tells.
    """
    num_problems = problems.l2.shape[0]
    out = state.iterations >= settings.max_iterations
    state, status = jax.lax.cond(
        jnp.any(busy & ~done & (stuck | out)),
        lambda: _look(rows, curvature, state, settings, stuck, out),
        lambda: (state, jnp.where(done, CONVERGED, RUNNING)),
    )
    ended = busy & (status != RUNNING)
    values = Solutions(state.V, state.iterations, state.passes, status)
    index = jnp.where(ended, state.problem, num_problems)  # J, out of range, is written nowhere
    solutions = jax.tree.map(lambda old, new: old.at[index].set(new.astype(old.dtype), mode="drop"), solutions, values)
    if state.problem.shape[0] == num_problems:
        return state._replace(problem=jnp.where(ended, num_problems, state.problem)), solutions
    return _load(rows, curvature, problems, state, solutions, ended), solutions


def _look(rows, curvature, state, settings, stuck, out):
    """The lanes with logits free of drift, and why each ends, if it does.

    One whose gradient is smaller than its rounding ends; one that is stuck drops its memory and goes on, until the
    third time.
    """
    V, Z = state.V, objective.multiply(rows, state.V)
    loss, gradient = evaluate(rows, curvature, state.weights, state.l2, V, Z)
    measure, small = measure_of(gradient, loss, state, curvature, settings)
    error = rounding_of(rows, state.weights, Z) * reciprocal(2 * state.l2)
    proven = small & ((state.l2 == 0) | (measure + error <= settings.tol * loss))
    strikes = state.strikes + stuck.astype(jnp.int32)
    lost = (strikes >= STRIKES) | (error > measure)
    status = jnp.where(proven, CONVERGED, jnp.where(lost, PRECISION, jnp.where(out, ITERATIONS, RUNNING)))
    state = state._replace(
        Z=Z,
        loss=loss,
        gradient=gradient,
        S=_where(stuck, jnp.zeros_like(state.S), state.S),
        Y=_where(stuck, jnp.zeros_like(state.Y), state.Y),
        R=_where(stuck, jnp.broadcast_to(jnp.eye(MEMORY, dtype=V.dtype)[None], state.R.shape), state.R),
        passes=state.passes + 2,
        stalled=jnp.where(stuck, 0, state.stalled),
        strikes=strikes,
    )
    return state, status


def _load(rows, curvature, problems, state, solutions, done):
    """Put the next problems into the lanes that are done, each started from the nearest penalty that is solved."""
    num_problems = problems.l2.shape[0]
    taken = jnp.max(state.problem) + 1
    problem = jnp.minimum(taken + jnp.cumsum(done, dtype=jnp.int32) - 1, num_problems)
    problem = jnp.where(done, problem, state.problem)
    at = jnp.minimum(problem, num_problems - 1)
    log_l2 = jnp.log(jnp.maximum(problems.l2, jnp.finfo(problems.l2.dtype).tiny))
    other = problems.fold[at][:, None] != problems.fold[None]
    distance = jnp.abs(log_l2[at][:, None] - log_l2[None]) + other.astype(log_l2.dtype)
    nearest = jnp.argmin(jnp.where((solutions.status != RUNNING)[None], distance, jnp.inf), axis=1)
    V = _where(done, solutions.V[nearest], state.V)
    fresh = begin(rows, curvature, problems, V, problem)
    chosen = [done[None] if name in ("weights", "Z") else done for name in Lanes._fields]
    return Lanes(
        *(
            jnp.where(where.reshape(*where.shape, *[1] * (new.ndim - where.ndim)), new, old)
            for where, new, old in zip(chosen, fresh, state, strict=True)
        )
    )
