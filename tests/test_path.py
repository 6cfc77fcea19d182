"""`fit_path` against separate fits, its validation, and standard errors against published ones."""

import numpy as np
import pytest

import oracles_fit
from handgrad import Params, fit, fit_path
from handgrad.data import load_digits
from handgrad.solvers import driver, placed
from handgrad.solvers.sums import class_moments

L2S = [1e-2, 1e-4, 1.0, 1e-3, 1e-1]


@pytest.fixture(scope="module")
def digits():
    table = load_digits()
    return table.X[:600].astype(np.float64), table.labels[:600]


@pytest.fixture(params=["few", "compiled"])
def kind_of_rows(request):
    if request.param == "compiled":
        request.getfixturevalue("compiled_rows")


@pytest.mark.usefixtures("kind_of_rows")
@pytest.mark.parametrize(
    ("dtype", "soft"), [("float32", False), pytest.param("float64", True, marks=pytest.mark.slow)], indirect=["dtype"]
)
def test_answers_are_those_of_separate_fits(dtype, digits, soft):
    X, t = digits
    X = X.astype(dtype)
    targets = (0.9 * np.eye(10) + 0.01)[t].astype(dtype) if soft else t
    path = fit_path(X, targets, l2s=L2S)
    assert path.converged.all()
    for i, l2 in enumerate(L2S):
        single = fit(X, targets, l2=l2)
        # Both are within tol of the optimum.
        np.testing.assert_allclose(path.loss[i], single.loss, rtol=2e-5)
        assert oracles_fit.relative_gap(path.params.W[i], path.params.b[i], X, targets, l2) <= 1.05e-5
        np.testing.assert_allclose(path.params.W[i], single.params.W, atol=2e-2 * np.abs(single.params.W).max())


@pytest.mark.usefixtures("kind_of_rows", "x64")
def test_more_problems_than_lanes_are_all_solved(digits):
    X, t = digits
    l2s = np.geomspace(1e-4, 1, 19)
    path = fit_path(X, t, l2s=l2s, tol=1e-7)
    np.testing.assert_array_equal(path.l2s, l2s)
    assert path.converged.all()
    assert np.all(np.diff(path.loss) > 0)
    for i in (0, 9, 18):
        assert oracles_fit.relative_gap(path.params.W[i], path.params.b[i], X, t, l2s[i]) <= 1.05e-7


def test_best_is_the_least_validation_loss(digits):
    X, t = digits[0].astype(np.float32), digits[1]
    path = fit_path(X[:400], t[:400], l2s=L2S, validation=(X[400:], t[400:]))
    for i in range(len(L2S)):
        loss, _, _ = oracles_fit.objective(path.params.W[i], path.params.b[i], X[400:], np.eye(10)[t[400:]], 0)
        np.testing.assert_allclose(path.validation_loss[i], loss, rtol=1e-4)
        hits = np.argmax(X[400:] @ path.params.W[i] + path.params.b[i], axis=1) == t[400:]
        np.testing.assert_allclose(path.validation_accuracy[i], hits.mean(), rtol=1e-6)
    assert path.best == np.argmin(path.validation_loss)
    np.testing.assert_array_equal(path.best_params.W, path.params.W[path.best])


@pytest.mark.usefixtures("x64")
def test_folds_are_separate_fits(digits):
    X, t = digits
    path = fit_path(X, t, l2s=[1e-2, 1.0], validation=3, tol=1e-8)
    order = np.argsort(t, kind="stable")
    expected = np.zeros(2)
    for fold in range(3):
        out = np.zeros(len(t), bool)
        out[order[fold::3]] = True
        for i, l2 in enumerate([1e-2, 1.0]):
            params = fit(X[~out], t[~out], l2=l2, tol=1e-8).params
            expected[i] += oracles_fit.objective(*params, X[out], np.eye(10)[t[out]], 0)[0] / 3
    np.testing.assert_allclose(path.validation_loss, expected, rtol=1e-4)
    np.testing.assert_allclose(path.loss[0], fit(X, t, l2=1e-2, tol=1e-8).loss, rtol=1e-7)


