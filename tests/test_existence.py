"""Fits without a penalty: whether a minimum exists is decided by a proof, or said to be undecided."""

import jax
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import OptimizeResult, linprog

from handgrad import fit
from handgrad.solvers import existence
from handgrad.solvers.data import prepare
from handgrad.solvers.folds import make_folds
from oracles_fit import problem, separable


def verdict(X, targets, weights=None, num_classes=None):
    """What is decided from W = 0 on; compiles nothing."""
    with jax.enable_x64(True):
        data = prepare("test", np.asarray(X, np.float64), np.asarray(targets), weights, None, None, num_classes)
    folds = make_folds("test", data, data.weights[:, None])
    return existence.decide(data, folds, folds.starts[0])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(2, 40),
    P=st.integers(1, 4),
    C=st.integers(2, 4),
    kind=st.sampled_from(["normal", "whole", "indicators", "repeated", "soft", "unscaled"]),
)
def test_the_verdict_is_that_of_a_linear_program(seed, num_rows, P, C, kind):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(num_rows, P))
    if kind == "whole":
        X = np.round(X)
    if kind == "indicators":
        X = (X > 0.5).astype(float)
    if kind == "repeated":
        X[:, -1] = X[:, 0] * 2 - 1
    if kind == "unscaled":
        X = X * 10 ** rng.uniform(-6, 6, P) + 10 ** rng.uniform(-6, 6, P)
    t = (X @ rng.normal(size=(P, C)) + rng.gumbel(size=(num_rows, C)) * rng.uniform(0, 2)).argmax(axis=1)
    w = rng.integers(0, 3, num_rows).astype(float)
    w[0] = 1
    targets = t
    if kind == "soft":
        targets = np.where(rng.random((num_rows, 1)) < 0.9, np.eye(C)[t], rng.dirichlet(np.ones(C), num_rows))
    found = verdict(X, targets, w, C)
    X, T, _, classes = problem(X, targets, {"num_classes": C, "weights": w})
    expected = bool(classes.sum() < 2) or not separable(X, T)
    assert found.exists is expected or (found.exists is None and kind == "unscaled")


def test_a_linear_program_that_is_given_up_after_presolving_is_solved_without(monkeypatch):
    """As HiGHS does now and then at such tolerances."""

    def give_up(*arguments, options, **more):
        return OptimizeResult(status=4) if options["presolve"] else linprog(*arguments, options=options, **more)

    monkeypatch.setattr("scipy.optimize.linprog", give_up)
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(12, 11)), np.tile([0, 1, 2], 4)
    assert verdict(X, t).exists is False


def test_newton_finds_the_minimum(dtype):
    from sklearn.datasets import load_iris

    X, t = load_iris(return_X_y=True)
    X, t = X[50:].astype(dtype), t[50:] - 1
    result = fit(X, t, l2=0.0)
    assert result.converged
    log_odds = np.diff(np.asarray(result.params.W, np.float64))[:, 0]
    tolerance = 1e-6 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(log_odds, [-2.4652202, -6.68088701, 9.42938515, 18.28613689], rtol=tolerance)


def test_data_with_as_many_features_as_rows_are_separated():
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(12, 11)).astype(np.float32), np.tile([0, 1, 2], 4)
    with pytest.warns(RuntimeWarning, match="the classes can be separated"):
        result = fit(X, t, l2=0.0)
    assert not result.converged


def test_a_column_that_only_one_class_sets_separates_it(dtype):
    rng = np.random.default_rng(1)
    t = rng.integers(0, 2, 300)
    X = np.stack([rng.normal(size=300), rng.normal(size=300), (rng.random(300) < 0.05) & (t == 1)], axis=1)
    with pytest.warns(RuntimeWarning, match="the classes can be separated, 1 from the others"):
        result = fit(X.astype(dtype), t, l2=0.0)
    assert not result.converged
    with pytest.raises(ValueError, match="a fit that has not converged"):
        result.standard_errors(X.astype(dtype))


def test_one_class_of_three_is_named():
    rng = np.random.default_rng(2)
    X = np.concatenate([rng.normal(size=(30, 2)), rng.normal(size=(30, 2)), 40 + rng.normal(size=(30, 2))])
    found = verdict(X, np.repeat([0, 1, 2], 30))
    assert (found.exists, found.separated) == (False, (2,))


def test_features_that_others_determine_change_nothing():
    rng = np.random.default_rng(3)
    x, t = rng.normal(size=(60, 2)), rng.integers(0, 3, 60)
    X = np.concatenate([x, x.sum(axis=1, keepdims=True), np.ones((60, 1)), np.eye(3)[rng.integers(0, 3, 60)]], axis=1)
    assert verdict(X, t).exists is True


def test_a_single_class_and_rows_without_weight_have_a_minimum():
    assert verdict(np.ones((3, 1)), [0, 0, 0], num_classes=2).exists is True
    assert verdict(np.ones((3, 1)), [0, 1, 0], np.zeros(3)).exists is True


def test_what_is_too_large_to_decide_is_undecided(monkeypatch):
    monkeypatch.setattr(existence, "MOST_UNKNOWNS", 2)
    rng = np.random.default_rng(4)
    X, t = rng.normal(size=(100, 2)).astype(np.float32), rng.integers(0, 2, 100)
    with pytest.warns(RuntimeWarning, match="whether the loss has a minimum at all with l2=0 is undecided"):
        result = fit(X, t, l2=0.0)
    assert not result.converged
    with pytest.raises(ValueError, match="undecided"):
        result.standard_errors(X)


