"""linear_cross_entropy against a naive loss in float64, in every mode of differentiation and every combination."""

import functools
import itertools
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grids
import handgrad
import oracles_head
from handgrad import linear_cross_entropy

PLAIN = {"s": 0.0, "z_loss": 0.0, "softcap": None, "ignore_index": None}
# Sums of some tens of products of size 1, of which each settles to about 10 rounding errors.
TOLERANCE = {"float32": 2e-5, "float64": 1e-13}
# (N, P, C, block): one of each, a block of everything, blocks that divide N or C and that do not, blocks of one.
SHAPES = [(1, 1, 1, 1), (1, 3, 4, 8), (8, 3, 5, 4), (11, 4, 7, 3), (6, 5, 2, 1), (13, 2, 1, 5)]


def head(X, W, t, bias=None, weights=None, k=None, *, s, **settings):
    return linear_cross_entropy(X, W, t, bias=bias, weights=weights, class_weights=k, label_smoothing=s, **settings)


def cast(dtype, *arrays):
    return [None if a is None else jnp.asarray(a, dtype if a.dtype.kind == "f" else a.dtype) for a in arrays]


def assert_close(actual, expected, dtype, factor=1.0):
    tolerance = factor * TOLERANCE[dtype]
    chex.assert_trees_all_close(
        jax.tree.map(lambda a: np.asarray(a, np.float64), actual),
        jax.tree.map(lambda a: np.asarray(a, np.float64), expected),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize(
    ("dtype", "shape", "targets", "recompute"),
    grids.product(
        ["float32", "float64"],
        SHAPES,
        ["labels", "distributions"],
        [False, True],
        quick=lambda dtype, shape, targets, recompute: (
            (dtype == "float64" and (SHAPES.index(shape) + recompute) % 2 == (targets == "labels"))
            or (shape == SHAPES[2] and targets == "labels")
        ),
    ),
    indirect=["dtype"],
    ids=str,
)
def test_value_and_all_gradients_match_autograd_of_the_naive_loss(shape, targets, dtype, recompute):
    *sizes, block_size = shape
    X, W, t, bias, w, _ = oracles_head.problem(*sizes, targets=targets)

    def value_and_gradients(function, arrays, **settings):
        X, W, t, bias, w = arrays

        def of_moving(X, W, bias, w):
            return function(X, W, t, bias, w, **settings)

        return jax.jit(jax.value_and_grad(of_moving, argnums=(0, 1, 2, 3)))(X, W, bias, w)

    schedule = {"recompute": recompute, "block_size": block_size}
    by_hand = value_and_gradients(head, cast(dtype, X, W, t, bias, w), **schedule, **PLAIN)
    assert all(array.dtype == dtype for array in jax.tree.leaves(by_hand))
    with jax.enable_x64(True):
        expected = value_and_gradients(oracles_head.loss, cast("float64", X, W, t, bias, w), **PLAIN)
    assert_close(by_hand, expected, dtype)


def test_the_opposite_sign_fails_the_comparison(x64):
    X, W, t, *_ = cast("float64", *oracles_head.problem(8, 3, 5)[:3])
    gradient = jax.grad(head, argnums=1)(X, W, t, **PLAIN)
    with pytest.raises(AssertionError):
        assert_close(-gradient, jax.grad(oracles_head.loss, argnums=1)(X, W, t, **PLAIN), "float64")


COMBINATIONS = [
    {"s": s, "z_loss": z, "softcap": cap, "ignore_index": ignored}
    for s, z, cap, ignored in itertools.product((0.0, 0.1), (0.0, 0.02), (None, 1.5), (None, 2))
]


def reductions_in_turn(settings, reduction):
    return reduction == ("mean", "sum", "none")[COMBINATIONS.index(settings) % 3]


@pytest.mark.parametrize(
    ("settings", "reduction"),
    grids.product(COMBINATIONS, ["mean", "sum", "none"], quick=reductions_in_turn),
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else value,
)
def test_every_combination_matches_the_naive_loss_with_a_cotangent_that_is_not_one(settings, reduction, x64):
    X, W, t, bias, w, k = cast("float64", *oracles_head.problem(11, 4, 5))
    if settings["ignore_index"] is not None:
        t = t.at[3].set(2)

    def pulled(function, **more):
        value, pullback = jax.vjp(
            lambda X, W, bias, w: function(X, W, t, bias, w, k, reduction=reduction, **settings, **more), X, W, bias, w
        )
        return value, pullback(-1.7 * jnp.cos(jnp.arange(value.size, dtype=value.dtype)).reshape(value.shape))

    schedule = {"recompute": COMBINATIONS.index(settings) % 2 == 1, "block_size": 2}
    assert_close(pulled(head, **schedule), pulled(oracles_head.loss), "float64", factor=10)


@pytest.mark.parametrize("settings", COMBINATIONS[::3], ids=str)
def test_distributions_take_every_setting_too(settings, x64):
    X, W, T, bias, w, k = cast("float64", *oracles_head.problem(11, 4, 5, targets="distributions"))
    schedule = {"recompute": COMBINATIONS.index(settings) % 2 == 0, "block_size": 3}
    settings = {**settings, "ignore_index": None}

    def gradients(function, **more):
        return jax.value_and_grad(
            lambda X, W, b, w: function(X, W, T, b, w, k, **settings, **more), argnums=(0, 1, 2, 3)
        )(X, W, bias, w)

    by_hand, expected = gradients(head, **schedule), gradients(oracles_head.loss)
    assert_close(by_hand, expected, "float64", factor=10)


def test_the_conventions_are_those_of_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    X, W, t, bias, _, k = oracles_head.problem(11, 4, 5)
    t[4] = -100
    criterion = torch.nn.CrossEntropyLoss(
        weight=torch.tensor(k), ignore_index=-100, label_smoothing=0.1, reduction="mean"
    )
    expected = criterion(torch.tensor(X @ W + bias), torch.tensor(t, dtype=torch.int64))
    with jax.enable_x64(True):
        value = linear_cross_entropy(X, W, t, bias=bias, class_weights=k, label_smoothing=0.1, ignore_index=-100)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


MODES = ["forward", "forward over reverse", "reverse over forward", "reverse over reverse"]


@pytest.mark.parametrize(
    ("mode", "recompute", "reduction"),
    grids.product(
        MODES,
        [False, True],
        ["sum", "none"],
        quick=lambda mode, recompute, reduction: (
            MODES.index(mode) % 2 == recompute and MODES.index(mode) // 2 == (reduction == "none")
        ),
    ),
)
def test_every_mode_of_differentiation_matches(mode, recompute, reduction, x64):
    X, W, t, bias, w, _ = cast("float64", *oracles_head.problem(11, 4, 5))
    settings = {"s": 0.1, "z_loss": 0.02, "softcap": 2.0, "ignore_index": None}
    directions = tuple(jnp.cos(3 * array) for array in (X, W, bias))

    def derivative(function, **more):
        def of(X, W, bias):
            losses = function(X, W, t, bias, w, reduction=reduction, **settings, **more)
            return jnp.sum(jnp.cos(jnp.arange(float(losses.size))) * losses)

        if mode == "forward":
            return jax.jvp(of, (X, W, bias), directions)
        if mode == "forward over reverse":
            return jax.jvp(jax.grad(of, argnums=(0, 1, 2)), (X, W, bias), directions)
        if mode == "reverse over forward":
            return jax.grad(lambda *args: jax.jvp(of, args, directions)[1], argnums=(0, 1, 2))(X, W, bias)

        def inner(*args):
            gradients = jax.grad(of, argnums=(0, 1, 2))(*args)
            return sum(jnp.vdot(g, d) for g, d in zip(gradients, directions, strict=True))

        return jax.grad(inner, argnums=(0, 1, 2))(X, W, bias)

    by_hand = derivative(head, recompute=recompute, block_size=3)
    assert_close(by_hand, derivative(oracles_head.loss), "float64", factor=20)


AROUND = ["jit", "vmap over W", "vmap over X", "vmap of cotangents", "checkpoint", "scan"]


@pytest.mark.parametrize(
    ("around", "recompute"),
    grids.product(AROUND, [False, True], quick=lambda around, recompute: (AROUND.index(around) + recompute) % 2 == 0),
)
def test_transformations_around_it_change_nothing(around, recompute, x64):
    X, W, t, *_ = cast("float64", *oracles_head.problem(6, 4, 5)[:3])

    def result(function, **more):
        def of(X, W):
            return function(X, W, t, **PLAIN, **more)

        gradient = jax.value_and_grad(of, argnums=(0, 1))
        if around == "jit":
            return jax.jit(gradient)(X, W)
        if around == "vmap over W":
            return jax.vmap(gradient, in_axes=(None, 0))(X, jnp.stack([W, -W]))
        if around == "vmap over X":
            return jax.vmap(gradient, in_axes=(0, None))(jnp.stack([X, -X, 2 * X]), W)
        if around == "vmap of cotangents":
            return jax.vmap(jax.vjp(of, X, W)[1])(jnp.array([1.0, -2.0]))
        if around == "checkpoint":
            return jax.value_and_grad(jax.checkpoint(of), argnums=(0, 1))(X, W)
        return jax.lax.scan(
            lambda total, scale: (total + gradient(scale * X, W)[0], gradient(scale * X, W)), 0.0, jnp.array([0.5, 2.0])
        )

    by_hand = result(head, recompute=recompute, block_size=4)
    assert_close(by_hand, result(oracles_head.loss), "float64", factor=10)


@pytest.mark.parametrize(
    ("reduction", "targets"),
    grids.product(
        ["mean", "none"],
        ["labels", "distributions"],
        quick=lambda reduction, targets: (reduction == "mean") == (targets == "labels"),
    ),
)
def test_statistics_and_their_cotangents_match(targets, reduction, x64):
    X, W, t, bias, w, k = cast("float64", *oracles_head.problem(11, 4, 5, targets=targets))
    settings = {"s": 0.1, "z_loss": 0.02, "softcap": 2.0}

    schedule = {"recompute": reduction == "mean", "block_size": 2}

    def by_hand(X, W, bias):
        loss, statistics = head(X, W, t, bias, w, k, reduction=reduction, with_stats=True, **schedule, **settings)
        return loss, statistics._asdict()

    def naive(X, W, bias):
        loss = oracles_head.loss(X, W, t, bias, w, k, reduction=reduction, ignore_index=None, **settings)
        return loss, oracles_head.rows(X, W, t, bias, w, k, ignore_index=None, **settings)[3]

    def mixed(function):
        def scalar(*args):
            loss, statistics = function(*args)
            total = 0.7 * jnp.sum(loss * jnp.cos(jnp.arange(float(loss.size))).reshape(loss.shape))
            for number, name in enumerate(("log_sum_exp", "log_probability", "entropy")):
                total += jnp.vdot(statistics[name], jnp.sin(1.0 + number + jnp.arange(11.0)))
            return total

        return jax.value_and_grad(scalar, argnums=(0, 1, 2))(X, W, bias)

    assert_close(by_hand(X, W, bias), naive(X, W, bias), "float64", factor=10)
    assert_close(mixed(by_hand), mixed(naive), "float64", factor=20)


def test_leading_axes_are_rows():
    X, W, t, bias, w, _ = cast("float32", *oracles_head.problem(12, 4, 5))
    flat = linear_cross_entropy(X, W, t, bias=bias, weights=w, reduction="none")
    batched = linear_cross_entropy(
        X.reshape(3, 4, 4), W, t.reshape(3, 4), bias=bias[None], weights=w.reshape(3, 4), reduction="none"
    )
    np.testing.assert_array_equal(batched, flat.reshape(3, 4))
    _, statistics = linear_cross_entropy(X.reshape(3, 4, 4), W, t.reshape(3, 4), with_stats=True)
    assert {array.shape for array in statistics} == {(3, 4)}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(("narrow", "P"), [("bfloat16", 8), ("bfloat16", 256), ("float16", 8)])
def test_narrow_inputs_are_summed_in_float32(narrow, P, recompute):
    # 64 blocks: summed in bfloat16, dL/dW would lose a part in 256 with each. Of 256 features D is kept instead.
    X, W, t, *_ = oracles_head.problem(512, P, 16)
    X, W = (jnp.asarray(array, narrow) for array in (X, W))
    value, gradients = jax.value_and_grad(
        lambda X, W: head(X, W, t, recompute=recompute, block_size=8, **PLAIN), argnums=(0, 1)
    )(X, W)
    assert value.dtype == jnp.float32
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype(narrow)}
    with jax.enable_x64(True):
        wide = [np.asarray(array, np.float64) for array in (X, W)]
        expected_value, expected = jax.value_and_grad(oracles_head.loss, argnums=(0, 1))(
            *map(jnp.asarray, wide), t, **PLAIN
        )
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    for gradient, reference in zip(gradients, expected, strict=True):
        error = np.abs(np.asarray(gradient, np.float64) - np.asarray(reference))
        assert error.max() < 0.01 * np.abs(reference).max()


