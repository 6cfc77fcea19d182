"""The commands: `handgrad train`, `handgrad check`, `handgrad predict`."""

import contextlib
import math
import pathlib
import sys
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np
import optax
import typer
from rich.console import Console

import handgrad
from handgrad.app.functions import load_function
from handgrad.app.options import FORMATS, Data, flag_of, reads_features, reads_table
from handgrad.app.report import (
    Run,
    Settings,
    make_console,
    print_check,
    print_data,
    print_summary,
    show_epochs,
    write_run,
)
from handgrad.app.words import one_line
from handgrad.data import Part, Table, load_digits, read_features, read_table, split_and_scale, write_table
from handgrad.data.sources import require_memory
from handgrad.data.splitting import VALIDATION
from handgrad.files import MODEL_FILE, new_file, new_run
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.formulas.network import layers_of
from handgrad.models import Model, answer, load

# The optimizers by their names in optax; sgd is the explicit update W ← W − η dL/dW.
OPTIMIZERS = ("sgd", "adagrad", "adam", "adamw", "lion", "nadam", "radam", "rmsprop")
SGD_LEARNING_RATE = 0.5
OPTAX_LEARNING_RATE = 0.01
# Rows that the gradient check looks at: enough to see every mistake, and little beside the training. Many weights leave
# fewer, so that a check takes about as long as a few steps of training.
MIN_CHECKED_ROWS, MAX_CHECKED_ROWS = 32, 512
MAX_CHECKED_PRODUCTS = 2**24

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

Hidden = Annotated[str, typer.Option(help="Widths of hidden layers, as in 128,64; none if left out.", metavar="WIDTHS")]
Activation = Annotated[
    str | None,
    typer.Option(help=f"Of the hidden layers, relu if left out: {', '.join(ACTIVATIONS)}.", metavar="NAME"),
]


