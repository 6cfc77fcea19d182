"""A finished run: what it says of itself, on the screen, in metrics.json and in its report."""

import hashlib
import json
import math
import pathlib
import platform
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

import handgrad
from handgrad.app import details
from handgrad.app.evaluation import Evaluation, evaluate
from handgrad.app.findings import Finding, find
from handgrad.app.report import write_report
from handgrad.app.sampling import sample
from handgrad.app.screen import Screen, to_json
from handgrad.app.words import one_line
from handgrad.data import Split, Table, table_keys
from handgrad.files import MODEL_FILE, require_finished
from handgrad.models import Model
from handgrad.models.saving import write_model
from handgrad.solvers.results import FitResult


class Choice(NamedTuple):
    """How the penalty was chosen.

    Attributes:
      l2s: the penalties that were tried (J,), from the largest down.
      scores: of each on the rows held out (J,), the smaller the better for a loss.
      scoring: the name of the score, "log-loss" or one of scikit-learn's.
      held_out: which rows those were, such as "the validation rows" or "5 folds".
      best: the index of the one that was chosen.
      ended: whether the user ended the search, so that the path may have been meant to go on.
    """

    l2s: np.ndarray
    scores: np.ndarray
    scoring: str
    held_out: str
    best: int
    ended: bool = False

    @property
    def edge(self) -> str | None:
        """At which end of the path the best is, "smallest" or "largest"; None inside, or if it was ended."""
        if self.ended:
            return None
        if len(self.l2s) > 1 and self.best == 0:
            return "largest"
        return "smallest" if self.best == len(self.l2s) - 1 else None


class Run(NamedTuple):
    """What `fit`, `train` or `probe` came to.

    Attributes:
      command: which of them.
      settings: what it was run with, under the names that metrics.json has for it; JSON's own types.
      table, split: the data.
      model: what it came to.
      Y: probabilities of the test rows (N, C).
      train_loss: mean cross-entropy of the rows trained on, in nats, without the penalty.
      seconds: that finding the parameters took, compiling included, the checks and the pages not.
      checks: of the gradient, at the first and at the last parameters.
      history: of gradient descent, an `Epoch` for each epoch.
      best: of which epoch the parameters are, 0 for the start; None without gradient descent.
      fitted: what the certified solver returned.
      choice: how its penalty was chosen; None where it was given.
      sampled: which rows of the data those of `table` are, ascending, where it has but a sample of them; else None.
    """

    command: str
    settings: Mapping[str, Any]
    table: Table
    split: Split
    model: Model
    Y: np.ndarray
    train_loss: float
    seconds: float
    checks: tuple[handgrad.GradientReport, ...] = ()
    history: tuple[handgrad.Epoch, ...] = ()
    best: int | None = None
    fitted: FitResult | None = None
    choice: Choice | None = None
    sampled: np.ndarray | None = None

    @property
    def gradient_check_passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)


def begin(screen: Screen, data: str, table: Table, split: Split) -> None:
    """Say what there is to learn from."""
    counts = zip(split.rows, ("to train on", "to watch", "to test"), strict=True)
    parts = ", ".join(f"{len(rows):,} {what}" for rows, what in counts if len(rows))
    screen.say(
        f"{one_line(data)}: {table.num_rows:,} rows, {split.train.X.shape[1]:,} features, "
        f"{len(table.class_names):,} classes; {parts}",
        style="bold",
    )
    screen.note((*table.notes, *split.notes))


class Concluded(NamedTuple):
    """A run, evaluated on its test rows: what was found out about it, and its metrics."""

    run: Run
    evaluation: Evaluation
    findings: tuple[Finding, ...]
    metrics: Mapping[str, Any]


def conclude(screen: Screen, run: Run, folder: pathlib.Path | None) -> Concluded:
    """Evaluate a run, and write what it leaves behind to a folder, if there is one."""
    shares = class_shares(run.split.train.labels, run.split.train.weights, len(run.model.class_names))
    evaluation = evaluate(run.Y, run.split.test.labels, shares, run.split.test.weights)
    seen = (run, evaluation) if run.table.file is None else _sampled(run, evaluation, shares)
    findings = find(run, evaluation, seen)
    metrics = metrics_of(run, evaluation, findings, screen.arguments, seen)
    if folder is not None:
        _write(folder, seen[0], metrics)
    return Concluded(run, evaluation, findings, metrics)


