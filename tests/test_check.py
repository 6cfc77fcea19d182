"""The gradient check: it passes what is right, in every dtype, and catches what is wrong."""

import jax
import numpy as np
import pytest

import handgrad
import oracles
from handgrad import Params, formulas
from oracles_check import MISTAKES

DTYPES = ("float64", "float32", "bfloat16", "float16")


def check(seed=0, scale=1.0, dtypes=DTYPES, **kwargs):
    W, b, X, t, w = oracles.problem(60, 7, 4, seed=seed, **kwargs)
    return handgrad.check_gradients(Params(W, b), scale * X, t, weights=w, dtypes=dtypes)


@pytest.mark.parametrize("targets", ["labels", "distributions"])
@pytest.mark.parametrize("weights", [None, "floating", "counts"])
def test_the_gradient_passes_in_every_dtype(targets, weights):
    report = check(targets=targets, weights=weights)
    assert report.passed
    assert report.diagnosis == ""
    assert [(row.dtype, row.parameter, row.reference) for row in report.checks] == [
        ("float64", "W", "autograd"),
        ("float64", "W", "differences"),
        ("float64", "b", "autograd"),
        ("float64", "b", "differences"),
        *[(dtype, parameter, "autograd") for dtype in DTYPES[1:] for parameter in ("W", "b")],
    ]


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_tolerance_follows_the_scale_of_the_features(scale):
    assert check(scale=scale, dtypes=("float64", "float32")).passed


def test_the_tolerance_is_far_below_the_gradient_and_far_above_the_error():
    largest = {"float64": 1e-7, "float32": 2e-5, "bfloat16": 0.1, "float16": 0.02}
    for row in check().checks:
        assert row.max_relative_error / row.error_over_tolerance < largest[row.dtype]
        assert row.error_over_tolerance < 0.2


@pytest.mark.parametrize(("num_rows", "num_classes"), [(1, 2), (2, 1)])
def test_one_class_and_one_row_pass(num_rows, num_classes):
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
    assert lines[0].endswith("error/tolerance")
    assert len(lines) == 1 + len(report.checks)
    assert all(line.endswith("passed") for line in lines[1:])
    assert len({line.index("passed") for line in lines[1:]}) == 1


def test_error_over_tolerance_is_1_where_a_row_begins_to_fail(monkeypatch):
    """What is added to the gradient in float64 is the number printed, twice as much twice that."""
    right = formulas.gradient
    ratios = []
    for off in (1e-13, 2e-13):
        monkeypatch.setattr(formulas, "gradient", lambda *args, off=off: right(*args)._replace(b=right(*args).b + off))
        row = check(dtypes=("float64",)).checks[2]
        assert (row.parameter, row.verdict) == ("b", "FAILED")
        ratios.append(row.error_over_tolerance)
    assert ratios[0] > 1
    np.testing.assert_allclose(ratios[1], 2 * ratios[0], rtol=0.05)


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
    with pytest.raises(TypeError, match=r"check_gradients: dtypes must be floating-point; got int32"):
        handgrad.check_gradients(Params(W, b), X, t, dtypes=("int32",))


@pytest.mark.messages
def test_what_is_not_finite_is_refused():
    W, b, X, t, _ = oracles.problem(10, 3, 2)
    for params in (Params(W * np.nan, b), Params(W - np.inf, b), Params(W, b + np.inf)):
        with pytest.raises(ValueError, match="check_gradients: params must be finite, but for biases of −inf"):
            handgrad.check_gradients(params, X, t)
    for masked in ([-np.inf, 0.0], [-np.inf, -np.inf]):
        with pytest.raises(ValueError, match=r"check_gradients: the loss must be finite at params; got (inf|nan)"):
            handgrad.check_gradients(Params(W, np.array([masked])), X, t)


@pytest.mark.messages
def test_masked_arrays_are_refused():
    W, b, X, t, _ = oracles.problem(10, 3, 2)
    with pytest.raises(TypeError, match="mask"):
        handgrad.check_gradients(Params(W, b), np.ma.masked_array(X), t)


