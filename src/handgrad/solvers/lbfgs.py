r"""The steps of L-BFGS in K lanes; what they decide by is decided on the host, in `search`.

Each lane solves one problem, a penalty and weights, on data that all lanes share, so that one sweep over the rows
serves them all. With S and Y the last steps and changes of the gradient, R the upper triangle of SᵀY, oldest first, and
D its diagonal, the two loops of L-BFGS are two triangular systems:

    R a = Sᵀ∇        r = M⁻¹(∇ − Y a)        Rᵀ δ = D a − Yᵀ r        direction = −(r + S δ)

M⁻¹ is the preconditioner of `kronecker`, times s·y / y·M⁻¹y of the newest pair, which corrects its scale (a fifth fewer
iterations). Gradients, S and Y are kept in the eigenbasis of A, where M is all but diagonal.

Each step is a small compiled program. Where the lanes are NumPy's arrays they turn one after another, since calls are
then what takes the time.

References: Nocedal and Wright, *Numerical Optimization* (2006), algorithm 7.4; Byrd, Nocedal and Schnabel,
*Representations of quasi-Newton matrices* (1994).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from handgrad.rows import Array, inner, library, product
from handgrad.shapes import Bool, Float
from handgrad.solvers.kronecker import Curvature, preconditioner, reciprocal, rotate, rotate_back
from handgrad.solvers.lanes import Lanes, Report
from handgrad.solvers.penalty import L2
from handgrad.solvers.sums import Sums


def _program(function: Callable[..., Any], donate: int | tuple[int, ...] = ()) -> Any:
    """The function compiled, or as it is for NumPy's arrays."""
    compiled = jax.jit(function, donate_argnums=donate)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return (function if library(jax.tree.leaves(arguments)[0]) is np else compiled)(*arguments)

    call.lower = compiled.lower  # type: ignore[attr-defined]
    return call


def begin(lanes: int, width: int, num_classes: int, memory: int, dtype: np.dtype) -> Lanes:
    """Lanes in which nothing has been solved yet."""
    array = np.zeros((lanes, width, num_classes), dtype)
    pairs = np.zeros((lanes, memory, width * num_classes), dtype)
    return Lanes(
        penalty=L2(np.ones(lanes, dtype)),
        present=np.ones((lanes, num_classes), bool),
        V=array,
        gradient=array,
        g=np.zeros((lanes, num_classes), dtype),
        direction=array.copy(),  # which NumPy writes to, as to the pairs
        step=array,
        S=pairs,
        Y=pairs.copy(),
        SY=np.zeros((lanes, memory, memory), dtype),
        pairs=np.zeros(lanes, np.int32),
    )


def programs(state: Lanes, curvature: Curvature, device: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """The programs of an iteration, and their arguments as shapes, those of the lanes being on the device."""
    there = SingleDeviceSharding(device)

    def shapes(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there), tree)

    state, curvature = shapes(state), shapes(curvature)
    V, strength = state.V, state.penalty.strength
    pairs = jax.ShapeDtypeStruct(state.SY.shape[:2], V.dtype, sharding=there)
    filled = jax.ShapeDtypeStruct(pairs.shape, bool, sharding=there)
    matrices = jax.ShapeDtypeStruct(state.SY.shape, V.dtype, sharding=there)
    preconditioned = jax.ShapeDtypeStruct((2, *V.shape), V.dtype, sharding=there)
    y = jax.ShapeDtypeStruct((len(state.S), state.S.shape[2]), V.dtype, sharding=there)
    chosen = jax.ShapeDtypeStruct(state.pairs.shape, bool)
    steps = jax.ShapeDtypeStruct(strength.shape, V.dtype)
    return [
        (_remember, (state, V, chosen, steps)),
        (_first_loop, (state, V, V, state.g, chosen, y, filled)),
        (_second_loop, (state, curvature.Q, (matrices, matrices), pairs, V, preconditioned, chosen, steps)),
        (assess, (state, V, Sums(strength, V, state.g), curvature.Q)),
        (_precondition, (curvature, state.g, state.penalty, state.present, (V, V))),
    ]


