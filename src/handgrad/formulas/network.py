r"""The loss L of the layer, and of a network of layers: its gradient, its predictions.

A network is a tuple of layers y = f(XW + b), the last of which has f = softmax:

    A_0 = X        Z_l = A_{l−1} W_l + b_l        A_l = f_l(Z_l)        Y = softmax(Z), Z the last Z_l

A softmax regression is the network without hidden layers, and `Params` alone stand for it: every function here takes
either, and gives gradients in the form of what it got.
"""

import math
from typing import Any, NamedTuple

import jax
from array_api_compat import array_namespace

from handgrad import arguments
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.formulas.layer import Params, linear, linear_backward
from handgrad.formulas.losses import check_relative, mean_loss, residual
from handgrad.formulas.softmax import most_probable, softmax
from handgrad.precision import if_finite, widen, without_uncounted
from handgrad.shapes import Float, Integer, Shaped

Array = Any


class Layer(NamedTuple):
    """One layer y = f(XW + b). A JAX pytree, whose leaves are W and b.

    Attributes:
      params: W (P, C) and b (1, C).
      activation: the name of f: identity, relu, leaky_relu, tanh, sigmoid, softplus, gelu, gelu_tanh, silu or softmax.

    Example:
      >>> hidden = Layer(Params(W=np.ones((3, 2)), b=np.zeros((1, 2))), "relu")
      >>> output = Layer(Params(W=np.ones((2, 4)), b=np.zeros((1, 4))), "softmax")
      >>> print(predict_proba((hidden, output), np.ones((1, 3))))
      [[0.25 0.25 0.25 0.25]]
    """

    params: Params
    activation: str


jax.tree_util.register_pytree_with_keys(
    Layer,
    lambda layer: (((jax.tree_util.GetAttrKey("params"), layer.params),), layer.activation),
    lambda activation, children: Layer(next(iter(children)), activation),
)

Network = tuple[Layer, ...]


def is_network(params: Any) -> bool:
    """Whether params are a tuple or a list of layers, rather than one layer's (W, b)."""
    return isinstance(params, (tuple, list)) and all(isinstance(layer, Layer) for layer in params)


def layers_of(params: Any) -> Network:
    """The layers of a network, or the one layer that Params alone are."""
    return tuple(params) if is_network(params) else (Layer(params, "softmax"),)


def in_form_of(params: Any, layers: list[Params]) -> Any:
    """One Params a layer, given in the form of params: as Params alone, or as a network."""
    if not is_network(params):
        return layers[0]
    return type(params)(Layer(own, layer.activation) for layer, own in zip(params, layers, strict=True))


# --- Forward ------------------------------------------------------------------------------------------------------


def forward(params: Any, X: Float[Array, "N P"]) -> Float[Array, "N C"]:
    """The logits of a network: Z of its last layer, before softmax.

    Args:
      params: a network, a tuple or a list of `Layer`, or Params.
      X: data, shape (N, P).

    Returns:
      Array (N, C) in X's dtype.

    Raises:
      TypeError, ValueError: layers that do not fit each other or X; an unknown activation; a last layer other than
        softmax.

    Example:
      >>> hidden = Layer(Params(W=np.eye(2), b=np.zeros((1, 2))), "relu")
      >>> output = Layer(Params(W=np.eye(2), b=np.ones((1, 2))), "softmax")
      >>> forward((hidden, output), np.array([[-3.0, 5.0]]))
      array([[1., 6.]])
    """
    *hidden, output = check_network("forward", params, X)
    _, A = _hidden_forward(array_namespace(X), hidden, X)
    return linear(output.params, A)


class _Pass(NamedTuple):
    """What a hidden layer computes on the way forward, from X to A, and what its backward step needs."""

    X: Array
    Z: Array
    A: Array


def _hidden_forward(xp: Any, layers: Any, X: Array) -> tuple[list[_Pass], Array]:
    passes = []
    for layer in layers:
        Z = linear(layer.params, X)
        passes.append(_Pass(X, Z, activate(xp, layer, Z)))
        X = passes[-1].A
    return passes, X


def activate(xp: Any, layer: Layer, Z: Array) -> Array:
    """A = f(Z), in Z's dtype."""
    return xp.astype(ACTIVATIONS[layer.activation].function(xp, widen(xp, Z)), Z.dtype)


def pass_back(xp: Any, layer: Layer, Z: Array, A: Array, G: Array) -> Array:
    """J G, in Z's dtype: dL/dZ for G = dL/dA, and Ȧ for G = Ż."""
    wide = (widen(xp, array) for array in (Z, A, G))
    return xp.astype(ACTIVATIONS[layer.activation].backward(xp, *wide), Z.dtype)


