"""The commands, their options and their help. What they do stands in modules that are imported when they run."""

import functools
import importlib.metadata
import pathlib
from typing import Annotated

import typer

import handgrad
from handgrad.app.options import FORMATS, Data, command

# The optimizers by their names in optax; sgd is the explicit update W ← W − η dL/dW.
OPTIMIZERS = ("sgd", "adagrad", "adam", "adamw", "lion", "nadam", "radam", "rmsprop")
OPTAX_LEARNING_RATE = 0.01
SCHEDULES = ("plateau", "constant", "cosine", "linear")
ACTIVATIONS = "identity, relu, leaky_relu, tanh, sigmoid, softplus, gelu, gelu_tanh, silu, softmax"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
command = functools.partial(command, app)

Hidden = Annotated[str, typer.Option(help="Widths of hidden layers, as in 128,64; none if left out.", metavar="WIDTHS")]
Activation = Annotated[
    str | None, typer.Option(help=f"Of the hidden layers, relu if left out: {ACTIVATIONS}.", metavar="NAME")
]
ClassWeight = Annotated[
    str | None,
    typer.Option(
        help="Weights of the classes: balanced, so that all count alike, or some by name; the others have 1.",
        metavar="balanced|NAME=WEIGHT,…",
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of whatever is drawn.")]
Out = Annotated[
    pathlib.Path | None,
    typer.Option(help="Folder for the model, the metrics and the report, such as runs/digits.", metavar="FOLDER"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is in the folder.")]


@app.callback(invoke_without_command=True)
def _handgrad(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """The softmax output layer, its gradients derived by hand and proved against autograd."""
    if version:
        typer.echo(f"handgrad {handgrad.__version__}, jax {importlib.metadata.version('jax')}")
        raise typer.Exit


@command("training", reads="table")
def train(
    data: Data = None,
    hidden: Hidden = "",
    activation: Activation = None,
    optimizer: Annotated[
        str, typer.Option(help=f"{', '.join(OPTIMIZERS)}; sgd is the explicit update W ← W − η dL/dW.")
    ] = "sgd",
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="η. For sgd one over the curvature of the loss on the data, and 0.1 with --hidden; "
            f"{OPTAX_LEARNING_RATE} for the others.",
            show_default="what suits the data",
        ),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option(
            help=f"How η goes on: {', '.join(SCHEDULES)}. plateau: when patience ends for the first time, on from the "
            "best epoch at a tenth. The last two go down to 0 in all epochs.",
            metavar="NAME",
        ),
    ] = "plateau",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step.")] = 32,
    full_batch: Annotated[bool, typer.Option("--full-batch", help="All rows in one step.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="How often to go over the rows, at most.")] = 200,
    patience: Annotated[
        int, typer.Option(min=0, help="Epochs without a better validation loss that end the training; 0 for no end.")
    ] = 20,
    class_weight: ClassWeight = None,
    l2: Annotated[float, typer.Option(min=0, help="Penalty (l2/2)‖W‖² added to the mean loss.")] = 0.0,
    seed: Seed = 0,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Train on 70 % of the rows, watch another 10 %, test on the rest, and check the gradient at both ends.

    The epoch that is best on the rows watched is kept. Exit status 1 if the loss diverges, or a gradient is wrong.
    """


@command("checking", reads="table")
def check(
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
) -> None:
    """Compare a gradient, the one by hand or your own, with autograd and with differences, at random weights.

    Exit status 1 if it is wrong.
    """


@command("predicting", reads="features")
def predict(
    run: Annotated[pathlib.Path, typer.Argument(help="The folder of a run, as --out names it.")],
    data: Annotated[pathlib.Path, typer.Argument(help=f"A table: {FORMATS}. Classes there are ignored.")],
    out: Annotated[
        pathlib.Path | None, typer.Option(help="File to write to; standard output if left out.", metavar="FILE")
    ] = None,
) -> None:
    """Write a CSV: for each row its class, and the probability of every class."""