@functools.partial(_program, donate=(0, 1))
def load(
    state: Lanes, trial: Array, chosen: Bool[Array, " K"], V: Array, penalty: L2, present: Array
) -> tuple[Lanes, Array]:
    """The chosen lanes begin anew at V, which is to be tried."""
    state = state._replace(
        penalty=L2(_where(chosen, penalty.strength, state.penalty.strength)),
        present=_where(chosen, present, state.present),
        pairs=state.pairs * (~chosen).astype(state.pairs.dtype),
    )
    return state, _where(chosen, V, trial)


@_program
def assess(state: Lanes, trial: Array, sums: Sums, Q: Array | None) -> tuple[Array, Report]:
    """The gradient at the trial points, and the numbers of it that the host decides by.

    `measure` is what is to become small: with a penalty, about, the gap, and ‖∇‖² without one. The gap is that of W
    were b at its minimum, and ½ Σ ∇_b²/g, what b is off.
    """
    W, dW, db = trial[:, :-1], sums.gradient[:, :-1], sums.gradient[:, -1]
    penalty, xp = state.penalty, library(trial)
    dW = dW + penalty.gradient(W)
    gradient = rotate(Q, xp.concatenate([dW, db[:, None]], axis=1))
    distance = penalty.distance(dW)
    gap = penalty.gap(distance) + inner(db**2, reciprocal(sums.g)) / 2
    measure = xp.where(penalty.strength > 0, gap, distance**2 + inner(db, db))
    slope = inner(gradient, state.direction)
    return gradient, Report(sums.loss + penalty.value(W), slope, measure)


def advance(
    state: Lanes,
    trial: Array,
    gradient: Array,
    g: Array,
    curvature: Curvature,
    accepted: Bool[np.ndarray, " K"],
    taken: Float[np.ndarray, " K"],
    alpha: Float[np.ndarray, " K"],
) -> tuple[Lanes, Array, Float[Array, " K"]]:
    """The lanes whose trial is accepted go there and turn; the next trial points, and the slopes of the directions.

    `taken` is the part of the step that leads to the trial, 0 where a lane begins there; `alpha` is the next one.
    """
    if library(trial) is np:
        return _advance_on_host(state, trial, gradient, g, curvature, accepted, taken, alpha)
    # Several programs, since only that of the preconditioner is another when it is.
    state, filled, y = _remember(state, gradient, accepted, taken)
    state, in_time, a, vectors = _first_loop(state, trial, gradient, g, accepted, y, filled)
    preconditioned = _precondition(curvature, state.g, state.penalty, state.present, vectors)
    return _second_loop(state, curvature.Q, in_time, a, vectors[1], preconditioned, accepted, alpha)


@_program
def move(state: Lanes, trial: Array, chosen: Bool[Array, " K"], alpha: Float[Array, " K"]) -> Array:
    """The trial points, those of the chosen lanes V + α·step; a lane that begins has its start for one, not V."""
    return _where(chosen, _trial(state, alpha), trial)


@_program
def along(state: Lanes) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """What the penalty adds to the slope at α = 0, and to its growth with α."""
    return state.penalty.along(state.V[:, :-1], state.step[:, :-1])


def _trial(state: Lanes, alpha: Array) -> Array:
    return state.V + alpha[:, None, None] * state.step


@functools.partial(_program, donate=0)
def _remember(state: Lanes, gradient: Array, accepted: Array, taken: Array) -> tuple[Lanes, Any, Any]:
    """The newest pair in place of the oldest, where it has positive curvature; which slot that is; and its y.

    A program of its own: one that also multiplies S and Y copies them first, 100 ms for 2.6 million parameters.
    """
    K, memory, _ = state.S.shape
    s = (taken[:, None, None] * state.direction).reshape(K, -1)  # the step to the trial
    y = (gradient - state.gradient).reshape(K, -1)
    good = accepted & (inner(s, y) > 0)
    slot = state.pairs % memory
    S, Y = (_written(pairs, good, slot, new) for pairs, new in ((state.S, s), (state.Y, y)))
    state = state._replace(S=S, Y=Y, pairs=state.pairs + good.astype(slot.dtype))
    return state, good[:, None] & (slot[:, None] == np.arange(memory, dtype=np.int32)[None]), y


