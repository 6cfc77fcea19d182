"""Fits without an intercept against scikit-learn's: what is proved of them, and how they start."""

import warnings

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import handgrad
import kinds
import oracles_fit

BY_DEFAULT = {"test_without_an_intercept_the_minimum_is_that_of_scikit_learn": ["csr"]}


def pytest_generate_tests(metafunc):
    kinds.over_kinds(metafunc, "fit", BY_DEFAULT)


@pytest.fixture
def fit(request):
    """`handgrad.fit` of X as one of the kinds of rows, without an intercept."""
    without = kinds.on_kind(request.param, handgrad.fit)
    return lambda *arrays, **arguments: without(*arrays, fit_intercept=False, **arguments)


def problem(C, dtype=np.float64, num_rows=80, P=4):
    rng = np.random.default_rng(C)
    X = np.where(rng.random((num_rows, P)) < 0.6, rng.normal(size=(num_rows, P)) * [1, 5, 0.2, 1] + 1, 0)
    t = np.argmax(X @ rng.normal(size=(P, C)) / 2 + rng.gumbel(size=(num_rows, C)), axis=1)
    return X.astype(dtype), t, rng.uniform(0.2, 2, num_rows)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("C", [2, 3])
@pytest.mark.parametrize("l2", [1e-2, 0.0])
def test_without_an_intercept_the_minimum_is_that_of_scikit_learn(fit, C, l2):
    X, t, w = problem(C)
    result = fit(X, t, l2=l2, weights=w, tol=1e-10)
    assert result.converged
    assert not np.asarray(result.params.b).any()
    loss, dW, _ = oracles_fit.objective(*result.params, X, np.eye(C)[t], l2, w)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-12)
    if l2:
        assert np.sum(dW**2) / (2 * l2) <= 1.01 * result.gap
    # Of two classes scikit-learn has the difference, whose penalty is half as large.
    strength = np.inf if l2 == 0 else 1 / (l2 * w.sum() / (2 if C == 2 else 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of C = inf, which some versions spell penalty=None
        theirs = LogisticRegression(C=strength, fit_intercept=False, tol=1e-10, max_iter=10_000)
        coefficients = theirs.fit(X, t, sample_weight=w).coef_.T
    ours = np.asarray(result.params.W)
    ours = ours[:, 1:] - ours[:, :1]
    theirs = coefficients if C == 2 else coefficients[:, 1:] - coefficients[:, :1]
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("start", [0.3, 5.0])
def test_a_start_without_an_intercept_is_taken_and_its_bias_is_not(start):
    X, t, _ = problem(3, np.float32)
    first = handgrad.fit(X, t, l2=1e-2, fit_intercept=False)
    moved = handgrad.Params(W=first.params.W, b=first.params.b + np.float32([[start, 0, -start]]))
    again = handgrad.fit(X, t, l2=1e-2, fit_intercept=False, params=moved)
    assert again.iterations <= 1
    assert not np.asarray(again.params.b).any()


def test_a_class_without_rows_is_one_like_any_other():
    """Its logit is 0 where W is, which the others have to exceed: there is no bias to fall."""
    X, t, _ = problem(2)
    with jax.enable_x64(True):
        result = handgrad.fit(X, t, l2=1e-2, num_classes=3, fit_intercept=False, tol=1e-9)
    assert result.converged
    assert np.asarray(result.params.W)[:, 2].any()
    loss, dW, _ = oracles_fit.objective(*result.params, X, np.eye(3)[t], 1e-2)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-12)
    assert np.sum(dW**2) / (2 * 1e-2) <= 1.01e-9 * loss


def test_a_path_without_an_intercept_is_its_fits():
    X, t, w = problem(3, np.float32)
    path = handgrad.fit_path(X, t, l2s=[0.1, 1e-2], weights=w, validation=2, fit_intercept=False)
    assert path.converged.all()
    assert not np.asarray(path.params.b).any()
    for loss, l2 in zip(path.loss, path.l2s, strict=True):
        alone = handgrad.fit(X, t, l2=l2, weights=w, fit_intercept=False)
        np.testing.assert_allclose(loss, alone.loss, rtol=2e-5)
