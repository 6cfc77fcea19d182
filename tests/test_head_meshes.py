"""The head under plain jit with arrays that lie over eight devices: the same numbers, and what travels between them."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import grids
import oracles_head
from handgrad import linear_cross_entropy, linear_distillation
from layouts import LAYOUTS, B, C, P, S, collectives, elements, laid_out, problem
from test_fused import assert_close, cast


@pytest.mark.parametrize(
    ("layout", "kind", "sequences", "recompute"),
    grids.product(
        list(LAYOUTS),
        [AxisType.Auto, AxisType.Explicit],
        [False, True],
        [False, True],
        # Each layout in one mesh of the two, each mesh with both kinds of batches and both schedules.
        quick=lambda layout, kind, sequences, recompute: (
            (list(LAYOUTS).index(layout) % 2 == (kind == AxisType.Auto))
            and (list(LAYOUTS).index(layout) // 2 % 2 == sequences == recompute)
        ),
    ),
    ids=str,
)
def test_value_gradients_and_statistics_are_those_of_one_device(layout, kind, sequences, recompute, x64):
    given = cast("float64", *problem(sequences))
    by_row, of_X, of_W, by_class = laid_out(layout, kind, sequences)
    places = (of_X, of_W, by_row, by_class, by_row, by_class)
    settings = {"label_smoothing": 0.1, "z_loss": 0.02, "softcap": 2.0, "recompute": recompute, "block_size": 3}

    def scalar(X, W, bias, w, t, k):
        loss, statistics = linear_cross_entropy(
            X, W, t, bias=bias, weights=w, class_weights=k, with_stats=True, **settings
        )
        rows = statistics.entropy + 2 * statistics.log_sum_exp + 3 * statistics.log_probability
        return -1.3 * loss + jnp.sum(rows * w), statistics.prediction

    def results(X, W, t, bias, w, k):
        return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2, 3), has_aux=True))(X, W, bias, w, t, k)

    placed = [jax.device_put(array, place) for array, place in zip(given, places, strict=True)]
    (value, prediction), gradients = results(*placed)
    assert_close(((value, prediction), gradients), results(*given), "float64", factor=20)
    belonging = zip(gradients, (placed[0], placed[1], placed[3], placed[4]), strict=True)
    for gradient, array in list(belonging)[: 4 if kind == AxisType.Explicit else 2]:
        assert gradient.sharding.is_equivalent_to(array.sharding, array.ndim)
    if kind == AxisType.Explicit:
        assert prediction.sharding.is_equivalent_to(by_row, prediction.ndim)


@pytest.mark.parametrize(
    ("layout", "recompute", "transposed"),
    grids.product(
        list(LAYOUTS)[:6],
        [False, True],
        [False, True],
        quick=lambda layout, recompute, transposed: (
            list(LAYOUTS).index(layout) % 2 == recompute and list(LAYOUTS).index(layout) // 2 % 2 == transposed
        ),
    ),
)
def test_no_more_travels_than_of_the_plain_form(layout, recompute, transposed):
    X, W, t, *_ = cast("float32", *problem(False))
    by_row, of_X, of_W, _ = laid_out(layout, AxisType.Auto, False, transposed)
    W = W.T if transposed else W
    X, W, t = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)

    def plain(X, W, t):
        return optax.softmax_cross_entropy_with_integer_labels(X @ (W.T if transposed else W), t).mean()

    def ours(X, W, t):
        return linear_cross_entropy(X, W, t, recompute=recompute, block_size=3, transposed=transposed)

    def sent(loss):
        # The gradients lie as what they belong to, as in a step of training.
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), out_shardings=(None, (of_X, of_W)))
        return [elements(shape) for _, shape in collectives(step, X, W, t)]

    by_hand, by_autograd = sent(ours), sent(plain)
    numbers = 4  # a number a device for the loss, and its like
    assert sum(by_hand) <= sum(by_autograd) + numbers


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize(
    ("layout", "recompute", "transposed"), [("fully sharded along C", False, True), ("C over both", True, False)]
)
def test_of_few_rows_and_many_classes_along_one_axis_the_rows_are_gathered(layout, recompute, transposed, kind, x64):
    X, W, t, bias, w, _ = cast("float64", *oracles_head.problem(B * S, P, 256))
    W = W.T if transposed else W
    by_row, of_X, of_W, _ = laid_out(layout, kind, False, transposed)
    settings = {"recompute": recompute, "transposed": transposed, "block_size": 3}

    def ours(X, W, t, bias, w):
        losses = linear_cross_entropy(X, W, t, bias=bias, reduction="none", **settings)
        return jnp.sum(losses * w) + linear_cross_entropy(X, W, t, bias=bias, weights=w, **settings)

    step = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 3)))
    placed = [jax.device_put(array, place) for array, place in zip((X, W, t), (of_X, of_W, by_row), strict=True)]
    value, gradients = step(*placed, bias, w)
    assert_close((value, gradients), step(X, W, t, bias, w), "float64", factor=20)
    assert gradients[0].sharding.is_equivalent_to(of_X, 2)
    assert gradients[1].sharding.is_equivalent_to(of_W, 2)
    loss = functools.partial(linear_cross_entropy, **settings)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), out_shardings=(None, (of_X, of_W)))
    sent = [(kind, elements(shape)) for kind, shape in collectives(step, *placed)]
    assert max(number for _, number in sent) == X.size
    assert ("reduce-scatter", X.size // of_X.mesh.shape["data"]) in sent


def test_no_row_of_data_travels_where_rows_are_shared():
    X, W, t, *_ = cast("float32", *problem(False))
    by_row, of_X, of_W, _ = laid_out("data", AxisType.Auto, False)
    step = jax.jit(jax.value_and_grad(linear_cross_entropy, argnums=(0, 1)))
    found = collectives(step, jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row))
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert max(elements(shape) for _, shape in found) == W.size


def test_each_row_is_computed_on_one_device():
    X, W, t, *_ = cast("float32", *problem(False))
    by_row, of_X, of_W, _ = laid_out("data", AxisType.Auto, False)
    text = (
        jax.jit(linear_cross_entropy)
        .lower(jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row))
        .compile()
        .as_text()
    )
    assert f"f32[{B * S // 8},{C}]" in text
    assert f"f32[{B * S},{C}]" not in text


MODES = ["forward", "forward over reverse", "vmap", "reverse over reverse"]


@pytest.mark.parametrize(
    ("mode", "kind"),
    grids.product(
        MODES,
        [AxisType.Auto, AxisType.Explicit],
        quick=lambda mode, kind: MODES.index(mode) % 2 == (kind == AxisType.Explicit),
    ),
    ids=str,
)
def test_other_modes_give_the_same_on_a_mesh(mode, kind, x64):
    X, W, t, *_ = cast("float64", *problem(False))
    by_row, of_X, of_W, _ = laid_out("fully sharded and tensor", kind, False)

    def of(X, W, t):
        return linear_cross_entropy(X, W, t, block_size=3)

    def results(X, W, t):
        along = (jnp.cos(X), jnp.cos(W))
        if mode == "forward":
            return jax.jvp(lambda X, W: of(X, W, t), (X, W), along)
        if mode == "vmap":
            return jax.vmap(jax.value_and_grad(of), in_axes=(None, 0, None))(X, jnp.stack([W, -W]), t)
        gradient = jax.grad(of, argnums=(0, 1))
        if mode == "forward over reverse":
            return jax.jvp(lambda X, W: gradient(X, W, t), (X, W), along)
        return jax.grad(lambda X, W: sum(jnp.sum(g * g) for g in gradient(X, W, t)), argnums=(0, 1))(X, W)

    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)
    assert_close(jax.jit(results)(*placed), jax.jit(results)(X, W, t), "float64", factor=20)


@pytest.mark.parametrize("sizes", [(7, 8, 16), (8, 3, 16), (8, 8, 5), (1, 1, 1)], ids=str)
def test_sizes_that_the_devices_do_not_divide_are_right_too(sizes, x64):
    # Intermediate arrays may be so; those that are given may not.
    X, W, t, *_ = cast("float64", *oracles_head.problem(*sizes)[:3])
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=2 * (AxisType.Auto,))

    def results(X, W, t):
        return jax.value_and_grad(linear_cross_entropy, argnums=(0, 1))(2 * X, 2 * W, t)

    def over_mesh(X, W, t):
        X = jax.lax.with_sharding_constraint(2 * X, jax.NamedSharding(mesh, jax.P("data", None)))
        W = jax.lax.with_sharding_constraint(2 * W, jax.NamedSharding(mesh, jax.P(None, "model")))
        return jax.value_and_grad(linear_cross_entropy, argnums=(0, 1))(X, W, t)

    assert_close(jax.jit(over_mesh)(X, W, t), jax.jit(results)(X, W, t), "float64")


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("layout", ["fully sharded and tensor", "rows and sequence"])
def test_a_teacher_lies_over_devices_too(layout, kind, x64):
    X, W, t, bias, w, _ = cast("float64", *problem(True))
    teacher_X, teacher_W, *_ = cast("float64", *problem(True, seed=1)[:2])
    by_row, of_X, of_W, by_class = laid_out(layout, kind, True)
    given = X, W, bias, w, t, teacher_X, teacher_W
    places = of_X, of_W, by_class, by_row, by_row, of_X, of_W

    def of(X, W, bias, w, t, teacher_X, teacher_W):
        return linear_distillation(
            X, W, teacher_X, teacher_W, bias=bias, weights=w, targets=t, label_share=0.3, temperature=2.0, block_size=3
        )

    gradient = jax.jit(jax.value_and_grad(of, argnums=(0, 1, 2)))
    placed = [jax.device_put(array, place) for array, place in zip(given, places, strict=True)]
    assert_close(gradient(*placed), gradient(*given), "float64", factor=20)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_mesh_that_is_set_for_the_whole_program_changes_nothing(kind, x64):
    X, W, t, *_ = cast("float64", *problem(False))
    by_row, of_X, of_W, _ = laid_out("fully sharded and tensor", kind, False)
    gradient = jax.value_and_grad(linear_cross_entropy, argnums=(0, 1))
    expected = jax.jit(gradient)(X, W, t)
    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)
    with jax.set_mesh(of_X.mesh):
        assert_close(jax.jit(gradient)(*placed), expected, "float64")
        assert_close(gradient(*placed), expected, "float64")
        assert_close(jax.jit(gradient)(*map(np.asarray, (X, W, t))), expected, "float64")


def test_labels_are_judged_before_they_are_spread_too():
    X, W, t, *_ = cast("float32", *problem(False))
    by_row, of_X, of_W, _ = laid_out("data", AxisType.Explicit, False)
    with pytest.raises(ValueError, match=r"labels must be integers in \[0, 16\).*got 16 at row 3"):
        linear_cross_entropy(jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t.at[3].set(C), by_row))


@pytest.mark.parametrize("compiled", [False, True])
def test_what_numpy_holds_beside_arrays_on_an_explicit_mesh_is_judged_before_it_is_cast(compiled):
    X, W, t, *_ = cast("float32", *problem(False))
    _, of_X, of_W, _ = laid_out("data", AxisType.Explicit, False)
    X, W, tiny = jax.device_put(X, of_X), jax.device_put(W, of_W), np.array([1e-300] + (B * S - 1) * [1.0])

    def refuses(message, targets, **given):
        of = functools.partial(linear_cross_entropy, **given)
        with pytest.raises((TypeError, ValueError), match=f"^linear_cross_entropy: {message}"):
            jax.jit(lambda X, W: of(X, W, targets))(X, W) if compiled else of(X, W, targets)

    refuses(r"labels must be integers in \[0, 16\).*got 4294967296 at row 0", np.full(B * S, 2**32))
    refuses("weights must be 0 or in the range of float32", t, weights=tiny)
    refuses(r"bias has 1e\+300", t, bias=np.full(C, 1e300))
    refuses("targets must be an array without a mask", np.ma.masked_array(np.asarray(t)))


@pytest.mark.parametrize("recompute", [False, True])
def test_of_logits_that_are_no_numbers_the_first_is_the_prediction(recompute, x64):
    X, W, t, *_ = cast("float64", *problem(False))
    X = jnp.abs(X).at[3].set(jnp.nan)
    W = W.at[0, jnp.array([5, 9])].set(jnp.inf).at[1, jnp.array([5, 9])].set(-jnp.inf)
    by_row, of_X, of_W, _ = laid_out("data and tensor", AxisType.Auto, False)

    @jax.jit
    def prediction(X, W, t):
        settings = {"with_stats": True, "recompute": recompute, "block_size": 3}
        # With a gradient, for the value alone goes by rows.
        return jax.grad(lambda X: linear_cross_entropy(X, W, t, **settings), has_aux=True)(X)[1].prediction

    expected = np.where(np.arange(B * S) == 3, 0, 5)
    np.testing.assert_array_equal(prediction(X, W, t), expected)
    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)
    np.testing.assert_array_equal(prediction(*placed), expected)


def test_narrow_gradients_are_summed_over_devices_and_handed_on_narrow():
    X, W, t, *_ = problem(False)
    X, W = jnp.asarray(X, "bfloat16"), jnp.asarray(W, "bfloat16")
    by_row, of_X, of_W, _ = laid_out("fully sharded and tensor", AxisType.Auto, False)
    gradient = jax.jit(jax.grad(linear_cross_entropy, argnums=(0, 1)))
    actual = gradient(jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row))
    expected = gradient(X, W, t)
    assert {array.dtype for array in actual} == {jnp.dtype("bfloat16")}
    chex.assert_trees_all_close(
        *[jax.tree.map(lambda a: np.asarray(a, np.float32), tree) for tree in (actual, expected)], atol=2e-3
    )


def test_programs_of_other_settings_are_others_to_the_cache_on_disk_too():
    X, W, t, *_ = cast("float32", *problem(False))
    by_row, of_X, of_W, _ = laid_out("data", AxisType.Auto, False)
    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)

    def text(**settings):
        lowered = jax.jit(functools.partial(linear_cross_entropy, **settings)).lower(*placed).as_text()
        # As `jax_remove_custom_partitioning_ptr_from_cache_key` has it.
        return re.sub(r'backend_config = "\d+"', "", lowered)

    assert text(softcap=2.0) == text(softcap=2.0)
    assert len({text(), text(softcap=2.0), text(softcap=3.0), text(label_smoothing=0.1), text(recompute=True)}) == 5


def test_the_older_partitioner_of_the_compiler_gives_the_same(x64):
    X, W, t, *_ = cast("float64", *problem(False))
    by_row, of_X, of_W, _ = laid_out("fully sharded and tensor", AxisType.Auto, False)
    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)
    gradient = jax.jit(jax.value_and_grad(linear_cross_entropy, argnums=(0, 1)))
    expected = gradient(X, W, t)
    jax.config.update("jax_use_shardy_partitioner", False)
    try:
        assert_close(gradient(*placed), expected, "float64")
    finally:
        jax.config.update("jax_use_shardy_partitioner", True)


def test_classes_may_lie_along_an_axis_of_vmap(x64):
    X, W, t, *_ = cast("float64", *problem(False))

    def of(W):
        return linear_cross_entropy(X, W, t, class_axis="model")

    parts = jnp.stack(jnp.split(W, 4, axis=1))
    assert_close(jax.vmap(of, axis_name="model")(parts), jnp.full(4, linear_cross_entropy(X, W, t)), "float64")


def test_an_exported_program_needs_nobody_who_could_be_asked(x64):
    X, W, t, *_ = cast("float64", *problem(False))
    by_row, of_X, of_W, _ = laid_out("fully sharded and tensor", AxisType.Auto, False)
    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)
    gradient = jax.jit(jax.value_and_grad(linear_cross_entropy, argnums=(0, 1)))
    read = jax.export.deserialize(jax.export.export(gradient)(*placed).serialize())
    assert_close(jax.jit(read.call)(*placed), gradient(X, W, t), "float64")
