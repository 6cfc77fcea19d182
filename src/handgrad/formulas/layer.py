"""The layer: Z = XW + b, and the loss L(W, b) with its gradient, its curvature and its descent."""

from typing import Any, NamedTuple

from array_api_compat import array_namespace
from jaxtyping import Float, Integer, Shaped

from handgrad import validation
from handgrad.formulas.losses import mean_loss, normaliser, residual, times_weights
from handgrad.formulas.softmax import softmax, softmax_derivative
from handgrad.validation import widen

Array = Any


class Params(NamedTuple):
    """The parameters of a layer, or anything of their shape: a gradient, a direction. A JAX pytree."""

    W: Shaped[Array, "P C"]
    b: Shaped[Array, "1 C"]


# --- Z = XW + b ---------------------------------------------------------------------------------------------------
#
# Forward:   Z_ic = Σ_p X_ip W_pc + b_c
# Backward:  dL/dW_pc = Σ_i dL/dZ_ic X_ip, and dL/db_c = Σ_i dL/dZ_ic, that is
#
#     dL/dW = Xᵀ dL/dZ        dL/db = 1ᵀ dL/dZ


def linear(params: Params, X: Float[Array, "N P"]) -> Float[Array, "N C"]:
    """The logits Z = XW + b.

    Args:
      params: W (P, C) and b (1, C), floating, of X's dtype.
      X: data, shape (N, P).

    Returns:
      Array (N, C) in X's dtype.

    Raises:
      TypeError: arrays that are not floating, or not of one dtype.
      ValueError: shapes that disagree, or an empty array.

    Example:
      >>> linear(Params(W=np.eye(2), b=np.array([[0.0, 10.0]])), np.array([[1.0, 2.0]]))
      array([[ 1., 12.]])
    """
    validation.check_linear("linear", params, X)
    W, b = params
    return X @ W + b


def _linear_backward(X: Float[Array, "N P"], D: Float[Array, "N C"], weights: Shaped[Array, " N"] | None) -> Params:
    """(XᵀD/n, 1ᵀD/n) for n·dL/dZ = D, where n is N or sum(w)."""
    xp = array_namespace(X)
    n = normaliser(xp, D, weights)
    rounded = xp.astype(D, X.dtype)
    # (DᵀX)ᵀ, its division before its transposition, takes XLA's CPU half the time of XᵀD where C is small (8.4 ms
    # against 16.1 at N = 60000, P = 784, C = 10, on 2 cores); transposed first, it would be turned back into XᵀD.
    # Where C is the larger, XᵀD is the faster by as much as a fifth.
    if X.shape[1] > D.shape[1]:
        dW = (widen(xp, rounded.T @ X) / n).T
    else:
        dW = widen(xp, X.T @ rounded) / n
    db = xp.sum(D, axis=0, keepdims=True) / n
    return Params(W=xp.astype(dW, X.dtype), b=xp.astype(db, X.dtype))


# --- The layer: L(W, b), its gradient, its curvature --------------------------------------------------------------
#
# Gradient:  the chain rule joins the two backward steps above,
#
#     dL/dW = Xᵀ (Y − T) / N        dL/db = 1ᵀ (Y − T) / N
#
# Curvature: along a direction (Ẇ, ḃ) the logits change by Ż = XẆ + ḃ, the targets do not change, and so
#            d(Y − T) = Ẏ = Y ∘ (Ż − ⟨Y, Ż⟩). The Hessian-vector product needs no targets:
#
#     (Xᵀ Ẏ / N, 1ᵀ Ẏ / N)


def loss(
    params: Params, X: Float[Array, "N P"], targets: Array, weights: Shaped[Array, " N"] | None = None
) -> Float[Array, ""]:
    """The loss of the layer, L = cross_entropy(XW + b, targets), in nats.

    Args:
      params: W (P, C) and b (1, C), floating, of X's dtype.
      X: data, shape (N, P).
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      weights: sample weights (N,), finite, non-negative.

    Returns:
      Scalar in X's dtype, or float32 where that is narrower.

    Raises:
      TypeError, ValueError: as `linear` and `cross_entropy`.

    Example:
      >>> zeros = Params(W=np.zeros((3, 4)), b=np.zeros((1, 4)))
      >>> print(loss(zeros, np.ones((2, 3)), np.array([0, 3])) == np.log(4))
      True
    """
    xp = _check_layer("loss", params, X, targets, weights)
    return mean_loss(xp, linear(params, X), targets, weights)


def gradient(
    params: Params, X: Float[Array, "N P"], targets: Array, weights: Shaped[Array, " N"] | None = None
) -> Params:
    """Gradient of the loss: dL/dW = Xᵀ(Y − T)/N and dL/db = 1ᵀ(Y − T)/N.

    Args:
      params, X, targets, weights: as in `loss`.

    Returns:
      Params(dL/dW (P, C), dL/db (1, C)) in X's dtype. Y − T is divided by N after the product, so that float16 loses
      no small entry; an entry of Xᵀ(Y − T) beyond its range, 65504, is infinite there.

    Raises:
      TypeError, ValueError: as `linear` and `cross_entropy`.

    Example:
      >>> zeros = Params(W=np.zeros((1, 2)), b=np.zeros((1, 2)))
      >>> print(gradient(zeros, np.array([[2.0], [4.0]]), np.array([0, 1])).W)
      [[ 0.5 -0.5]]
    """
    xp = _check_layer("gradient", params, X, targets, weights)
    return _linear_backward(X, residual(xp, linear(params, X), targets, weights), weights)


