"""`handgrad train`: gradient descent as it is written down, or by optax."""

import contextlib
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import handgrad
from handgrad.app.checking import check_at, print_check
from handgrad.app.program import OPTAX_LEARNING_RATE, OPTIMIZERS, SGD_LEARNING_RATE
from handgrad.app.runs import Run, begin, conclude
from handgrad.app.screen import Screen
from handgrad.app.tables import as_activation, as_widths, dense, read
from handgrad.data import Table, split_and_scale
from handgrad.data.splitting import VALIDATION
from handgrad.files import new_run
from handgrad.models import Model, probabilities


def train(
    *,
    screen: Screen,
    reading: dict[str, Any],
    data: pathlib.Path | None,
    hidden: str,
    activation: str | None,
    optimizer: str,
    learning_rate: float | None,
    batch_size: int,
    full_batch: bool,
    epochs: int,
    l2: float,
    seed: int,
    out: pathlib.Path | None,
    overwrite: bool,
) -> int:
    """See `handgrad.app.program`."""
    settings = {
        "data": str(data or "digits"),
        "hidden": as_widths(hidden),
        "activation": as_activation(activation, hidden),
        "optimizer": optimizer,
        "learning_rate": _learning_rate(optimizer, learning_rate),
        "batch_size": None if full_batch else batch_size,
        "epochs": epochs,
        "l2": l2,
        "seed": seed,
    }
    with contextlib.ExitStack() as stack:
        folder = None if out is None else stack.enter_context(new_run(out, overwrite=overwrite))
        return conclude(screen, _train(screen, settings, read(data, reading)), folder, out)


def _train(screen: Screen, settings: dict[str, Any], table: Table) -> Run:
    split = split_and_scale(table, validation=VALIDATION, seed=settings["seed"])
    begin(screen, settings["data"], table, split)
    trained, validated, tested = map(dense, (split.train, split.validation, split.test))
    watched = validated if len(validated.labels) else trained
    params = _init((trained.X.shape[1], *settings["hidden"], len(table.class_names)), settings)
    checks = [check_at(params, trained)]
    print_check(screen, "first", checks[0])
    is_explicit = settings["optimizer"] == "sgd"
    rate = settings["learning_rate"]
    start = time.perf_counter()
    with show_epochs(screen, settings["epochs"]) as show_epoch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an infinite loss, which _require_finite reports
        params, history, _ = handgrad.train(
            trained.X,
            trained.labels,
            optimizer=None if is_explicit else getattr(optax, settings["optimizer"])(rate),
            learning_rate=rate if is_explicit else None,
            batch_size=settings["batch_size"],
            epochs=settings["epochs"],
            l2=settings["l2"],
            weights=trained.weights,
            validation=watched[:2],
            params=params,
            key=jax.random.key(settings["seed"]),
            callback=show_epoch,
        )
    seconds = time.perf_counter() - start
    train_loss = float(handgrad.loss(params, *trained))
    _require_finite(history[-1], train_loss)
    checks.append(check_at(params, trained))
    print_check(screen, "last", checks[1])
    return Run(
        command="train",
        settings=settings,
        table=table,
        split=split,
        model=Model(params, split.encoding, table.class_names, table.target),
        Y=probabilities(params, tested.X),
        train_loss=train_loss,
        seconds=seconds,
        checks=tuple(checks),
        history=history,
    )


@contextlib.contextmanager
def show_epochs(screen: Screen, epochs: int) -> Iterator[Callable[[Any, handgrad.Epoch], None]]:
    """The callback for `handgrad.train`: a progress bar on a terminal, elsewhere a line for a tenth of the epochs."""
    progress = Progress(
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.4f}   validation accuracy {task.fields[accuracy]:.2%}"),
        TimeElapsedColumn(),
        console=screen.console,
        disable=not screen.console.is_terminal,
    )
    task = progress.add_task("", total=epochs, loss=math.nan, accuracy=math.nan)

    def show_epoch(_: Any, epoch: handgrad.Epoch) -> None:
        progress.update(task, completed=epoch.epoch, loss=epoch.loss, accuracy=epoch.validation_accuracy)
        if progress.disable and (epoch.epoch in (1, epochs) or epoch.epoch % math.ceil(epochs / 10) == 0):
            screen.say(
                f"epoch {epoch.epoch:{len(str(epochs))}}/{epochs}   loss {epoch.loss:.4f}   "
                f"validation loss {epoch.validation_loss:.4f}   accuracy {epoch.validation_accuracy:.2%}"
            )

    with progress:
        yield show_epoch


def _init(sizes: tuple[int, ...], settings: dict[str, Any]) -> handgrad.Params | tuple[handgrad.Layer, ...]:
    """Zeros for a softmax regression, and for a network random weights, without which its units would stay alike."""
    if not settings["activation"]:
        return handgrad.init_params(*sizes)
    return handgrad.init_network(jax.random.key(settings["seed"]), sizes, settings["activation"])


def _learning_rate(optimizer: str, learning_rate: float | None) -> float:
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"--optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}.")
    if learning_rate is None:
        return SGD_LEARNING_RATE if optimizer == "sgd" else OPTAX_LEARNING_RATE
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"--learning-rate must be positive and finite; got {learning_rate}.")
    return learning_rate


def _require_finite(last: handgrad.Epoch, train_loss: float) -> None:
    for loss in (last.loss, last.validation_loss, train_loss):
        if loss is None or not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {last.epoch}, and nothing is written. Try a smaller --learning-rate."
            )
