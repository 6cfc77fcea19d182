"""What other tests would let pass: each of these was written for a mistake that none of them named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
import oracles
from handgrad import Params, fit, fit_path, formulas
from handgrad.data import load_digits
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.rows import host
from handgrad.rows.blocks import DenseBlock
from handgrad.solvers import driver, placed, sweeps
from handgrad.solvers.data import prepare
from handgrad.solvers.folds import make_folds
from handgrad.solvers.search import Line
from handgrad.solvers.state import Lane
from handgrad.solvers.sums import _largest, class_moments


def test_gelu_is_exact_to_rounding_in_float32_too():
    special = pytest.importorskip("scipy.special", reason="SciPy is not installed")
    Z = np.linspace(-4, 4, 2001, dtype=np.float32)
    A = ACTIVATIONS["gelu"].function(np, Z)
    assert A.dtype == np.float32
    # exp(−z²) multiplies a rounding error of z² by up to 4²/2; a series of half the length is off by 1e-5.
    np.testing.assert_allclose(A, Z * special.ndtr(Z.astype(np.float64)), rtol=3e-6)


def test_the_head_keeps_small_entries_in_float16():
    # 6e-5 / 4096 is far below float16's smallest number, and 4096 such rows together are not.
    X, W = jnp.ones((4096, 1), jnp.float16), jnp.array([[0.0, -9.7]], jnp.float16)
    dW = jax.grad(handgrad.linear_cross_entropy, argnums=1)(X, W, jnp.zeros(4096, jnp.int32))
    np.testing.assert_allclose(np.asarray(dW, np.float64)[0, 1], np.exp(-9.7), rtol=0.02)


def test_the_check_passes_soft_targets_that_sum_to_one_but_for_rounding():
    W, b, X, T, _ = oracles.problem(60, 7, 4, targets="distributions")
    T = T.astype(np.float32)
    assert np.abs(T.sum(axis=1, dtype=np.float64) - 1).max() > 1e-8
    assert handgrad.check_gradients(Params(W, b), X, T, dtypes=("float64",)).passed


def test_soft_targets_count_by_their_shares():
    W, b, X, T, _ = oracles.problem(60, 7, 4, targets="distributions")
    value, gradient = formulas.value_and_gradient(Params(W, b), X, T)
    also_value, also = formulas.value_and_gradient(Params(W, b), X, 1.0005 * T)
    np.testing.assert_allclose(also_value, value, rtol=1e-14)
    np.testing.assert_allclose(also.W, gradient.W, atol=1e-15)


@pytest.mark.usefixtures("x64")
def test_the_curvature_of_the_classes_is_renewed():
    # With more features than rows there is only A's diagonal, and G has to follow: 35 iterations, 62 without.
    rng = np.random.default_rng(2)
    X, W = rng.normal(size=(60, 130)), rng.normal(size=(130, 5)) / 4
    t = np.argmax(X @ W + [0, -2, -4, 1, 2] + rng.gumbel(size=(60, 5)), axis=1)
    assert fit(X, t, l2=1e-2, tol=1e-8).iterations < 45


@pytest.mark.usefixtures("x64")
def test_a_path_goes_on_from_the_nearest_penalty():
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(200, 5)), rng.normal(size=(5, 3))
    t = np.argmax(X @ W + rng.gumbel(size=(200, 3)), axis=1)
    # All but one penalty: the first 26, as many as are solved at once, start from zeros, the others at their optimum.
    path = fit_path(X, t, l2s=np.geomspace(0.1, 0.0999999, 40), tol=1e-6)
    assert path.iterations[26:].max() < path.iterations[:26].min()


def test_a_fold_that_lacks_a_class_goes_on_from_one_that_has_it(monkeypatch):
    """What is left of the other's W has a mean over the classes, which no direction takes off."""
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(200, 5)), rng.normal(size=(5, 3))
    t = np.argmax(X @ W + rng.gumbel(size=(200, 3)), axis=1)
    data = prepare("test", X, t, None, None, None, None)
    folds = make_folds("test", data, np.stack([np.ones(200), t != 0], axis=1))
    monkeypatch.setattr(driver, "COLUMNS", 1)  # one after the other
    found = driver.solve_certified(data, folds, np.arange(2), np.full(2, 0.01), tol=1e-5, max_iterations=100)
    assert found.converged.all()
    np.testing.assert_allclose(found.certified.W[1].sum(axis=1), 0, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_few_rows_take_the_steps_that_compiled_programs_take(monkeypatch):
    """NumPy's lanes turn one after another, those on a device together."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4)) * np.geomspace(1, 30, 4)
    t = np.argmax(X @ rng.normal(size=(4, 3)) / 4 + rng.gumbel(size=(200, 3)), axis=1)
    runs = []
    for few_rows, few_lanes in ((host.FEW, 0), (0, placed.FEW), (0, 0)):
        monkeypatch.setattr(host, "FEW", few_rows)
        monkeypatch.setattr(placed, "FEW", few_lanes)
        seen = []
        fit(X, t, l2=1e-4, tol=1e-9, callback=lambda _, loss, gap, seen=seen: seen.append((loss, gap)))
        runs.append(seen[:16])
    assert len(runs[0]) > 10  # more than are remembered
    np.testing.assert_allclose(runs[0], runs[1], rtol=1e-6)
    np.testing.assert_allclose(runs[0], runs[2], rtol=1e-6)


def test_blocks_are_made_once_half_as_much_is_spent_and_then_half_as_much_again(monkeypatch):
    made, seen = [], []
    invert = sweeps.invert_blocks
    monkeypatch.setattr(sweeps, "invert_blocks", lambda *given: made.append(len(seen)) or invert(*given))
    table = load_digits()
    fit(table.X.astype(np.float32), table.labels, l2=1e-4, callback=lambda *progress: seen.append(progress))
    assert made[:2] == [9, 21]  # of 64 features 12 iterations


@pytest.mark.parametrize("xp", [np, jnp])
def test_the_block_of_a_class_is_of_the_rows_of_which_it_is_least_sure(xp):
    rng = np.random.default_rng(0)
    X, V, weights = rng.normal(size=(19, 4)), rng.normal(size=(1, 5, 3)), rng.uniform(0.1, 1, 19)
    X[0], weights[0] = 5 * X[0], 300  # which is taken for its weight, although it is sure
    augmented = np.append(X, np.ones((19, 1)), axis=1)
    Y = np.exp(augmented @ V[0])
    Y /= Y.sum(axis=1, keepdims=True)
    Q = np.linalg.qr(rng.normal(size=(5, 5)))[0][:, 2:]
    rotated = augmented @ Q
    V, X, weights, share, Q, labels = map(xp.asarray, (V, X, weights[:, None], np.ones(1), Q, np.zeros(19, np.int32)))
    found = class_moments(DenseBlock(X, 1.0), labels, weights, ((V, share, Q), np.zeros(1, np.int32)), 4)
    w, some_are_sure = np.asarray(weights)[:, 0], False
    for moment, level, y in zip(*map(np.asarray, found), Y.T, strict=True):
        s = w * y * (1 - y)
        order = np.argsort(s)
        others, taken = order[:-5], order[-5:]
        mean = s[others].sum() / w[others].sum()
        beyond = np.maximum(s[taken] - mean * w[taken], 0)  # of rows with a large weight that are sure, 0
        some_are_sure |= bool((beyond == 0).any())
        expected = np.einsum("n,np,nq->pq", beyond, rotated[taken], rotated[taken])
        np.testing.assert_allclose(moment, expected, rtol=1e-4, atol=1e-5)  # of float32 with a weight of 300
        np.testing.assert_allclose(level, mean * w.sum(), rtol=1e-5)
    assert some_are_sure


@pytest.mark.parametrize("num_rows", [1, 2, 5, 31, 32, 33, 65, 1000])
def test_the_rows_that_a_compiled_program_takes_have_nearly_all_that_the_largest_have(num_rows):
    rng = np.random.default_rng(num_rows)
    scales = np.float32(rng.uniform(size=(3, num_rows)) ** [[1], [8], [40]])  # of 40 most are 0
    (rows, others), (largest, _) = (_largest(xp, xp.asarray(scales), 4) for xp in (jnp, np))
    assert num_rows / 4 <= rows.shape[1] <= num_rows / 4 + num_rows / 32 + 1
    for scale, taken, rest, best in zip(scales, *map(np.asarray, (rows, others, largest)), strict=True):
        np.testing.assert_array_equal(np.flatnonzero(rest == 0), np.sort(taken))  # each once, and none that is not
        assert scale[taken].sum() >= 0.95 * scale[best].sum()


@pytest.mark.parametrize(("strength", "power"), [(0.1, 1), (0.0, 2)])
def test_a_lane_that_is_half_way_needs_as_many_iterations_again(strength, power):
    lane = Lane(0, np.zeros((2, 2)), strength, 0, 8)
    for measure, expected in ((1e-4, 8), (1e-6, 8 / 3), (1e-8, 0), (1e-9, 0), (50.0, np.inf)):
        lane.measure = measure**power
        assert lane.iterations_left(1e-8**power, 1e-8) == pytest.approx(expected)
    assert lane.iterations_left(0.0, 1e-8) == np.inf  # nothing is near a goal of 0


@pytest.mark.parametrize("seem", [0, sweeps.SEEM])
def test_no_blocks_are_made_for_the_last_iterations(monkeypatch, seem):
    made, seen, invert = [], [], sweeps.invert_blocks
    for name, value in (("LEAST", 3), ("PAYBACK", 0.1), ("SEEM", seem)):  # every third iteration
        monkeypatch.setattr(sweeps, name, value)
    monkeypatch.setattr(sweeps, "invert_blocks", lambda *given: made.append(len(seen)) or invert(*given))
    table = load_digits()
    fit(table.X.astype(np.float32), table.labels, l2=1e-2, tol=1e-6, callback=lambda *each: seen.append(each))
    assert made[:4] == [2, 5, 8, 11]
    assert (len(seen) - made[-1] < 7) == (seem == 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_trial_whose_loss_has_risen_by_its_rounding_is_taken(dtype):
    eps = float(np.finfo(dtype).eps)

    def is_taken(loss, risen):
        return Line(loss, -1e-9, 1.0).accepts(loss + risen, -1e-11, eps)

    # A row's loss is log(1 + …): what 1 loses to rounding is lost to it, however small the loss.
    assert is_taken(1e-3, 0.9 * eps)
    assert is_taken(1e-30, 0.9 * eps)
    assert not is_taken(1e-3, 1.1 * eps)
    assert is_taken(100.0, 700 * eps)
    assert not is_taken(100.0, 900 * eps)


@pytest.mark.parametrize("l2", [3.2e-6, 1.8e-6])
def test_a_loss_of_little_is_not_taken_to_rise_by_its_rounding(l2):
    """In float32 that of a row is known to 1e-7, and here their mean is 2e-4."""
    table = load_digits()
    found = fit(table.X.astype(np.float32), table.labels, l2=l2)
    assert found.converged
    assert found.passes < 1.3 * found.iterations


def test_of_few_lanes_on_a_cpu_the_sums_alone_are_compiled(monkeypatch):
    monkeypatch.setattr(host, "FEW", 0)
    X, t = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32), np.arange(60) % 3
    compiled = []
    monkeypatch.setattr(placed, "_compile_ahead", lambda *arguments: compiled.append(arguments) or [])
    assert fit(X, t, l2=0.1).converged
    assert not compiled
    monkeypatch.setattr(placed, "FEW", 6**2 * 3 - 1)
    assert fit(X, t, l2=0.1).converged
    assert len(compiled) > 0
