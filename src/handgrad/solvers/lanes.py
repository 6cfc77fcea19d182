"""The problems of the solver, and the state of each of its lanes, in which one of them is being solved."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax import Array

from handgrad.shapes import Bool, Float, Int
from handgrad.solvers.penalty import L2

ABSENT = 1e4  # −bias of a class that is left out: exp underflows to 0 there

RUNNING, CONVERGED, PRECISION, ITERATIONS = range(4)


class Problems(NamedTuple):
    """J problems: a penalty each, which of F folds, and where each starts, in the order in which they are taken up.

    The bias of a class that a fold leaves out is −ABSENT in its start, and stays there.
    """

    penalty: L2
    fold: Int[np.ndarray, " J"]
    starts: Sequence[Float[np.ndarray, "P+1 C"]]


class Solutions(NamedTuple):
    """What is known of J problems, in the solver's coordinates, the bias being the last row of V."""

    V: list[Float[np.ndarray, "P+1 C"]]
    iterations: Int[np.ndarray, " J"]
    passes: Int[np.ndarray, " J"]
    status: Int[np.ndarray, " J"]


class Lanes(NamedTuple):
    """The state of K lanes: where each is, the line it searches, and the pairs it remembers.

    Gradients, directions, S and Y are in the eigenbasis of A.
    """

    penalty: L2
    present: Bool[Array, "K C"]  # the classes that are not left out
    fresh: Bool[Array, " K"]  # whether the trial point is where a search begins anew, whatever its loss
    V: Float[Array, "K P+1 C"]
    loss: Float[Array, " K"]
    gradient: Float[Array, "K P+1 C"]
    direction: Float[Array, "K P+1 C"]
    step: Float[Array, "K P+1 C"]  # the direction in the basis of V
    slope: Float[Array, " K"]  # φ′(0) along it
    alpha: Float[Array, " K"]  # the trial point is V + α·step
    low: Float[Array, " K"]  # the bracket, and the slopes at its ends
    low_slope: Float[Array, " K"]
    high: Float[Array, " K"]
    high_slope: Float[Array, " K"]
    trials: Int[Array, " K"]
    S: Float[Array, "K m D"]  # the last steps s and changes y of the gradient, each in the slot that was oldest
    Y: Float[Array, "K m D"]
    SY: Float[Array, "K m m"]  # s_i·y_j
    pairs: Int[Array, " K"]  # how many there have been


class Report(NamedTuple):
    """What the driver is told of each lane after a trial."""

    accepted: Bool[Array, " K"]
    failed: Bool[Array, " K"]  # no step is found along this line
    loss: Float[Array, " K"]
    measure: Float[Array, " K"]  # about the gap; where there is no penalty ‖∇‖²
