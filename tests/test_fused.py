"""linear_cross_entropy against the plain form in float64: values, gradients, conventions and edges."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
import oracles_fused
from handgrad import linear_cross_entropy
from oracles_fused import assert_close, in_float64

# Relative to the largest entry of each result: some 40 rounding errors of float32 and float64, and a few of the narrow
# dtypes, in which the products round their factors and the gradients are returned.
TOLERANCE = {"float32": 5e-6, "float64": 1e-14, "bfloat16": 2e-2, "float16": 3e-3}

# One row, one feature, one class; P far above and far below C, where dL/dW is computed in other ways; N below, at, and
# not a multiple of the block of 8.
SHAPES = [(21, 4, 5), (16, 9, 3), (19, 3, 11)]
EDGES = [(1, 1, 1), (1, 3, 4), (7, 5, 1), (8, 1, 5)]

SETTINGS = {
    "plain": {},
    "bias": {"bias": True},
    "weights": {"weights": True},
    "class weights": {"class_weights": True},
    "smoothing": {"label_smoothing": 0.2},
    "z loss": {"z_loss": 0.1},
    "softcap": {"softcap": 1.5},
    "all": {
        "bias": True,
        "weights": True,
        "class_weights": True,
        "label_smoothing": 0.2,
        "z_loss": 0.1,
        "softcap": 1.5,
    },
}


def functions(shape, settings, *, dtype="float32", soft=False, seed=0, block_size=8, **more):
    """(handgrad's loss, the oracle's, arguments), of X, W, bias and weights, the last two used if asked for."""
    X, W, bias, targets, weights, class_weights = oracles_fused.problem(*shape, dtype=dtype, soft=soft, seed=seed)
    settings = dict(settings) | more
    with_bias, with_weights = settings.pop("bias", False), settings.pop("weights", False)
    if settings.pop("class_weights", False):
        settings["class_weights"] = class_weights

    def bind(function, **extra):
        def loss(X, W, bias, weights):
            arrays = {"bias": bias} if with_bias else {}
            arrays |= {"weights": weights} if with_weights else {}
            return function(X, W, targets, **arrays, **settings, **extra)

        return loss

    return bind(linear_cross_entropy, block_size=block_size), bind(oracles_fused.loss), (X, W, bias, weights)


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "distributions"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_value_and_gradients_match_the_plain_form(settings, soft, dtype):
    for shape in SHAPES + (EDGES if settings in (SETTINGS["plain"], SETTINGS["all"]) else []):
        loss, oracle, args = functions(shape, settings, dtype=dtype, soft=soft)
        actual = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(*args)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(actual))
        expected = in_float64(jax.value_and_grad(oracle, argnums=(0, 1, 2, 3)), *args)
        # Of one row or one class the gradients are differences of equal numbers.
        assert_close(actual, expected, TOLERANCE[dtype], least=1.0 if shape in EDGES else 1e-3)
    np.testing.assert_allclose(loss(*args), actual[0], rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "distributions"])
def test_cotangents_that_are_not_one(reduction, soft):
    loss, oracle, args = functions((21, 4, 5), SETTINGS["all"], soft=soft, reduction=reduction)
    shape = () if reduction != "none" else (21,)
    for cotangent in (-3.0, 1e-4, np.random.default_rng(1).normal(size=shape)):
        cotangent = jnp.broadcast_to(jnp.asarray(cotangent, jnp.float32), shape)

        def pulled(function, *args, cotangent=cotangent):
            value, pull = jax.vjp(function, *args)
            return value, pull(cotangent.astype(value.dtype))

        expected = in_float64(lambda *args: pulled(oracle, *args), *args)
        assert_close(pulled(loss, *args), expected, TOLERANCE["float32"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_narrow_dtypes(dtype, reduction):
    for shape in [(21, 4, 5), (40, 33, 7), (19, 3, 11)]:
        loss, oracle, args = functions(shape, SETTINGS["all"], dtype=dtype, reduction=reduction)
        actual = jax.grad(lambda *args: jnp.sum(loss(*args)), argnums=(0, 1, 2, 3))(*args)  # noqa: B023
        expected = in_float64(jax.grad(lambda *args: jnp.sum(oracle(*args)), argnums=(0, 1, 2, 3)), *args)  # noqa: B023
        assert [leaf.dtype for leaf in actual] == [dtype, dtype, dtype, jnp.float32]
        assert loss(*args).dtype == jnp.float32
        assert_close(actual, expected, TOLERANCE[dtype])


def test_the_opposite_sign_fails_the_comparison():
    loss, oracle, args = functions((21, 4, 5), {})
    expected = in_float64(jax.grad(oracle, argnums=1), *args)
    assert_close(jax.grad(loss, argnums=1)(*args), expected, TOLERANCE["float32"])
    with pytest.raises(AssertionError):
        assert_close(-jax.grad(loss, argnums=1)(*args), expected, TOLERANCE["float32"])


def test_gradients_match_differences_of_the_loss(x64):
    loss, _, args = functions((9, 4, 3), SETTINGS["all"], dtype="float64", block_size=4)
    gradients = jax.grad(loss, argnums=(0, 1, 2, 3))(*args)
    for which, gradient in enumerate(gradients):
        for index in itertools.islice(np.ndindex(gradient.shape), 0, None, 3):
            step = np.zeros(gradient.shape)
            step[index] = 1e-6
            up, down = (loss(*args[:which], args[which] + sign * step, *args[which + 1 :]) for sign in (1, -1))
            # A difference over 2e-6 of a loss of size 1 is good to about 1e-16/1e-6.
            np.testing.assert_allclose(gradient[index], (up - down) / 2e-6, atol=2e-9)


@pytest.mark.parametrize("block_size", [1, 2, 5, 20, 21, 1000, None])
def test_the_block_size_changes_nothing(block_size):
    loss, _, args = functions((21, 4, 5), SETTINGS["all"], block_size=8)
    other, _, _ = functions((21, 4, 5), SETTINGS["all"], block_size=block_size)
    both = [jax.value_and_grad(function, argnums=(0, 1, 2, 3))(*args) for function in (other, loss)]
    assert_close(*both, TOLERANCE["float32"])


def test_leading_axes_are_rows():
    X, W, bias, t, weights, _ = oracles_fused.problem(24, 4, 5)
    T = oracles_fused.problem(24, 4, 5, soft=True)[3]
    for targets in (t, T):
        for reduction in ("mean", "none"):
            flat = linear_cross_entropy(X, W, targets, bias=bias, weights=weights, reduction=reduction)
            batched, stats = linear_cross_entropy(
                X.reshape(2, 3, 4, 4),
                W,
                targets.reshape(2, 3, 4, *targets.shape[1:]),
                bias=bias[None],
                weights=weights.reshape(2, 3, 4),
                reduction=reduction,
                with_stats=True,
            )
            np.testing.assert_allclose(batched.ravel(), flat.ravel(), rtol=1e-6)
            assert {leaf.shape for leaf in stats} == {(2, 3, 4)}


def test_large_logits_do_not_overflow():
    X, W = jnp.ones((2, 1)), jnp.array([[1e4, -1e4]])
    value, gradient = jax.value_and_grad(linear_cross_entropy, argnums=1)(X, W, jnp.array([0, 1]))
    assert value == 1e4
    np.testing.assert_array_equal(gradient, [[0.5, -0.5]])


def test_a_masked_class_costs_nothing():
    X, W, bias, _, _, k = oracles_fused.problem(9, 4, 5)
    t = jnp.arange(9) % 4
    masked = bias.at[4].set(-np.inf)
    for settings in ({}, {"class_weights": k}):
        without = {name: array[:4] for name, array in settings.items()}
        value, dW = jax.value_and_grad(linear_cross_entropy, argnums=1)(X, W, t, bias=masked, **settings)
        expected, d4 = jax.value_and_grad(linear_cross_entropy, argnums=1)(X, W[:, :4], t, bias=bias[:4], **without)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(dW, jnp.pad(d4, ((0, 0), (0, 1))), atol=1e-7)
    T = jax.nn.one_hot(t, 5)
    np.testing.assert_allclose(
        linear_cross_entropy(X, W, T, bias=masked), linear_cross_entropy(X, W, t, bias=masked), rtol=1e-6
    )


# --- Rows that do not count, and rows that break the rules --------------------------------------------------------


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("how", ["weights", "ignore_index", "distributions"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rows_that_do_not_count_may_hold_anything(how, garbage, reduction):
    X, W, bias, t, weights, _ = oracles_fused.problem(21, 4, 5)
    absent = np.arange(21) % 3 == 1
    dirty = jnp.where(absent[:, None], garbage, X)
    settings = {"weights": jnp.where(absent, 0, weights)}
    targets, clean = t, t
    if how == "ignore_index":
        settings, targets = {"weights": weights, "ignore_index": -100}, jnp.where(absent, -100, t)
    if how == "distributions":
        clean = jax.nn.one_hot(t, 5)
        targets = jnp.where(absent[:, None], garbage, clean)

    def loss(X, W, bias, targets):
        return linear_cross_entropy(
            X, W, targets, bias=bias, reduction=reduction, z_loss=0.1, softcap=5.0, block_size=8, **settings
        ).sum()

    def among(X, W, bias, targets):
        keep = {"weights": weights[~absent]}
        return linear_cross_entropy(
            X, W, targets, bias=bias, reduction=reduction, z_loss=0.1, softcap=5.0, **keep
        ).sum()

    direction = jnp.ones_like(W)

    def derivatives(loss, X, targets):
        loss = functools.partial(loss, targets=targets)

        def slope(W):
            return jnp.vdot(jax.grad(loss, argnums=1)(X, W, bias), direction)

        forward = jax.jvp(jax.grad(lambda W: loss(X, W, bias)), (W,), (direction,))[1]
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(X, W, bias), forward, jax.grad(slope)(W)

    compiled = jax.jit(derivatives, static_argnums=0)
    actual, expected = compiled(loss, dirty, targets), compiled(among, X[~absent], clean[~absent])
    np.testing.assert_array_equal(actual[0][1][0][absent], 0)
    (value, (dX, *rest)), *curvature = actual
    assert_close(((value, (dX[~absent], *rest)), *curvature), expected, 2 * TOLERANCE["float32"])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_no_row_that_counts_gives_zero(reduction):
    X, W, bias, _, weights, k = oracles_fused.problem(9, 4, 5)
    for settings in (
        {"weights": 0 * weights},
        {"ignore_index": -100, "class_weights": k},
        {"class_weights": 0 * k},
        {"ignore_index": 3},
    ):
        targets = jnp.full(9, settings.get("ignore_index", 0))

        def loss(X, W, bias, targets=targets, settings=settings):
            return linear_cross_entropy(X, W, targets, bias=bias, reduction=reduction, **settings).sum()

        for leaf in jax.tree.leaves(jax.value_and_grad(loss, argnums=(0, 1, 2))(X, W, bias)):
            np.testing.assert_array_equal(leaf, 0)


@pytest.mark.parametrize("label", [-1, -100, 5, 2**31 - 1])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_label_outside_the_classes_raises_and_compiled_gives_nan(label, reduction):
    X, W, _, t, _, _ = oracles_fused.problem(21, 4, 5)
    bad = t.at[17].set(label)
    with pytest.raises(ValueError, match=rf"linear_cross_entropy: labels must be .* got {label} at row 17"):
        linear_cross_entropy(X, W, bad)

    @jax.jit
    def compiled(X, W, targets):
        loss, stats = linear_cross_entropy(X, W, targets, reduction=reduction, with_stats=True, block_size=8)
        return loss.sum(), stats

    (value, stats), (dX, dW) = jax.value_and_grad(compiled, argnums=(0, 1), has_aux=True)(X, W, bad)
    assert np.isnan(value)
    assert np.isnan(dX[17]).all()
    assert np.isnan(dW).all()
    np.testing.assert_array_equal(np.isnan(stats.log_probability), np.arange(21) == 17)
    good = linear_cross_entropy(X, W, bad.at[17].set(-7), ignore_index=-7)
    np.testing.assert_allclose(good, linear_cross_entropy(np.delete(X, 17, 0), W, np.delete(t, 17)), rtol=1e-6)


def test_compiled_weights_and_distributions_that_break_the_rules_give_nan():
    X, W, _, T, weights, _ = oracles_fused.problem(9, 4, 5, soft=True)
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
def test_labels_of_every_integer_dtype(dtype):
    X, W, _, t, _, _ = oracles_fused.problem(9, 4, 5)
    compiled = jax.jit(linear_cross_entropy)
    np.testing.assert_array_equal(compiled(X, W, t.astype(dtype)), compiled(X, W, t))


X, W, t = np.ones((9, 4), np.float32), np.ones((4, 5), np.float32), np.zeros(9, np.int32)
REFUSED = {
    "X must have shape": {"X": X[0]},
    "X must be an array": {"X": [1.0]},
    "X must be floating-point": {"X": X.astype(int)},
    "X must not be empty": {"X": X[:0], "targets": t[:0]},
    "X must have P = 3 columns": {"W": W[:3]},
    "X and W must have one dtype": {"X": X.astype(jnp.bfloat16)},
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
    with pytest.raises(ValueError, match="got 7 at row 8"):
        jax.jit(lambda X: linear_cross_entropy(X, W, jnp.asarray(t).at[8].set(7)))(X)


@pytest.mark.parametrize("argument", ["targets", "class_weights"])
def test_a_derivative_in_what_has_none_raises(argument):
    X, W, _, T, _, k = oracles_fused.problem(9, 4, 5, soft=True)
    arrays = {"targets": T, "class_weights": k}

    def loss(array):
        return linear_cross_entropy(X, W, **arrays | {argument: array})

    with pytest.raises(TypeError, match=f"linear_cross_entropy: {argument} must not depend"):
        jax.grad(loss)(arrays[argument])
    jax.grad(lambda array: loss(jax.lax.stop_gradient(array)) + array.sum())(arrays[argument])


# --- The conventions of PyTorch's CrossEntropyLoss ----------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_those_of_pytorch(reduction, label_smoothing, weighted):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    X, W, bias, t, _, k = oracles_fused.problem(30, 4, 5)
    t = t.at[::4].set(-100)
    Z = torch.from_numpy(np.array(X @ W + bias[None])).requires_grad_()
    kwargs = {"reduction": reduction, "label_smoothing": label_smoothing}
    weight = torch.from_numpy(np.array(k)) if weighted else None
    theirs = torch.nn.functional.cross_entropy(Z, torch.from_numpy(np.array(t)).long(), weight=weight, **kwargs)
    theirs.sum().backward()
    ours = linear_cross_entropy(
        X, W, t, bias=bias, class_weights=k if weighted else None, ignore_index=-100, block_size=8, **kwargs
    )
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=2e-5, atol=1e-6)
    gradient = jax.grad(
        lambda b: linear_cross_entropy(
            X, W, t, bias=b, class_weights=k if weighted else None, ignore_index=-100, **kwargs
        ).sum()
    )(bias)
    np.testing.assert_allclose(gradient, Z.grad.sum(0).numpy(), rtol=2e-5, atol=1e-5)


def test_the_head_is_the_layer_of_the_formulas():
    X, W, bias, t, weights, _ = oracles_fused.problem(30, 4, 5)
    value, (dW, db) = handgrad.value_and_gradient(handgrad.Params(W, bias[None]), X, t, weights)
    actual = jax.value_and_grad(
        lambda W, b: linear_cross_entropy(X, W, t, bias=b, weights=weights, block_size=8), argnums=(0, 1)
    )(W, bias[None])
    assert_close(actual, (value, (dW, db)), TOLERANCE["float32"])