def test_a_confident_row_keeps_its_gradient_in_bfloat16():
    # Y rounded to bfloat16 before T is taken off would be 1, and Y − T 0.
    X, W = jnp.ones((1, 1), jnp.bfloat16), jnp.array([[7.0, 0.0]], jnp.bfloat16)
    dW = jax.grad(linear_cross_entropy, argnums=1)(X, W, jnp.array([0]))
    left = 1 / (1 + np.exp(7.0))
    np.testing.assert_allclose(np.asarray(dW, np.float64), [[-left, left]], rtol=0.005)


# --- The faults that users of other heads have found ------------------------------------------------------------------


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("label", [-1, -100, 5, 10**6])
def test_a_label_out_of_range_never_gives_a_finite_number(label, recompute):
    X, W, t, *_ = cast("float32", *oracles_head.problem(6, 4, 5)[:3])
    t = t.at[2].set(label)
    of = functools.partial(linear_cross_entropy, recompute=recompute, block_size=2)
    value, gradients = jax.jit(jax.value_and_grad(of, argnums=(0, 1)))(X, W, t)
    assert np.isnan(value)
    assert np.isnan(gradients[1]).all()
    with pytest.raises(ValueError, match=rf"labels must be integers in \[0, 5\).*got {label} at row 2"):
        linear_cross_entropy(X, W, t)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_every_label_ignored_gives_zero_and_gradients_zero(reduction, recompute):
    X, W, *_ = cast("float32", *oracles_head.problem(6, 4, 5)[:2])
    X = X.at[1].set(np.nan)
    loss, pullback = jax.vjp(
        lambda X, W: linear_cross_entropy(
            X, W, jnp.full(6, -100), ignore_index=-100, reduction=reduction, recompute=recompute, block_size=2
        ),
        X,
        W,
    )
    assert not np.any(loss)
    for gradient in pullback(jnp.ones_like(loss)):
        assert not np.any(gradient)


