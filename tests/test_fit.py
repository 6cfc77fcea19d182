"""`fit`: the optimum against SciPy, the certificate against float64 NumPy, and what it says when it cannot."""

import os
from pathlib import Path

import jax
import numpy as np
import pytest

import grids
import handgrad
import kinds
import oracles_fit
from handgrad.data import load_digits


@pytest.fixture(scope="module")
def digits():
    table = load_digits()
    return table.X.astype(np.float64), table.labels


def generated(num_rows=200, P=5, C=3):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(num_rows, P)) * 10 ** rng.uniform(-2, 2, P) + rng.normal(size=P)
    T = rng.dirichlet(np.ones(C), num_rows)
    return X, T, np.array([rng.choice(C, p=row) for row in T]), rng.uniform(0, 2, num_rows)


# Of each kind of targets and of weights one.
FITS = (True, False, False), (False, True, False), (False, False, True)

# On which kinds of rows a test runs by default, beside dense ones.
BY_DEFAULT = {
    "test_finds_the_minimum_that_scipy_finds": ["csr", "compiled"],
    "test_reaches_the_published_objective_on_digits": ["bfloat16", "auto"],
    "test_features_of_any_scale_are_fitted": ["mesh"],
    "test_diagonal_preconditioner_serves_where_features_are_many": ["explicit"],
    "test_class_weights_multiply_the_weights_of_rows": ["bcoo"],
    "test_rows_of_weight_zero_do_not_count": ["coo"],
    "test_warm_start_is_done_at_once": ["int8"],
    "test_callback_sees_every_iteration": ["uint16"],
    "test_says_that_precision_is_the_end": ["csc"],
    "test_says_that_iterations_are_the_end": ["jax", "compiled", "float16"],
    "test_separable_classes_are_named": ["bcsr"],
}


def pytest_generate_tests(metafunc):
    kinds.over_kinds(metafunc, "fit", BY_DEFAULT)


@pytest.fixture
def fit(request):
    """`handgrad.fit` of X as one of the kinds of rows."""
    return kinds.on_kind(request.param, handgrad.fit)


# --- The optimum ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("C", "weighted", "soft"),
    grids.product(
        [2, 3], [False, True], [False, True], quick=lambda C, weighted, soft: (C == 2, weighted, soft) in FITS
    ),
)
def test_finds_the_minimum_that_scipy_finds(fit, C, weighted, soft):
    X, T, t, w = generated(C=C)
    targets, weights = T if soft else t, w if weighted else None
    result = fit(X, targets, l2=1e-2, weights=weights, tol=1e-10)
    loss, W, b = oracles_fit.minimise(X, targets, C, 1e-2, weights)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-9)
    np.testing.assert_allclose(result.params.W, W, atol=1e-5)
    # SciPy, unlike fit, leaves to chance what constant both add to all classes.
    np.testing.assert_allclose(np.diff(result.params.b[0]), np.diff(b), atol=1e-4)
    assert result.converged