def test_rows_are_added_to_the_program_until_none_is_violated(monkeypatch):
    """Without a Hessian, and with the rows that matter last in order, the linear program alone is right."""
    monkeypatch.setattr(existence, "NEWTON_OPERATIONS", 0)
    rng = np.random.default_rng(5)
    X, t = rng.normal(size=(2000, 3)), rng.integers(0, 3, 2000)
    assert verdict(X, t).exists is True
    t = np.where(X[:, 0] > 1.5, 2, t % 2)
    assert verdict(X, t).separated == (2,)
    crossed = np.where((X[:, 0] > 1.5) & (np.arange(2000) == np.argmax(X[:, 0])), 0, t)
    assert verdict(X, crossed).exists is True


# --- Without an intercept ------------------------------------------------------------------------------------------


def without_intercept(X, targets, num_classes=None):
    with jax.enable_x64(True):
        data = prepare("test", X, np.asarray(targets), None, None, None, num_classes, fit_intercept=False)
    folds = make_folds("test", data, data.weights[:, None])
    return existence.decide(data, folds, folds.starts[0])


def separable_through_the_origin(X, t, C):
    """Whether V ≠ 0 has ⟨x, V_t − V_c⟩ ≥ 0 for every row and class, and some > 0: by a linear program of its own."""
    P = X.shape[1]
    above = np.stack([np.kron(np.eye(C)[k] - np.eye(C)[c], x) for x, k in zip(X, t, strict=True) for c in range(C)])
    answer = linprog(-above.sum(axis=0), A_ub=-above, b_ub=np.zeros(len(above)), bounds=[(-1, 1)] * (P * C))
    return -answer.fun > 1e-8


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 25),
    P=st.integers(1, 3),
    C=st.integers(2, 3),
    kind=st.sampled_from(["normal", "whole", "indicators", "shifted", "repeated"]),
    is_sparse=st.booleans(),
)
def test_without_an_intercept_separations_pass_through_the_origin(seed, num_rows, P, C, kind, is_sparse):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(num_rows, P))
    if kind == "whole":
        X = np.round(X)
    if kind == "indicators":
        X = (X > 0.5).astype(float)
    if kind == "shifted":  # by an intercept they may be separated, through the origin they are not
        X = X + 10
    if kind == "repeated":
        X[:, -1] = 2 * X[:, 0]
    t = (X @ rng.normal(size=(P, C)) + rng.gumbel(size=(num_rows, C)) * rng.uniform(0, 2)).argmax(axis=1)
    found = without_intercept(scipy.sparse.csr_array(X) if is_sparse else X, t, C)
    assert found.exists is not separable_through_the_origin(X, t, C)


def test_without_an_intercept_the_linear_program_has_none(monkeypatch):
    monkeypatch.setattr(existence, "NEWTON_OPERATIONS", 0)
    X, t = np.array([[1.0], [2], [3], [4]]), np.array([0, 0, 1, 1])
    assert without_intercept(X, t).exists is True
    assert verdict(X, t).separated == (0, 1)
    assert without_intercept(X * [[1], [1], [-1], [-1]], t).separated == (0, 1)


@pytest.mark.parametrize("is_sparse", [False, True])
def test_data_that_only_an_intercept_separates_have_a_minimum_without(is_sparse, dtype):
    X = np.array([[1.0], [2], [3], [4]], dtype)
    given_X = scipy.sparse.csr_array(X) if is_sparse else X
    assert fit(given_X, np.array([0, 0, 1, 1]), l2=0.0, fit_intercept=False, num_classes=2).converged
    with pytest.warns(RuntimeWarning, match="the classes can be separated, 0, 1 from the others"):
        fit(given_X, np.array([0, 0, 1, 1]), l2=0.0)
    with pytest.warns(RuntimeWarning, match="the classes can be separated"):
        fit(given_X * np.array([1, 1, -1, -1], dtype)[:, None], np.array([0, 0, 1, 1]), l2=0.0, fit_intercept=False)


# --- Standard errors are of the data of the fit --------------------------------------------------------------------


def test_standard_errors_refuse_other_data_and_forgotten_weights(x64):
    rng = np.random.default_rng(6)
    X, t, w = rng.normal(size=(80, 2)), rng.integers(0, 3, 80), rng.integers(1, 4, 80).astype(float)
    result = fit(X, t, l2=0.0, weights=w)
    table = result.standard_errors(X, weights=w)
    assert np.isfinite(table.standard_error).all()
    for other, weights in ((X, None), (X, 2 * w), (X[::-1], w), (2 * X, w), (X + 1, w), (X, w[::-1])):
        with pytest.raises(ValueError, match="standard_errors: X and weights must be those of the fit"):
            result.standard_errors(other, weights=weights)
    with pytest.raises(ValueError, match="X must have P = 2 columns"):
        result.standard_errors(X[:, :1], weights=w)


def test_standard_errors_leave_out_a_class_without_weight(x64):
    rng = np.random.default_rng(7)
    X, t = rng.normal(size=(80, 2)), 2 * rng.integers(0, 2, 80)
    ours = fit(X, t, l2=0.0, num_classes=4).standard_errors(X, base=2)
    theirs = fit(X, t // 2, l2=0.0).standard_errors(X, base=1)
    assert ours.classes == (0,)
    np.testing.assert_allclose(ours.standard_error, theirs.standard_error, rtol=1e-6)
    with pytest.raises(ValueError, match=r"base must be a class in .* that has weight; got 1"):
        fit(X, t, l2=0.0, num_classes=4).standard_errors(X, base=1)
