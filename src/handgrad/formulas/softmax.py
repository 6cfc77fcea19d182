"""Y = softmax(Z), its logarithm and its derivative."""

from typing import Any

from handgrad import arguments
from handgrad.precision import widen
from handgrad.shapes import Float, Integer

Array = Any

# --- Y = softmax(Z) -----------------------------------------------------------------------------------------------
#
# Forward:   Y_ic = exp(Z_ic) / Σ_j exp(Z_ij)        log Y_ic = Z_ic − log Σ_j exp(Z_ij)
#
# The row's largest logit is subtracted first, which changes neither, so that nothing overflows.
#
# Derivative:  dY_ic/dZ_ij = Y_ic (δ_cj − Y_ij), so a change Ż of the logits changes the probabilities by
#
#     Ẏ = Y ∘ (Ż − ⟨Y, Ż⟩)        ⟨Y, Ż⟩ = Σ_j Y_ij Ż_ij, one number a row


def softmax(Z: Float[Array, "N C"]) -> Float[Array, "N C"]:
    """The probabilities Y = exp(Z) / Σ_j exp(Z_j), row by row.

    Args:
      Z: logits, shape (N, C), floating. A logit of −inf masks its class. A row that is −inf throughout, or has a
        +inf or a NaN, has no softmax and gives NaN.

    Returns:
      Array (N, C) in Z's dtype; each row sums to 1.

    Example:
      >>> softmax(np.array([[0.0, 0.0], [1e4, -1e4]]))
      array([[0.5, 0.5],
             [1. , 0. ]])
    """
    xp = arguments.check_array("softmax", "Z", Z, "(N, C)")
    _, exponentials, total = shifted_exponentials(xp, widen(xp, Z))
    return xp.astype(exponentials / total, Z.dtype)


def log_softmax(Z: Float[Array, "N C"]) -> Float[Array, "N C"]:
    """The logarithm of the probabilities, log Y = Z − log Σ_j exp(Z_j), in nats.

    Exact where softmax itself underflows.

    Args:
      Z: logits, shape (N, C), floating; −inf masks a class, as in `softmax`.

    Returns:
      Array (N, C) in Z's dtype, nowhere above 0.

    Example:
      >>> log_softmax(np.array([[1e4, -1e4]]))
      array([[     0., -20000.]])
    """
    xp = arguments.check_array("log_softmax", "Z", Z, "(N, C)")
    maximum, _, total = shifted_exponentials(xp, widen(xp, Z))
    return xp.astype((widen(xp, Z) - maximum) - xp.log(total), Z.dtype)


def shifted_exponentials(
    xp: Any, Z: Float[Array, "N C"], axis: int = 1
) -> tuple[Float[Array, "N 1"], Float[Array, "N C"], Float[Array, "N 1"]]:
    """Each row's maximum m, exp(Z − m), and the sum of that: all that softmax and log-sum-exp are made of.

    log Σ exp(Z) = m + log(sum). With axis=0, of Zᵀ.
    """
    maximum = xp.max(Z, axis=axis, keepdims=True)
    exponentials = xp.exp(Z - maximum)
    return maximum, exponentials, xp.sum(exponentials, axis=axis, keepdims=True)


def softmax_derivative(xp: Any, Y: Float[Array, "N C"], dZ: Float[Array, "N C"]) -> Float[Array, "N C"]:
    """Ẏ = Y ∘ (Ż − ⟨Y, Ż⟩)."""
    return Y * (dZ - xp.sum(Y * dZ, axis=1, keepdims=True))


def most_probable(xp: Any, Z: Float[Array, "N C"]) -> Integer[Array, " N"]:
    """The class of the largest logit, the first where several share it; −1 in a row that has no softmax."""
    return xp.where(xp.isfinite(xp.max(Z, axis=1)), xp.argmax(Z, axis=1), -1)
