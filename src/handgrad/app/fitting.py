"""`handgrad fit`: the certified solver, its penalty chosen on rows that are not trained on."""

import contextlib
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from handgrad import processes
from handgrad.app.checking import MAX_CHECKED_ROWS, check_at
from handgrad.app.checkpoints import FIT_STATE, Work, as_fit_state, as_state, at_work
from handgrad.app.choosing import ACCURACY, LOG_LOSS, Choosing, HeldOut, choose, deal
from handgrad.app.progress import interrupt, watching
from handgrad.app.runs import Choice, Run, begin, conclude, tell
from handgrad.app.sampling import part_of
from handgrad.app.screen import Screen
from handgrad.app.tables import as_class_weights, read_again
from handgrad.app.words import in_own_words
from handgrad.data import Part, Split, Table, split_and_scale
from handgrad.data.splitting import VALIDATION
from handgrad.models import Model, probabilities
from handgrad.rows import locate
from handgrad.solvers.fit import fit_in_silence
from handgrad.solvers.held_out import mean_scores, prepare_scores
from handgrad.solvers.results import FitResult
from handgrad.solvers.state import FitState

FOLDS = 5
FEW = 10_000  # rows, of which a validation part would be so small that it chooses badly: folds cost little there
LEAST_VALIDATION = 20
TOL, MAX_ITERATIONS = 1e-5, 2000


def fit(
    *,
    screen: Screen,
    reading: dict[str, Any],
    data: pathlib.Path | None,
    l2: float | None,
    folds: int | None,
    scoring: str,
    class_weight: str | None,
    seed: int,
    out: pathlib.Path | None,
    overwrite: bool,
    stream: bool,
    checkpoint_every: int | None,
    begun: pathlib.Path | None,
) -> int:
    """See `handgrad.app.program`."""
    if l2 is not None and (folds is not None or scoring != LOG_LOSS):
        raise ValueError(f"--l2 is a penalty, and --folds and --scoring choose one; got --l2 {l2:g} and one of these.")
    settings = {"data": str(data or "digits"), "class_weight": class_weight, "seed": seed}
    if l2 is None:
        settings |= {"scoring": scoring, "folds": folds}
    with at_work(screen, out, overwrite=overwrite, every=checkpoint_every, begun=begun) as work:
        table = read_again(screen, data, reading, work.known(), stream=stream)
        if table.file is not None:
            settings |= {"processes": processes.count()} if processes.is_shared() else {}
            settings |= {} if table.file.is_held else {"stream": True}
            if l2 is None and scoring not in (LOG_LOSS, ACCURACY):
                what = "--distributed" if table.file.is_held else "--stream"
                raise ValueError(f"--scoring must be {LOG_LOSS} or {ACCURACY} with {what}; got {scoring!r}.")
        work.require_same(table)
        run, ended = _fit(screen, settings, table, l2, work)
        with work.written() as folder:
            concluded = conclude(screen, run, folder)
        status = tell(screen, concluded, work.out)
    if ended:  # what is done is kept, and who asked for the end is told of it as ever
        interrupt()
    return status


def _fit(screen: Screen, settings: dict[str, Any], table: Table, l2: float | None, work: Work) -> tuple[Run, bool]:
    start, choice, ended = time.perf_counter(), None, False
    choosing, chosen, state = _place(work)
    if l2 is None:
        l2, choice, ended, chosen_by = _choose_penalty(screen, settings, table, work, choosing, chosen)
        split = chosen_by or split_and_scale(table, seed=settings["seed"])
    else:
        split = split_and_scale(table, seed=settings["seed"])
        begin(screen, settings["data"], table, split)
    weights = as_class_weights(settings["class_weight"], split.train, table.class_names)
    chosen = None if choice is None else (choice.l2s, choice.scores, choice.best)
    num_classes = len(table.class_names)
    fitted, stopped = fit_part(screen, split.train, num_classes, l2, work, chosen, class_weights=weights, state=state)
    seconds = time.perf_counter() - start
    checked = split.train
    if table.file is not None:
        checked = part_of(table, split.encoding, split.rows.train[:: math.ceil(len(checked.labels) / MAX_CHECKED_ROWS)])
    checked = _of_fitted_classes(fitted, checked)
    return run_of("fit", settings, table, split, fitted, choice, seconds, checked), ended or stopped


