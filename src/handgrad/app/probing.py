"""`handgrad probe`: linear probes of embeddings, by the protocols that people publish.

    dino   C in 10^linspace(−6, 5, 45), by accuracy
    clip   1/C from 1e-6 to 1e6 in eighths of a decade, by accuracy, searched: from every second decade the interval
           about the best is halved until it is an eighth
    path   the path of `handgrad fit`, by log-loss

Each chooses on a tenth of the rows to train on, and fits all of these at the C that was best: at the same C, which
counts the sum of the losses, and not at the same l2, which counts their mean. All take features as they are.

References: `dinov2/eval/log_regression.py` in facebookresearch/dinov2, and the same of dinov3: C_POWER_RANGE; Radford
et al., *Learning Transferable Visual Models From Natural Language Supervision* (2021), appendix A.3.
"""

import contextlib
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from handgrad.app.checkpoints import Work
from handgrad.app.choosing import ACCURACY, FIRST, LOG_LOSS, HeldOut
from handgrad.app.embeddings import read_embeddings
from handgrad.app.fitting import choose_watched, fit_part, run_of
from handgrad.app.runs import Run, begin, conclude, tell
from handgrad.app.screen import Screen
from handgrad.app.translating import Penalty, translate
from handgrad.data import Encoding, Part, Split, Table, encode, fit_encoding, split_rows, table_keys
from handgrad.data.splitting import TEST, VALIDATION, Parts, describe_gaps
from handgrad.files import new_run
from handgrad.models.saving import plain_encoding

STEPS_A_DECADE = 8


class Preset(NamedTuple):
    """A protocol: the values of C to begin with, descending l2, those to go on with, and what the best is judged by."""

    Cs: np.ndarray | None
    following: Callable[[np.ndarray, int, np.ndarray], np.ndarray] | None
    scoring: str


def nothing_more(path: np.ndarray, _: int, __: np.ndarray) -> np.ndarray:
    """The path is all that is tried."""
    return path[:0]


def halved(path: np.ndarray, best: int, _: np.ndarray) -> np.ndarray:
    """The middles of the intervals on both sides of the best, until they are an eighth of a decade."""
    logs = np.log10(path)
    beside = [logs[i] for i in (best - 1, best + 1) if 0 <= i < len(logs)]
    wanted = [(logs[best] + other) / 2 for other in beside if abs(logs[best] - other) > 1.01 / STEPS_A_DECADE]
    return 10.0 ** np.array(sorted(wanted, reverse=True))


PRESETS = {
    "dino": Preset(10.0 ** np.linspace(-6, 5, 45), nothing_more, ACCURACY),
    "clip": Preset(10.0 ** np.arange(-6.0, 7.0, 2.0), halved, ACCURACY),
    "path": Preset(None, None, LOG_LOSS),
}


def probe(
    *,
    screen: Screen,
    features: pathlib.Path,
    labels: str,
    test_features: pathlib.Path | None,
    test_labels: str | None,
    name: str | None,
    preset: str,
    l2: float | None,
    standardize: bool,
    shows_translation: bool,
    seed: int,
    out: pathlib.Path | None,
    overwrite: bool,
) -> int:
    """See `handgrad.app.program`."""
    if preset not in PRESETS:
        raise ValueError(f"--preset must be one of {', '.join(PRESETS)}; got {preset!r}.")
    if (test_features is None) != (test_labels is None):
        raise ValueError("--test-features and --test-labels go together; got one of them.")
    settings: dict[str, Any] = {"data": str(features), "preset": preset, "standardize": standardize, "seed": seed}
    if l2 is not None:
        settings["preset"] = None
    if test_features is not None:
        settings["test_data"] = str(test_features)
    with contextlib.ExitStack() as stack:
        folder = None if out is None else stack.enter_context(new_run(out, overwrite=overwrite))
        table, num_train = read_embeddings(features, labels, test_features, test_labels, name)
        split = _split(table, num_train, standardize, seed)
        begin(screen, settings["data"], table, split)
        run, ended = _probe(screen, settings, table, split, l2)
        if shows_translation:
            settings["translation"] = [each._asdict() for each in _translation(run)]
        concluded = conclude(screen, run, folder)
    status = tell(screen, concluded, out)
    if shows_translation:
        _say_translation(screen, run)
    if ended:
        raise KeyboardInterrupt
    return status


