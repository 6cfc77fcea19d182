"""What the host keeps of a lane, and where a fit is: all that another process goes on from, bit for bit."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from handgrad.shapes import Float, Int
from handgrad.solvers.lanes import ITERATIONS, PRECISION, RUNNING, Lanes, Solutions
from handgrad.solvers.search import Line, noise

PATIENCE = 40  # iterations without progress before the memory is dropped
FAR = 30  # times the loss, the gap of a point from which a rough step may be far too long
STRIKES = 3  # times that it is dropped before rounding is taken to be what stops the lane


class Lane:
    """What the host keeps of a lane."""

    def __init__(self, problem: int, start: Float[np.ndarray, "P1 C"], strength: float, fold: int, iterations: int):
        self.problem, self.start, self.strength, self.fold = problem, start, strength, fold
        self.line: Line | None = None  # where there is none the trial point is where the lane begins
        self.iterations, self.passes = iterations, 0
        self.stalled = 0  # iterations since there was progress
        self.strikes = 0
        self.loss = self.measure = self.best = math.inf
        self.done = self.stuck = False

    def accepts(self, loss: float, slope: float, measure: float, eps: float) -> bool:
        """Whether the trial is accepted."""
        self.passes += 1
        if not (math.isfinite(loss) and math.isfinite(measure)):
            loss = slope = math.nan
        accepted = math.isfinite(loss) if self.line is None else self.line.accepts(loss, slope, eps)
        if accepted:
            self.iterations += self.line is not None
            progress = loss < self.loss - noise(loss, eps) or measure < 0.8 * self.best
            self.stalled = 0 if progress else self.stalled + 1
            self.loss, self.measure, self.best = loss, measure, min(self.best, measure)
        self.stuck = self.stalled >= PATIENCE or (not accepted and (self.line is None or self.line.is_lost))
        return accepted

    def turn(self, slope: float, *, is_rough: bool = False) -> None:
        """Along a new line, whose slope this is: the trial was accepted. `is_rough` is the preconditioner."""
        is_far = self.measure > FAR * self.loss or self.strength == 0
        is_unscaled = is_rough and is_far and self.line is None
        self.line = Line(self.loss, slope, self.following, is_unscaled=is_unscaled)
        self.stuck |= self.line.is_lost

    def iterations_left(self, goal: float, tol: float) -> float:
        """How many more it needs until its measure is the goal, if it goes on as it has from where it was 1/tol of it.

        Without a penalty the measure is a square, that of the gradient's norm, and so is 1/tol.
        """
        to_go = math.log(max(self.measure / goal, 1)) if goal > 0 else math.inf
        gone = (1 if self.strength > 0 else 2) * math.log(1 / tol) - to_go
        return self.iterations * to_go / gone if gone > 0 else math.inf

    def begin_anew(self) -> None:
        """Where it is, without its memory."""
        self.line, self.stalled = None, 0

    @property
    def taken(self) -> float:
        """The part of the step that leads to the trial point."""
        return 0.0 if self.line is None else self.line.alpha

    @property
    def following(self) -> float:
        """The first trial of the next line, the trial here being accepted."""
        return 1.0 if self.line is None else self.line.following()

    def ending(self, error: float, limit: int) -> int:
        """Why a lane that is stuck or out of iterations ends, if it does; `error` is its gradient's rounding, squared.

        One whose gradient is smaller than its rounding ends; one that is stuck drops its memory and goes on, until the
        third time.
        """
        self.strikes += self.stuck
        gap = error / (2 * self.strength) if self.strength > 0 else 0.0
        if self.strikes >= STRIKES or gap > self.measure:
            return PRECISION
        return ITERATIONS if self.iterations >= limit else RUNNING


# --- As arrays --------------------------------------------------------------------------------------------------------


class SolverState(NamedTuple):
    """Where the solver is, after a trial and before what follows from it.

    Attributes:
      lanes: on the device.
      trial: the point that each of K lanes was tried at (K, P+1, C).
      blocks: inverses of the blocks of the curvature; None until there are any.
      rows: what the host keeps of each lane (K, ·), as `as_rows` has it.
      starts: where each lane began (K, P+1, C).
      age: of the blocks, in iterations.
      size: which of the sizes that they may have they had last; -1 before the first.
      waiting: the first problem that no lane has taken up.
      solutions: of the problems that have ended, V stacked.
    """

    lanes: Lanes
    trial: Float[Any, "K P1 C"]
    blocks: Any
    rows: Float[np.ndarray, "K n"]
    starts: Float[np.ndarray, "K P1 C"]
    age: int
    size: int
    waiting: int
    solutions: Solutions


class FitState(NamedTuple):
    """Where a fit is, for `fit` to go on from: a pytree.

    Attributes:
      attempt: how often the proof has found more than the solver could see.
      tol: what the solver goes to, smaller after each attempt.
      which: the problems that are solved in this attempt, by number.
      answers: of the attempts before; None in the first.
      solver: where the solver is, a `SolverState`.

    Example:
      >>> X, t = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 1, 0, 1])
      >>> import warnings
      >>> with warnings.catch_warnings(action="ignore"):  # that it has not converged
      ...     begun = handgrad.fit(X, t, l2=0.1, callback=lambda iteration, loss, gap: True)
      >>> ended = handgrad.fit(X, t, l2=0.1, state=begun.state)
      >>> ended.loss == handgrad.fit(X, t, l2=0.1).loss
      True
    """

    attempt: int
    tol: float
    which: Int[np.ndarray, " n"]
    answers: Any
    solver: Any


Keep = Callable[[Callable[[], Any], bool], Any]  # called with what gives the state, and whether it may be the last

_OF_LANE = (
    *("problem", "strength", "fold", "iterations", "passes", "stalled", "strikes", "loss", "measure", "best"),
    *("done", "stuck"),
)
_OF_LINE = ("loss", "slope", "alpha", "low", "low_slope", "high", "high_slope", "rejected", "is_unscaled")
NUMBERS = len(_OF_LANE) + len(_OF_LINE)  # of a lane


def as_rows(lanes: Sequence[Lane | None], like: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of each lane (K, ·), NaN where it has no problem or no line, and its start (K, P+1, C)."""
    rows = np.full((len(lanes), NUMBERS), np.nan)
    starts = np.zeros((len(lanes), *like.shape), like.dtype)
    for lane, row, start in zip(lanes, rows, starts, strict=True):
        if lane is not None:
            row[: len(_OF_LANE)], start[:] = [getattr(lane, name) for name in _OF_LANE], lane.start
            if lane.line is not None:
                row[len(_OF_LANE) :] = [getattr(lane.line, name) for name in _OF_LINE]
    return rows, starts


def from_row(row: np.ndarray, start: np.ndarray) -> Lane | None:
    """The lane of which these are the numbers and the start."""
    if np.isnan(row[0]):
        return None
    lane = Lane(0, start, 0.0, 0, 0)
    _set(lane, _OF_LANE, row[: len(_OF_LANE)])
    if not np.isnan(row[len(_OF_LANE)]):
        lane.line = Line(0.0, 0.0, 0.0)
        _set(lane.line, _OF_LINE, row[len(_OF_LANE) :])
    return lane


def _set(what: Any, names: Sequence[str], values: np.ndarray) -> None:
    for name, value in zip(names, values.tolist(), strict=True):
        setattr(what, name, type(getattr(what, name))(value))


def copied(tree: Any) -> Any:
    """The same numbers in arrays of NumPy that nothing else writes to, row by row in memory."""
    return jax.tree.map(lambda array: np.array(array, order="C"), tree)
