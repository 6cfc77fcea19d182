"""Softmax, cross-entropy and what it is made of: values, identities, extremes, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
import oracles
from handgrad import formulas

SHAPES = [(1, 1), (1, 4), (33, 1), (10, 26)]


def logits(num_rows, num_classes, dtype="float64", seed=0):
    return np.random.default_rng(seed).normal(size=(num_rows, num_classes)).astype(dtype)


def distributions(num_rows, num_classes, dtype="float64", seed=1):
    return np.random.default_rng(seed).dirichlet(np.ones(num_classes), num_rows).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_softmax_is_as_its_docstring_writes_it(shape, dtype):
    Z = logits(*shape, dtype)
    np.testing.assert_allclose(handgrad.softmax(Z), oracles.softmax(Z), atol=oracles.TOLERANCE[dtype])
    np.testing.assert_allclose(handgrad.log_softmax(Z), np.log(oracles.softmax(Z)), atol=oracles.TOLERANCE[dtype])


def test_softmax_derivative_is_as_its_derivation_says(x64):
    Z, direction = logits(5, 4), logits(5, 4, seed=3)
    Y, dY = jax.jvp(formulas.softmax, (jnp.asarray(Z),), (jnp.asarray(direction),))
    np.testing.assert_allclose(dY, Y * (direction - np.sum(Y * direction, axis=1, keepdims=True)), atol=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_forms_of_the_loss_are_equal(shape, dtype):
    Z = logits(*shape, dtype)
    t = np.arange(shape[0]) % shape[1]
    from_labels = handgrad.cross_entropy(Z, t)
    from_one_hot = handgrad.cross_entropy(Z, handgrad.one_hot(t, shape[1], dtype))
    by_definition = -np.mean(np.log(oracles.softmax(Z))[np.arange(shape[0]), t])
    np.testing.assert_allclose(from_labels, by_definition, rtol=oracles.TOLERANCE[dtype], atol=1e-7)
    np.testing.assert_allclose(from_labels, from_one_hot, rtol=oracles.TOLERANCE[dtype], atol=1e-7)


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_equal_logits_cost_the_logarithm_of_the_class_count(num_classes, dtype):
    Z = np.full((3, num_classes), 7, dtype)
    np.testing.assert_allclose(handgrad.cross_entropy(Z, np.array([0, 1, 1])), math.log(num_classes), rtol=1e-6)
    np.testing.assert_allclose(
        handgrad.cross_entropy(Z, np.array([0, 1, 1]), base=2), math.log2(num_classes), rtol=1e-6
    )


@pytest.mark.parametrize("targets", ["labels", "distributions"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logit_gradient_is_the_derivative_and_its_rows_sum_to_zero(shape, targets, dtype):
    Z = logits(*shape, dtype)
    t = np.arange(shape[0]) % shape[1] if targets == "labels" else distributions(*shape, dtype)
    dZ = handgrad.logit_gradient(Z, t)
    T = oracles.distributions(t, shape[1])
    np.testing.assert_allclose(dZ, (oracles.softmax(Z) - T) / shape[0], atol=oracles.TOLERANCE[dtype])
    np.testing.assert_allclose(np.sum(dZ, axis=1), 0, atol=oracles.TOLERANCE[dtype])
    np.testing.assert_allclose(jax.grad(handgrad.cross_entropy)(jnp.asarray(Z), t), dZ, atol=oracles.TOLERANCE[dtype])


@pytest.mark.parametrize("base", [math.e, 2, 10])
def test_cross_entropy_is_entropy_plus_divergence(base, dtype):
    Z, T = logits(10, 26, dtype), distributions(10, 26, dtype)
    total = handgrad.entropy(T, base=base) + handgrad.kl_divergence(T, handgrad.softmax(Z), base=base)
    np.testing.assert_allclose(handgrad.cross_entropy(Z, T, base=base), total, rtol=oracles.TOLERANCE[dtype])


def test_entropy_and_divergence_are_as_their_docstrings_write_them():
    T, Y = distributions(5, 4), distributions(5, 4, seed=2)
    np.testing.assert_allclose(formulas.entropy(T), -np.mean(np.sum(T * np.log(T), axis=1)), rtol=1e-14)
    np.testing.assert_allclose(formulas.kl_divergence(T, Y), np.mean(np.sum(T * np.log(T / Y), axis=1)), rtol=1e-14)


def test_entropy_of_certainty_is_zero_and_divergence_from_the_impossible_infinite():
    certain = np.array([[1.0, 0.0, 0.0]])
    assert formulas.entropy(certain) == 0
    assert formulas.kl_divergence(certain, certain) == 0
    with np.errstate(divide="ignore"):
        assert formulas.kl_divergence(certain, certain[:, ::-1]) == np.inf


@pytest.mark.parametrize("narrow", ["float32", "bfloat16", "float16"])
def test_logits_of_ten_thousand_give_finite_right_answers(narrow):
    Z = jnp.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], narrow)
    largest = float(Z[0, 0])  # bfloat16 rounds 1e4
    np.testing.assert_allclose(handgrad.softmax(Z), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]], rtol=5e-3)
    expected = np.mean([2 * largest, math.log(3), math.log(2)])
    np.testing.assert_allclose(handgrad.cross_entropy(Z, np.array([1, 0, 0])), expected, rtol=1e-6)
    dZ = handgrad.logit_gradient(Z, np.array([1, 0, 0]))
    expected = np.array([[1, -1, 0], [-2 / 3, 1 / 3, 1 / 3], [-0.5, 0.5, 0]]) / 3
    np.testing.assert_allclose(np.asarray(dZ, np.float64), expected, rtol=5e-3)


@pytest.mark.parametrize("narrow", ["float32", "float64", "bfloat16", "float16"])
def test_masked_classes_cost_nothing_unless_they_are_the_target(narrow):
    with jax.enable_x64(narrow == "float64"):
        Z = jnp.array([[0.0, 0.0, -np.inf]], narrow)
        np.testing.assert_array_equal(np.asarray(handgrad.softmax(Z), np.float64), [[0.5, 0.5, 0]])
        np.testing.assert_allclose(np.asarray(handgrad.log_softmax(Z), np.float64)[0, 0], -math.log(2), rtol=4e-3)
        assert handgrad.log_softmax(Z)[0, 2] == -np.inf
        for targets in (np.array([0]), np.array([[1.0, 0.0, 0.0]])):
            np.testing.assert_allclose(handgrad.cross_entropy(Z, targets), math.log(2), rtol=1e-6)
            np.testing.assert_array_equal(np.asarray(handgrad.logit_gradient(Z, targets), np.float64), [[-0.5, 0.5, 0]])
            np.testing.assert_array_equal(
                np.asarray(jax.grad(handgrad.cross_entropy)(Z, targets), np.float64), [[-0.5, 0.5, 0]]
            )
        assert handgrad.cross_entropy(Z, np.array([2])) == np.inf


def test_the_residual_keeps_its_precision_where_the_probability_is_nearly_one():
    # Y = 0.99995: rounded to bfloat16 before T is subtracted, Y − T would be 0.
    Z = jnp.array([[9.9375, 0.0]], jnp.bfloat16)
    dZ = np.asarray(handgrad.logit_gradient(Z, np.array([0])), np.float64)
    np.testing.assert_allclose(dZ, [[-4.83e-5, 4.83e-5]], rtol=1e-2)


def test_a_row_without_any_class_is_nan_and_leaves_other_rows_alone():
    Y = handgrad.softmax(jnp.array([[-np.inf, -np.inf], [0.0, 0.0]]))
    assert np.isnan(Y[0]).all()
    np.testing.assert_array_equal(Y[1], [0.5, 0.5])


@pytest.mark.parametrize("label_dtype", ["int8", "uint8", "int16", "int32", "uint32"])
def test_any_integer_dtype_names_any_class(label_dtype):
    Z = logits(3, 300, "float32")
    t = np.array([0, 127, 100], label_dtype)
    expected = -np.mean(np.log(oracles.softmax(Z))[np.arange(3), t.astype(int)])
    np.testing.assert_allclose(handgrad.cross_entropy(Z, t), expected, rtol=1e-6)
    np.testing.assert_array_equal(np.argmax(handgrad.one_hot(t, 300), axis=1), t)


def test_a_label_beyond_the_signed_integers_stays_out_of_range(x64):
    Z = jnp.asarray(logits(1, 3))
    assert np.isnan(handgrad.cross_entropy(Z, jnp.array([2**64 - 1], jnp.uint64)))
    assert np.isnan(handgrad.cross_entropy(Z, jnp.array([2**32 + 1], jnp.int64)))
    with pytest.raises(ValueError, match="got 18446744073709551615 at row 0"):
        formulas.cross_entropy(np.asarray(Z), np.array([2**64 - 1], np.uint64))


@pytest.mark.parametrize("dtype_name", ["float16", "bfloat16", "float32"])
def test_one_hot_has_the_dtype_asked_for(dtype_name):
    T = handgrad.one_hot(np.array([1, 0]), 3, dtype_name)
    assert T.dtype == dtype_name
    np.testing.assert_array_equal(np.asarray(T, np.float32), [[0, 1, 0], [1, 0, 0]])


def test_weights_share_out_the_mean(dtype):
    Z, t, w = logits(4, 3, dtype), np.array([0, 1, 2, 0]), np.array([1, 0, 2.5, 4], dtype)
    losses = np.array([handgrad.cross_entropy(Z[i : i + 1], t[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(
        handgrad.cross_entropy(Z, t, w), (w * losses).sum() / w.sum(), rtol=oracles.TOLERANCE[dtype]
    )
    rows = np.concatenate([handgrad.logit_gradient(Z[i : i + 1], t[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(
        handgrad.logit_gradient(Z, t, w), w[:, None] * rows / w.sum(), atol=oracles.TOLERANCE[dtype]
    )


@pytest.mark.parametrize(("dtype", "off"), [("float32", 0.002), ("bfloat16", 0.02)])
def test_a_row_whose_sum_is_off_by_more_than_rounding_is_no_distribution(dtype, off):
    T = jnp.array([[0.5, 0.5 + off]], dtype)
    Z = jnp.zeros((1, 2), dtype)
    with pytest.raises(ValueError, match="each row of targets must be a distribution"):
        formulas.cross_entropy(Z, T)
    assert np.isnan(handgrad.cross_entropy(Z, T))
    handgrad.cross_entropy(Z, jnp.array([[0.5, 0.5 + off / 4]], dtype))
