"""The head where a compiler asks nobody how to partition it, as those of TPUs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import oracles_head
from handgrad import linear_cross_entropy, linear_distillation, lowering, spread
from layouts import C, collectives, elements, laid_out, problem
from test_fused import assert_close, cast


@pytest.mark.parametrize(
    ("kind", "platform", "asked", "told"),
    [
        (AxisType.Auto, "cpu", True, False),
        (AxisType.Auto, "tpu", False, False),
        (AxisType.Explicit, "tpu", False, True),
    ],
    ids=str,
)
def test_a_tpu_is_told_by_types_or_spreads_the_sweep_itself(kind, platform, asked, told):
    X, W, t, *_ = cast("float32", *problem(False))
    by_row, of_X, of_W, _ = laid_out("fully sharded and tensor", kind, False)
    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)
    gradient = jax.jit(jax.grad(linear_cross_entropy, argnums=(0, 1)))
    text = gradient.trace(*placed).lower(lowering_platforms=(platform,)).as_text()
    assert ("CustomSPMDPartitioning" in text) == asked
    assert ("manual_computation" in text) == told


def spread_by_the_compiler(function, *arguments):
    """A program that asks nobody how to partition, as those for TPUs."""
    return jax.jit(jax.export.export(jax.jit(function))(*arguments).call)


@pytest.mark.parametrize(
    ("recompute", "layout", "transposed"),
    [
        (False, "data", False),
        (True, "data", False),
        (True, "tensor", False),
        (True, "data and tensor", True),
        (True, "fully sharded along C", True),
        (True, "fully sharded and tensor", False),
    ],
)
def test_what_a_compiler_spreads_itself_sends_no_more_than_the_plain_form(recompute, layout, transposed):
    # Of as many rows and classes there would be blocks on one device.
    X, W, t, *_ = cast("float32", *oracles_head.problem(2048, 8, 8192)[:3])
    W = W.T if transposed else W
    by_row, of_X, of_W, _ = laid_out(layout, AxisType.Auto, False, transposed)
    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)

    def gradient(loss):
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)), out_shardings=(None, (of_X, of_W)))

    def ours(X, W, t):
        size = 1024 if recompute else None
        return linear_cross_entropy(X, W, t, recompute=recompute, transposed=transposed, z_loss=0.25, block_size=size)

    def plain(X, W, t):
        return optax.softmax_cross_entropy_with_integer_labels(X @ (W.T if transposed else W), t).mean()

    program = spread_by_the_compiler(gradient(ours), *placed)
    assert_close(program(*placed), jax.jit(jax.value_and_grad(ours, argnums=(0, 1)))(X, W, t), "float32")

    def sent(function):
        found = collectives(function, *placed)
        return {kind for kind, _ in found}, max(elements(shape) for _, shape in found)

    (kinds, most), (kinds_of_plain, most_of_plain) = sent(program), sent(gradient(plain))
    assert most <= most_of_plain
    assert kinds <= kinds_of_plain


MADE = {
    "of embeddings": (lambda E: 2 * E.T, [(8192, 8)], [jax.P("model")]),
    "as a product": (jnp.matmul, [(8, 4), (4, 8192)], [jax.P(), jax.P(None, "model")]),
    "of pieces": (lambda pieces: pieces.reshape(8, 8192), [(8, 64, 128)], [jax.P(None, "model")]),
}


@pytest.mark.parametrize("made", MADE)
def test_weights_made_before_the_head_are_not_gathered(made):
    make, shapes, specs = MADE[made]
    by_row, of_X, *_ = laid_out("tensor", AxisType.Auto, False)
    places = [jax.NamedSharding(of_X.mesh, spec) for spec in specs]
    X, t = jax.device_put(jnp.ones((2048, 8)), of_X), jax.device_put(jnp.zeros(2048, jnp.int32), by_row)
    given = [jax.device_put(jnp.ones(shape), place) for shape, place in zip(shapes, places, strict=True)]

    def loss(X, given, t):
        return linear_cross_entropy(X, make(*given), t, recompute=True, block_size=1024)

    step = jax.jit(jax.grad(loss, argnums=(0, 1)), out_shardings=(of_X, places))
    found = collectives(spread_by_the_compiler(step, X, given, t), X, given, t)
    assert {kind for kind, _ in found} == {"all-reduce"}


def program_for_tpus(function, *arguments):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize(
    ("of_W", "shape", "dtype"),
    [
        (((8, 64, 128), jax.P()), (16, 32), "int32"),
        (((8, 64, 128), jax.P()), (512, 8), "float32"),
        (((8192, 8), jax.P(None, "data")), (512, 8), "float32"),
    ],
    ids=["ids", "rows", "features"],
)
def test_ids_and_rows_and_features_over_devices_make_no_parts_of_classes(of_W, shape, dtype):
    of_X = laid_out("data", AxisType.Auto, False)[1]
    rows = jax.ShapeDtypeStruct(shape, dtype, sharding=of_X)
    given = jax.ShapeDtypeStruct(of_W[0], "float32", sharding=jax.NamedSharding(of_X.mesh, of_W[1]))

    def loss(given, rows):
        W = given.T if given.ndim == 2 else given.reshape(8, 8192)
        X, t = (rows, jnp.zeros(512, jnp.int32)) if dtype == "float32" else (jnp.ones((512, 8)), rows.reshape(-1))
        return linear_cross_entropy(X, W, t, recompute=True, block_size=1024)

    assert "tensor<8x1x8192xf32>" in program_for_tpus(jax.grad(loss), given, rows)


@pytest.mark.parametrize(("layout", "one_block"), [("data", False), ("tensor", True)])
def test_the_few_classes_of_each_device_are_one_block(layout, one_block):
    by_row, of_X, of_W, _ = laid_out(layout, AxisType.Auto, False)
    shapes = ((16384, 2048), "bfloat16", of_X), ((2048, 32768), "bfloat16", of_W), ((16384,), "int32", by_row)
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=place) for shape, dtype, place in shapes]
    gradient = jax.grad(functools.partial(linear_cross_entropy, recompute=True), argnums=(0, 1))
    assert ("tensor<16384x32768xf32>" in program_for_tpus(gradient, *arguments)) == one_block


@pytest.mark.parametrize(
    ("layout", "N", "large"),
    [
        ("tensor", 2048, "all-reduce"),
        ("fully sharded along C", 2048, "all-gather all-reduce"),
        ("sequence and tensor", 8192, "all-gather all-reduce"),
        # In a block of classes W is less.
        ("fully sharded along C", 16384, ""),
        ("C over both", 2048, ""),
    ],
)
def test_fewer_rows_than_classes_are_gathered_once_and_their_gradient_is_summed_once(layout, N, large):
    sequences = layout == "sequence and tensor"
    by_row, of_X, of_W, _ = laid_out(layout, AxisType.Auto, sequences)
    batch = (2, N // 2) if sequences else (N,)
    shapes = ((*batch, 8), "float32", of_X), ((8, 8192), "float32", of_W), (batch, "int32", by_row)
    placed = [jax.device_put(jnp.ones(shape, dtype), place) for shape, dtype, place in shapes]

    def loss(X, W, t):
        return linear_cross_entropy(X, W, t, recompute=True, block_size=1024)

    step = jax.jit(jax.grad(loss, argnums=(0, 1)), out_shardings=(of_X, of_W))
    found = collectives(spread_by_the_compiler(step, *placed), *placed)
    assert sorted(kind for kind, shape in found if elements(shape) > 8 * 1024) == large.split()


@pytest.mark.parametrize(
    ("of_W", "of_moments", "gathered"),
    [(jax.P(None, ("data", "model")), jax.P(None, ("data", "model")), True), (jax.P(), jax.P(None, "data"), False)],
    ids=["one device", "moments"],
)
def test_rows_are_gathered_only_where_it_is_certain_how_weights_lie(of_W, of_moments, gathered):
    mesh = jax.make_mesh((8, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    shapes = ((2048, 8), jax.P("data")), ((8, 8192), of_W), ((8, 8192), of_moments)
    given = [jax.ShapeDtypeStruct(shape, "float32", sharding=jax.NamedSharding(mesh, spec)) for shape, spec in shapes]

    def step(X, W, moments):
        return moments + jax.grad(linear_cross_entropy, argnums=1)(X, W, jnp.zeros(2048, jnp.int32), recompute=True)

    assert ('replicated={"data"}' in program_for_tpus(step, *given)) == gathered


def test_distributions_over_classes_stay_where_they_are():
    _, of_X, of_W, _ = laid_out("tensor", AxisType.Auto, False)
    shapes = ((16, 8), of_X), ((8, 8192), of_W), ((16, 8192), of_W)
    placed = [jax.device_put(jnp.full(shape, 1 / 8192), place) for shape, place in shapes]
    step = jax.jit(jax.grad(functools.partial(linear_cross_entropy, recompute=True, block_size=1024)))
    found = collectives(spread_by_the_compiler(step, *placed), *placed)
    assert {kind for kind, _ in found} == {"all-reduce"}


@pytest.mark.parametrize("recompute", [False, True])
def test_of_the_value_alone_and_its_tangents_no_row_of_data_travels_either(recompute):
    X, W, t, *_ = cast("float32", *oracles_head.problem(2048, 8, 8192)[:3])
    by_row, of_X, of_W, _ = laid_out("data", AxisType.Auto, False)
    placed = jax.device_put(X, of_X), jax.device_put(W, of_W), jax.device_put(t, by_row)

    def value_and_tangents(X, W, t):
        def of(X):
            return linear_cross_entropy(X, W, t, recompute=recompute)

        def rows(X):
            return linear_cross_entropy(X, W, t, recompute=recompute, reduction="none")

        return of(X), jax.jvp(rows, (X,), (jnp.cos(X),))[1]

    found = collectives(spread_by_the_compiler(value_and_tangents, *placed), *placed)
    assert {kind for kind, _ in found} == {"all-reduce"}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("targets", ["labels", "distributions"])
def test_blocks_with_a_piece_of_each_part_are_the_whole(targets, transposed, x64):
    X, W, t, bias, w, k = cast("float64", *problem(False, targets))
    settings = {"label_smoothing": 0.1, "z_loss": 0.02, "block_size": 6, "recompute": True, "transposed": transposed}
    if targets == "labels":
        t, settings["ignore_index"] = t.at[3].set(-100), -100
    by_row, of_X, of_W, by_class = laid_out("fully sharded and tensor", AxisType.Auto, False, transposed)
    of_t = jax.NamedSharding(of_X.mesh, jax.P(*by_row.spec, *by_class.spec)) if targets == "distributions" else by_row
    given = X, W.T if transposed else W, t, bias, w, k
    places = of_X, of_W, of_t, by_class, by_row, by_class

    def value(X, W, t, bias, w, k):
        loss, statistics = linear_cross_entropy(
            X, W, t, bias=bias, weights=w, class_weights=k, with_stats=True, **settings
        )
        return loss + jnp.sum(statistics.entropy * w), statistics

    def results(*given):
        return value(*given), jax.grad(lambda *given: value(*given)[0], argnums=(0, 1, 3, 4))(*given)

    placed = [jax.device_put(array, place) for array, place in zip(given, places, strict=True)]
    assert_close(spread_by_the_compiler(results, *placed)(*placed), jax.jit(results)(*given), "float64", factor=20)


def test_blocks_with_a_piece_of_each_part_have_that_of_a_teacher_too(x64):
    X, W, *_ = cast("float64", *problem(False))
    teacher_X, teacher_W, *_ = cast("float64", *problem(False, seed=1)[:2])
    _, of_X, of_W, _ = laid_out("fully sharded and tensor", AxisType.Auto, False)

    def of(X, W, teacher_X, teacher_W):
        return linear_distillation(X, W, teacher_X, teacher_W, temperature=2.0, recompute=True, block_size=6)

    gradient = jax.value_and_grad(of, argnums=(0, 1))
    given = X, W, teacher_X, teacher_W
    placed = [jax.device_put(array, place) for array, place in zip(given, 2 * (of_X, of_W), strict=True)]
    assert_close(spread_by_the_compiler(gradient, *placed)(*placed), gradient(*given), "float64", factor=20)


@pytest.mark.parametrize("value", [100.0, np.nan])
def test_of_classes_alike_the_first_is_the_prediction_though_a_later_block_has_it(value, monkeypatch):
    X, W, t, *_ = cast("float32", *problem(False))
    W = W.at[:, 5].set(W[:, 8])
    bias = jnp.zeros(C).at[jnp.array([5, 8])].set(value)  # of parts of four classes the second of one, the first of one
    by_row, of_X, of_W, by_class = laid_out("data", AxisType.Auto, False)
    monkeypatch.setattr(spread, "parts_of_arguments", lambda *_, **__: lowering.Parts(4))

    def prediction(X, W, t, bias):
        settings = {"with_stats": True, "recompute": True, "block_size": 4}
        return jax.grad(lambda X: linear_cross_entropy(X, W, t, bias=bias, **settings), has_aux=True)(X)[1].prediction

    given = zip((X, W, t, bias), (of_X, of_W, by_row, by_class), strict=True)
    placed = [jax.device_put(array, place) for array, place in given]
    np.testing.assert_array_equal(spread_by_the_compiler(prediction, *placed)(*placed), 5)
