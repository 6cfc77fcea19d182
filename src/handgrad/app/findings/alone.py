"""What a feature tells of the classes alone: a small decision tree of one column, measured on the test rows.

A column is cut where the classes' entropy falls most, as long as that shortens the description of the classes, so that
a column of noise is left in one piece; a column of text, or of few different numbers, has a leaf for each of them.

Reference: U. Fayyad and K. Irani, *Multi-Interval Discretization of Continuous-Valued Attributes for Classification
Learning* (IJCAI 1993).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from handgrad.data.encoding import features_of
from handgrad.shapes import Float, Int

if TYPE_CHECKING:
    from handgrad.app.runs import Run

MOST_ROWS = 20_000  # of which trees are made
MOST_FEATURES = 100  # beyond these only the ones whose means differ most between the classes are looked at
MOST_MEANS = 2**24  # of features and classes; beyond these nothing is looked at
MOST_BINS = 256  # between whose edges cuts are looked for
LEAST_ROWS = 5  # in a leaf
NEARLY_ALL = 0.95  # of the labels' entropy, which one feature explains
FEW = 16  # different numbers, which may be codes


class Alone(NamedTuple):
    """A feature alone.

    Attributes:
      name: of the column, or the number of an array's.
      losses: of the test rows by the shares of the classes in their leaves (N,), in nats.
      right: whether each of the test rows is predicted right (N,).
      explained: 1 − loss/baseline on the test rows: 0 for noise, 1 for the answer itself.
      train_explained: that of the rows trained on, each left out of its own leaf.
    """

    name: str
    losses: Float[np.ndarray, " N"]
    right: np.ndarray
    explained: float
    train_explained: float

    @property
    def is_nearly_the_answer(self) -> bool:
        """Whether the classes follow from it."""
        return min(self.explained, self.train_explained) >= NEARLY_ALL


def judge_features(run: Run) -> tuple[Alone, ...]:
    """What each feature tells alone, the one first that tells most of the rows trained on."""
    train, test = run.split.train, run.split.test
    rows = np.arange(0, len(train.labels), -(-len(train.labels) // MOST_ROWS) or 1)
    num_classes = len(run.model.class_names)
    if len(rows) < 2 * LEAST_ROWS or not len(test.labels) or num_classes * train.X.shape[1] > MOST_MEANS:
        return ()
    labels = train.labels[rows]
    found = []
    for name, is_text, values, tested in _columns(run, rows, _screen(run, rows, labels)):
        if is_text:
            leaf, test_leaf = values, tested
        else:
            edges = _edges(values)
            bins, test_bins = (np.searchsorted(edges, each, side="right") for each in (values, tested))
            counts = np.bincount(bins * num_classes + labels, minlength=(len(edges) + 1) * num_classes)
            leaves = np.arange(len(edges) + 1) if len(edges) <= FEW else cut(counts, num_classes)
            leaf, test_leaf = leaves[bins], leaves[test_bins]
        found.append(_judge(name, leaf, labels, test_leaf, test.labels, num_classes))
    return tuple(sorted(found, key=lambda alone: -alone.train_explained))


def cut(counts: Int[np.ndarray, " B·C"], num_classes: int) -> Int[np.ndarray, " B"]:
    """The leaf of each bin, where the bins, in order, have so many rows of each class.

    Example:
      >>> cut(np.array([9, 0, 9, 0, 0, 9, 0, 9]), num_classes=2).tolist()
      [0, 0, 1, 1]
    """
    counts = counts.reshape(-1, num_classes)
    starts, intervals = [], [(0, len(counts))]
    while intervals:
        start, end = intervals.pop()
        middle = _best_cut(counts[start:end])
        if middle is None:
            starts.append(start)
        else:
            intervals += [(start, start + middle), (start + middle, end)]
    return np.searchsorted(np.sort(starts), np.arange(len(counts)), side="right") - 1


def _best_cut(counts: Int[np.ndarray, "B C"]) -> int | None:
    left = np.cumsum(counts, axis=0)[:-1]
    total = counts.sum(axis=0)
    right = total - left
    rows = left.sum(axis=1), right.sum(axis=1)
    may = np.minimum(*rows) >= LEAST_ROWS
    if not may.any():
        return None
    bits = [_entropy(part) for part in (total[None], left, right)]
    gain = np.where(may, bits[0] - bits[1] - bits[2], -np.inf)
    best = int(np.argmax(gain))
    # The description of the cut, and of the classes on either side of it.
    num_rows = int(total.sum())
    own = [np.count_nonzero(part) for part in (total, left[best], right[best])]
    mean_bits = [bits[0][0] / num_rows, bits[1][best] / rows[0][best], bits[2][best] / rows[1][best]]
    cost = np.log2(num_rows - 1) + own[0] * np.log2(3) - own[0] * mean_bits[0]
    cost += own[1] * mean_bits[1] + own[2] * mean_bits[2]
    return best + 1 if gain[best] > cost else None


def _entropy(counts: Int[np.ndarray, "B C"]) -> Float[np.ndarray, " B"]:
    """Of all rows of each line together, in bits."""
    totals = counts.sum(axis=1)
    own = np.where(counts > 0, counts, 1)
    return totals * np.log2(np.where(totals > 0, totals, 1)) - (own * np.log2(own)).sum(axis=1)


def _edges(values: np.ndarray) -> np.ndarray:
    """Between the different values, or those of equal numbers of rows; the last before what is missing."""
    different = np.unique(values[~np.isnan(values)])
    if len(different) > MOST_BINS:
        shares = np.arange(1, MOST_BINS) / MOST_BINS
        return np.append(np.unique(np.nanquantile(values, shares)), np.inf)
    return np.append(different[1:], np.inf)


def _judge(
    name: str, leaf: np.ndarray, labels: np.ndarray, test_leaf: np.ndarray, test_labels: np.ndarray, num_classes: int
) -> Alone:
    num_leaves = int(max(leaf.max(), test_leaf.max())) + 2  # the last is that of a text which is missing, −1
    counts = np.bincount(leaf % num_leaves * num_classes + labels, minlength=num_leaves * num_classes)
    counts = counts.reshape(num_leaves, num_classes).astype(np.float64)
    shares = (np.bincount(labels, minlength=num_classes) + 1) / (len(labels) + num_classes)
    rows = counts.sum(axis=1)
    losses = -np.log((counts[test_leaf, test_labels] + shares[test_labels]) / (rows[test_leaf] + 1))
    # A row does not count in its own leaf, or a leaf of its own would tell it.
    own = -np.log((counts[leaf, labels] - 1 + shares[labels]) / rows[leaf])
    predicted = (counts + shares).argmax(axis=1)
    return Alone(
        name,
        losses,
        predicted[test_leaf] == test_labels,
        1 - losses.mean() / -np.log(shares[test_labels]).mean(),
        1 - own.mean() / -np.log(shares[labels]).mean(),
    )


# --- Which columns ----------------------------------------------------------------------------------------------------


def _columns(run: Run, rows: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[str, bool, np.ndarray, np.ndarray]]:
    """The name, whether it is text, the values of these rows trained on, and those of the test rows."""
    train, test = run.split.train, run.split.test
    inputs, columns = run.split.encoding.inputs, run.table.columns
    if inputs is not None and columns is not None:
        for index in chosen:
            name = inputs[index].name
            column = columns[name]
            values = column.values
            yield name, column.kind == "text", values[run.split.rows.train[rows]], values[run.split.rows.test]
        return
    X, X_test = (_chosen(part, chosen) for part in (train.X[rows], test.X))
    for place, index in enumerate(chosen):
        yield f"feature {index + 1}", False, X[:, place], X_test[:, place]


def _chosen(X: np.ndarray | sparse.csr_array, chosen: np.ndarray) -> np.ndarray:
    part = X[:, chosen]
    return part if isinstance(part, np.ndarray) else part.toarray()


def _screen(run: Run, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The inputs whose means differ most between the classes, beside their deviations; all where they are few."""
    inputs = run.split.encoding.inputs
    X = run.split.train.X
    num_inputs = X.shape[1] if inputs is None else len(inputs)
    if num_inputs <= MOST_FEATURES:
        return np.arange(num_inputs)
    X = X[rows]
    share = sparse.csr_array((np.full(len(rows), 1 / len(rows)), (labels, np.arange(len(rows)))))
    weight = share.sum(axis=1)[:, None]
    sums = share @ X
    sums = sums if isinstance(sums, np.ndarray) else sums.toarray()
    squares = (X**2 if isinstance(X, np.ndarray) else X.power(2)).mean(axis=0)
    mean = sums.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nansum(sums**2 / weight, axis=0) - mean**2
        told = np.nan_to_num(between / (np.asarray(squares) - mean**2), posinf=0, neginf=0)
    if inputs is not None:
        sizes = [len(features_of(each)) for each in inputs]
        told = np.maximum.reduceat(told, np.cumsum([0, *sizes[:-1]]))
    return np.sort(np.argsort(-told, kind="stable")[:MOST_FEATURES])
