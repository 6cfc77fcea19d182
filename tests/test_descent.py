"""What gradient descent decides: its learning rate, which classes count, which epoch is kept."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import handgrad
import oracles
from handgrad.solvers import batches
from handgrad.solvers.step import suitable_rate

EACH = np.array([0.5, 2.0, 1.0])  # weights of three classes


def data(num_rows=50, **kwargs):
    _, _, X, t, w = oracles.problem(num_rows, 4, 3, **kwargs)
    return X, t, w


def expected_rate(X, weights, batch_size, l2):
    """The formula, in float64 with all eigenvalues."""
    N = len(X)
    X = np.append(np.asarray(X, np.float64), np.ones((N, 1)), axis=1)
    w = np.ones(N) if weights is None else weights / weights.mean()
    largest = np.linalg.eigvalsh((X.T * w) @ X / N)[-1]
    squares = w * (X**2).sum(axis=1)
    B = N if batch_size is None else min(batch_size, N)
    share = (N - B) / (B * (N - 1))
    return 1 / (((1 - share) * largest + share * (squares**2).sum() / squares.sum()) / 2 + l2)


# --- The learning rate ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weights", "wide"), [(None, True), ("floating", False)])
def test_the_rate_that_suits_is_one_over_the_curvature(weights, wide):
    with jax.enable_x64(wide):
        _check_rates(weights, "float64" if wide else "float32")


def _check_rates(weights, dtype):
    X, _, w = data(weights=weights, dtype=dtype)
    mean_one = None if w is None else jnp.asarray(w / w.mean())
    for batch_size in (None, 50, 60, 1, 7):
        found = suitable_rate(handgrad.init_params(4, 3), jnp.asarray(X), mean_one, batch_size=batch_size, l2=0.3)
        assert 0.9999 <= found / expected_rate(X, w, batch_size, 0.3) < 1.05  # the largest eigenvalue comes from below


def test_the_curvature_of_a_batch_is_that_of_all_rows_and_that_of_single_ones():
    # E[A_B²] over all batches of two of six rows, against what the module's derivation says of it.
    X = np.random.default_rng(0).normal(size=(6, 3))
    batches = [X[[i, j]] for i in range(6) for j in range(i)]
    mean = np.mean([np.linalg.matrix_power(batch.T @ batch / 2, 2) for batch in batches], axis=0)
    A, share = X.T @ X / 6, (6 - 2) / (2 * (6 - 1))
    rows = (X.T * (X**2).sum(axis=1)) @ X / 6
    np.testing.assert_allclose(mean, (1 - share) * A @ A + share * rows)


def test_training_without_a_rate_takes_the_one_that_suits_with_all_weights():
    X, t, w = data(weights="floating", dtype="float32")
    product = (w * EACH[t]).astype("float32")
    rate = suitable_rate(
        handgrad.init_params(4, 3), jnp.asarray(X), jnp.asarray(product / product.mean()), batch_size=7, l2=0.1
    )
    settings = {"weights": w, "class_weights": EACH, "batch_size": 7, "l2": 0.1, "epochs": 2}
    by_itself, given = (handgrad.train(X, t, learning_rate=each, **settings).params for each in (None, rate))
    chex.assert_trees_all_close(by_itself, given, rtol=1e-4)


def test_the_loss_falls_at_every_step_without_chance_whatever_the_scale():
    X, t, _ = data(dtype="float32")
    for scale in (1e-10, 1.0, 1e15):
        for shift in (0, 3):
            rows = (X * [1, 1e-2, 10, 1] + shift).astype("float32") * np.float32(scale)
            losses = [epoch.loss for epoch in handgrad.train(rows, t, batch_size=None, epochs=20).history]
            assert (np.diff(losses) < 1e-6).all(), (scale, shift)
            assert losses[-1] < losses[0] - 1e-3, (scale, shift)


def test_twice_the_rate_is_the_most_that_does_not_overshoot():
    # At W = 0 and y = (1/2, 1/2) the Hessian has λ/2 itself.
    X, t = np.ones((2, 1), np.float32), np.array([0, 1])
    rate = suitable_rate(handgrad.init_params(1, 2), jnp.asarray(X), None, batch_size=None, l2=0.0)
    assert rate == pytest.approx(1.0)
    params = handgrad.Params(W=jnp.array([[1e-3, -1e-3]]), b=jnp.zeros((1, 2)))
    for factor, comes_nearer in ((1.9, True), (2.1, False)):
        after = handgrad.train(X, t, params=params, learning_rate=factor * rate, batch_size=None, epochs=4).params
        assert (abs(float(after.W[0, 0] + after.b[0, 0])) < 1e-3) is comes_nearer


def test_a_network_has_the_rate_that_is_said_in_the_docstring():
    X, _, _ = data(dtype="float32")
    network = handgrad.init_network(jax.random.key(0), (4, 5, 3), "relu")
    assert suitable_rate(network, jnp.asarray(X), None, batch_size=16, l2=0.0) == 0.1
    assert "0.1 with hidden layers" in " ".join(handgrad.train.__doc__.split())


def test_rows_that_all_weigh_nothing_train_nothing():
    X, t, _ = data(dtype="float32")
    result = handgrad.train(X, t, weights=np.zeros(50), epochs=2)
    assert not np.any(result.params.W)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=pytest.mark.slow), 16])
def test_a_schedule_is_followed_step_by_step(batch_size):
    X, t, _ = data(dtype="float32")
    schedule = optax.cosine_decay_schedule(0.4, 10)
    settings = {"batch_size": batch_size, "epochs": 3}
    by_hand = handgrad.train(X, t, learning_rate=schedule, **settings).params
    by_optax = handgrad.train(X, t, optimizer=optax.sgd(schedule), **settings).params
    chex.assert_trees_all_close(by_hand, by_optax, rtol=0, atol=20 * np.finfo("float32").eps)
    constant = handgrad.train(X, t, learning_rate=0.4, **settings).params
    assert np.abs(constant.W - by_hand.W).max() > 1e-3


def test_a_schedule_that_is_constant_is_that_constant():
    X, t, _ = data(dtype="float32")
    settings = {"batch_size": 16, "epochs": 2}
    chex.assert_trees_all_equal(
        handgrad.train(X, t, learning_rate=lambda _: 0.25, **settings),
        handgrad.train(X, t, learning_rate=0.25, **settings),
    )


def test_no_learning_rate_and_no_schedule_compiles_the_epoch_again():
    X, t, _ = data(dtype="float32")
    handgrad.train(X, t, learning_rate=0.1, epochs=1)
    compiled = batches.run_epoch._cache_size()
    for learning_rate in (0.2, None, lambda step: 0.1 / (1.0 + step.astype(float))):
        handgrad.train(X, t, learning_rate=learning_rate, l2=0.5, epochs=2)
    assert batches.run_epoch._cache_size() == compiled


# --- Class weights ----------------------------------------------------------------------------------------------------


def test_class_weights_multiply_those_of_the_rows():
    X, t, w = data(weights="floating", dtype="float32")
    settings = {"batch_size": 16, "epochs": 2, "learning_rate": 0.2}
    for weights, class_weights in ((None, EACH), (w, {0: 0.5, 1: 2}), (w, [0.5, 2, 1])):
        product = EACH[t] if weights is None else weights * EACH[t]
        chex.assert_trees_all_close(
            handgrad.train(X, t, weights=weights, class_weights=class_weights, **settings).params,
            handgrad.train(X, t, weights=product, **settings).params,
            rtol=1e-5,
            atol=1e-7,
        )


def test_class_weights_tilt_distributions():
    dtype = "float32"
    X, T, _ = data(targets="distributions", dtype=dtype)

    def loss(params):
        logs = jax.nn.log_softmax(X @ params.W + params.b)
        return -jnp.sum(EACH.astype(dtype) * T * logs) / np.sum(EACH * T).astype(dtype)

    start = handgrad.init_params(4, 3, dtype=dtype)
    gradient = jax.grad(loss)(start)
    settings = {"class_weights": EACH, "batch_size": None, "epochs": 1, "learning_rate": 0.3}
    expected = jax.tree.map(lambda p, g: p - 0.3 * g, start, gradient)
    chex.assert_trees_all_close(handgrad.train(X, T, **settings).params, expected, atol=oracles.TOLERANCE[dtype])


# --- The epoch that is kept -------------------------------------------------------------------------------------------


def overfitted():
    """Few rows and many noisy features: the validation loss is least long before the end."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(80, 20)).astype(np.float32)
    t = (X[:, 0] + generator.normal(size=80) > 0).astype(np.int32)
    return (X[:40], t[:40]), (X[40:], t[40:])


