"""linear_cross_entropy on what coincides, is masked, or does not fit its dtype: the right number, or none."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import grids
import oracles_head
from handgrad import linear_cross_entropy
from test_fused import PLAIN, assert_close, cast, head

DRAWN = settings(deadline=None, derandomize=True, database=None, max_examples=25)
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
X0, W0, B0 = np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float32), np.log(np.float32([1, 2, 5]))


def everything(function, X, W, bias, directions):
    """The value, all gradients, the derivative along the directions and the Hessian times them."""
    gradient = jax.value_and_grad(function, argnums=(0, 1, 2))
    _, slope = jax.jvp(function, (X, W, bias), directions)
    (value, gradients), (_, product) = jax.jvp(gradient, (X, W, bias), directions)
    return value, gradients, slope, product


# --- Sizes that coincide ----------------------------------------------------------------------------------------------

# (N, P, C, block): all three, two and two, and one of everything; the sweep takes dL/dW in three ways, as P is to C.
COINCIDENT = [(4, 4, 4, 4), (6, 3, 3, 2), (3, 3, 7, 3), (3, 7, 3, 7), (1, 1, 1, 1)]


@pytest.mark.parametrize("sizes", COINCIDENT, ids=str)
def test_sizes_that_coincide_change_no_layout(sizes, x64):
    *sizes, block_size = sizes
    X, W, t, bias, w, k = cast("float64", *oracles_head.problem(*sizes))
    directions = tuple(jnp.cos(3 * array) for array in (X, W, bias))
    results = [
        jax.jit(
            lambda *moving, f=function, m=more: everything(
                lambda *a: -1.7 * f(*a[:2], t, a[2], w, k, **PLAIN, **m), *moving
            )
        )(X, W, bias, directions)
        for function, more in ((head, {"block_size": block_size}), (oracles_head.loss, {}))
    ]
    assert_close(*results, "float64", factor=10)


@pytest.mark.parametrize(
    ("sizes", "recompute"),
    grids.product(COINCIDENT, [False, True], quick=lambda sizes, recompute: COINCIDENT.index(sizes) % 2 == recompute),
    ids=str,
)
def test_a_transposed_head_has_the_transposed_gradient(sizes, recompute, x64):
    *sizes, block_size = sizes
    X, W, t, bias, w, k = cast("float64", *oracles_head.problem(*sizes))
    directions = tuple(jnp.cos(3 * array) for array in (X, W, bias))

    def transposed(X, W, bias):
        loss = linear_cross_entropy(
            X,
            W.T,
            t,
            bias=bias,
            weights=w,
            class_weights=k,
            transposed=True,
            recompute=recompute,
            block_size=block_size,
            reduction="none",
        )
        return jnp.vdot(loss, jnp.cos(jnp.arange(float(sizes[0]))))

    def naive(X, W, bias):
        losses = oracles_head.loss(X, W, t, bias, w, k, reduction="none", **PLAIN)
        return jnp.vdot(losses, jnp.cos(jnp.arange(float(sizes[0]))))

    results = [
        jax.jit(lambda *moving, f=function: everything(f, *moving))(X, W, bias, directions)
        for function in (transposed, naive)
    ]
    assert_close(*results, "float64", factor=10)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("narrow", ["bfloat16", "float16"])
def test_narrow_data_with_weights_in_float32_have_gradients_in_float32(narrow, recompute):
    X, W, t, bias, *_ = oracles_head.problem(64, 8, 16)
    X = jnp.asarray(X, narrow)
    W, bias = jnp.asarray(W, "float32"), jnp.asarray(bias, "float32")

    def of(X, W, bias):
        return linear_cross_entropy(X, W, t, bias=bias, recompute=recompute, block_size=8)

    value, gradients = jax.value_and_grad(of, argnums=(0, 1, 2))(X, W, bias)
    assert [gradient.dtype for gradient in gradients] == [narrow, "float32", "float32"]
    rounded = [np.asarray(array, np.float32) for array in (X, W.astype(narrow), bias)]  # as the product has them
    expected_value, expected = jax.value_and_grad(
        lambda X, W, bias: oracles_head.loss(X, W, t, bias, **PLAIN), argnums=(0, 1, 2)
    )(*map(jnp.asarray, rounded))
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for gradient, reference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(np.asarray(gradient, np.float32), reference, atol=0.01 * np.abs(reference).max())


@pytest.mark.parametrize("block_size", grids.product([1, 2, 3], quick=lambda block_size: block_size == 2))
def test_blocks_of_classes_that_are_masked_change_nothing(block_size, x64):
    # The first and a middle block all masked, far from 0 where they are not, and a row that does not count.
    X, W, t, _, w, _ = cast("float64", *oracles_head.problem(5, 3, 7))
    masked = jnp.array([1, 1, 1, 0, 1, 1, 0], bool)
    open_classes = jnp.flatnonzero(~masked)
    bias = jnp.where(masked, -np.inf, -800.0)
    w = w.at[1].set(0)

    def results(W, bias, t):
        def of(X, W, bias, w):
            loss, statistics = linear_cross_entropy(
                X, W, t, bias=bias, weights=w, recompute=True, block_size=block_size, with_stats=True
            )
            rows = statistics.entropy + statistics.log_sum_exp + statistics.log_probability
            return 3 * loss + jnp.vdot(jnp.cos(jnp.arange(5.0)), rows), statistics.prediction

        return jax.value_and_grad(of, argnums=(0, 1, 2, 3), has_aux=True)(X, W, bias, w)

    (value, place), (dX, dW, db, dw) = results(W, bias, open_classes[t % 2])
    (expected, few), (eX, eW, eb, ew) = results(W[:, open_classes], bias[open_classes], t % 2)
    assert_close((value, dX, dW[:, open_classes], db[open_classes], dw), (expected, eX, eW, eb, ew), "float64", 10)
    np.testing.assert_array_equal(place, open_classes[few])
    assert not np.any(dW[:, masked])
    assert not np.any(db[masked])


@pytest.mark.parametrize("recompute", [False, True])
def test_a_row_that_does_not_count_may_have_all_classes_masked_by_its_logits(recompute):
    X = jnp.array([[-np.inf, 1.0], [1.0, 2.0]], jnp.float32)
    W = jnp.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]], jnp.float32)
    weights = jnp.array([0.0, 1.0], jnp.float32)
    value, gradients = jax.value_and_grad(
        lambda X, W: linear_cross_entropy(X, W, jnp.array([0, 1]), weights=weights, recompute=recompute, block_size=2),
        argnums=(0, 1),
    )(X, W)
    expected, (dX, dW) = jax.value_and_grad(lambda X, W: linear_cross_entropy(X, W, jnp.array([1])), argnums=(0, 1))(
        X[1:], W
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients[1], dW, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(gradients[0], np.concatenate([np.zeros((1, 2)), dX]), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("targets", ["labels", "distributions"])
def test_as_many_features_as_one_device_has_classes_change_no_layout(targets, x64):
    # And the second device's classes are all masked, which its rows must not take for rows that do not count.
    X, W, t, bias, w, _ = cast("float64", *oracles_head.problem(3, 3, 6, targets=targets))
    w, bias = w.at[1].set(0), bias.at[3:].set(-np.inf)
    t = t % 3 if targets == "labels" else t.at[:, 3:].set(0) / jnp.sum(t[:, :3], axis=1, keepdims=True)
    mesh = jax.make_mesh((2,), ("classes",), axis_types=(jax.sharding.AxisType.Auto,))
    by_class, directions = jax.P(None, "classes"), (jnp.cos(3 * X), jnp.cos(3 * W), jnp.cos(W[:1]))

    def sharded(X, W, bias, w, t):
        return linear_cross_entropy(X, W, t, bias=bias, weights=w, class_axis="classes", softcap=2.0, with_stats=True)

    on_devices = jax.shard_map(
        sharded,
        mesh=mesh,
        in_specs=(jax.P(), by_class, by_class, jax.P(), jax.P() if targets == "labels" else by_class),
        out_specs=jax.P(),
    )

    def whole(X, W, bias, w, t):
        return linear_cross_entropy(X, W, t, bias=bias, weights=w, softcap=2.0, with_stats=True)

    def results(function):
        def scalar(X, W, bias, w=w):
            loss, statistics = function(X, W, bias, w, t)
            return 3 * loss + sum(jnp.vdot(jnp.cos(jnp.arange(3.0)), row) for row in statistics[:3])

        return jax.jit(lambda *a: (everything(scalar, *a), jax.grad(scalar, argnums=3)(*a[:3], w)))(
            X, W, bias[None, :], directions
        )

    assert_close(results(on_devices), results(whole), "float64", factor=10)


# --- Masks, weights of 0, sums off 1 ----------------------------------------------------------------------------------


def test_a_softcap_keeps_a_class_masked(dtype):
    X, W, t, bias, *_ = cast(dtype, *oracles_head.problem(4, 3, 3))
    t = t % 2
    masked = bias.at[2].set(-np.inf)

    def results(W, bias):
        def mixed(X, W, bias):
            loss, statistics = linear_cross_entropy(X, W, t, bias=bias, softcap=1.5, with_stats=True, reduction="sum")
            return loss + jnp.sum(statistics.entropy - 2 * statistics.log_sum_exp + statistics.log_probability)

        return everything(mixed, X, W, bias, (jnp.cos(X), jnp.cos(W), jnp.cos(W[0])))

    value, (dX, dW, db), slope, (hX, hW, hb) = jax.jit(results)(W, masked)
    without = jax.jit(results)(W[:, :2], bias[:2])
    actual = value, (dX, dW[:, :2], db[:2]), slope, (hX, hW[:, :2], hb[:2])
    assert_close(actual, without, dtype, factor=10)
    assert not any(np.any(array[..., 2]) for array in (dW, db, hW, hb))


def test_a_mask_under_a_softcap_has_the_loss_of_the_other_classes():
    loss = linear_cross_entropy(X0, W0, np.array([0, 1, 0]), bias=np.float32([0, 0, -np.inf]), softcap=1.0)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)


def test_an_infinite_logit_does_not_pass_for_the_cap():
    for bad in (np.inf, -np.inf):
        assert np.isnan(linear_cross_entropy(X0 + 1, W0 + np.float32(bad), np.zeros(3, int), softcap=2.0))


@pytest.mark.parametrize("targets", ["labels", "distributions"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_rows_of_weight_zero_keep_their_derivative_and_their_statistics(targets, reduction, x64):
    X, W, t, bias, w, k = cast("float64", *oracles_head.problem(5, 3, 4, targets=targets))
    w = w.at[2].set(0)
    settings = {"s": 0.1, "z_loss": 0.02, "softcap": None}

    def by_hand(w):
        loss, statistics = head(X, W, t, bias, w, k, reduction=reduction, with_stats=True, **settings)
        return jnp.sum(loss * 3), statistics._asdict()

    def naive(w):
        loss = oracles_head.loss(X, W, t, bias, w, k, reduction=reduction, ignore_index=None, **settings)
        return jnp.sum(loss * 3), oracles_head.rows(X, W, t, bias, w, k, ignore_index=None, **settings)[3]

    results = [jax.value_and_grad(function, has_aux=True)(w) for function in (by_hand, naive)]
    assert_close(*results, "float64", factor=10)
    assert results[0][1][2] != 0


def test_distributions_that_sum_to_a_little_more_than_1_are_divided_by_their_sum(dtype):
    X, W, T, _, _, k = oracles_head.problem(4, 3, 3, targets="distributions")
    for factor in (0.9992, 1.0009):
        for options in ({}, {"class_weights": k, "label_smoothing": 0.1}):
            results = [
                jax.value_and_grad(
                    lambda X, W, T=T, o=options: linear_cross_entropy(
                        X, W, T, **{n: cast(dtype, a)[0] if n[0] == "c" else a for n, a in o.items()}
                    ),
                    argnums=(0, 1),
                )(*cast(dtype, X, W))
                for T in (factor * T, T)
            ]
            assert_close(*results, dtype)


def test_a_mean_over_classes_of_weight_zero_is_no_number_unless_it_is_zero():
    k, t = np.float32([0, 1, 1]), np.zeros(3, int)
    assert linear_cross_entropy(X0, W0, t, class_weights=k) == 0
    for options in ({"label_smoothing": 0.1}, {"z_loss": 0.1}):
        assert np.isnan(linear_cross_entropy(X0, W0, t, class_weights=k, **options))


# --- Labels and weights as they were given ----------------------------------------------------------------------------


@example(labels=np.array([2**32 - 100, 0, 1], np.uint32), ignore_index=-100, on_device=True)
@example(labels=np.array([2**64 - 100, 0, 1], np.uint64), ignore_index=-100, on_device=False)
@example(labels=np.array([2**32, 0, 1]), ignore_index=None, on_device=False)
@DRAWN
@given(
    labels=st.sampled_from(INTEGERS).flatmap(
        lambda name: arrays.arrays(name, 3, elements=st.one_of(st.integers(0, 3), arrays.from_dtype(np.dtype(name))))
    ),
    ignore_index=st.sampled_from([None, -100, -1, 1, 156, 2**31, 2**32 - 100, 2**63, -(2**63), 10**400]),
    on_device=st.booleans(),
)
def test_labels_are_compared_as_they_were_given(labels, ignore_index, on_device):
    """A label counts, is ignored, or makes the result NaN or an error, whatever it is modulo 2³²."""
    ignored = np.array([int(label) == ignore_index for label in labels])
    inside = np.array([0 <= int(label) < 3 for label in labels])
    compiled = on_device and labels.dtype.itemsize < 8

    def compute(t):
        return linear_cross_entropy(X0, W0, t, bias=B0, ignore_index=ignore_index)

    if compiled:
        compute, labels = jax.jit(compute), jnp.asarray(labels)
    if not np.all(inside | ignored):
        with contextlib.nullcontext() if compiled else contextlib.suppress(ValueError):
            assert np.isnan(compute(labels))
        return
    Y = np.array([1, 2, 5]) / 8
    losses = [-np.log(Y[int(label)]) for label, skip in zip(labels, ignored, strict=True) if not skip]
    np.testing.assert_allclose(compute(labels), np.mean(losses) if losses else 0, rtol=1e-6)


@DRAWN
@given(
    exponents=arrays.arrays(np.int64, 3, elements=st.one_of(st.integers(-320, 308), st.integers(-40, 40))),
    zero=st.booleans(),
    argument=st.sampled_from(["weights", "class_weights"]),
    reduction=st.sampled_from(["mean", "sum"]),
)
def test_weights_of_any_size_give_the_right_mean_or_an_error(exponents, zero, argument, reduction):
    weights = 10.0 ** exponents.astype(np.float64)
    if zero:
        weights[1] = 0
    wide = weights.astype(np.longdouble)
    losses = -np.log(np.array([1, 2, 5]) / 8)
    try:
        value = linear_cross_entropy(X0, W0, np.arange(3), bias=B0, **{argument: weights}, reduction=reduction)
    except ValueError as error:
        assert argument in str(error)  # noqa: PT017
        divided = wide / wide.max() if reduction == "mean" else wide
        assert np.any((divided > 0) & (divided < 1.2e-38)) or np.any(divided > 3.4e38)
        return
    right = np.sum(wide * losses) / (np.sum(wide) if reduction == "mean" else 1)
    if right < 1e38:
        np.testing.assert_allclose(value, np.float64(right), rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("argument", ["weights", "class_weights"])
def test_weights_that_are_traced_are_right_or_nan(argument):
    losses = -np.log(np.array([1, 2, 5]) / 8)
    compiled = jax.jit(lambda w: linear_cross_entropy(X0, W0, np.arange(3), bias=B0, **{argument: w}))
    for weights in (
        [2e38, 3e38, 0],
        [1e-30, 3e-30, 2e-30],
        [1e30, 1e-7, 1],
        [1e-40, 1e-40, 0],
        [1, 1e-40, 1],
        [1e30, 1e-30, 1],
    ):
        value = compiled(np.float32(weights))
        right = np.sum(weights * losses) / np.sum(weights)
        lost = np.min([w for w in weights if w]) < 1.2e-38 * max(1, np.max(weights))
        np.testing.assert_allclose(value, np.nan if lost else right, rtol=1e-6)
    assert np.isnan(compiled(np.float32([1, np.inf, 1])))


def test_a_negative_weight_is_refused_however_small():
    with pytest.raises(ValueError, match="weights must be finite and non-negative; got -1e-50 at row 1"):
        linear_cross_entropy(X0, W0, np.arange(3), weights=np.array([1, -1e-50, 1]))


@pytest.mark.parametrize("argument", ["X", "W", "bias", "targets", "weights", "class_weights"])
def test_masked_arrays_are_refused_whatever_was_compiled_before(argument):
    given = {"X": X0, "W": W0, "bias": B0, "targets": np.arange(3), "weights": B0, "class_weights": B0}
    linear_cross_entropy(**given)
    with pytest.raises(TypeError, match=f"linear_cross_entropy: {argument} must be an array without a mask"):
        linear_cross_entropy(**given | {argument: np.ma.array(given[argument])})


@pytest.mark.parametrize("argument", ["X", "W", "bias"])
def test_a_finite_number_that_would_become_infinite_is_refused(argument):
    given = {"X": X0, "W": W0, "bias": B0}
    large = np.full(given[argument].shape, -1e39)
    with pytest.raises(ValueError, match=f"cross_entropy: {argument} has -1e\\+39 at .*which float32 cannot hold"):
        linear_cross_entropy(**given | {argument: large}, targets=np.arange(3))


@pytest.mark.parametrize("of", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("argument", ["weights", "class_weights", "targets"])
def test_bfloat16_is_taken_for_what_it_is_of_either_library(argument, of):
    X, W, t, _, w, k = cast("float32", *oracles_head.problem(6, 4, 3))
    given = {"targets": jax.nn.one_hot(t, 3), "weights": w, "class_weights": k}
    rounded = {name: np.asarray(array, jnp.bfloat16) for name, array in given.items()}
    found = linear_cross_entropy(X, W, **given | {argument: of(rounded[argument])})
    expected = linear_cross_entropy(X, W, **given | {argument: np.asarray(rounded[argument], np.float32)})
    np.testing.assert_allclose(found, expected, rtol=1e-6)
