"""What linear_cross_entropy refuses, and what it makes of bad values that it cannot see."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import oracles_head
from handgrad import linear_cross_entropy


def narrow(targets="labels"):
    return [array if array.dtype.kind == "i" else array.astype(np.float32) for array in problem(targets)]


def problem(targets):
    return oracles_head.problem(9, 4, 5, targets=targets)


def test_weights_and_distributions_that_break_the_rules_give_nan_when_compiled():
    X, W, T, _, weights, _ = map(jnp.asarray, narrow("distributions"))
    compiled = jax.jit(jax.value_and_grad(lambda X, T, w: linear_cross_entropy(X, W, T, weights=w, block_size=4)))
    for bad_T, bad_weights in (
        (2 * T, weights),
        (T.at[3].set(jnp.array([-0.5, 1.5, 0, 0, 0])), weights),
        (T.at[8, 0].set(np.nan), weights),
        (T, weights.at[2].set(-1)),
    ):
        value, dX = compiled(X, bad_T, bad_weights)
        assert np.isnan(value)
        assert np.isnan(dX).any()
        with pytest.raises(ValueError, match="linear_cross_entropy"):
            linear_cross_entropy(X, W, bad_T, weights=bad_weights)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32"])
def test_labels_may_be_of_every_integer_dtype(dtype):
    X, W, t, *_ = narrow()
    compiled = jax.jit(linear_cross_entropy)
    np.testing.assert_array_equal(compiled(X, W, t.astype(dtype)), compiled(X, W, t))


def test_numpy_arrays_of_bfloat16_and_numpy_settings_are_taken():
    X, W, t, *_ = narrow()
    X, W = X.astype(ml_dtypes.bfloat16), W.astype(ml_dtypes.bfloat16)
    settings = {"z_loss": 0.01, "softcap": 3.0, "label_smoothing": 0.1}
    expected = linear_cross_entropy(jnp.asarray(X), jnp.asarray(W), t, **settings)
    actual = linear_cross_entropy(X, W, t, **{name: np.float64(value) for name, value in settings.items()})
    assert actual.dtype == jnp.float32
    np.testing.assert_array_equal(actual, expected)


X, W, t = np.ones((9, 4), np.float32), np.ones((4, 5), np.float32), np.zeros(9, np.int32)
REFUSED = {
    "X must have shape": {"X": X[0]},
    "X must be an array": {"X": [1.0]},
    "X must be floating-point": {"X": X.astype(int)},
    "X must not be empty": {"X": X[:0], "targets": t[:0]},
    r"X must not be empty; got shape \(2, 0, 4\)": {"X": jnp.zeros((2, 0, 4)), "targets": np.zeros((2, 0), int)},
    "X must have P = 3 columns": {"W": W[:3]},
    "X and W must have one dtype, or W float32 where X is": {"W": W.astype(jnp.bfloat16)},
    r"W must have shape \(C, P\)": {"W": W[0], "transposed": True},
    r"X must have P = 5 columns for W \(4, 5\), transposed": {"transposed": True},
    "recompute must be True, False or None": {"recompute": "rows"},
    "W must have shape": {"W": W[0]},
    "targets must begin with the leading axes of X": {"targets": t[:4]},
    "targets must be labels": {"targets": X[:, 0]},
    r"targets must have shape .* Labels as a column\? Use targets\[:, 0\]": {"targets": X[:, :1]},
    "targets must have shape": {"targets": X},
    "bias must have shape": {"bias": W[:, 0]},
    "weights must begin with": {"weights": t[:8]},
    "weights must be finite and non-negative; got -1 at row 0": {"weights": t - 1},
    "class_weights must have shape": {"class_weights": t},
    "class_weights must be finite and non-negative; got nan at class 0": {"class_weights": W[0] * np.nan},
    "label_smoothing must be a finite number, 0 or more and at most 1; got 1.5": {"label_smoothing": 1.5},
    "z_loss must be a finite number, 0 or more; got -1": {"z_loss": -1},
    "softcap must be a finite number, more than 0; got 0": {"softcap": 0},
    "reduction must be one of 'mean', 'sum', 'none'; got 'average'": {"reduction": "average"},
    "block_size must be a positive integer": {"block_size": 0},
    "ignore_index must be None where targets are distributions": {"targets": X @ W / 20, "ignore_index": 1},
    "ignore_index must be an integer": {"ignore_index": 1.5},
    "class_axis must be an axis of the enclosing jax.shard_map; there is no 'model'": {"class_axis": "model"},
}


@pytest.mark.messages
@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_and_how(message):
    with pytest.raises((TypeError, ValueError), match=f"^linear_cross_entropy: {message}"):
        linear_cross_entropy(**{"X": X, "W": W, "targets": t} | REFUSED[message])


def test_values_of_constants_are_checked_under_jit_too():
    bad = jnp.asarray(t).at[8].set(7)
    with pytest.raises(ValueError, match="got 7 at row 8"):
        jax.jit(lambda X: linear_cross_entropy(X, W, bad))(X)


@pytest.mark.parametrize("argument", ["targets", "class_weights"])
def test_a_derivative_in_what_has_none_raises(argument):
    X, W, T, _, _, k = map(jnp.asarray, narrow("distributions"))
    arrays = {"targets": T, "class_weights": k}

    def loss(array):
        return linear_cross_entropy(X, W, **arrays | {argument: array})

    with pytest.raises(TypeError, match=f"linear_cross_entropy: {argument} must not depend"):
        jax.grad(loss)(arrays[argument])
    jax.grad(lambda array: loss(jax.lax.stop_gradient(array)) + array.sum())(arrays[argument])


PLAIN = np.ones((9, 4), np.float32), np.ones((4, 5), np.float32), np.zeros(9, np.int32)


@pytest.mark.parametrize("name", ["z_loss", "softcap", "label_smoothing"])
@pytest.mark.parametrize("value", ["0.1", 10**400, float("nan")], ids=["string", "huge", "nan"])
def test_a_setting_that_is_no_number_is_refused(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^linear_cross_entropy: {name} must be"):
        linear_cross_entropy(*PLAIN, **{name: value})


@pytest.mark.parametrize(("label", "ignore_index"), [(2**64 - 100, -100), (2**63, None), (2**64 - 1, -1)])
def test_a_label_beyond_int64_is_refused_and_not_taken_modulo(label, ignore_index):
    labels = np.full(9, label, np.uint64)
    with pytest.raises(ValueError, match=f"linear_cross_entropy: labels must be integers.*got {label} at row 0"):
        linear_cross_entropy(*PLAIN[:2], labels, ignore_index=ignore_index)
