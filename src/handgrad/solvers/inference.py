r"""Standard errors of a maximum-likelihood fit, from the exact Hessian.

With class B as base the coefficients are β_c = W_c − W_B for the other classes, and the Hessian of the total
cross-entropy in them, Σ_i w_i x_i x_iᵀ ⊗ (diag y_i − y_i y_iᵀ) without B's row and column, is the Fisher information.
Its inverse is the covariance of the estimates.

Reference: Agresti, *Categorical Data Analysis* (2013), section 8.1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad import arguments
from handgrad.formulas import Params
from handgrad.formulas.by_row import softmax
from handgrad.frames import as_array, as_data
from handgrad.rows import product
from handgrad.settings import is_integer, show
from handgrad.shapes import Float
from handgrad.showing import MOST_SHOWN, as_table
from handgrad.solvers.data import Data, times_centre


class Coefficients(NamedTuple):
    """Log-odds of each class against the base class, per unit of each feature; the last row is the intercept's.

    Attributes:
      classes: the C − 1 classes that are not the base.
      base: the base class.
      estimate, standard_error, z, p, lower, upper: (P + 1, C − 1). z is estimate/standard_error, p that of the
        two-sided test that the coefficient is 0, lower and upper bound the confidence interval.

    Example:
      >>> X, t = np.repeat([[0.0], [1.0]], 40, axis=0), np.repeat([0, 1, 0, 1], [30, 10, 10, 30])
      >>> coefficients = handgrad.fit(X, t, l2=0).standard_errors(X)
      >>> print(coefficients.estimate.round(3).ravel())  # log 3 − log(1/3), and log(1/3)
      [ 2.197 -1.099]
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
        widths = (6, 9, 12, 11, 8, 9, 12, 12)
        lines = [" ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in self._rows()]
        return "\n".join([*lines, self._base()])

    def __repr__(self) -> str:
        """The first lines of `str`."""
        *lines, base = str(self).splitlines()
        if len(lines) > MOST_SHOWN + 1:
            lines = [*lines[: MOST_SHOWN + 1], f"… {len(lines) - 1 - MOST_SHOWN:,} more, which print shows"]
        return "\n".join([*lines, base])

    def _repr_html_(self) -> str:
        return as_table(self._rows(), self._base())

    def _base(self) -> str:
        return f"log-odds against class {self.base}"

    def _rows(self) -> list[tuple[str, ...]]:
        formats = (".5g", ".5g", ".3f", ".2g", ".5g", ".5g")
        rows: list[tuple[str, ...]] = [("class", "feature", "estimate", "std.err", "z", "p", "lower", "upper")]
        last = self.estimate.shape[0] - 1
        for column, label in enumerate(self.classes):
            for row in (last, *range(last)):
                cells = [f"{array[row, column]:{form}}" for array, form in zip(self[2:], formats, strict=True)]
                rows.append((str(label), "intercept" if row == last else str(row), *cells))
        return rows


def target_sums(data: Data) -> Params:
    """XᵀT and 1ᵀT with the weights as they were given. At a maximum of the likelihood Y has the same sums as T."""
    wT = data.unit * data.weights * data.distributions()
    b = wT.sum(axis=1)[None]
    about_centre = np.zeros((data.num_features, data.num_classes))
    for rows, block in data.blocks():
        about_centre += block.transposed_times(wT[None, :, rows])[0, :-1]
    about_centre, b = data.parts.sum((about_centre, b))
    return Params(W=about_centre / data.scale + data.centre[:, None] * b, b=b)


def standard_errors(
    params: Params, sums: Params, X: Any, *, weights: Any, base: int, confidence: float
) -> Coefficients:
    """`FitResult.standard_errors`, for parameters that are a maximum of the likelihood with these target sums."""
    X, weights = as_data("standard_errors", X), as_array("standard_errors", weights, "weights")
    arguments.check_array("standard_errors", "X", X, "(N, P)")
    arguments.check_finite("standard_errors", "X", X)
    if X.shape[1] != params.W.shape[0]:
        raise ValueError(f"standard_errors: X must have P = {params.W.shape[0]} columns; got {tuple(X.shape)}.")
    arguments.check_weights("standard_errors", weights, X.shape[0])
    C = params.W.shape[1]
    present = np.isfinite(np.asarray(params.b[0]))
    if not (is_integer(base) and 0 <= base < C and present[base]):
        raise ValueError(f"standard_errors: base must be a class in [0, {C}) that has weight; got {show(base)}.")
    confidence = arguments.check_number("standard_errors", "confidence", confidence, positive=True, most=1)
    if confidence == 1:
        raise ValueError("standard_errors: confidence must be less than 1; got 1.")
    w = np.ones(X.shape[0]) if weights is None else np.asarray(weights, np.float64)
    X = np.asarray(X, np.float64)
    _check_sums(params, sums, X, w)
    classes = tuple(c for c in range(C) if c != base and present[c])
    kept = np.array([*classes, base])
    dtype = params.W.dtype
    # About the mean, taken off in float64, and in units of the deviation the Hessian is as well conditioned as can be.
    mean = w @ X / w.sum()
    scale = np.sqrt(w @ (X - mean) ** 2 / w.sum())
    scale = np.where(scale > 0, scale, 1)
    Y = softmax(((X - mean) @ np.asarray(params.W, np.float64) + _bias(params, mean))[:, kept].T).T[:, :-1]
    arrays = (jnp.asarray(array, dtype) for array in ((X - mean) / scale, Y, w, mean, scale))
    variance = np.asarray(_variances(*arrays))
    if not (np.all(np.isfinite(variance)) and np.all(variance > 0)):
        raise ValueError(
            "standard_errors: the Hessian must be invertible; it is singular to rounding. Drop features that are "
            "constant or sums of others, or use float64 (jax.enable_x64)."
        )
    V = np.concatenate([np.asarray(params.W), np.asarray(params.b)])
    base = int(base)
    estimate = V[:, classes] - V[:, [base]]
    error = np.sqrt(variance)
    z = estimate / error
    p = np.asarray(jax.scipy.special.erfc(np.abs(z) / np.sqrt(2).astype(z.dtype)))
    half = float(jax.scipy.special.ndtri((1 + confidence) / 2)) * error
    return Coefficients(classes, base, estimate, error, z, p, estimate - half, estimate + half)


def _bias(params: Params, mean: np.ndarray) -> np.ndarray:
    return (np.asarray(params.b[0], np.longdouble) + times_centre(mean, np.asarray(params.W))).astype(np.float64)


def _check_sums(params: Params, sums: Params, X: np.ndarray, w: np.ndarray) -> None:
    """Check that Y on these data has the sums that T had, about the mean."""
    total = np.sum(sums.b)
    mean = w @ X / max(w.sum(), np.finfo(float).tiny)
    Y = softmax(((X - mean) @ np.asarray(params.W, np.float64) + _bias(params, mean)).T).T
    off = np.abs((X - mean).T @ (w[:, None] * Y) - (sums.W - mean[:, None] * sums.b))
    allowed = 1e-3 * (w @ np.abs(X - mean))[:, None]
    if abs(w.sum() - total) > 1e-6 * total or np.any(off > allowed):
        raise ValueError(
            "standard_errors: X and weights must be those of the fit, where the fitted XᵀY is XᵀT; got others: weights "
            f"of sum {w.sum():g}, where the fit had {total:g}, and sums XᵀY off by up to {off.max():.2g}."
        )


@jax.jit
def _variances(
    features: Float[Array, "N P"], Y: Float[Array, "N _"], weights: Array, mean: Array, scale: Array
) -> Float[Array, "P1 _"]:
    """The diagonal of the inverse Hessian, the intercept last, for the features as they were."""
    (N, P), K = features.shape, Y.shape[1]
    features = jnp.concatenate([features, jnp.ones((N, 1), features.dtype)], axis=1)

    def block(row):
        """The rows of one class: Σ w x xᵀ y_c (δ_cd − y_d), for every d."""
        curvature = weights[:, None] * Y[:, row, None] * (jnp.eye(K, dtype=Y.dtype)[row][None] - Y)
        return jax.lax.map(lambda column: product((features * column[:, None]).T, features), curvature.T)

    H = jax.lax.map(block, jnp.arange(K)).transpose(0, 2, 1, 3).reshape(K * (P + 1), K * (P + 1))
    factor = jnp.linalg.cholesky(H)
    # β = β̂/σ and the intercept is β̂₀ − Σ μβ̂/σ: the rows of J, one block a class. The diagonal of J H⁻¹ Jᵀ is that of
    # RᵀR with R = L⁻¹Jᵀ, H = LLᵀ.
    J = jnp.concatenate([jnp.diag(1 / scale), jnp.zeros((P, 1), Y.dtype)], axis=1)
    J = jnp.concatenate([J, jnp.append(-mean / scale, jnp.ones(1, Y.dtype))[None]])
    root = jax.scipy.linalg.solve_triangular(factor, jnp.kron(jnp.eye(K, dtype=Y.dtype), J).T, lower=True)
    return jnp.sum(root**2, axis=0).reshape(K, P + 1).T
