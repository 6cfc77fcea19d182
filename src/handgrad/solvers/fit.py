"""`fit`: one softmax regression, to a certified optimum."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from handgrad import arguments
from handgrad.formulas import Params
from handgrad.progress import share_of_gap, shown
from handgrad.settings import check_callback, show
from handgrad.solvers.certificate import certify
from handgrad.solvers.data import Data, prepare
from handgrad.solvers.driver import Answers, begin_at, is_done, solve_certified
from handgrad.solvers.existence import Verdict, check_affordable, decide
from handgrad.solvers.folds import make_folds
from handgrad.solvers.inference import target_sums
from handgrad.solvers.lanes import CONVERGED, ITERATIONS, PRECISION, STOPPED
from handgrad.solvers.results import Ending, FitResult, describe
from handgrad.solvers.state import FitState, Keep


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
    fit_intercept: bool = True,
    mesh: Any = None,
    state: FitState | None = None,
    callback: Callable[[int, float, float], Any] | None = None,
    progress: bool = False,
) -> FitResult:
    """Minimise F(W, b) = mean cross-entropy + (l2/2)‖W‖², the bias not penalised, to a certified optimum.

    L-BFGS with a Kronecker preconditioner, each iteration one reading of X, until

        gap ≤ tol · F        F − min F ≤ gap = ‖∇_W F(W, b*)‖²/(2·l2) + F(W, b) − F(W, b*)

    with b* the best bias for W: proved in float64 of the very params that are returned, after they have been rounded.
    Features need not be scaled or centred. scikit-learn's C is 1/(l2·N), or 1/(l2·Σ weights).

    A class without weight has no optimum, its bias falling for ever. It is left out: W_c = 0 and b_c = −inf, which is
    probability 0 and what that comes to.

    Args:
      X: data, shape (N, P). Dense: floating, or integers of 8 or 16 bits, which stay as they are stored and are widened
        block by block; the fit computes in the dtype that JAX gives X, float32 at least. Float64 data are centred in
        float64 also where JAX computes in float32. Sparse: SciPy's arrays and matrices of any format, BCOO and BCSR;
        they are never made dense. Sharded by rows over devices, or over processes that all call `fit`: the rows stay
        where they are. Dense data of few rows are fitted by NumPy, for which nothing is compiled. Streamed: a source,
        which begins anew each time it is gone over, an object whose `__iter__` gives blocks, or one with `reset` and
        `next`, which gives None at the end; a block is X (n, P), (X, targets) or (X, targets, weights), of any number
        of rows, and is copied. The rows must be the same in each pass, in one order, or the fit is refused. Each
        iteration is one pass over it, read while what was read before is summed; in memory are a few blocks, and what
        is known row by row. So are memory maps of 64 MB or more, and what `handgrad.data.encode` makes of a table
        that `handgrad.data.stream_table` leaves in its file. Where `jax.distributed` has several processes, what is
        streamed from a source or a map is the rows of its process, with their own targets and weights, and there may be
        none: all call `fit`, and have the answer for the rows of all.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C); None where they come with the blocks.
      l2: the penalty. 0 is allowed; there is no certificate then, and ‖∇F‖ ≤ tol · ‖∇F(0)‖, about the
        features' mean, ends the fit.
      weights: sample weights (N,); the mean becomes Σ w·l / Σ w.
      class_weights: (C,) or {class: weight}, 1 where it has none; the weight of a row is multiplied by its class's.
      params: where to start, of any floating dtype; W = 0 and the shares of the classes if None.
      num_classes: C; if None that of params, of distributions, or the largest label + 1.
      tol: relative gap, see above. float32 reaches 1e-5 on most data, float64 1e-10.
      max_iterations: of L-BFGS.
      fit_intercept: whether there is a bias; without one b is 0, and the features are not centred.
      mesh: a `jax.sharding.Mesh` over whose devices the rows of a dense X on the host are dealt out.
      state: the `state` of an earlier result, to go on where its callback or `max_iterations` has ended it: with the
        same other arguments, `max_iterations` apart, it then ends as one fit would have, in every bit.
      callback: called as callback(iteration, loss, gap) after each iteration; where it returns True the fit ends there,
        with what is certified of that point.
      progress: whether to show a bar with the time that is left, in a notebook, or in a terminal, which needs rich, of
        `handgrad[app]`.

    Returns:
      FitResult; `converged` is whether gap ≤ tol · loss was proved. With l2=0 it is whether a minimum exists, which is
      proved too, and the gradient is small.

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
      >>> class Source:
      ...     def reset(self):
      ...         self.left = [(X[:3], t[:3]), (X[3:], t[3:])]
      ...     def next(self):
      ...         return self.left.pop(0) if self.left else None
      >>> handgrad.fit(Source(), None, l2=0.1).converged
      True
    """
    with shown("fit", progress, callback, share_of_gap(tol)) as watch:
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
            fit_intercept=fit_intercept,
            mesh=mesh,
            state=state,
            callback=watch,
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
    fit_intercept: bool = True,
    mesh: Any = None,
    state: FitState | None = None,
    callback: Callable[[int, float, float], Any] | None = None,
    keep: Keep | None = None,
) -> FitResult:
    """`fit` without its warning; `keep` is that of `solve_certified`."""
    if state is not None and not isinstance(state, FitState):
        raise TypeError(f"fit: state must be the state of a FitResult; got {show(state)}.")
    about = {"fit_intercept": fit_intercept, "mesh": mesh}
    data = prepare("fit", X, targets, weights, class_weights, params, num_classes, **about)
    tol = check_settings("fit", tol, max_iterations, callback)
    l2 = arguments.check_number("fit", "l2", l2)
    if l2 == 0:
        check_affordable("fit", data)
    folds = make_folds("fit", data, data.weights[:, None])
    if params is not None:
        folds = begin_at(data, params, folds, l2)
    l2s, fold = np.full(1, float(l2)), np.zeros(1, int)
    watch = None if callback is None else (lambda *of_lane: callback(*of_lane[:3]))
    last: list[FitState] = []

    def keep_last(take: Callable[[], FitState], may_end: bool) -> None:
        if may_end:
            last[:] = [take()]
        if keep is not None:
            keep(take, may_end)

    settings: dict[str, Any] = {"tol": tol, "max_iterations": max_iterations}
    answers = solve_certified(data, folds, fold, l2s, **settings, callback=watch, keep=keep_last, state=state)
    verdict = None
    if l2 == 0 and answers.status[0] != STOPPED:
        verdict = decide(data, folds, answers.certified.V[0])
        if verdict.V is not None:
            answers = answers._replace(certified=certify(data, verdict.V[None], folds, fold, l2s))
            answers = answers._replace(status=np.where(is_done(answers, l2s, tol), CONVERGED, PRECISION))
    result = as_result(data, answers, 0, float(l2), verdict, **settings)
    return result._replace(state=last[0] if last and answers.status[0] in (STOPPED, ITERATIONS) else None)


def as_result(
    data: Data,
    answers: Answers,
    index: int,
    l2: float,
    verdict: Verdict | None = None,
    *,
    tol: float,
    max_iterations: int,
) -> FitResult:
    """One of the answers as it is returned."""
    W, b, _, *numbers = (field[index] for field in answers.certified)
    loss, gap, excess, norm, _ = map(float, numbers)
    status = int(answers.status[index])
    ending = Ending(status, loss, gap, excess, norm, l2, tol, data.dtype, max_iterations, verdict)
    return FitResult(
        params=Params(*jax.device_put((W, b))),
        loss=loss,
        gap=gap,
        gradient_norm=norm,
        iterations=int(answers.iterations[index]),
        passes=int(answers.passes[index]),
        converged=status == CONVERGED and (verdict is None or verdict.exists is True),
        message=describe(ending),
        l2=l2,
        target_sums=target_sums(data) if l2 == 0 else None,
    )


def check_settings(function: str, tol: float, max_iterations: int, callback: Any = None) -> float:
    """Check what ends a fit. Returns tol."""
    check_callback(function, callback)
    arguments.check_positive_integer(function, "max_iterations", max_iterations)
    return arguments.check_number(function, "tol", tol)
