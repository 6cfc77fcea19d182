"""From problems to parameters that are certified: the compiled program, and what is done with its answers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad.formulas import Params
from handgrad.objective import Rows
from handgrad.shapes import Bool, Float, Int
from handgrad.solvers.certificate import Certified, certify
from handgrad.solvers.data import Data, Folds, start_at
from handgrad.solvers.lanes import ABSENT, CONVERGED, PRECISION, Problems, Settings, Solutions, norms_at_zero
from handgrad.solvers.lbfgs import solve

# Lanes beyond this many columns of logits do not make a product more efficient, and a lane that waits for a slower one
# costs more: 8 lanes of 10 classes cost 2.5 times one.
COLUMNS = 80
ATTEMPTS = 4
MARGIN = 0.9  # of tol is what the program goes to: of rounded parameters the proof finds a little more than it sees
SMALLEST_NORM = 1e-14  # of a gradient that is 0 but for rounding, of features of size about 1


class Answers(NamedTuple):
    """What is returned of J problems, what is true of it, and why each ended."""

    certified: Certified
    norm_at_zero: Float[np.ndarray, " J"]
    iterations: Int[np.ndarray, " J"]
    passes: Int[np.ndarray, " J"]
    status: Int[np.ndarray, " J"]

    @property
    def converged(self) -> Bool[np.ndarray, " J"]:
        """Whether each is proved to be as near the optimum as was asked."""
        return self.status == CONVERGED


def solve_certified(
    data: Data,
    folds: Folds,
    fold: Int[np.ndarray, " J"],
    l2: Float[np.ndarray, " J"],
    *,
    tol: float,
    max_iterations: int,
    callback: Callable[..., None] | None = None,
) -> Answers:
    """Solve J problems until what is returned is proved to be within tol, or nothing more can be done.

    The proof, in float64 and of parameters that have been rounded, may find more than the program, in its own dtype,
    could see. Then the problem is taken up again where it was left, with a smaller tol.

    Args:
      data: as `prepare` gives it.
      folds: the weights of the rows, the classes that there are, and where to start.
      fold: which fold each problem belongs to; problems in the order in which they are to be taken up.
      l2: the penalties.
      tol, max_iterations, callback: as in `fit`.
    """
    answers = _solve(data, folds, fold, l2, tol, max_iterations, callback)
    done, iterations = is_done(answers, l2, tol), answers.iterations
    for attempt in range(1, ATTEMPTS):
        for j in np.flatnonzero(~done & answers.converged & (iterations < max_iterations)):
            own, f = slice(j, j + 1), slice(fold[j], fold[j] + 1)
            at = Folds(folds.weights[:, f], folds.present[f], answers.certified.V[own])
            smaller, left = tol / 4**attempt, int(max_iterations - iterations[j])
            goes_on = None if callback is None else functools.partial(_numbered_from, callback, int(iterations[j]))
            again = _solve(data, at, np.zeros(1, int), l2[own], smaller, left, goes_on)
            again = again._replace(iterations=again.iterations + iterations[j], passes=again.passes + answers.passes[j])
            for old, new in zip(jax.tree.leaves(answers), jax.tree.leaves(again), strict=True):
                old[own] = new
            done[j] = is_done(again, l2[own], tol)[0]
    unproven = np.where(answers.converged, PRECISION, answers.status)
    return answers._replace(status=np.where(done, CONVERGED, unproven))


def _numbered_from(callback: Callable[..., None], before: int, iteration: Any, loss: Any, gap: Any) -> None:
    callback(before + iteration, loss, gap)


def is_done(answers: Answers, l2: Float[np.ndarray, " J"], tol: float) -> Bool[np.ndarray, " J"]:
    """Whether the proof is of as much as was asked: the gap, or without a penalty the gradient's norm."""
    certified = answers.certified
    small = certified.solver_norm <= np.maximum(tol * answers.norm_at_zero, SMALLEST_NORM)
    return np.where(l2 > 0, certified.gap <= tol * certified.loss, small)


def begin_at(data: Data, params: Params, folds: Folds, l2: float) -> Folds:
    """Folds of which the first starts at the params, with the best bias for their W; unless W = 0 is a better start."""
    fold, l2s = np.zeros(1, int), np.full(1, l2)
    given = start_at(data, params, folds)
    here, at_zero = (certify(data, start.starts[:1], start, fold, l2s) for start in (given, folds))
    if not here.loss[0] < at_zero.loss[0]:
        return folds
    return folds._replace(starts=np.concatenate([here.V, folds.starts[1:]]))


def _solve(
    data: Data,
    folds: Folds,
    fold: np.ndarray,
    l2: np.ndarray,
    tol: float,
    max_iterations: int,
    callback: Any,
) -> Answers:
    dtype, (num_rows, P), C = data.dtype, data.X.shape, data.num_classes
    tol = MARGIN * tol
    # Both sides of l2' = l2·s² may be beyond the dtype: the program then works without a penalty, or with a huge one.
    scaled = np.minimum(l2 * data.scale**2, float(np.finfo(dtype).max))
    starts = folds.starts.copy()
    starts[:, -1] = np.where(folds.present, np.maximum(starts[:, -1], -ABSENT / 4), -ABSENT)
    padded = np.pad(folds.weights, [(0, data.rows.X.shape[0] - num_rows), (0, 0)])
    problems = Problems(
        jnp.asarray(scaled, dtype),
        jnp.asarray(fold, jnp.int32),
        jnp.asarray(padded, dtype),
        jnp.asarray(starts, dtype),
    )
    solutions, norms = run(
        data.rows,
        problems,
        jnp.asarray(tol, dtype),
        jnp.asarray(max_iterations, jnp.int32),
        lanes=max(1, min(len(l2), COLUMNS // C)),
        dense=dense(len(padded), P, C),
        callback=callback,
    )
    V, iterations, passes, status = (np.array(field) for field in solutions)
    V = V.astype(np.float64)
    # Numbers that have left the dtype's range say nothing: what is returned then is the start.
    V = np.where(np.isfinite(V).all(axis=(1, 2), keepdims=True), V, folds.starts[fold])
    return Answers(certify(data, V, folds, fold, l2), np.asarray(norms)[fold], iterations, passes + 2, status)


@functools.partial(jax.jit, static_argnames=("lanes", "dense", "callback"))
def run(
    rows: Rows,
    problems: Problems,
    tol: jax.Array,
    max_iterations: jax.Array,
    *,
    lanes: int,
    dense: bool,
    callback: Callable[..., None] | None = None,
) -> tuple[Solutions, Float[jax.Array, " F"]]:
    """The compiled program: the solutions, and the gradient's norm at 0 of each fold."""
    # One pass, for what only fits without a penalty ask.
    norms = jax.lax.cond(
        jnp.any(problems.l2 == 0),
        lambda: norms_at_zero(rows, problems),
        lambda: jnp.zeros(problems.weights.shape[1], problems.weights.dtype),
    )
    settings = Settings(tol, max_iterations, norms)
    return solve(rows, problems, settings, lanes=lanes, dense=dense, callback=callback), norms


def dense(num_rows: int, num_features: int, num_classes: int) -> bool:
    """Whether A's eigenvectors are worth their price, 10 P³ operations and a few P×P arrays.

    They may cost as much as thirty passes, 60 N·P·C, and may not outgrow the data.
    """
    return num_features <= 64 or (num_features**2 <= 12 * num_rows * num_classes and 2 * num_features <= num_rows)
