r"""What `fit` minimises, over rows in memory: mean cross-entropy + (l2/2)‖W‖², its gradient and its curvature.

    F(W, b) = Σ_i w_i l_i / Σ_i w_i + (l2/2)‖W‖²        l_i the cross-entropy of row i; b is not penalised

`value_and_gradient` is F and its gradient in one sweep over blocks of rows. The rest of the file is what a solver
needs. A solver never sees a row: it holds logits, and asks for X times a direction (`multiply`), for the loss and
D = w(Y − T) at given logits (`losses`, `residual`: O(NC) and no product), for the gradient XᵀD (`backward`) and for
curvature (`class_curvature`, `feature_curvature`). Where the rows lie is this file's affair alone.

A solver works on K problems at once, its lanes, which share X and may differ in penalty and in weights. W and b of all
lanes stand in one array V (K, P+1, C), the bias as last row, for data with a last column of ones, and all lanes' logits
Z (N, K, C) are one product.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from handgrad import validation
from handgrad.formulas import Params
from handgrad.formulas.losses import check_relative, mean_loss
from handgrad.formulas.losses import residual as weighted_residual
from handgrad.precision import without_uncounted
from handgrad.shapes import Float

# Rows a block of `value_and_gradient` has. X's block is then read from the cache by the second product: 60,000 rows of
# 784 features and 10 classes take 30 ms in blocks of 1,000 on 2 cores, and 41 ms whole.
BLOCK_BYTES = 3 * 2**20


class Rows(NamedTuple):
    """The data of a solver: features that are centred, with a column of ones, and the targets."""

    X: Float[Array, "N P+1"]
    targets: Array


def product(a: Array, b: Array) -> Array:
    """The product in full precision: TensorFloat-32 products stop a solver short of the optimum."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


# --- F and its gradient, in one sweep ------------------------------------------------------------------------------


def value_and_gradient(
    params: Params, X: Array, targets: Array, *, l2: Any = 0.0, weights: Array | None = None
) -> tuple[Float[Array, ""], Params]:
    """F and Params(∇_W, ∇_b), rows taken in blocks so that each block is read from memory once.

    Args:
      params: W (P, C) and b (1, C).
      X: data, shape (N, P), of the params' dtype.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      l2: penalty on the weights, not on the bias.
      weights: sample weights (N,), finite, non-negative.

    Returns:
      The scalar F in nats, and its gradient.

    Raises:
      TypeError, ValueError: as `handgrad.value_and_gradient`.
    """
    validation.check_linear("value_and_gradient", params, X)
    validation.check_targets("value_and_gradient", targets, X.shape[0], params[0].shape[1])
    relative = check_relative("value_and_gradient", X, weights)
    W, b = params
    data = (X, targets, normalise(jnp.ones(X.shape[0], X.dtype) if relative is None else relative))

    def add(total, rows):
        X, targets, weights = rows
        X = X if relative is None else without_uncounted(jnp, X, weights)
        Z = product(X, W) + b
        D = weighted_residual(jnp, Z, targets, weights)
        loss = mean_loss(jnp, Z, targets, weights) * jnp.sum(weights)
        # DᵀX, transposed only after the sum over blocks: it takes half the time of XᵀD, see formulas/layer.py.
        parts = (loss, product(D.T, X), jnp.sum(D, axis=0, keepdims=True))
        return jax.tree.map(jnp.add, total, parts)

    total = (jnp.zeros((), X.dtype), jnp.zeros(W.T.shape, X.dtype), jnp.zeros_like(b))
    loss, dWT, db = over_blocks(add, total, data)
    return loss + l2 / 2 * jnp.sum(W * W), Params(W=dWT.T + l2 * W, b=db)


