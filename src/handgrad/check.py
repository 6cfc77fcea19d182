"""The hand-derived gradient against two other opinions: autograd, and differences of the loss itself."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad import formulas, validation
from handgrad.formulas import Params

# Entries of a parameter that are checked by differences; each costs two evaluations of the loss.
MAX_DIFFERENCES = 64

ROUNDING_32 = 2.0**-24  # the rounding errors of float32 and float64
ROUNDING_64 = 2.0**-53


class GradientCheck(NamedTuple):
    """One parameter's gradient in one dtype against one reference.

    Attributes:
      dtype: in which the gradient was computed by hand.
      parameter: "W" or "b".
      reference: "autograd" or "differences", both in float64.
      entries: how many entries were compared.
      max_absolute_error: largest |by hand − reference|.
      max_relative_error: that, divided by the largest |reference|; 0 where both are 0.
      tolerance: what max_absolute_error may be; see `check_gradients`.
      passed: whether it is.
    """

    dtype: str
    parameter: str
    reference: str
    entries: int
    max_absolute_error: float
    max_relative_error: float
    tolerance: float
    passed: bool


class GradientReport(NamedTuple):
    """What `check_gradients` returns; prints as a table.

    Attributes:
      checks: one for each dtype, parameter and reference.
      passed: whether all of them passed.
    """

    checks: tuple[GradientCheck, ...]
    passed: bool

    def __str__(self) -> str:
        rows = [("dtype", "gradient of", "against", "entries", "max abs error", "max rel error", "tolerance", "")]
        for check in self.checks:
            errors = (check.max_absolute_error, check.max_relative_error, check.tolerance)
            absolute, relative, tolerance = (f"{error:.1e}" for error in errors)
            verdict = "passed" if check.passed else "FAILED"
            entries = str(check.entries)
            rows.append(
                (check.dtype, check.parameter, check.reference, entries, absolute, relative, tolerance, verdict)
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        numeric = range(3, 7)
        lines = [
            "  ".join(
                cell.rjust(width) if column in numeric else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)


def check_gradients(
    params: Params,
    X: Any,
    targets: Any,
    *,
    weights: Any = None,
    dtypes: Sequence[str] = ("float32", "float64"),
) -> GradientReport:
    """Compare `gradient` with `jax.grad` and with central differences, both in float64.

    The loss that the two references see is written a second time, in the naive way, and shares no code with the
    formulas. Params and data are rounded to the dtype first, the rows of distributions scaled to sum 1, and the
    references see the same numbers, so the error is what the computation by hand adds. By autograd every entry is
    compared; by differences at most 64 of each parameter, spread evenly.

    Where the tolerances come from, u being the dtype's rounding error and v that of the sums, which is float32's for
    narrower dtypes and u for the others:

    - Against autograd. A sum of n products is off by about √n·v·Σ|products| (Higham and Mary, 2019), and each stored
      result by u times itself. So the logits are off by E = √P·v·(|X||W| + |b|) + u·(|XW| + |Z|), the probabilities
      by Y ∘ (E + ⟨Y, E⟩) + v·Y, and with D = Y − T the sum XᵀD/N by |X|ᵀ times that over N, and by
      (√N·v + u)·|X|ᵀ|D|/N + u·|XᵀD|/N of its own. The tolerance is 4 times the largest entry of the total.
    - Against differences, also what they are off themselves. A step that changes the logits by h = u₆₄^(1/3) has a
      truncation error of at most h²/6·|x|·0.1, the third derivative of log-sum-exp being below 0.1, and a rounding
      error of u₆₄·(|L| + max|Z|)/h·|x|; 4 times that is added.

    Args:
      params: W (P, C) and b (1, C).
      X: data, shape (N, P), floating.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      weights: sample weights (N,).
      dtypes: floating dtypes to compute the gradient in, such as "bfloat16".

    Returns:
      GradientReport; `print` shows the table.

    Raises:
      TypeError, ValueError: as `gradient`.

    Reference: N. Higham, T. Mary, *A new approach to probabilistic rounding error analysis*, SIAM J. Sci. Comput.
    (2019).
    """
    validation.check_params("check_gradients", params)
    validation.check_array("check_gradients", "X", X, "(N, P)")
    validation.check_finite("check_gradients", "X", X)
    validation.check_targets("check_gradients", targets, X.shape[0], params[0].shape[1])
    validation.check_weights("check_gradients", weights, X.shape[0])
    checks: list[GradientCheck] = []
    # highest: the formula is on trial, not TF32 or bfloat16 passes that a device may put in a float32 product.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        if targets.ndim == 2:
            T = jnp.asarray(targets, dtype=jnp.float64)
            targets = T / jnp.sum(T, axis=1, keepdims=True)
        for dtype in map(jnp.dtype, dtypes):
            X_rounded = jnp.asarray(X).astype(dtype)
            rounded = Params(*(jnp.asarray(array).astype(dtype) for array in params))
            validation.check_linear("check_gradients", rounded, X_rounded)
            by_hand = jax.jit(formulas.gradient)(rounded, X_rounded, targets, weights)
            reference = _Reference(
                params=Params(*(array.astype(jnp.float64) for array in rounded)),
                X=X_rounded.astype(jnp.float64),
                T=targets if targets.ndim == 2 else jax.nn.one_hot(targets, params[0].shape[1], dtype=jnp.float64),
                share=_shares(weights, X.shape[0]),
            )
            checks += _compare(dtype, by_hand, reference)
    return GradientReport(tuple(checks), all(check.passed for check in checks))


class _Reference(NamedTuple):
    """A problem in float64, and the loss written a second time."""

    params: Params
    X: jax.Array
    T: jax.Array
    share: jax.Array  # (N,), each row's part of the mean

    def loss(self, params: Params) -> jax.Array:
        Z = self.X @ params.W + params.b
        log_Y = Z - jax.scipy.special.logsumexp(Z, axis=1, keepdims=True)
        return -jnp.vdot(self.share, jnp.sum(self.T * log_Y, axis=1))


def _shares(weights: Any, num_rows: int) -> jax.Array:
    w = jnp.ones(num_rows) if weights is None else jnp.asarray(weights).astype(jnp.float64)
    total = jnp.sum(w)
    return w / jnp.where(total == 0, 1.0, total)


def _compare(dtype: np.dtype, by_hand: Params, reference: _Reference) -> list[GradientCheck]:
    autograd = jax.jit(lambda reference: jax.grad(reference.loss)(reference.params))(reference)
    tolerances = jax.jit(_tolerances)(float(jnp.finfo(dtype).eps) / 2, reference)
    checks = []
    for parameter in Params._fields:
        hand, tolerance, more = (
            np.asarray(getattr(part, parameter), np.float64).ravel() for part in (by_hand, *tolerances)
        )
        entries = np.unique(np.linspace(0, hand.size - 1, min(hand.size, MAX_DIFFERENCES)).astype(int))
        differences = np.asarray(_central_differences(reference, entries, parameter=parameter))
        checks += [
            _check(dtype, parameter, "autograd", hand, np.asarray(getattr(autograd, parameter)).ravel(), tolerance),
            _check(dtype, parameter, "differences", hand[entries], differences, tolerance + more),
        ]
    return checks


def _check(
    dtype: np.dtype, parameter: str, reference: str, hand: np.ndarray, other: np.ndarray, tolerance: np.ndarray
) -> GradientCheck:
    error = float(np.max(np.abs(hand - other)))
    size = float(np.max(np.abs(other)))
    allowed = float(np.max(tolerance))
    relative = 0.0 if error == 0 else float(np.divide(error, size))
    return GradientCheck(dtype.name, parameter, reference, hand.size, error, relative, allowed, error <= allowed)


def _steps(reference: _Reference) -> Params:
    """The step for each entry by which its row of X changes a logit by at most u₆₄^(1/3), near enough the best."""
    largest = jnp.max(jnp.abs(reference.X), axis=0)
    step = ROUNDING_64 ** (1 / 3)
    per_feature = step / jnp.where(largest == 0, 1.0, largest)
    W, b = reference.params
    return Params(W=jnp.broadcast_to(per_feature[:, None], W.shape), b=jnp.full(b.shape, step))


@functools.partial(jax.jit, static_argnames="parameter")
def _central_differences(reference: _Reference, entries: jax.Array, *, parameter: str) -> jax.Array:
    values = getattr(reference.params, parameter)
    steps = getattr(_steps(reference), parameter).ravel()

    def loss_at(entry, change):
        moved = values.ravel().at[entry].add(change).reshape(values.shape)
        return reference.loss(reference.params._replace(**{parameter: moved}))

    def difference(entry):
        step = steps[entry]
        return (loss_at(entry, step) - loss_at(entry, -step)) / (2 * step)

    return jax.lax.map(difference, entries)


def _tolerances(u: jax.Array, reference: _Reference) -> tuple[Params, Params]:
    """As derived in `check_gradients`: what the gradient by hand may be off, and differences may be off more."""
    params, X, T, share = reference
    v = jnp.minimum(u, ROUNDING_32)
    XW = X @ params.W
    Z = XW + params.b
    Y = jax.nn.softmax(Z, axis=1)
    D = Y - T
    absolute_W, absolute_b = jax.tree.map(jnp.abs, params)
    E = math.sqrt(X.shape[1]) * v * (jnp.abs(X) @ absolute_W + absolute_b) + u * (jnp.abs(XW) + jnp.abs(Z))
    error = Y * (E + jnp.sum(Y * E, axis=1, keepdims=True)) + v * Y
    error = share[:, None] * (error + (math.sqrt(X.shape[0]) * v + u) * jnp.abs(D))
    D = share[:, None] * D
    by_hand = Params(
        W=4 * (jnp.abs(X).T @ error + u * jnp.abs(X.T @ D)),
        b=4 * (jnp.sum(error, axis=0, keepdims=True) + u * jnp.abs(jnp.sum(D, axis=0, keepdims=True))),
    )
    step = ROUNDING_64 ** (1 / 3)
    logit_error = 4 * (step**2 / 60 + ROUNDING_64 * (reference.loss(params) + jnp.max(jnp.abs(Z))) / step)
    return by_hand, jax.tree.map(lambda steps: logit_error * step / steps, _steps(reference))
