r"""The learning rate that suits the data: one over how fast the gradient changes.

The Hessian of the mean loss is Σ w x xᵀ ⊗ (diag y − y yᵀ)/N with the bias's 1 in x and weights of mean 1. No eigenvalue
of diag y − y yᵀ exceeds 1/2, so that

    η = 1/(λ/2 + l2)        λ = λ_max(A)        A = Σ w x xᵀ/N

lowers the loss at each step over all rows: gradient descent does so for any η < 2/(λ/2 + l2). A batch of B rows has a
curvature of its own, the mean of its w x xᵀ, which differs from A the more, the longer its rows are. Of what is drawn
without replacement the square has the mean

    E[A_B²] = (1 − c) A² + c E[w² ‖x‖² x xᵀ]        c = (N − B)/(B (N − 1))

so that λ becomes (1 − c) λ + c Σ w² ‖x‖⁴/Σ w ‖x‖², in which ‖x‖² is averaged as it counts for the curvature: with
B = 1 a step suits one row, with B = N all of them.

Reference: R. M. Gower et al., *SGD: General Analysis and Improved Rates* (2019), for the largest ‖x‖² instead.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad import processes
from handgrad.formulas import Params
from handgrad.formulas.network import Network, layers_of
from handgrad.precision import wide_dtype
from handgrad.rows import Stream
from handgrad.settings import smallest_number
from handgrad.shapes import Float

OF_NETWORKS = 0.1  # whose curvature has no bound
# ‖Av‖ is below λ for ‖v‖ = 1: after so many products by 0.7 % in the mean over twelve tables, 5 % at the most. A rate
# that is too large by that still lowers the loss.
ITERATIONS = 10
MOST_VALUES = 2**24  # of the rows of a stream of which λ is taken
BLOCK_VALUES = 2**19


def suitable_rate(
    params: Params | Network,
    X: Any,
    weights: Any,
    *,
    batch_size: int | None,
    l2: float,
) -> float:
    """The learning rate of gradient descent on these data; a constant, 0.1, where there are hidden layers.

    Args:
      params: what is trained, of which only the number of layers counts.
      X: data (N, P), finite; of a stream λ is that of rows evenly out of it, and ‖x‖² that of all.
      weights: of the rows (N,), None for ones.
      batch_size: rows a step; None for all of them.
      l2: the penalty.

    Raises:
      ValueError: features so large that the dtype has no such rate.
    """
    if len(layers_of(params)) > 1:
        return OF_NETWORKS
    num_rows, dtype = X.shape[0], jax.dtypes.canonicalize_dtype(X.dtype)
    rows = min(batch_size or num_rows, num_rows)
    found = _curvatures_of_stream(X, weights) if isinstance(X, Stream) else _curvatures(X, weights)
    unit, of_all, of_rows = map(float, found)
    share = (num_rows - rows) / (rows * max(num_rows - 1, 1))
    curvature = unit**2 * ((1 - share) * of_all + share * of_rows) / 2 + l2
    if curvature == 0:
        return 1.0  # all rows weigh 0, and any rate will do
    if not 1 / curvature >= smallest_number(dtype):
        raise ValueError(
            f"train: no learning rate of {dtype} suits features as large as {unit:.3g}. Divide them, so that the "
            "largest is about 1."
        )
    return 1 / curvature


def rates(
    learning_rate: float | Callable[[Any], Any], first: int, num_steps: int, dtype: Any
) -> Float[np.ndarray, " num_steps"]:
    """The learning rate of each of an epoch's steps, `first` being the number of steps before."""
    if not callable(learning_rate):
        return np.full(num_steps, learning_rate, dtype)
    found = np.asarray(_scheduled(first, schedule=learning_rate, num_steps=num_steps)).astype(dtype)
    wrong = np.flatnonzero(~((found >= 0) & np.isfinite(found)))
    if len(wrong):
        raise ValueError(
            "train: learning_rate must give finite numbers, 0 or more, at every step; got "
            f"{found[wrong[0]]:g} at step {first + wrong[0]}."
        )
    return found