@pytest.mark.parametrize(("dtype", "recompute"), [("float32", False), ("float32", True), ("bfloat16", False)])
def test_rows_that_do_not_count_may_hold_anything(dtype, recompute):
    X, W, t, _, w, _ = cast("float32", *oracles_head.problem(6, 4, 5))
    X, W, w = X.astype(dtype), W.astype(dtype), w.at[2].set(0)
    of = functools.partial(linear_cross_entropy, recompute=recompute, block_size=2)
    expected = jax.value_and_grad(of, argnums=(0, 1))(X, W, t, weights=w)
    for rubbish in (np.nan, np.inf, 1e38):
        value = jax.value_and_grad(of, argnums=(0, 1))(X.at[2].set(rubbish), W, t, weights=w)
        chex.assert_trees_all_close(value, expected, rtol=1e-6)


def test_a_weight_of_zero_has_its_derivative_too(x64):
    X, W, t, _, w, _ = cast("float64", *oracles_head.problem(6, 4, 5))
    w = w.at[2].set(0)
    by_hand, expected = (
        jax.grad(lambda w: function(X, W, t, None, w, **PLAIN))(w)  # noqa: B023
        for function in (head, oracles_head.loss)
    )
    assert_close(by_hand, expected, "float64")
    assert by_hand[2] != 0


