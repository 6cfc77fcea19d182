"""`fit_path`: every penalty of a path, and every fold, in one program."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad import objective
from handgrad import validation as checks
from handgrad.formulas import Params
from handgrad.formulas.losses import mean_loss
from handgrad.objective import product
from handgrad.shapes import Float
from handgrad.solvers.fit import Data, check_settings, dense, prepare, run
from handgrad.solvers.lbfgs import CONVERGED, Problems
from handgrad.solvers.results import PathResult

# Lanes beyond this many columns of logits do not make a product more efficient, and a lane that waits for a slower one
# costs more: 8 lanes of 10 classes cost 2.5 times one.
COLUMNS = 80


def fit_path(
    X: Any,
    targets: Any,
    *,
    l2s: Sequence[float] | Any,
    validation: tuple[Any, Any] | int | None = None,
    weights: Any = None,
    class_weights: Any = None,
    num_classes: int | None = None,
    tol: float = 1e-5,
    max_iterations: int = 2000,
) -> PathResult:
    """Fit every penalty of a path, each to its certificate, in one compiled program.

    The penalties are solved several at a time, X·[W₁ … W_K] being one product. One that is done makes room for the
    next, which starts from the nearest that is solved. The answers are those of `fit`.

    Args:
      X, targets, weights, class_weights, num_classes, tol, max_iterations: as in `fit`.
      l2s: the penalties, positive, in any order.
      validation: data and targets (X, targets) that are not trained on; or a number of folds k: the rows are then
        dealt into k folds, class by class, and each penalty is fitted k more times, without a fold, in the same
        program.

    Returns:
      PathResult; with validation its `best` and `best_params`.

    Raises:
      TypeError, ValueError: as `fit`.

    Warns:
      RuntimeWarning: some penalties have not converged.

    Example:
      >>> X, t = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 1, 0, 1])
      >>> path = handgrad.fit_path(X, t, l2s=[1.0, 0.1], validation=(X, t))
      >>> bool(path.converged.all()), path.best
      (True, 1)
    """
    data = prepare("fit_path", X, targets, weights, class_weights, None, num_classes)
    check_settings("fit_path", tol, max_iterations)
    l2s = _check_l2s(l2s)
    held_out = _folds(data, validation) if isinstance(validation, int) else np.zeros((data.X.shape[0], 0), bool)
    every = np.broadcast_to(l2s, (1 + held_out.shape[1], l2s.size))
    solutions, params = solve_folds(data, every, held_out, tol, max_iterations)
    converged = solutions.status == CONVERGED
    if not converged.all():
        failed = np.flatnonzero(~converged.reshape(-1, l2s.size).all(axis=0))
        warnings.warn(
            f"fit_path: {failed.size} of {l2s.size} penalties have not converged, the largest {l2s[failed].max():g}. "
            "Allow more iterations or a larger tol, or use float64 (jax.enable_x64).",
            RuntimeWarning,
            stacklevel=2,
        )
    losses, accuracies = _validate(data, params, held_out, validation, l2s.size)
    solutions, params = jax.tree.map(lambda field: field[: l2s.size], (solutions, params))
    return PathResult(
        l2s=l2s,
        params=params,
        loss=solutions.loss,
        gap=solutions.gap,
        gradient_norm=solutions.gradient_norm,
        iterations=solutions.iterations,
        passes=solutions.passes,
        converged=converged[: l2s.size],
        validation_loss=losses,
        validation_accuracy=accuracies,
        best=None if losses is None else int(np.argmin(losses)),
    )


def solve_folds(data: Data, l2s: np.ndarray, held_out: np.ndarray, tol: float, max_iterations: int):
    """Fit l2s[0] on all rows, and l2s[1 + f] without the rows of column f of `held_out`; host arrays, fold by fold."""
    dtype, (num_rows, P), C = data.X.dtype, data.X.shape, data.num_classes
    kept = np.concatenate([np.ones((num_rows, 1), bool), ~held_out], axis=1)
    weights = objective.normalise(data.weights[:, None] * jnp.asarray(kept, dtype))
    # From the strongest penalty down, all of a fold after another: a fold starts where all rows have ended.
    order = np.concatenate([fold * l2s.shape[1] + np.argsort(-row, kind="stable") for fold, row in enumerate(l2s)])
    problems = Problems(jnp.asarray(l2s.ravel()[order], dtype), jnp.asarray(order // l2s.shape[1], jnp.int32), weights)
    zeros = Params(W=jnp.zeros((P, C), dtype), b=jnp.zeros((1, C), dtype))
    found = run(
        data.X,
        data.targets,
        problems,
        zeros,
        jnp.asarray(tol, dtype),
        jnp.asarray(max_iterations, jnp.int32),
        lanes=max(1, min(order.size, COLUMNS // C)),
        dense=dense(num_rows, P, C),
    )
    back = np.argsort(order)
    return jax.tree.map(lambda array: np.asarray(array)[back], found)


def _check_l2s(l2s: Any) -> Float[np.ndarray, " J"]:
    l2s = np.asarray(l2s, dtype=np.float64)
    if l2s.ndim != 1 or l2s.size == 0 or not np.all((l2s > 0) & np.isfinite(l2s)):
        raise ValueError(f"fit_path: l2s must be one or more positive numbers; got {l2s!r}. For l2=0 use fit.")
    return l2s


def _folds(data: Data, count: int) -> np.ndarray:
    """Which rows each of the folds holds out: the rows of each class in turn, so that no fold lacks one."""
    if not 2 <= count <= data.X.shape[0]:
        raise ValueError(f"fit_path: validation must be 2 folds or more, and at most a row each; got {count}.")
    labels = np.asarray(data.targets)
    labels = labels if labels.ndim == 1 else labels.argmax(axis=1)
    fold = np.empty(labels.size, np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(labels.size) % count
    return fold[:, None] == np.arange(count)


def _validate(data, params, held_out, given, num_l2s):
    """Loss and accuracy of each penalty on rows not trained on."""
    if given is None:
        return None, None
    if isinstance(given, int):
        scores = []
        for fold in range(held_out.shape[1]):
            rows = held_out[:, fold]
            part = slice((fold + 1) * num_l2s, (fold + 2) * num_l2s)
            weights = data.weights[rows]
            scores.append(score(Params(W=params.W[part], b=params.b[part]), data.X[rows], data.targets[rows], weights))
        return tuple(np.mean(scores, axis=0))
    X, targets = _check_validation(data, given)
    weights = jnp.ones(X.shape[0], X.dtype)
    return score(Params(W=params.W[:num_l2s], b=params.b[:num_l2s]), X, targets, weights)


def _check_validation(data, given):
    try:
        X, targets = given
    except (TypeError, ValueError):
        raise ValueError(
            f"fit_path: validation must be a pair (X, targets) or a number of folds; got {type(given).__name__}."
        ) from None
    checks.check_array("fit_path", "validation X", X, "(N, P)")
    X = jnp.asarray(X).astype(data.X.dtype)
    if X.shape[1] != data.X.shape[1]:
        raise ValueError(f"fit_path: validation X must have {data.X.shape[1]} columns, as X; got {X.shape}.")
    checks.check_finite("fit_path", "validation X", X)
    checks.check_targets("fit_path", targets, X.shape[0], data.num_classes)
    T = np.asarray(targets)
    return X, jnp.asarray(T, dtype=jnp.int32 if T.ndim == 1 else X.dtype)


def score(params: Params, X: Array, targets: Array, weights: Array) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy and accuracy of each of the stacked parameters."""
    losses, accuracies = _score(params, X, targets, weights)
    return np.asarray(losses), np.asarray(accuracies)


@jax.jit
def _score(params, X, targets, weights):
    labels = targets if targets.ndim == 1 else jnp.argmax(targets, axis=1)

    def one(single):
        Z = product(X, single.W) + single.b
        hits = (jnp.argmax(Z, axis=1).astype(labels.dtype) == labels).astype(X.dtype)
        return mean_loss(jnp, Z, targets, weights), jnp.sum(objective.normalise(weights) * hits)

    return jax.lax.map(one, Params(*jax.tree.map(jnp.asarray, tuple(params))))
