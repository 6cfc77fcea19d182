"""`handgrad evaluate`, a stored model on rows with classes; `handgrad compare`, several runs side by side."""

import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from scipy.special import bdtr

from handgrad.app.answering import LARGE, answers_of, once
from handgrad.app.evaluation import Answered, Evaluation, evaluate_answers
from handgrad.app.runs import class_shares, finite, per_class, read_metrics
from handgrad.app.screen import Screen
from handgrad.app.words import one_line
from handgrad.data import Table
from handgrad.data.naming import alike, join
from handgrad.data.streaming import needs_streaming
from handgrad.models import Model, load

SHOWN = 10  # classes whose numbers stand on the screen
# What metrics.json has besides settings; a comparison shows the settings in which runs differ.
RESULTS = (
    ("test_accuracy", "test accuracy", "{:.2%}"),
    ("test_loss", "test loss", "{:.4f}"),
    ("test_loss_standard_error", "± (standard error)", "{:.4f}"),
    ("train_loss", "train loss", "{:.4f}"),
    ("expected_calibration_error", "calibration error", "{:.4f}"),
    ("majority_accuracy", "majority class", "{:.2%}"),
    ("seconds", "seconds", "{:.1f}"),
)
SETTINGS = (
    "command", "data", "l2", "scoring", "folds", "class_weight", "hidden", "activation", "optimizer", "learning_rate",
    "batch_size", "epochs", "preset", "standardize", "seed", "rows", "train_rows", "validation_rows", "test_rows",
    "features", "classes", "converged",
)  # fmt: skip


class Judged(NamedTuple):
    """A model on the rows of a table of which it knows the classes: their indices, labels and what it says of them."""

    model: Model
    rows: np.ndarray
    labels: np.ndarray
    answered: Answered
    weights: np.ndarray | None
    notes: tuple[str, ...]
    unknown: dict[str, int]

    @property
    def losses(self) -> np.ndarray:
        """The cross-entropy of each row."""
        return self.answered.losses

    @property
    def is_right(self) -> np.ndarray:
        """Whether each row is predicted right."""
        return self.answered.predicted == self.labels


def evaluate(*, screen: Screen, reading: dict[str, Any], run: pathlib.Path, data: pathlib.Path) -> int:
    """See `handgrad.app.program`."""
    judged = judge(load(run), data, reading)
    screen.note([LARGE.format(data)] if needs_streaming(data) else [])
    shares = class_shares(judged.labels, judged.weights, len(judged.model.class_names))
    found = evaluate_answers(judged.answered, judged.labels, shares, judged.weights)
    screen.note(judged.notes)
    screen.show(_numbers(found))
    classes = per_class(found, judged.model)
    screen.table(("class", "rows", "precision", "recall", "F1"), _rows_of_classes(classes))
    screen.answer(
        lambda: finite(
            {
                "run": str(run),
                "data": str(data),
                "rows": found.rows,
                "accuracy": found.accuracy,
                "accuracy_interval": list(found.accuracy_interval),
                "loss": found.loss,
                "loss_standard_error": found.loss_error,
                "loss_bits": found.loss / math.log(2),
                "majority_accuracy": found.majority_accuracy,
                "baseline_loss": found.baseline_loss,
                "expected_calibration_error": found.calibration.error,
                "confusion": found.confusion.tolist(),
                "per_class": classes,
                "unknown_classes": judged.unknown,
                "notes": list(judged.notes),
            }
        )
    )
    return 0


