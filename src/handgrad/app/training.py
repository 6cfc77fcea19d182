"""`handgrad train`: gradient descent as it is written down, or by optax."""

import contextlib
import math
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import handgrad
from handgrad import processes
from handgrad.app.checking import MAX_CHECKED_ROWS, budget_of_each, check_at, print_check
from handgrad.app.checkpoints import Work, at_work
from handgrad.app.descending import descend
from handgrad.app.program import OPTAX_LEARNING_RATE, OPTIMIZERS, SCHEDULES
from handgrad.app.progress import BAR, interrupt, watching
from handgrad.app.runs import Run, begin, conclude, tell
from handgrad.app.sampling import part_of
from handgrad.app.screen import Screen
from handgrad.app.tables import as_activation, as_class_weights, as_widths, dense, read_again
from handgrad.data import Part, Table, split_and_scale
from handgrad.data.sharing import encode_dealt
from handgrad.data.splitting import VALIDATION
from handgrad.models import Model, probabilities
from handgrad.solvers.step import suitable_rate
from handgrad.solvers.streamed_epochs import Streamed, evaluate_streamed, how_sorted
from handgrad.streams import Stream

# How far a learning rate may be from the one that suits the data before a word is said: twice that rate no longer
# lowers the loss for certain, and with a thousandth of it hundreds of epochs do what one should.
TOO_LARGE, TOO_SMALL = 4.0, 1e-3
WORDS = 66  # characters, of all but the bar: what a narrow terminal has no room for is left out
STILL_FALLING = 0.05  # the part of the epochs, at their end, among which the best is none that was passed


def train(
    *,
    screen: Screen,
    reading: dict[str, Any],
    data: pathlib.Path | None,
    hidden: str,
    activation: str | None,
    optimizer: str,
    learning_rate: float | None,
    schedule: str,
    batch_size: int,
    full_batch: bool,
    epochs: int,
    patience: int,
    class_weight: str | None,
    l2: float,
    seed: int,
    out: pathlib.Path | None,
    overwrite: bool,
    stream: bool,
    checkpoint_every: int | None,
    begun: pathlib.Path | None,
) -> int:
    """See `handgrad.app.program`."""
    for option, value, choices in (("--optimizer", optimizer, OPTIMIZERS), ("--schedule", schedule, SCHEDULES)):
        if value not in choices:
            raise ValueError(f"{option} must be one of {', '.join(choices)}; got {value!r}.")
    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ValueError(f"--learning-rate must be positive and finite; got {learning_rate}.")
    settings = {
        "data": str(data or "digits"),
        "hidden": as_widths(hidden),
        "activation": as_activation(activation, hidden),
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "batch_size": None if full_batch else batch_size,
        "epochs": epochs,
        "patience": patience,
        "class_weight": class_weight,
        "l2": l2,
        "seed": seed,
    }
    with at_work(screen, out, overwrite=overwrite, every=checkpoint_every, begun=begun) as work:
        table = read_again(screen, data, reading, work.known(), stream=stream)
        if table.file is not None:
            settings |= {"processes": processes.count()} if processes.is_shared() else {}
            settings |= {} if table.file.is_held else {"stream": True}
        work.require_same(table)
        run, ended = _train(screen, settings, table, work)
        with work.written() as folder:
            concluded = conclude(screen, run, folder)
        status = tell(screen, concluded, work.out)
    if ended:  # what is done is kept, and who asked for the end is told of it as ever
        interrupt()
    return status


