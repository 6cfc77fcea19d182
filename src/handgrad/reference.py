r"""What a gradient is measured against: the loss written a second time, and the rounding that is its due.

The loss here shares no code with the formulas: it is naive, in float64, and its non-linearities are those of `jax.nn`.

The rounding error of the gradient is followed through the network, forward and backward. Let u be the rounding error
of the dtype, and v that of its sums. A sum of n terms is off by about √n·v·Σ|terms|; where n·v > 1/2, v being that of a
narrow dtype, it may stop growing, and is off by n·v·Σ|terms|. Both are written γ_n below. A sum over the rows may be
off by N·v·Σ|terms|: where many rows have the same entry, as in a column that is mostly 0, and W = 0 gives them the same
Y, all these terms are rounded the same way. Each stored result is off by u times itself. So, E being the error of Z and
e that of A,

    E_l = e_{l−1}|W| + γ_P·(|A||W| + |b|) + u·(|AW| + |Z|)        e_l = 1.13·E_l + u·|A_l|        e_0 = 0

since no f here is steeper than 1.13. A logit between Z − E and Z + E gives a probability between those that the softmax
has where this logit is lowest and all others highest, and the other way round: about Y(1 − Y)E from Y. Computing it
from the logits adds γ_C·Y, and D = Y − T takes on both. On the way back G = D Wᵀ takes on the error of D times |W|ᵀ and
that of its own sum; passing f, G is multiplied by f′, which is off by at most 2.5·E, or, where |Z| ≤ E may be on the
wrong side of a kink, by 1. And AᵀD/N is off by

    (|A|ᵀ error(D) + eᵀ|D| + (N·v + u)·|A|ᵀ|D| + u·|AᵀD|) / N

A number that leaves the range of the dtype is off without limit.

Reference: N. Higham, T. Mary, *A new approach to probabilistic rounding error analysis*, SIAM J. Sci. Comput. (2019).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad.formulas import Layer, Params

Network = tuple[Layer, ...]

FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "identity": lambda Z: Z,
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "softmax": functools.partial(jax.nn.softmax, axis=1),
}
KINKED = ("relu", "leaky_relu")

ROUNDING_32 = 2.0**-24  # the rounding errors of float32 and float64
ROUNDING_64 = 2.0**-53


class Problem(NamedTuple):
    """Data in float64: X (N, P), T (N, C), each row's share (N,) of the mean, w/sum(w), and N or sum(w)."""

    X: Any
    T: Any
    share: Any
    total: Any


class Arithmetic(NamedTuple):
    """How a gradient is computed.

    Attributes:
      u: rounding error of what is stored.
      v: rounding error of softmax and of sums over the rows; below u where they are computed in a wider dtype.
        Products XW are taken to be summed in float32 or wider by whoever computes them.
      tiny: the smallest number that is not rounded to 0.
      largest: the largest number.
    """

    u: float
    v: float
    tiny: float
    largest: float


def arithmetic(dtype: Any, *, wide_sums: bool) -> Arithmetic:
    """That of a dtype; with wide_sums, sums and softmax are computed in float32 where the dtype is narrower."""
    info = jnp.finfo(dtype)
    u = float(info.eps) / 2
    # Hardware may flush what is below the smallest normal number to 0, except in float16, where that would be 6e-5.
    tiny = info.smallest_subnormal if info.dtype == jnp.float16 else info.smallest_normal
    return Arithmetic(u, min(u, ROUNDING_32) if wide_sums else u, float(tiny), float(info.max))