def judge(model: Model, data: pathlib.Path, reading: dict[str, Any]) -> Judged:
    """What the model says of the rows of a table, and their classes by its numbers.

    A table that is too large for the memory is read in blocks.

    Raises:
      ValueError: no row has a class that the model knows, or values that it needs.
    """
    reading = {**reading, "missing": model.encoding.missing}
    if model.encoding.inputs is not None:
        reading.setdefault("target", model.target)
    with answers_of(model, data, is_labelled=True, **reading) as (table, answers):
        labels, unknown = _by_number(model, table)
        parts, notes = [], list(table.notes)
        start = 0
        for some in answers:
            if start + len(some.Y) > len(labels):
                raise ValueError(f"{data}: has more rows than the {len(labels):,} that labels are there for.")
            parts.append(Answered.of(some.Y, labels[start : start + len(some.Y)]))
            notes += some.notes
            start += len(some.Y)
    if start != len(labels):
        raise ValueError(f"{data}: has {start:,} rows, and labels are there for {len(labels):,}.")
    answered = Answered(*map(np.concatenate, zip(*parts, strict=True)))
    rows = np.flatnonzero(~np.isnan(answered.own))
    if not len(rows):
        raise ValueError(
            f"{data}: has no row of a class that the model knows; got {join(list(unknown), SHOWN)}, and it knows "
            f"{join([str(name) for name in model.class_names], SHOWN)}."
        )
    notes = once(notes)
    if unknown:
        said = join([f"{name!r} ({count})" for name, count in unknown.items()], SHOWN)
        notes.append(f"rows of classes that the model does not know are left out of the numbers: {said}")
    weights = table.relative_weights
    weights = None if weights is None else weights[rows]
    if weights is not None and not weights.any():
        raise ValueError(f"{data}: the rows of classes that the model knows all weigh 0, and say nothing of it.")
    return Judged(model, rows, labels[rows], answered.take(rows), weights, tuple(notes), unknown)


def _by_number(model: Model, table: Table) -> tuple[np.ndarray, dict[str, int]]:
    """The model's number for the class of each row, −1 where it has none, and the rows of those that it has not."""
    assert table.labels is not None
    named = [str(name) for name in model.class_names]
    places = {alike(name): number for number, name in enumerate(named)} | {name: i for i, name in enumerate(named)}
    number = np.array([places.get(name, places.get(alike(name), -1)) for name in map(str, table.class_names)], int)
    counts = np.bincount(table.labels, minlength=len(number))
    unknown = {str(table.class_names[index]): int(counts[index]) for index in np.flatnonzero(number < 0)}
    return number[table.labels], unknown


def _numbers(found: Evaluation) -> list[tuple[str, str, str]]:
    low, high = found.accuracy_interval
    return [
        (
            "accuracy",
            f"{found.accuracy:.2%} ({found.right:,} of {found.rows:,}; 95 % interval {low:.1%} to {high:.1%}; their "
            f"most frequent class is {found.majority_accuracy:.2%})",
            "bold",
        ),
        (
            "loss",
            f"{found.loss:.4f} ± {found.loss_error:.4f} nats, {found.loss / math.log(2):.4f} bits (their classes have "
            f"an entropy of {found.baseline_loss:.4f} nats)",
            "",
        ),
        ("calibration", f"off by {found.calibration.error:.4f} in the mean", ""),
    ]


