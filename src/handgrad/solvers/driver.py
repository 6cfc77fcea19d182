"""From problems to parameters that are certified: the solver, and what is done with its answers."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from handgrad.formulas import Params
from handgrad.shapes import Bool, Float, Int
from handgrad.solvers.certificate import Certified, certify
from handgrad.solvers.data import Data
from handgrad.solvers.folds import Folds, start_at
from handgrad.solvers.lanes import ABSENT, CONVERGED, ITERATIONS, PRECISION, STOPPED, Problems
from handgrad.solvers.penalty import L2
from handgrad.solvers.placed import Placed, compile_ahead, place
from handgrad.solvers.state import NUMBERS, FitState, Keep, SolverState, copied
from handgrad.solvers.sums import loss_and_gradient
from handgrad.solvers.sweeps import Tolerance, solve

# Lanes beyond this many columns of logits do not make a product more efficient, and a lane that waits for a slower one
# costs more: 8 lanes of 10 classes cost 2.5 times one.
COLUMNS = 80
ATTEMPTS = 4
MARGIN = 0.8  # of tol is what the program goes to: of rounded parameters the proof finds a little more than it sees
LEAST, MOST = 1 / 16, 0.7  # by how much tol is made smaller where the proof finds more
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
    callback: Callable[[int, float, float, int], Any] | None = None,
    keep: Keep | None = None,
    state: FitState | None = None,
) -> Answers:
    """Solve J problems until what is returned is proved to be within tol, or nothing more can be done.

    The proof, in float64 and of parameters that have been rounded, may find more than the program, in its own dtype,
    could see. Then the problem is taken up again where it was left, with a smaller tol.

    Args:
      data: as `prepare` gives it.
      folds: the weights of the rows, the classes that there are, and where to start.
      fold: which fold each problem belongs to; problems in the order in which they are to be taken up.
      l2: the penalties.
      tol, max_iterations: as in `fit`.
      callback: called as callback(iteration, loss, gap, ended), the last being how many problems have ended.
      keep: called after each iteration with what gives the `FitState`, and whether the solving may end there.
      state: to go on from, of the same problems and settings.
    """
    # The rows' own devices are what counts, whatever mesh the caller has set.
    with jax.set_mesh(Mesh(np.empty((), object), ())):
        return _solve_certified(data, folds, fold, l2, tol, max_iterations, callback, keep, state)


def _solve_certified(
    data: Data,
    folds: Folds,
    fold: np.ndarray,
    l2: np.ndarray,
    tol: float,
    max_iterations: int,
    callback: Callable[[int, float, float, int], Any] | None,
    keep: Keep | None,
    state: FitState | None,
) -> Answers:
    num_lanes = max(1, min(len(l2), COLUMNS // data.num_classes))
    compile_ahead(data.rows, data.num_classes, num_lanes)
    placed = place(data.rows, data.targets, folds.weights, data.num_classes, num_lanes)
    # Both sides of l2' = l2·s² may be beyond the dtype: the solver then works without a penalty, or with a huge one.
    limits = np.finfo(data.dtype)
    strength = np.minimum(l2 * data.scale**2, float(limits.max)).astype(data.dtype).astype(np.float64)
    strength[strength < limits.tiny] = 0
    starts = _within(folds.starts, folds.present, data.dtype)
    norms = np.zeros(len(l2))
    for f in np.unique(fold[strength == 0]).tolist():
        at_zero = np.where(folds.present[f], 0, -ABSENT) * np.append(np.zeros(data.num_features), 1)[:, None]
        norms[fold == f] = _gradient_norm(placed, at_zero, f)
    run = functools.partial(_solve, data, folds, placed, num_lanes=num_lanes, l2=l2, strength=strength)
    attempt, goal, which, answers, solver = FitState(0, MARGIN * tol, np.arange(len(l2)), None, None)
    if state is not None:
        attempt, goal, which, answers, solver = _check_state(state, data, strength, num_lanes)
    while True:
        begins = starts[fold[which]], np.zeros_like(which)
        if answers is not None:
            V = _within(answers.certified.V[which], folds.present[fold[which]], data.dtype)
            begins = V, answers.iterations[which]
        new = run(
            which,
            fold[which],
            begins[0],
            norms[which],
            begins[1],
            Tolerance(goal, 0.0, max_iterations),
            callback=None if callback is None else functools.partial(_count, callback, len(l2) - len(which)),
            keep=None
            if keep is None
            else functools.partial(_keep, keep, FitState(attempt, goal, which, answers, None)),
            state=solver,
        )
        answers, solver = new if answers is None else _merged(answers, which, new), None
        done = is_done(answers, l2, tol)
        attempt += 1
        which = np.flatnonzero(~done & answers.converged & (answers.iterations < max_iterations))
        if attempt == ATTEMPTS or not len(which) or (answers.status == STOPPED).any():
            break
        missed = float(np.max(how_far(answers, l2, tol)[which]))
        goal *= min(max(MARGIN / missed, LEAST), MOST)
    unproven = np.where(answers.converged, PRECISION, answers.status)
    return answers._replace(status=np.where(done, CONVERGED, unproven))


def _merged(answers: Answers, which: np.ndarray, new: Answers) -> Answers:
    """The answers, with those of some problems anew."""
    new = new._replace(passes=new.passes + answers.passes[which])
    answers = copied(answers)  # those before may be in a state
    for old, newer in zip(jax.tree.leaves(answers), jax.tree.leaves(new), strict=True):
        old[which] = newer
    return answers


def _keep(keep: Keep, state: FitState, take: Callable[[], SolverState], may_end: bool) -> None:
    """Give the state of an attempt, with that of its solver."""
    keep(lambda: state._replace(solver=take()), may_end)


def _check_state(state: FitState, data: Data, strength: np.ndarray, num_lanes: int) -> FitState:
    """A state of these very problems, which has come from a fit, perhaps by way of a file."""
    solver, required = state.solver, (num_lanes, data.num_features + 1, data.num_classes)
    rows = solver.rows[~np.isnan(solver.rows[:, 0])]
    found = solver.trial.shape, solver.trial.dtype
    if found != (required, data.dtype) or len(solver.solutions.status) != len(state.which):
        raise ValueError(
            f"fit: state must come from a fit of the same data, {data.dtype} of shape {required} with the bias; got "
            f"{found[1]} of shape {found[0]}. Leave it out to start anew."
        )
    if solver.rows.shape[1] != NUMBERS:
        raise ValueError(
            "fit: state must come from this version of handgrad; got another's. Pass params to start from."
        )
    if not np.array_equal(rows[:, 1], strength[state.which][rows[:, 0].astype(int)]):
        raise ValueError("fit: state must come from a fit with the same l2; got another's. Pass params to start from.")
    return state._replace(attempt=int(state.attempt), tol=float(state.tol))


def _count(callback: Callable[..., Any], before: int, iteration: int, loss: float, gap: float, ended: int) -> Any:
    """What the callback answers, told also of those that have ended before."""
    return callback(iteration, loss, gap, before + ended)


def _gradient_norm(data: Placed, V: Float[np.ndarray, "P1 C"], fold: int) -> float:
    """‖∇‖ of the mean loss at V, over W and b."""
    sums = data.sum(loss_and_gradient, V[None].astype(data.rows.dtype), np.full(1, fold, np.int32))
    return float(np.linalg.norm(np.asarray(sums.gradient, np.float64)))


def _within(V: Float[np.ndarray, "J P1 C"], present: Bool[np.ndarray, "J C"], dtype: np.dtype) -> np.ndarray:
    """Starts in the solver's dtype; −ABSENT is the bias of a class that is left out, and no other's."""
    starts = np.array(V, dtype)
    starts[:, -1] = np.where(present, np.maximum(starts[:, -1], -ABSENT / 4), -ABSENT)
    return starts


def is_done(answers: Answers, l2: Float[np.ndarray, " J"], tol: float) -> Bool[np.ndarray, " J"]:
    """Whether the proof is of as much as was asked: the gap, or without a penalty the gradient's norm."""
    return how_far(answers, l2, tol) <= 1