def _probe(screen: Screen, settings: dict[str, Any], table: Table, split: Split, l2: float | None) -> tuple[Run, bool]:
    start, choice, ended = time.perf_counter(), None, False
    num_classes, num_rows = len(table.class_names), len(split.rows.train)
    if l2 is None:
        preset = PRESETS[settings["preset"]]
        held_out = _hold_out(table, split, settings["seed"])
        size = len(held_out.train.labels)
        k = 2 if num_classes == 2 else 1
        l2s = FIRST if preset.Cs is None else np.sort(k / (preset.Cs * size))[::-1]
        choice, ended = choose_watched(
            screen, held_out, table.class_names, Work(), scoring=preset.scoring, l2s=l2s, following=preset.following
        )
        if choice is None:
            raise ValueError("probe: no fit of the path has converged. Pass --standardize, or a penalty by --l2.")
        l2 = float(choice.l2s[choice.best]) * size / num_rows  # the same C
    fitted, stopped = fit_part(screen, split.train, num_classes, l2, Work())
    seconds = time.perf_counter() - start
    checked = _in_float32(split.train)
    return run_of("probe", settings, table, split, fitted, choice, seconds, checked), ended or stopped


def _split(table: Table, num_train: int | None, standardize: bool, seed: int) -> Split:
    """The rows of the file to train on and those that test; features stay in the dtype that they are stored in."""
    assert table.labels is not None
    if num_train is None:
        rows = split_rows(table.labels, table_keys(table), validation=0, test=TEST, seed=seed)
        parts = (table.X[rows.train], table.X[rows.test])
    else:
        everything = np.arange(table.num_rows)
        rows = Parts(everything[:num_train], everything[:0], everything[num_train:])
        parts = (table.X[:num_train], table.X[num_train:])
    encoding: Encoding = plain_encoding(table.X.shape[1], None)
    if standardize:
        encoding = fit_encoding(table._replace(image_shape=None), rows.train)
        parts = tuple(encode(encoding, table._replace(X=X)).X for X in parts)
    train, test = (Part(X, table.labels[own], None) for X, own in zip(parts, (rows.train, rows.test), strict=True))
    notes = describe_gaps(table.labels, rows, table.class_names)
    return Split(encoding, rows, train, Part(train.X[:0], train.labels[:0], None), test, tuple(notes))


def _hold_out(table: Table, split: Split, seed: int) -> HeldOut:
    """A tenth of the rows to train on, to choose by."""
    X, labels, _ = split.train
    keys = table_keys(table)[split.rows.train]
    own = split_rows(labels, keys, validation=0, test=VALIDATION, seed=seed)
    train, held = (Part(X[rows], labels[rows], None) for rows in (own.train, own.test))
    return HeldOut(train, None, held, f"{len(own.test):,} of the training rows")


def _in_float32(part: Part) -> Part:
    """A few rows, as the check takes them."""
    rows = slice(None, None, max(1, len(part.labels) // 512))
    X = part.X[rows]
    return Part(X.astype(np.float32) if X.dtype not in (np.float32, np.float64) else X, part.labels[rows], None)


def _translation(run: Run) -> tuple[Penalty, ...]:
    """What the penalty is elsewhere; nothing where there is none."""
    assert run.fitted is not None
    rows, classes = len(run.split.rows.train), len(run.model.class_names)
    return translate(run.fitted.l2, rows, classes) if run.fitted.l2 > 0 else ()


def _say_translation(screen: Screen, run: Run) -> None:
    assert run.fitted is not None
    if run.fitted.l2 == 0:
        screen.say("\nl2 = 0 is no penalty: C = inf in scikit-learn, weight_decay = 0 in PyTorch", style="bold")
        return
    screen.say(f"\nl2 = {run.fitted.l2:.6g} for {len(run.split.rows.train):,} rows elsewhere", style="bold")
    for each in _translation(run):
        other = "" if each.same_optimum else " (another optimum)"
        screen.say(f"{each.name:13} = {each.value:<12.6g} {each.of}: {each.formula}{other}")
