"""The penalty chosen on rows that are not trained on, along a path that goes on until the best is inside it."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from handgrad.app.runs import Choice
from handgrad.data import Part, Table, split_rows, table_keys
from handgrad.formulas import Params
from handgrad.rows import Parts, locate
from handgrad.solvers.data import Data, prepare
from handgrad.solvers.folds import Folds, make_folds
from handgrad.solvers.held_out import mean_scores, prepare_scores
from handgrad.solvers.path import solve_folds
from handgrad.solvers.state import FitState, Keep

# Half a decade apart. The path begins with the first five, and goes on by two decades where the best is at its end.
FIRST = 10.0 ** -np.arange(1.0, 3.1, 0.5)
STEPS = 4
LEAST, MOST = 1e-8, 1e3
TOL, MAX_ITERATIONS = 1e-4, 2000  # a choice needs no more
LOG_LOSS, ACCURACY = "log-loss", "accuracy"  # which need no scikit-learn


class HeldOut(NamedTuple):
    """What is trained on, and what a penalty is judged by: other rows, or one's own in turn.

    Attributes:
      train: the rows to train on.
      rows: where these themselves are held out in turn, for each of F folds whether it holds a row out (N, F).
      part: the other rows; None with folds.
      name: what is said of it.
    """

    train: Part
    rows: np.ndarray | None
    part: Part | None
    name: str


class Choosing(NamedTuple):
    """Where a choice is, for `choose` to go on from.

    Attributes:
      found: penalties and their scores (n, 2).
      wanted: the penalties that are being tried.
      starts: where their fits begin, of each fold.
      fits: where these are.
    """

    found: Any
    wanted: Any
    starts: Any
    fits: FitState


def deal(table: Table, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which of some rows each of F folds holds out (N, F), each fold a test part of `split_rows`.

    There are `count` folds, or fewer where the rows are so few; one alone is no choice.
    """
    assert table.labels is not None
    keys, fold = table_keys(table)[rows], np.full(len(rows), count - 1)
    left = np.arange(len(rows))
    for number in range(count - 1):
        try:
            parts = split_rows(
                table.labels[rows][left],
                keys[left],
                validation=0,
                test=1 / (count - number),
                seed=seed,
                groups=None if table.groups is None else table.groups[rows][left],
            )
        except ValueError:  # what is left has one row, or group, of each class: the last fold
            break
        fold[left[parts.test]] = number
        left = left[parts.train]
    return fold[:, None] == np.unique(fold)


def choose(
    held_out: HeldOut,
    num_classes: int,
    *,
    scoring: str = LOG_LOSS,
    class_weights: np.ndarray | None = None,
    watch: Callable[[float, str], bool] = lambda *_: False,
    l2s: np.ndarray = FIRST,
    following: Callable[[np.ndarray, int, np.ndarray], np.ndarray] | None = None,
    keep: Keep | None = None,
    begun: Choosing | None = None,
) -> Choice | None:
    """The best of a path of penalties; None where nothing was found before the watch ended it.

    Args:
      held_out: the rows.
      num_classes: C.
      scoring: by what they are judged: "log-loss", or one of scikit-learn's scores.
      class_weights: (C,), for the training alone.
      watch: called with the share of what is being done that is done, and words for it; True ends it.
      l2s: where the path begins, the largest penalty first.
      following: given the path so far, the index of the best and the penalties tried last, those to try next, none of
        them at the end; if None the path goes on where the best is at its end, as far as 1e-8 and 1e3.
      keep: called as the solver goes on, with what gives the `Choosing`.
      begun: what to go on from.

    Raises:
      ValueError: no held-out row has weight; a score that there is not, or that is not defined here.

    Warns:
      RuntimeWarning: rows and folds that are left out of the loss.
    """
    X, labels, weights = held_out.train
    data = prepare("fit", X, labels, weights, class_weights, None, num_classes)
    if held_out.rows is None:
        folds = make_folds("fit", data, data.weights[:, None])
    else:
        folds = make_folds("fit", data, data.weights[:, None] * ~data.parts.of_rows(held_out.rows))
    score = _scorer(held_out, data, folds, scoring)
    found: dict[float, float] = {}
    wanted = np.asarray(l2s, np.float64)
    ended, state = False, None
    if begun is not None:
        found, wanted, state = dict(begun.found.tolist()), begun.wanted, begun.fits
        folds = folds._replace(starts=begun.starts)
    while len(wanted) and not ended:
        place = Choosing(np.array(list(found.items())).reshape(-1, 2), wanted, folds.starts, state)  # type: ignore[arg-type]
        hook = None if keep is None else functools.partial(_keep, keep, place)
        ended, V = _try(data, folds, wanted, score, found, watch, keep=hook, state=state)
        state = None
        if not found:
            return None
        path = np.array(sorted(found, reverse=True))
        scores = np.array([found[l2] for l2 in path])
        best = int(np.argmin(scores) if scoring == LOG_LOSS else np.argmax(scores))
        last, wanted = wanted, (following or widened)(path, best, wanted)
        if len(wanted):
            folds = folds._replace(starts=V[:, -1 if wanted[0] < last[0] else 0])
    return Choice(path, scores, scoring, held_out.name, best, ended)


