"""The gradient check: it passes what is right, in every dtype, and catches what is wrong."""

import jax
import numpy as np
import pytest

import handgrad
import oracles
from handgrad import Params, formulas

DTYPES = ("float64", "float32", "bfloat16", "float16")


def check(seed=0, scale=1.0, dtypes=DTYPES, **kwargs):
    W, b, X, t, w = oracles.problem(60, 7, 4, seed=seed, **kwargs)
    return handgrad.check_gradients(Params(W, b), scale * X, t, weights=w, dtypes=dtypes)


@pytest.mark.parametrize("targets", ["labels", "distributions"])
@pytest.mark.parametrize("weights", [None, "floating", "counts"])
def test_the_gradient_passes_in_every_dtype(targets, weights):
    report = check(targets=targets, weights=weights)
    assert report.passed
    assert [(row.dtype, row.parameter, row.reference) for row in report.checks] == [
        (dtype, parameter, reference)
        for dtype in DTYPES
        for parameter in ("W", "b")
        for reference in ("autograd", "differences")
    ]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_tolerance_follows_the_scale_of_the_features(scale):
    assert check(scale=scale, dtypes=("float64", "float32")).passed


def test_the_tolerance_is_far_below_the_gradient():
    for row in check().checks:
        gradient = row.max_absolute_error / row.max_relative_error
        assert (
            row.tolerance < {"float64": 1e-6, "float32": 1e-4, "bfloat16": 0.2, "float16": 0.05}[row.dtype] * gradient
        )


@pytest.mark.parametrize("num_rows", [1, 2])
def test_one_class_and_one_row_pass(num_rows):
    for num_classes in (1, 2):
        W, b, X, t, _ = oracles.problem(num_rows, 1, num_classes)
        assert handgrad.check_gradients(Params(W, b), X, t).passed


def mistakes():
    right = formulas.gradient

    def opposite_sign(*args):
        return jax.tree.map(lambda array: -array, right(*args))

    def one_wrong_entry(*args):
        W, b = right(*args)
        return Params(W.at[2, 3].add(0.01 * abs(W).max()), b)

    def without_mean(params, X, targets, weights):
        return jax.tree.map(lambda array: array * X.shape[0], right(params, X, targets, weights))

    def forgotten_weights(params, X, targets, weights):
        return right(params, X, targets, None)

    return {f.__name__: f for f in (opposite_sign, one_wrong_entry, without_mean, forgotten_weights)}


@pytest.mark.parametrize("mistake", mistakes())
def test_a_wrong_gradient_fails(mistake, monkeypatch):
    monkeypatch.setattr(formulas, "gradient", mistakes()[mistake])
    assert not check(weights="floating", dtypes=("float64",)).passed
    assert not check(weights="floating", dtypes=("float32",)).passed
    if mistake == "opposite_sign":
        for row in check(weights="floating").checks:
            assert not row.passed


def test_a_gradient_that_is_not_finite_fails(monkeypatch):
    right = formulas.gradient
    monkeypatch.setattr(formulas, "gradient", lambda *args: jax.tree.map(lambda array: array * np.nan, right(*args)))
    assert not check(dtypes=("float64",)).passed


def test_the_report_prints_a_row_for_each_check():
    report = check()
    lines = str(report).splitlines()
    assert lines[0].split()[:5] == ["dtype", "gradient", "of", "against", "entries"]
    assert len(lines) == 1 + len(report.checks)
    assert all(line.endswith("passed") for line in lines[1:])
    assert len({line.index("passed") for line in lines[1:]}) == 1


def test_large_parameters_are_checked_whole_by_autograd_and_in_part_by_differences():
    W, b, X, t, _ = oracles.problem(10, 30, 7)
    by_autograd, by_differences = handgrad.check_gradients(Params(W, b), X, t, dtypes=("float64",)).checks[:2]
    assert by_autograd.entries == 210
    assert by_differences.entries == 64


@pytest.mark.messages
def test_bad_input_is_refused_by_name():
    W, b, X, t, _ = oracles.problem(10, 3, 2)
    with pytest.raises(ValueError, match=r"check_gradients: labels must be integers in \[0, 2\)"):
        handgrad.check_gradients(Params(W, b), X, t + 2)
    with pytest.raises(ValueError, match="check_gradients: X must have P = 3 columns"):
        handgrad.check_gradients(Params(W, b), X[:, :2], t)
    with pytest.raises(TypeError, match=r"check_gradients: params.W must be floating-point; got int32"):
        handgrad.check_gradients(Params(W, b), X, t, dtypes=("int32",))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_finite_does_not_pass():
    W, b, X, t, _ = oracles.problem(10, 3, 2)
    assert not handgrad.check_gradients(Params(W * np.nan, b), X, t).passed
    assert not handgrad.check_gradients(Params(W, b), 1e6 * X, t, dtypes=("float16",)).passed


def test_a_small_feature_is_held_to_its_own_tolerance(monkeypatch):
    right = formulas.gradient
    monkeypatch.setattr(formulas, "gradient", lambda *args: right(*args)._replace(W=right(*args).W.at[0].multiply(2)))
    W, b, X, t, _ = oracles.problem(60, 7, 4)
    X[:, 0] *= 1e-6
    assert not handgrad.check_gradients(Params(W, b), X, t, dtypes=("float32",)).passed
