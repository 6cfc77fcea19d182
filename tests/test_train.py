"""Gradient descent: what a step does, what an epoch goes over, what comes back."""

import re
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import handgrad
import oracles
from handgrad import Params


def data(num_rows=50, **kwargs):
    _, _, X, t, w = oracles.problem(num_rows, 4, 3, **kwargs)
    return X, t, w


@pytest.mark.parametrize("targets", ["labels", "distributions"])
@pytest.mark.parametrize("weights", [None, "floating"])
def test_full_batch_training_repeats_the_update_of_the_post(targets, weights, dtype):
    X, t, w = data(targets=targets, weights=weights, dtype=dtype)
    params = handgrad.init_params(4, 3)
    for _ in range(10):
        params = handgrad.sgd_step(params, handgrad.gradient(params, X, t, w), 0.3)
    result = handgrad.train(X, t, weights=w, learning_rate=0.3, batch_size=None, epochs=10)
    chex.assert_trees_all_close(result.params, params, atol=oracles.TOLERANCE[dtype])
    assert result.params.W.dtype == dtype


def test_two_hundred_explicit_steps_equal_optax_sgd(dtype):
    X, t, _ = data(400, dtype=dtype)
    settings = {"batch_size": 20, "epochs": 10, "key": jax.random.key(3)}
    by_hand = handgrad.train(X, t, learning_rate=0.1, **settings).params
    by_optax = handgrad.train(X, t, optimizer=optax.sgd(0.1), **settings).params
    # W − η·dW and W + (−η·dW) are the same number; XLA may contract either into a fused multiply-add, 1 ulp a step.
    chex.assert_trees_all_close(by_hand, by_optax, rtol=0, atol=200 * np.finfo(dtype).eps / 8)


def test_an_epoch_uses_every_row_once_also_those_of_the_last_short_batch():
    # With rows that do not share a feature, the gradient by a batch shows which rows it holds: one step per epoch row.
    X = np.eye(10, dtype=np.float32)
    t = np.zeros(10, np.int32)
    result = handgrad.train(X, t, num_classes=2, batch_size=4, epochs=1, learning_rate=1e-3)
    moved = np.asarray(result.params.W[:, 0])
    # The rows of the two whole batches have weight 1/4, those of the last batch 1/2.
    np.testing.assert_allclose(np.sort(moved), 1e-3 * np.sort([0.5 / 4] * 8 + [0.5 / 2] * 2), rtol=1e-3)


def test_each_epoch_draws_its_batches_anew():
    X = np.eye(6, dtype=np.float32)
    orders = []
    result = None
    for epochs in (1, 2):
        previous = np.zeros((6, 2)) if result is None else np.asarray(result.params.W)
        result = handgrad.train(
            X, np.zeros(6, np.int32), num_classes=2, batch_size=1, epochs=epochs, learning_rate=1e-1
        )
        orders.append(np.argsort(np.asarray(result.params.W)[:, 0] - previous[:, 0]))
    assert not np.array_equal(*orders)


def test_the_same_key_gives_the_same_result_and_another_key_another():
    X, t, _ = data(dtype="float32")
    first, again, other = (handgrad.train(X, t, batch_size=8, epochs=2, key=jax.random.key(seed)) for seed in (1, 1, 2))
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(first.params.W, other.params.W)


def test_penalty_shrinks_the_weights_and_not_the_bias(dtype):
    X, t, _ = data(dtype=dtype)
    params = Params(*oracles.problem(1, 4, 3, seed=5, dtype=dtype)[:2])
    gradient = handgrad.gradient(params, X, t)
    stepped = handgrad.train(X, t, params=params, l2=0.7, learning_rate=0.1, batch_size=None, epochs=1).params
    expected = Params(W=params.W - 0.1 * (gradient.W + 0.7 * params.W), b=params.b - 0.1 * gradient.b)
    chex.assert_trees_all_close(stepped, expected, atol=oracles.TOLERANCE[dtype])


def test_history_holds_the_losses_and_the_validation():
    X, t, _ = data(dtype="float32")
    validation = (X[:20], t[:20])
    result = handgrad.train(X, t, validation=validation, batch_size=None, epochs=3)
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    np.testing.assert_allclose(result.history[0].loss, np.log(3), rtol=1e-6)
    np.testing.assert_allclose(result.history[-1].validation_loss, handgrad.loss(result.params, *validation), rtol=1e-6)
    accuracy = np.mean(handgrad.predict(result.params, X[:20]) == t[:20])
    np.testing.assert_allclose(result.history[-1].validation_accuracy, accuracy, rtol=1e-6)
    assert handgrad.train(X, t, epochs=1).history[0][2:] == (None, None)