def test_a_dtype_that_cannot_hold_the_numbers_is_undecided():
    W, b, X, t, _ = oracles.problem(60, 7, 4)
    report = handgrad.check_gradients(Params(W / 1e6, b), 1e6 * X, t, dtypes=("float16", "float64"))
    assert not report.passed
    assert [row.verdict for row in report.checks] == ["passed"] * 4 + ["undecided"] * 4
    assert str(report).splitlines()[-1].startswith("undecided: rounding may be as large as the gradient")


@pytest.mark.parametrize("scale", [1.0, 20.0, 1e3])
def test_parameters_that_separate_the_rows_are_checked_too(scale):
    """Where softmax is saturated, what is due to rounding exceeds the gradient itself."""
    _, b, X, t, _ = oracles.problem(20, 100, 3)
    params = Params(scale * np.linalg.lstsq(X, 3 * np.eye(3)[t] - 1, rcond=None)[0], 0 * b)
    report = handgrad.check_gradients(params, X, t, dtypes=DTYPES)
    assert report.passed
    assert (scale == 1) == (not any(row.verdict == "undecided" for row in report.checks))
    for dtype in DTYPES:
        report = handgrad.check_gradients(params, X, t, gradient=MISTAKES["−5 dW"][0], dtypes=(dtype,))
        assert not report.passed
        assert "FAILED" in {row.verdict for row in report.checks if row.dtype == dtype and row.parameter == "W"}
        assert report.diagnosis == "dW: each entry is -5.5 times what is right."


def test_a_masked_class_passes_and_a_wrong_gradient_there_fails():
    """The rows' gradients cancel at these parameters, so that any multiple of the right gradient is right there."""
    params = Params(np.zeros((1, 3)), np.array([[0.0, 0.0, -np.inf]]))
    X, t = np.ones((2, 1)), np.array([0, 1])
    assert handgrad.check_gradients(params, X, t, dtypes=DTYPES).passed
    for mistake in ("sum", "T − Y", "−5 dW"):
        assert not handgrad.check_gradients(params, X, t, gradient=MISTAKES[mistake][0]).passed


@pytest.mark.parametrize("weights", [np.zeros(60), np.r_[1.0, np.zeros(59)], np.full(60, 1e-30), np.full(60, 1e300)])
def test_weights_of_any_size_pass(weights):
    W, b, X, t, _ = oracles.problem(60, 7, 4)
    assert handgrad.check_gradients(Params(W, b), X, t, weights=weights, dtypes=("float64",)).passed


def test_a_second_check_of_the_same_shape_compiles_nothing():
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    for as_targets, weights in ((np.asarray, None), (np.eye(3).__getitem__, "counts")):
        for seed in range(3):
            W, b, X, _, w = oracles.problem(11, 5, 3, seed=seed, weights=weights)
            t = (X @ W + b).argmax(axis=1)  # separated, so that the tamer parameters are looked at too
            before = len(compiled)
            report = handgrad.check_gradients(Params(1e6 * W, 1e6 * b), X, as_targets(t), weights=w)
            assert report.passed
            assert any(row.reference == "autograd, tamed" for row in report.checks)
            assert (len(compiled) == before) == (seed > 0)


def test_a_small_feature_is_held_to_its_own_tolerance(monkeypatch):
    right = formulas.gradient
    monkeypatch.setattr(formulas, "gradient", lambda *args: right(*args)._replace(W=right(*args).W.at[0].multiply(2)))
    W, b, X, t, _ = oracles.problem(60, 7, 4)
    X[:, 0] *= 1e-6
    assert not handgrad.check_gradients(Params(W, b), X, t, dtypes=("float32",)).passed


def test_many_rows_that_are_rounded_the_same_way_fail_no_right_gradient():
    # A standardised column that is 0 but for a few rows, W = 0: by far most terms of XᵀD are one number.
    t = np.arange(400) % 10
    X = np.tile([-0.05355009, -0.0712, -0.1], (400, 1))
    X[[7, 107, 300], [0, 1, 2]] = 22.4
    report = handgrad.check_gradients(handgrad.init_params(3, 10), X.astype(np.float32), t)
    assert report.passed
    of_rows = [check for check in report.checks if check.parameter == "W" and check.reference == "autograd"]
    assert all(check.error_over_tolerance < 0.5 for check in of_rows)
