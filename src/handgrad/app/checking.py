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
from handgrad.check.gradients import MAX_DIFFERENCES, MAX_MULTIPLICATIONS, MIN_DIFFERENCES
from handgrad.data import Part, split_and_scale
from handgrad.formulas.network import layers_of

# What a check may cost, in multiplications: 2**27 of them take about a tenth of a second. Its rows follow from that.
MOST, LEAST = 2**32, 2**27
MAX_CHECKED_ROWS, MIN_CHECKED_ROWS = 512, 2  # of two rows on a mean is no sum
OF_BOTH_CHECKS = 0.1  # of what the training costs
OF_AUTOGRAD = 30  # products of a layer: in two dtypes autograd, the gradient, and what rounding does to each of them


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
    params: handgrad.Params | tuple[handgrad.Layer, ...],
    part: Part,
    gradient: Callable[..., Any] | None = None,
    *,
    budget: float = MOST,
) -> handgrad.GradientReport:
    """The check of a gradient at these parameters, of as many of the rows as so many multiplications allow."""
    most = MAX_CHECKED_ROWS
    while most > MIN_CHECKED_ROWS and multiplications(params, most) > budget:
        most //= 2
    rows = slice(None, None, math.ceil(len(part.labels) / most))
    checked = dense(Part(part.X[rows], part.labels[rows], None))
    return handgrad.check_gradients(params, checked.X, checked.labels, gradient=gradient)


def multiplications(params: handgrad.Params | tuple[handgrad.Layer, ...], rows: int) -> float:
    """About how many a check of so many rows costs: most of them for the differences, four losses for each entry."""
    layers = layers_of(params)
    of_loss = float(rows) * sum(layer.params.W.size for layer in layers)
    entries = min(max(MAX_MULTIPLICATIONS / (4 * of_loss), MIN_DIFFERENCES), MAX_DIFFERENCES)
    return of_loss * (2 * len(layers) * 4 * entries + OF_AUTOGRAD)


def budget_of_each(params: handgrad.Params | tuple[handgrad.Layer, ...], rows: int, epochs: int) -> float:
    """What each of two checks may cost beside a training: three products a layer for each row and epoch."""
    of_training = 3.0 * rows * epochs * sum(layer.params.W.size for layer in layers_of(params))
    return max(LEAST, OF_BOTH_CHECKS * of_training / 2)


def print_check(screen: Screen, which: str, report: handgrad.GradientReport) -> None:
    """The table of a gradient check."""
    screen.say(f"\nThe gradient by hand, at the {which} parameters", style="bold")
    screen.say(f"{report}\n")