# --- Backward -----------------------------------------------------------------------------------------------------
#
# With δ_l = dL/dZ_l, the output has δ = (Y − T)/N. Z_{l+1} depends on Z_l through A_l, so dL/dA_l = δ_{l+1} W_{l+1}ᵀ,
# which passes f_l by its Jacobian, for all but softmax by its derivative:
#
#     δ_l = (δ_{l+1} W_{l+1}ᵀ) ∘ f_l′(Z_l)        dL/dW_l = A_{l−1}ᵀ δ_l        dL/db_l = 1ᵀ δ_l
#
# The code carries D = N·δ, and linear_backward divides by N.


def loss(
    params: Any, X: Float[Array, "N P"], targets: Array, weights: Shaped[Array, " N"] | None = None
) -> Float[Array, ""]:
    """The loss of the layer, L = cross_entropy(XW + b, targets), in nats; or of a network.

    Args:
      params: W (P, C) and b (1, C), floating, of X's dtype; or a network, a tuple of `Layer`.
      X: data, shape (N, P).
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      weights: sample weights (N,), finite, non-negative. A row of weight 0 does not count, whatever is in its X.

    Returns:
      Scalar in X's dtype, or float32 where that is narrower.

    Raises:
      TypeError, ValueError: as `linear`, `cross_entropy` and `forward`.

    Example:
      >>> zeros = Params(W=np.zeros((3, 4)), b=np.zeros((1, 4)))
      >>> print(loss(zeros, np.ones((2, 3)), np.array([0, 3])) == np.log(4))
      True
    """
    weights = check_loss("loss", params, X, targets, weights)
    xp = array_namespace(X)
    if weights is None:
        Z = forward(params, X)
    else:
        # Out of X itself, so that autograd meets no 0·NaN. A copy of X takes longer than the product, a look at its
        # rows' sums does not.
        sums = X @ xp.ones_like(X[0, :])
        Z = if_finite(xp, sums, lambda: forward(params, X), lambda: forward(params, without_uncounted(xp, X, weights)))
    return mean_loss(xp, Z, targets, weights)


def gradient(
    params: Any,
    X: Float[Array, "N P"],
    targets: Array,
    weights: Shaped[Array, " N"] | None = None,
    *,
    recompute: bool = False,
) -> Any:
    """Gradient of the loss: dL/dW = Xᵀ(Y − T)/N and dL/db = 1ᵀ(Y − T)/N; of a network, in every layer.

    Args:
      params, X, targets, weights: as in `loss`.
      recompute: as in `value_and_gradient`.

    Returns:
      Params(dL/dW (P, C), dL/db (1, C)) in X's dtype, or a network of them. Y − T is divided by N after the product, so
      that float16 loses no small entry; an entry of Xᵀ(Y − T) beyond its range, 65504, is infinite there.

    Raises:
      TypeError, ValueError: as `loss`.

    Example:
      >>> zeros = Params(W=np.zeros((1, 2)), b=np.zeros((1, 2)))
      >>> print(gradient(zeros, np.array([[2.0], [4.0]]), np.array([0, 1])).W)
      [[ 0.5 -0.5]]
    """
    weights = check_loss("gradient", params, X, targets, weights)
    arguments.check_flag("gradient", "recompute", recompute)
    return _value_and_gradient(params, X, targets, weights, recompute)[1]


def value_and_gradient(
    params: Any,
    X: Float[Array, "N P"],
    targets: Array,
    weights: Shaped[Array, " N"] | None = None,
    *,
    recompute: bool = False,
) -> tuple[Float[Array, ""], Any]:
    """The loss and its gradient from one forward pass: (`loss`, `gradient`).

    Args:
      params, X, targets, weights: as in `loss`.
      recompute: hold only every √depth-th activation of a network on the way forward, and compute the others a second
        time on the way back: one more forward pass, for memory of 2√depth activations where it was depth.

    Returns:
      L, and Params(dL/dW, dL/db) or a network of them.

    Raises:
      TypeError, ValueError: as `loss`.

    Example:
      >>> zeros = Params(W=np.zeros((1, 2)), b=np.zeros((1, 2)))
      >>> value, gradient = value_and_gradient(zeros, np.array([[2.0], [4.0]]), np.array([0, 1]))
      >>> print(value == np.log(2), gradient.W)
      True [[ 0.5 -0.5]]
    """
    weights = check_loss("value_and_gradient", params, X, targets, weights)
    arguments.check_flag("value_and_gradient", "recompute", recompute)
    return _value_and_gradient(params, X, targets, weights, recompute)


