"""What a run shows while it goes on, and what it leaves behind."""

import json
import math
import pathlib
import platform
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import handgrad
from handgrad.app import plots
from handgrad.app.model import FILE_NAME, Model, save_model
from handgrad.data import Split, Table


class Run(NamedTuple):
    """A finished training.

    Attributes:
      model: what it came to.
      history: an `Epoch` for each epoch.
      train_loss: mean cross-entropy of the training rows at the end, in nats, without the penalty.
      held_out_labels, predictions: (N,), what the held-out rows are and are taken for.
      gradient_check_passed: at the first and at the last parameters.
      seconds: that the training took, compiling included, the checks and the pictures not.
      settings: what it was run with.
    """

    model: Model
    history: tuple[handgrad.Epoch, ...]
    train_loss: float
    held_out_labels: np.ndarray
    predictions: np.ndarray
    gradient_check_passed: bool
    seconds: float
    settings: Mapping[str, Any]


def write_run(folder: pathlib.Path, run: Run) -> None:
    """Write the model, the metrics and the pictures."""
    model = run.model
    save_model(folder / FILE_NAME, model)
    metrics = json.dumps(_metrics(run), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / "metrics.json").write_text(metrics + "\n", encoding="utf-8")
    plots.plot_history(folder / "loss.png", run.history)
    plots.plot_confusion(folder / "confusion.png", run.held_out_labels, run.predictions, model.class_names)
    plots.plot_weights(
        folder / "weights.png",
        np.asarray(model.params.W),
        model.class_names,
        model.feature_names,
        model.image_shape,
    )


def _metrics(run: Run) -> dict[str, Any]:
    last = run.history[-1]
    return {
        "test_accuracy": float(np.mean(run.predictions == run.held_out_labels)),
        "test_loss": last.validation_loss,
        "train_loss": run.train_loss,
        "epochs": last.epoch,
        "seconds": round(run.seconds, 3),
        "gradient_check_passed": run.gradient_check_passed,
        **run.settings,
        "versions": {"handgrad": handgrad.__version__, "jax": jax.__version__, "python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
        "history": [epoch._asdict() for epoch in run.history],
    }


class Reporter:
    """Prints a run: a progress bar on a terminal, elsewhere a line for every tenth of the epochs."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.console = Console(markup=False, highlight=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("epoch"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]:.4f}   test accuracy {task.fields[accuracy]:.2%}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=epochs, loss=math.nan, accuracy=math.nan)

    def __enter__(self) -> None:
        self.progress.start()

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.progress.stop()

    def show_epoch(self, _: handgrad.Params, epoch: handgrad.Epoch) -> None:
        """The callback of `handgrad.train`."""
        self.progress.update(self.task, completed=epoch.epoch, loss=epoch.loss, accuracy=epoch.validation_accuracy)
        every = math.ceil(self.epochs / 10)
        if self.progress.disable and (epoch.epoch in (1, self.epochs) or epoch.epoch % every == 0):
            self.console.print(
                f"epoch {epoch.epoch:{len(str(self.epochs))}}/{self.epochs}   loss {epoch.loss:.4f}   "
                f"test loss {epoch.validation_loss:.4f}   test accuracy {epoch.validation_accuracy:.2%}"
            )

    def print_data(self, name: str, table: Table, split: Split) -> None:
        """What there is to learn from."""
        self.console.print(
            f"{name}: {len(table.X):,} rows, {table.X.shape[1]:,} features, {len(table.class_names)} classes; "
            f"{len(split.X):,} to train on, {len(split.X_held_out):,} held out to test",
            style="bold",
        )

    def print_check(self, which: str, report: handgrad.GradientReport) -> None:
        """The table of a gradient check."""
        self.console.print(f"\nThe gradient by hand, at the {which} parameters", style="bold")
        self.console.print(f"{report}\n")

    def print_summary(self, run: Run, out: pathlib.Path | None) -> None:
        """What it came to, and where it is."""
        right = int(np.sum(run.predictions == run.held_out_labels))
        rows = len(run.predictions)
        passed = run.gradient_check_passed
        files = "not kept; --out FOLDER keeps them" if out is None else f"{out}/"
        for name, value, style in (
            ("test accuracy", f"{right / rows:.2%} ({right:,} of {rows:,})", "bold"),
            ("test loss", f"{run.history[-1].validation_loss:.4f} nats", ""),
            ("train loss", f"{run.train_loss:.4f} nats", ""),
            ("gradient check", "passed" if passed else "FAILED", "green" if passed else "bold red"),
            ("time", f"{run.seconds:.1f} s for {run.history[-1].epoch} epochs", ""),
            ("model, pictures", files, ""),
        ):
            self.console.print(f"{name:17}{value}", style=style)