@app.callback(invoke_without_command=True)
def _handgrad(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """The softmax output layer, its gradients derived by hand and proved against autograd."""
    if version:
        print(f"handgrad {handgrad.__version__}, jax {jax.__version__}")
        raise typer.Exit


@app.command()
@reads_table
def train(
    reading: dict[str, Any],
    data: Data = None,
    hidden: Hidden = "",
    activation: Activation = None,
    optimizer: Annotated[
        str, typer.Option(help=f"{', '.join(OPTIMIZERS)}; sgd is the explicit update W ← W − η dL/dW.")
    ] = "sgd",
    learning_rate: Annotated[
        float | None,
        typer.Option(help="η.", show_default=f"{SGD_LEARNING_RATE} for sgd, {OPTAX_LEARNING_RATE} for the others"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 32,
    full_batch: Annotated[bool, typer.Option("--full-batch", help="All rows in one step.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="How often to go over the rows.")] = 200,
    l2: Annotated[float, typer.Option(min=0, help="Penalty (l2/2)‖W‖² added to the mean loss.")] = 0.0,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Of the split, the rows' order and the first weights.")
    ] = 0,
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder for the model, the metrics and the pictures, such as runs/digits.", metavar="FOLDER"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is in the folder.")] = False,
) -> int:
    """Train on 70 % of the rows, watch another 10 %, test on the rest, and check the gradient at both ends."""
    settings = Settings(
        data=str(data or "digits"),
        hidden=_hidden(hidden),
        activation=_activation(activation, hidden),
        optimizer=optimizer,
        learning_rate=_learning_rate(optimizer, learning_rate),
        batch_size=None if full_batch else batch_size,
        epochs=epochs,
        l2=l2,
        seed=seed,
    )
    console = make_console()
    with contextlib.ExitStack() as stack:
        folder = None if out is None else stack.enter_context(new_run(out, overwrite=overwrite))
        run = _train(console, settings, _read(data, reading))
        if folder is not None:
            write_run(folder, run)
    print_summary(console, run, out)
    return 0 if run.gradient_check_passed else 1


def _train(console: Console, settings: Settings, table: Table) -> Run:
    split = split_and_scale(table, validation=VALIDATION, seed=settings.seed)
    print_data(console, settings, table, split)
    trained, validated, tested = map(_dense, (split.train, split.validation, split.test))
    watched = validated if len(validated.labels) else trained
    sizes = (trained.X.shape[1], *settings.hidden, len(table.class_names))
    params = _init(sizes, settings.activation, settings.seed)
    checks = [_check(params, trained)]
    print_check(console, "first", checks[0])
    is_explicit = settings.optimizer == "sgd"
    start = time.perf_counter()
    with show_epochs(console, settings.epochs) as show_epoch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an infinite loss, which _require_finite reports
        params, history = handgrad.train(
            trained.X,
            trained.labels,
            optimizer=None if is_explicit else getattr(optax, settings.optimizer)(settings.learning_rate),
            learning_rate=settings.learning_rate if is_explicit else None,
            batch_size=settings.batch_size,
            epochs=settings.epochs,
            l2=settings.l2,
            weights=trained.weights,
            validation=watched[:2],
            params=params,
            key=jax.random.key(settings.seed),
            callback=show_epoch,
        )
    seconds = time.perf_counter() - start
    train_loss, test_loss = (float(handgrad.loss(params, *part)) for part in (trained, tested))
    _require_finite(history[-1], train_loss, test_loss)
    checks.append(_check(params, trained))
    print_check(console, "last", checks[1])
    return Run(
        settings=settings,
        split=split,
        model=Model(params, split.encoding, table.class_names, table.target),
        history=history,
        train_loss=train_loss,
        test_loss=test_loss,
        predictions=np.asarray(handgrad.predict(params, tested.X)),
        checks=tuple(checks),
        seconds=seconds,
    )


@app.command()
@reads_table
def check(
    reading: dict[str, Any],
    data: Data = None,
    hidden: Hidden = "",
    activation: Activation = None,
    gradient: Annotated[
        str | None,
        typer.Option(
            help="A gradient of your own to check: a function of (params, X, targets) that returns (dW, db), or one "
            "such pair a layer with --hidden. It gets NumPy arrays, params.W (P, C), params.b (1, C), X (N, P), and "
            "labels (N,); it may compute with PyTorch or JAX.",
            metavar="FILE.py:FUNCTION",
        ),
    ] = None,
) -> int:
    """Compare a gradient, the one by hand or your own, with autograd and with differences, at random weights.

    Exit status 1 if it is wrong.
    """
    own = None if gradient is None else load_function(gradient)
    table = _read(data, reading)
    trained = split_and_scale(table).train
    sizes = (trained.X.shape[1], *_hidden(hidden), len(table.class_names))
    params = handgrad.init_network(jax.random.key(0), sizes, _activation(activation, hidden) or "relu")
    try:
        report = _check(params if hidden else params[0].params, trained, own)
    except TypeError as error:
        if own is None or not str(error).startswith("check_gradients: gradient must return"):
            raise
        raise ValueError(f"--gradient {gradient}: {error}") from error  # the user's mistake, not ours
    print(report)
    return 0 if report.passed else 1


@app.command()
@reads_features
def predict(
    reading: dict[str, Any],
    run: Annotated[pathlib.Path, typer.Argument(help="The folder that `handgrad train --out` wrote.")],
    data: Annotated[pathlib.Path, typer.Argument(help=f"A table: {FORMATS}. Classes there are ignored.")],
    out: Annotated[
        pathlib.Path | None, typer.Option(help="File to write to; standard output if left out.", metavar="FILE")
    ] = None,
) -> None:
    """Write a CSV: for each row its class, and the probability of every class."""
    model = load(run)
    table = read_features(data, model.encoding, target=model.target, **reading)
    answers = answer(model, table)
    for note in answers.notes:
        print(f"note: {one_line(note)}", file=sys.stderr)
    if out is None:
        _write_predictions(sys.stdout, model, table, answers.Y)
        return
    for path in (data, run, run / MODEL_FILE):
        if out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"{out}: --out is what is read here. Choose another name.")
    with new_file(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        _write_predictions(file, model, table, answers.Y)


def _write_predictions(file: Any, model: Model, table: Table, Y: np.ndarray) -> None:
    has_none = np.isnan(Y[:, 0])
    names = [*model.class_names, None]
    classes = [names[index] for index in np.where(has_none, -1, Y.argmax(axis=1)).tolist()]
    columns: list[tuple[str, Any]] = [*table.ids.items(), ("class", classes)]
    for name, probabilities in zip(model.class_names, Y.T, strict=True):
        columns.append((str(name), np.where(has_none, None, probabilities) if has_none.any() else probabilities))
    write_table(file, columns)


def _read(data: pathlib.Path | None, reading: dict[str, Any]) -> Table:
    if data is not None:
        return read_table(data, **reading)
    if reading:
        raise ValueError(f"{flag_of(next(iter(reading)))} needs DATA, a table to read.")
    return load_digits()


def _init(sizes: tuple[int, ...], activation: str | None, seed: int) -> handgrad.Params | tuple[handgrad.Layer, ...]:
    """Zeros for a softmax regression, and for a network random weights, without which its units would stay alike."""
    return (
        handgrad.init_network(jax.random.key(seed), sizes, activation) if activation else handgrad.init_params(*sizes)
    )


def _hidden(text: str) -> tuple[int, ...]:
    widths = tuple(int(width) if width.strip().isdecimal() else 0 for width in text.split(",")) if text else ()
    if 0 in widths:
        raise ValueError(f"--hidden must be widths of layers with commas between them, as in 128,64; got {text!r}.")
    return widths


def _activation(name: str | None, hidden: str) -> str | None:
    if not hidden:
        if name is not None:
            raise ValueError(f"--activation is that of hidden layers; got {name!r} without --hidden. Add --hidden 64.")
        return None
    if name is None:
        return "relu"
    if name not in ACTIVATIONS:
        raise ValueError(f"--activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}.")
    return name


def _learning_rate(optimizer: str, learning_rate: float | None) -> float:
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"--optimizer must be one of {', '.join(OPTIMIZERS)}; got {optimizer!r}.")
    if learning_rate is None:
        return SGD_LEARNING_RATE if optimizer == "sgd" else OPTAX_LEARNING_RATE
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"--learning-rate must be positive and finite; got {learning_rate}.")
    return learning_rate


def _check(
    params: handgrad.Params | tuple[handgrad.Layer, ...], part: Part, gradient: Callable[..., Any] | None = None
) -> handgrad.GradientReport:
    weights = sum(layer.params.W.size for layer in layers_of(params))
    most = max(MIN_CHECKED_ROWS, min(MAX_CHECKED_ROWS, MAX_CHECKED_PRODUCTS // weights))
    rows = slice(None, None, math.ceil(len(part.labels) / most))
    checked = _dense(Part(part.X[rows], part.labels[rows], None))
    return handgrad.check_gradients(params, checked.X, checked.labels, gradient=gradient)


def _dense(part: Part) -> Part:
    """The part with all its zeros: gradient descent takes them so."""
    if isinstance(part.X, np.ndarray):
        return part
    require_memory("the dense features", 4 * part.X.shape[0] * part.X.shape[1])
    return part._replace(X=part.X.toarray())


def _require_finite(last: handgrad.Epoch, *losses: float) -> None:
    for loss in (last.loss, last.validation_loss, *losses):
        if loss is None or not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {last.epoch}, and nothing is written. Try a smaller --learning-rate."
            )