def tell(screen: Screen, concluded: Concluded, out: pathlib.Path | None) -> int:
    """Say what a run came to, once it is where it stays: who hears nothing has it all the same. The exit status."""
    run, evaluation, findings, metrics = concluded
    screen.show(_summary(run, evaluation, out))
    for finding in findings:
        screen.say(f"finding: {one_line(finding.says)} {one_line(finding.advice)} [{finding.code}]", style="yellow")
    screen.answer(lambda: metrics)
    return 0 if run.gradient_check_passed else 1


def _sampled(run: Run, evaluation: Evaluation, shares: np.ndarray) -> tuple[Run, Evaluation]:
    """The run on rows that are in memory, where its table is in a file: all of them, or a sample."""
    some = sample(run.table, run.split, evaluation.mistakes[: details.MOST_MISTAKES])
    rows = None if some.is_whole and len(some.rows) == run.table.num_rows else some.rows
    seen = run._replace(table=some.table, split=some.split, Y=run.Y[some.tested], sampled=rows)
    if some.is_whole:
        return seen, evaluation
    return seen, evaluate(seen.Y, seen.split.test.labels, shares, seen.split.test.weights)


def class_shares(labels: np.ndarray, weights: np.ndarray | None, num_classes: int) -> np.ndarray:
    """The share of each class in the weight of the rows (C,)."""
    counts = np.bincount(labels, weights, num_classes)
    return counts / (counts.sum() or 1)


def _write(folder: pathlib.Path, run: Run, metrics: Mapping[str, Any]) -> None:
    write_model(folder / MODEL_FILE, run.model)
    # A file's name may be no text; JSON writes what is none as it was written here.
    (folder / "metrics.json").write_text(to_json(metrics) + "\n", encoding="utf-8", errors="backslashreplace")
    write_report(folder / "report.html", run, metrics)