def _written(pairs: Any, good: Array, slot: Array, new: Float[Array, "K D"]) -> Float[Any, "K m D"]:
    """The pairs with a new one in its slot, in the lanes where it is good."""
    lane = jnp.arange(len(slot), dtype=jnp.int32)
    return pairs.at[lane, jnp.where(good, slot, pairs.shape[1])].set(new, mode="drop")  # beyond them nothing is written


@functools.partial(_program, donate=0)
def _first_loop(state: Lanes, trial: Array, gradient: Array, g: Array, accepted: Array, y: Array, filled: Array):
    """The lanes at their trials, a of R a = Sᵀ∇, and what is to be preconditioned: ∇ − Y a, and the newest y."""
    K = len(state.S)
    SY = jnp.where(filled[:, None], _times(state.S, y)[..., None], state.SY)
    V, gradient, g = map(functools.partial(_where, accepted), (trial, gradient, g), (state.V, state.gradient, state.g))
    state = state._replace(V=V, gradient=gradient, g=g, SY=SY)
    flat = state.gradient.reshape(K, -1)
    order, R = in_time = _in_time(state)
    a = _solved(R, _times(order, _times(state.S, flat)))
    rest = flat - _combined(_times(order.mT, a), state.Y)
    vectors = rest, state.Y[_newest_slot(state)]
    return state, in_time, a, tuple(vector.reshape(state.gradient.shape) for vector in vectors)


@_program
def _precondition(curvature: Curvature, g: Array, penalty: L2, present: Array, vectors: tuple[Array, Array]) -> Any:
    return jax.vmap(preconditioner(curvature, g, penalty.curvature(), present))(jnp.stack(vectors))


@functools.partial(_program, donate=0)
def _second_loop(state, Q, in_time, a, newest, preconditioned, accepted, alpha):
    """The directions, and the trials along them."""
    shape, K = state.gradient.shape, len(a)
    order, R = in_time
    r, of_newest = preconditioned[0].reshape(K, -1), preconditioned[1]
    lane, slot = _newest_slot(state)
    yMy = jnp.where(state.pairs > 0, inner(newest, of_newest), 0)
    r = jnp.where(yMy > 0, state.SY[lane, slot, slot] * reciprocal(yMy), 1)[:, None] * r
    diagonal = jnp.diagonal(R, axis1=1, axis2=2)
    delta = _solved(R, diagonal * a - _times(order, _times(state.Y, r)), transpose=True)
    direction = -(r + _combined(_times(order.mT, delta), state.S)).reshape(shape)
    direction = _where(accepted, direction, state.direction)
    state = state._replace(direction=direction, step=rotate_back(Q, direction))
    return state, _trial(state, alpha), inner(state.gradient, direction)


def _newest_slot(state: Lanes) -> tuple[Any, Any]:
    """Where each lane has its newest pair, to index with."""
    return np.arange(len(state.pairs), dtype=np.int32), (state.pairs - 1) % state.SY.shape[1]


def _in_time(state: Lanes) -> tuple[Float[Array, "K m m"], Float[Array, "K m m"]]:
    """The matrix that puts the slots in time, the oldest first, and takes 0 from those that are empty; and R, with 1 on
    its diagonal where a slot is empty.
    """
    memory = state.SY.shape[1]
    slots, first = np.arange(memory, dtype=np.int32), memory - state.pairs[:, None]  # the age of the oldest pair
    age = (slots[None] - state.pairs[:, None]) % memory
    order = ((age[:, None] == slots[None, :, None]) & (age >= first)[:, None]).astype(state.SY.dtype)
    R = jnp.triu(product(product(order, state.SY), order.mT))
    return order, R + (slots[None] < first)[..., None].astype(R.dtype) * np.eye(memory, dtype=R.dtype)[None]


