"""The layer's gradient and curvature against autograd, differences and closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grids
import handgrad
import oracles
from handgrad import Params, formulas

# One row, one feature, one class; P above and below C, for which dL/dW is computed in two ways; odd sizes; N = P,
# P = C, N = C and all three.
SHAPES = [(1, 1, 1), (1, 3, 4), (7, 5, 3), (33, 4, 1), (10, 2, 26), (64, 9, 9), (5, 5, 3), (5, 3, 5), (4, 4, 4)]
value_and_gradient_by_autograd = jax.jit(jax.value_and_grad(oracles.jax_loss))
gradient_by_autograd = jax.jit(jax.grad(oracles.jax_loss))


def assert_close(actual, expected, dtype):
    tolerance = oracles.TOLERANCE[dtype]
    chex.assert_trees_all_equal_shapes(actual, expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(e, np.float64), rtol=tolerance, atol=tolerance)


def in_float64(function, *args):
    """The oracle's derivative of the same numbers in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda array: np.asarray(array, np.int64 if array.dtype.kind == "i" else np.float64), args)
        return jax.tree.map(np.asarray, function(*wide))


def all_of_one_shape(shape, targets, weights):
    return shape == (7, 5, 3) or (targets, weights) == ("labels", "floating")


@pytest.mark.parametrize(
    ("shape", "targets", "weights"),
    grids.product(SHAPES, ["labels", "distributions"], [None, "floating", "counts"], quick=all_of_one_shape),
    ids=str,
)
def test_gradient_matches_autograd(shape, targets, weights):
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            W, b, X, t, w = oracles.problem(*shape, targets=targets, weights=weights, dtype=dtype)
            value, gradient = handgrad.value_and_gradient(Params(W, b), X, t, w)
            expected_value, expected = in_float64(value_and_gradient_by_autograd, Params(W, b), X, t, w)
            tolerance = oracles.TOLERANCE[dtype]
            np.testing.assert_allclose(value, expected_value, rtol=tolerance, atol=tolerance)
            np.testing.assert_allclose(value, oracles.loss(W, b, X, t, w), rtol=1e-5, atol=1e-6)
            assert_close(gradient, expected, dtype)


def test_the_loss_and_the_gradient_alone_are_those_of_both_together(dtype):
    W, b, X, t, w = oracles.problem(7, 5, 3, weights="floating", dtype=dtype)
    value, gradient = handgrad.value_and_gradient(Params(W, b), X, t, w)
    alone = handgrad.loss(Params(W, b), X, t, w), handgrad.gradient(Params(W, b), X, t, w)
    chex.assert_trees_all_close(alone, (value, gradient), atol=oracles.TOLERANCE[dtype])


def test_the_opposite_sign_fails_the_comparison():
    W, b, X, t, _ = oracles.problem(7, 5, 3)
    expected = in_float64(gradient_by_autograd, Params(W, b), X, t)
    T_minus_Y = -formulas.logit_gradient(X @ W + b, t)
    with pytest.raises(AssertionError):
        assert_close(Params(X.T @ T_minus_Y, T_minus_Y.sum(axis=0, keepdims=True)), expected, "float64")


