"""`handgrad check`, and the checks of the gradient that a training does at both its ends."""

import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax

import handgrad
from handgrad.app.functions import load_function
from handgrad.app.screen import Screen
from handgrad.app.tables import as_activation, as_widths, dense, read
from handgrad.data import Part, split_and_scale
from handgrad.formulas.network import layers_of

# Rows that the gradient check looks at: enough to see every mistake, and little beside the training. Many weights leave
# fewer, so that a check takes about as long as a few steps of training.
MIN_CHECKED_ROWS, MAX_CHECKED_ROWS = 32, 512
MAX_CHECKED_PRODUCTS = 2**24


def check(
    *,
    screen: Screen,
    reading: dict[str, Any],
    data: pathlib.Path | None,
    hidden: str,
    activation: str | None,
    gradient: str | None,
) -> int:
    """See `handgrad.app.program`."""
    own = None if gradient is None else load_function(gradient)
    table = read(data, reading)
    trained = split_and_scale(table).train
    sizes = (trained.X.shape[1], *as_widths(hidden), len(table.class_names))
    params = handgrad.init_network(jax.random.key(0), sizes, as_activation(activation, hidden) or "relu")
    try:
        report = check_at(params if hidden else params[0].params, trained, own)
    except TypeError as error:
        if own is None or not str(error).startswith("check_gradients: gradient must return"):
            raise
        raise ValueError(f"--gradient {gradient}: {error}") from error  # the user's mistake, not ours
    screen.say(str(report))
    screen.answer(
        lambda: {
            "passed": report.passed,
            "diagnosis": report.diagnosis,
            "checks": [each._asdict() for each in report.checks],
        }
    )
    return 0 if report.passed else 1


def check_at(
    params: handgrad.Params | tuple[handgrad.Layer, ...], part: Part, gradient: Callable[..., Any] | None = None
) -> handgrad.GradientReport:
    """The check of a gradient at these parameters, of some of the rows."""
    weights = sum(layer.params.W.size for layer in layers_of(params))
    most = max(MIN_CHECKED_ROWS, min(MAX_CHECKED_ROWS, MAX_CHECKED_PRODUCTS // weights))
    rows = slice(None, None, math.ceil(len(part.labels) / most))
    checked = dense(Part(part.X[rows], part.labels[rows], None))
    return handgrad.check_gradients(params, checked.X, checked.labels, gradient=gradient)


def print_check(screen: Screen, which: str, report: handgrad.GradientReport) -> None:
    """The table of a gradient check."""
    screen.say(f"\nThe gradient by hand, at the {which} parameters", style="bold")
    screen.say(f"{report}\n")
