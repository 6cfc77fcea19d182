r"""L-BFGS for K softmax regressions at once, compiled whole.

Each lane solves one problem, a penalty and weights, on data that all lanes share. A lane that is done takes up the
next problem, started from the nearest that is solved.

Three things make it fast, and none is open to a solver that does not know the problem:

- A trial of the line search costs O(NC) and no product, since logits are linear in the step.
- The initial inverse Hessian is (A ⊗ G + l2·I)⁻¹, in the eigenbases of A = Σ w x xᵀ and G = Σ w (diag y − y yᵀ).
  Features of any scale and correlation then cost no iterations.
- The products take all lanes together, X·[W₁ … W_K].

References: Nocedal and Wright, *Numerical Optimization* (2006), algorithm 7.5; Byrd, Nocedal and Schnabel,
*Representations of quasi-Newton matrices* (1994); Hager and Zhang, *A new conjugate gradient method with guaranteed
descent* (2005), for a line search that rounding does not stop.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from handgrad import objective
from handgrad.objective import Rows, product
from handgrad.solvers import certificate

MEMORY = 10
TRIALS = 20
PATIENCE = 40

RUNNING, CONVERGED, PRECISION, ITERATIONS = range(4)


class Problems(NamedTuple):
    """J problems: a penalty each, and which column of the weights (N, F), each with sum 1."""

    l2: Float[Array, " J"]
    fold: Int[Array, " J"]
    weights: Float[Array, "N F"]


class Solutions(NamedTuple):
    """What is known of J problems; the bias is the last row of V, for centred features."""

    V: Float[Array, "J P+1 C"]
    loss: Float[Array, " J"]
    gap: Float[Array, " J"]
    gradient_norm: Float[Array, " J"]
    iterations: Int[Array, " J"]
    passes: Int[Array, " J"]
    status: Int[Array, " J"]


class Curvature(NamedTuple):
    """A = Q diag(a) Qᵀ, shared by the lanes, and each lane's G = U diag(g) Uᵀ. Q is None where A's diagonal serves."""

    a: Float[Array, " P+1"]
    Q: Float[Array, "P+1 P+1"] | None
    g: Float[Array, "K C"]
    U: Float[Array, "K C C"]


class Lane(NamedTuple):
    """The state of K lanes."""

    problem: Int[Array, " K"]  # J where there is none left
    l2: Float[Array, " K"]
    weights: Float[Array, "N K"]
    V: Float[Array, "K P+1 C"]
    Z: Float[Array, "N K C"]
    loss: Float[Array, " K"]
    gradient: Float[Array, "K P+1 C"]  # in the eigenbasis of A, as S and Y
    S: Float[Array, "K m D"]  # the last m steps
    Y: Float[Array, "K m D"]  # and the changes of the gradient over them
    R: Float[Array, "K m m"]  # s_i·y_j for i ≤ j, oldest first; 1 on the diagonal where there is no pair
    iterations: Int[Array, " K"]
    passes: Int[Array, " K"]
    stalled: Int[Array, " K"]  # iterations since there was progress
    strikes: Int[Array, " K"]  # times that the memory was dropped for lack of it
    best: Float[Array, " K"]  # smallest gap


def solve(
    rows: Rows,
    problems: Problems,
    start: Float[Array, "P+1 C"],
    *,
    lanes: int,
    tol: Any,
    max_iterations: Any,
    whiten: bool,
    callback: Any = None,
) -> Solutions:
    """Solve every problem; `lanes` of them at a time."""
    num_problems = problems.l2.shape[0]
    a, Q = _feature_basis(rows, jnp.mean(problems.weights, axis=1), whiten)
    dtype = rows.X.dtype
    width, C = start.shape
    norm0 = _start_norms(rows, problems, C)
    zeros = jnp.zeros(num_problems, dtype)
    counts = jnp.zeros(num_problems, jnp.int32)
    solutions = Solutions(
        jnp.broadcast_to(start[None], (num_problems, width, C)), zeros, zeros, zeros, counts, counts, counts
    )
    first = jnp.arange(lanes, dtype=jnp.int32)
    curvature = Curvature(a, Q, jnp.ones((lanes, C), dtype), jnp.zeros((lanes, C, C), dtype))
    state = _begin(rows, curvature, problems, jnp.broadcast_to(start[None], (lanes, width, C)), first)

    def body(carry):
        state, curvature, solutions, taken = carry
        curvature = jax.lax.cond(
            jnp.any(_due(state.iterations)), lambda: _refresh(rows, state, curvature), lambda: curvature
        )
        state, candidate = _iterate(rows, state, curvature, tol, norm0)
        candidate &= state.problem < num_problems
        candidate |= (state.iterations >= max_iterations) & (state.problem < num_problems)
        carry = jax.lax.cond(
            jnp.any(candidate),
            lambda: _verify(rows, problems, state, curvature, solutions, taken, candidate, tol, max_iterations, norm0),
            lambda: (state, curvature, solutions, taken),
        )
        if callback is not None:
            jax.debug.callback(callback, *(x[0] for x in (carry[0].iterations, state.loss, state.best)), ordered=True)
        return carry

    def running(carry):
        return jnp.any(carry[0].problem < num_problems)

    taken = jnp.asarray(lanes, jnp.int32)
    return jax.lax.while_loop(running, body, (state, curvature, solutions, taken))[2]


# --- One iteration -------------------------------------------------------------------------------------------------


def _iterate(rows: Rows, state: Lane, curvature: Curvature, tol: Any, norm0: Array) -> tuple[Lane, Bool[Array, " K"]]:
    """A step of every lane, and which of them look done or stuck."""
    step = _direction(state, curvature)
    d = _rotate(curvature.Q, step)
    dZ = objective.multiply(rows, d)
    alpha, loss, D, found = _search(rows, state, d, dZ, jnp.sum(state.gradient * step, axis=(1, 2)))
    V = state.V + alpha[:, None, None] * d
    gradient = _gradient(rows, curvature, state.l2, V, D)
    gap, norm = certificate.gap(gradient, state.l2)
    found &= jnp.isfinite(loss) & jnp.isfinite(norm)
    progress = (loss < state.loss * (1 - 4 * jnp.finfo(loss.dtype).eps)) | (gap < 0.8 * state.best)
    S, Y, R = _remember(state, alpha[:, None, None] * step, gradient - state.gradient, found)
    state = state._replace(
        V=_where(found, V, state.V),
        Z=state.Z + jnp.where(found, alpha, 0)[None, :, None] * dZ,
        loss=_where(found, loss, state.loss),
        gradient=_where(found, gradient, state.gradient),
        S=S,
        Y=Y,
        R=R,
        iterations=state.iterations + 1,
        passes=state.passes + 2,
        stalled=jnp.where(progress & found, 0, state.stalled + 1),
        best=jnp.minimum(state.best, jnp.where(found, gap, jnp.inf)),
    )
    done = _small_enough(gap, norm, loss, state, tol, norm0)
    return state, done | ~found | (state.stalled >= PATIENCE)


def _where(chosen: Bool[Array, " K"], new: Array, old: Array) -> Array:
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _small_enough(gap, norm, loss, state, tol, norm0):
    problem = jnp.minimum(state.problem, norm0.shape[0] - 1)
    return jnp.where(state.l2 > 0, gap <= tol * loss, norm <= tol * norm0[problem])


def _gradient(rows, curvature, l2, V, D):
    """XᵀD + l2·W in the eigenbasis of A, where the memory and the preconditioner live."""
    dV = objective.backward(rows, D)
    dV = dV.at[:, :-1].add(l2[:, None, None] * V[:, :-1])
    return _rotate(None if curvature.Q is None else curvature.Q.T, dV)


def _rotate(Q: Float[Array, "P+1 P+1"] | None, V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
    return V if Q is None else product(Q, V)


# --- The direction -------------------------------------------------------------------------------------------------
#
# With S and Y the last steps and changes of gradient, R the upper triangle of SᵀY and D its diagonal, the two loops of
# L-BFGS are two triangular systems:
#
#     R a = Sᵀ∇        r = M⁻¹(∇ − Y a)        Rᵀ δ = D a − Yᵀ r        direction = −(r + S δ)
#
# M⁻¹ is the preconditioner, times s·y / y·M⁻¹y of the newest pair, which corrects its scale.


def _direction(state: Lane, curvature: Curvature) -> Float[Array, "K P+1 C"]:
    shape = state.gradient.shape
    gradient = state.gradient.reshape(shape[0], -1)
    a = _triangular(state.R, _times(state.S, gradient))
    newest = state.Y[:, -1]
    r = precondition(curvature, state.l2, (gradient - _times(state.Y.mT, a)).reshape(shape)).reshape(gradient.shape)
    yMy = jnp.sum(newest * precondition(curvature, state.l2, newest.reshape(shape)).reshape(gradient.shape), axis=1)
    diagonal = jnp.diagonal(state.R, axis1=1, axis2=2)
    r = jnp.where(yMy > 0, diagonal[:, -1] / jnp.where(yMy > 0, yMy, 1), 1)[:, None] * r
    delta = _triangular(state.R, diagonal * a - _times(state.Y, r), transpose=True)
    return -(r + _times(state.S.mT, delta)).reshape(shape)


def _remember(state: Lane, s: Array, y: Array, found: Array) -> tuple[Array, Array, Array]:
    """S, Y and R with a new pair for the oldest; with an empty one where it has no positive curvature."""
    sy = jnp.sum(s * y, axis=(1, 2))
    good = found & (sy > 0)
    s, y = (_where(good, x, jnp.zeros_like(x)).reshape(x.shape[0], -1) for x in (s, y))
    S = jnp.concatenate([state.S[:, 1:], s[:, None]], axis=1)
    Y = jnp.concatenate([state.Y[:, 1:], y[:, None]], axis=1)
    column = _times(S, y).at[:, -1].set(jnp.where(good, sy, 1))
    R = jnp.zeros_like(state.R).at[:, :-1, :-1].set(state.R[:, 1:, 1:]).at[:, :, -1].set(column)
    return S, Y, R


def _times(matrices: Float[Array, "K m D"], vectors: Float[Array, "K D"]) -> Float[Array, "K m"]:
    return product(matrices, vectors[..., None])[..., 0]


def _triangular(R, right, *, transpose=False):
    solve = jax.lax.linalg.triangular_solve
    return solve(R, right[..., None], left_side=True, lower=False, transpose_a=transpose)[..., 0]


# --- The preconditioner --------------------------------------------------------------------------------------------
#
# Eigenvalue a_p g_c + l2 belongs to (Q e_p) ⊗ (U e_c), and g_c to the bias. G has one eigenvalue 0: adding a constant to
# all logits of a row changes nothing.


def precondition(curvature: Curvature, l2: Array, V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
    """(A ⊗ G + l2·I)⁻¹ V, for V in the eigenbasis of A."""
    a, _, g, U = curvature
    penalised = (jnp.arange(a.shape[0]) < a.shape[0] - 1).astype(a.dtype)  # all but the bias
    eigenvalues = a[None, :, None] * g[:, None] + l2[:, None, None] * penalised[None, :, None]
    inverse = jnp.where(eigenvalues > 0, 1 / jnp.where(eigenvalues > 0, eigenvalues, 1), 0)
    return product(inverse * product(V, U), U.mT)


def _feature_basis(rows: Rows, weights: Array, whiten: bool) -> tuple[Array, Array | None]:
    if not whiten:
        return product(weights[None], rows.X**2)[0], None
    A = objective.feature_curvature(rows, weights)
    # The column of ones stays the last, exactly.
    a, Q = jnp.linalg.eigh(A[:-1, :-1])
    one = jnp.ones((1, 1), A.dtype)
    return jnp.append(jnp.maximum(a, 0), one[0]), jax.scipy.linalg.block_diag(Q, one)


def _due(iterations: Int[Array, " K"]) -> Bool[Array, " K"]:
    """G is renewed at 0, 1, 2, 4, 8, … iterations."""
    return (iterations & (iterations - 1)) == 0


def _refresh(rows: Rows, state: Lane, curvature: Curvature) -> Curvature:
    _, Y = objective.losses(rows, state.Z)
    g, U = jnp.linalg.eigh(objective.class_curvature(state.weights, Y))
    # Its eigenvalue 0 comes out as rounding.
    floor = g.shape[1] * jnp.finfo(g.dtype).eps * g[:, -1:]
    return curvature._replace(g=jnp.where(g > floor, g, 0), U=U)


# --- The line search -----------------------------------------------------------------------------------------------
#
# φ is convex. A step is taken if the slope there has shrunk to between −0.9 and 0.5 of what it was and the loss has not
# risen by more than rounding: the slope decides, since near the optimum the loss no longer shows a difference. The next
# trial is where the secant of the slopes crosses 0, if that falls into the bracket.


def _search(rows: Rows, state: Lane, d: Array, dZ: Array, slope: Array) -> tuple[Array, Array, Array, Array]:
    """The step length, F and D = w(Y − T) there, and whether it is one."""
    W, dW = state.V[:, :-1], d[:, :-1]
    constant, linear, square = (state.l2 * jnp.sum(a * b, axis=(1, 2)) for a, b in ((W, W), (W, dW), (dW, dW)))
    slack = 8 * jnp.finfo(slope.dtype).eps * jnp.abs(state.loss)

    def trial(carry):
        (alpha, _, _, _), (low, low_slope), (high, high_slope), accepted, count = carry
        rows_loss, Y = objective.losses(rows, state.Z + alpha[None, :, None] * dZ)
        D = objective.residual(rows, state.weights, Y)
        loss = jnp.sum(state.weights * rows_loss, axis=0) + constant / 2 + alpha * (linear + alpha / 2 * square)
        first = jnp.sum(D * dZ, axis=(0, 2)) + linear + alpha * square
        risen = ~(loss <= state.loss + slack)
        accepted |= (first >= 0.9 * slope) & (first <= -0.5 * slope) & ~risen
        rising = risen | (first > 0)
        low, low_slope = jnp.where(rising, low, alpha), jnp.where(rising, low_slope, first)
        high, high_slope = jnp.where(rising, alpha, high), jnp.where(rising, first, high_slope)
        bracketed = jnp.isfinite(high)
        # Without a bracket the secant is that of 0 and here.
        top, top_slope = jnp.where(bracketed, high, alpha), jnp.where(bracketed, high_slope, first)
        base, base_slope = jnp.where(bracketed, low, 0), jnp.where(bracketed, low_slope, slope)
        secant = base - base_slope * (top - base) / (top_slope - base_slope)
        least = jnp.where(bracketed, low + 0.1 * (high - low), 1.5 * alpha)
        most = jnp.where(bracketed, high - 0.1 * (high - low), 10 * alpha)
        following = jnp.where(jnp.isfinite(secant), jnp.clip(secant, least, most), (least + most) / 2)
        return (alpha, following, loss, D), (low, low_slope), (high, high_slope), accepted, count + 1

    def next_trial(carry):
        (alpha, following, loss, D), low, high, accepted, count = carry
        return trial(((jnp.where(accepted, alpha, following), following, loss, D), low, high, accepted, count))

    def searching(carry):
        return ~jnp.all(carry[3]) & (carry[4] < TRIALS)

    idle = ~(slope < 0)
    zero = jnp.zeros_like(slope)
    start = ((zero, zero + 1, zero, jnp.zeros_like(dZ)), (zero, slope), (zero + jnp.inf, zero), idle)
    carry = jax.lax.while_loop(searching, next_trial, (*start, jnp.zeros((), jnp.int32)))
    alpha, _, loss, D = carry[0]
    return alpha, loss, D, carry[3] & ~idle


# --- Lanes and problems -------------------------------------------------------------------------------------------------------------


def _verify(rows, problems, state, curvature, solutions, taken, candidate, tol, max_iterations, norm0):
    """Look again at the candidates, with logits free of drift and the bias exact; store and replace those that are done.

    A lane that was stuck drops its memory and goes on; if it is stuck again, rounding is what stops it.
    """
    num_problems = problems.l2.shape[0]
    V, Z = certificate.minimise_bias(rows, state.weights, state.V, objective.multiply(rows, state.V), candidate)
    loss, gradient = _evaluate(rows, curvature, state.weights, state.l2, V, Z)
    gap, norm = certificate.gap(gradient, state.l2)
    converged = _small_enough(gap, norm, loss, state, tol, norm0)
    stuck = candidate & ~converged & (state.stalled > 0)
    strikes = state.strikes + stuck.astype(jnp.int32)
    out = state.iterations >= max_iterations
    status = jnp.where(converged, CONVERGED, jnp.where(strikes >= 3, PRECISION, jnp.where(out, ITERATIONS, RUNNING)))
    status = jnp.where(candidate, status, RUNNING)
    done = status != RUNNING
    empty = jnp.eye(state.R.shape[1], dtype=state.R.dtype)
    state = state._replace(
        V=V,
        Z=Z,
        loss=loss,
        gradient=gradient,
        S=_where(stuck, jnp.zeros_like(state.S), state.S),
        Y=_where(stuck, jnp.zeros_like(state.Y), state.Y),
        R=_where(stuck, jnp.broadcast_to(empty[None], state.R.shape), state.R),
        passes=state.passes + 2,
        stalled=jnp.where(stuck, 0, state.stalled),
        strikes=strikes,
    )
    # A problem that is not done is written nowhere: index J is out of range.
    index = jnp.where(done, state.problem, num_problems)
    values = Solutions(V, loss, gap, norm, state.iterations, state.passes, status)
    solutions = jax.tree.map(lambda all_, one: all_.at[index].set(one.astype(all_.dtype), mode="drop"), solutions, values)
    following = jnp.minimum(taken - 1 + jnp.cumsum(done, dtype=jnp.int32), num_problems)
    taken = jnp.minimum(taken + jnp.sum(done, dtype=jnp.int32), num_problems)
    state = _load(rows, curvature, problems, solutions, jnp.where(done, following, state.problem), state, done)
    return state, _refresh(rows, state, curvature), solutions, taken


def _load(rows, curvature, problems, solutions, problem, state, chosen):
    """Put the problems into the chosen lanes, each started from the nearest penalty that is solved."""
    at = jnp.minimum(problem, problems.l2.shape[0] - 1)
    usable = (solutions.status != RUNNING)[None] & (problems.fold[at][:, None] == problems.fold[None])
    log_l2 = jnp.log(problems.l2 + jnp.finfo(problems.l2.dtype).tiny)
    distance = jnp.abs(log_l2[at][:, None] - log_l2[None])
    nearest = jnp.argmin(jnp.where(usable, distance, jnp.inf), axis=1)
    fresh = _begin(rows, curvature, problems, jnp.where(chosen[:, None, None], solutions.V[nearest], state.V), problem)

    def choose(axis, new, old):
        return jnp.where(chosen.reshape([-1 if i == axis else 1 for i in range(new.ndim)]), new, old)

    return Lane(*(choose(1 if name in ("weights", "Z") else 0, *pair) for name, *pair in zip(Lane._fields, fresh, state)))


def _evaluate(rows, curvature, weights, l2, V, Z):
    """F and its gradient in V, whose logits are Z."""
    rows_loss, Y = objective.losses(rows, Z)
    loss = jnp.sum(weights * rows_loss, axis=0) + l2 / 2 * jnp.sum(V[:, :-1] ** 2, axis=(1, 2))
    return loss, _gradient(rows, curvature, l2, V, objective.residual(rows, weights, Y))


def _begin(rows: Rows, curvature: Curvature, problems: Problems, V: Array, problem: Int[Array, " K"]) -> Lane:
    """Lanes at the start of their problems."""
    lanes, width, C = V.shape
    at = jnp.minimum(problem, problems.l2.shape[0] - 1)
    l2, weights = problems.l2[at], problems.weights[:, problems.fold[at]]
    Z = objective.multiply(rows, V)
    loss, gradient = _evaluate(rows, curvature, weights, l2, V, Z)
    count = jnp.zeros(lanes, jnp.int32)
    memory = jnp.zeros((lanes, MEMORY, width * C), V.dtype)
    return Lane(
        problem=problem,
        l2=l2,
        weights=weights,
        V=V,
        Z=Z,
        loss=loss,
        gradient=gradient,
        S=memory,
        Y=memory,
        R=jnp.broadcast_to(jnp.eye(MEMORY, dtype=V.dtype), (lanes, MEMORY, MEMORY)),
        iterations=count,
        passes=count + 2,
        stalled=count,
        strikes=count,
        best=jnp.full(lanes, jnp.inf, V.dtype),
    )


def _start_norms(rows: Rows, problems: Problems, C: int) -> Float[Array, " J"]:
    """The gradient's norm at W = 0, b = 0, which is what "small" is measured by where there is no certificate."""
    Y = jnp.full((*problems.weights.shape, C), 1 / C, rows.X.dtype)
    gradient = objective.backward(rows, objective.residual(rows, problems.weights, Y))
    return jnp.sqrt(jnp.sum(gradient**2, axis=(1, 2)))[problems.fold]
