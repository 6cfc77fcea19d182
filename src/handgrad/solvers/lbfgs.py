r"""One step of L-BFGS in each of K lanes, once the loss and the gradient at their trial points are known.

Each lane solves one problem, a penalty and weights, on data that all lanes share, so that one sweep over the rows
serves them all. A step is tried whole first, and is taken if the slope there has shrunk to between −0.5 and 0.9 of what
it was and the loss has not risen by more than rounding: the slope decides, since near the optimum the loss no longer
shows a difference. The next trial is where the secant of the slopes crosses 0, held inside the bracket; F is convex.
Where that fails twice, the slopes at many points of the line are taken from one reading of X, and the trial is where
they cross 0.

With S and Y the last steps and changes of the gradient, R the upper triangle of SᵀY, oldest first, and D its diagonal,
the two loops of L-BFGS are two triangular systems:

    R a = Sᵀ∇        r = M⁻¹(∇ − Y a)        Rᵀ δ = D a − Yᵀ r        direction = −(r + S δ)

M⁻¹ is the preconditioner of `kronecker`, times s·y / y·M⁻¹y of the newest pair, which corrects its scale (a fifth fewer
iterations). Gradients, S and Y are kept in the eigenbasis of A, where M is all but diagonal.

References: Nocedal and Wright, *Numerical Optimization* (2006), algorithm 7.4; Byrd, Nocedal and Schnabel,
*Representations of quasi-Newton matrices* (1994); Hager and Zhang, *A new conjugate gradient method with guaranteed
descent* (2005), section 4.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

from handgrad.rows import product
from handgrad.shapes import Bool, Float
from handgrad.solvers.kronecker import Curvature, of_bias, precondition, reciprocal
from handgrad.solvers.lanes import Lanes, Report
from handgrad.solvers.penalty import L2
from handgrad.solvers.sums import Sums

TRIALS = 20
SHORT = 0.6  # a step after which the next is not tried whole
GROWTH = 2  # but this many times as long
POINTS = 12  # of a line whose slopes are taken together


@functools.partial(jax.jit, static_argnames=("lanes", "memory"))
def begin(V: Float[Array, "P+1 C"], *, lanes: int, memory: int) -> Lanes:
    """Lanes in which nothing has been solved yet, for V of that shape and dtype."""
    K, (width, C), dtype = lanes, V.shape, V.dtype
    number, array = jnp.zeros(K, dtype), jnp.zeros((K, width, C), dtype)
    pairs = jnp.zeros((K, memory, width * C), dtype)
    return Lanes(
        penalty=L2(number + 1),
        present=jnp.ones((K, C), bool),
        fresh=jnp.ones(K, bool),
        V=array,
        loss=number,
        gradient=array,
        direction=array,
        step=array,
        slope=number,
        alpha=number,
        low=number,
        low_slope=number,
        high=number + jnp.inf,
        high_slope=number,
        trials=jnp.zeros(K, jnp.int32),
        S=pairs,
        Y=pairs,
        SY=jnp.zeros((K, memory, memory), dtype),
        pairs=jnp.zeros(K, jnp.int32),
    )


@functools.partial(jax.jit, donate_argnums=(0, 1))
def load(
    state: Lanes, trial: Array, chosen: Bool[Array, " K"], V: Array, penalty: L2, present: Array
) -> tuple[Lanes, Array]:
    """The chosen lanes begin anew, at V."""
    state = state._replace(
        fresh=state.fresh | chosen,
        penalty=L2(jnp.where(chosen, penalty.strength, state.penalty.strength)),
        present=jnp.where(chosen[:, None], present, state.present),
    )
    return state, _where(chosen, V, trial)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def advance(state: Lanes, trial: Array, sums: Sums, curvature: Curvature) -> tuple[Lanes, Array, Report]:
    """The lanes after their trials, the next trial points, and what the driver is to know."""
    W, tiny = trial[:, :-1], jnp.finfo(trial.dtype).eps
    loss = sums.loss + state.penalty.value(W)
    raw = sums.gradient.at[:, :-1].add(state.penalty.gradient(W))
    gradient = curvature.rotate(raw)
    measure = _measure(state.penalty, curvature, sums.gradient, W)
    finite = jnp.isfinite(loss) & jnp.isfinite(measure)
    slope = jnp.sum(gradient * state.direction, axis=(1, 2))
    risen = ~(loss <= state.loss + 8 * tiny * jnp.abs(state.loss))
    shrunk = (slope >= 0.9 * state.slope) & (slope <= -0.5 * state.slope)
    stepped = shrunk & ~risen & finite & ~state.fresh
    accepted = stepped | (state.fresh & finite)
    state = _narrow(state, slope, risen | (slope > 0), accepted)
    s = _where(stepped, state.alpha, jnp.zeros_like(state.alpha))[:, None, None] * state.direction
    state = _remember(state, s, gradient - state.gradient, stepped)
    state = state._replace(
        fresh=state.fresh & ~accepted,
        V=_where(accepted, trial, state.V),
        loss=_where(accepted, loss, state.loss),
        gradient=_where(accepted, gradient, state.gradient),
    )
    direction = _direction(state, curvature)
    slope = jnp.sum(state.gradient * direction, axis=(1, 2))
    state = state._replace(
        direction=_where(accepted, direction, state.direction),
        step=_where(accepted, curvature.rotate_back(direction), state.step),
        slope=_where(accepted, slope, state.slope),
    )
    failed = ~accepted & ((state.trials >= TRIALS) | state.fresh) | ~(state.slope < 0)
    following = state.V + state.alpha[:, None, None] * state.step
    return state, following, Report(accepted, failed, state.loss, measure)


@jax.jit
def points_along(state: Lanes) -> Float[Array, "K M"]:
    """Points of the line of each lane: inside its bracket, however near to 0 the step may be, or ever further out."""
    j = jnp.arange(1, POINTS + 1, dtype=state.alpha.dtype)[None]
    low, high = state.low[:, None], state.high[:, None]
    inside = low * (high / low) ** (j / (POINTS + 1))
    near_zero = high * 10 ** (-j / 2)
    outwards = jnp.maximum(low, 1) * 2**j
    points = jnp.where(jnp.isfinite(high), jnp.where(low > 0, inside, near_zero), outwards)
    return jnp.sort(points, axis=1)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def choose(
    state: Lanes, trial: Array, chosen: Bool[Array, " K"], points: Float[Array, "K M"], slopes: Float[Array, "K M"]
) -> tuple[Lanes, Array]:
    """The chosen lanes with the bracket that the slopes of the mean loss at these points leave, and the trial there."""
    linear, square = state.penalty.along(state.V[:, :-1], state.step[:, :-1])
    slopes = slopes + linear[:, None] + points * square[:, None]
    # The slope rises along the line: what is 0 or less comes first.
    ends = jnp.concatenate([state.low[:, None], points, state.high[:, None]], axis=1)
    at_low = jnp.where(state.low > 0, state.low_slope, state.slope)
    rising = jnp.concatenate([at_low[:, None], slopes, state.high_slope[:, None]], axis=1)
    last = jnp.sum(jnp.cumprod((slopes <= 0).astype(jnp.int32), axis=1), axis=1)[:, None]
    low, low_slope, high, high_slope = (
        jnp.take_along_axis(array, at, axis=1)[:, 0] for at in (last, last + 1) for array in (ends, rising)
    )
    secant = low - low_slope * (high - low) / (high_slope - low_slope)
    inside = (secant > low) & (secant < high)
    alpha = jnp.where(inside, secant, jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * low))
    new = {"low": low, "low_slope": low_slope, "high": high, "high_slope": high_slope, "alpha": alpha}
    state = state._replace(**{name: jnp.where(chosen, value, getattr(state, name)) for name, value in new.items()})
    return state, state.V + state.alpha[:, None, None] * state.step


def _measure(penalty: L2, curvature: Curvature, dV: Array, W: Array) -> Float[Array, " K"]:
    """What is to become small: with a penalty, about, the gap, and ‖∇‖² without one.

    The gap is that of W were b at its minimum, and ½ ∇_b G⁺ ∇_b, what b is off.
    """
    distance, db = penalty.distance(dV[:, :-1], W), dV[:, -1]
    gap = penalty.gap(distance) + of_bias(curvature, db)
    return jnp.where(penalty.strength > 0, gap, distance**2 + jnp.sum(db**2, axis=1))


def _narrow(state: Lanes, slope: Array, rising: Array, accepted: Array) -> Lanes:
    """The bracket after a trial, and the next one; a whole step where a new line begins."""
    low, low_slope = jnp.where(rising, state.low, state.alpha), jnp.where(rising, state.low_slope, slope)
    high, high_slope = jnp.where(rising, state.alpha, state.high), jnp.where(rising, slope, state.high_slope)
    closed = jnp.isfinite(high)
    # Where nothing has risen yet the secant is that from 0 to here.
    left, left_slope = jnp.where(closed, low, 0), jnp.where(closed & (low > 0), low_slope, state.slope)
    right, right_slope = jnp.where(closed, high, state.alpha), jnp.where(closed, high_slope, slope)
    secant = left - left_slope * (right - left) / (right_slope - left_slope)
    least = jnp.where(closed, low + 0.1 * (high - low), 1.5 * state.alpha)
    most = jnp.where(closed, high - 0.1 * (high - low), 10 * state.alpha)
    following = jnp.where(jnp.isfinite(secant), jnp.clip(secant, least, most), (least + most) / 2)
    # Where steps have become short the next one is likely to be short too.
    first = jnp.where(state.fresh | (state.alpha > SHORT), 1, GROWTH * state.alpha)
    return state._replace(
        low=jnp.where(accepted, 0, low),
        low_slope=jnp.where(accepted, 0, low_slope),
        high=jnp.where(accepted, jnp.inf, high),
        high_slope=jnp.where(accepted, 0, high_slope),
        alpha=jnp.where(accepted, first, following),
        trials=jnp.where(accepted, 0, state.trials + 1),
    )


def _remember(state: Lanes, s: Array, y: Array, stepped: Array) -> Lanes:
    """The pair in place of the oldest, where it has positive curvature; no pairs where a lane begins anew."""
    K, memory, _ = state.S.shape
    sy = jnp.sum(s * y, axis=(1, 2))
    pairs = jnp.where(state.fresh, 0, state.pairs)
    slot = jnp.where(stepped & (sy > 0), pairs % memory, memory)  # which is out of range: nothing is written
    lane = jnp.arange(K, dtype=jnp.int32)
    S = state.S.at[lane, slot].set(s.reshape(K, -1), mode="drop")
    Y = state.Y.at[lane, slot].set(y.reshape(K, -1), mode="drop")
    SY = state.SY.at[lane, :, slot].set(_times(S, y.reshape(K, -1)), mode="drop")
    SY = SY.at[lane, slot].set(_times(Y, s.reshape(K, -1)), mode="drop")
    return state._replace(S=S, Y=Y, SY=SY, pairs=pairs + (slot < memory).astype(jnp.int32))


def _direction(state: Lanes, curvature: Curvature) -> Float[Array, "K P+1 C"]:
    shape = state.gradient.shape
    K, memory, _ = state.S.shape
    gradient = state.gradient.reshape(K, -1)
    # The slots, oldest pair first; those that are empty come before and count for nothing.
    slots = jnp.arange(memory, dtype=jnp.int32)
    order = (state.pairs[:, None] + slots[None]) % memory
    there = slots[None] >= memory - state.pairs[:, None]
    permutation = (there[..., None] & (order[..., None] == slots[None, None])).astype(gradient.dtype)
    SY = product(product(permutation, state.SY), permutation.mT)
    R = jnp.triu(SY) + (~there[..., None]).astype(SY.dtype) * jnp.eye(memory, dtype=SY.dtype)[None]
    diagonal = jnp.diagonal(R, axis1=1, axis2=2)

    def inverse(vectors: Array) -> Array:
        of_one = functools.partial(precondition, curvature, state.penalty.curvature(), state.present)
        return jax.vmap(of_one)(vectors.reshape(-1, *shape)).reshape(vectors.shape)

    a = _triangular(R, _times(permutation, _times(state.S, gradient)))
    newest = state.Y[jnp.arange(K, dtype=jnp.int32), order[:, -1]]
    r, My = inverse(jnp.stack([gradient - _times(state.Y.mT, _times(permutation.mT, a)), newest]))
    yMy = jnp.where(there[:, -1], jnp.sum(newest * My, axis=1), 0)
    r = jnp.where(yMy > 0, diagonal[:, -1] * reciprocal(yMy), 1)[:, None] * r
    delta = _triangular(R, diagonal * a - _times(permutation, _times(state.Y, r)), transpose=True)
    return -(r + _times(state.S.mT, _times(permutation.mT, delta))).reshape(shape)


def _times(matrices: Float[Array, "K m D"], vectors: Float[Array, "K D"]) -> Float[Array, "K m"]:
    return product(matrices, vectors[..., None])[..., 0]


def _triangular(R: Float[Array, "K m m"], right: Float[Array, "K m"], *, transpose: bool = False) -> Array:
    solve = jax.lax.linalg.triangular_solve
    return solve(R, right[..., None], left_side=True, lower=False, transpose_a=transpose)[..., 0]


def _where(chosen: Bool[Array, " K"], new: Array, old: Array) -> Array:
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)
