"""How people train: each recipe over eight devices gives what the plain form gives on one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

from handgrad import linear_cross_entropy, linear_distillation

B, S, P, C = 8, 4, 16, 32


def given():
    keys = jax.random.split(jax.random.key(0), 4)
    params = {
        "hidden": jax.random.normal(keys[0], (P, P)) / 4,
        "W": jax.random.normal(keys[1], (P, C)) / 4,
    }
    X = jax.random.normal(keys[2], (B, S, P))
    t = jax.random.randint(keys[3], (B, S), 0, C).at[:, -1].set(-100)
    return params, X, t


def count(t):
    return jnp.sum(t >= 0, dtype=jnp.float32)


def model(params, X):
    return jnp.tanh(X @ params["hidden"])


def plain(params, X, t):
    losses = optax.softmax_cross_entropy_with_integer_labels(model(params, X) @ params["W"], jnp.maximum(t, 0))
    return jnp.sum(jnp.where(t >= 0, losses, 0)) / count(t)


def head(params, X, t, **settings):
    return linear_cross_entropy(model(params, X), params["W"], t, ignore_index=-100, **settings)


def mesh_of(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def placed(tree, mesh, spec):
    return jax.device_put(tree, jax.NamedSharding(mesh, spec))


def by_row(mesh, *arrays):
    return [placed(array, mesh, jax.P("data")) for array in arrays]


def assert_alike(actual, expected):
    chex.assert_trees_all_close(jax.device_get(actual), jax.device_get(expected), rtol=2e-5, atol=2e-6)


def sgd(params, gradients):
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, gradients)


def test_gradients_accumulated_by_optax_are_those_of_the_whole_batch():
    params, X, t = given()
    mesh = mesh_of(data=8)
    optimizer = optax.MultiSteps(optax.sgd(0.5), every_k_schedule=2)

    @jax.jit
    def step(params, state, X, t):
        updates, state = optimizer.update(jax.grad(head)(params, X, t), state, params)
        return optax.apply_updates(params, updates), state

    trained, state = params, optimizer.init(params)
    # Each half of the sequences over all devices.
    for half in (slice(0, S // 2), slice(S // 2, S)):
        with jax.numpy_dtype_promotion("standard"):  # for optax
            trained, state = step(trained, state, *by_row(mesh, X[:, half], t[:, half]))
    halves = [jax.grad(plain)(params, X[:, half], t[:, half]) for half in (slice(0, S // 2), slice(S // 2, S))]
    assert_alike(trained, sgd(params, jax.tree.map(lambda a, b: (a + b) / 2, *halves)))


@pytest.mark.parametrize("recompute", [False, True])
def test_a_checkpointed_loss(recompute):
    params, X, t = given()
    loss = jax.checkpoint(functools.partial(head, recompute=recompute))
    actual = jax.jit(jax.value_and_grad(loss))(params, *by_row(mesh_of(data=8), X, t))
    assert_alike(actual, jax.value_and_grad(plain)(params, X, t))


def test_a_scan_over_microbatches_with_a_sum_over_all_of_them():
    params, X, t = given()
    mesh = mesh_of(data=2, model=4)

    @jax.jit
    def gradients(params, X, t):
        def add(total, batch):
            part = jax.value_and_grad(functools.partial(head, reduction="sum"))(params, *batch)
            return jax.tree.map(jnp.add, total, part), None

        zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
        total, _ = jax.lax.scan(add, zero, (X, t))
        return jax.tree.map(lambda array: array / count(t), total)

    rows = jax.P(None, "data")
    batches = placed(X.reshape(4, 2, S, P), mesh, rows), placed(t.reshape(4, 2, S), mesh, rows)
    spread = {"hidden": placed(params["hidden"], mesh, jax.P()), "W": placed(params["W"], mesh, jax.P(None, "model"))}
    assert_alike(gradients(spread, *batches), jax.value_and_grad(plain)(params, X, t))


def test_a_step_with_donated_parameters_that_are_fully_sharded_and_by_class():
    params, X, t = given()
    mesh = mesh_of(data=2, model=4)
    specs = {"hidden": jax.P("data", "model"), "W": jax.P("data", "model")}
    places = {name: jax.NamedSharding(mesh, spec) for name, spec in specs.items()}

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=(places, None))
    def step(params, X, t):
        value, gradients = jax.value_and_grad(head)(params, X, t)
        return sgd(params, gradients), value

    rows = by_row(mesh, X, t)
    expected, trained = params, jax.device_put(params, places)
    for _ in range(3):
        before = trained
        trained, value = step(trained, *rows)
        expected_value, gradients = jax.value_and_grad(plain)(expected, X, t)
        expected = sgd(expected, gradients)
        np.testing.assert_allclose(value, expected_value, rtol=1e-5)
        assert before["W"].is_deleted()
    assert_alike(trained, expected)
    assert trained["W"].sharding == places["W"]


@pytest.mark.parametrize("recompute", [False, True])
def test_embeddings_that_are_the_head_as_well(recompute):
    _, _, t = given()
    E = jax.random.normal(jax.random.key(4), (C, P)) / 4
    words = jnp.maximum(jnp.roll(t, 1, axis=1), 0)
    mesh = mesh_of(data=2, model=4)

    def tied(E, words, t):
        X = jnp.tanh(E[words])
        return linear_cross_entropy(X, E, t, ignore_index=-100, transposed=True, recompute=recompute)

    def expected(E, words, t):
        losses = optax.softmax_cross_entropy_with_integer_labels(jnp.tanh(E[words]) @ E.T, jnp.maximum(t, 0))
        return jnp.sum(jnp.where(t >= 0, losses, 0)) / count(t)

    actual = jax.jit(jax.value_and_grad(tied))(placed(E, mesh, jax.P("model", None)), *by_row(mesh, words, t))
    assert_alike(actual, jax.value_and_grad(expected)(E, words, t))


def test_a_student_that_learns_from_a_teacher_over_devices():
    params, X, t = given()
    teacher, _, _ = given()
    teacher = jax.tree.map(jnp.sin, teacher)
    mesh = mesh_of(data=4, model=2)

    def loss(params, X, t):
        return linear_distillation(
            model(params, X),
            params["W"],
            model(teacher, X),
            teacher["W"],
            targets=t,
            label_share=0.5,
            ignore_index=-100,
            temperature=2.0,
        )

    def expected(params, X, t):
        log_U = jax.nn.log_softmax(model(teacher, X) @ teacher["W"] / 2)
        Z = model(params, X) @ params["W"]
        divergence = jnp.sum(jnp.exp(log_U) * (log_U - jax.nn.log_softmax(Z / 2)), axis=-1)
        losses = 2 * divergence + 0.5 * optax.softmax_cross_entropy_with_integer_labels(Z, jnp.maximum(t, 0))
        return jnp.sum(jnp.where(t >= 0, losses, 0)) / count(t)

    spread = {"hidden": placed(params["hidden"], mesh, jax.P()), "W": placed(params["W"], mesh, jax.P(None, "model"))}
    actual = jax.jit(jax.value_and_grad(loss))(spread, *by_row(mesh, X, t))
    assert_alike(actual, jax.value_and_grad(expected)(params, X, t))


def test_a_model_of_flax_nnx():
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.hidden = nnx.Linear(P, P, rngs=rngs)
            self.head = nnx.Linear(P, C, rngs=rngs)

        def __call__(self, X):
            return jnp.tanh(self.hidden(X))

    _, X, t = given()
    mesh = mesh_of(data=8)

    @nnx.jit
    def step(model, optimizer, X, t):
        def loss(model):
            return linear_cross_entropy(
                model(X), model.head.kernel[...], t, bias=model.head.bias[...], ignore_index=-100
            )

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    def logits_loss(model, X, t):
        losses = optax.softmax_cross_entropy_with_integer_labels(model.head(model(X)), jnp.maximum(t, 0))
        return jnp.sum(jnp.where(t >= 0, losses, 0)) / count(t)

    ours, theirs = Model(nnx.Rngs(0)), Model(nnx.Rngs(0))
    optimizers = [nnx.Optimizer(each, optax.sgd(0.5), wrt=nnx.Param) for each in (ours, theirs)]
    for _ in range(2):
        value = step(ours, optimizers[0], *by_row(mesh, X, t))
        expected, gradients = nnx.value_and_grad(logits_loss)(theirs, X, t)
        optimizers[1].update(theirs, gradients)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_alike(nnx.to_pure_dict(nnx.state(ours)), nnx.to_pure_dict(nnx.state(theirs)))