def _value_and_gradient(params: Any, X: Any, targets: Any, weights: Any, recompute: bool) -> tuple[Any, Any]:
    xp = array_namespace(X)
    *hidden, output = layers_of(params)
    length = max(1, math.ceil(math.sqrt(len(hidden))) if recompute else len(hidden))
    segments = [hidden[start : start + length] for start in range(0, len(hidden), length)]
    inputs: list[Array] = []
    passes: list[_Pass] = []
    A = X
    for segment in segments:
        inputs.append(A)
        passes, A = _hidden_forward(xp, segment, A)

    Z = linear(output.params, A)
    D = residual(xp, Z, targets, weights)
    gradients, above = [linear_backward(A, D, weights)], output
    for segment, start in zip(reversed(segments), reversed(inputs), strict=True):
        if segment is not segments[-1]:
            passes, _ = _hidden_forward(xp, segment, _after(D, start))
        for layer, (layer_X, Z_l, A_l) in zip(reversed(segment), reversed(passes), strict=True):
            D = pass_back(xp, layer, Z_l, A_l, xp.astype(D, X.dtype) @ above.params.W.T)
            D = without_uncounted(xp, D, weights)
            gradients.append(linear_backward(layer_X, D, weights))
            above = layer
    return mean_loss(xp, Z, targets, weights), in_form_of(params, gradients[::-1])


def _after(D: Array, X: Array) -> Array:
    """X, as a number that depends on D.

    XLA sees that the activations were computed before, and would hold them after all: it must be made to believe that
    they differ. It may not take 0·D for 0, since D may be infinite, and an infinite D has spoilt the gradient anyway.
    An optimization barrier does not serve; on the CPU it is gone before the last search for common expressions.
    """
    return X + array_namespace(X).astype(0 * D[:1, :1], X.dtype)


# --- What the network is for --------------------------------------------------------------------------------------


def predict(params: Any, X: Float[Array, "N P"]) -> Integer[Array, " N"]:
    """The most probable class of each row: argmax of the logits, the first where several share the maximum.

    A row that has no probabilities, as softmax is NaN for it (its logits have a NaN or a +inf, or are −inf throughout),
    has no most probable class: its answer is −1.

    Args:
      params: W (P, C) and b (1, C), floating, of X's dtype; or a network.
      X: data, shape (N, P).

    Returns:
      Array (N,) of integers in [0, C), or −1.

    Raises:
      TypeError, ValueError: as `forward`.

    Example:
      >>> predict(Params(W=np.eye(2), b=np.zeros((1, 2))), np.array([[1.0, 2.0], [4.0, 3.0]]))
      array([1, 0])
    """
    check_network("predict", params, X)
    return most_probable(array_namespace(X), forward(params, X))


def predict_proba(params: Any, X: Float[Array, "N P"]) -> Float[Array, "N C"]:
    """The probability of each class: Y = softmax(XW + b), or softmax of a network's logits.

    Args:
      params: W (P, C) and b (1, C), floating, of X's dtype; or a network.
      X: data, shape (N, P).

    Returns:
      Array (N, C) in X's dtype; each row sums to 1.

    Raises:
      TypeError, ValueError: as `forward`.

    Example:
      >>> params = Params(W=np.log([[1.0, 3.0]]), b=np.zeros((1, 2)))
      >>> print(predict_proba(params, np.array([[0.0], [1.0]])).round(12))
      [[0.5  0.5 ]
       [0.25 0.75]]
    """
    check_network("predict_proba", params, X)
    return softmax(forward(params, X))


# --- Checks -------------------------------------------------------------------------------------------------------


def check_network(function: str, params: Any, X: Any) -> Network:
    """Check the layers against X and each other. Returns them."""
    layers = layers_of(params)
    if not layers:
        raise ValueError(f"{function}: a network must have a layer; got an empty {type(params).__name__}.")
    width = None
    for number, (own, activation) in enumerate(layers):
        argument = f"layer {number}" if is_network(params) else "params"
        if width is None:
            arguments.check_linear(function, own, X, argument)
        else:
            arguments.check_stacked(function, own, argument, width, X)
        width = own[0].shape[1]
        last = number == len(layers) - 1
        if activation not in ACTIVATIONS or (last and activation != "softmax"):
            required = "'softmax', whose logits the loss takes" if last else f"one of {', '.join(ACTIVATIONS)}"
            raise ValueError(f"{function}: the activation of {argument} must be {required}; got {activation!r}.")
    return layers


def check_loss(function: str, params: Any, X: Any, targets: Any, weights: Any) -> Array:
    """Check all the arguments of a loss. Returns the weights over their largest."""
    layers = check_network(function, params, X)
    arguments.check_targets(function, targets, X.shape[0], layers[-1].params[0].shape[1])
    return check_relative(function, X, weights)


def same_layers(function: str, params: Any, argument: str, other: Any) -> list[tuple[Params, Params]]:
    """Check that `other` has the layers of params, in shape and dtype. Returns them in pairs."""
    layers, others = layers_of(params), layers_of(other)
    if len(layers) != len(others):
        raise ValueError(
            f"{function}: {argument} must have the layers of params, {len(layers)} of them; got {len(others)}."
        )
    for layer, own in zip(layers, others, strict=True):
        arguments.check_same_params(function, layer.params, argument, own.params)
    return [(layer.params, own.params) for layer, own in zip(layers, others, strict=True)]