def test_patience_keeps_the_best_epoch_and_ends_after_so_many_that_are_no_better():
    train, held_out = overfitted()
    settings = {"validation": held_out, "batch_size": None, "epochs": 100}
    full = handgrad.train(*train, **settings)
    losses = [epoch.validation_loss for epoch in full.history]
    best = int(np.argmin(losses)) + 1
    assert 1 < best < 80
    assert full.best == 100
    np.testing.assert_allclose(float(handgrad.loss(full.params, *held_out)), losses[-1], rtol=1e-6)
    kept = handgrad.train(*train, patience=5, **settings)
    assert kept.best == best
    assert kept.history == full.history[: best + 5]
    np.testing.assert_allclose(float(handgrad.loss(kept.params, *held_out)), losses[best - 1], rtol=1e-6)


def test_the_start_is_kept_where_no_epoch_is_better():
    (X, t), (X_held_out, _) = overfitted()
    params = handgrad.init_params(20, 2, key=jax.random.key(0), scale=1e-3)
    first = handgrad.train(X, t, params=params, epochs=1, learning_rate=0.1).params
    against = np.asarray(1 - handgrad.predict(first, X_held_out)).astype(np.int32)
    result = handgrad.train(
        X, t, params=params, validation=(X_held_out, against), patience=3, epochs=9, learning_rate=0.1
    )
    assert (result.best, len(result.history)) == (0, 3)
    chex.assert_trees_all_equal(result.params, params)
    assert "epoch 0 of 3 is kept: the start was better than each of them" in repr(result)


