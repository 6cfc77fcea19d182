"""What other tests would let pass: each of these was written for a mistake that none of them named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
import oracles
from handgrad import Params, fit, fit_path
from handgrad.formulas.activations import ACTIVATIONS


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


@pytest.mark.usefixtures("x64")
def test_the_curvature_of_the_classes_is_renewed():
    # With more features than rows there is only A's diagonal, and G has to follow: 41 iterations, 136 without.
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(60, 130)), rng.normal(size=(130, 5)) / 4
    t = np.argmax(X @ W + [0, -2, -4, 1, 2] + rng.gumbel(size=(60, 5)), axis=1)
    assert fit(X, t, l2=1e-3, tol=1e-8).iterations < 80


@pytest.mark.usefixtures("x64")
def test_a_path_goes_on_from_the_nearest_penalty():
    rng = np.random.default_rng(0)
    X, W = rng.normal(size=(200, 5)), rng.normal(size=(5, 3))
    t = np.argmax(X @ W + rng.gumbel(size=(200, 3)), axis=1)
    # The first 26, as many as are solved at once, start from zeros, in 2.0 iterations; the others, of weaker penalties,
    # would take 2.5 from there, and 1.8 from a neighbour.
    path = fit_path(X, t, l2s=np.geomspace(1, 0.1, 80))
    assert path.iterations[26:].mean() < path.iterations[:26].mean()