def test_blocks_are_of_the_problems_that_are_left(digits, monkeypatch):
    shares, whole = [], placed.Placed.sum

    def watched(self, of, V, *arguments):
        if of is class_moments:
            shares.append(V[1].tolist())
        return whole(self, of, V, *arguments)

    monkeypatch.setattr(placed.Placed, "sum", watched)
    path = fit_path(digits[0].astype(np.float32), digits[1], l2s=[1e-4, 100.0], tol=1e-4)
    assert path.converged.all()
    assert path.iterations[1] < 7 < path.iterations[0]  # the strong penalty is done before the first blocks
    assert shares
    assert all(share == [0.0, 1.0] for share in shares)


@pytest.mark.filterwarnings("ignore:fit_path. 1 of 2 penalties have not converged")
def test_no_problem_that_is_taken_up_again_has_more_iterations_than_it_may(digits, monkeypatch):
    for name, value in (("MARGIN", 30.0), ("LEAST", 1 / 64), ("MOST", 1 / 64)):  # the proof finds too little at first
        monkeypatch.setattr(driver, name, value)
    X, t = digits[0].astype(np.float32), digits[1]
    first = fit_path(X, t, l2s=[1e-3, 1.0])
    most = int(first.iterations[0]) - 8
    again = fit_path(X, t, l2s=[1e-3, 1.0], max_iterations=most)
    assert again.iterations[1] < again.iterations[0] == most
    assert again.converged.tolist() == [False, True]


def test_a_path_that_does_not_converge_says_so(digits):
    with pytest.warns(RuntimeWarning, match="fit_path: 2 of 2 penalties have not converged"):
        path = fit_path(digits[0].astype(np.float32), digits[1], l2s=[1e-3, 1e-2], max_iterations=2)
    assert not path.converged.any()


def test_refuses_before_it_computes(monkeypatch):
    monkeypatch.setattr("handgrad.solvers.path.solve_certified", None)
    X, t = np.ones((6, 1), np.float32), np.array([0, 1, 0, 1, 0, 1])
    wrong = [
        3.5,
        True,
        np.int64(7),
        (X,),
        (X[:, :0], t),
        (np.full_like(X, np.nan), t),
        (X, t + 1),
        (X, t[:3]),
    ]
    for validation in wrong:
        with pytest.raises((ValueError, TypeError), match=r"fit_path: |labels"):
            fit_path(X, t, l2s=[1.0], validation=validation)
    with pytest.raises(ValueError, match="the rows held out for validation must have weight"):
        fit_path(X, t, l2s=[1.0], validation=(X, np.full(6, 2)), num_classes=3)


def test_folds_may_be_any_integer_and_lack_a_class():
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(40, 2)).astype(np.float32), np.append(np.arange(39) % 2, 2)
    with pytest.warns(RuntimeWarning, match=r"fit_path: 1 rows are left out .* being of classes \(2\)"):
        path = fit_path(X, t, l2s=[1.0, 0.1], validation=np.int64(4))
    assert np.isfinite(path.validation_loss).all()
    with pytest.warns(RuntimeWarning, match="being of classes"):
        separate = fit_path(X[:39], t[:39], l2s=[1.0], validation=(X, t), num_classes=3)
    W, b = separate.params.W[0][:, :2], separate.params.b[0][:, :2]
    loss, _, _ = oracles_fit.objective(W, b, X[:39], np.eye(2)[t[:39]], 0)
    np.testing.assert_allclose(separate.validation_loss[0], loss, rtol=1e-6)
    hits = np.argmax(X @ W + b, axis=1) == t
    np.testing.assert_allclose(separate.validation_accuracy[0], hits.mean())