def run_of(
    command: str,
    settings: dict[str, Any],
    table: Table,
    split: Split,
    fitted: FitResult,
    choice: Choice | None,
    seconds: float,
    checked: Part,
) -> Run:
    """What a certified fit came to, its gradient checked on some rows."""
    fitted = fitted._replace(message=in_own_words(fitted.message, table.class_names))
    return Run(
        command=command,
        settings=settings,
        table=table,
        split=split,
        model=Model(fitted.params, split.encoding, table.class_names, table.target),
        Y=probabilities(fitted.params, split.test.X),
        train_loss=mean_loss(fitted, split.train),
        seconds=seconds,
        checks=(check_at(fitted.params, checked),),
        fitted=fitted,
        choice=choice,
    )


def _place(work: Work) -> tuple[Choosing | None, tuple[Any, Any, Any] | None, FitState | None]:
    """Where a run goes on: amid its choice, or with what was chosen amid the fit."""
    saved = work.take_saved()
    if saved is None:
        return None, None, None
    if not any(name.startswith("['fitting']") for name in saved):
        like = Choosing(np.zeros((0, 2)), 0, 0, FIT_STATE)
        found = as_state({"choosing": like}, saved)["choosing"]
        return found._replace(fits=as_fit_state(found.fits)), None, None
    found = as_state({"fitting": FIT_STATE, "chosen": (..., ..., ...)}, saved)
    return None, None if found["chosen"][0] is ... else found["chosen"], as_fit_state(found["fitting"])


def _choose_penalty(
    screen: Screen,
    settings: dict[str, Any],
    table: Table,
    work: Work,
    begun: Choosing | None,
    chosen: tuple[Any, Any, Any] | None,
) -> tuple[float, Choice | None, bool, Split | None]:
    """The penalty and how it was chosen, whether that was ended by Ctrl-C, and the split where all but the test rows of
    it are trained on; without it, they are to be encoded anew, and what was encoded here is gone by then.
    """
    settings["folds"] = _count_folds(table, settings["folds"])
    held_out, split = _hold_out(screen, settings, table)
    num_rows = len(split.rows.train) + len(split.rows.validation)
    choice, ended = None, False
    if held_out is not None and chosen is not None:
        choice = Choice(*chosen[:2], settings["scoring"], held_out.name, int(chosen[2]))
    elif held_out is not None:
        weights = as_class_weights(settings["class_weight"], held_out.train, table.class_names)
        how = {"scoring": settings["scoring"], "class_weights": weights, "begun": begun}
        choice, ended = choose_watched(screen, held_out, table.class_names, work, **how)
    if choice is None:
        why = "no fit of the path has converged" if held_out else "there are too few rows to choose a penalty by"
        screen.note([f"{why}; l2 is 1/{num_rows}"])
    l2 = 1 / num_rows if choice is None else float(choice.l2s[choice.best])
    return l2, choice, ended, None if len(split.rows.validation) else split


def choose_watched(
    screen: Screen, held_out: HeldOut, class_names: Sequence[Any], work: Work, **how: Any
) -> tuple[Choice | None, bool]:
    """`choose`, and whether it was ended by Ctrl-C, which ends all where there is nothing to keep."""
    with _warnings_as_notes(screen, class_names), watching(screen, "choosing the penalty", work.signals) as watch:

        def keep(take: Callable[[], Choosing], _: bool) -> None:
            work.count(lambda: {"choosing": take()}, watch)

        choice = choose(held_out, len(class_names), watch=watch, keep=keep, **how)
    if choice is None and watch.asked:
        interrupt()
    return choice, watch.asked