def _train(screen: Screen, settings: dict[str, Any], table: Table, work: Work) -> tuple[Run, bool]:
    """The run, and whether it was ended by Ctrl-C."""
    split = split_and_scale(table, validation=VALIDATION, seed=settings["seed"])
    begin(screen, settings["data"], table, split)
    if processes.is_shared():  # each batch has rows of all processes
        train, validation = (
            part._replace(X=encode_dealt(split.encoding, table.take(rows)))
            for part, rows in zip(split[2:4], split.rows, strict=False)
        )
        split = split._replace(train=train, validation=validation)
    trained, validated, tested = map(dense, (split.train, split.validation, split.test))
    watched = validated if len(validated.labels) else trained
    if watched is trained:
        screen.note(["no rows are left to watch: the best epoch is told by those that are trained on"])
    class_weights = as_class_weights(settings["class_weight"], trained, table.class_names)
    epochs = settings["epochs"]
    params = _init((trained.X.shape[1], *settings["hidden"], len(table.class_names)), settings)
    budget = budget_of_each(params, len(trained.labels), min(epochs, settings["patience"] or epochs))
    checked = trained
    if table.file is not None:
        checked = part_of(table, split.encoding, split.rows.train[:: math.ceil(len(trained.labels) / MAX_CHECKED_ROWS)])
        said = how_sorted(_streamed(trained), len(table.class_names), settings["batch_size"])
        screen.note([] if said is None else [said])
    checks = [check_at(params, checked, budget=budget)]
    print_check(screen, "first", checks[0])
    start = time.perf_counter()
    weights = trained.weights
    if class_weights is not None:
        weights = class_weights[trained.labels] * (1 if weights is None else weights)
    rate, suits = _rate(screen, settings, params, trained.X, weights)
    settings = {**settings, "learning_rate": rate}
    losses = [_loss(params, trained._replace(weights=weights))]
    with contextlib.ExitStack() as stack:
        show_epoch = stack.enter_context(show_epochs(screen, epochs))
        watch = stack.enter_context(watching(screen, "training", work.signals))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", RuntimeWarning)  # of an infinite loss, which _require_finite reports

        def callback(epoch: handgrad.Epoch) -> bool:
            show_epoch(epoch)
            return watch.agree()

        data = (trained, watched, class_weights)
        params, history, best = descend(settings, params, data, callback, work, watch)
    seconds = time.perf_counter() - start
    _require_finite(history[-1], suits)
    losses.append(_loss(params, trained._replace(weights=weights)))
    say_kept(screen, history, best, epochs, len(watched.labels), losses, interrupted=watch.asked)
    checks.append(check_at(params, checked, budget=budget))
    print_check(screen, "last", checks[1])
    run = Run(
        command="train",
        settings=settings,
        table=table,
        split=split,
        model=Model(params, split.encoding, table.class_names, table.target),
        Y=probabilities(params, tested.X),
        train_loss=losses[-1] if weights is trained.weights else _loss(params, trained),
        seconds=seconds,
        checks=tuple(checks),
        history=history,
        best=best,
    )
    return run, watch.asked


@contextlib.contextmanager
def show_epochs(screen: Screen, epochs: int) -> Iterator[Callable[[handgrad.Epoch], None]]:
    """What shows each epoch: a progress bar on a terminal, elsewhere a line for a tenth of the epochs."""
    words = "loss {task.fields[loss]:.4f}   validation accuracy {task.fields[accuracy]:.2%}"
    width = screen.console.width
    progress = Progress(
        TextColumn("epoch"),
        MofNCompleteColumn(),
        *([BarColumn(BAR)] if width >= BAR + WORDS else []),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn(words if width >= WORDS else words.partition("   ")[0]),
        console=screen.console,
        disable=not screen.console.is_terminal,
    )
    task = progress.add_task("", total=epochs, loss=math.nan, accuracy=math.nan)

    def show_epoch(epoch: handgrad.Epoch) -> None:
        progress.update(task, completed=epoch.epoch, loss=epoch.loss, accuracy=epoch.validation_accuracy)
        if progress.disable and (epoch.epoch in (1, epochs) or epoch.epoch % math.ceil(epochs / 10) == 0):
            screen.say(
                f"epoch {epoch.epoch:{len(str(epochs))}}/{epochs}   loss {epoch.loss:.4f}   "
                f"validation loss {epoch.validation_loss:.4f}   accuracy {epoch.validation_accuracy:.2%}"
            )

    with progress:
        yield show_epoch