def test_the_loss_of_an_epoch_is_the_mean_over_its_rows():
    # With learning rate 0 every batch sees the same parameters, also the short one.
    X, t, _ = data(50, dtype="float32")
    params = Params(*oracles.problem(1, 4, 3, seed=5, dtype="float32")[:2])
    result = handgrad.train(X, t, params=params, learning_rate=0.0, batch_size=16, epochs=1)
    np.testing.assert_allclose(result.history[0].loss, handgrad.loss(params, X, t), rtol=1e-6)


def test_validation_may_have_distributions():
    X, T, _ = data(targets="distributions", dtype="float32")
    result = handgrad.train(X, T, validation=(X, T), epochs=1)
    expected = np.mean(np.argmax(T, axis=1) == handgrad.predict(result.params, X))
    np.testing.assert_allclose(result.history[0].validation_accuracy, expected, rtol=1e-6)


def test_the_callback_may_keep_the_parameters_and_end_the_training():
    X, t, _ = data(dtype="float32")
    kept = []

    def callback(params, epoch):
        kept.append((params, epoch.epoch))
        return epoch.epoch == 3

    result = handgrad.train(X, t, epochs=10, callback=callback)
    assert [epoch for _, epoch in kept] == [1, 2, 3]
    assert len(result.history) == 3
    chex.assert_trees_all_equal(kept[-1][0], result.params)
    assert np.isfinite(kept[0][0].W).all()
    assert not np.array_equal(kept[0][0].W, kept[-1][0].W)


def test_training_leaves_the_callers_parameters_alone():
    X, t, _ = data(dtype="float32")
    params = handgrad.init_params(4, 3, key=jax.random.key(0))
    before = np.array(params.W)
    handgrad.train(X, t, params=params, epochs=2)
    np.testing.assert_array_equal(params.W, before)


LBFGS = optax.lbfgs()


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.5, momentum=0.9)),
        optax.contrib.schedule_free_sgd(0.5),
        LBFGS,
    ],
    ids=["adam", "chain", "state that holds the parameters", "one that asks for the objective"],
)
def test_any_optax_transformation_lowers_the_loss(optimizer):
    X, t, _ = data(300, dtype="float32")
    # The line search of L-BFGS needs a loss that is the same at each step.
    batch_size = 128 if optimizer is not LBFGS else None
    history = handgrad.train(X, t, optimizer=optimizer, epochs=15, batch_size=batch_size).history
    assert history[-1].loss < history[0].loss < 1.2


def test_a_batch_larger_than_the_data_is_all_of_the_data():
    X, t, _ = data(dtype="float32")
    chex.assert_trees_all_equal(
        handgrad.train(X, t, batch_size=51, epochs=2), handgrad.train(X, t, batch_size=None, epochs=2)
    )


def test_double_precision_data_train_in_float32_unless_it_is_enabled():
    X, t, _ = data()
    assert X.dtype == np.float64
    assert handgrad.train(X, t, epochs=1).params.W.dtype == np.float32


def test_divergence_warns_and_ends_the_training():
    X, t, _ = data(dtype="float32")
    with pytest.warns(RuntimeWarning, match=r"in epoch \d+.* and training ended there. Try a smaller learning rate"):
        result = handgrad.train(X * 1e20, t, learning_rate=1e30, epochs=50)
    assert len(result.history) < 50