def test_the_cotangent_of_each_row_reaches_its_own_gradient(x64):
    X, W, t, *_ = cast("float64", *oracles_head.problem(6, 4, 5)[:3])
    cotangent = jnp.array([1.0, -2.0, 0.0, 3.0, 0.5, -1.0])
    pulled = [
        jax.vjp(lambda X, W: function(X, W, t, reduction="none", **PLAIN), X, W)[1](cotangent)  # noqa: B023
        for function in (head, oracles_head.loss)
    ]
    assert_close(*pulled, "float64")
    assert not np.any(pulled[0][0][2])


@pytest.mark.parametrize("recompute", [False, True])
def test_logits_of_ten_thousand_and_masked_classes_stay_finite(recompute):
    X = jnp.array([[1e4, 0.0], [-1e4, 1.0]], jnp.float32)
    W = jnp.array([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]], jnp.float32)
    bias = jnp.array([0.0, 0.0, -np.inf], jnp.float32)
    t = jnp.array([0, 1])
    value, gradients = jax.value_and_grad(
        lambda X, W: linear_cross_entropy(X, W, t, bias=bias, recompute=recompute, block_size=1), argnums=(0, 1)
    )(X, W)
    assert value == 0
    assert not any(np.any(gradient) for gradient in gradients)


@pytest.mark.parametrize("recompute", [False, True])
def test_logits_whose_squares_are_infinite_have_a_finite_loss(recompute):
    X, W, t = jnp.array([[1e30, 0.0]], jnp.float32), jnp.eye(2, 3, dtype=jnp.float32), jnp.array([1])

    def of(X, W, **settings):
        return linear_cross_entropy(X, W, t, recompute=recompute, block_size=1, **settings)

    value, gradients = jax.value_and_grad(of, argnums=(0, 1))(X, W)
    np.testing.assert_allclose(value, 1e30, rtol=1e-6)
    chex.assert_trees_all_close(gradients, (jnp.array([[1.0, -1.0]]), jnp.array([[1e30, -1e30, 0.0], [0.0] * 3])))
    assert of(X, W, z_loss=1e-4) == np.inf