def _rows_of_classes(classes: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The classes; where there are many those with the worst F1."""
    if len(classes) > SHOWN:
        there = [each for each in classes if each["rows"]]
        classes = sorted(there, key=lambda each: 0 if math.isnan(each["f1"]) else each["f1"])[:SHOWN]
    rows = []
    for each in classes:
        numbers = ["–" if math.isnan(each[name]) else f"{each[name]:.3f}" for name in ("precision", "recall", "f1")]
        rows.append((str(each["class"]), f"{each['rows']:,}", *numbers))
    return rows


# --- Several runs -----------------------------------------------------------------------------------------------------


def compare(*, screen: Screen, reading: dict[str, Any], runs: list[pathlib.Path], data: pathlib.Path | None) -> int:
    """See `handgrad.app.program`."""
    if len(runs) < 2:
        raise ValueError(f"compare: there must be two runs or more; got {len(runs)}.")
    if reading and data is None:
        raise ValueError("compare: options of reading need --data, rows to try all runs on.")
    metrics = [read_metrics(run) for run in runs]
    rows = []
    for key, title, form in RESULTS:
        values = [each.get(key) for each in metrics]
        rows.append((title, *("–" if value is None else form.format(value) for value in values)))
    differing = [key for key in SETTINGS if len({str(each.get(key)) for each in metrics}) > 1]
    rows += [(key, *(_setting(each.get(key)) for each in metrics)) for key in differing]
    screen.table(("", *map(str, runs)), rows)
    prints = {each.get("test_fingerprint") for each in metrics}
    same = len(prints) == 1 and None not in prints
    if not same:
        screen.say("note: these runs were not tested on the same rows, or read them otherwise; --data tries all on one")
    pairs = [] if data is None else _pairs(screen, runs, data, reading)
    screen.answer(
        lambda: finite(
            {
                "runs": [
                    {
                        "run": str(run),
                        **{key: each.get(key) for key in (*(result[0] for result in RESULTS), *differing)},
                    }
                    for run, each in zip(runs, metrics, strict=True)
                ],
                "same_test_rows": same,
                "pairs": pairs,
            }
        )
    )
    return 0


def _setting(value: Any) -> str:
    """A setting as a person writes it.

    Example:
      >>> _setting(0.17194473633476062), _setting(10.0), _setting([64, 32]), _setting([]), _setting(None)
      ('0.1719', '10', '64, 32', 'none', '–')
    """
    if isinstance(value, list):
        return ", ".join(map(_setting, value)) or "none"
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _pairs(
    screen: Screen, runs: list[pathlib.Path], data: pathlib.Path, reading: dict[str, Any]
) -> list[dict[str, Any]]:
    """Each run against the first, on the rows that both can judge."""
    first, *others = (judge(load(run), data, reading) for run in runs)
    screen.note(first.notes)
    pairs = []
    for run, other in zip(runs[1:], others, strict=True):
        pair = paired(first, other) | {"run": str(run), "against": str(runs[0])}
        pairs.append(pair)
        screen.say(
            f"{one_line(str(run))} against {one_line(str(runs[0]))} on the same {pair['rows']:,} rows: loss "
            f"{pair['loss_difference']:+.4f} ± {pair['loss_difference_error']:.4f} nats; it alone is right in "
            f"{pair['only_right']:,} rows and alone wrong in {pair['only_wrong']:,} (McNemar's exact p = "
            f"{pair['p_value']:.2g})"
        )
    return pairs


def paired(first: Judged, other: Judged) -> dict[str, Any]:
    """How another model differs from the first on the same rows: in loss, with standard error, and by McNemar's test.

    The test, an exact one, asks of the rows that one alone has right whether a fair coin might have dealt them.

    Reference: McNemar, *Note on the sampling error of the difference between correlated proportions* (1947).
    """
    _, mine, theirs = np.intersect1d(first.rows, other.rows, return_indices=True)
    difference = other.losses[theirs] - first.losses[mine]
    difference[np.isnan(difference)] = 0  # both are infinite
    wins = int(np.sum(other.is_right[theirs] & ~first.is_right[mine]))
    losses = int(np.sum(~other.is_right[theirs] & first.is_right[mine]))
    size = len(difference)
    finite_error = size > 1 and np.isfinite(difference).all()
    return {
        "rows": size,
        "loss_difference": float(difference.mean()) if size else 0.0,
        "loss_difference_error": float(difference.std(ddof=1) / math.sqrt(size)) if finite_error else math.inf,
        "only_right": wins,
        "only_wrong": losses,
        "p_value": mcnemar(wins, losses),
    }


def mcnemar(wins: int, losses: int) -> float:
    """The two-sided exact p-value: 2·P(Binomial(n, ½) ≤ min), at most 1.

    Example:
      >>> round(mcnemar(1, 9), 6), mcnemar(3, 3)
      (0.021484, 1.0)
    """
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))