def _keep(keep: Keep, place: Choosing, take: Callable[[], FitState], may_end: bool) -> None:
    """Give the place of a choice, with that of its fits."""
    keep(lambda: place._replace(fits=take()), may_end)


def widened(path: np.ndarray, best: int, last: np.ndarray) -> np.ndarray:
    """The penalties to go on with, none where the best is inside the path, or where it has come to its bounds."""
    steps = 10.0 ** (0.5 * np.arange(1, STEPS + 1))
    # Not where the last of them was not found, the solver having come to its end there.
    if best == len(path) - 1 and np.isclose(path[-1], last.min()):
        further = path[-1] / steps
        return further[further >= LEAST * 0.99]
    if best == 0 and np.isclose(path[0], last.max()):
        further = path[0] * steps[::-1]
        return further[further <= MOST * 1.01]
    return path[:0]


def _try(
    data: Data,
    folds: Folds,
    l2s: np.ndarray,
    score: Callable[[list[Params]], np.ndarray],
    found: dict[float, float],
    watch: Callable[[float, str], bool],
    **place: Any,
) -> tuple[bool, np.ndarray]:
    """Add the scores of those where every fold has converged; whether it was ended, and V of every fold and penalty."""
    ended = False

    def count(done: int, fits: int) -> bool:
        nonlocal ended
        what = f"{done:,} of {fits:,} fits with l2 from {l2s[0]:.2g} to {l2s[-1]:.2g}"
        ended = watch(done / fits, what)
        return ended

    num_folds = len(folds.present)
    answers = solve_folds(data, folds, np.broadcast_to(l2s, (num_folds, len(l2s))), TOL, MAX_ITERATIONS, count, **place)
    W, b, V = (array.reshape(num_folds, len(l2s), *array.shape[1:]) for array in answers.certified[:3])
    kept = answers.converged.reshape(num_folds, -1).all(axis=0)
    if kept.any():
        scores = score([Params(W=W[fold, kept], b=b[fold, kept]) for fold in range(num_folds)])
        found.update(zip(l2s[kept].tolist(), scores.tolist(), strict=True))
    return ended, V


def _scorer(held_out: HeldOut, data: Data, folds: Folds, scoring: str) -> Callable[[list[Params]], np.ndarray]:
    """What gives the score of each of J penalties, from the params (J, P, C) of each fold."""
    tested = held_out.part or held_out.train
    rows = held_out.rows if held_out.rows is not None else np.ones((len(tested.labels), 1), bool)
    if scoring not in (LOG_LOSS, ACCURACY):
        return _scikit_scorer(tested, rows, folds, scoring)
    weights = np.ones(len(tested.labels)) if tested.weights is None else tested.weights
    parts: Parts = data.parts if held_out.part is None else locate("fit", tested.X)
    labels, counted = parts.of_rows(tested.labels), parts.of_rows(weights[:, None] * rows)
    scored = prepare_scores("fit", parts, labels, counted, folds.present)
    return lambda fitted: mean_scores(scored, fitted)[scoring == ACCURACY]


def _scikit_scorer(tested: Part, rows: np.ndarray, folds: Folds, scoring: str) -> Any:
    """By scikit-learn, of which the classes are known by their numbers."""
    try:
        from sklearn.metrics import get_scorer_names

        from handgrad.estimator import SoftmaxRegression
        from handgrad.scikit import scorer_means
    except ModuleNotFoundError:
        raise ValueError(
            f"--scoring must be {LOG_LOSS} or {ACCURACY} where scikit-learn is not installed; got {scoring!r}. "
            "pip install 'handgrad[sklearn]'"
        ) from None
    if scoring not in get_scorer_names():
        raise ValueError(f"--scoring must be {LOG_LOSS} or one of scikit-learn's scores; got {scoring!r}.")

    def model(W: np.ndarray, b: np.ndarray, present: np.ndarray) -> Any:
        found = SoftmaxRegression()
        found.classes_, found.n_features_in_ = np.flatnonzero(present), W.shape[0]
        found._set_coefficients(W[:, present], b[:, present])
        return found

    def score(fitted: list[Params]) -> np.ndarray:
        models = [
            [model(W, b, present) for W, b in zip(*params, strict=True)]
            for params, present in zip(fitted, folds.present, strict=True)
        ]
        tests = [np.flatnonzero(of_fold) for of_fold in rows.T]
        given = {} if tested.weights is None else {"sample_weight": tested.weights}
        return scorer_means(scoring, models, tests, tested.X, tested.labels, given)

    return score