def metrics_of(
    run: Run,
    evaluation: Evaluation,
    findings: tuple[Finding, ...],
    arguments: tuple[str, ...] = (),
    seen: tuple[Run, Evaluation] | None = None,
) -> dict[str, Any]:
    """What metrics.json has, and the report shows: a number that there is none of is null.

    `seen` are the run and its evaluation on rows that are in memory, where that is but a sample.
    """
    train_rows, validation_rows, test_rows = map(len, run.split.rows)
    fitted, choice = run.fitted, run.choice
    names, calibration = run.model.class_names, evaluation.calibration
    metrics = {
        "test_accuracy": evaluation.accuracy,
        "test_right": evaluation.right,
        "test_accuracy_interval": list(evaluation.accuracy_interval),
        "test_loss": evaluation.loss,
        "test_loss_standard_error": evaluation.loss_error,
        "test_loss_bits": evaluation.loss / math.log(2),
        "train_loss": run.train_loss,
        "majority_class": names[evaluation.majority],
        "majority_accuracy": evaluation.majority_accuracy,
        "baseline_loss": evaluation.baseline_loss,
        "expected_calibration_error": calibration.error,
        "seconds": round(run.seconds, 3),
        "gradient_check_passed": run.gradient_check_passed,
        "command": run.command,
        "arguments": list(arguments),
        **run.settings,
        "rows": train_rows + validation_rows + test_rows,
        "train_rows": train_rows,
        "validation_rows": validation_rows,
        "test_rows": test_rows,
        "features": run.split.train.X.shape[1],
        "classes": len(names),
        "versions": {"handgrad": handgrad.__version__, "jax": jax.__version__, "python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
        "findings": [finding._asdict() for finding in findings],
        "per_class": [
            own | {"train_rows": count}
            for own, count in zip(
                per_class(evaluation, run.model),
                np.bincount(run.split.train.labels, minlength=len(names)).tolist(),
                strict=True,
            )
        ],
        "test_fingerprint": fingerprint(run.table, run.split.rows.test),
        "calibration": {
            name: getattr(calibration, name).tolist() for name in ("confidence", "accuracy", "low", "high", "rows")
        },
        "confusions": details.list_confusions(evaluation, names),
        "weights": details.list_weights(run.model),
        "mistakes": details.list_mistakes(*(seen or (run, evaluation))),
        "columns": details.list_columns(run.model.encoding),
        "columns_read": len(run.model.encoding.inputs or ()),
    }
    if len(names) <= details.MOST_CLASSES:
        metrics["confusion"] = evaluation.confusion.tolist()
    if run.checks:
        metrics["gradient_checks"] = [
            {"checks": [each._asdict() for each in check.checks], "passed": check.passed, "diagnosis": check.diagnosis}
            for check in run.checks
        ]
    if run.history:
        metrics["best_epoch"] = run.best
        metrics["history"] = [epoch._asdict() for epoch in run.history]
    if fitted is not None:
        metrics |= {
            "l2": fitted.l2,
            "gap": fitted.gap,
            "gradient_norm": fitted.gradient_norm,
            "converged": fitted.converged,
            "loss": fitted.loss,
            "iterations": fitted.iterations,
            "message": fitted.message,
        }
    if choice is not None:
        metrics["path"] = {
            "l2": choice.l2s.tolist(),
            "score": choice.scores.tolist(),
            "scoring": choice.scoring,
            "held_out": choice.held_out,
            "best": choice.best,
            "edge": choice.edge,
        }
    return finite(metrics)


def per_class(evaluation: Evaluation, model: Model) -> list[dict[str, Any]]:
    """The numbers of each class."""
    numbers = (each.tolist() for each in (evaluation.precision, evaluation.recall, evaluation.f1))
    return [
        {"class": name, "precision": p, "recall": r, "f1": f, "rows": int(row.sum())}
        for name, p, r, f, row in zip(model.class_names, *numbers, evaluation.confusion, strict=True)
    ]


def fingerprint(table: Table, rows: np.ndarray) -> str:
    """What is the same where the same rows are tested on, read in the same way, in whatever order."""
    assert table.labels is not None
    keys = table_keys(table)[rows]
    order = np.lexsort((table.labels[rows], keys))
    digest = hashlib.blake2b(keys[order].tobytes() + table.labels[rows][order].tobytes(), digest_size=8)
    return digest.hexdigest()


def finite(value: Any) -> Any:
    """A value for JSON, in which a number that is none is null."""
    if isinstance(value, dict):
        return {name: finite(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(run: pathlib.Path) -> dict[str, Any]:
    """The metrics of a run.

    Raises:
      FileNotFoundError, ValueError: no such file, or one that no run has written.
    """
    path = run / "metrics.json" if run.is_dir() else run
    if not path.exists():
        require_finished(path.parent)
        raise FileNotFoundError(f"{path}: there are no such metrics. `handgrad fit --out RUN` writes them.")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: is no JSON, or is damaged or cut short.") from None
    if not isinstance(metrics, dict) or "test_loss" not in metrics:
        raise ValueError(f"{path}: was not written by handgrad.")
    return metrics


def _in_words(choice: Choice | None) -> str:
    if choice is None:
        return ""
    low, high = choice.l2s.min(), choice.l2s.max()
    return f", the best of {len(choice.l2s)} from {low:.1g} to {high:.1g} by {choice.scoring} on {choice.held_out}"


def _summary(run: Run, evaluation: Evaluation, out: pathlib.Path | None) -> list[tuple[str, str, str]]:
    passed = run.gradient_check_passed
    low, high = evaluation.accuracy_interval
    rows = [
        (
            "test accuracy",
            f"{evaluation.accuracy:.2%} ({evaluation.right:,} of {evaluation.rows:,}; 95 % interval {low:.1%} to "
            f"{high:.1%}; the majority class has {evaluation.majority_accuracy:.2%})",
            "bold",
        ),
        (
            "test loss",
            f"{evaluation.loss:.4f} nats, {evaluation.loss / math.log(2):.4f} bits (without features "
            f"{evaluation.baseline_loss:.4f} nats)",
            "",
        ),
        ("train loss", f"{run.train_loss:.4f} nats", ""),
    ]
    if run.fitted is not None:
        rows.append(("penalty", f"l2 = {run.fitted.l2:.4g}{_in_words(run.choice)}", ""))
        rows.append(("certificate", run.fitted.message, "" if run.fitted.converged else "bold red"))
    if run.best is not None:
        rows.append(
            ("parameters", f"those of epoch {run.best} of {len(run.history)}" if run.best else "the start's", "")
        )
    if run.checks:
        style = "green" if passed else "bold red"
        rows.append(("gradient check", "passed" if passed else "FAILED", style))
    spent = f"{run.seconds:.1f} s" + (f" for {len(run.history)} epochs" if run.history else "")
    kept = "not kept; --out FOLDER keeps them" if out is None else f"{one_line(str(out))}/"
    return [*rows, ("time", spent, ""), ("model, report", kept, "")]
