"""The linear layer Z = XW + b, and its backward step."""

from typing import Any, NamedTuple

from array_api_compat import array_namespace

from handgrad import arguments
from handgrad.formulas.losses import normaliser
from handgrad.precision import if_finite, widen, without_uncounted
from handgrad.shapes import Float, Shaped

Array = Any


class Params(NamedTuple):
    """The parameters of a layer, or anything of their shape: a gradient, a direction. A JAX pytree.

    Example:
      >>> params = Params(W=np.zeros((3, 2)), b=np.zeros((1, 2)))
      >>> W, b = params
      >>> W.shape, params.b.shape
      ((3, 2), (1, 2))
    """

    W: Shaped[Array, "P C"]
    b: Shaped[Array, "1 C"]


# --- Z = XW + b ---------------------------------------------------------------------------------------------------
#
# Forward:   Z_ic = Σ_p X_ip W_pc + b_c
# Backward:  dL/dW_pc = Σ_i dL/dZ_ic X_ip, dL/db_c = Σ_i dL/dZ_ic, and dL/dX_ip = Σ_c dL/dZ_ic W_pc, that is
#
#     dL/dW = Xᵀ dL/dZ        dL/db = 1ᵀ dL/dZ        dL/dX = dL/dZ Wᵀ


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
    arguments.check_linear("linear", params, X)
    W, b = params
    return X @ W + b


def linear_backward(X: Float[Array, "N P"], D: Float[Array, "N C"], weights: Shaped[Array, " N"] | None) -> Params:
    """dL/dW = XᵀD/n and dL/db = 1ᵀD/n, where D = n·dL/dZ and n is N or sum(w).

    D comes in float32 or wider and is rounded for the product; it is divided by n after it, so that float16 loses no
    small entry.
    """
    xp = array_namespace(X)
    n = normaliser(xp, D, weights)
    rounded = xp.astype(D, X.dtype)

    # (DᵀX)ᵀ, its division before its transposition, takes XLA's CPU half the time of XᵀD where C is small (8.4 ms
    # against 16.1 at N = 60000, P = 784, C = 10, on 2 cores); transposed first, it would be turned back into XᵀD. From
    # about C = 32 on the two are equal, and at C = 256 (DᵀX)ᵀ takes a quarter more.
    def product(X: Array) -> Array:
        if D.shape[1] < min(32, X.shape[1]):
            return (widen(xp, rounded.T @ X) / n).T
        return widen(xp, X.T @ rounded) / n

    dW = product(X)
    if weights is not None:
        # A row of weight 0, for which D is 0, does not count, but 0·NaN would. Its X is left out only where that has
        # spoilt the product: to copy X without such rows takes twice as long as the product itself.
        dW = if_finite(xp, dW, lambda: dW, lambda: product(without_uncounted(xp, X, weights)))
    db = xp.sum(D, axis=0, keepdims=True) / n
    return Params(W=xp.astype(dW, X.dtype), b=xp.astype(db, X.dtype))