def test_divergence_with_patience_gives_back_the_best_epoch_before():
    (X, t), held_out = overfitted()
    with pytest.warns(RuntimeWarning, match="training ended there"):
        result = handgrad.train(
            X * 1e18,
            t,
            learning_rate=lambda step: jnp.where(step < 2, 1e-38, 1e30),
            validation=(held_out[0] * 1e18, held_out[1]),
            batch_size=None,
            patience=50,
            epochs=50,
        )
    assert len(result.history) == 3
    assert 0 <= result.best < 3
    assert np.isfinite(result.params.W).all()


def test_the_callback_that_ends_the_training_gets_the_best_epoch_too():
    train, held_out = overfitted()
    settings = {"validation": held_out, "batch_size": None, "epochs": 100, "patience": 90}
    best = handgrad.train(*train, **settings).best
    result = handgrad.train(*train, callback=lambda _, epoch: epoch.epoch == best + 2, **settings)
    assert (result.best, len(result.history)) == (best, best + 2)


def test_the_validation_loss_has_the_weights_of_its_rows_and_of_the_classes():
    X, t, w = data(weights="floating", dtype="float32")
    result = handgrad.train(X, t, class_weights=EACH, validation=(X, t, w), epochs=1)
    expected = handgrad.loss(result.params, X, t, (w * EACH[t]).astype("float32"))
    np.testing.assert_allclose(result.history[-1].validation_loss, float(expected), rtol=1e-5)
    hits = np.mean(np.asarray(handgrad.predict(result.params, X)) == t)
    np.testing.assert_allclose(result.history[-1].validation_accuracy, hits, rtol=1e-6)


# --- What results look like -------------------------------------------------------------------------------------------


def test_results_are_two_lines():
    X, t, _ = data(dtype="float32")
    network = handgrad.init_network(jax.random.key(0), (4, 5, 3), "tanh")
    trained = handgrad.train(X, t, params=network, validation=(X, t), epochs=2)
    last = trained.history[-1]
    assert repr(trained) == (
        "TrainResult: 4 features, 3 classes, a hidden layer of 5 (tanh)\n"
        f"epoch 2 of 2 is kept: loss {last.loss:.4g} nats, validation loss {last.validation_loss:.4g}, accuracy "
        f"{last.validation_accuracy:.2%}"
    )
    fitted = handgrad.fit(X, t, l2=0.01)
    assert repr(fitted) == (
        f"FitResult: 4 features, 3 classes, l2 = 0.01; loss {fitted.loss:.6g} nats, converged in {fitted.iterations} "
        f"iterations\n{fitted.message}"
    )
    path = handgrad.fit_path(X, t, l2s=[0.1, 0.01], validation=3)
    assert repr(path) == (
        "PathResult: 4 features, 3 classes; 2 penalties, l2 = 0.01 to 0.1, 2 converged\nbest at l2 = "
        f"{path.l2s[path.best]:.4g}: validation loss {path.validation_loss[path.best]:.6g} nats, accuracy "
        f"{path.validation_accuracy[path.best]:.2%}"
    )
    assert repr(handgrad.fit_path(X, t, l2s=[0.1])).endswith("l2 = 0.1, 1 converged\nno validation")
    with pytest.warns(RuntimeWarning, match="used up"):
        stopped = handgrad.fit(X, t, l2=0.01, max_iterations=1)
    assert "NOT converged" in repr(stopped)
    assert all(repr(each).count("\n") == 1 for each in (trained, fitted, path, stopped))
