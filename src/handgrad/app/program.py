"""The commands, their options and their help. What they do stands in modules that are imported when they run."""

import functools
import importlib.metadata
import pathlib
from typing import Annotated

import typer

import handgrad
from handgrad.app.options import FORMATS, Data, command, one_of

# The optimizers by their names in optax; sgd is the explicit update W ← W − η dL/dW.
OPTIMIZERS = ("sgd", "adagrad", "adam", "adamw", "lion", "nadam", "radam", "rmsprop")
OPTAX_LEARNING_RATE = 0.01
SCHEDULES = ("plateau", "constant", "cosine", "linear")
ACTIVATIONS = "identity, relu, leaky_relu, tanh, sigmoid, softplus, gelu, gelu_tanh, silu, softmax"

app = typer.Typer(
    pretty_exceptions_enable=False,
    epilog="Exit status: 0 done; 1 the gradient is wrong, or a training diverged; 2 a mistake in what was asked for, "
    "said in one line; 128 + n ended by signal n, 130 by Ctrl-C.",
)
command = functools.partial(command, app)

Hidden = Annotated[str, typer.Option(help="Widths of hidden layers, as in 128,64; none if left out.", metavar="WIDTHS")]
Activation = Annotated[
    str | None,
    typer.Option(
        help=f"Of the hidden layers, relu if left out: {ACTIVATIONS}.",
        metavar="NAME",
        autocompletion=one_of(ACTIVATIONS.split(", ")),
    ),
]
ClassWeight = Annotated[
    str | None,
    typer.Option(
        help="Weights of the classes: balanced, so that all count alike, or some by name; the others have 1.",
        metavar="balanced|NAME=WEIGHT,…",
    ),
]
RunFolder = Annotated[pathlib.Path, typer.Argument(help="The folder of a run, as --out names it.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of whatever is drawn.")]
Out = Annotated[
    pathlib.Path | None,
    typer.Option(help="Folder for the model, the metrics and the report, such as runs/digits.", metavar="FOLDER"),
]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Keep in --out what --resume goes on from, every N epochs or iterations of a fit; kill does so too.",
        metavar="N",
        show_default=False,
    ),
]
Resume = Annotated[
    pathlib.Path | None,
    typer.Option(
        help="Go on with a run that was ended before its time, as if it had not been; needs no other argument.",
        metavar="RUN",
        show_default=False,
    ),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="Share the work with the other processes that were started with this one, by SLURM, MPI, Kubernetes or "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; alone, on all devices of the machine.",
    ),
]
InFile = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Leave the table in its file, and read it anew for each pass: done by itself where it would take more "
        "than half of the free memory.",
    ),
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


@command("fitting", reads="table", example="handgrad fit flowers.csv --target species --out runs/flowers")
def fit(
    data: Data = None,
    l2: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Penalty (l2/2)‖W‖² added to the mean loss; scikit-learn's C is 1/(l2·rows).",
            metavar="L2",
            show_default="the best on rows held out",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Folds to choose the penalty by; 0 takes a validation part of 10 %.",
            show_default="5, or with 10,000 rows and with --time 0",
        ),
    ] = None,
    scoring: Annotated[
        str, typer.Option(help="What the penalty is chosen by: log-loss, or a score of scikit-learn's.", metavar="NAME")
    ] = "log-loss",
    class_weight: ClassWeight = None,
    seed: Seed = 0,
    out: Out = None,
    overwrite: Overwrite = False,
    stream: InFile = False,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = None,
    distributed: Distributed = False,
) -> None:
    """Fit a softmax regression to its optimum, with a proof of how near it is.

    The penalty is chosen on rows that are not trained on, along a path that goes on until the best is inside it; all
    but the test rows, a fifth, are then fitted, and the test rows are looked at once. A fit that float32 does not
    bring to its optimum says so, and is exit status 0. Ctrl-C keeps what is done. What was ended before its time,
    `handgrad fit --resume runs/flowers` goes on with.
    """