@pytest.mark.parametrize(
    ("dtype", "C", "expected"),
    [
        ("float32", 1.0, 0.00947822),
        ("float64", 0.01, 0.12788788),
        pytest.param("float32", 0.01, 0.12788788, marks=pytest.mark.slow),
        pytest.param("float64", 1.0, 0.00947822, marks=pytest.mark.slow),
    ],
    indirect=["dtype"],
)
def test_reaches_the_published_objective_on_digits(fit, dtype, digits, C, expected):
    X, t = digits
    tol = 1e-10 if dtype == "float64" else 1e-6
    result = fit(X.astype(dtype), t, l2=1 / (len(X) * C), tol=tol)
    assert result.params.W.dtype == dtype
    loss, _, _ = oracles_fit.objective(*result.params, X, np.eye(10)[t], result.l2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(result.loss, loss, rtol=3e-6)
    assert result.converged
    assert oracles_fit.relative_gap(*result.params, X, t, result.l2) <= 1.05 * tol


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("C", [1.0, 0.01])
def test_preconditioner_saves_passes(fit, digits, C):
    X, t = digits
    result = fit(X, t, l2=1 / (len(X) * C), tol=1e-8)
    assert result.passes < {1.0: 300, 0.01: 120}[C]


@pytest.mark.usefixtures("x64")
def test_features_of_any_scale_are_fitted(fit):
    X, _, t, _ = generated(num_rows=500)
    scales = 10.0 ** np.array([-3, 3, 0, -2, 2])
    plain, scaled = fit(X, t, l2=1e-3), fit(X * scales, t, l2=1e-3)
    assert scaled.converged
    assert scaled.passes < 3 * plain.passes


@pytest.fixture(scope="module")
def scaled_pixels():
    """MNIST-10k's first 200 varying pixels, and those multiplied by 10^U(−3, 3); the labels."""
    X, t = mnist()
    X = X[:, np.flatnonzero(X.std(axis=0) > 0)[:200]]
    return X, X * 10 ** np.random.default_rng(0).uniform(-3, 3, 200), t


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_unscaled_features_take_a_sixth_of_the_passes_with_blocks(fit, scaled_pixels):
    """Without blocks 2,000 iterations are not enough."""
    _, X, t = scaled_pixels
    result = fit(X, t, l2=1e-4)
    assert result.passes < 350
    assert oracles_fit.relative_gap(*result.params, X, t, 1e-4) <= 1e-5


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_answer_on_unscaled_features_is_that_of_newton_cholesky(fit, scaled_pixels):
    from sklearn.linear_model import LogisticRegression

    _, X, t = scaled_pixels
    result = fit(X, t, l2=1e-4, tol=1e-10)
    theirs = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-8).fit(X, t).coef_.T
    np.testing.assert_allclose(result.params.W, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.usefixtures("x64")
def test_class_blocks_are_used_where_a_fit_goes_on(fit, digits):
    """A ⊗ G alone takes 184 iterations here; in float32 it goes no further before."""
    X, t = digits
    result = fit(X, t, l2=1 / (1797 * 1e3), tol=1e-4)
    assert result.converged
    assert result.iterations < 120


@pytest.mark.usefixtures("x64")
def test_diagonal_preconditioner_serves_where_features_are_many(fit):
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(100, 300)), rng.integers(0, 3, 100)
    result = fit(X, t, l2=1e-2, tol=1e-8)
    assert result.converged
    assert oracles_fit.relative_gap(*result.params, X, t, 1e-2) <= 1e-8


def test_class_weights_multiply_the_weights_of_rows(fit, dtype):
    X, T, t, w = generated()
    X = X.astype(dtype)
    each = np.array([1.0, 3.0, 0.5])
    ours = fit(X, t, l2=0.1, weights=w, class_weights={1: 3.0, 2: 0.5})
    theirs = fit(X, t, l2=0.1, weights=w * each[t])
    np.testing.assert_array_equal(ours.params.W, theirs.params.W)
    # Soft targets: Σ_c cw_c T_ic log Y_ic is a row of weight Σ cw·T with targets cw·T over that.
    ours = fit(X, T.astype(dtype), l2=0.1, class_weights=each)
    theirs = fit(X, (T * each / (T @ each)[:, None]).astype(dtype), l2=0.1, weights=T @ each)
    np.testing.assert_allclose(ours.params.W, theirs.params.W, rtol=1e-3, atol=1e-5)


def test_rows_of_weight_zero_do_not_count(fit, dtype):
    X, _, t, w = generated()
    X, w = X.astype(dtype), np.where(np.arange(200) < 50, 0, w)
    ours, theirs = fit(X, t, l2=0.1, weights=w), fit(X[50:], t[50:], l2=0.1, weights=w[50:])
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=3e-5)
    nothing = fit(X, t, l2=0.1, weights=np.zeros(200))
    assert nothing.loss == 0
    assert not nothing.params.W.any()


def test_warm_start_is_done_at_once(fit, digits):
    X, t = digits[0].astype(np.float32), digits[1]
    first = fit(X, t, l2=0.05)
    again = fit(X, t, l2=0.05, params=first.params)
    assert again.iterations <= 2
    moved = handgrad.Params(W=first.params.W + 7, b=first.params.b - 3)  # the same model: a constant for all classes
    assert fit(X, t, l2=0.05, params=moved).iterations <= 2


def test_callback_sees_every_iteration(fit, digits):
    seen = []
    result = fit(digits[0].astype(np.float32), digits[1], l2=0.1, callback=lambda *numbers: seen.append(numbers))
    jax.effects_barrier()
    assert [int(iteration) for iteration, _, _ in seen] == list(range(1, result.iterations + 1))
    losses = [float(loss) for _, loss, _ in seen]
    assert losses[-1] < losses[0] < np.log(10)


# --- When it ends --------------------------------------------------------------------------------------------------


def test_says_that_precision_is_the_end(fit, digits):
    X, t = digits[0].astype(np.float32), digits[1]
    with pytest.warns(RuntimeWarning, match="float32 goes no further: .* Use float64"):
        result = fit(X, t, l2=1e-7)
    assert not result.converged
    assert oracles_fit.relative_gap(*result.params, digits[0], t, result.l2) <= 1.2 * result.gap / result.loss < 2e-3


