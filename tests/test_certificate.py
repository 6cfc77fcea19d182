"""What a fit claims is true of the parameters that it returns: against long double and other methods' minima."""

from fractions import Fraction

import jax
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import handgrad
from handgrad import Params, fit, fit_path
from handgrad.formulas.by_row import exact_losses, exact_residual, rise, softmax
from handgrad.solvers import bias, certificate, sums
from handgrad.solvers.bias import minimise_bias
from handgrad.solvers.certificate import certify
from handgrad.solvers.data import as_given, prepare, times_centre
from handgrad.solvers.folds import make_folds
from oracles_fit import exact_objective, lowest, problem

SHAPES = [(1, 2), (2, 2), (2, 3), (3, 3)]  # P and C; the number of rows is free, since few are padded to more


def true_gap(result, X, targets, l2, **arguments):
    """F at the returned parameters in long double, and by how much a point of another method lies lower."""
    arguments = {"num_classes": result.params.W.shape[1], "l2": l2} | arguments
    X, T, w, classes = problem(X, targets, arguments)
    W, b = (np.asarray(array, np.float64) for array in result.params)
    W, b = W[:, classes], b[0, classes]
    F = exact_objective(W, b, X, T, w, l2)
    return float(F), float(F - lowest(X, T, w, l2, [(W, b), (0 * W, np.log(w @ T))]))