X, t, w = data(20, weights="floating", dtype="float32")
with_nan = np.where(np.arange(20)[:, None] == 7, np.float32(np.nan), X)
CASES = {
    "no rows": (lambda: handgrad.train(X[:0], t[:0]), "train: X must not be empty; got shape (0, 4) for (N, P)."),
    "a NaN": (lambda: handgrad.train(with_nan, t), "train: X must be finite; row 7 has a NaN or an infinity."),
    "a label too large": (
        lambda: handgrad.train(X, t, num_classes=2),
        f"train: labels must be integers in [0, 2) for logits (20, 2); got 2 at row {np.argmax(t == 2)}.",
    ),
    "a negative label": (lambda: handgrad.train(X, t - 1), "train: labels must be integers in [0, 2)"),
    "a negative weight": (
        lambda: handgrad.train(X, t, weights=-w),
        "train: weights must be finite and non-negative; got",
    ),
    "two learning rates": (
        lambda: handgrad.train(X, t, optimizer=optax.sgd(1.0), learning_rate=0.1),
        "train: an optimizer has its own learning rate; got both an optimizer and learning_rate=0.1.",
    ),
    "no optimizer": (
        lambda: handgrad.train(X, t, optimizer="adam"),
        "train: optimizer must be an optax.GradientTransformation; got 'adam'.",
    ),
    "a batch of nothing": (
        lambda: handgrad.train(X, t, batch_size=0),
        "train: batch_size must be a positive integer; got 0.",
    ),
    "no epochs": (lambda: handgrad.train(X, t, epochs=0), "train: epochs must be a positive integer; got 0."),
    "a negative penalty": (
        lambda: handgrad.train(X, t, l2=-1),
        "train: l2 must be a finite number, 0 or more; got -1.",
    ),
    "params for other data": (
        lambda: handgrad.train(X, t, params=handgrad.init_params(5, 3)),
        "train: X must have P = 5 columns for W (5, 3); got (20, 4).",
    ),
    "params for other classes": (
        lambda: handgrad.train(X, t, params=handgrad.init_params(4, 3), num_classes=4),
        "train: num_classes must be that of params, 3, or None; got 4.",
    ),
    "patience without rows to watch": (
        lambda: handgrad.train(X, t, patience=3),
        "train: patience needs rows to tell the best epoch by; got none. Pass validation=(X, targets).",
    ),
    "no patience": (
        lambda: handgrad.train(X, t, validation=(X, t), patience=0),
        "train: patience must be a positive integer; got 0.",
    ),
    "a schedule that goes below 0": (
        lambda: handgrad.train(
            X, t, learning_rate=lambda step: 0.15 - 0.1 * step.astype(float), batch_size=10, epochs=2
        ),
        "train: learning_rate must give finite numbers, 0 or more, at every step; got -0.05 at step 2.",
    ),
    "a class weight too many": (
        lambda: handgrad.train(X, t, class_weights=[1.0] * 4),
        "train: class_weights must be 3 finite non-negative numbers, or a dictionary from class",
    ),
    "a negative weight to validate": (
        lambda: handgrad.train(X, t, validation=(X, t, -w)),
        "train (validation): weights must be finite and non-negative; got",
    ),
    "features that are too large for any learning rate": (
        lambda: handgrad.train(X * np.float32(1e25), t),
        "train: no learning rate of float32 suits features as large as",
    ),
    "validation of other features": (
        lambda: handgrad.train(X, t, validation=(X[:, :2], t)),
        "train (validation): X must have P = 4 columns for W (4, 3); got (20, 2).",
    ),
    "validation without targets": (
        lambda: handgrad.train(X, t, validation=(X,)),
        "train: validation must be a pair (X, targets), or (X, targets, weights); got a tuple of 1.",
    ),
}


@pytest.mark.messages
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_anything_is_computed(case):
    call, message = CASES[case]
    with warnings.catch_warnings(), pytest.raises((ValueError, TypeError), match="^" + re.escape(message)):
        call()


def test_random_parameters_have_the_scale_asked_for():
    params = handgrad.init_params(400, 50, key=jax.random.key(0))
    np.testing.assert_allclose(np.std(params.W), 1 / 20, rtol=0.03)
    assert not np.any(params.b)
    params = handgrad.init_params(400, 50, key=jax.random.key(0), scale=3, dtype=jnp.bfloat16)
    np.testing.assert_allclose(np.std(np.asarray(params.W, np.float32)), 3, rtol=0.03)
    assert {params.W.dtype, params.b.dtype} == {jnp.dtype(jnp.bfloat16)}
    assert not np.any(handgrad.init_params(4, 5).W)


def test_the_loss_of_an_epoch_weighs_its_batches_by_the_weights_of_their_rows(dtype):
    X, t, w = data(23, weights="floating", dtype=dtype)
    still = handgrad.train(X, t, weights=w, batch_size=5, epochs=1, learning_rate=0.0)
    np.testing.assert_allclose(still.history[0].loss, handgrad.loss(still.params, X, t, w), rtol=1e-5)


def test_every_batch_is_trained_with_its_weights(dtype):
    X, t, w = data(20, weights="floating", dtype=dtype)
    w = np.where(np.arange(20) < 10, 0, w).astype(dtype)
    changed = np.where(np.arange(20) < 10, 1 - t, t).astype(t.dtype)
    settings = {"weights": w, "batch_size": 5, "epochs": 2, "num_classes": int(t.max()) + 1}
    chex.assert_trees_all_equal(
        handgrad.train(X, t, **settings).params, handgrad.train(X, np.abs(changed), **settings).params
    )