def how_far(answers: Answers, l2: Float[np.ndarray, " J"], tol: float) -> Float[np.ndarray, " J"]:
    """What was proved over what was asked, of each."""
    certified = answers.certified
    found = np.where(l2 > 0, certified.gap, certified.solver_norm)
    asked = np.where(l2 > 0, tol * certified.loss, np.maximum(tol * answers.norm_at_zero, SMALLEST_NORM))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(found <= asked, np.minimum(found, 1), found / asked)


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
    placed: Placed,
    which: np.ndarray,
    fold: np.ndarray,
    starts: np.ndarray,
    norms: np.ndarray,
    iterations: np.ndarray,
    goal: Tolerance,
    *,
    num_lanes: int,
    l2: np.ndarray,
    strength: np.ndarray,
    callback: Any,
    keep: Keep | None,
    state: SolverState | None,
) -> Answers:
    """Solve some of the problems, and certify what is found."""
    problems = Problems(L2(strength[which]), fold, starts, iterations)
    # Without a penalty the gradient's norm ends a lane, of all problems the least.
    if (strength[which] == 0).any():
        goal = goal._replace(norm=goal.tol * float(norms[strength[which] == 0].min()))
    solutions = solve(placed, problems, goal, num_lanes=num_lanes, callback=callback, keep=keep, state=state)
    V = np.stack(solutions.V).astype(np.float64)
    # Numbers that have left the dtype's range say nothing: what is returned then is the start.
    lost = ~np.isfinite(V).all(axis=(1, 2))
    V[lost] = folds.starts[fold[lost]]
    broken_off = np.isin(solutions.status, (ITERATIONS, STOPPED))
    certified = certify(data, V, folds, fold, l2[which], broken_off=broken_off)
    return Answers(certified, norms, solutions.iterations, solutions.passes, solutions.status)