def fit_part(
    screen: Screen,
    part: Part,
    num_classes: int,
    l2: float,
    work: Work,
    chosen: tuple[Any, Any, Any] | None = None,
    *,
    class_weights: np.ndarray | None = None,
    state: FitState | None = None,
) -> tuple[FitResult, bool]:
    """A certified fit of some rows, and whether it was ended by Ctrl-C.

    A checkpoint has the path, the scores and which is best that have been `chosen`; the fit goes on from a `state`.
    """
    with watching(screen, "fitting", work.signals) as watch:

        def keep(take: Callable[[], FitState], _: bool) -> None:
            work.count(lambda: {"fitting": take(), "chosen": chosen}, watch)

        fitted = fit_in_silence(
            part.X,
            part.labels,
            l2=l2,
            weights=part.weights,
            class_weights=class_weights,
            params=None,
            num_classes=num_classes,
            tol=TOL,
            max_iterations=MAX_ITERATIONS,
            state=state,
            callback=watch.of_gap(TOL),
            keep=keep,
        )
    return fitted, watch.asked


def mean_loss(fitted: FitResult, part: Part) -> float:
    """The mean cross-entropy of rows, weighted as they are, without the penalty, in float64."""
    W, b = map(np.asarray, fitted.params)
    weights = np.ones((len(part.labels), 1)) if part.weights is None else part.weights[:, None]
    if not weights.any():
        return 0.0
    if weights[~np.isfinite(b[0])[part.labels]].any():  # of a class that is left out
        return math.inf
    parts = locate("fit", part.X)
    scored = prepare_scores("fit", parts, parts.of_rows(part.labels), parts.of_rows(weights), np.isfinite(b))
    return float(mean_scores(scored, [fitted.params._replace(W=W[None], b=b[None])])[0][0])


def _of_fitted_classes(fitted: FitResult, part: Part) -> Part:
    """The rows without those of a class that is left out, since it weighs nothing: their loss is infinite."""
    known = np.isfinite(np.asarray(fitted.params.b)[0])[part.labels]
    if known.all():
        return part
    rows = np.flatnonzero(known)
    return Part(part.X[rows], part.labels[rows], None if part.weights is None else part.weights[rows])


# --- What a penalty is chosen by --------------------------------------------------------------------------------------


def _count_folds(table: Table, folds: int | None) -> int:
    """How many folds there are, 0 for a validation part."""
    if table.times is not None:
        if folds:
            raise ValueError(
                f"--folds deals the rows whatever their --time, and later ones would be trained on; got {folds}. Leave "
                "it out: the penalty is then chosen by the latest rows before those that test."
            )
        return 0
    if folds == 1:
        raise ValueError("--folds must be 2 or more, or 0 for a validation part; got 1.")
    if folds is None:
        return FOLDS if table.num_rows < FEW else 0
    return folds


def _hold_out(screen: Screen, settings: dict[str, Any], table: Table) -> tuple[HeldOut | None, Split]:
    """The rows that a penalty is judged by, None where there are too few; and the split of which they are."""
    if not settings["folds"]:
        split = split_and_scale(table, validation=VALIDATION, seed=settings["seed"])
        rows = len(split.rows.validation)
        if table.times is not None or rows >= LEAST_VALIDATION:
            begin(screen, settings["data"], table, split)
            return HeldOut(split.train, None, split.validation, "the validation rows"), split
        settings["folds"] = FOLDS
        screen.note([f"a validation part of {rows} rows would choose badly; {FOLDS} folds choose"])
    split = split_and_scale(table, seed=settings["seed"])
    begin(screen, settings["data"], table, split)
    held_out = deal(table, split.rows.train, min(settings["folds"], len(split.rows.train)), settings["seed"])
    settings["folds"] = count = held_out.shape[1]
    return HeldOut(split.train, held_out, None, f"{count} folds") if count > 1 else None, split


@contextlib.contextmanager
def _warnings_as_notes(screen: Screen, class_names: Sequence[Any]) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        yield
    ours = [each for each in caught if issubclass(each.category, RuntimeWarning)]
    said = (str(each.message).partition(": ")[2] for each in ours)
    screen.note(dict.fromkeys(in_own_words(each, class_names) for each in said))
    for other in caught:
        if other not in ours:
            warnings.showwarning(other.message, other.category, other.filename, other.lineno)
