"""What a model's probabilities of labelled rows come to, in numbers: the one source of every page and every screen."""

import math
from typing import NamedTuple

import numpy as np

from handgrad.shapes import Float, Int

BINS = 10
Z95 = 1.959963984540054  # of the normal distribution's two-sided 95 %


class Calibration(NamedTuple):
    """How often the predicted class is right, beside how probable the model says it is, in bins of equal numbers.

    Attributes:
      confidence, accuracy: the mean of the rows of each bin (B,).
      rows: how many each bin has (B,).
      low, high: Wilson's 95 % interval of the accuracy in each bin (B,).
      error: the expected calibration error, Σ rows/N · |accuracy − confidence|.
    """

    confidence: Float[np.ndarray, " B"]
    accuracy: Float[np.ndarray, " B"]
    rows: Int[np.ndarray, " B"]
    low: Float[np.ndarray, " B"]
    high: Float[np.ndarray, " B"]
    error: float


class Evaluation(NamedTuple):
    """A model on rows with labels.

    Attributes:
      rows, right: how many there are, and how many are predicted right; each row counts as one.
      accuracy, accuracy_interval: right/rows, and Wilson's 95 % interval.
      loss, loss_error: mean cross-entropy, weighted, in nats, and its standard error; infinite where a row's class has
        probability 0.
      majority, majority_accuracy: the most frequent class of the rows trained on, and how often it is right here.
      baseline_loss: mean cross-entropy of the classes' shares in the rows trained on, which is what W = 0 has; the
        entropy of the labels, where both parts are alike.
      confusion: (C, C), rows of each class, a row, taken for each class, a column.
      precision, recall, f1: of each class (C,); NaN where nothing is predicted, or nothing is there.
      calibration: of the predicted class.
      mistakes: indices of the rows that are wrong, the most confident first.
    """

    rows: int
    right: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    loss: float
    loss_error: float
    majority: int
    majority_accuracy: float
    baseline_loss: float
    confusion: Int[np.ndarray, "C C"]
    precision: Float[np.ndarray, " C"]
    recall: Float[np.ndarray, " C"]
    f1: Float[np.ndarray, " C"]
    calibration: Calibration
    mistakes: Int[np.ndarray, " M"]


def evaluate(
    Y: Float[np.ndarray, "N C"],
    labels: Int[np.ndarray, " N"],
    shares: Float[np.ndarray, " C"],
    weights: Float[np.ndarray, " N"] | None = None,
) -> Evaluation:
    """Evaluate probabilities Y of rows with these labels, where the rows trained on have these shares of classes.

    Example:
      >>> Y, labels = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1])
      >>> found = evaluate(Y, labels, shares=np.array([0.5, 0.5]))
      >>> found.right, found.confusion.tolist(), found.mistakes.tolist()
      (2, [[1, 0], [1, 1]], [2])
    """
    return evaluate_answers(Answered.of(Y, labels), labels, shares, weights)


class Answered(NamedTuple):
    """Of each row what an evaluation is made of: 20 bytes, however many classes there are.

    Attributes:
      own: the probability of its class (N,), float64.
      predicted: the most probable class (N,).
      confidence: its probability (N,), float64.
    """

    own: Float[np.ndarray, " N"]
    predicted: Int[np.ndarray, " N"]
    confidence: Float[np.ndarray, " N"]

    @classmethod
    def of(cls, Y: Float[np.ndarray, "N C"], labels: Int[np.ndarray, " N"]) -> "Answered":
        """Of probabilities; a row whose label is −1 has an own probability of NaN."""
        rows = np.arange(len(Y))
        predicted = Y.argmax(axis=1).astype(np.int32)
        own = np.where(labels < 0, np.nan, Y[rows, labels])
        return cls(own.astype(np.float64), predicted, Y[rows, predicted].astype(np.float64))

    def take(self, rows: np.ndarray) -> "Answered":
        """Some of the rows."""
        return Answered(*(array[rows] for array in self))

    @property
    def losses(self) -> Float[np.ndarray, " N"]:
        """The cross-entropy of each row."""
        with np.errstate(divide="ignore"):
            return -np.log(self.own)


def evaluate_answers(
    answered: Answered,
    labels: Int[np.ndarray, " N"],
    shares: Float[np.ndarray, " C"],
    weights: Float[np.ndarray, " N"] | None = None,
) -> Evaluation:
    """As `evaluate`, of what is left of the probabilities."""
    num_rows, num_classes, predicted = len(labels), len(shares), answered.predicted
    weights = np.ones(num_rows) if weights is None else np.asarray(weights, np.float64)
    is_right = predicted == labels
    right = int(is_right.sum())
    confusion = np.bincount(labels * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, -1)
    hits, there, taken = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        baseline = -np.log(shares[labels])
        precision, recall = hits / taken, hits / there
        f1 = np.where(there + taken > 0, 2 * hits / np.where(there + taken > 0, there + taken, 1), np.nan)
    loss, loss_error = weighted_mean(answered.losses, weights)
    wrong = np.flatnonzero(~is_right)
    confidence = answered.confidence
    majority = int(np.argmax(shares))
    return Evaluation(
        rows=num_rows,
        right=right,
        accuracy=right / num_rows,
        accuracy_interval=wilson(right, num_rows),
        loss=loss,
        loss_error=loss_error,
        majority=majority,
        majority_accuracy=float(np.mean(labels == majority)),
        baseline_loss=weighted_mean(baseline, weights)[0],
        confusion=confusion,
        precision=precision,
        recall=recall,
        f1=f1,
        calibration=calibrate(confidence, is_right),
        mistakes=wrong[np.argsort(-confidence[wrong], kind="stable")],
    )


def wilson(right: int, rows: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share.

    Reference: E. B. Wilson, *Probable Inference, the Law of Succession, and Statistical Inference*, JASA 22 (1927).

    Example:
      >>> low, high = wilson(9, 10)
      >>> round(low, 4), round(high, 4)
      (0.5958, 0.9821)
    """
    share, z2 = right / rows, Z95**2 / rows
    middle = (share + z2 / 2) / (1 + z2)
    half = Z95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def calibrate(confidence: Float[np.ndarray, " N"], is_right: np.ndarray) -> Calibration:
    """Calibration in at most ten bins of equal numbers of rows, from the least confident to the most."""
    order = np.argsort(confidence, kind="stable")
    bins = [part for part in np.array_split(order, min(BINS, len(order))) if len(part)]
    rows = np.array([len(part) for part in bins])
    means = np.array([[confidence[part].mean(), is_right[part].mean()] for part in bins])
    error = float(np.sum(rows * np.abs(means[:, 1] - means[:, 0])) / rows.sum())
    low, high = np.array([wilson(int(is_right[part].sum()), len(part)) for part in bins]).T
    return Calibration(means[:, 0], means[:, 1], rows, low, high, error)


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error; infinities count where they have weight."""
    counted = weights > 0
    values, weights = values[counted], weights[counted]
    if not values.size:
        return 0.0, 0.0
    share = weights / weights.sum()
    mean = float(share @ values)
    if not math.isfinite(mean):
        return mean, math.inf
    size = len(values)
    error = math.sqrt(float(share**2 @ (values - mean) ** 2) * (size / (size - 1) if size > 1 else 1.0))
    return mean, error
