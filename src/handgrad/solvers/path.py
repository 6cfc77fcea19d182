"""`fit_path`: every penalty of a path, and every fold, side by side."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from handgrad import arguments as checks
from handgrad.formulas import Params
from handgrad.frames import as_held_out
from handgrad.progress import shown
from handgrad.rows import Parts, locate, open_source
from handgrad.settings import is_integer
from handgrad.shapes import Float
from handgrad.solvers.data import Data, check_data, check_finite, normalised, numbers, prepare
from handgrad.solvers.driver import Answers, solve_certified
from handgrad.solvers.fit import check_settings
from handgrad.solvers.folds import Folds, make_folds
from handgrad.solvers.held_out import mean_scores, prepare_scores
from handgrad.solvers.results import PathResult
from handgrad.solvers.state import FitState, Keep


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
    fit_intercept: bool = True,
    mesh: Any = None,
    callback: Callable[[int, int], Any] | None = None,
    progress: bool = False,
) -> PathResult:
    """Fit every penalty of a path, each to its certificate, side by side.

    The penalties are solved several at a time, X·[W₁ … W_K] being one product. One that is done makes room for the
    next, which starts from the nearest that is solved. The answers are those of `fit`.

    Args:
      X, targets, weights, class_weights, num_classes, tol, max_iterations, fit_intercept, mesh, progress: as in `fit`.
      l2s: the penalties, positive, in any order.
      validation: data and targets (X, targets) that are not trained on; or a number of folds k: the rows are then
        dealt into k folds, class by class, and each penalty is fitted k more times, without a fold. A row of a class
        that was not trained on has an infinite loss with every penalty: it is left out of the loss, with a warning, and
        so is a fold whose rows all weigh 0.
      callback: called as callback(done, fits) as the fits go on, with how many of them have ended; where it returns
        True the others end where they are.

    Returns:
      PathResult; with validation its `best` and `best_params`.

    Raises:
      TypeError, ValueError: as `fit`.

    Warns:
      RuntimeWarning: some penalties have not converged; rows or folds that are left out of the validation.

    Example:
      >>> X, t = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 1, 0, 1])
      >>> path = handgrad.fit_path(X, t, l2s=[1.0, 0.1], validation=(X, t))
      >>> bool(path.converged.all()), path.best
      (True, 1)
    """
    num_folds = None
    if is_integer(validation):
        num_folds, validation = int(validation), None
    elif validation is not None:
        validation = as_held_out("fit_path", validation, X, "a pair (X, targets) or a number of folds")
    about = {"fit_intercept": fit_intercept, "mesh": mesh}
    data = prepare("fit_path", X, targets, weights, class_weights, None, num_classes, **about)
    tol = check_settings("fit_path", tol, max_iterations, callback)
    l2s = _check_l2s(l2s)
    kept = np.ones((data.parts.num_rows, 1), bool)
    if num_folds is not None:
        kept = np.concatenate([kept, ~_folds(data, num_folds)], axis=1)
    folds = make_folds("fit_path", data, data.weights[:, None] * kept)
    scored = None
    if kept.shape[1] > 1:
        held_out = data.weights[:, None] * ~kept[:, 1:]
        scored = prepare_scores("fit_path", data.parts, data.targets, held_out, folds.present[1:])
    elif validation is not None:
        rows, labels = _check_validation(data, validation)
        scored = prepare_scores("fit_path", rows, labels, np.ones((len(labels), 1)), folds.present)
    each = np.broadcast_to(l2s, (len(folds.present), l2s.size))
    with shown("fit_path", progress, callback, _share) as watch:
        fitted = solve_folds(data, folds, each, tol, max_iterations, watch)
    converged = fitted.converged.reshape(-1, l2s.size)
    if not converged.all():
        failed = np.flatnonzero(~converged.all(axis=0))
        warnings.warn(
            f"fit_path: {failed.size} of {l2s.size} penalties have not converged, the largest {l2s[failed].max():g}. "
            "Allow more iterations or a larger tol, or use float64 (jax.enable_x64).",
            RuntimeWarning,
            stacklevel=2,
        )
    certified = fitted.certified
    losses = accuracies = None
    if scored is not None:
        parts = [slice(f * l2s.size, (f + 1) * l2s.size) for f in range(len(folds.present))][-scored.weights.shape[1] :]
        losses, accuracies = mean_scores(scored, [Params(W=certified.W[part], b=certified.b[part]) for part in parts])
    return PathResult(
        l2s=l2s,
        params=Params(W=certified.W[: l2s.size], b=certified.b[: l2s.size]),
        loss=certified.loss[: l2s.size],
        gap=certified.gap[: l2s.size],
        gradient_norm=certified.gradient_norm[: l2s.size],
        iterations=fitted.iterations[: l2s.size],
        passes=fitted.passes[: l2s.size],
        converged=converged[0],
        validation_loss=losses,
        validation_accuracy=accuracies,
        best=None if losses is None else int(np.argmin(losses)),
    )


def solve_folds(
    data: Data,
    folds: Folds,
    l2s: Float[np.ndarray, "F J"],
    tol: float,
    max_iterations: int,
    callback: Callable[[int, int], Any] | None = None,
    keep: Keep | None = None,
    state: FitState | None = None,
) -> Answers:
    """Fit l2s[f] to fold f, for every f; the answers are fold by fold. The callback is that of `fit_path`; `keep` and
    `state` are those of `solve_certified`.
    """
    watch = None if callback is None else (lambda *of_lane: callback(of_lane[3], l2s.size))
    # From the strongest penalty down, all of a fold after another: a fold starts where all rows have ended.
    order = np.concatenate([fold * l2s.shape[1] + np.argsort(-row, kind="stable") for fold, row in enumerate(l2s)])
    problems = order // l2s.shape[1], l2s.ravel()[order]
    settings: dict[str, Any] = {"tol": tol, "max_iterations": max_iterations}
    found = solve_certified(data, folds, *problems, **settings, callback=watch, keep=keep, state=state)
    return jax.tree.map(lambda array: array[np.argsort(order)], found)


def _share(done: int, fits: int) -> tuple[float, str]:
    return done / fits, f"{done:,} of {fits:,} fits"


def _check_l2s(l2s: Any) -> Float[np.ndarray, " J"]:
    given = l2s
    l2s = numbers(l2s)
    if l2s.ndim != 1 or l2s.size == 0 or not np.all((l2s > 0) & np.isfinite(l2s)):
        raise ValueError(f"fit_path: l2s must be one or more positive numbers; got {given!r}. For l2=0 use fit.")
    return l2s


def _check_validation(data: Data, given: Any) -> tuple[Parts, np.ndarray]:
    """(X, targets) not trained on."""
    X, targets = given
    X, targets, _ = open_source("fit_path", X, targets, None)
    X = check_data("fit_path", "validation X", X)
    if X.shape[1] != data.num_features:
        raise ValueError(f"fit_path: validation X must have {data.num_features} columns, as X; got {tuple(X.shape)}.")
    checks.check_targets("fit_path", targets, X.shape[0], data.num_classes)
    parts = locate("fit_path", X)
    check_finite("fit_path", "validation X", parts)
    targets = parts.of_rows(targets)
    return parts, targets if targets.ndim == 1 else normalised(targets.astype(np.float64))


def _folds(data: Data, count: int) -> np.ndarray:
    """Which rows each of the folds holds out: the rows of each class in turn, so that no fold has all of one."""
    if not 2 <= count <= data.parts.shape[0]:
        raise ValueError(f"fit_path: validation must be 2 folds or more, and at most a row each; got {count}.")
    labels = data.targets if data.targets.ndim == 1 else data.targets.argmax(axis=1)
    fold = np.empty(labels.size, np.int64)
    fold[np.argsort(labels, kind="stable")] = np.arange(labels.size) % count
    return fold[:, None] == np.arange(count)
