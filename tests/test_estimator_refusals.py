"""The estimator: what scikit-learn lets through and would be a finite wrong number, and what it has no name for."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
import scipy.sparse

from handgrad import SoftmaxRegression

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")

RNG = np.random.default_rng(0)
X, y = RNG.normal(size=(60, 4)), RNG.choice(["a", "b", "c"], 60)
pytestmark = pytest.mark.messages

SWEEPS = ({}, {"Cs": [1.0, 0.1], "cv": 2})


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_mask_is_refused(sweep):
    """scikit-learn takes what is under it for data."""
    numbers = np.unique(y, return_inverse=True)[1]
    for data in ((np.ma.array(X), y), (X, np.ma.array(numbers)), (X, y, np.ma.array(np.ones(60)))):
        with pytest.raises(TypeError, match=r"^SoftmaxRegression: (X|y|sample_weight) must be an array without a mask"):
            SoftmaxRegression(**sweep).fit(*data)
    with pytest.raises(TypeError, match=r"^SoftmaxRegression: X must be an array without a mask"):
        SoftmaxRegression(**sweep).fit(X, y).predict(np.ma.array(X))


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("of_a", [-1, np.nan, np.inf, 0])
def test_class_weights_are_finite_and_not_negative(sweep, of_a):
    class_weight = {"a": of_a, "b": 0, "c": 0}
    with pytest.raises(ValueError, match=r"^SoftmaxRegression: class_weight must have finite non-negative numbers"):
        SoftmaxRegression(class_weight=class_weight, **sweep).fit(X, y)


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_penalty_beyond_the_range_of_float64_is_refused(sweep):
    with pytest.raises(ValueError, match=r"^SoftmaxRegression: C times the sum of the weights must be in the range"):
        SoftmaxRegression(**sweep).fit(X, y, np.full(60, 5e-324))
    with pytest.raises(ValueError, match=r"^SoftmaxRegression: C times the sum of the weights must be in the range"):
        SoftmaxRegression(C=1e300, **{name: [1e300] if name == "Cs" else 2 for name in sweep}).fit(X, y, 1e100)


def test_the_largest_C_is_no_penalty_of_nothing():  # noqa: N802
    with pytest.warns(match="goes no further"):
        assert SoftmaxRegression(C=1e308, tol=1e-5).fit(X, y).gap_ < np.inf


@pytest.mark.parametrize(
    "fold", [(np.arange(50), [99]), (np.arange(50.0), np.arange(50.0, 60.0)), (np.ones(5, bool), np.ones(5, bool))]
)
def test_rows_of_a_fold_that_are_none_are_refused(fold):
    with pytest.raises(ValueError, match=r"^SoftmaxRegression: cv must give pairs of training and test rows.*fold 0"):
        SoftmaxRegression(Cs=[1.0], cv=[fold]).fit(X, y)


def test_no_folds_are_refused():
    with pytest.raises(ValueError, match=r"^SoftmaxRegression: cv must give one fold or more"):
        SoftmaxRegression(Cs=[1.0], cv=[]).fit(X, y)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "form",
    [
        np.asarray,
        scipy.sparse.csr_array,
        lambda array: pandas.DataFrame(array, columns=["a", "b"]),
        lambda array: polars.DataFrame(array, schema=["a", "b"]),
    ],
)
def test_an_integer_that_float64_does_not_hold_is_refused(form):
    numbers = 2**53 + np.arange(120).reshape(60, 2)
    with pytest.raises(ValueError, match=r"^SoftmaxRegression: X('s column 'b')? must have integers that float64 hold"):
        SoftmaxRegression().fit(form(numbers), y)
    SoftmaxRegression(max_iter=1).fit(form(2**54 + 4 * np.arange(120).reshape(60, 2)), y)


@pytest.mark.parametrize("weightless", [0, 1])
def test_of_two_classes_one_without_weight_has_probability_zero(weightless):
    two = (y == "a").astype(int)
    model = SoftmaxRegression(warm_start=True).fit(X, two, sample_weight=two != weightless)
    assert np.all(model.predict(X) == 1 - weightless)
    np.testing.assert_array_equal(model.predict_proba(X), np.eye(2)[np.full(60, 1 - weightless)])
    np.testing.assert_array_equal(model.predict_log_proba(X)[:, weightless], -np.inf)
    np.testing.assert_array_equal(model.predict_log_proba(X)[:, 1 - weightless], 0)
    # And a fit that begins there has the optimum of all rows.
    model.fit(X, two)
    np.testing.assert_allclose(model.coef_, SoftmaxRegression().fit(X, two).coef_, atol=1e-3)