# --- Blocks, and the formulas --------------------------------------------------------------------------------------


def test_the_block_is_chosen_from_shapes_alone_and_changes_nothing():
    X, W, t, *_ = cast("float32", *oracles_head.problem(40, 4, 5)[:3])
    expected = jax.value_and_grad(linear_cross_entropy, argnums=(0, 1))(X, W, t)
    for block_size in (1, 7, 40, 1000):
        blocked = jax.value_and_grad(linear_cross_entropy, argnums=(0, 1))(X, W, t, block_size=block_size)
        chex.assert_trees_all_close(blocked, expected, rtol=1e-5, atol=1e-6)


def test_gradients_agree_with_the_formulas():
    X, W, t, bias, w, _ = cast("float32", *oracles_head.problem(40, 4, 5))
    dW, db = handgrad.gradient(handgrad.Params(W, bias[None]), X, t, w)
    by_hand = jax.grad(lambda W, b: linear_cross_entropy(X, W, t, bias=b, weights=w), argnums=(0, 1))(W, bias[None])
    chex.assert_trees_all_close(by_hand, (dW, db), atol=1e-6)


# --- Classes over devices, and rows too -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "targets", "recompute"),
    grids.product(
        [1, 2],
        ["labels", "distributions"],
        [False, True],
        quick=lambda rows, targets, recompute: (rows == 1) == (targets == "labels") == recompute,
    ),
)
def test_classes_over_devices_give_the_same_loss_gradients_and_statistics(targets, rows, recompute, x64):
    X, W, t, bias, w, k = cast("float64", *oracles_head.problem(8, 4, 12, targets=targets))
    settings = {"label_smoothing": 0.1, "z_loss": 0.02, "softcap": 2.0, "reduction": "sum", "with_stats": True}
    mesh = jax.make_mesh((rows, 4), ("data", "classes"), axis_types=2 * (jax.sharding.AxisType.Auto,))
    by_row, by_class = jax.P("data"), jax.P("classes")
    target_spec = by_row if targets == "labels" else jax.P("data", "classes")

    def sharded(X, W, bias, w, k, t):
        loss, statistics = linear_cross_entropy(
            X,
            W,
            t,
            bias=bias,
            weights=w,
            class_weights=k,
            class_axis="classes",
            recompute=recompute,
            block_size=2,
            **settings,
        )
        return jax.lax.psum(loss, "data"), statistics

    head_over_devices = jax.shard_map(
        sharded,
        mesh=mesh,
        in_specs=(by_row, jax.P(None, "classes"), by_class, by_row, by_class, target_spec),
        out_specs=(jax.P(), by_row),
    )

    def whole(X, W, bias, w, k, t):
        return linear_cross_entropy(X, W, t, bias=bias, weights=w, class_weights=k, **settings)

    def results(function):
        def with_cotangents(X, W, bias, w):
            loss, statistics = function(X, W, bias, w, k, t)
            weighted = jnp.cos(jnp.arange(8.0))
            return -1.3 * loss + jnp.vdot(statistics.entropy, weighted) + jnp.vdot(statistics.log_sum_exp, weighted)

        return function(X, W, bias, w, k, t), jax.jit(jax.grad(with_cotangents, argnums=(0, 1, 2, 3)))(X, W, bias, w)

    assert_close(results(jax.jit(head_over_devices)), results(whole), "float64", factor=10)


PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "language-model.md"


@pytest.mark.skipif(not PAGE.exists(), reason="the tests run apart from the repository")
def test_the_recipe_for_two_axes_gives_the_gradients_of_one_device():
    (recipe,) = re.findall(r"```python\n((?:(?!```).)*class_axis(?:(?!```).)*)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(compile(recipe, PAGE, "exec"), names)
    assert dict(names["mesh"].shape) == {"data": 4, "classes": 2}
    expected = jax.value_and_grad(linear_cross_entropy, argnums=(0, 1))(names["h"], names["W"], names["t"])
    actual = names["value"], (names["dh"], names["dW"])
    chex.assert_trees_all_close(jax.device_get(actual), jax.device_get(expected), rtol=2e-5, atol=1e-7)
