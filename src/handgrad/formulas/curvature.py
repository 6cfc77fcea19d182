r"""The curvature of the loss: its Hessian times a direction, by hand through every layer.

A dot is the change along the direction (Ẇ_l, ḃ_l). The logits change by

    Ż_l = Ȧ_{l−1} W_l + A_{l−1} Ẇ_l + ḃ_l        Ȧ_l = J_l Ż_l        Ȧ_0 = 0

The targets do not change, so at the output d(Y − T) = Ẏ = Y ∘ (Ż − ⟨Y, Ż⟩), and δ̇ = Ẏ/N. Through a hidden layer goes

    δ_l = J_l G        G = δ_{l+1} W_{l+1}ᵀ
    δ̇_l = J_l Ġ + J̇_l G        Ġ = δ̇_{l+1} W_{l+1}ᵀ + δ_{l+1} Ẇ_{l+1}ᵀ

and the product has A_{l−1}ᵀ δ̇_l + Ȧ_{l−1}ᵀ δ_l in W_l and 1ᵀ δ̇_l in b_l. Without hidden layers all that is left is
(Xᵀ Ẏ/N, 1ᵀ Ẏ/N), in which neither δ nor T appears.

Reference: Pearlmutter, *Fast exact multiplication by the Hessian* (1994).
"""

from typing import Any

from array_api_compat import array_namespace

from handgrad import arguments
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.formulas.layer import Params, linear, linear_backward
from handgrad.formulas.losses import check_relative, residual, times_weights
from handgrad.formulas.network import activate, check_network, in_form_of, pass_back, same_layers
from handgrad.formulas.softmax import softmax, softmax_derivative
from handgrad.precision import widen, without_uncounted
from handgrad.shapes import Float, Shaped

Array = Any


def hessian_vector_product(
    params: Any,
    X: Float[Array, "N P"],
    direction: Any,
    weights: Shaped[Array, " N"] | None = None,
    *,
    targets: Array = None,
) -> Any:
    """The Hessian of the loss times a direction: (XᵀẎ/N, 1ᵀẎ/N) with Ẏ = Y ∘ (Ż − ⟨Y, Ż⟩) and Ż = XẆ + ḃ.

    It is the derivative of `gradient` along the direction. The targets do not enter unless there are hidden layers.

    Args:
      params, X, weights: as in `loss`.
      direction: Params(Ẇ (P, C), ḃ (1, C)) of the params' dtype, or a network of them.
      targets: as in `loss`, for a network with hidden layers.

    Returns:
      Params of the direction's shapes in X's dtype, or a network of them.

    Raises:
      TypeError, ValueError: as `loss`.

    Example:
      >>> zeros = Params(W=np.zeros((1, 2)), b=np.zeros((1, 2)))
      >>> direction = Params(W=np.array([[1.0, 0.0]]), b=np.zeros((1, 2)))
      >>> print(hessian_vector_product(zeros, np.array([[2.0]]), direction).W)
      [[ 1. -1.]]

    Reference: Pearlmutter, *Fast exact multiplication by the Hessian* (1994).
    """
    function = "hessian_vector_product"
    *hidden, output = check_network(function, params, X)
    *changes, output_change = (change for _, change in same_layers(function, params, "direction", direction))
    weights = check_relative(function, X, weights)
    if targets is not None:
        arguments.check_targets(function, targets, X.shape[0], output.params[0].shape[1])
    elif hidden:
        raise ValueError(f"{function}: a network with hidden layers needs targets; got None.")

    xp = array_namespace(X)
    A, dA = X, None
    passes = []
    for layer, change in zip(hidden, changes, strict=True):
        Z, dZ = _linear(layer.params, change, A, dA)
        f_Z = activate(xp, layer, Z)
        passes.append((A, dA, Z, dZ, f_Z))
        A, dA = f_Z, pass_back(xp, layer, Z, f_Z, dZ)

    Z, dZ = _linear(output.params, output_change, A, dA)
    dY = softmax_derivative(xp, softmax(widen(xp, Z)), widen(xp, dZ))
    D, dD = None, times_weights(xp, dY, weights)
    if hidden:
        D = xp.astype(residual(xp, Z, targets, weights), X.dtype)
    products = [_linear_backward(A, dA, D, dD, weights)]

    W, dW = output.params[0], output_change[0]
    for layer, change, (A, dA, Z, dZ, f_Z) in zip(hidden[::-1], changes[::-1], passes[::-1], strict=True):
        G = D @ W.T
        dG = xp.astype(dD, X.dtype) @ W.T + D @ dW.T
        wide = (widen(xp, array) for array in (Z, f_Z, G, dZ))
        second = ACTIVATIONS[layer.activation].backward_derivative(xp, *wide)
        D, dD = pass_back(xp, layer, Z, f_Z, G), widen(xp, pass_back(xp, layer, Z, f_Z, dG)) + second
        D, dD = (without_uncounted(xp, of, weights) for of in (D, dD))
        products.append(_linear_backward(A, dA, D, dD, weights))
        W, dW = layer.params[0], change[0]
    return in_form_of(params, products[::-1])


def _linear(params: Params, change: Params, A: Array, dA: Array) -> tuple[Array, Array]:
    """Z = AW + b, and Ż = AẆ + ḃ + ȦW, where Ȧ may be None for 0."""
    Z, dZ = linear(params, A), linear(change, A)
    return Z, dZ if dA is None else dZ + dA @ params[0]


def _linear_backward(A: Array, dA: Array, D: Array, dD: Array, weights: Array) -> Params:
    """(AᵀḊ + ȦᵀD, 1ᵀḊ)/n, where Ȧ may be None for 0."""
    product = linear_backward(A, dD, weights)
    return product if dA is None else Params(W=product.W + linear_backward(dA, D, weights).W, b=product.b)
