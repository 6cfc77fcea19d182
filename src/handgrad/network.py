"""Networks in JAX: parameters to start from, and a layer whose derivative rule is the hand-derived one.

`Layer`, `forward`, `loss`, `gradient` and `value_and_gradient` are those of `handgrad.formulas`, for any array library.

Example:
  >>> layers = init_network(jax.random.key(0), (64, 32, 10))
  >>> [own.W.shape for own, _ in gradient(layers, jnp.ones((5, 64)), jnp.zeros(5, int))]
  [(64, 32), (32, 10)]
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from handgrad import arguments
from handgrad.compiled import as_jax
from handgrad.formulas import (
    Layer,
    Params,
    forward,
    gradient,
    hessian_vector_product,
    linear,
    loss,
    predict,
    predict_proba,
    value_and_gradient,
)
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.formulas.network import Network, activate, pass_back
from handgrad.initialization import init_params
from handgrad.settings import show
from handgrad.shapes import Float

__all__ = [
    "Layer",
    "dense",
    "forward",
    "gradient",
    "hessian_vector_product",
    "init_network",
    "loss",
    "predict",
    "predict_proba",
    "value_and_gradient",
]


def init_network(
    key: jax.Array,
    sizes: Sequence[int],
    activation: str = "relu",
    *,
    dtype: jax.typing.DTypeLike | None = None,
) -> Network:
    """A network with random weights of the scale that suits the activation, and biases 0.

    The weights are normal. Their standard deviation keeps the size of what passes through: √(2/P) for relu,
    leaky_relu, gelu and silu (He), √(2/(P + C)) for tanh, sigmoid and softmax (Glorot), √(1/P) for identity and
    softplus and for the last layer (LeCun), P and C being the sizes before and after the layer.

    Args:
      key: a JAX random key.
      sizes: features, width of each hidden layer, classes: (P, …, C). Two of them make a softmax regression.
      activation: of the hidden layers.
      dtype: floating; JAX's default if None.

    Returns:
      A tuple of `Layer`, the last with activation "softmax".

    Raises:
      TypeError: a key that is not JAX's.
      ValueError: fewer than two sizes, one that is not positive, or an unknown activation.

    Example:
      >>> [layer.activation for layer in init_network(jax.random.key(0), (64, 32, 10), "tanh")]
      ['tanh', 'softmax']
    """
    arguments.check_key("init_network", key)
    if isinstance(sizes, (str, bytes)) or not (isinstance(sizes, Sequence) or np.ndim(sizes) == 1) or len(sizes) < 2:
        raise ValueError(f"init_network: sizes must be at least (features, classes); got {show(sizes)}.")
    for size in sizes:
        arguments.check_positive_integer("init_network", "each of sizes", size)
    check_activation("init_network", activation)
    layers = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        last = number == len(sizes) - 2
        gain = 1.0 if last else ACTIVATIONS[activation].gain
        scale = math.sqrt(2 / (before + after)) if gain is None else gain / math.sqrt(before)
        params = init_params(before, after, key=jax.random.fold_in(key, number), scale=scale, dtype=dtype)
        layers.append(Layer(params, "softmax" if last else activation))
    return tuple(layers)


def check_activation(function: str, activation: str) -> None:
    """Check the name of an activation."""
    if not (isinstance(activation, str) and activation in ACTIVATIONS):
        got = show(activation)
        raise ValueError(f"{function}: activation must be one of {', '.join(ACTIVATIONS)}; got {got}.")


Entrywise = Callable[[jax.Array], jax.Array]
# The functions whose derivatives stand in `formulas.activations`, under the names that they have there.
KNOWN: dict[Callable[..., Any], str] = {
    jax.nn.identity: "identity",
    jax.nn.relu: "relu",
    jax.nn.leaky_relu: "leaky_relu",
    jax.nn.tanh: "tanh",
    jnp.tanh: "tanh",
    lax.tanh: "tanh",
    jax.nn.sigmoid: "sigmoid",
    jax.nn.softplus: "softplus",
    jax.nn.gelu: "gelu_tanh",
    jax.nn.silu: "silu",
    jax.nn.softmax: "softmax",
}


def dense(
    X: Float[jax.Array, "*batch P"],
    params: Params,
    activation: str | Entrywise | tuple[Entrywise, Entrywise] = "identity",
) -> Float[jax.Array, "*batch C"]:
    """One layer y = f(XW + b) as an operation for any JAX model, its derivative rule written by hand.

    The rule is Ȧ = J (ẊW + XẆ + ḃ), J being diag f′(Z) but for softmax. JAX turns it round for reverse mode, which
    gives dL/dZ = J dL/dA, dL/dW = Xᵀ dL/dZ, dL/db = 1ᵀ dL/dZ and dL/dX = dL/dZ Wᵀ; forward mode, vmap, and second
    derivatives, by differentiating the rule, work too.

    Args:
      X: shape (…, P), floating, with any number of axes before the last.
      params: W (P, C) and b (1, C) or (C,), of X's dtype.
      activation: a name as in `Layer`; the function of `jax.nn` that has it, such as `jax.nn.relu`; or a pair of
        functions of Z, f that acts entry by entry, and its derivative f′.

    Returns:
      Array (…, C) in X's dtype.

    Raises:
      TypeError, ValueError: as `linear`; an activation that is unknown, or a function whose derivative is.

    Example:
      >>> params = Params(jnp.ones((2, 1)), jnp.zeros(1))
      >>> print(dense(jnp.array([[1.0, 2.0]]), params, (jnp.square, lambda Z: 2 * Z)))
      [[9.]]
    """
    activation = _with_derivative(activation)
    if isinstance(params, tuple) and len(params) == 2 and getattr(params[1], "ndim", 2) == 1:
        params = Params(params[0], params[1][None])
    arguments.check_params("dense", params)
    arguments.check_plain("dense", "X", X)
    X, params = as_jax("dense", "X", X), Params(*(as_jax("dense", "params", array) for array in params))
    if X.ndim == 0:
        raise ValueError(f"dense: X must have shape (…, P) with P = {params.W.shape[0]}; got ().")
    rows = jnp.reshape(X, (-1, X.shape[-1]))
    arguments.check_linear("dense", params, rows)
    return jnp.reshape(_dense(rows, params, activation), (*X.shape[:-1], params[0].shape[1]))


def _with_derivative(activation: Any) -> str | tuple[Entrywise, Entrywise]:
    """The activation's name, or the pair of functions that it is."""
    if isinstance(activation, tuple) and len(activation) == 2 and all(map(callable, activation)):
        return activation
    if callable(activation):
        name = KNOWN.get(activation)
        if isinstance(activation, functools.partial) and activation.func is jax.nn.gelu:
            name = "gelu" if activation.keywords == {"approximate": False} else None
        if name is None:
            raise ValueError(
                f"dense: activation must be a function whose derivative is known, of jax.nn: {', '.join(ACTIVATIONS)}; "
                f"got {getattr(activation, '__name__', activation)}. Pass the pair of it and its derivative, (f, df)."
            )
        return name
    check_activation("dense", activation)
    return str(activation)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _dense(X: jax.Array, params: Params, activation: str | tuple[Entrywise, Entrywise]) -> jax.Array:
    Z = linear(params, X)
    return activation[0](Z) if isinstance(activation, tuple) else activate(jnp, Layer(params, activation), Z)


@_dense.defjvp
def _dense_jvp(activation, primals, tangents):
    X, params = primals
    dX, (dW, db) = tangents
    Z, dZ = linear(params, X), dX @ params.W + X @ dW + db
    if isinstance(activation, tuple):
        function, slope = activation
        return function(Z), slope(Z) * dZ
    layer = Layer(params, activation)
    A = activate(jnp, layer, Z)
    return A, pass_back(jnp, layer, Z, A, dZ)