@pytest.mark.messages
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"l2s": []}, "l2s must be one or more positive"),
        ({"l2s": [0.0]}, "For l2=0 use fit"),
        ({"l2s": ["1"]}, "l2s must be one or more positive"),
        ({"l2s": [10**400]}, "l2s must be one or more positive"),
        ({"validation": 1}, "2 folds or more"),
        ({"validation": 3.5}, "must be a pair"),
        ({"validation": (np.ones((2, 3), np.float32), np.array([0, 1]))}, "must have 1 columns"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    arguments = {"X": np.ones((4, 1), np.float32), "targets": np.array([0, 1, 2, 0]), "l2s": [1.0]} | change
    with pytest.raises(ValueError, match=message):
        fit_path(**arguments)


def test_best_params_needs_validation(digits):
    path = fit_path(digits[0].astype(np.float32), digits[1], l2s=[1.0])
    with pytest.raises(ValueError, match="the path has no validation"):
        _ = path.best_params


# --- Standard errors -----------------------------------------------------------------------------------------------

PNEUMO_TIMES = [5.8, 15, 21.5, 27.5, 33.5, 39.5, 46, 51.5]
PNEUMO_COUNTS = [[98, 0, 0], [51, 2, 1], [34, 6, 3], [35, 5, 8], [32, 10, 9], [23, 7, 8], [12, 6, 10], [4, 2, 5]]


@pytest.mark.usefixtures("x64")
def test_standard_errors_are_the_published_ones_for_pneumo():
    """Ashford (1959), normal and mild against severe."""
    X, t = np.repeat(np.log(PNEUMO_TIMES)[:, None], 3, axis=0), np.tile([0, 1, 2], 8)
    w = np.ravel(PNEUMO_COUNTS).astype(float)
    result = fit(X, t, l2=0.0, weights=w, tol=1e-9)
    table = result.standard_errors(X, weights=w, base=2)
    np.testing.assert_allclose(table.estimate.T, [[-3.06746649, 11.97509199], [-0.90209361, 3.03906225]], rtol=1e-7)
    np.testing.assert_allclose(table.standard_error.T, [[0.56520669, 2.00044532], [0.66898220, 2.37607073]], rtol=1e-7)
    np.testing.assert_allclose(table.z, table.estimate / table.standard_error)
    np.testing.assert_allclose(table.p[1, 1], 0.20092, rtol=1e-3)
    np.testing.assert_allclose(table.upper - table.lower, 2 * 1.959963985 * table.standard_error, rtol=1e-8)
    shares = np.array(PNEUMO_COUNTS) / np.sum(PNEUMO_COUNTS, axis=1, keepdims=True)
    saturated = -np.sum(np.array(PNEUMO_COUNTS) * np.log(np.where(shares > 0, shares, 1)))
    np.testing.assert_allclose(2 * (result.loss * w.sum() - saturated), 5.347382, rtol=1e-6)
    assert str(table).splitlines()[1].split()[:3] == ["0", "intercept", "11.975"]


@pytest.mark.usefixtures("x64")
def test_unpenalised_iris_is_the_published_one():
    from sklearn.datasets import load_iris

    X, t = load_iris(return_X_y=True)
    result = fit(X[50:], t[50:] - 1, l2=0.0, tol=1e-9)
    table = result.standard_errors(X[50:])
    expected = [-2.4652202, -6.68088701, 9.42938515, 18.28613689, -42.63780381]
    np.testing.assert_allclose(table.estimate[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(200 * result.loss, 11.898547, rtol=1e-7)


def test_standard_errors_refuse_a_penalised_fit(digits):
    X = digits[0].astype(np.float32)
    result = fit(X, digits[1], l2=1.0)
    with pytest.raises(ValueError, match="needs a converged fit with l2=0; got l2=1"):
        result.standard_errors(X)


@pytest.mark.usefixtures("x64")
def test_standard_errors_refuse_features_that_determine_each_other():
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(100, 1)), rng.integers(0, 2, 100)
    X = np.concatenate([x, np.ones((100, 1))], axis=1)
    result = fit(X, t, l2=0.0)
    with pytest.raises(ValueError, match="the Hessian must be invertible"):
        result.standard_errors(X)
    assert isinstance(result.params, Params)


def test_distributions_held_out_are_divided_by_their_sums():
    """As those that are trained on: a row may sum to a little more than 1."""
    random = np.random.default_rng(0)
    X, T = random.normal(size=(12, 2)), random.dirichlet(np.ones(3), 12)
    losses = [
        fit_path(X, T, l2s=[0.1, 1.0], validation=(X, T * scale)).validation_loss
        for scale in (1.0, np.linspace(1.0004, 1.0009, 12)[:, None])
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-12)