def drawn(seed, num_rows, P, C):
    """Imbalanced, shifted, unscaled data, with weights some of which are 0."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(num_rows, P)) * 10 ** rng.uniform(-3, 3, P)
    X = X + np.abs(X).max(axis=0) * rng.choice([0, 1, 1e4], P)
    t = rng.choice(C, num_rows, p=rng.dirichlet(np.full(C, 0.3)))
    w = rng.uniform(0, 1, num_rows) * (rng.random(num_rows) < 0.8)
    return rng, X, t, w


# --- The bound -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(1, 40),
    shape=st.sampled_from(SHAPES),
    distance=st.floats(-8, 2),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_gap_is_no_less_than_the_truth_at_any_parameters(seed, num_rows, shape, distance, dtype):
    rng, X, t, w = drawn(seed, num_rows, *shape)
    X = X.astype(dtype)
    l2 = 10 ** rng.uniform(-4, 2)
    with jax.enable_x64(dtype == "float64"):
        data = prepare("test", X, t, w, None, None, shape[1])
        folds = make_folds("test", data, data.weights[:, None])
        V = folds.starts + 10**distance * rng.normal(size=folds.starts.shape) * folds.present[:, None]
        found = certify(data, V, folds, np.zeros(1, int), np.full(1, l2))
    result = handgrad.FitResult(Params(found.W[0], found.b[0]), *[0.0] * 3, 0, 0, True, "", l2)
    if not w.any():
        np.testing.assert_allclose(found.loss, found.gap, rtol=1e-12)  # min F is 0
        return
    F, excess = true_gap(result, X, t, l2, weights=w)
    np.testing.assert_allclose(found.loss[0], F, rtol=1e-12, atol=1e-300)
    assert excess <= found.gap[0] * (1 + 1e-9) + 1e-15 * F


def test_a_tiny_loss_is_certified_beside_itself():
    """A class of share 1e-30: a difference of numbers near 1 would know nothing of it."""
    found = minimise_bias(lambda: [(np.zeros((2, 2)), np.eye(2), np.array([1.0, 1e-30]))], np.zeros(2))
    np.testing.assert_allclose(found.b[1] - found.b[0], np.log(1e-30), rtol=1e-12)
    assert found.kappa < 1e-10


def test_losses_are_exact_beside_themselves():
    Z = np.array([[0.0, -40.0], [0.0, -700.0], [3.0, 3.0]])
    np.testing.assert_allclose(
        exact_losses(Z.T, np.eye(2)[:, [0, 0, 1]]), [np.exp(-40.0), np.exp(-700.0), np.log(2)], rtol=1e-15
    )


def test_what_is_left_of_sure_rows_is_exact_beside_itself():
    Z, T = np.array([[0.0, -40.0], [0.0, -700.0], [-50.0, 0.0]]), np.eye(2)[[0, 0, 1]]
    expected = np.exp([[-40.0], [-700.0], [-50.0]]) * [[-1, 1], [-1, 1], [1, -1]]
    np.testing.assert_allclose(exact_residual(softmax(Z.T), T.T).T, expected, rtol=1e-14)


# --- Many classes, and many rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduced", ["no G in the certificate", "no logits kept", "both"])
def test_a_fit_of_more_classes_than_are_taken_whole_is_certified(monkeypatch, reduced, x64):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 5)) * [1, 10, 0.1, 1, 1] + 3
    t = np.argmax(X @ rng.normal(size=(5, 5)) / 3 + rng.gumbel(size=(120, 5)), axis=1)
    before = fit(X, t, l2=1e-2, tol=1e-9)
    if reduced in ("no G in the certificate", "both"):
        monkeypatch.setattr(bias, "WHOLE_CLASSES", 3)
    if reduced in ("no logits kept", "both"):
        monkeypatch.setattr(certificate, "LOGIT_BYTES", 1)
        monkeypatch.setattr(bias, "HELD_BYTES", 1)
    result = fit(X, t, l2=1e-2, tol=1e-9)
    F, excess = true_gap(result, X, t, 1e-2)
    assert result.converged
    np.testing.assert_allclose(result.loss, F, rtol=1e-12)
    assert excess <= result.gap + 1e-15 * F
    np.testing.assert_allclose(result.loss, before.loss, rtol=1e-9)
    assert result.passes <= 3 * before.passes


@pytest.mark.parametrize("are_certain", [True, False])
def test_the_rise_of_a_loss_is_the_difference_of_two(are_certain):
    rng = np.random.default_rng(0)
    Z, u = rng.normal(size=(4, 9)), rng.normal(size=4)
    T = np.eye(4)[[2, 0, 2, 2, 0, 2, 0, 0, 2]].T if are_certain else softmax(3 * rng.normal(size=(4, 9)))
    expected = exact_losses(Z + u[:, None], T) - exact_losses(Z, T)
    np.testing.assert_allclose(rise(softmax(Z), T, u), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("logit_bytes", [1, certificate.LOGIT_BYTES])
def test_logits_in_pieces_and_not_kept_are_the_same(monkeypatch, logit_bytes):
    rng, X, t, w = drawn(3, 40, 2, 3)
    data = prepare("test", X.astype(np.float32), t, w, None, None, 3)
    folds = make_folds("test", data, data.weights[:, None] * (rng.random((40, 3)) < 0.7))
    V = folds.starts + 0.1 * rng.normal(size=folds.starts.shape) * folds.present[:, None]
    arguments = data, V, folds, np.arange(3), np.full(3, 0.1)
    kept = certify(*arguments)
    monkeypatch.setattr(certificate, "LOGIT_BYTES", logit_bytes)
    monkeypatch.setattr(sums, "PIECE", 3 * 4)  # pieces of 4 rows
    monkeypatch.setattr("handgrad.rows.parts.BLOCK_BYTES", 16 * 7)  # blocks of 7 rows
    for name, expected, found in zip(kept._fields, kept, certify(*arguments), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14, err_msg=name)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(seed=st.integers(0, 2**32 - 1), num_rows=st.integers(2, 40), shape=st.sampled_from(SHAPES))
def test_sparse_data_far_from_zero_have_an_exact_loss_and_a_true_gap(seed, num_rows, shape):
    """Their centre is taken off after the product, so that at the very optimum rounding is all of the gap."""
    rng = np.random.default_rng(seed)
    P, C = shape
    X = rng.normal(size=(num_rows, P)) + 10.0 ** rng.uniform(3, 8, P)
    t = rng.integers(0, C, num_rows)
    w = np.ones(num_rows)
    with jax.enable_x64(True):
        data = prepare("test", scipy.sparse.csr_array(X), t, w, None, None, C)
    folds = make_folds("test", data, data.weights[:, None])
    at, T = X - X.mean(axis=0), np.eye(C)[t]
    V = folds.starts.copy()
    for _ in range(60):  # near the optimum
        Z = at @ V[0, :-1] + V[0, -1]
        D = (softmax(np.where(folds.present, Z, -np.inf).T).T - T) / num_rows
        V[0] -= np.concatenate([at.T @ D + 0.1 * V[0, :-1], D.sum(axis=0, keepdims=True)])
    found = certify(data, V, folds, np.zeros(1, int), np.full(1, 0.1))
    result = handgrad.FitResult(Params(found.W[0], found.b[0]), *[0.0] * 3, 0, 0, True, "", 0.1)
    F, excess = true_gap(result, X, t, 0.1)
    assert abs(found.loss[0] - F) <= 1e-14 * F * (1 + np.abs(at).max() * np.abs(V).max())
    assert excess <= found.gap[0] * (1 + 1e-9) + 1e-14 * F


# --- Fits that claimed too much ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counts", "l2"), [((998, 1, 1), 10.0), ((19980, 10, 10), 1.0)])
def test_rare_classes_are_certified_with_their_bias(counts, l2):
    X = np.random.default_rng(0).normal(size=(sum(counts), 1)).astype(np.float32)
    t = np.repeat([0, 1, 2], counts)
    result = fit(X, t, l2=l2)
    F, excess = true_gap(result, X, t, l2)
    assert result.converged
    assert excess <= result.gap <= 1e-5 * F
    shares = np.array(counts) / sum(counts)
    entropy = -(shares @ np.log(shares))  # which W = 0 has with the best bias
    assert F / entropy <= 1 + 1e-5


@pytest.mark.filterwarnings("ignore:fit. float32 cannot hold the bias")
@pytest.mark.parametrize("shift", [1e5, 1e6, 3e7])
def test_what_is_certified_is_what_is_returned(shift):
    """Far from 0 the bias b* − μW, rounded to float32, is not the one that was found."""
    X = (shift + np.arange(8.0)[:, None]).astype(np.float32)
    t = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    result = fit(X, t, l2=1e-3)
    F, excess = true_gap(result, X, t, 1e-3)
    np.testing.assert_allclose(result.loss, F, rtol=1e-12)
    assert excess <= result.gap
    assert result.converged == (result.gap <= 1e-5 * F)


def test_float32_that_cannot_hold_the_bias_is_named():
    X = 1.7e9 + 10.0 * np.arange(8)[:, None]
    t = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    with pytest.warns(RuntimeWarning, match="float32 cannot hold the bias of these features"):
        assert not fit(X, t, l2=0.0).converged
    with jax.enable_x64(True):
        result = fit(X, t, l2=0.0)
    assert result.converged
    np.testing.assert_allclose(result.loss, 0.31288, atol=5e-6)


def test_float64_data_are_centred_before_they_become_float32():
    X = 1.7e9 + 10.0 * np.arange(8)[:, None]
    data = prepare("test", X, np.arange(8) % 2, None, None, None, None)
    assert data.dtype == np.float32
    np.testing.assert_array_equal(data.rows.parts.parts[0].X[:, 0], 10.0 * np.arange(8) - 35)


def test_a_penalty_too_small_for_the_dtype_certifies_nothing():
    X, t = np.arange(8, dtype=np.float32)[:, None], np.array([0, 0, 0, 1, 0, 1, 1, 1])
    with pytest.warns(RuntimeWarning, match="goes no further"):
        result = fit(X, t, l2=1e-46)
    assert not result.converged
    assert result.gap > 0.9 * result.loss


@pytest.mark.filterwarnings("ignore:fit. float32 goes no further")  # beside 1e50 a penalty of 0.01 proves nothing
@pytest.mark.parametrize("scale", [1e-30, 1e25, 1e37])
def test_features_of_extreme_size_are_fitted_in_float32(scale):
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    l2 = 1e-2
    plain, scaled = fit(X.astype(np.float32), t, l2=l2), fit((X * scale).astype(np.float32), t, l2=l2)
    _, excess = true_gap(scaled, (X * scale).astype(np.float32), t, l2)
    assert excess <= scaled.gap
    assert scaled.loss <= plain.loss if scale > 1 else scaled.loss >= plain.loss


def test_features_beyond_the_dtype_are_named():
    with pytest.raises(ValueError, match=r"X must be within 3.4e\+38, the range of float32.*got 1e\+39"):
        fit(np.array([[1e39], [0.0]]), np.array([0, 1]), l2=1.0)
    with jax.enable_x64(True):
        X, t = np.array([[1e39], [0.0], [-1e39]]), np.array([0, 1, 1])
        assert fit(X, t, l2=1e78).converged


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("off", [-9e-4, 9e-4])
def test_rows_of_targets_that_are_a_little_off_are_normalised(off):
    rng = np.random.default_rng(0)
    X, T = rng.normal(size=(40, 2)), rng.dirichlet(np.ones(3), 40)
    result = fit(X, T * (1 + off), l2=1e-3, tol=1e-9)
    assert result.converged
    F, excess = true_gap(result, X, T, 1e-3)
    np.testing.assert_allclose(result.loss, F, rtol=1e-12)
    assert excess <= result.gap


# --- Weights, and classes without any ------------------------------------------------------------------------------


def test_a_class_without_weight_is_left_out_everywhere_alike(dtype):
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(60, 2)).astype(dtype), np.repeat([0, 3, 4], 20)
    w = np.repeat([1.0, 2.0, 0.0], 20)
    alone = fit(X[:40], t[:40] // 3, l2=0.1, weights=w[:40])
    results = [
        fit(X, t, l2=0.1, weights=w),
        fit(X, t, l2=0.1, weights=np.repeat([1.0, 2.0, 1.0], 20), class_weights={4: 0.0}),
        fit(X[:40], t[:40], l2=0.1, weights=w[:40], num_classes=5),
    ]
    for result in results:
        assert result.converged
        np.testing.assert_allclose(result.loss, alone.loss, rtol=1e-5)
        np.testing.assert_array_equal(np.isfinite(result.params.b[0]), [True, False, False, True, False])
        assert not np.asarray(result.params.W)[:, [1, 2, 4]].any()
        Y = handgrad.predict_proba(result.params, X)
        np.testing.assert_array_equal(Y[:, [1, 2, 4]], 0)
    path = fit_path(X[:40], t[:40], l2s=[0.1], weights=w[:40], num_classes=5)
    assert path.converged.all()
    np.testing.assert_allclose(path.loss, alone.loss, rtol=1e-5)
    assert np.isneginf(path.params.b[0, 0, [1, 2, 4]]).all()
    # A start that leaves out a class that has weight now, and the other way round.
    again = fit(X, t, l2=0.1, weights=np.repeat([1.0, 2.0, 1.0], 20), params=results[0].params)
    np.testing.assert_array_equal(np.isfinite(again.params.b[0]), [True, False, False, True, True])
    assert again.converged
    back = fit(X, t, l2=0.1, weights=w, params=again.params)
    np.testing.assert_allclose(back.loss, alone.loss, rtol=1e-5)


@pytest.mark.parametrize("l2", [0.0, 1e-3])
def test_a_class_that_has_all_the_weight_is_certain(l2):
    result = fit(np.zeros((2, 1), np.float32), np.array([0, 0]), l2=l2, num_classes=2)
    assert (result.converged, result.loss, result.gap if l2 else 0) == (True, 0, 0)
    np.testing.assert_array_equal(handgrad.predict_proba(result.params, np.zeros((1, 1), np.float32)), [[1, 0]])


@pytest.mark.parametrize("factor", [1e-50, 1e-300, 1e308])
def test_only_ratios_of_weights_count(factor):
    rng = np.random.default_rng(0)
    X, t, w = rng.normal(size=(30, 2)).astype(np.float32), rng.integers(0, 2, 30), rng.integers(1, 4, 30) / 4
    ours, theirs = fit(X, t, l2=0.1, weights=w), fit(X, t, l2=0.1, weights=w * factor)
    np.testing.assert_allclose(ours.params.W, theirs.params.W, rtol=1e-6)


def test_weights_that_would_vanish_are_refused():
    X, t = np.ones((3, 1), np.float32), np.array([0, 1, 0])
    with pytest.raises(ValueError, match="weights must not become 0 in float32; that of row 1 is 5e-51"):
        fit(X, t, l2=1.0, weights=np.array([1.0, 1e-50, 1.0]))
    with jax.enable_x64(True):
        assert fit(X.astype(float), t, l2=1.0, weights=np.array([1.0, 1e-50, 1.0])).converged


@pytest.mark.parametrize("order", ["even rows", "first half", "last half"])
def test_the_curvature_is_that_of_the_rows_that_count(order, dtype):
    rng = np.random.default_rng(3)
    X = (rng.normal(size=(700, 4)) * ([1e-2, 1, 10, 1e3] if dtype == "float64" else 1)).astype(dtype)
    t = rng.integers(0, 3, 700)
    off = {"even rows": np.arange(700) % 2 == 0, "first half": np.arange(700) < 350, "last half": np.arange(700) >= 350}
    result = fit(X, t, l2=1e-5, weights=np.where(off[order], 0.0, 1.0))
    assert result.converged
    assert result.iterations <= 12


@pytest.mark.parametrize("start", ["float32", "float64", "bfloat16"])
def test_a_start_of_any_dtype_is_taken(dtype, start):
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(200, 3)).astype(dtype), rng.integers(0, 3, 200)
    first = fit(X, t, l2=1e-2)
    with jax.enable_x64(True):
        params = Params(*(array.astype(start) for array in first.params))
    again = fit(X, t, l2=1e-2, params=params)
    assert again.params.W.dtype == dtype
    assert again.converged
    assert again.iterations <= (3 if start != "bfloat16" else 6)


def test_a_start_worse_than_none_is_not_taken():
    rng = np.random.default_rng(0)
    X, t = (1e6 + rng.normal(size=(40, 1))).astype(np.float32), rng.integers(0, 3, 40)
    absurd = Params(W=np.array([[1.0, -1.0, 0.5]]), b=np.zeros((1, 3)))
    assert fit(X, t, l2=10.0, params=absurd).iterations <= 3
    with pytest.raises(ValueError, match="params must be finite"):
        fit(X, t, l2=10.0, params=Params(W=np.array([[np.nan, 0, 0]]), b=np.zeros((1, 3))))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e30, 1e38])
def test_a_start_beyond_what_float32_can_square_warns_of_nothing(size):
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(40, 3)) + 1, rng.integers(0, 3, 40)
    huge = Params(W=size * rng.normal(size=(3, 3)).clip(-1, 1), b=np.zeros((1, 3)))
    assert fit(X, t, l2=0.1, params=huge).converged
    assert fit(X, t, l2=0.1, params=huge, fit_intercept=False).converged


def test_the_returned_bias_may_be_anything_of_the_start(dtype):
    """as_given undoes the centring exactly but for one rounding."""
    X = np.random.default_rng(0).normal(size=(5, 2)).astype(dtype) + np.array([1e4, -1e3], dtype)
    data = prepare("test", X, np.array([0, 1, 0, 1, 1]), None, None, None, None)
    W = np.array([[0.3, -0.3], [0.7, -0.7]]).astype(data.dtype)
    params = as_given(data, W, np.array([0.25, -0.25]), np.array([True, True]))
    exact = np.array([0.25, -0.25]) - data.centre @ W.astype(np.float64)
    np.testing.assert_allclose(params.b[0], exact, rtol=np.finfo(data.dtype).eps)


@pytest.mark.parametrize("size", [0.1, 1e6, 1e15])
def test_the_centre_times_w_is_exact_where_it_is_large_and_float64_s_else(size):
    rng = np.random.default_rng(0)
    centre, W = size * rng.uniform(1, 2, 9), rng.normal(size=(9, 2)).astype(np.float32)
    products = [[Fraction(m) * Fraction(float(w)) for m, w in zip(centre, column, strict=True)] for column in W.T]
    exact = np.array([float(sum(of_class)) for of_class in products])
    limit = 1e-15 if size < 1 else 3e-19 * np.abs(centre @ np.abs(W)).max()
    assert np.abs(times_centre(centre, W) - exact).max() <= limit + np.spacing(np.abs(exact)).max() / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_constants_beside_tiny_deviations_stay_finite(dtype):
    """Sums about 0 have the constant, multiplied by what brings the deviations to 1, and squared."""
    random = np.random.default_rng(0)
    for large, small in ((1.0, 1e-32), (0.3, 1e-25), (1e6, 1e-18)):
        X = np.stack([np.full(30, large), small * random.normal(size=30)], axis=1).astype(dtype)
        t = (X[:, 1] / small + random.logistic(size=30) > 0).astype(int)
        result = fit(scipy.sparse.csr_array(X), t, l2=1e-3)
        assert result.converged
        F, lower = true_gap(result, X, t, 1e-3)
        assert lower <= result.gap <= 1e-5 * F
    w = np.full(7, 2.0 / 3)
    constant = scipy.sparse.csr_array(np.tile([[0.27, -9e-17, 1.04, -1.6e-9]], (7, 1)).astype(dtype))
    assert fit(constant, np.arange(7) % 2, weights=w, l2=1e-6).converged