def _times(matrices: Float[Array, "K m D"], vectors: Float[Array, "K D"]) -> Float[Array, "K m"]:
    return product(matrices, vectors[..., None])[..., 0]


def _combined(coefficients: Float[Array, "K m"], rows: Float[Array, "K m D"]) -> Float[Array, "K D"]:
    """Σ c_i row_i. Of the transposed rows times c XLA's CPU makes 35 ms where this takes 3."""
    return product(coefficients[:, None], rows)[:, 0]


def _solved(R: Float[Array, "K m m"], right: Float[Array, "K m"], *, transpose: bool = False) -> Float[Array, "K m"]:
    """R⁻¹ or R⁻ᵀ times the right side."""
    solve = jax.lax.linalg.triangular_solve
    return solve(R, right[..., None], left_side=True, lower=False, transpose_a=transpose)[..., 0]


def _advance_on_host(
    state: Lanes,
    trial: Any,
    gradient: Any,
    g: Any,
    curvature: Curvature,
    accepted: Bool[np.ndarray, " K"],
    taken: Float[np.ndarray, " K"],
    alpha: Float[np.ndarray, " K"],
) -> tuple[Lanes, Any, Any]:
    """`advance` in NumPy's arrays, of which those of the directions and pairs are written to."""
    direction, pairs = state.direction, state.pairs.copy()
    for k in np.flatnonzero(accepted):
        back, y = direction[k].reshape(-1), (gradient[k] - state.gradient[k]).reshape(-1)
        S, Y, SY, memory = state.S[k], state.Y[k], state.SY[k], state.S.shape[1]
        if taken[k] * (back @ y) > 0:
            slot = pairs[k] % memory
            np.multiply(back, taken[k], out=S[slot])  # the step to the trial
            Y[slot] = y
            pairs[k] += 1
            filled = slice(min(pairs[k], memory))
            SY[filled, slot] = product(S[filled], y)
        lane = slice(k, k + 1)
        precondition = preconditioner(curvature, g[lane], state.penalty.curvature()[lane], state.present[lane])
        slots = np.arange(max(0, pairs[k] - memory), pairs[k]) % memory  # in time
        direction[k] = _direction(S, Y, SY, slots, gradient[k], precondition)
    V, gradient, g = map(functools.partial(_where, accepted), (trial, gradient, g), (state.V, state.gradient, state.g))
    state = state._replace(V=V, gradient=gradient, g=g, pairs=pairs, step=rotate_back(curvature.Q, direction))
    return state, _trial(state, alpha), inner(gradient, direction)


def _direction(S, Y, SY, slots, gradient, precondition):
    """The direction of one lane, whose pairs are in these slots, the oldest first."""
    if not len(slots):
        return precondition(-gradient[None])[0]
    solve, R = _triangular(SY.dtype), SY[slots[:, None], slots].T  # of which the lower triangle counts
    S, Y = S[: len(slots)], Y[: len(slots)]  # the first are filled first
    newest, in_slots = slots[-1], np.zeros(len(S), S.dtype)
    flat = gradient.reshape(-1)
    in_slots[slots] = a = solve(R, product(S, flat)[slots], lower=1, trans=1)
    vectors = np.empty((2, flat.size), flat.dtype)
    np.subtract(flat, product(in_slots[None], Y)[0], out=vectors[0])
    vectors[1] = Y[newest]
    r, of_newest = precondition(vectors.reshape(2, *gradient.shape)).reshape(2, -1)
    yMy = Y[newest] @ of_newest
    if yMy > 0:
        r *= SY[newest, newest] / yMy
    in_slots[slots] = solve(R, R.diagonal() * a - product(Y, r)[slots], lower=1)
    r += product(in_slots[None], S)[0]
    return np.negative(r, out=r).reshape(gradient.shape)


@functools.cache
def _triangular(dtype: np.dtype) -> Any:
    from scipy.linalg import get_blas_funcs

    return get_blas_funcs("trsv", dtype=dtype)


def _where(chosen: Bool[Array, " K"], new: Array, old: Array) -> Any:
    if isinstance(chosen, np.ndarray) and chosen.all():
        return new
    return library(old).where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)
