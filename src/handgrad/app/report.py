"""What a run shows while it goes on, and what it leaves behind."""

import contextlib
import json
import math
import pathlib
import platform
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import handgrad
from handgrad.app import plots
from handgrad.app.words import one_line
from handgrad.data import Split, Table
from handgrad.files import MODEL_FILE
from handgrad.formulas.network import layers_of
from handgrad.models import Model
from handgrad.models.saving import write_model


class Settings(NamedTuple):
    """What a training was run with, under the names that metrics.json has for it; batch_size None is all rows."""

    data: str
    hidden: tuple[int, ...]
    activation: str | None
    optimizer: str
    learning_rate: float
    batch_size: int | None
    epochs: int
    l2: float
    seed: int


class Run(NamedTuple):
    """A finished training.

    Attributes:
      settings: what it was run with.
      split: the rows.
      model: what it came to.
      history: an `Epoch` for each epoch.
      train_loss, test_loss: mean cross-entropy of the rows trained on and of the test, in nats, without the penalty.
      predictions: (N,), what the rows of the test are taken for.
      checks: of the gradient, at the first and at the last parameters.
      seconds: that the training took, compiling included, the checks and the pictures not.
    """

    settings: Settings
    split: Split
    model: Model
    history: tuple[handgrad.Epoch, ...]
    train_loss: float
    test_loss: float
    predictions: np.ndarray
    checks: tuple[handgrad.GradientReport, ...]
    seconds: float

    @property
    def gradient_check_passed(self) -> bool:
        """Whether all checks passed."""
        return all(check.passed for check in self.checks)


# --- The folder -------------------------------------------------------------------------------------------------------


def write_run(folder: pathlib.Path, run: Run) -> None:
    """Write the model, the metrics and the pictures."""
    model = run.model
    write_model(folder / MODEL_FILE, model)
    metrics = json.dumps(_metrics(run), indent=2, allow_nan=False, ensure_ascii=False)
    # A file's name may be no text; JSON writes what is none as it was written here.
    (folder / "metrics.json").write_text(metrics + "\n", encoding="utf-8", errors="backslashreplace")
    plots.plot_history(folder / "loss.png", run.history)
    plots.plot_confusion(folder / "confusion.png", run.split.test.labels, run.predictions, model.class_names)
    first, *others = layers_of(model.params)
    W = np.asarray(first.params.W)
    plots.plot_weights(
        folder / "weights.png",
        W,
        tuple(range(1, W.shape[1] + 1)) if others else model.class_names,
        model.encoding.feature_names,
        model.encoding.image_shape,
        unit="unit of the first layer" if others else "class",
    )


def _metrics(run: Run) -> dict[str, Any]:
    train_rows, validation_rows, test_rows = map(len, run.split.rows)
    return {
        "test_accuracy": float(np.mean(run.predictions == run.split.test.labels)),
        "test_loss": run.test_loss,
        "train_loss": run.train_loss,
        "seconds": round(run.seconds, 3),
        "gradient_check_passed": run.gradient_check_passed,
        **run.settings._asdict(),
        "rows": train_rows + validation_rows + test_rows,
        "train_rows": train_rows,
        "validation_rows": validation_rows,
        "test_rows": test_rows,
        "features": run.split.train.X.shape[1],
        "classes": len(run.model.class_names),
        "versions": {"handgrad": handgrad.__version__, "jax": jax.__version__, "python": platform.python_version()},
        "device": jax.devices()[0].device_kind,
        "history": [epoch._asdict() for epoch in run.history],
    }


# --- The screen -------------------------------------------------------------------------------------------------------


def make_console() -> Console:
    """A console that prints text as it is: no markup, no guessed colours, no line breaks."""
    return Console(markup=False, highlight=False, soft_wrap=True)


def print_data(console: Console, settings: Settings, table: Table, split: Split) -> None:
    """What there is to learn from."""
    train_rows, validation_rows, test_rows = map(len, split.rows)
    console.print(
        f"{one_line(settings.data)}: {table.num_rows:,} rows, {split.train.X.shape[1]:,} features, "
        f"{len(table.class_names):,} classes; {train_rows:,} to train on, {validation_rows:,} to watch, "
        f"{test_rows:,} to test",
        style="bold",
    )
    for note in (*table.notes, *split.notes):
        console.print(f"note: {one_line(note)}")


def print_check(console: Console, which: str, report: handgrad.GradientReport) -> None:
    """The table of a gradient check."""
    console.print(f"\nThe gradient by hand, at the {which} parameters", style="bold")
    console.print(f"{report}\n")


@contextlib.contextmanager
def show_epochs(console: Console, epochs: int) -> Iterator[Callable[[Any, handgrad.Epoch], None]]:
    """The callback for `handgrad.train`: a progress bar on a terminal, elsewhere a line for a tenth of the epochs."""
    progress = Progress(
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}   validation accuracy {task.fields[accuracy]:.2%}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    task = progress.add_task("", total=epochs, loss=math.nan, accuracy=math.nan)

    def show_epoch(_: Any, epoch: handgrad.Epoch) -> None:
        progress.update(task, completed=epoch.epoch, loss=epoch.loss, accuracy=epoch.validation_accuracy)
        if progress.disable and (epoch.epoch in (1, epochs) or epoch.epoch % math.ceil(epochs / 10) == 0):
            console.print(
                f"epoch {epoch.epoch:{len(str(epochs))}}/{epochs}   loss {epoch.loss:.4f}   "
                f"validation loss {epoch.validation_loss:.4f}   accuracy {epoch.validation_accuracy:.2%}"
            )

    with progress:
        yield show_epoch


def print_summary(console: Console, run: Run, out: pathlib.Path | None) -> None:
    """What it came to, and where it is."""
    right, rows = int(np.sum(run.predictions == run.split.test.labels)), len(run.predictions)
    passed = run.gradient_check_passed
    for name, value, style in (
        ("test accuracy", f"{right / rows:.2%} ({right:,} of {rows:,})", "bold"),
        ("test loss", f"{run.test_loss:.4f} nats", ""),
        ("train loss", f"{run.train_loss:.4f} nats", ""),
        ("gradient check", "passed" if passed else "FAILED", "green" if passed else "bold red"),
        ("time", f"{run.seconds:.1f} s for {run.settings.epochs} epochs", ""),
        ("model, pictures", "not kept; --out FOLDER keeps them" if out is None else f"{one_line(str(out))}/", ""),
    ):
        console.print(f"{name:17}{value}", style=style)