def test_says_that_iterations_are_the_end(fit, digits):
    with pytest.warns(RuntimeWarning, match="max_iterations=3 are used up"):
        result = fit(digits[0].astype(np.float32), digits[1], l2=1e-3, max_iterations=3)
    assert (result.converged, result.iterations) == (False, 3)


@pytest.mark.parametrize(
    ("dtype", "classes"),
    grids.product(
        ["float32", "float64"],
        [(0, 1), (0, 1, 2)],
        quick=lambda dtype, classes: (dtype == "float32") == (len(classes) == 2),
    ),
    indirect=["dtype"],
)
def test_separable_classes_are_named(fit, dtype, classes):
    from sklearn.datasets import load_iris

    X, t = load_iris(return_X_y=True)
    keep = np.isin(t, classes)
    with pytest.warns(RuntimeWarning, match="the classes can be separated, 0.* from the others.*Take l2 > 0"):
        result = fit(X[keep].astype(dtype), t[keep], l2=0.0)
    assert not result.converged


@pytest.mark.filterwarnings("ignore:fit. float32 goes no further")
def test_huge_features_do_not_overflow(fit, dtype):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(100, 2)) * 1e6).astype(dtype)
    result = fit(X, rng.integers(0, 2, 100), l2=1.0)
    assert result.loss < np.log(2)
    assert result.converged or dtype == "float32"


# --- What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.messages
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"l2": -1.0}, ValueError, "fit: l2 must be a finite number"),
        ({"tol": float("nan")}, ValueError, "fit: tol must be a finite number"),
        ({"max_iterations": 0}, ValueError, "fit: max_iterations must be a positive integer"),
        ({"X": np.full((4, 1), np.nan)}, ValueError, "fit: X must be finite"),
        ({"targets": np.array([0, 1, 2, -1])}, ValueError, "labels must be integers in"),
        ({"num_classes": 2}, ValueError, "labels must be integers in"),
        ({"targets": np.array([0.0, 1, 2, 0])}, TypeError, "integer dtype"),
        ({"weights": np.array([1, 1, 1, -1])}, ValueError, "fit: weights must be finite and non-negative"),
        ({"class_weights": [1.0]}, ValueError, "fit: class_weights must be 3"),
        ({"class_weights": ["1", 1, 1]}, ValueError, "fit: class_weights must be 3"),
        ({"l2": "0.1"}, ValueError, "fit: l2 must be a finite number"),
        ({"l2": 10**400}, ValueError, "fit: l2 must be a finite number"),
        ({"X": np.ma.masked_array(np.ones((4, 1)))}, TypeError, "fit: X must be an array without a mask"),
        ({"targets": np.array([0, 1, 2, 2**32])}, ValueError, "fit: targets have the label 4294967296"),
        ({"targets": np.array([0, 1, 2**32, 2]), "num_classes": 3}, ValueError, "got 4294967296 at row 2"),
        ({"params": (1, 2)}, TypeError, "fit: params.W must be an array"),
        ({"params": (np.ones((2, 3)), np.ones((1, 3)))}, ValueError, r"fit: params.W must have shape .* = \(1, 3\)"),
        ({"class_weights": {7: 1.0}}, ValueError, "class_weights' keys must be classes"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_computed(change, error, message):
    arguments = {"X": np.ones((4, 1), np.float32), "targets": np.array([0, 1, 2, 0]), "l2": 1.0} | change
    with pytest.raises(error, match=message):
        handgrad.fit(**arguments)


def test_data_that_are_not_known_are_refused():
    with pytest.raises(TypeError, match="fit: data must be known, which they are not"):
        jax.jit(lambda X: handgrad.fit(X, np.array([0, 1]), l2=1.0).params)(np.ones((2, 1), np.float32))


# --- Memory, and MNIST-10k -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("C", "expected"), [pytest.param(1.0, 0.15207877, marks=pytest.mark.slow), (0.01, 0.50309646)])
def test_reaches_the_published_objective_on_mnist(fit, C, expected):
    X, t = mnist()
    result = fit(X.astype(np.float32), t, l2=1 / (len(X) * C), tol=1e-6)
    loss, _, _ = oracles_fit.objective(*result.params, X, np.eye(10)[t], result.l2)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert oracles_fit.relative_gap(*result.params, X, t, result.l2) <= 1.05e-6


def mnist():
    import gzip

    folder = os.environ.get("HANDGRAD_DATA")
    if folder is None:
        pytest.skip("HANDGRAD_DATA does not name a folder with mnist-10k")
    files = sorted((Path(folder) / "mnist-10k").glob("*.gz"))
    images, labels = (np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files)
    return images[16:].reshape(-1, 784) / 255, labels[8:].astype(np.int64)
