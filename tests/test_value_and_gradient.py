"""`handgrad.value_and_gradient` of a softmax regression: by the sweep on one CPU, by the formula elsewhere."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import grids
import handgrad
import oracles
from handgrad import Layer, Params, formulas, layer_sweep

BY_AUTOGRAD = jax.jit(jax.value_and_grad(oracles.jax_loss))


@pytest.fixture
def blocks_of_four(monkeypatch):
    monkeypatch.setattr(layer_sweep, "_block_rows", lambda *_: 4)


def compiled():
    """The function that `handgrad.value_and_gradient` compiles, with a cache of its own."""
    return jax.jit(lambda *arguments: layer_sweep.value_and_gradient(*arguments))


def arguments_of(shape, dtype, **kinds):
    W, b, X, targets, weights = oracles.problem(*shape, dtype="float64" if dtype == "float64" else "float32", **kinds)
    narrow = functools.partial(jax.tree.map, lambda a: jnp.asarray(a, dtype if a.dtype.kind == "f" else a.dtype))
    return narrow((Params(W, b), X, targets, weights))


def assert_close(actual, expected, tolerance):
    wide = functools.partial(jax.tree.map, lambda array: np.asarray(array, np.float64))
    chex.assert_trees_all_close(wide(actual), wide(expected), atol=tolerance, rtol=tolerance)


def by_autograd_in_float64(arguments):
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda a: np.asarray(a, np.float64 if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype), arguments
        )
        return jax.device_get(BY_AUTOGRAD(*wide))


def loops(function, *arguments):
    return function.lower(*arguments).as_text().count("stablehlo.while")


# --- The sweep ------------------------------------------------------------------------------------------------------


KINDS = {
    "labels": {},
    "weighted labels": {"weights": "floating"},
    "distributions": {"targets": "distributions"},
    "counted distributions": {"targets": "distributions", "weights": "counts"},
}


# 13 rows are a block of one and three of four; 12 are three whole ones; 4 and 3 are one block. N = P, P = C, N = C. Two
# blocks after the first are taken at once, without a loop.
@pytest.mark.parametrize(
    ("shape", "kinds"),
    grids.product(
        [(13, 3, 5), (12, 5, 5), (4, 4, 4), (3, 2, 1), (5, 5, 3), (5, 3, 5)],
        list(KINDS),
        quick=lambda shape, kinds: (shape, kinds) in {((13, 3, 5), "distributions"), ((4, 4, 4), "weighted labels")},
    ),
    ids=str,
)
def test_blocks_of_rows_give_the_loss_and_what_autograd_makes_of_it(dtype, shape, kinds, blocks_of_four):
    arguments = arguments_of(shape, dtype, **KINDS[kinds])
    function = compiled()
    assert loops(function, *arguments) == (shape[0] > 12)
    value, gradient = function(*arguments)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradient, arguments[0])
    assert_close((value, gradient), by_autograd_in_float64(arguments), oracles.TOLERANCE[dtype])


@pytest.mark.parametrize("narrow", ["float16", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_narrow_rows_are_summed_in_float32(narrow, blocks_of_four):
    arguments = arguments_of((13, 3, 5), narrow, weights="floating")
    value, gradient = compiled()(*arguments)
    assert (value.dtype, gradient.W.dtype, gradient.b.dtype) == (jnp.float32, narrow, narrow)
    assert_close((value, gradient), by_autograd_in_float64(arguments), oracles.TOLERANCE[narrow])
    # Σ over the rows is 81920, beyond float16; their mean is not.
    params = Params(jnp.zeros((1, 2), narrow), jnp.zeros((1, 2), narrow))
    _, gradient = compiled()(params, jnp.full((20, 1), 8192, narrow), jnp.zeros(20, jnp.int32), None)
    np.testing.assert_array_equal(gradient.W, np.array([[-4096, 4096]], gradient.W.dtype))


def test_what_is_in_a_row_of_weight_zero_does_not_count(dtype, blocks_of_four):
    params, X, t, _ = arguments_of((13, 3, 5), dtype)
    uncounted = np.isin(np.arange(13), [0, 2, 9])
    w = np.where(uncounted, 0, 2).astype(dtype)
    spoilt = jnp.where(uncounted[:, None], jnp.asarray([np.nan, np.inf, 1e30], dtype), X)
    function = compiled()
    found = function(params, spoilt, jnp.where(uncounted, 77, t), w)
    expected = formulas.value_and_gradient(params, X[~uncounted], t[~uncounted])
    chex.assert_trees_all_close(found, expected, atol=oracles.TOLERANCE[dtype])
    chex.assert_trees_all_equal(function(params, spoilt, t, 0 * w), jax.tree.map(jnp.zeros_like, found))


def test_what_is_wrong_in_one_row_is_nan_and_a_masked_class_is_not(blocks_of_four):
    params, X, t, w = arguments_of((13, 3, 5), "float32", weights="floating")
    T = jax.nn.one_hot(t, 5)
    function = compiled()
    for targets, weights in ((t.at[7].set(5), w), (t.at[7].set(-1), w), (t, w.at[7].set(-1)), (T.at[7].mul(2), w)):
        assert all(np.isnan(leaf).any() for leaf in jax.tree.leaves(function(params, X, targets, weights)))
    masked = params._replace(b=params.b.at[0, 4].set(-jnp.inf))
    seen = Params(params.W[:, :4], params.b[:, :4])
    value, gradient = function(masked, X, t % 4, w)
    expected, alone = BY_AUTOGRAD(seen, X, t % 4, w)
    chex.assert_trees_all_close((value, gradient.W[:, :4], gradient.b[:, :4]), (expected, *alone), atol=5e-6)
    assert not gradient.W[:, 4].any()


def test_a_network_of_one_layer_is_its_layer_and_deeper_ones_are_not_swept(blocks_of_four):
    params, X, t, _ = arguments_of((13, 3, 5), "float32")
    value, (gradient,) = compiled()((Layer(params, "softmax"),), X, t)
    chex.assert_trees_all_equal((value, gradient.params), compiled()(params, X, t))
    deep = (Layer(Params(jnp.eye(3), jnp.zeros((1, 3))), "tanh"), Layer(params, "softmax"))
    assert loops(compiled(), deep, X, t) == 0
    chex.assert_trees_all_close(compiled()(deep, X, t), formulas.value_and_gradient(deep, X, t), atol=1e-6)


def test_the_public_function_sweeps_large_data_and_holds_no_logits():
    shape = jax.ShapeDtypeStruct
    params = Params(shape((64, 100), "float32"), shape((1, 100), "float32"))
    arguments = (params, shape((100_000, 64), "float32"), shape((100_000,), "int32"))
    assert loops(handgrad.value_and_gradient, *arguments) == 1
    temporary = handgrad.value_and_gradient.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
    assert temporary < 0.3 * 100_000 * 100 * 4


# --- Derivatives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kinds",
    [pytest.param({}, marks=pytest.mark.slow), {"targets": "distributions", "weights": "floating"}],
    ids=["labels", "weighted distributions"],
)
def test_it_is_differentiable_by_everything_and_twice(dtype, kinds, blocks_of_four):
    params, X, targets, w = arguments_of((13, 3, 5), dtype, **kinds)
    direction = jax.tree.map(jnp.cos, params)
    floating = [argument for argument in (X, w) if argument is not None]

    def derivatives(value, gradient):
        def penalised(params):
            return 3 * value(params, *floating) + 0.3 / 2 * jnp.sum(params.W**2)

        return {
            "reverse": jax.grad(penalised)(params),
            "data": jax.grad(value, argnums=tuple(range(1, 1 + len(floating))))(params, *floating),
            "forward": jax.jvp(penalised, (params,), (direction,)),
            "curvature": jax.jvp(lambda params: gradient(params, *floating), (params,), (direction,)),
            "of the gradient": jax.grad(lambda X: jnp.sum(jnp.sin(gradient(params, X, *floating[1:]).W)))(X),
            "lanes": jax.vmap(lambda scale: gradient(jax.tree.map(lambda a: scale * a, params), *floating))(
                jnp.arange(3, dtype=dtype)
            ),
        }

    def ours(part):
        return lambda params, X, w=None: layer_sweep.value_and_gradient(params, X, targets, w)[part]

    def oracle(params, X, w=None):
        return oracles.jax_loss(params, X, targets, w)

    found = jax.jit(lambda: derivatives(ours(0), ours(1)))()
    expected = jax.jit(lambda: derivatives(oracle, jax.grad(oracle)))()
    chex.assert_trees_all_close(found, expected, atol=4 * oracles.TOLERANCE[dtype])


# --- Over devices ---------------------------------------------------------------------------------------------------


def placed(mesh, arguments):
    """The params on every device, the rows of the rest over the devices."""
    params, *rows = arguments
    everywhere, by_rows = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec("rows")))
    return (jax.device_put(params, everywhere), *(None if a is None else jax.device_put(a, by_rows) for a in rows))


# 40 rows are 5 for each device, as many as there are features and classes; of 8 each device has one.
@pytest.mark.parametrize(
    ("shape", "kinds", "kind"),
    grids.product(
        [(40, 5, 5), (8, 8, 8)],
        list(KINDS),
        [AxisType.Auto, AxisType.Explicit],
        quick=lambda shape, kinds, kind: (
            (shape, kinds) == ((40, 5, 5), "labels" if kind == AxisType.Explicit else "weighted labels")
        ),
    ),
    ids=str,
)
def test_rows_that_are_sharded_stay_where_they_are(shape, kinds, kind, blocks_of_four):
    arguments = arguments_of(shape, "float32", **KINDS[kinds])
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(kind,))
    given = placed(mesh, arguments)
    program = compiled().lower(*given).compile()
    assert moved_rows(program) == []
    expected = BY_AUTOGRAD(*arguments)
    chex.assert_trees_all_close(jax.device_get(program(*given)), expected, atol=5e-6)
    curvature = jax.jit(lambda params, *rows: jax.jvp(lambda p: compiled()(p, *rows), (params,), (params,))[1])
    with jax.set_mesh(mesh):
        program = curvature.lower(*given).compile()
    assert moved_rows(program) == []
    expected = jax.jvp(lambda params: BY_AUTOGRAD(params, *arguments[1:]), arguments[:1], arguments[:1])[1]
    chex.assert_trees_all_close(jax.device_get(program(*given)), expected, atol=5e-6)


def moved_rows(program):
    """What travels between devices, apart from sums over them."""
    return re.findall(r"all-gather|all-to-all|collective-permute", program.as_text())


def test_the_public_function_takes_rows_that_are_sharded_with_params_of_numpy():
    W, b, X, t, w = oracles.problem(40, 5, 5, dtype="float32", weights="floating")
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Explicit,))
    _, *rows = placed(mesh, (Params(W, b), X, t, w))
    value, gradient = handgrad.value_and_gradient(Params(W, b), *rows)
    chex.assert_trees_all_close(jax.device_get((value, gradient)), BY_AUTOGRAD(Params(W, b), X, t, w), atol=5e-6)


@pytest.mark.parametrize("checked", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_device_sweeps_its_own_rows_within_shard_map(checked, blocks_of_four):
    arguments = arguments_of((136, 3, 5), "float32")[:3]
    mesh = jax.make_mesh((8,), ("rows",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("rows")

    def local(params, X, t):
        params = jax.lax.pcast(params, "rows", to="varying")
        return jax.lax.pmean(layer_sweep.value_and_gradient(params, X, t), "rows")

    specs = {"in_specs": (PartitionSpec(), rows, rows), "out_specs": PartitionSpec()}
    function = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=checked, **specs))
    assert loops(function, *arguments) == 1
    chex.assert_trees_all_close(function(*arguments), BY_AUTOGRAD(*arguments, None), atol=5e-6)
