r"""What the gradient by hand is measured against: the loss written a second time, and the rounding that is its due.

The loss here shares no code with the formulas: it is naive, in float64, and its non-linearities are those of `jax.nn`.

The rounding error of the gradient is followed through the network, forward and backward. Let u be the rounding error
of the dtype, and v that of its sums, which is float32's for narrower dtypes. A sum of n products is off by about
√n·v·Σ|products|, and each stored result by u times itself. So, E being the error of Z and e that of A,

    E_l = e_{l−1}|W| + √P·v·(|A||W| + |b|) + u·(|AW| + |Z|)        e_l = 1.13·E_l + u·|A_l|        e_0 = 0

since no f here is steeper than 1.13. The probabilities are off by Y ∘ (E + ⟨Y, E⟩) + v·Y, and with them D = Y − T. On
the way back G = D Wᵀ takes on the error of D times |W|ᵀ and that of its own sum; passing f, G is multiplied by f′,
which is off by at most 2.5·E, or, where |Z| ≤ E may be on the wrong side of a kink, by 1. And AᵀD/N is off by

    (|A|ᵀ error(D) + eᵀ|D| + (√N·v + u)·|A|ᵀ|D| + u·|AᵀD|) / N

Reference: N. Higham, T. Mary, *A new approach to probabilistic rounding error analysis*, SIAM J. Sci. Comput. (2019).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
    """Data in float64: X (N, P), T (N, C), and each row's share (N,) of the mean, w/sum(w)."""

    X: jax.Array
    T: jax.Array
    share: jax.Array


def forward(network: Network, X: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
    """What each layer gets, A_{l−1}, and its Z_l."""
    inputs, logits = [X], []
    for layer in network:
        logits.append(inputs[-1] @ layer.params.W + layer.params.b)
        inputs.append(FUNCTIONS[layer.activation](logits[-1]))
    return inputs[:-1], logits


def loss(network: Network, problem: Problem) -> jax.Array:
    """The mean cross-entropy."""
    Z = forward(network, problem.X)[1][-1]
    log_Y = Z - jax.scipy.special.logsumexp(Z, axis=1, keepdims=True)
    return -jnp.vdot(problem.share, jnp.sum(problem.T * log_Y, axis=1))


def rounding_errors(u: Any, network: Network, problem: Problem) -> tuple[list[Params], jax.Array]:
    """How far rounding may take each layer's gradient, and the loss, in a dtype of rounding error u, times 4."""
    v = jnp.minimum(u, ROUNDING_32)
    inputs, logits = forward(network, problem.X)
    input_errors, logit_errors = [jnp.zeros_like(problem.X)], []
    for number, (layer, A, Z) in enumerate(zip(network, inputs, logits, strict=True)):
        W, b = layer.params
        E = input_errors[-1] @ jnp.abs(W) + math.sqrt(A.shape[1]) * v * (jnp.abs(A) @ jnp.abs(W) + jnp.abs(b))
        logit_errors.append(E + u * (jnp.abs(A @ W) + jnp.abs(Z)))
        if number < len(network) - 1:
            input_errors.append(_passed(layer, inputs[number + 1], logit_errors[-1]) + u * jnp.abs(inputs[number + 1]))

    Y = jax.nn.softmax(logits[-1], axis=1)
    D = problem.share[:, None] * (Y - problem.T)
    error = problem.share[:, None] * (_softmax_passed(Y, logit_errors[-1]) + v * Y)
    errors: list[Params] = []
    for number in reversed(range(len(network))):
        A, e = inputs[number], input_errors[number]
        own = math.sqrt(len(A)) * v + u
        dW = jnp.abs(A).T @ (error + own * jnp.abs(D)) + e.T @ jnp.abs(D) + u * jnp.abs(A.T @ D)
        db = jnp.sum(error + own * jnp.abs(D), axis=0, keepdims=True) + u * jnp.abs(jnp.sum(D, axis=0, keepdims=True))
        errors.insert(0, Params(W=4 * dW, b=4 * db))
        if number:
            D, error = _back(
                u, v, network[number], network[number - 1], D, error, logits[number - 1], A, e, logit_errors[number - 1]
            )
    scale = loss(network, problem) + jnp.max(jnp.abs(logits[-1]))
    loss_error = 2 * jnp.max(logit_errors[-1]) + (math.sqrt(len(problem.X)) + 4) * u * scale
    return errors, 4 * loss_error


def _back(u, v, layer, below, D, error, Z, A, e, E):
    """D and its error, from a layer to the layer below it, whose Z, A and errors of these are given."""
    W = layer.params.W
    G = D @ W.T
    error = (error + (math.sqrt(D.shape[1]) * v + u) * jnp.abs(D)) @ jnp.abs(W).T + u * jnp.abs(G)
    D = jax.vjp(FUNCTIONS[below.activation], Z)[1](G)[0]
    if below.activation == "softmax":
        inner = jnp.sum((A * error + e * jnp.abs(G)), axis=1, keepdims=True)
        size = jnp.abs(G) + jnp.sum(A * jnp.abs(G), axis=1, keepdims=True)
        return D, A * (error + inner) + (e + 4 * u * A) * size
    if below.activation in KINKED:
        slope_error = jnp.where(jnp.abs(Z) <= E, 1.0, 0.0)
    else:
        slope_error = 2.5 * E
    return D, 1.13 * error + (slope_error + 4 * u) * jnp.abs(G)


def _passed(layer, A, E):
    return _softmax_passed(A, E) if layer.activation == "softmax" else 1.13 * E


def _softmax_passed(Y, E):
    return Y * (E + jnp.sum(Y * E, axis=1, keepdims=True))