def test_the_penalty_reaches_an_optimizer_too(dtype):
    X, t, _ = data(20, dtype=dtype)
    by_hand = handgrad.train(X, t, learning_rate=0.3, l2=0.1, batch_size=None, epochs=3).params
    by_optax = handgrad.train(X, t, optimizer=optax.sgd(0.3), l2=0.1, batch_size=None, epochs=3).params
    chex.assert_trees_all_close(by_hand, by_optax, rtol=1e-5)


def test_validation_labels_are_checked():
    X, t, _ = data(20)
    with pytest.raises(ValueError, match=r"train \(validation\): labels must be integers"):
        handgrad.train(X, t, validation=(X, t + 100))


def test_only_true_ends_the_training():
    X, t, _ = data(20)
    assert len(handgrad.train(X, t, epochs=3, callback=lambda *_: "seen").history) == 3
    assert len(handgrad.train(X, t, epochs=3, callback=lambda *_: np.True_).history) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 7, None])
def test_batches_of_any_size_have_the_weighted_optimum(batch_size):
    # Without features there are only the class shares to learn, here weighted ones: .1 and .9.
    t = np.arange(10) % 2
    shares = []
    handgrad.train(
        np.zeros((10, 1), np.float32),
        t,
        weights=np.where(t == 1, 9, 1),
        batch_size=batch_size,
        learning_rate=0.1 if batch_size else 1.0,
        epochs=600,
        callback=lambda params, _: shares.append(1 / (1 + np.exp(np.subtract(*np.asarray(params.b)[0])))),
    )
    np.testing.assert_allclose(np.mean(shares[200:]), 0.9, atol=0.01)


def test_an_optimizer_that_asks_for_the_objective_gets_that_of_its_weighted_batch():
    X, t, w = data(20, weights="floating", dtype="float32")
    asked = []

    def update(updates, state, params, *, value, grad, value_fn):
        jax.debug.callback(lambda value, again: asked.append((float(value), float(again))), value, value_fn(params))
        return jax.tree.map(jnp.zeros_like, updates), state

    optimizer = optax.GradientTransformationExtraArgs(lambda _: (), update)
    result = handgrad.train(X, t, weights=w, optimizer=optimizer, batch_size=5, epochs=1)
    jax.effects_barrier()
    values = np.array(asked)
    np.testing.assert_allclose(values[:, 0], values[:, 1], rtol=1e-6)
    np.testing.assert_allclose(values[:, 0].mean(), result.history[0].loss, rtol=1e-6)


@pytest.mark.parametrize("answer", [True, np.True_, np.array(True), jnp.array(True)], ids=repr)
def test_true_of_any_library_ends_the_training(answer):
    X, t, _ = data(20)
    assert len(handgrad.train(X, t, epochs=3, callback=lambda *_: answer).history) == 1


@pytest.mark.parametrize("answer", [1, 0.5, "seen", np.array([True]), ..., False, jnp.array(False)], ids=repr)
def test_no_other_answer_of_a_callback_ends_it(answer):
    X, t, _ = data(20)
    assert len(handgrad.train(X, t, epochs=3, callback=lambda *_: answer).history) == 3


@pytest.mark.messages
def test_a_callback_must_be_callable():
    X, t, _ = data(20)
    with pytest.raises(TypeError, match="train: callback must be a function"):
        handgrad.train(X, t, callback=True)


@pytest.mark.parametrize("narrow", ["float16", "bfloat16"])
def test_narrow_data_train_with_weights(narrow):
    X, t, w = data(50, weights="floating", dtype="float32")
    result = handgrad.train(jnp.asarray(X, narrow), t, weights=w, epochs=5, batch_size=16)
    assert result.params.W.dtype == narrow
    assert result.history[-1].loss < result.history[0].loss


def test_a_row_predicted_nan_is_no_hit():
    # The learning rate throws the parameters out of range: every probability is NaN, and accuracy 0.
    X, t, _ = data(20, dtype="float32")
    with pytest.warns(RuntimeWarning, match="training ended there"):
        result = handgrad.train(X * 1e20, t * 0, num_classes=3, learning_rate=1e30, validation=(X * 1e20, t * 0))
    assert result.history[-1].validation_accuracy == 0


def test_class_weights_weigh_distributions_by_their_shares():
    """Of rows that sum to a little more than 1 as of rows that sum to 1."""
    random = np.random.default_rng(0)
    X, T = random.normal(size=(12, 4)), random.dirichlet(np.ones(3), 12)
    losses = [
        handgrad.train(X, T * scale, class_weights=[1.0, 2.0, 0.5], batch_size=None, epochs=1).params.W
        for scale in (1.0, np.linspace(1, 1.0009, 12)[:, None])
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-6)