def value_and_gradient(
    params: Params, X: Float[Array, "N P"], targets: Array, weights: Shaped[Array, " N"] | None = None
) -> tuple[Float[Array, ""], Params]:
    """The loss and its gradient from one forward pass: (`loss`, `gradient`).

    Args:
      params, X, targets, weights: as in `loss`.

    Returns:
      L, and Params(dL/dW, dL/db).

    Raises:
      TypeError, ValueError: as `linear` and `cross_entropy`.
    """
    xp = _check_layer("value_and_gradient", params, X, targets, weights)
    Z = linear(params, X)
    dL = _linear_backward(X, residual(xp, Z, targets, weights), weights)
    return mean_loss(xp, Z, targets, weights), dL


def hessian_vector_product(
    params: Params, X: Float[Array, "N P"], direction: Params, weights: Shaped[Array, " N"] | None = None
) -> Params:
    """The Hessian of the loss times a direction: (XᵀẎ/N, 1ᵀẎ/N) with Ẏ = Y ∘ (Ż − ⟨Y, Ż⟩) and Ż = XẆ + ḃ.

    It is the derivative of `gradient` along the direction. The targets do not enter.

    Args:
      params, X, weights: as in `loss`.
      direction: Params(Ẇ (P, C), ḃ (1, C)) of the params' dtype.

    Returns:
      Params, of the direction's shapes, in X's dtype.

    Raises:
      TypeError, ValueError: as `linear` and `cross_entropy`.

    Reference: Pearlmutter, *Fast exact multiplication by the Hessian* (1994).
    """
    validation.check_linear("hessian_vector_product", params, X)
    validation.check_same_params("hessian_vector_product", params, "direction", direction)
    validation.check_weights("hessian_vector_product", weights, X.shape[0])
    xp = array_namespace(X)
    Y = softmax(widen(xp, linear(params, X)))
    dY = softmax_derivative(xp, Y, widen(xp, linear(direction, X)))
    return _linear_backward(X, times_weights(xp, dY, weights), weights)


def _check_layer(function: str, params: Any, X: Any, targets: Any, weights: Any) -> Any:
    validation.check_linear(function, params, X)
    validation.check_targets(function, targets, X.shape[0], params[0].shape[1])
    validation.check_weights(function, weights, X.shape[0])
    return array_namespace(X)


# --- Gradient descent, and what the layer is for ------------------------------------------------------------------


def sgd_step(params: Params, gradient: Params, learning_rate: float | Float[Array, ""]) -> Params:
    """One step of gradient descent: W ← W − η dL/dW, b ← b − η dL/db.

    Args:
      params: W (P, C) and b (1, C).
      gradient: dL/dW and dL/db, of the shapes and dtype of params.
      learning_rate: η, a scalar.

    Returns:
      The new Params.

    Raises:
      TypeError, ValueError: shapes or dtypes that disagree.

    Example:
      >>> one = Params(W=np.ones((1, 2)), b=np.ones((1, 2)))
      >>> sgd_step(one, one, 0.25).W
      array([[0.75, 0.75]])
    """
    validation.check_same_params("sgd_step", params, "gradient", gradient)
    W, b = params
    dW, db = gradient
    return Params(W=W - learning_rate * dW, b=b - learning_rate * db)


def predict(params: Params, X: Float[Array, "N P"]) -> Integer[Array, " N"]:
    """The most probable class of each row: argmax of the logits, the first where several share the maximum.

    Args:
      params: W (P, C) and b (1, C), floating, of X's dtype.
      X: data, shape (N, P).

    Returns:
      Array (N,) of integers in [0, C).

    Raises:
      TypeError, ValueError: as `linear`.

    Example:
      >>> predict(Params(W=np.eye(2), b=np.zeros((1, 2))), np.array([[1.0, 2.0], [4.0, 3.0]]))
      array([1, 0])
    """
    validation.check_linear("predict", params, X)
    xp = array_namespace(X)
    return xp.argmax(linear(params, X), axis=1)


def predict_proba(params: Params, X: Float[Array, "N P"]) -> Float[Array, "N C"]:
    """The probability of each class: Y = softmax(XW + b).

    Args:
      params: W (P, C) and b (1, C), floating, of X's dtype.
      X: data, shape (N, P).

    Returns:
      Array (N, C) in X's dtype; each row sums to 1.

    Raises:
      TypeError, ValueError: as `linear`.
    """
    validation.check_linear("predict_proba", params, X)
    return softmax(linear(params, X))
