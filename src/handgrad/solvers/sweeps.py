"""The solver: L-BFGS by sweeps over the rows, stepped from Python.

A sweep gives the loss and the gradient of every lane at its trial point from one reading of X. Between sweeps the lanes
advance in one small compiled program, and the host reads a few numbers of each: which have ended, and which problem a
lane takes up next, started from the nearest that is solved. What is found here is as good as rounding allows; what is
true of it `certificate` says.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from handgrad.rows import Rows
from handgrad.shapes import Bool, Float
from handgrad.solvers.kronecker import Curvature, factor_classes, factor_features, plan, with_blocks
from handgrad.solvers.lanes import ABSENT, CONVERGED, ITERATIONS, PRECISION, RUNNING, Lanes, Problems, Solutions
from handgrad.solvers.lbfgs import advance, begin, choose, load, points_along
from handgrad.solvers.penalty import L2
from handgrad.solvers.sums import class_moments, feature_moment, loss_and_gradient, rounding, slopes

MEMORY = 8
LARGE = 2**20  # parameters of a lane, beyond which what is remembered costs more than the sweep does
MEMORY_OF_LARGE = 4
PAYBACK = 4
PATIENCE = 40  # iterations without progress before the memory is dropped
REJECTED = 2  # trials along a line before its slopes are taken at many points of it
STRIKES = 3  # times that it is dropped before rounding is taken to be what stops the lane


class Tolerance(NamedTuple):
    """When a lane is done: measure ≤ tol·loss, or where l2 is 0 ‖∇‖ ≤ norm, or no iterations are left."""

    tol: float
    norm: float
    max_iterations: int


class Placed(NamedTuple):
    """The rows, their targets and weights of F folds where the rows are, and a and Q of A."""

    rows: Rows
    targets: Any
    weights: Any
    num_classes: int
    features: tuple[Any, Any] = (None, None)

    def sum(self, of: Callable[..., Any], V: Any, fold: np.ndarray, static: Any = None) -> Any:
        """Σ over all rows of a function of `sums`."""
        by_row, columns = (self.targets, self.weights), len(fold) * self.num_classes
        return self.rows.sum(of, by_row, (V, fold), columns=columns, static=static)


def place(rows: Rows, targets: np.ndarray, weights: Float[np.ndarray, "N F"], num_classes: int) -> Placed:
    """Targets and weights where the rows are, in the dtype of the solver."""
    targets = targets.astype(np.int32 if targets.ndim == 1 else rows.dtype)
    placed = Placed(rows, rows.place(targets), rows.place(weights.astype(rows.dtype)), num_classes)
    nothing = np.zeros((1, rows.shape[1] + 1, num_classes), rows.dtype)
    moment = placed.sum(feature_moment, nothing, np.zeros(1, np.int32), plan(rows, num_classes, 1).features)
    return placed._replace(features=jax.device_put(factor_features(moment), rows.home))


def gradient_norm(data: Placed, V: Float[np.ndarray, "P+1 C"], fold: int) -> float:
    """‖∇‖ of the mean loss at V, over W and b."""
    sums = data.sum(loss_and_gradient, V[None].astype(data.rows.dtype), np.full(1, fold, np.int32))
    return float(np.linalg.norm(np.asarray(sums.gradient, np.float64)))


class _Lane:
    """What the host keeps of a lane."""

    def __init__(self, problem: int, start: Float[np.ndarray, "P+1 C"], strength: float, fold: int):
        self.problem, self.start, self.strength, self.fold = problem, start, strength, fold
        self.iterations = self.passes = 0
        self.stalled = 0  # iterations since there was progress
        self.strikes = 0
        self.rejected = 0  # trials along the line that is searched
        self.begins = True  # whether the trial point is where it begins
        self.loss = self.measure = self.best = np.inf
        self.done = self.stuck = False

    def follow(
        self, accepted: bool, failed: bool, loss: float, measure: float, tolerance: Tolerance, eps: float
    ) -> None:
        """A trial has been made."""
        self.passes += 1
        self.rejected += not accepted
        if accepted:
            self.iterations += not self.begins
            progress = loss < self.loss * (1 - 4 * eps) or measure < 0.8 * self.best
            self.stalled = 0 if progress else self.stalled + 1
            self.begins, self.loss, self.measure = False, loss, measure
            self.rejected = 0
            self.best = min(self.best, measure)
        small = measure <= (tolerance.tol * loss if self.strength > 0 else tolerance.norm**2)
        self.done = accepted and small
        self.stuck = failed or self.stalled >= PATIENCE

    def ending(self, error: float, limit: int) -> int:
        """Why a lane that is stuck or out of iterations ends, if it does; `error` is its gradient's rounding, squared.

        One whose gradient is smaller than its rounding ends; one that is stuck drops its memory and goes on, until the
        third time.
        """
        self.strikes += self.stuck
        if self.strength > 0:
            error /= 2 * self.strength
        if self.strikes >= STRIKES or (self.strength > 0 and error > self.measure):
            return PRECISION
        return ITERATIONS if self.iterations >= limit else RUNNING


def solve(
    data: Placed,
    problems: Problems,
    tolerance: Tolerance,
    *,
    lanes: int,
    callback: Callable[[int, float, float], Any] | None = None,
) -> Solutions:
    """Solve every problem, so many lanes of them at a time; the first ones are begun at their starts.

    `callback` gets iteration, loss and gap of the first lane, after each of its iterations.
    """
    J, K, C, dtype = len(problems.fold), lanes, data.num_classes, data.rows.dtype
    width, eps = data.rows.shape[1] + 1, float(np.finfo(dtype).eps)
    solutions = Solutions(list(problems.starts), *np.zeros((3, J), int))
    lanes: list[Any] = [_next(problems, solutions, k) if k < J else None for k in range(K)]
    memory = MEMORY if width * C <= LARGE else MEMORY_OF_LARGE
    state = jax.device_put(begin(np.zeros((width, C), dtype), lanes=K, memory=memory), data.rows.home)
    state, trial = _load(
        state, np.zeros((K, width, C), dtype), problems, lanes, [lane and lane.start for lane in lanes]
    )
    taken = min(J, K)
    how, curvature = plan(data.rows, C, J), Curvature(*data.features, None, None, None)
    age, period = 0, max(8, width // (PAYBACK * K))
    while any(lane is not None for lane in lanes):
        fold = np.array([0 if lane is None else lane.fold for lane in lanes], np.int32)
        renew = any(lane is not None and _is_due(lane) for lane in lanes)
        sums = data.sum(loss_and_gradient, trial, fold, how.classes if renew else None)
        if renew:
            g, U = jax.device_put(factor_classes(sums), data.rows.home)
            curvature = curvature._replace(g=g, U=U)
        if how.blocks and age >= period:
            strengths = np.array([1.0 if lane is None else lane.strength for lane in lanes], dtype)
            curvature, age = with_blocks(curvature, data.sum(class_moments, trial, fold), strengths), 0
        state, trial, report = advance(state, trial, sums._replace(shares=None, second=None), curvature)
        accepted, failed, loss, measure = (array.tolist() for array in map(np.asarray, report))
        age += any(accepted)
        for k, lane in enumerate(lanes):
            if lane is None:
                continue
            before = lane.iterations
            lane.follow(accepted[k], failed[k], loss[k], measure[k], tolerance, eps)
            if callback is not None and k == 0 and lane.iterations > before:
                callback(lane.iterations, loss[k], measure[k])
        state, trial, taken = _settle(data, problems, tolerance, solutions, lanes, fold, state, trial, taken)
        hard = np.array([lane is not None and lane.rejected >= REJECTED for lane in lanes])
        if hard.any():
            points = points_along(state)
            state, trial = choose(state, trial, hard, points, data.sum(slopes, (state.V, state.step, points), fold))
            for lane in lanes:
                if lane is not None:
                    lane.passes += 1
    return solutions


def _is_due(lane: _Lane) -> bool:
    """G is renewed at 0, 1, 2, 4, 8, … iterations."""
    following = 0 if lane.begins else lane.iterations + 1
    return following & (following - 1) == 0


def _settle(data, problems, tolerance, solutions, lanes, fold, state, trial, taken):
    """Store and replace the lanes that have ended, and let those that are stuck begin anew where they are."""
    limit = tolerance.max_iterations
    status = [RUNNING if lane is None or not lane.done else CONVERGED for lane in lanes]
    looked_at = [
        k
        for k, lane in enumerate(lanes)
        if lane is not None and not lane.done and (lane.stuck or lane.iterations >= limit)
    ]
    if looked_at:
        errors = np.asarray(data.sum(rounding, state.V, fold)).tolist()
        for k in looked_at:
            status[k] = lanes[k].ending(errors[k], limit)
    anew = [k for k in looked_at if status[k] == RUNNING and lanes[k].stuck]
    ended = [k for k, ending in enumerate(status) if ending != RUNNING]
    if not anew and not ended:
        return state, trial, taken
    V = np.array(state.V)
    starts: list[Any] = [None] * len(lanes)
    for k in anew:
        lanes[k].begins, lanes[k].stalled, lanes[k].rejected = True, 0, 0
        starts[k] = V[k] if np.isfinite(lanes[k].loss) else lanes[k].start
    for k in ended:
        lane = lanes[k]
        where = V[k] if np.isfinite(lane.loss) else lane.start
        for field, value in zip(solutions, (where, lane.iterations, lane.passes, status[k]), strict=True):
            field[lane.problem] = value
    for k in ended:
        lanes[k] = _next(problems, solutions, taken) if taken < len(problems.fold) else None
        if lanes[k] is not None:
            taken, starts[k] = taken + 1, lanes[k].start
    if any(start is not None for start in starts):
        state, trial = _load(state, trial, problems, lanes, starts)
    return state, trial, taken


def _load(state: Lanes, trial: Any, problems: Problems, lanes: list[Any], starts: list[Any]) -> tuple[Lanes, Any]:
    """The lanes that are given a start begin there."""
    dtype, nothing = trial.dtype, np.zeros(trial.shape[1:], trial.dtype)
    chosen = np.array([start is not None for start in starts])
    V = np.stack([nothing if start is None else start for start in starts]).astype(dtype)
    strengths = np.array([1.0 if lane is None else lane.strength for lane in lanes]).astype(dtype)
    present = np.stack([present_classes(problems, 0 if lane is None else lane.problem) for lane in lanes])
    return load(state, trial, chosen, V, L2(strengths), present)


def _next(problems: Problems, solutions: Solutions, number: int) -> _Lane:
    """The lane of a problem, which starts at the start of its fold, or from the nearest penalty that is solved."""
    fold, strength = int(problems.fold[number]), float(problems.penalty.strength[number])
    V, present = problems.starts[number], present_classes(problems, number)
    solved = np.flatnonzero(solutions.status != RUNNING)
    if len(solved):
        logs = np.log(np.maximum(problems.penalty.strength, np.finfo(float).tiny))
        distance = np.abs(logs[number] - logs[solved]) + (problems.fold[solved] != fold)
        nearest = solved[distance.argmin()]
        # A class that this fold leaves out, or that it alone has, is put where it starts.
        known = present & present_classes(problems, nearest)
        V = np.where(known, solutions.V[nearest], V)
    V = np.where(present, V - V.mean(axis=1, keepdims=True, where=present), V)
    return _Lane(number, V, strength, fold)


def present_classes(problems: Problems, number: int) -> Bool[np.ndarray, " C"]:
    """Which classes are not left out of a problem."""
    return problems.starts[number][-1] > -ABSENT / 2
