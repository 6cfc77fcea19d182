"""The solver: L-BFGS by sweeps over the rows, stepped from Python.

A sweep gives the loss and the gradient of every lane at its trial point from one reading of X. Between sweeps the host
reads a few numbers of each lane, by which it decides what the lane does next, in a small compiled program, and which
problem it takes up when one is done: started from the nearest that is solved. What is found here is as good as rounding
allows; what is true of it `certificate` says.
"""

import math
from collections.abc import Callable
from concurrent.futures import wait
from typing import Any, NamedTuple

import numpy as np

from handgrad.settings import is_true
from handgrad.shapes import Bool, Float
from handgrad.solvers.kronecker import Curvature, invert_blocks, next_size, sizes_of_blocks
from handgrad.solvers.lanes import ABSENT, CONVERGED, RUNNING, STOPPED, Problems, Solutions
from handgrad.solvers.lbfgs import advance, along, assess, begin, load, move
from handgrad.solvers.penalty import L2
from handgrad.solvers.placed import Placed, compile_ahead, num_pairs, put
from handgrad.solvers.search import POINTS
from handgrad.solvers.state import Keep, Lane, SolverState, as_rows, copied, from_row
from handgrad.solvers.sums import class_moments, loss_and_gradient, rounding, slopes

# Blocks are made anew when the iterations since the last have cost half as much again, or three times those of many
# lanes, which share them, and first when they have cost half of that; but not where they would cost more than the
# iterations that are left, which are seldom more than half of what they seem.
PAYBACK, OF_MANY, LEAST, SEEM = 1.5, 3, 10, 2


class Tolerance(NamedTuple):
    """When a lane is done: measure ≤ tol·loss, or where l2 is 0 ‖∇‖ ≤ norm, or no iterations are left."""

    tol: float
    norm: float
    max_iterations: int


def solve(
    data: Placed,
    problems: Problems,
    tolerance: Tolerance,
    *,
    num_lanes: int,
    callback: Callable[[int, float, float, int], Any] | None = None,
    keep: Keep | None = None,
    state: SolverState | None = None,
) -> Solutions:
    """Solve every problem, so many of them at a time; the first ones are begun at their starts.

    `callback` gets iteration, loss and gap of the first lane after each iteration of its, and how many problems have
    ended; where it answers True the others end where they are. `keep` then gets a function that gives the state, and
    whether the solving may end there; from a state it goes on as if nothing had been between.
    """
    solver = _Solver(data, problems, tolerance, num_lanes, state)
    with np.errstate(all="ignore"):  # what has left the dtype's range is a trial that is not accepted
        _run(solver, callback, keep)
    return solver.solutions


def _run(solver: "_Solver", callback: Callable[[int, float, float, int], Any] | None, keep: Keep | None) -> None:
    solver.settle()  # as a state is given before that is done
    while busy := solver.busy():
        solver.look_along()
        first = busy[0][1]
        iterations, stops = first.iterations, False
        solver.sweep()
        if first.iterations > iterations:
            if callback is not None:
                stops = is_true(callback(first.iterations, first.loss, first.measure, solver.count_ended()))
            if keep is not None:
                keep(solver.take_state, stops or first.iterations >= solver.tolerance.max_iterations)
        solver.settle()
        if stops:
            solver.stop()