@command("probing", example="handgrad probe features.npy labels.npy --preset dino --translate")
def probe(
    features: Annotated[
        pathlib.Path, typer.Argument(help="Embeddings (N, P): .npy, .npz, .safetensors, .parquet, of any float.")
    ],
    labels: Annotated[
        str, typer.Argument(help="Their classes: a file, or the name of an array or column in FEATURES.")
    ],
    test_features: Annotated[
        pathlib.Path | None,
        typer.Option(help="Embeddings to test on; a fifth of FEATURES if left out.", metavar="FILE"),
    ] = None,
    test_labels: Annotated[str | None, typer.Option(help="Their classes.", metavar="FILE|NAME")] = None,
    name: Annotated[str | None, typer.Option(help="Of a file of arrays, the one with the features.")] = None,
    preset: Annotated[
        str,
        typer.Option(
            help="How the penalty is chosen, on a tenth of the rows: dino tries 45 values of C from 1e-6 to 1e5, clip "
            "searches 1e-6 to 1e6 in 96 steps, both by accuracy; path is what fit does, by log-loss.",
            autocompletion=one_of(("clip", "dino", "path")),
        ),
    ] = "path",
    l2: Annotated[float | None, typer.Option(min=0, help="A penalty instead of a preset.", metavar="L2")] = None,
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Bring each feature to mean 0 and deviation 1, which no preset does.")
    ] = False,
    shows_translation: Annotated[
        bool, typer.Option("--translate", help="Say what the penalty is in scikit-learn's C and alpha, and in PyTorch.")
    ] = False,
    seed: Seed = 0,
    out: Out = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit a linear probe of embeddings to its optimum, by a published protocol.

    The penalty is chosen on a tenth of the rows to train on; then all of these are fitted at the same C.
    """


@command("training", reads="table", example="handgrad train --epochs 30 --out runs/digits")
def train(
    data: Data = None,
    hidden: Hidden = "",
    activation: Activation = None,
    optimizer: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(OPTIMIZERS)}; sgd is the explicit update W ← W − η dL/dW.",
            autocompletion=one_of(OPTIMIZERS),
        ),
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
            autocompletion=one_of(SCHEDULES),
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
    stream: InFile = False,
    checkpoint_every: CheckpointEvery = None,
    resume: Resume = None,
    distributed: Distributed = False,
) -> None:
    """Train on 70 % of the rows, watch another 10 %, test on the rest, and check the gradient at both ends.

    The epoch that is best on the rows watched is kept. Exit status 1 if the loss diverges, or a gradient is wrong.
    What was ended before its time, `handgrad train --resume runs/digits` goes on with.
    """


@command("checking", reads="table", example="handgrad check --hidden 32 --activation gelu")
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


@command("predicting", reads="features", example="handgrad predict runs/flowers new.csv --out classes.csv")
def predict(
    run: RunFolder,
    data: Annotated[pathlib.Path, typer.Argument(help=f"A table: {FORMATS}. Classes there are ignored.")],
    out: Annotated[
        pathlib.Path | None, typer.Option(help="File to write to; standard output if left out.", metavar="FILE")
    ] = None,
) -> None:
    """Write a CSV: for each row its class, and the probability of every class.

    With --json an object with the same, or with --out with what was written where.
    """


@command("evaluating", reads="classes", example="handgrad evaluate runs/flowers new.csv")
def evaluate(
    run: RunFolder,
    data: Annotated[pathlib.Path, typer.Argument(help=f"A table with the classes: {FORMATS}.")],
) -> None:
    """Try a stored model on rows whose classes are known, and say how good it is there.

    Rows of classes that the model does not know are said, and left out of the numbers.
    """


@command("evaluating", reads="classes", example="handgrad compare runs/flowers runs/other --data new.csv")
def compare(
    runs: Annotated[list[pathlib.Path], typer.Argument(help="The folders of two runs or more.", metavar="RUN...")],
    data: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Rows with classes, which none of the runs should have been trained on: all are tried on them, and "
            "each is compared with the first, row by row.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Show runs side by side: what they came to, and the settings in which they differ."""


@command("exporting", example="handgrad export runs/flowers --to npz --out flowers.npz")
def export(
    run: RunFolder,
    to: Annotated[
        str,
        typer.Option(
            help="onnx, from a table's columns to the class; npz, arrays with the formula; sklearn, a Pipeline in a "
            "file of joblib, which runs code when it is loaded.",
            autocompletion=one_of(("npz", "onnx", "sklearn")),
        ),
    ],
    out: Annotated[
        pathlib.Path | None,
        typer.Option(help="File to write to; named as the run, and beside it, if left out.", metavar="FILE"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a stored model for other programs: ONNX, NumPy's arrays, scikit-learn."""


@command("benching", example="handgrad bench --seconds 5")
def bench(
    seconds: Annotated[float, typer.Option(min=1, help="What the comparisons may take, compiling apart.")] = 10.0,
) -> None:
    """Time handgrad on this machine against autograd, the plain form of a head, and scikit-learn where installed."""
