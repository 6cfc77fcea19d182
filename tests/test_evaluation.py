"""The numbers of an evaluation against scikit-learn's, and against what they are by definition."""

import math

import numpy as np
import pytest
from sklearn import metrics

from handgrad.app.evaluation import calibrate, evaluate, wilson


def draw(seed, num_rows, num_classes, *, absent=False):
    generator = np.random.default_rng(seed)
    Z = 2 * generator.normal(size=(num_rows, num_classes))
    Y = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    labels = generator.integers(num_classes - absent, size=num_rows)
    return Y, labels, generator.uniform(0.1, 3, size=num_rows)


@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize(
    ("seed", "num_rows", "num_classes"), [(0, 200, 3), (1, 40, 40), (2, 1, 2), (3, 7, 7), (4, 9, 1)]
)
def test_numbers_are_those_of_scikit_learn(seed, num_rows, num_classes):
    Y, labels, weights = draw(seed, num_rows, num_classes)
    names = np.arange(num_classes)
    found = evaluate(Y, labels, np.full(num_classes, 1 / num_classes), weights)
    predicted = Y.argmax(axis=1)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert found.right == (labels == predicted).sum()
    if num_classes > 1:
        assert found.loss == pytest.approx(metrics.log_loss(labels, Y, sample_weight=weights, labels=names))
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(labels, predicted, labels=names))
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=np.nan
    )
    np.testing.assert_allclose(found.precision, precision)
    np.testing.assert_allclose(found.recall, recall)
    np.testing.assert_allclose(found.f1, f1)
    assert found.baseline_loss == pytest.approx(math.log(num_classes))


def test_a_row_of_a_class_that_has_probability_0_is_an_infinite_loss_if_it_has_weight():
    Y, labels, shares = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([0, 1]), np.array([1.0, 0.0])
    found = evaluate(Y, labels, shares)
    assert (found.loss, found.loss_error, found.baseline_loss) == (math.inf, math.inf, math.inf)
    masked = evaluate(Y, labels, shares, np.array([1.0, 0.0]))
    assert (masked.loss, masked.loss_error, masked.baseline_loss) == (0, 0, 0)


def test_the_standard_error_is_that_of_the_mean_and_of_rows_counted_as_often_as_they_weigh():
    Y, labels, _ = draw(5, 400, 3)
    losses = -np.log(Y[np.arange(400), labels])
    found = evaluate(Y, labels, np.full(3, 1 / 3))
    assert found.loss_error == pytest.approx(losses.std(ddof=1) / 20)
    scaled = evaluate(Y, labels, np.full(3, 1 / 3), np.full(400, 7.0))
    assert scaled.loss_error == pytest.approx(found.loss_error)
    means = [
        evaluate(Y, labels, np.full(3, 1 / 3), np.random.default_rng(seed).multinomial(400, np.full(400, 1 / 400))).loss
        for seed in range(500)
    ]
    assert np.std(means) == pytest.approx(found.loss_error, rel=0.15)  # the bootstrap's


def test_the_interval_holds_the_truth_nineteen_times_of_twenty():
    generator = np.random.default_rng(6)
    for share, rows in ((0.5, 40), (0.9, 40), (0.98, 100)):
        hits = generator.binomial(rows, share, size=4000)
        held = [low <= share <= high for low, high in (wilson(int(right), rows) for right in hits)]
        assert 0.91 < np.mean(held) < 0.985
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


def test_what_is_calibrated_has_a_small_error_and_what_is_not_has_the_gap():
    generator = np.random.default_rng(7)
    confidence = generator.uniform(0.5, 1, size=20000)
    is_right = generator.uniform(size=20000) < confidence
    assert calibrate(confidence, is_right).error < 0.02
    assert calibrate(np.minimum(confidence + 0.2, 1), is_right).error == pytest.approx(
        np.mean(np.minimum(confidence + 0.2, 1) - confidence), abs=0.02
    )
    few = calibrate(np.array([0.7, 0.9]), np.array([True, False]))
    assert few.rows.tolist() == [1, 1]
    assert few.error == pytest.approx((0.3 + 0.9) / 2)


def test_mistakes_come_by_confidence_and_majority_is_that_of_the_training_rows():
    Y = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
    found = evaluate(Y, np.array([1, 1, 1, 1]), np.array([0.8, 0.2]))
    assert found.mistakes.tolist() == [0, 3, 1]
    assert (found.majority, found.majority_accuracy) == (0, 0.0)
    assert found.baseline_loss == pytest.approx(-math.log(0.2))


def test_each_bin_has_the_interval_of_its_own_rows():
    confidence = np.linspace(0.3, 0.9, 25)
    is_right = np.arange(25) % 3 > 0
    found = calibrate(confidence, is_right)
    assert found.rows.sum() == 25
    ends = np.cumsum(found.rows)
    for low, high, rows, end in zip(found.low, found.high, found.rows, ends, strict=True):
        assert (low, high) == wilson(int(is_right[end - rows : end].sum()), int(rows))
