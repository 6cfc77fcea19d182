"""What `train` and `fit` give of where they are: they go on from there as if they had never ended."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import handgrad
import oracles

DECAY = optax.cosine_decay_schedule(0.5, 40)
OPTIMIZERS = {
    "explicit": {"learning_rate": 0.5},
    "suitable": {},
    "schedule": {"learning_rate": DECAY},
    "adam": {"optimizer": optax.adam(0.05)},
    "scheduled momentum": {"optimizer": optax.sgd(DECAY, momentum=0.9)},
}


def data(**kwargs):
    _, _, X, t, w = oracles.problem(50, 4, 3, **kwargs)
    return X, t, w


def as_bytes(tree):
    """Every bit of a pytree, its keys as numbers, and what it is made of."""
    leaves, structure = jax.tree.flatten(tree)
    keys = [jax.random.key_data(leaf) if isinstance(leaf, jax.Array) and _is_key(leaf) else leaf for leaf in leaves]
    return [(np.asarray(leaf).dtype, np.asarray(leaf).shape, np.asarray(leaf).tobytes()) for leaf in keys], structure


def _is_key(leaf):
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def through_a_file(state):
    """The state with arrays of NumPy for what was JAX's or a number, as a file gives them."""
    file = io.BytesIO()
    leaves, structure = jax.tree.flatten(state._replace(key=jax.random.key_data(state.key)))
    np.savez(file, *leaves)
    file.seek(0)
    with np.load(file) as arrays:
        state = structure.unflatten([arrays[f"arr_{number}"] for number in range(len(leaves))])
    return state._replace(key=jax.random.wrap_key_data(state.key))


# --- train ------------------------------------------------------------------------------------------------------------


def in_two(first, last, *arguments, between=lambda state: state, **settings):
    """The history of both, and the last result."""
    begun = handgrad.train(*arguments, **settings, epochs=first)
    before = as_bytes(begun.state)
    settings.pop("params", None), settings.pop("key", None)
    ended = handgrad.train(*arguments, **settings, epochs=last, state=between(begun.state))
    assert as_bytes(begun.state) == before  # it stays as it is
    return begun.history + ended.history, ended


@pytest.mark.parametrize(
    ("how", "batch_size"),
    [
        ("explicit", 7),
        ("scheduled momentum", 7),
        ("adam", None),
        *(pytest.param(how, size, marks=pytest.mark.slow) for how in OPTIMIZERS for size in (None, 7)),
    ],
)
@pytest.mark.usefixtures("standard_promotion")
def test_three_epochs_and_three_more_are_six(how, batch_size):
    X, t, w = data(weights="floating", dtype="float32")
    start = handgrad.init_network(jax.random.key(1), (4, 5, 3), "tanh") if how == "adam" else None
    settings = {"batch_size": batch_size, "weights": w, "l2": 0.01, "key": jax.random.key(5), "params": start}
    whole = handgrad.train(X, t, epochs=6, **settings, **OPTIMIZERS[how])
    history, ended = in_two(3, 3, X, t, between=through_a_file, **settings, **OPTIMIZERS[how])
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5, 6]
    assert history == whole.history
    assert ended.best == whole.best == 6
    assert as_bytes((ended.params, ended.state)) == as_bytes((whole.params, whole.state))


def test_states_in_float64_go_on_too(x64):
    X, t, _ = data(dtype="float64")
    whole = handgrad.train(X, t, epochs=4)
    assert as_bytes(in_two(2, 2, X, t)[1].state) == as_bytes(whole.state)


def test_patience_counts_on_and_the_best_epoch_is_that_of_all():
    X, t, _ = data(dtype="float32")
    X = X + 2 * np.eye(3, 4, dtype=np.float32)[t]
    settings = {"validation": (X[25:], t[25:]), "patience": 3, "learning_rate": 1.0, "batch_size": 10}
    whole = handgrad.train(X[:25], t[:25], epochs=20, **settings)
    assert 1 < whole.best < len(whole.history) == whole.best + 3 < 12
    for first in (1, *range(whole.best - 1, whole.best + 5)):
        history, ended = in_two(first, 20 - first, X[:25], t[:25], between=through_a_file, **settings)
        assert history == whole.history
        assert ended.best == whole.best
        assert as_bytes((ended.params, ended.state)) == as_bytes((whole.params, whole.state))
        assert f"epoch {whole.best} of {len(whole.history)} is kept" in repr(ended)


def test_patience_that_comes_later_counts_from_there():
    X, t, _ = data(dtype="float32")
    begun = handgrad.train(X, t, epochs=3)
    result = handgrad.train(X, t, epochs=9, state=begun.state, validation=(X, t), patience=2, learning_rate=1e3)
    assert result.best == 3
    assert [epoch.epoch for epoch in result.history] == [4, 5]
    assert as_bytes(result.params) == as_bytes(begun.params)
    assert "epoch 3 of 5 is kept" in repr(result)
    assert handgrad.train(X, t, epochs=1, state=result.state).state.best is None


def test_a_schedule_counts_the_steps_that_were_taken_whatever_the_batches_are():
    X, t, _ = data(dtype="float32")
    begun = handgrad.train(X, t, epochs=2, batch_size=7, learning_rate=0.1)  # 8 steps an epoch
    first, both = (
        handgrad.train(
            X, t, epochs=1, batch_size=25, state=begun.state, learning_rate=lambda s, n=n: jnp.float32(s >= n) / 8
        )
        for n in (17, 16)
    )
    assert (begun.state.steps, first.state.steps) == (16, 18)
    late = handgrad.train(
        X, t, epochs=1, batch_size=25, state=begun.state, learning_rate=lambda s: jnp.float32(s >= 18) / 8
    )
    assert as_bytes(late.params) == as_bytes(begun.params)
    assert as_bytes(first.params) not in (as_bytes(both.params), as_bytes(begun.params))


def test_a_callback_s_end_is_no_end():
    X, t, _ = data(dtype="float32")
    ended = handgrad.train(X, t, epochs=9, callback=lambda _, epoch: epoch.epoch == 2)
    whole = handgrad.train(X, t, epochs=5)
    assert as_bytes(handgrad.train(X, t, epochs=3, state=ended.state).params) == as_bytes(whole.params)


@pytest.mark.messages
@pytest.mark.usefixtures("standard_promotion")
def test_a_state_that_does_not_fit_is_refused():
    X, t, _ = data(dtype="float32")
    state = handgrad.train(X, t, epochs=1).state
    for given, error, message in (
        ({"state": state.params}, TypeError, "train: state must be the state of a TrainResult; got Params"),
        ({"state": state, "params": state.params}, ValueError, "train: a state has its own params and key; leave th"),
        ({"state": state, "key": jax.random.key(0)}, ValueError, "train: a state has its own params and key"),
        ({"state": state, "optimizer": optax.adam(0.1)}, ValueError, "state must come from a training with the same o"),
        ({"state": state._replace(key=3)}, (TypeError, ValueError), "train: key must be"),
    ):
        with pytest.raises(error, match=message):
            handgrad.train(X, t, epochs=1, **given)
    with pytest.raises(ValueError, match=r"W|columns|features"):
        handgrad.train(X[:, :2], t, epochs=1, state=state)
    with pytest.warns(RuntimeWarning, match="the loss became"):
        diverged = handgrad.train(X, t, epochs=3, learning_rate=1e38, l2=1.0)
    with pytest.raises(ValueError, match="train: a state must have finite params; that training has diverged"):
        handgrad.train(X, t, epochs=3, state=diverged.state)