class _Solver:
    """K lanes, on the device and on the host, and what they have solved."""

    def __init__(
        self, data: Placed, problems: Problems, tolerance: Tolerance, num_lanes: int, state: SolverState | None
    ):
        self.data, self.problems, self.tolerance = data, problems, tolerance
        J, width, C = len(problems.fold), data.rows.shape[1] + 1, data.num_classes
        self.compiled = compile_ahead(data.rows, C, num_lanes)
        self.sizes = sizes_of_blocks(data.rows, C, num_lanes)
        self.eps = float(np.finfo(data.rows.dtype).eps)
        if state is None:
            self.solutions = Solutions(list(problems.starts), *np.zeros((3, J), int))
            self.waiting = 0  # the first of the problems that are not yet taken up
            self.lanes: list[Lane | None] = [self._next() for _ in range(num_lanes)]
            self.age, self.size = 0, -1  # of the blocks: iterations since, and which of the sizes
            lanes = begin(num_lanes, width, C, num_pairs(width, C), data.rows.dtype)
            self._put(lanes, np.zeros_like(lanes.V), None)
            self._load([None if lane is None else lane.start for lane in self.lanes])
            return
        state = copied(state)  # NumPy's arrays are written to
        self.solutions = state.solutions._replace(V=list(state.solutions.V))
        self.waiting, self.age, self.size = int(state.waiting), int(state.age), int(state.size)
        self.lanes = [from_row(*row) for row in zip(state.rows, state.starts, strict=True)]
        self._put(state.lanes, state.trial, state.blocks)

    def _put(self, *state: Any) -> None:
        self.state, self.trial, blocks = put(state, self.data.home)
        self.curvature = Curvature(*self.data.features, blocks)

    def take_state(self) -> SolverState:
        """What another solver of the same problems goes on from."""
        return copied(SolverState(self.state, self.trial, self.curvature.blocks, *self._on_host()))

    def _on_host(self) -> Any:
        solutions = self.solutions._replace(V=np.stack(self.solutions.V))
        return *as_rows(self.lanes, self.solutions.V[0]), self.age, self.size, self.waiting, solutions

    def busy(self) -> list[tuple[int, Lane]]:
        """The lanes with a problem, and their numbers."""
        return [(k, lane) for k, lane in enumerate(self.lanes) if lane is not None]

    def sweep(self) -> None:
        """Read the rows once, and let each lane do what follows from what is found at its trial point."""
        busy, dtype = self.busy(), self.data.rows.dtype
        sums = self._sum(loss_and_gradient, self.trial)
        self._renew_blocks()
        if self.compiled:
            wait(self.compiled)
        gradient, report = assess(self.state, self.trial, sums, self.curvature.Q)
        found = list(zip(*(np.asarray(numbers).tolist() for numbers in report), strict=True))
        accepted, (taken, alpha) = np.zeros(len(self.lanes), bool), np.zeros((2, len(self.lanes)), dtype)
        for k, lane in busy:
            taken[k], following = lane.taken, lane.following
            loss, slope, measure = found[k]
            accepted[k] = lane.accepts(loss, slope, measure, self.eps)
            alpha[k] = following if accepted[k] else lane.taken
        if not accepted.any():
            self._move(alpha)
            return
        self.age += 1
        self.state, self.trial, turned = advance(
            self.state, self.trial, gradient, sums.g, self.curvature, accepted, taken, alpha
        )
        slopes_there = np.asarray(turned).tolist()
        for k, lane in busy:
            lane.done = bool(accepted[k]) and self._is_small(lane)
            if accepted[k]:
                lane.turn(slopes_there[k], is_rough=self.curvature.Q is None)

    def _renew_blocks(self) -> None:
        """Make the blocks anew where the trial points are, once the iterations since the last have paid for those."""
        if not self.sizes or self.age < LEAST:
            return
        following = next_size(self.sizes, self.size, len(self.problems.fold) - self.count_ended())
        cost = self.sizes[following].sweeps / 2 if self.size < 0 else self.sizes[self.size].sweeps
        if self.age < int((PAYBACK if len(self.lanes) == 1 else OF_MANY) * cost):
            return
        is_last = self.waiting == len(self.problems.fold)
        left = (lane.iterations_left(self._goal(lane), self.tolerance.tol) for _, lane in self.busy())
        if is_last and max(left) < SEEM * self.sizes[following].sweeps:
            return
        (vectors, part, _), self.size, self.age = self.sizes[following], following, 0
        counts = np.array([lane is not None for lane in self.lanes], self.data.rows.dtype)
        Q: Any = self.curvature.Q  # there is one where there are sizes
        leading = slice(-vectors - 1, None)
        of_classes = self._sum(class_moments, (self.trial, counts / counts.sum(), Q[:, leading]), part, vectors + 1)
        strengths = np.array([lane.strength for _, lane in self.busy()])
        blocks = invert_blocks(of_classes, np.asarray(self.curvature.a)[leading], strengths)
        self.curvature = self.curvature._replace(blocks=put(blocks, self.data.home))

    def settle(self) -> None:
        """Store and replace the lanes that have ended, and let those that are stuck begin anew where they are."""
        busy, limit = self.busy(), self.tolerance.max_iterations
        status = {k: CONVERGED for k, lane in busy if lane.done}
        looked_at = [(k, lane) for k, lane in busy if not lane.done and (lane.stuck or lane.iterations >= limit)]
        if looked_at:
            errors = np.asarray(self._sum(rounding, self.state.V)).tolist()
            status |= {k: lane.ending(errors[k], limit) for k, lane in looked_at}
        ended = [(k, lane) for k, lane in busy if status.get(k, RUNNING) != RUNNING]
        anew = [(k, lane) for k, lane in looked_at if lane.stuck and status[k] == RUNNING]
        if not ended and not anew:
            return
        V = np.array(self.state.V)
        starts: list[Any] = [None] * len(self.lanes)
        for k, lane in ended:
            self._store(lane, V[k], status[k])
        for k, lane in anew:
            starts[k] = V[k] if math.isfinite(lane.loss) else lane.start
            lane.begin_anew()
        for k, _ in ended:
            self.lanes[k] = following = self._next()
            starts[k] = None if following is None else following.start
        self._load(starts)

    def stop(self) -> None:
        """Store the lanes as they are; what waits stays where it would have begun."""
        V = np.array(self.state.V)
        for k, lane in self.busy():
            self._store(lane, V[k], STOPPED)
        self.solutions.status[self.solutions.status == RUNNING] = STOPPED
        self.lanes = [None] * len(self.lanes)

    def count_ended(self) -> int:
        """How many problems have ended."""
        return int(np.count_nonzero(self.solutions.status))

    def _store(self, lane: Lane, V: Float[np.ndarray, "P1 C"], status: int) -> None:
        self.solutions.V[lane.problem] = V if math.isfinite(lane.loss) else lane.start
        self.solutions.iterations[lane.problem] = lane.iterations
        self.solutions.passes[lane.problem] = lane.passes
        self.solutions.status[lane.problem] = status

    def look_along(self) -> None:
        """Where a line is hard to search, or a step unscaled, the slopes at many points, from one reading of X."""
        busy = [(k, lane, lane.line) for k, lane in self.busy() if lane.line is not None]
        if not any(line.is_hard for _, _, line in busy):
            return
        points = np.ones((len(self.lanes), POINTS), self.data.rows.dtype)
        for k, _, line in busy:
            points[k] = line.points()
        linear, growth = (np.asarray(array, np.float64)[:, None] for array in along(self.state))
        of_loss = np.asarray(self._sum(slopes, (self.state.V, self.state.step, points)), np.float64)
        found = of_loss + linear + points * growth
        alpha = np.zeros(len(self.lanes), points.dtype)
        for k, lane, line in busy:
            lane.passes += 1
            if line.is_hard:
                line.choose(points[k], found[k])
            alpha[k] = line.alpha
        self._move(alpha)

    def _move(self, alpha: Float[np.ndarray, " K"]) -> None:
        """Try each lane that has a line so far along it."""
        chosen = np.array([lane is not None and lane.line is not None for lane in self.lanes])
        self.trial = move(self.state, self.trial, chosen, alpha)

    def _sum(self, of: Callable[..., Any], V: Any, static: Any = None, columns: int = 0) -> Any:
        fold = np.array([0 if lane is None else lane.fold for lane in self.lanes], np.int32)
        return self.data.sum(of, V, fold, static, columns)

    def _strengths(self) -> np.ndarray:
        return np.array([1.0 if lane is None else lane.strength for lane in self.lanes], self.data.rows.dtype)

    def _is_small(self, lane: Lane) -> bool:
        return lane.measure <= self._goal(lane)

    def _goal(self, lane: Lane) -> float:
        return self.tolerance.tol * lane.loss if lane.strength > 0 else self.tolerance.norm**2

    def _load(self, starts: list[Any]) -> None:
        """The lanes that are given a start begin there."""
        chosen = np.array([start is not None for start in starts])
        if not chosen.any():
            return
        V = np.zeros(self.trial.shape, self.trial.dtype)
        for k in np.flatnonzero(chosen):
            V[k] = starts[k]
        present = [self._present(0 if lane is None else lane.problem) for lane in self.lanes]
        strengths = L2(self._strengths())
        self.state, self.trial = load(self.state, self.trial, chosen, V, strengths, np.stack(present))

    def _next(self) -> Lane | None:
        """A lane of the next problem, if there is one, which begins at its start or at the nearest that is solved."""
        number, problems = self.waiting, self.problems
        if number == len(problems.fold):
            return None
        self.waiting += 1
        fold, strength = int(problems.fold[number]), float(problems.penalty.strength[number])
        V, present = problems.starts[number], self._present(number)
        solved = np.flatnonzero(self.solutions.status != RUNNING)
        if len(solved):
            logs = np.log(np.maximum(problems.penalty.strength, np.finfo(float).tiny))
            distance = np.abs(logs[number] - logs[solved]) + (problems.fold[solved] != fold)
            nearest = int(solved[distance.argmin()])
            # A class that this fold leaves out, or that it alone has, is put where it starts.
            V = np.where(present & self._present(nearest), self.solutions.V[nearest], V)
        if present.all():  # a mean of some takes NumPy four times as long
            V = V - V.mean(axis=1, keepdims=True)
        else:
            V = np.where(present, V - V.mean(axis=1, keepdims=True, where=present), V)
        return Lane(number, V, strength, fold, int(problems.iterations[number]))

    def _present(self, number: int) -> Bool[np.ndarray, " C"]:
        """Which classes are not left out of a problem."""
        return self.problems.starts[number][-1] > -ABSENT / 2