def _loss(params: Any, part: Part) -> float:
    if not isinstance(part.X, Stream):
        return float(handgrad.loss(params, *part))
    return float(evaluate_streamed(params, _streamed(part))[0])


def _streamed(part: Part) -> Streamed:
    weights = None if part.weights is None else part.weights.astype(np.float32)
    return Streamed(part.X, part.X.dtype, part.labels, weights)


def _init(sizes: tuple[int, ...], settings: dict[str, Any]) -> handgrad.Params | tuple[handgrad.Layer, ...]:
    """Zeros for a softmax regression, and for a network random weights, without which its units would stay alike."""
    if not settings["activation"]:
        return handgrad.init_params(*sizes)
    return handgrad.init_network(jax.random.key(settings["seed"]), sizes, settings["activation"])


def _rate(screen: Screen, settings: dict[str, Any], params: Any, X: Any, weights: Any) -> tuple[float, str | None]:
    """The learning rate, and of the explicit update in words the one that is taken where none is given."""
    given = settings["learning_rate"]
    if settings["optimizer"] != "sgd":
        return OPTAX_LEARNING_RATE if given is None else given, None
    about = {"batch_size": settings["batch_size"], "l2": settings["l2"]}
    if not isinstance(X, Stream):
        X, weights = jnp.asarray(X), None if weights is None else jnp.asarray(weights)
    suits = suitable_rate(params, X, weights, **about)
    words = f"{suits:.2g}, which {'is usual with hidden layers' if settings['hidden'] else 'suits these data'}"
    if given is None:
        return suits, words
    if not TOO_SMALL <= given / suits <= TOO_LARGE:
        what = "the loss may rise" if given > suits else "little will be learnt"
        screen.note([f"--learning-rate {given:g} is {given / suits:.2g} times {words}; {what}"])
    return given, words


def say_kept(
    screen: Screen,
    history: tuple[handgrad.Epoch, ...],
    best: int,
    epochs: int,
    watched: int,
    losses: Sequence[float],
    *,
    interrupted: bool,
) -> None:
    """Which epoch is kept, and why the training ended before its time.

    Args:
      screen: where to say it.
      history, best: what came of the training.
      epochs: how many were allowed.
      watched: how many rows were watched.
      losses: of the rows trained on, at the start and at the epoch that is kept.
      interrupted: whether the training was asked to end.
    """
    why = "as it was asked to" if interrupted else "for want of a better one"
    ended = "" if len(history) == epochs else f" The training ended after {len(history)}, {why}."
    if not best:
        screen.say(
            f"No epoch of {epochs} was better on the {watched:,} rows to watch than the start, which is kept: nothing "
            f"is learnt.{ended} Try another --learning-rate, or other features.",
            style="bold yellow",
        )
        return
    if best > (1 - STILL_FALLING) * epochs:
        ended = " It was still falling: more --epochs may do better."
    loss = history[best - 1].validation_loss
    screen.say(
        f"Epoch {best} of {epochs} is kept, with the least loss of the {watched:,} rows to watch, {loss:.4f}.{ended}"
    )
    if losses[1] > losses[0]:
        screen.note(
            [
                f"the loss of the rows trained on, {losses[1]:.4g}, is above that of the start, {losses[0]:.4g}. Try a "
                "smaller --learning-rate"
            ]
        )


def _require_finite(last: handgrad.Epoch, suits: str | None) -> None:
    for loss in (last.loss, last.validation_loss):
        if loss is None or not math.isfinite(loss):
            advice = "" if suits is None else f": left out, it is {suits}"
            raise FloatingPointError(
                f"the loss became {loss} in epoch {last.epoch}, and nothing is written. Try a smaller "
                f"--learning-rate{advice}."
            )
