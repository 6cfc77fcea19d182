r"""Standard errors of a maximum-likelihood fit, from the exact Hessian.

With class B as base the coefficients are β_c = W_c − W_B for the other classes, and the Hessian of the total
cross-entropy in them, Σ_i w_i x_i x_iᵀ ⊗ (diag y_i − y_i y_iᵀ) without B's row and column, is the Fisher information.
Its inverse is the covariance of the estimates.

Reference: Agresti, *Categorical Data Analysis* (2013), section 8.1.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad import validation
from handgrad.formulas import Params, softmax
from handgrad.objective import product
from handgrad.shapes import Float


class Coefficients(NamedTuple):
    """Log-odds of each class against the base class, per unit of each feature; the last row is the intercept's.

    Attributes:
      classes: the C − 1 classes that are not the base.
      base: the base class.
      estimate, standard_error, z, p, lower, upper: (P + 1, C − 1). z is estimate/standard_error, p that of the
        two-sided test that the coefficient is 0, lower and upper bound the confidence interval.
    """

    classes: tuple[int, ...]
    base: int
    estimate: Float[np.ndarray, "P+1 C-1"]
    standard_error: Float[np.ndarray, "P+1 C-1"]
    z: Float[np.ndarray, "P+1 C-1"]
    p: Float[np.ndarray, "P+1 C-1"]
    lower: Float[np.ndarray, "P+1 C-1"]
    upper: Float[np.ndarray, "P+1 C-1"]

    def __str__(self) -> str:
        """One line a coefficient."""
        head = ("estimate", 12), ("std.err", 11), ("z", 8), ("p", 9), ("lower", 12), ("upper", 12)
        lines = [f"{'class':>6} {'feature':>9} " + " ".join(f"{name:>{width}}" for name, width in head)]
        last = self.estimate.shape[0] - 1
        for column, label in enumerate(self.classes):
            for row in (last, *range(last)):
                numbers = [array[row, column] for array in self[2:]]
                formats = ("12.5g", "11.5g", "8.3f", "9.2g", "12.5g", "12.5g")
                name = "intercept" if row == last else str(row)
                cells = " ".join(f"{number:{form}}" for number, form in zip(numbers, formats, strict=True))
                lines.append(f"{label:>6} {name:>9} {cells}")
        return "\n".join([*lines, f"log-odds against class {self.base}"])


def standard_errors(params: Params, X: Any, *, weights: Any, base: int, confidence: float) -> Coefficients:
    """`FitResult.standard_errors`, for parameters that are a maximum of the likelihood."""
    X = jnp.asarray(X)
    validation.check_linear("standard_errors", params, X)
    validation.check_weights("standard_errors", weights, X.shape[0])
    C = params.W.shape[1]
    if not (isinstance(base, int) and 0 <= base < C):
        raise ValueError(f"standard_errors: base must be a class in [0, {C}); got {base!r}.")
    if not 0 < confidence < 1:
        raise ValueError(f"standard_errors: confidence must be between 0 and 1; got {confidence!r}.")
    weights = jnp.ones(X.shape[0], X.dtype) if weights is None else jnp.asarray(weights).astype(X.dtype)
    classes = tuple(c for c in range(C) if c != base)
    covariance = np.asarray(_covariance(params, X, weights, base=base))
    variance = np.diagonal(covariance).reshape(len(classes), -1).T
    if not (np.all(np.isfinite(variance)) and np.all(variance > 0)):
        raise ValueError(
            "standard_errors: the Hessian must be invertible; it is singular to rounding. Drop features that are "
            "constant or sums of others, or use float64 (jax.enable_x64)."
        )
    V = np.concatenate([np.asarray(params.W), np.asarray(params.b)])
    estimate = V[:, classes] - V[:, [base]]
    error = np.sqrt(variance)
    z = estimate / error
    p = np.asarray(jax.scipy.special.erfc(np.abs(z) / np.sqrt(2).astype(z.dtype)))
    half = float(jax.scipy.special.ndtri((1 + confidence) / 2)) * error
    return Coefficients(classes, base, estimate, error, z, p, estimate - half, estimate + half)


@functools.partial(jax.jit, static_argnames="base")
def _covariance(params: Params, X: Array, weights: Array, *, base: int) -> Float[Array, "D D"]:
    """The inverse Hessian, D = (C − 1)(P + 1), class by class, the intercept last in each."""
    N, P = X.shape
    Y = jnp.delete(softmax(product(X, params.W) + params.b), base, axis=1, assume_unique_indices=True)
    K = Y.shape[1]
    # About the mean and in units of the deviation the Hessian is as well conditioned as the data allow.
    total = jnp.sum(weights)
    mean = product(weights[None], X) / total
    scale = jnp.sqrt(product(weights[None], (X - mean) ** 2) / total)
    scale = jnp.where(scale > 0, scale, 1)
    features = jnp.concatenate([(X - mean) / scale, jnp.ones((N, 1), X.dtype)], axis=1)

    def block(row):
        """The rows of one class: Σ w x xᵀ y_c (δ_cd − y_d), for every d."""
        curvature = weights[:, None] * Y[:, row, None] * (jnp.eye(K, dtype=X.dtype)[row][None] - Y)
        return jax.lax.map(lambda column: product((features * column[:, None]).T, features), curvature.T)

    H = jax.lax.map(block, jnp.arange(K)).transpose(0, 2, 1, 3).reshape(K * (P + 1), K * (P + 1))
    factor = jnp.linalg.cholesky(H)
    # β = β̂/σ and the intercept is β̂₀ − Σ μβ̂/σ: the rows of J, one block a class.
    J = jnp.concatenate([jnp.diag(1 / scale[0]), jnp.zeros((P, 1), X.dtype)], axis=1)
    J = jnp.concatenate([J, jnp.append(-mean[0] / scale[0], jnp.ones(1, X.dtype))[None]])
    root = jax.scipy.linalg.solve_triangular(factor, jnp.kron(jnp.eye(K, dtype=X.dtype), J).T, lower=True)
    return product(root.T, root)
