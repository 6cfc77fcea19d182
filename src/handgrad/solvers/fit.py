"""`fit`: one softmax regression, to a certified optimum."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad import objective, validation
from handgrad.formulas import Params
from handgrad.shapes import Float
from handgrad.solvers.lbfgs import CONVERGED, Problems, Solutions, solve
from handgrad.solvers.results import FitResult, describe

# Without a penalty the fit goes on until the gradient is a hundredth of what was asked. At a minimum nothing moves by
# then; where there is none, logits grow by log 100 = 4.6.
TIGHTER = 100
MOVED = 1.0


def fit(
    X: Any,
    targets: Any,
    *,
    l2: float,
    weights: Any = None,
    class_weights: Any = None,
    params: Params | None = None,
    num_classes: int | None = None,
    tol: float = 1e-5,
    max_iterations: int = 2000,
    callback: Callable[[int, float, float], None] | None = None,
) -> FitResult:
    """Minimise F(W, b) = mean cross-entropy + (l2/2)‖W‖², the bias not penalised, to a certified optimum.

    L-BFGS with a line search on cached logits and a Kronecker preconditioner, compiled whole. It stops where

        gap = ‖∇_W F‖²/(2·l2) ≤ tol · F        (∇_b F = 0),

    and F − min F ≤ gap. Features need not be scaled. scikit-learn's C is 1/(l2·N), or 1/(l2·Σ weights).

    Args:
      X: data, shape (N, P), floating; the fit computes in its dtype, float32 at least.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      l2: the penalty. 0 is allowed; there is no certificate then, and ‖∇F‖ ≤ tol · ‖∇F(0)‖ ends the fit.
      weights: sample weights (N,); the mean becomes Σ w·l / Σ w.
      class_weights: (C,) or {class: weight}, 1 where it has none; the weight of a row is multiplied by its class's.
      params: where to start; zeros if None.
      num_classes: C; if None that of params, of distributions, or the largest label + 1.
      tol: relative gap, see above. float32 reaches 1e-5 on most data, float64 1e-10.
      max_iterations: of L-BFGS.
      callback: called as callback(iteration, loss, gap) after each iteration, from within the compiled program.

    Returns:
      FitResult(params, loss, gap, gradient_norm, iterations, passes, converged, message, l2).

    Raises:
      TypeError, ValueError: arguments that do not fit, labels outside [0, C), or data that are not finite.

    Warns:
      RuntimeWarning: the fit has not converged; the result's message says why and what to do. Classes that can be
        separated and l2=0 are such a case: F then has no minimum.

    Example:
      >>> X, t = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 1, 0, 1])
      >>> result = handgrad.fit(X, t, l2=0.1)
      >>> result.converged, result.gap <= 1e-5 * result.loss
      (True, True)
    """
    result = fit_in_silence(
        X,
        targets,
        l2=l2,
        weights=weights,
        class_weights=class_weights,
        params=params,
        num_classes=num_classes,
        tol=tol,
        max_iterations=max_iterations,
        callback=callback,
    )
    if not result.converged:
        warnings.warn(f"fit: {result.message}", RuntimeWarning, stacklevel=2)
    return result


def fit_in_silence(
    X: Any,
    targets: Any,
    *,
    l2: float,
    weights: Any,
    class_weights: Any = None,
    params: Params | None,
    num_classes: int | None,
    tol: float,
    max_iterations: int,
    callback: Callable[[int, float, float], None] | None = None,
) -> FitResult:
    """`fit` without its warning."""
    data = prepare("fit", X, targets, weights, class_weights, params, num_classes)
    check_settings("fit", tol, max_iterations)
    validation.check_number("fit", "l2", l2)
    run = functools.partial(_solve_one, data, l2, max_iterations=max_iterations, callback=callback)
    solution, found = run(params, tol)
    status, separated = int(solution.status[0]), None
    if l2 == 0 and status == CONVERGED:
        tighter, moved = run(found, tol / TIGHTER)
        separated = _separated(data, jax.tree.map(jnp.subtract, moved, found))
        if separated is None:
            solution, found = _add(solution, tighter), moved
    result = FitResult(
        params=found,
        loss=float(solution.loss[0]),
        gap=float(solution.gap[0]),
        gradient_norm=float(solution.gradient_norm[0]),
        iterations=int(solution.iterations[0]),
        passes=int(solution.passes[0]),
        converged=status == CONVERGED and separated is None,
        message=separated or "",
        l2=float(l2),
    )
    if not separated:
        numbers = {"l2": result.l2, "loss": result.loss, "gap": result.gap, "norm": result.gradient_norm}
        message = describe(status, **numbers, tol=tol, dtype=data.X.dtype, limit=max_iterations)
        result = result._replace(message=message)
    return result


# --- What `fit` and `fit_path` are given ---------------------------------------------------------------------------


class Data(NamedTuple):
    """Checked arrays on the device; the weights sum to 1."""

    X: Float[Array, "N P"]
    targets: Array
    weights: Float[Array, " N"]
    num_classes: int


def prepare(
    function: str,
    X: Any,
    targets: Any,
    weights: Any,
    class_weights: Any,
    params: Params | None,
    num_classes: int | None,
) -> Data:
    """Check the arrays, look at their values once, and bring them to the device."""
    validation.check_array(function, "X", X, "(N, P)")
    X = jnp.asarray(X)
    X = X if X.dtype in (jnp.float32, jnp.float64) else X.astype(jnp.float32)
    validation.check_finite(function, "X", X)
    if num_classes is None:
        num_classes = validation.count_classes(function, targets) if params is None else params[0].shape[1]
    validation.check_positive_integer(function, "num_classes", num_classes)
    if params is not None:
        validation.check_linear(function, params, X)
        if params[0].shape[1] != num_classes:
            raise ValueError(
                f"{function}: num_classes must be that of params, {params[0].shape[1]}, or None; got {num_classes}."
            )
    validation.check_targets(function, targets, X.shape[0], num_classes)
    validation.check_weights(function, weights, X.shape[0])
    # On the host, in float64: a sum of many weights must not depend on the data's dtype.
    T = np.asarray(targets)
    w = np.ones(X.shape[0]) if weights is None else np.asarray(weights, dtype=np.float64)
    if class_weights is not None:
        each = _class_weights(function, class_weights, num_classes)
        w = w * (each[T] if T.ndim == 1 else T @ each)
        if T.ndim == 2:
            T = T * each / np.maximum(T @ each, np.finfo(np.float64).tiny)[:, None]
    total = w.sum()
    w = w / (total if total > 0 else 1)
    device_targets = jnp.asarray(T, dtype=jnp.int32 if T.ndim == 1 else X.dtype)
    return Data(X, device_targets, jnp.asarray(w, dtype=X.dtype), num_classes)


def _class_weights(function: str, class_weights: Any, num_classes: int) -> np.ndarray:
    each = np.ones(num_classes)
    if isinstance(class_weights, dict):
        for label, weight in class_weights.items():
            if not (isinstance(label, (int, np.integer)) and 0 <= label < num_classes):
                keys = f"class_weights' keys must be classes in [0, {num_classes})"
                raise ValueError(f"{function}: {keys}; got {label!r}.")
            each[label] = weight
    else:
        each = np.asarray(class_weights, dtype=np.float64)
    if each.shape != (num_classes,) or not np.all(np.isfinite(each) & (each >= 0)):
        raise ValueError(
            f"{function}: class_weights must be {num_classes} finite non-negative numbers, or a dictionary from class "
            f"to weight; got {class_weights!r}."
        )
    return each


def check_settings(function: str, tol: float, max_iterations: int) -> None:
    """Check what ends a fit."""
    validation.check_number(function, "tol", tol)
    validation.check_positive_integer(function, "max_iterations", max_iterations)


def dense(num_rows: int, num_features: int, num_classes: int) -> bool:
    """Whether A's eigenvectors are worth their price, 10 P³ operations and a few P×P arrays.

    They may cost as much as thirty passes, 60 N·P·C, and may not outgrow the data.
    """
    return num_features <= 64 or (num_features**2 <= 12 * num_rows * num_classes and 2 * num_features <= num_rows)


# --- The compiled program ------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("lanes", "dense", "callback"))
def run(
    X: Array,
    targets: Array,
    problems: Problems,
    start: Params,
    tol: Array,
    max_iterations: Array,
    *,
    lanes: int,
    dense: bool,
    callback: Callable[..., None] | None = None,
) -> tuple[Solutions, Params]:
    """The solutions, and their parameters W (J, P, C) and b (J, 1, C) for the data as they are."""
    rows = objective.centre(X, targets, jnp.mean(problems.weights, axis=1))
    # About the centre μ the logits XW + b are (X − μ)W + (b + μW).
    V = jnp.concatenate([start.W, start.b + objective.product(rows.centre, start.W)])
    V = V - jnp.mean(V, axis=1, keepdims=True)
    solutions = solve(
        rows, problems, V, lanes=lanes, tol=tol, max_iterations=max_iterations, dense=dense, callback=callback
    )
    W = solutions.V[:, :-1]
    return solutions, Params(W=W, b=solutions.V[:, -1:] - objective.product(rows.centre, W))


def _solve_one(data: Data, l2: float, params: Params | None, tol: float, *, max_iterations: int, callback: Any):
    dtype, (num_rows, P), C = data.X.dtype, data.X.shape, data.num_classes
    if params is None:
        params = Params(W=jnp.zeros((P, C), dtype), b=jnp.zeros((1, C), dtype))
    solution, found = run(
        data.X,
        data.targets,
        Problems(jnp.full(1, l2, dtype), jnp.zeros(1, jnp.int32), data.weights[:, None]),
        Params(*jax.tree.map(jnp.asarray, tuple(params))),
        jnp.asarray(tol, dtype),
        jnp.asarray(max_iterations, jnp.int32),
        lanes=1,
        dense=dense(num_rows, P, C),
        callback=callback,
    )
    return solution, Params(W=found.W[0], b=found.b[0])


def _add(first: Solutions, second: Solutions) -> Solutions:
    """The second solution, with the work of both."""
    return second._replace(iterations=first.iterations + second.iterations, passes=first.passes + second.passes)


# --- Separation ----------------------------------------------------------------------------------------------------
#
# F(V + sd) as s grows approaches a line of slope Σ w (max_j Ż_j − ⟨T, Ż⟩), a sum of terms that are never negative. With
# l2 = 0 there is a minimum unless some direction makes every term 0 and moves the logits: the classes, or some of them,
# can be separated. (Albert and Anderson, *On the existence of maximum likelihood estimates in logistic regression
# models*, 1984.)


def _separated(data: Data, moved: Params) -> str | None:
    """Why there is no minimum, if the way that the last iterations went proves it."""
    dZ = np.asarray(objective.product(data.X, moved.W) + moved.b, dtype=np.float64)
    dZ = dZ[np.asarray(data.weights) > 0]
    T = np.asarray(data.targets)[np.asarray(data.weights) > 0]
    if T.ndim == 1:
        T = np.eye(data.num_classes)[T]
    top = dZ.max(axis=1)
    slope = top - np.sum(T * dZ, axis=1)
    size = (top - dZ.min(axis=1)).max()
    if not (size > MOVED and slope.max() < 0.02 * size):
        return None
    # The rows whose own class alone gains.
    alone = np.sum(dZ > top[:, None] - 0.1 * size, axis=1) == 1
    classes = ", ".join(map(str, np.unique(np.argmax(T[alone], axis=1)))) or "some"
    return (
        f"the classes can be separated, {classes} from the others, so that with l2=0 the loss has no minimum and the "
        "weights grow without end. Take l2 > 0, however small, or fewer features."
    )