@functools.partial(jax.jit, static_argnames=("schedule", "num_steps"))
def _scheduled(first: Array, *, schedule: Callable[[Any], Any], num_steps: int) -> Array:
    return jax.vmap(lambda step: jnp.asarray(schedule(step)))(first + jnp.arange(num_steps))


def _curvatures_of_stream(stream: Stream, weights: np.ndarray | None) -> tuple[Any, ...]:
    """As `_curvatures`, from one reading."""
    num_rows = stream.shape[0]
    w = np.ones(num_rows) if weights is None else weights.astype(np.float64)
    w = w / (w.mean() or 1)
    every = -(-stream.size // MOST_VALUES)
    own = np.arange(num_rows) if stream.owners is None else np.flatnonzero(stream.owners == processes.index())
    sample, squares, start = [np.empty((0, stream.shape[1]), stream.dtype)], np.empty(len(own)), 0
    for block in stream.blocks(max(1, BLOCK_VALUES // stream.shape[1])):
        rows = slice(start, start + len(block))
        sample.append(block[own[rows] % every == 0])
        wide = block.astype(np.float64)
        squares[rows] = np.einsum("np,np->n", wide, wide) + 1
        start += len(block)
    squares *= w[own]
    sampled = np.concatenate(sample)
    sums = np.array([squares.sum(), squares[own % every == 0].sum(), squares @ squares])
    if stream.owners is not None:
        sums = processes.gather(sums).sum(axis=0)
        of_processes, sampled = processes.gather_values(sampled), np.empty((-(-num_rows // every), stream.shape[1]))
        for place, found in enumerate(of_processes):
            sampled[stream.owners[::every] == place] = found
    total, seen, square = map(float, sums)
    weights = w[::every]
    of_sample = _curvatures(jnp.asarray(sampled, jax.dtypes.canonicalize_dtype(stream.dtype)), weights)
    unit, largest, _ = map(float, of_sample)
    # What rows that are not in the sample have more than those in it may all lie in one direction.
    more = total / num_rows - seen / (weights.mean() or 1) / len(weights)
    return unit, largest + max(0.0, more) / unit**2, square / (total or 1) / unit**2


@jax.jit
def _curvatures(X: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """A unit, and in its square λ and the mean ‖x‖²; so that nothing overflows."""
    wide = wide_dtype(X.dtype)
    w = jnp.ones(X.shape[0], wide) if weights is None else weights.astype(wide)
    mean = jnp.mean(w)
    w = w / jnp.where(mean > 0, mean, 1)
    unit = jnp.maximum(jnp.max(jnp.abs(X)).astype(wide), 1)

    def times(pair: tuple[Array, Array]) -> tuple[Array, Array]:
        """A/unit² of a vector, whose last entry is the bias's."""
        v, bias = pair
        wu = w * (_product(X, v / unit) + bias / unit) / X.shape[0]
        return _product(X.T, wu / unit), jnp.sum(wu) / unit

    def iterate(_: Any, carry: Any) -> Any:
        v, norm = carry
        v = times(jax.tree.map(lambda part: part / jnp.where(norm > 0, norm, 1), v))
        return v, jnp.sqrt(jnp.vdot(v[0], v[0]) + v[1] ** 2)

    start = jax.random.normal(jax.random.key(0), (X.shape[1],), wide), jnp.ones((), wide)
    norm = jnp.sqrt(jnp.vdot(start[0], start[0]) + 1)
    _, largest = jax.lax.fori_loop(0, ITERATIONS, iterate, (start, norm))
    squares = w * (jnp.sum((X.astype(wide) / unit) ** 2, axis=1) + unit**-2)
    total = jnp.sum(squares)
    return unit, largest, jnp.vdot(squares, squares) / jnp.where(total > 0, total, 1)


def _product(X: Array, v: Array) -> Array:
    return jnp.matmul(X.astype(v.dtype), v, precision="highest")