@pytest.mark.parametrize("targets", ["labels", "distributions"])
def test_gradient_matches_differences_of_the_loss(targets):
    W, b, X, t, w = oracles.problem(9, 4, 3, targets=targets, weights="floating")
    dW, db = formulas.gradient(Params(W, b), X, t, w)
    # A difference over 2e-6 of a loss of size 1 is good to about 1e-16/1e-6.
    np.testing.assert_allclose(dW, oracles.central_differences(lambda W: oracles.loss(W, b, X, t, w), W), atol=1e-9)
    np.testing.assert_allclose(db, oracles.central_differences(lambda b: oracles.loss(W, b, X, t, w), b), atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_is_as_its_docstring_writes_it(shape):
    W, b, X, t, _ = oracles.problem(*shape)
    N, C = shape[0], shape[2]
    D = oracles.softmax(X @ W + b) - oracles.distributions(t, C)
    dW, db = formulas.gradient(Params(W, b), X, t)
    np.testing.assert_allclose(dW, X.T @ D / N, atol=1e-14)
    np.testing.assert_allclose(db, np.ones((1, N)) @ D / N, atol=1e-14)


@jax.jit
def hessian_by_autograd(params, direction, X, t, w):
    return jax.jvp(lambda params: jax.grad(oracles.jax_loss)(params, X, t, w), (params,), (direction,))[1]


@pytest.mark.parametrize(
    ("shape", "weights"),
    grids.product(SHAPES, [None, "floating"], quick=lambda shape, weights: weights or shape == (7, 5, 3)),
    ids=str,
)
def test_hessian_vector_product_matches_autograd(shape, weights):
    W, b, X, t, w = oracles.problem(*shape, weights=weights, dtype="float32")
    arrays = Params(W, b), X, Params(*oracles.problem(*shape, seed=1, dtype="float32")[:2]), w
    params, X, direction, w = arrays
    expected = in_float64(hessian_by_autograd, params, direction, X, t, w)
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            own = jax.tree.map(lambda array, dtype=dtype: array.astype(dtype), arrays)
            assert_close(handgrad.hessian_vector_product(*own), expected, dtype)


def test_hessian_vector_product_is_as_its_docstring_writes_it():
    W, b, X, _, _ = oracles.problem(7, 5, 3)
    direction = Params(*oracles.problem(7, 5, 3, seed=1)[:2])
    Y = oracles.softmax(X @ W + b)
    dZ = X @ direction.W + direction.b
    dY = Y * (dZ - (Y * dZ).sum(axis=1, keepdims=True))
    product = formulas.hessian_vector_product(Params(W, b), X, direction)
    np.testing.assert_allclose(product.W, X.T @ dY / 7, atol=1e-14)
    np.testing.assert_allclose(product.b, dY.sum(axis=0, keepdims=True) / 7, atol=1e-14)


@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
@pytest.mark.parametrize("weights", [None, "floating"])
def test_narrow_dtypes_are_right_to_their_precision(narrow, weights):
    W, b, X, t, w = jax.tree.map(jnp.asarray, oracles.problem(64, 9, 5, weights=weights, dtype="float32"))
    W, b, X = (array.astype(narrow) for array in (W, b, X))
    value, gradient = handgrad.value_and_gradient(Params(W, b), X, t, w)
    assert value.dtype == jnp.float32
    expected_value, expected = in_float64(value_and_gradient_by_autograd, Params(W, b), X, t, w)
    np.testing.assert_allclose(value, expected_value, rtol=oracles.TOLERANCE[narrow])
    assert_close(gradient, expected, narrow)
    product = handgrad.hessian_vector_product(Params(W, b), X, Params(W, b), w)
    assert {product.W.dtype, product.b.dtype} == {jnp.dtype(narrow)}
    assert handgrad.predict_proba(Params(W, b), X).dtype == narrow


def test_small_entries_survive_in_float16():
    # 6e-5 / 4096 is far below float16's smallest number, and 4096 such rows together are not.
    rows = 4096
    params = Params(W=jnp.array([[0.0, -9.7]], jnp.float16), b=jnp.zeros((1, 2), jnp.float16))
    dW, _ = handgrad.gradient(params, jnp.ones((rows, 1), jnp.float16), jnp.zeros(rows, jnp.int32))
    np.testing.assert_allclose(np.asarray(dW, np.float64)[0, 1], np.exp(-9.7), rtol=0.02)


@pytest.mark.parametrize("weights", [None, "floating"])
@pytest.mark.parametrize("targets", ["labels", "distributions"])
def test_autograd_of_the_loss_gives_the_gradient_by_hand(targets, weights, dtype):
    W, b, X, t, w = jax.tree.map(jnp.asarray, oracles.problem(7, 5, 3, targets=targets, weights=weights, dtype=dtype))
    value, pullback = jax.vjp(lambda params: handgrad.loss(params, X, t, w), Params(W, b))
    (pulled,) = pullback(jnp.full_like(value, -2.5))
    by_hand = handgrad.gradient(Params(W, b), X, t, w)
    assert_close(pulled, jax.tree.map(lambda array: -2.5 * array, by_hand), dtype)


def test_vmap_over_parameters_gives_each_gradient():
    W, b, X, t, w = jax.tree.map(jnp.asarray, oracles.problem(7, 5, 3, weights="floating", dtype="float32"))
    stacked = Params(jnp.stack([W, 2 * W]), jnp.stack([b, -b]))
    together = jax.vmap(handgrad.gradient, in_axes=(0, None, None, None))(stacked, X, t, w)
    for lane in range(2):
        alone = handgrad.gradient(Params(stacked.W[lane], stacked.b[lane]), X, t, w)
        assert_close(jax.tree.map(lambda array, lane=lane: array[lane], together), alone, "float32")


def test_one_class_has_loss_zero_and_gradient_zero(dtype):
    W, b, X, t, _ = oracles.problem(5, 3, 1, dtype=dtype)
    value, gradient = handgrad.value_and_gradient(Params(W, b), X, t)
    assert value == 0
    chex.assert_trees_all_equal(gradient, Params(np.zeros_like(W), np.zeros_like(b)))


def test_weights_are_as_good_as_repeated_rows(dtype):
    W, b, X, t, w = oracles.problem(9, 4, 3, weights="counts", dtype=dtype)
    repeated = handgrad.value_and_gradient(Params(W, b), np.repeat(X, w, axis=0), np.repeat(t, w))
    chex.assert_trees_all_close(
        handgrad.value_and_gradient(Params(W, b), X, t, w), repeated, atol=oracles.TOLERANCE[dtype]
    )


def test_all_weights_zero_gives_loss_zero_and_gradient_zero(dtype):
    W, b, X, t, _ = oracles.problem(5, 3, 4, dtype=dtype)
    value, gradient = handgrad.value_and_gradient(Params(W, b), X, t, np.zeros(5, dtype))
    assert value == 0
    chex.assert_trees_all_equal(gradient, Params(np.zeros_like(W), np.zeros_like(b)))


def test_a_row_of_weight_zero_does_not_count_whatever_its_label():
    W, b, X, t, _ = oracles.problem(5, 3, 4, dtype="float32")
    masked = np.append(t[:-1], np.int32(-100))
    w = np.array([1, 1, 1, 1, 0], np.float32)
    chex.assert_trees_all_close(
        handgrad.value_and_gradient(Params(W, b), X, masked, w),
        handgrad.value_and_gradient(Params(W, b), X[:-1], t[:-1]),
        atol=oracles.TOLERANCE["float32"],
    )


@pytest.mark.parametrize("label", [-1, -100, 3, 127])
def test_compiled_code_answers_a_label_out_of_range_with_nan(label):
    W, b, X, t, _ = oracles.problem(5, 2, 3, dtype="float32")
    t[2] = label
    value, gradient = handgrad.value_and_gradient(Params(W, b), X, t)
    assert np.isnan(value)
    assert np.isnan(gradient.W).all()
    assert np.isnan(gradient.b).all()


def test_compiled_code_answers_a_row_that_is_no_distribution_with_nan():
    W, b, X, T, _ = oracles.problem(5, 2, 3, targets="distributions", dtype="float32")
    for wrong in (2 * T, T - 1, np.full_like(T, np.nan)):
        value, gradient = handgrad.value_and_gradient(Params(W, b), X, wrong)
        assert np.isnan(value)
        assert np.isnan(gradient.b).all()


def test_compiled_code_answers_a_negative_weight_with_nan():
    W, b, X, t, w = oracles.problem(5, 2, 3, weights="floating", dtype="float32")
    w = jnp.asarray(w).at[1].multiply(-1)  # NumPy's weights would be looked at before
    value, gradient = handgrad.value_and_gradient(Params(W, b), X, t, w)
    assert np.isnan(value)
    assert np.isnan(gradient.W).all()
    assert np.isnan(handgrad.hessian_vector_product(Params(W, b), X, Params(W, b), w).W).all()


def test_a_nan_in_the_data_reaches_the_loss():
    W, b, X, t, _ = oracles.problem(5, 2, 3, dtype="float32")
    X[3, 1] = np.nan
    assert np.isnan(handgrad.loss(Params(W, b), X, t))


def test_prediction_is_the_argmax_of_the_probabilities(dtype):
    W, b, X, _, _ = oracles.problem(40, 5, 7, dtype=dtype)
    Y = handgrad.predict_proba(Params(W, b), X)
    np.testing.assert_allclose(Y, oracles.softmax(X @ W + b), atol=oracles.TOLERANCE[dtype])
    np.testing.assert_array_equal(handgrad.predict(Params(W, b), X), oracles.softmax(X @ W + b).argmax(axis=1))


def test_sgd_step_is_as_its_docstring_writes_it(dtype):
    W, b, *_ = oracles.problem(1, 5, 3, dtype=dtype)
    dW, db, *_ = oracles.problem(1, 5, 3, seed=1, dtype=dtype)
    step = formulas.sgd_step(Params(W, b), Params(dW, db), 0.1)
    np.testing.assert_array_equal(step.W, W - 0.1 * dW)
    np.testing.assert_array_equal(step.b, b - 0.1 * db)


class JitVariants(chex.TestCase):
    """With and without jit, and with the arguments on a device or not, the results are the same."""

    @chex.variants(with_jit=True, without_jit=True, with_device=True, without_device=True)
    def test_value_and_gradient(self):
        W, b, X, t, w = oracles.problem(7, 5, 3, weights="floating", dtype="float32")
        result = self.variant(formulas.value_and_gradient)(Params(W, b), X, t, w)
        chex.assert_trees_all_close(result, handgrad.value_and_gradient(Params(W, b), X, t, w), atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    def test_hessian_vector_product(self):
        W, b, X, _, w = oracles.problem(7, 5, 3, weights="floating", dtype="float32")
        result = self.variant(formulas.hessian_vector_product)(Params(W, b), X, Params(W, b), w)
        chex.assert_trees_all_close(
            result, handgrad.hessian_vector_product(Params(W, b), X, Params(W, b), w), atol=1e-6
        )


@pytest.mark.parametrize("rate", [np.float32(0.25), np.float64(0.25), np.array(0.25), jnp.float32(0.25), 0.25])
def test_sgd_step_keeps_the_dtype_of_params_whatever_that_of_the_rate(rate):
    one = Params(jnp.ones((2, 3), jnp.bfloat16), jnp.ones((1, 3), jnp.bfloat16))
    for step in (formulas.sgd_step, handgrad.sgd_step):
        stepped = step(one, one, rate)
        assert {array.dtype for array in stepped} == {jnp.dtype(jnp.bfloat16)}
        np.testing.assert_array_equal(np.asarray(stepped.W, np.float32), 0.75)


def test_sgd_step_refuses_a_rate_for_each_class():
    one = Params(np.ones((2, 3)), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"sgd_step: learning_rate must be a scalar; got \(3,\)"):
        formulas.sgd_step(one, one, np.ones(3))
