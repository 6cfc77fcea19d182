"""The problems of the solver, and the state of each of its lanes, in which one of them is being solved."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from handgrad.shapes import Bool, Float, Int
from handgrad.solvers.penalty import L2

ABSENT = 1e4  # −bias of a class that is left out: exp underflows to 0 there

RUNNING, CONVERGED, PRECISION, ITERATIONS, STOPPED = range(5)


class Problems(NamedTuple):
    """J problems: a penalty each, which of F folds, where each starts and what iterations it has had, in the order in
    which they are taken up.

    The bias of a class that a fold leaves out is −ABSENT in its start, and stays there.
    """

    penalty: L2
    fold: Int[np.ndarray, " J"]
    starts: Sequence[Any] | np.ndarray
    iterations: Int[np.ndarray, " J"]


class Solutions(NamedTuple):
    """What is known of J problems, in the solver's coordinates, the bias being the last row of V."""

    V: Any  # a list of (P+1, C); in a state an array
    iterations: Int[np.ndarray, " J"]
    passes: Int[np.ndarray, " J"]
    status: Int[np.ndarray, " J"]


class Lanes(NamedTuple):
    """The state of K lanes on the device: where each is, which way it goes, and the pairs it remembers.

    Gradients, directions, S and Y are in the eigenbasis of A.
    """

    penalty: L2
    present: Bool[Any, "K C"]  # the classes that are not left out
    V: Float[Any, "K P1 C"]
    gradient: Float[Any, "K P1 C"]
    g: Float[Any, "K C"]  # Σ w y(1 − y)
    direction: Float[Any, "K P1 C"]
    step: Float[Any, "K P1 C"]  # the direction in the basis of V
    S: Float[Any, "K m D"]  # the last steps s and changes y of the gradient, each in the slot that was oldest
    Y: Float[Any, "K m D"]
    SY: Float[Any, "K m m"]  # s_i·y_j, where j is no older than i
    pairs: Int[Any, " K"]  # how many there have been


class Report(NamedTuple):
    """What the host is told of the trial points."""

    loss: Float[Any, " K"]
    slope: Float[Any, " K"]  # along the direction that led there
    measure: Float[Any, " K"]  # about the gap; where there is no penalty ‖∇‖²
