r"""The steps of L-BFGS in K lanes, in small compiled programs; what they decide by is decided on the host, in `search`.

Each lane solves one problem, a penalty and weights, on data that all lanes share, so that one sweep over the rows
serves them all. With S and Y the last steps and changes of the gradient, R the upper triangle of SᵀY, oldest first, and
D its diagonal, the two loops of L-BFGS are two triangular systems:

    R a = Sᵀ∇        r = M⁻¹(∇ − Y a)        Rᵀ δ = D a − Yᵀ r        direction = −(r + S δ)

M⁻¹ is the preconditioner of `kronecker`, times s·y / y·M⁻¹y of the newest pair, which corrects its scale (a fifth fewer
iterations). Gradients, S and Y are kept in the eigenbasis of A, where M is all but diagonal.

References: Nocedal and Wright, *Numerical Optimization* (2006), algorithm 7.4; Byrd, Nocedal and Schnabel,
*Representations of quasi-Newton matrices* (1994).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import SingleDeviceSharding

from handgrad.rows import inner, product
from handgrad.shapes import Bool, Float
from handgrad.solvers.kronecker import Curvature, precondition, reciprocal, rotate, rotate_back
from handgrad.solvers.lanes import Lanes, Report
from handgrad.solvers.penalty import L2
from handgrad.solvers.sums import Sums


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
        direction=array,
        step=array,
        S=pairs,
        Y=pairs,
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
    vectors = jax.ShapeDtypeStruct((2, *V.shape), V.dtype, sharding=there)
    chosen = jax.ShapeDtypeStruct(state.pairs.shape, bool)
    steps = jax.ShapeDtypeStruct(strength.shape, V.dtype)
    return [
        (_remember, (state, V, chosen, steps)),
        (_first_loop, (state, V, V, state.g, chosen, steps, filled)),
        (_second_loop, (state, curvature.Q, pairs, vectors, vectors, chosen, steps)),
        (assess, (state, V, Sums(strength, V, state.g), curvature.Q)),
        (_precondition, (curvature, state.g, state.penalty, state.present, vectors)),
    ]


@functools.partial(jax.jit, donate_argnums=(0, 1))
def load(
    state: Lanes, trial: Array, chosen: Bool[Array, " K"], V: Array, penalty: L2, present: Array
) -> tuple[Lanes, Array]:
    """The chosen lanes begin anew at V, which is to be tried."""
    state = state._replace(
        penalty=L2(jnp.where(chosen, penalty.strength, state.penalty.strength)),
        present=jnp.where(chosen[:, None], present, state.present),
        pairs=jnp.where(chosen, 0, state.pairs),
    )
    return state, _where(chosen, V, trial)


@jax.jit
def assess(state: Lanes, trial: Array, sums: Sums, Q: Array | None) -> tuple[Array, Report]:
    """The gradient at the trial points, and the numbers of it that the host decides by.

    `measure` is what is to become small: with a penalty, about, the gap, and ‖∇‖² without one. The gap is that of W
    were b at its minimum, and ½ Σ ∇_b²/g, what b is off.
    """
    W, dW, db = trial[:, :-1], sums.gradient[:, :-1], sums.gradient[:, -1]
    penalty = state.penalty
    gradient = rotate(Q, sums.gradient.at[:, :-1].add(penalty.gradient(W)))
    distance = penalty.distance(dW, W)
    gap = penalty.gap(distance) + jnp.sum(db**2 * reciprocal(sums.g), axis=1) / 2
    measure = jnp.where(penalty.strength > 0, gap, distance**2 + jnp.sum(db**2, axis=1))
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
    # Several programs, since only that of the preconditioner is another when it is.
    state, filled = _remember(state, gradient, accepted, taken)
    state, a, vectors = _first_loop(state, trial, gradient, g, accepted, taken, filled)
    preconditioned = _precondition(curvature, state.g, state.penalty, state.present, vectors)
    return _second_loop(state, curvature.Q, a, vectors, preconditioned, accepted, alpha)


@jax.jit
def move(state: Lanes, alpha: Float[Array, " K"]) -> Array:
    """The trial points V + α·step."""
    return _trial(state, alpha)


@jax.jit
def along(state: Lanes) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """What the penalty adds to the slope at α = 0, and to its growth with α."""
    return state.penalty.along(state.V[:, :-1], state.step[:, :-1])


def _trial(state: Lanes, alpha: Array) -> Array:
    return state.V + alpha[:, None, None] * state.step


def _newest(
    state: Lanes, gradient: Array, taken: Float[Array, " K"]
) -> tuple[Float[Array, "K P+1 C"], Float[Array, "K P+1 C"]]:
    """The step to the trial and the change of the gradient there."""
    return taken[:, None, None] * state.direction, gradient - state.gradient


@functools.partial(jax.jit, donate_argnums=0)
def _remember(state: Lanes, gradient: Array, accepted: Array, taken: Array) -> tuple[Lanes, Bool[Array, "K m"]]:
    """The newest pair in place of the oldest, where it has positive curvature; and which slot that is.

    A program of its own: one that also multiplies S and Y copies them first, 100 ms for 2.6 million parameters.
    """
    s, y = _newest(state, gradient, taken)
    K, memory, _ = state.S.shape
    good = accepted & (inner(s, y) > 0)
    slot = jnp.where(good, state.pairs % memory, memory)  # which is out of range: nothing is written
    lane = jnp.arange(K, dtype=jnp.int32)
    S = state.S.at[lane, slot].set(s.reshape(K, -1), mode="drop")
    Y = state.Y.at[lane, slot].set(y.reshape(K, -1), mode="drop")
    state = state._replace(S=S, Y=Y, pairs=state.pairs + good.astype(jnp.int32))
    return state, slot[:, None] == jnp.arange(memory, dtype=jnp.int32)[None]


@functools.partial(jax.jit, donate_argnums=0)
def _first_loop(state: Lanes, trial: Array, gradient: Array, g: Array, accepted: Array, taken: Array, filled: Array):
    """The lanes at their trials, a of R a = Sᵀ∇, and what is to be preconditioned: ∇ − Y a, and the newest y."""
    s, y = _newest(state, gradient, taken)
    K, memory, _ = state.S.shape
    SY = jnp.where(filled[:, None], _times(state.S, y.reshape(K, -1))[..., None], state.SY)
    SY = jnp.where(filled[..., None], _times(state.Y, s.reshape(K, -1))[:, None], SY)
    V, gradient, g = map(functools.partial(_where, accepted), (trial, gradient, g), (state.V, state.gradient, state.g))
    state = state._replace(V=V, gradient=gradient, g=g, SY=SY)
    flat = state.gradient.reshape(K, -1)
    permutation, R, _ = _in_time(state)
    a = _triangular(R, _times(permutation, _times(state.S, flat)))
    newest = state.Y[jnp.arange(K, dtype=jnp.int32), (state.pairs - 1) % memory]
    rest = flat - _combined(_times(permutation.mT, a), state.Y)
    return state, a, jnp.stack([rest, newest]).reshape(2, *state.gradient.shape)


@jax.jit
def _precondition(
    curvature: Curvature, g: Array, penalty: L2, present: Array, vectors: Float[Array, "2 K P+1 C"]
) -> Array:
    return jax.vmap(functools.partial(precondition, curvature, g, penalty.curvature(), present))(vectors)


@functools.partial(jax.jit, donate_argnums=0)
def _second_loop(state, Q, a, vectors, preconditioned, accepted, alpha):
    """The directions, and the trials along them."""
    shape, K = state.gradient.shape, len(a)
    r, of_newest = preconditioned.reshape(2, K, -1)
    permutation, R, there = _in_time(state)
    diagonal = jnp.diagonal(R, axis1=1, axis2=2)
    yMy = jnp.where(there[:, -1], inner(vectors[1], of_newest), 0)
    r = jnp.where(yMy > 0, diagonal[:, -1] * reciprocal(yMy), 1)[:, None] * r
    delta = _triangular(R, diagonal * a - _times(permutation, _times(state.Y, r)), transpose=True)
    direction = -(r + _combined(_times(permutation.mT, delta), state.S)).reshape(shape)
    direction = _where(accepted, direction, state.direction)
    state = state._replace(direction=direction, step=rotate_back(Q, direction))
    return state, _trial(state, alpha), inner(state.gradient, direction)


def _in_time(state: Lanes) -> tuple[Float[Array, "K m m"], Float[Array, "K m m"], Bool[Array, "K m"]]:
    """The matrix that puts slots in the order of time, the oldest pair first; R; and which pairs there are.

    Those that are empty come before the others and count for nothing; R has 1 on its diagonal there.
    """
    memory = state.SY.shape[1]
    slots = jnp.arange(memory, dtype=jnp.int32)
    order = (state.pairs[:, None] + slots[None]) % memory
    there = slots[None] >= memory - state.pairs[:, None]
    permutation = (there[..., None] & (order[..., None] == slots[None, None])).astype(state.SY.dtype)
    SY = product(product(permutation, state.SY), permutation.mT)
    absent = (~there[..., None]).astype(SY.dtype)
    return permutation, jnp.triu(SY) + absent * jnp.eye(memory, dtype=SY.dtype)[None], there


def _times(matrices: Float[Array, "K m D"], vectors: Float[Array, "K D"]) -> Float[Array, "K m"]:
    return product(matrices, vectors[..., None])[..., 0]


def _combined(coefficients: Float[Array, "K m"], rows: Float[Array, "K m D"]) -> Float[Array, "K D"]:
    """Σ c_i row_i. Of the transposed rows times c XLA's CPU makes 35 ms where this takes 3."""
    return product(coefficients[:, None], rows)[:, 0]


def _triangular(R: Float[Array, "K m m"], right: Float[Array, "K m"], *, transpose: bool = False) -> Array:
    solve = jax.lax.linalg.triangular_solve
    return solve(R, right[..., None], left_side=True, lower=False, transpose_a=transpose)[..., 0]


def _where(chosen: Bool[Array, " K"], new: Array, old: Array) -> Array:
    return jnp.where(chosen.reshape(-1, *[1] * (new.ndim - 1)), new, old)
