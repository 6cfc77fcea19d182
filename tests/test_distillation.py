"""linear_distillation against a naive loss in float64, in both schedules and every mode."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grids
import oracles_head
from handgrad import linear_cross_entropy, linear_distillation
from test_fused import assert_close, cast


def naive(X, W, teacher_X, teacher_W, *, bias, teacher_bias, weights, targets, label_share, temperature, reduction):
    """(1 − α) τ² KL + α CE, as the formula stands."""
    log_Y = jax.nn.log_softmax((X @ W + bias[None]) / temperature)
    log_U = jax.nn.log_softmax((teacher_X @ teacher_W + teacher_bias[None]) / temperature)
    divergence = jnp.sum(jnp.exp(log_U) * (log_U - log_Y), axis=1)
    entropies = -jnp.take_along_axis(jax.nn.log_softmax(X @ W + bias[None]), targets[:, None], axis=1)[:, 0]
    losses = weights * ((1 - label_share) * temperature**2 * divergence + label_share * entropies)
    return losses if reduction == "none" else jnp.sum(losses) / (jnp.sum(weights) if reduction == "mean" else 1)


def problem(N, P, Q, C):
    X, W, t, bias, w, _ = oracles_head.problem(N, P, C)
    teacher_X, teacher_W, _, teacher_bias, *_ = oracles_head.problem(N, Q, C, seed=1)
    return X, W, bias, w, teacher_X, teacher_W, teacher_bias, t


# (N, P, Q, C, block): the teacher wider, narrower, and everything alike; one of everything.
SHAPES = [(11, 4, 6, 7, 3), (5, 5, 2, 5, 2), (4, 4, 4, 4, 4), (1, 1, 1, 1, 1), (3, 2, 3, 9, 1)]


@pytest.mark.parametrize(
    ("shape", "label_share", "reduction", "recompute"),
    grids.product(
        SHAPES,
        [0.0, 0.3, 1.0],
        ["mean", "sum", "none"],
        [False, True],
        quick=lambda shape, label_share, reduction, recompute: (
            (SHAPES.index(shape) + recompute) % 3 == ("mean", "sum", "none").index(reduction)
            and (label_share == 0.3 or (shape == SHAPES[0] and (label_share == 0) == recompute))
        ),
    ),
    ids=str,
)
def test_value_and_gradients_match_autograd_of_the_plain_form(shape, label_share, reduction, recompute, x64):
    *sizes, block_size = shape
    X, W, bias, w, teacher_X, teacher_W, teacher_bias, t = cast("float64", *problem(*sizes))
    options = {"label_share": label_share, "temperature": 2.5, "reduction": reduction, "teacher_bias": teacher_bias}

    def pulled(function, targets, **more):
        value, pullback = jax.vjp(
            lambda X, W, bias, w: function(
                X, W, teacher_X, teacher_W, bias=bias, weights=w, targets=targets, **options, **more
            ),
            X,
            W,
            bias,
            w,
        )
        return value, pullback(-1.7 * jnp.cos(jnp.arange(float(value.size))).reshape(value.shape))

    by_hand = pulled(linear_distillation, t if label_share else None, recompute=recompute, block_size=block_size)
    chex.assert_trees_all_close(by_hand, jax.jit(lambda: pulled(naive, t))(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_mode_of_differentiation_matches(reduction, recompute, x64):
    X, W, bias, w, teacher_X, teacher_W, teacher_bias, t = cast("float64", *problem(7, 3, 4, 5))
    options = {"label_share": 0.4, "temperature": 0.7, "weights": w, "teacher_bias": teacher_bias, "targets": t}
    directions = tuple(jnp.cos(3 * array) for array in (X, W, bias))

    def results(function, **more):
        def of(X, W, bias):
            losses = function(X, W, teacher_X, teacher_W, bias=bias, reduction=reduction, **options, **more)
            return jnp.sum(jnp.cos(jnp.arange(float(losses.size))) * losses)

        gradient = jax.grad(of, argnums=(0, 1, 2))
        forward = jax.jvp(of, (X, W, bias), directions)
        return (
            forward,
            jax.jvp(gradient, (X, W, bias), directions),
            jax.vmap(of, (None, 0, None))(X, jnp.stack([W, -W]), bias),
        )

    by_hand = jax.jit(functools.partial(results, linear_distillation, recompute=recompute, block_size=2))()
    assert_close(by_hand, jax.jit(functools.partial(results, naive))(), "float64", factor=20)


def test_a_student_that_is_its_teacher_has_loss_and_gradient_zero(dtype):
    X, W, *_ = cast(dtype, *problem(6, 4, 4, 5))
    value, gradient = jax.value_and_grad(linear_distillation, argnums=(0, 1))(X, W, X, W, temperature=3.0)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    assert abs(value) <= tolerance
    chex.assert_trees_all_close(gradient, jax.tree.map(jnp.zeros_like, gradient), atol=tolerance)


def test_labels_alone_are_cross_entropy(dtype):
    X, W, bias, w, teacher_X, teacher_W, _, t = cast(dtype, *problem(6, 4, 3, 5))
    value = linear_distillation(X, W, teacher_X, teacher_W, targets=t, label_share=1.0, bias=bias, weights=w)
    assert_close(value, linear_cross_entropy(X, W, t, bias=bias, weights=w), dtype)


@settings(deadline=None, derandomize=True, database=None, max_examples=20)
@given(scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0, 1e4]), temperature=st.sampled_from([0.01, 0.5, 1.0, 20.0, 100.0]))
def test_divergence_is_never_negative_beyond_rounding(scale, temperature):
    X, W, _, _, teacher_X, teacher_W, *_ = (np.float32(array) for array in problem(6, 4, 3, 5))
    for recompute in (False, True):
        value = linear_distillation(
            X, np.float32(scale * W), teacher_X, teacher_W, temperature=temperature, recompute=recompute, block_size=2
        )
        logits = max(np.abs(X @ (scale * W)).max(), np.abs(teacher_X @ teacher_W).max())
        assert value >= -1e-6 * temperature * (temperature + logits)


@pytest.mark.parametrize("recompute", [False, True])
def test_ignored_rows_and_rows_of_weight_zero_may_hold_anything(recompute):
    X, W, bias, w, teacher_X, teacher_W, _, t = cast("float32", *problem(6, 4, 3, 5))
    w, t = w.at[1].set(0), t.at[4].set(-100)
    options = {"targets": t, "label_share": 0.5, "ignore_index": -100, "bias": bias, "weights": w, "temperature": 2.0}

    def results(X, teacher_X):
        return jax.value_and_grad(
            lambda X, W: linear_distillation(X, W, teacher_X, teacher_W, recompute=recompute, block_size=2, **options),
            argnums=(0, 1),
        )(X, W)

    rubbish = jnp.array([1, 4])
    expected = results(X, teacher_X)
    for bad in (np.nan, np.inf, 1e38):
        spoilt = results(X.at[rubbish].set(bad), teacher_X.at[rubbish].set(bad))
        chex.assert_trees_all_close(spoilt, expected, rtol=1e-6)
    kept = np.array([0, 2, 3, 5])
    of_kept = linear_distillation(
        X[kept],
        W,
        teacher_X[kept],
        teacher_W,
        targets=t[kept],
        label_share=0.5,
        bias=bias,
        weights=w[kept],
        temperature=2.0,
    )
    np.testing.assert_allclose(expected[0], of_kept, rtol=1e-6)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_class_that_both_mask_is_as_if_it_were_not_there(recompute, x64):
    X, W, bias, w, teacher_X, teacher_W, teacher_bias, _ = cast("float64", *problem(6, 4, 3, 5))
    masked = jnp.array([0, 3])
    kept = jnp.array([1, 2, 4])

    def results(W, bias, teacher_W, teacher_bias):
        return jax.value_and_grad(
            lambda X, W, bias: linear_distillation(
                X,
                W,
                teacher_X,
                teacher_W,
                bias=bias,
                teacher_bias=teacher_bias,
                weights=w,
                temperature=2.0,
                recompute=recompute,
                block_size=1,
            ),
            argnums=(0, 1, 2),
        )(X, W, bias)

    value, (dX, dW, db) = results(W, bias.at[masked].set(-np.inf), teacher_W, teacher_bias.at[masked].set(-np.inf))
    expected, (eX, eW, eb) = results(W[:, kept], bias[kept], teacher_W[:, kept], teacher_bias[kept])
    assert_close((value, dX, dW[:, kept], db[kept]), (expected, eX, eW, eb), "float64")
    assert not np.any(dW[:, masked])
    only_student = results(W, bias.at[masked].set(-np.inf), teacher_W, teacher_bias)
    assert np.isposinf(only_student[0])


def test_transposed_heads_and_leading_axes_change_nothing(dtype):
    X, W, bias, w, teacher_X, teacher_W, _, _ = cast(dtype, *problem(6, 4, 3, 5))
    flat = linear_distillation(X, W, teacher_X, teacher_W, bias=bias, weights=w, reduction="none", temperature=2.0)
    batched = linear_distillation(
        X.reshape(2, 3, 4),
        W.T,
        teacher_X.reshape(2, 3, 3),
        teacher_W.T,
        bias=bias[None],
        weights=w.reshape(2, 3),
        reduction="none",
        temperature=2.0,
        transposed=True,
    )
    assert batched.shape == (2, 3)
    assert_close(batched.reshape(6), flat, dtype)


def test_narrow_students_and_teachers_of_their_own_dtypes():
    X, W, _, _, teacher_X, teacher_W, *_ = problem(64, 8, 6, 16)
    X, W = jnp.asarray(X, "bfloat16"), jnp.asarray(W, "float32")
    teacher_X, teacher_W = jnp.asarray(teacher_X, "float32"), jnp.asarray(teacher_W, "float32")
    for recompute in (False, True):
        value, gradients = jax.value_and_grad(
            lambda X, W: linear_distillation(X, W, teacher_X, teacher_W, recompute=recompute, block_size=8),  # noqa: B023
            argnums=(0, 1),
        )(X, W)
        assert [value.dtype, *(gradient.dtype for gradient in gradients)] == ["float32", "bfloat16", "float32"]
        rounded = np.asarray(X, np.float32), np.asarray(W.astype("bfloat16"), np.float32)
        expected = linear_distillation(*rounded, teacher_X, teacher_W)
        np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("recompute", [False, True])
def test_in_float16_no_gradient_is_lost_as_the_temperature_grows(recompute):
    X, W, _, _, teacher_X, teacher_W, *_ = problem(8, 4, 6, 512)
    narrow = [jnp.asarray(array, "float16") for array in (X, W, teacher_X, teacher_W)]
    gradient = jax.grad(functools.partial(linear_distillation, temperature=100.0, recompute=recompute), argnums=(0, 1))
    expected = gradient(*(np.asarray(array, np.float32) for array in narrow))
    for actual, wide in zip(gradient(*narrow), expected, strict=True):
        np.testing.assert_allclose(np.asarray(actual, np.float32), wide, atol=2e-3 * np.abs(wide).max())


def test_memory_is_a_quarter_of_the_plain_forms():
    N, P, Q, C = 2048, 128, 128, 32768
    given = [jnp.zeros(shape) for shape in ((N, P), (P, C), (N, Q), (Q, C))]

    def plain(X, W, teacher_X, teacher_W):
        log_U = jax.nn.log_softmax(teacher_X @ teacher_W / 2)
        return 4 * jnp.mean(jnp.sum(jnp.exp(log_U) * (log_U - jax.nn.log_softmax(X @ W / 2)), axis=1))

    def temporary(loss):
        program = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*given).compile()
        return program.memory_analysis().temp_size_in_bytes

    theirs = temporary(plain)
    for recompute in (False, True):
        ours = temporary(functools.partial(linear_distillation, temperature=2.0, recompute=recompute))
        assert ours <= 0.25 * theirs


X0, W0, V0 = np.zeros((3, 2), np.float32), np.zeros((2, 4), np.float32), np.zeros((3, 5), np.float32)
REFUSED = {
    r"teacher_X must have the leading axes of X, \(3,\), and teacher_W the classes of W, 4; got \(2,\) and 4": {
        "teacher_X": V0[:2]
    },
    r"teacher_X must have the leading axes .* got \(3,\) and 3": {"teacher_W": np.zeros((5, 3), np.float32)},
    "teacher_X must have P = 6 columns for teacher_W": {"teacher_W": np.zeros((6, 4), np.float32)},
    "teacher_bias must have shape": {"teacher_bias": np.zeros(5, np.float32)},
    "label_share needs targets": {"label_share": 0.5},
    "ignore_index needs targets": {"ignore_index": -1},
    "targets need a label_share above 0": {"targets": np.zeros(3, int)},
    "targets must be labels with the leading axes": {"targets": X0, "label_share": 0.5},
    r"label_share must be .* got 1.5": {"targets": np.zeros(3, int), "label_share": 1.5},
    "temperature must be": {"temperature": 0.0},
    "temperature must be from 0.001 to 100; got 10000": {"temperature": 1e4},
    "temperature must be from 0.001 to 100; got 1e-19": {"temperature": 1e-19},
    r"labels must be integers in \[0, 4\)": {"targets": np.full(3, 4), "label_share": 0.5},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_and_how(message):
    given = {"X": X0, "W": W0, "teacher_X": V0, "teacher_W": np.zeros((5, 4), np.float32)} | REFUSED[message]
    with pytest.raises((TypeError, ValueError), match=f"^linear_distillation: {message}"):
        linear_distillation(**given)


def test_the_teacher_is_not_differentiated():
    with pytest.raises(TypeError, match="linear_distillation: teacher_W must not depend on what is differentiated"):
        jax.grad(linear_distillation, argnums=3)(X0, W0, V0, np.zeros((5, 4), np.float32))


@pytest.mark.parametrize("recompute", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_teacher_may_have_another_dtype(recompute, x64):
    """Its rounding stands in its logits alone: τ² KL at τ = 50 is not off by τ² times that of its softmax."""
    X, W, bias, w, teacher_X, teacher_W, teacher_bias, t = cast("float64", *problem(11, 4, 6, 7))
    for student, teacher, tolerance in (("float64", "float32", 1e-6), ("float32", "float64", 2e-3)):
        arguments = [a.astype(student).astype("float64") for a in (X, W)]
        arguments += [a.astype(teacher).astype("float64") for a in (teacher_X, teacher_W)]
        more = {"bias": bias, "teacher_bias": teacher_bias, "weights": w, "temperature": 50.0}
        expected = jax.value_and_grad(naive, (0, 1))(*arguments, targets=t, label_share=0.0, reduction="mean", **more)
        more |= {"bias": bias.astype(student), "recompute": recompute}
        given = [a.astype(dtype) for a, dtype in zip(arguments, [student] * 2 + [teacher] * 2, strict=True)]
        value, gradients = jax.value_and_grad(linear_distillation, (0, 1))(*given, **more)
        assert {value.dtype, *(g.dtype for g in gradients)} == {jnp.dtype(student)}
        chex.assert_trees_all_close(
            jax.tree.map(lambda a: a.astype("float64"), (value, gradients)), expected, rtol=tolerance, atol=tolerance
        )