def over_blocks(add: Callable[[Any, Any], Any], total: Any, data: tuple[Array, ...]) -> Any:
    """`add` to the total block after block of rows of the data, X first."""
    num_rows, width = data[0].shape
    size = min(num_rows, max(1, BLOCK_BYTES // (width * data[0].dtype.itemsize)))
    whole = num_rows // size

    def add_block(index: Any, total: Any) -> Any:
        return add(total, [jax.lax.dynamic_slice_in_dim(array, index * size, size) for array in data])

    total = jax.lax.fori_loop(0, whole, add_block, total)
    return add(total, [array[whole * size :] for array in data]) if whole * size < num_rows else total


def normalise(weights: Float[Array, "N ..."]) -> Float[Array, "N ..."]:
    """Weights with sum 1 over the rows; all 0 where all are 0."""
    total = jnp.sum(weights, axis=0, keepdims=True)
    return weights / jnp.where(total == 0, 1, total)


# --- What a solver asks for ----------------------------------------------------------------------------------------
#
# Logits are linear in the step: X(V + αd) = Z + αŻ. Along a line, with Y = softmax(Z + αŻ),
#
#     φ(α) = Σ w l(Z + αŻ)        φ′(α) = Σ w ⟨Y − T, Ż⟩ = ⟨D, Ż⟩        dF/dV = XᵀD at the step that is taken


def multiply(rows: Rows, V: Float[Array, "K P+1 C"]) -> Float[Array, "N K C"]:
    """X V, the logits of V or the change of logits along it."""
    K, width, C = V.shape
    return product(rows.X, V.transpose(1, 0, 2).reshape(width, K * C)).reshape(-1, K, C)


def backward(rows: Rows, D: Float[Array, "N K C"]) -> Float[Array, "K P+1 C"]:
    """Xᵀ D, the gradient for D = w(Y − T)."""
    _, K, C = D.shape
    # DᵀX takes the CPU half the time of XᵀD where there are few columns; the barrier keeps the compiler from turning
    # (DᵀX)ᵀ back into XᵀD.
    DTX = jax.lax.optimization_barrier(product(D.reshape(-1, K * C).T, rows.X))
    return DTX.reshape(K, C, -1).transpose(0, 2, 1)


def losses(rows: Rows, Z: Float[Array, "N K C"]) -> tuple[Float[Array, "N K"], Float[Array, "N K C"]]:
    """Each row's loss, and Y."""
    maximum = jnp.max(Z, axis=-1, keepdims=True)
    exponentials = jnp.exp(Z - maximum)
    total = jnp.sum(exponentials, axis=-1, keepdims=True)
    # Σ T (m − Z) + log Σ exp(Z − m): no difference of large numbers where the target's logit is the largest.
    if rows.targets.ndim == 2:
        below = jnp.sum(rows.targets[:, None] * (maximum - Z), axis=-1)
    else:
        # A gather takes a quarter of the time of a sum over a comparison with 0 … C−1.
        labels = jnp.broadcast_to(rows.targets[:, None, None], (*Z.shape[:2], 1))
        below = (maximum - jnp.take_along_axis(Z, labels, axis=-1))[..., 0]
    return below + jnp.log(total[..., 0]), exponentials / total


def residual(rows: Rows, weights: Float[Array, "N K"], Y: Float[Array, "N K C"]) -> Float[Array, "N K C"]:
    """D = w (Y − T)."""
    if rows.targets.ndim == 2:
        T = rows.targets
    else:
        T = (rows.targets[:, None] == jnp.arange(Y.shape[-1], dtype=rows.targets.dtype)[None]).astype(Y.dtype)
    return weights[..., None] * (Y - T[:, None])


# --- Curvature -----------------------------------------------------------------------------------------------------
#
# The Hessian of the mean loss is Σ_i w_i x_i x_iᵀ ⊗ (diag y_i − y_i y_iᵀ), near A ⊗ G where the two factors vary
# independently: A = Σ w x xᵀ and G = Σ w (diag y − y yᵀ).


def class_curvature(weights: Float[Array, "N K"], Y: Float[Array, "N K C"]) -> Float[Array, "K C C"]:
    """G = Σ w (diag y − y yᵀ), for each lane."""
    wY = weights[..., None] * Y
    second = jnp.einsum("nkc,nkd->kcd", wY, Y, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(wY, axis=0)[:, :, None] * jnp.eye(Y.shape[-1], dtype=Y.dtype)[None] - second


def class_blocks(rows: Rows, weights: Float[Array, "N K"], Y: Float[Array, "N K C"]) -> Float[Array, "C P+1 P+1"]:
    """Σ w y_c (1 − y_c) x xᵀ, the block of the Hessian of each class, in the mean over the lanes."""
    scales = jnp.mean(weights[..., None] * Y * (1 - Y), axis=1)
    return jax.lax.map(lambda scale: _second_moment(rows.X, scale), scales.T)


def feature_curvature(rows: Rows, weights: Float[Array, " N"]) -> Float[Array, "P+1 P+1"]:
    """A = Σ w x xᵀ. The column of ones is orthogonal to the features, which are centred."""
    return _second_moment(rows.X, weights)


def _second_moment(X: Float[Array, "N D"], weights: Float[Array, " N"]) -> Float[Array, "D D"]:
    """Σ w x xᵀ, without a second copy of X."""

    def add(total: Array, block: Any) -> Array:
        X, weights = block
        return total + product((X * weights[:, None]).T, X)

    return over_blocks(add, jnp.zeros((X.shape[1], X.shape[1]), X.dtype), (X, weights))