def forward(network: Network, X: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
    """What each layer gets, A_{l−1}, and its Z_l."""
    inputs, logits = [X], []
    for layer in network:
        logits.append(inputs[-1] @ layer.params.W + layer.params.b)
        inputs.append(FUNCTIONS[layer.activation](logits[-1]))
    return inputs[:-1], logits


def loss(network: Network, problem: Problem) -> jax.Array:
    """The mean cross-entropy, with 0·log 0 = 0 for a masked class."""
    Z = forward(network, problem.X)[1][-1]
    log_Y = Z - jax.scipy.special.logsumexp(Z, axis=1, keepdims=True)
    losses = jnp.sum(problem.T * jnp.where(problem.T == 0, 0.0, log_Y), axis=1)
    return -jnp.sum(jnp.where(problem.share == 0, 0.0, problem.share * losses))


class Reference(NamedTuple):
    """The loss, its gradient by autograd in each layer, and how far rounding may take a gradient, and a loss."""

    loss: jax.Array
    gradient: list[Params]
    errors: list[Params]
    loss_error: jax.Array


@jax.jit
def measure(network: Network, problem: Problem, how: Arithmetic) -> Reference:
    """What a gradient that is computed in this arithmetic is measured against; the loss is that of float64."""
    value, gradient = jax.value_and_grad(loss)(network, problem)
    errors, loss_error = _rounding_errors(network, problem, how, value)
    return Reference(value, [layer.params for layer in gradient], errors, loss_error)


@jax.jit
def pull_back(network: Network, X: jax.Array, D: jax.Array) -> list[Params]:
    """The gradient of each layer for any D in place of dL/dZ = (Y − T)/N."""
    gradient = jax.grad(lambda network: jnp.vdot(D, forward(network, X)[1][-1]))(network)
    return [layer.params for layer in gradient]


def _rounding_errors(
    network: Network, problem: Problem, how: Arithmetic, value: jax.Array
) -> tuple[list[Params], jax.Array]:
    """How far rounding may take each layer's gradient, and the loss, times 2."""
    u, v, tiny, largest = how
    product = jnp.minimum(u, ROUNDING_32)
    inputs, logits = forward(network, problem.X)
    input_errors, logit_errors = [jnp.zeros_like(problem.X)], []
    for number, (layer, A, Z) in enumerate(zip(network, inputs, logits, strict=True)):
        W, b = layer.params
        size = jnp.abs(A) @ jnp.abs(W) + jnp.abs(b)
        E = (
            input_errors[-1] @ jnp.abs(W)
            + _growth(product, A.shape[1]) * size
            + u * (jnp.abs(A @ W) + jnp.abs(Z))
            + tiny
        )
        masked = jnp.isneginf(Z)
        logit_errors.append(jnp.where(masked, 0.0, jnp.where(size > largest, jnp.inf, E)))
        if number < len(network) - 1:
            input_errors.append(_passed(layer, Z, logit_errors[-1]) + u * jnp.abs(inputs[number + 1]))

    Z = logits[-1]
    below = jnp.where(jnp.isneginf(Z), 0.0, jnp.max(Z, axis=1, keepdims=True) - Z)
    Y, share = jax.nn.softmax(Z, axis=1), problem.share[:, None]
    D = share * (Y - problem.T)
    soft = jnp.where((problem.T == 0) | (problem.T == 1), 0.0, problem.T)  # a distribution is rounded itself
    error = _softmax_passed(Z, logit_errors[-1] + v * below) + (4 * v + _growth(v, Y.shape[1])) * Y + v * soft
    # Who divides by N before the product may lose an entry of D/N to 0, who does after it an entry of D.
    lost = jnp.where(share == 0, 0.0, tiny * jnp.where(v < u, share, 1.0))
    error = jnp.where(share == 0, 0.0, share * error) + lost
    errors: list[Params] = []
    for number in reversed(range(len(network))):
        A, e = inputs[number], input_errors[number]
        own = len(A) * v + u
        sizes = Params(W=jnp.abs(A).T @ jnp.abs(D), b=jnp.sum(jnp.abs(D), axis=0, keepdims=True))
        dW = jnp.abs(A).T @ error + e.T @ jnp.abs(D) + own * sizes.W + u * jnp.abs(A.T @ D) + tiny
        db = (
            jnp.sum(error, axis=0, keepdims=True)
            + own * sizes.b
            + u * jnp.abs(jnp.sum(D, axis=0, keepdims=True))
            + tiny
        )
        # The sum may leave the range before it is divided by N.
        bounds = (
            jnp.where(size * problem.total > largest, jnp.inf, 2 * bound)
            for size, bound in zip(sizes, (dW, db), strict=True)
        )
        errors.insert(0, Params(*bounds))
        if number:
            D, error = _back(
                how, network[number], network[number - 1], D, error, logits[number - 1], A, e, logit_errors[number - 1]
            )
    finite = jnp.where(jnp.isfinite(Z), jnp.abs(Z), 0.0)
    loss_error = 2 * jnp.max(logit_errors[-1]) + (math.sqrt(len(problem.X)) + 4) * u * (value + jnp.max(finite))
    return errors, 2 * loss_error


def _growth(v, n):
    """γ_n: what a sum of n products is off by, as a part of the sum of their sizes."""
    return jnp.where(n * v > 0.5, n * v, math.sqrt(n) * v)


def _back(how, layer, below, D, error, Z, A, e, E):
    """D and its error, from a layer to the layer below it, whose Z, A and errors of these are given."""
    u, _, tiny, _ = how
    W = layer.params.W
    G = D @ W.T
    error = (
        (error + (_growth(jnp.minimum(u, ROUNDING_32), D.shape[1]) + u) * jnp.abs(D)) @ jnp.abs(W).T
        + u * jnp.abs(G)
        + tiny
    )
    D = jax.vjp(FUNCTIONS[below.activation], Z)[1](G)[0]
    if below.activation == "softmax":
        inner = jnp.sum((A * error + e * jnp.abs(G)), axis=1, keepdims=True)
        size = jnp.abs(G) + jnp.sum(A * jnp.abs(G), axis=1, keepdims=True)
        return D, A * (error + inner) + (e + 4 * u * A) * size + tiny
    if below.activation in KINKED:
        slope_error = jnp.where(jnp.abs(Z) <= E, 1.0, 0.0)
    else:
        slope_error = 2.5 * E
    return D, 1.13 * error + (slope_error + 4 * u) * jnp.abs(G) + tiny


def _passed(layer, Z, E):
    return _softmax_passed(Z, E) if layer.activation == "softmax" else 1.13 * E


def _softmax_passed(Z, E):
    """How far softmax(Z) may move where each logit moves by no more than E."""
    top = jnp.max(Z + E, axis=1, keepdims=True)
    high, low = jnp.exp(Z + E - top), jnp.exp(Z - E - top)
    others_high = jnp.maximum(jnp.sum(high, axis=1, keepdims=True) - high, 0.0)
    others_low = jnp.maximum(jnp.sum(low, axis=1, keepdims=True) - low, 0.0)
    Y = jax.nn.softmax(Z, axis=1)
    moved = jnp.maximum(high / (high + others_low) - Y, Y - low / (low + others_high))
    moved = jnp.where(jnp.isnan(moved), 1.0, jnp.maximum(moved, 0.0))  # E so large that all of these are 0
    moved = jnp.where(jnp.any(jnp.isinf(E), axis=1, keepdims=True), jnp.inf, moved)
    return jnp.where(jnp.isneginf(Z), 0.0, moved)


# --- Central differences -------------------------------------------------------------------------------------------


class Differences(NamedTuple):
    """Of some entries: the difference, how far it may be off, and whether a step was found for it."""

    values: np.ndarray
    errors: np.ndarray
    found: np.ndarray


def differences(
    network: Network, problem: Problem, loss_error: float, entries: np.ndarray, layer: int, name: str
) -> Differences:
    """Central differences of the loss by entries of W or b, flattened, of one layer.

    The step changes no logit by more than u^(1/3), u being float64's rounding error. That is near the best: the
    truncation error of a difference grows with the step's square, the rounding error as it shrinks. Where it carries
    a relu over its kink smaller ones are tried.
    """
    values, errors = np.full((2, len(entries)), np.nan)
    found = np.zeros(len(entries), bool)
    steps = np.asarray(_steps(network, problem, entries, layer=layer, name=name))
    for shrink in (1, 16, 256):
        value, doubled, stays = map(
            np.asarray, _central_differences(network, problem, entries, steps / shrink, layer=layer, name=name)
        )
        new = stays & ~found
        found |= stays
        values[new] = value[new]
        errors[new] = (loss_error / steps * shrink + np.abs(doubled - value))[new]
        if stays.all():
            break
    return Differences(values, errors, found)


@functools.partial(jax.jit, static_argnames=("layer", "name"))
def _steps(network: Network, problem: Problem, entries: Any, *, layer: int, name: str) -> jax.Array:
    h = ROUNDING_64 ** (1 / 3)
    if name == "b":
        return jnp.full(entries.shape, h)
    largest = jnp.max(jnp.abs(forward(network, problem.X)[0][layer]), axis=0)
    features = entries // network[layer].params.W.shape[1]
    return (h / jnp.where(largest == 0, 1.0, largest))[features]


@functools.partial(jax.jit, static_argnames=("layer", "name"))
def _central_differences(
    network: Network, problem: Problem, entries: Any, steps: Any, *, layer: int, name: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The difference by each step, that by the step doubled, and whether every relu stays on its side of the kink."""
    own = network[layer].params
    values = getattr(own, name)

    def sides(network):
        pairs = zip(network, forward(network, problem.X)[1], strict=True)
        kinked = [Z.ravel() > 0 for layer, Z in pairs if layer.activation in KINKED]
        return jnp.concatenate([*kinked, jnp.zeros(0, bool)])

    def moved(entry, change):
        array = values.ravel().at[entry].add(change).reshape(values.shape)
        changed = network[layer]._replace(params=own._replace(**{name: array}))
        return (*network[:layer], changed, *network[layer + 1 :])

    def difference(entry, step):
        up, down = moved(entry, step), moved(entry, -step)
        slope = (loss(up, problem) - loss(down, problem)) / (2 * step)
        return slope, jnp.all((sides(up) == sides(network)) & (sides(down) == sides(network)))

    def both(pair):
        entry, step = pair
        slope, stays = difference(entry, step)
        doubled, doubled_stays = difference(entry, 2 * step)
        return slope, doubled, stays & doubled_stays

    return jax.lax.map(both, (entries, steps))
