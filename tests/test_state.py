"""What `train` and `fit` give of where they are: they go on from there as if they had never ended."""

import io
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import handgrad
import oracles
from handgrad.solvers import kronecker, sweeps
from handgrad.solvers.data import prepare
from handgrad.solvers.fit import fit_in_silence
from handgrad.solvers.folds import make_folds
from handgrad.solvers.path import solve_folds
from handgrad.solvers.state import Lane, as_rows, from_row

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
        ("adam", 7),
        *(pytest.param(how, size, marks=pytest.mark.slow) for how in OPTIMIZERS for size in (None, 7)),
    ],
)
@pytest.mark.usefixtures("standard_promotion")
def test_three_epochs_and_three_more_are_six(how, batch_size, dtype):
    X, t, w = data(weights="floating", dtype=dtype)
    start = handgrad.init_network(jax.random.key(1), (4, 5, 3), "tanh", dtype=X.dtype) if how == "adam" else None
    settings = {"batch_size": batch_size, "weights": w, "l2": 0.01, "key": jax.random.key(5), "params": start}
    whole = handgrad.train(X, t, epochs=6, **settings, **OPTIMIZERS[how])
    history, ended = in_two(3, 3, X, t, between=through_a_file, **settings, **OPTIMIZERS[how])
    assert [epoch.epoch for epoch in history] == [1, 2, 3, 4, 5, 6]
    assert history == whole.history
    assert ended.best == whole.best == 6
    assert as_bytes((ended.params, ended.state)) == as_bytes((whole.params, whole.state))


def test_patience_counts_on_and_the_best_epoch_is_that_of_all():
    X, t, _ = data(dtype="float32")
    X = X + 2 * np.eye(3, 4, dtype=np.float32)[t]
    noise = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
    settings = {"validation": (X + 2 * noise, t), "patience": 3, "learning_rate": 0.03, "batch_size": 7}
    whole = handgrad.train(X, t, epochs=20, **settings)
    assert 1 < whole.best < len(whole.history) == whole.best + 3 < 12
    for first in (1, *range(whole.best - 1, whole.best + 5)):
        history, ended = in_two(first, 20 - first, X, t, between=through_a_file, **settings)
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
    first, second = (
        handgrad.train(
            X, t, epochs=1, batch_size=None, state=begun.state, learning_rate=lambda s, n=n: jnp.where(s == n, 0.1, 0.0)
        )
        for n in (16, 17)
    )
    assert (begun.state.steps, first.state.steps) == (16, 17)
    assert as_bytes(first.params) != as_bytes(begun.params) == as_bytes(second.params)


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


# --- fit --------------------------------------------------------------------------------------------------------------


def learnable(dtype="float32"):
    X, t, w = data(weights="floating", dtype=dtype)
    return X * np.array([1, 10, 0.1, 3], dtype) + np.eye(3, 4, dtype=dtype)[t], t, w


def fit(*arguments, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return handgrad.fit(*arguments, **settings)


def check_every_place(*arguments, tol=1e-9, **settings):
    """A fit that is ended after each of its iterations in turn, and gone on with, is the whole one."""
    whole = fit(*arguments, tol=tol, **settings)
    assert whole.state is None
    assert whole.iterations > 6
    steps, step = {}, fit(*arguments, tol=tol, **settings, callback=lambda *_: True)
    while step.state is not None:  # in steps of one, each from where the last one ended
        steps[step.iterations] = as_bytes(step.state)
        step = fit(*arguments, tol=tol, **settings, state=step.state, callback=lambda *_: True)
    if step.iterations == whole.iterations:  # else it was ended where the proof then found it good enough
        assert as_bytes(step) == as_bytes(whole)
    assert len(steps) > 5
    for number in steps:
        for limit in ({"callback": lambda i, *_, n=number: i >= n}, {"max_iterations": number}):
            ended = fit(*arguments, tol=tol, **settings, **limit)
            assert ended.iterations == number
            assert as_bytes(ended.state) == steps[number]
        for state in (stored(ended.state), ended.state):
            assert as_bytes(fit(*arguments, tol=tol, **settings, state=state)) == as_bytes(whole)
        assert as_bytes(ended.state) == steps[number]  # it stays as it is


def stored(state):
    leaves, structure = jax.tree.flatten(state)
    return structure.unflatten([np.array(leaf, order="C") for leaf in leaves])


@pytest.mark.parametrize("rows", ["by NumPy", pytest.param("compiled", marks=pytest.mark.slow)])
def test_a_fit_that_is_gone_on_with_is_the_whole_one_from_every_iteration(rows, dtype, request):
    if rows == "compiled":
        request.getfixturevalue("compiled_rows")
    X, t, w = learnable(dtype)
    check_every_place(X, t, l2=1e-3, weights=w, tol=1e-6 if dtype == "float32" else 1e-12)


@pytest.mark.usefixtures("compiled_rows")
def test_blocks_of_the_curvature_and_hard_lines_are_gone_on_with(x64, monkeypatch):
    monkeypatch.setattr(kronecker, "LEADING", 4)  # of 12 features: blocks of 4, three times, 8 and 12
    monkeypatch.setattr(sweeps, "LEAST", 4)
    rng = np.random.default_rng(0)
    X, t = rng.standard_cauchy((60, 12)), np.arange(60) % 3
    seen = fit(X, t, l2=1e-4, tol=1e-10, callback=lambda i, *_: i == 14).state
    assert seen.solver.blocks.shape == (3, 5, 5)
    assert (seen.solver.age, seen.solver.size) == (3, 2)  # the next are larger
    whole = fit(X, t, l2=1e-4, tol=1e-10)
    assert whole.iterations > 20
    assert as_bytes(fit(X, t, l2=1e-4, tol=1e-10, state=seen)) == as_bytes(whole)


def test_a_line_whose_slopes_are_still_to_be_taken_is_gone_on_with():
    lane = Lane(0, np.zeros((3, 2)), strength=1e-3, fold=0, iterations=0)
    assert lane.accepts(1.0, -1.0, 100.0, 1e-7)
    lane.turn(-1.0, is_rough=True)
    again = from_row(*(array[0] for array in as_rows([lane], lane.start)))
    np.testing.assert_equal(vars(again.line), vars(lane.line))
    assert again.line.is_hard


def test_a_fit_without_penalty_and_one_with_a_start_are_gone_on_with():
    X, t, _ = learnable("float64")
    check_every_place(X, t, l2=0.0, tol=1e-2)
    start = handgrad.Params(np.ones((4, 3)), np.zeros((1, 3)))
    check_every_place(X, t, l2=1e-3, params=start, tol=1e-6, fit_intercept=False)


def test_the_attempts_after_a_proof_that_failed_are_gone_on_with(monkeypatch, x64):
    monkeypatch.setattr("handgrad.solvers.driver.MARGIN", 1000.0)  # of tol: the proof finds more at first,
    monkeypatch.setattr("handgrad.solvers.driver.MOST", 0.01)  # and then has several iterations more done
    X, t, _ = learnable("float64")
    settings = {"l2": 1e-4, "weights": None, "params": None, "num_classes": None, "tol": 1e-8, "max_iterations": 99}
    states = []
    whole = fit_in_silence(X, t, **settings, keep=lambda take, _: states.append(take()))
    assert states[0].attempt == 0 < 1 < states[-1].attempt  # two after the first
    for state in states:
        assert as_bytes(fit_in_silence(X, t, **settings, state=state)) == as_bytes(whole)


def test_paths_go_on_from_every_place_with_several_lanes(monkeypatch):
    monkeypatch.setattr("handgrad.solvers.driver.COLUMNS", 6)  # two lanes
    X, t, _ = learnable("float64")
    data = prepare("fit", X, t, None, None, None, 3)
    folds = make_folds("fit", data, data.weights[:, None] * (np.arange(50)[:, None] % 2 != np.arange(2)))
    settings = (data, folds, np.array([[0.1, 1e-2, 1e-3], [1.0, 0.1, 1e-2]]), 1e-8, 999)
    states = []
    whole = solve_folds(*settings, keep=lambda take, _: states.append(take()))
    assert whole.converged.all()
    assert len(states) > 20
    for state in states[:: len(states) // 9]:
        assert as_bytes(solve_folds(*settings, state=stored(state))) == as_bytes(whole)


@pytest.mark.messages
def test_a_fit_s_state_that_does_not_fit_is_refused():
    X, t, _ = learnable("float64")
    state = fit(X, t, l2=0.1, max_iterations=2).state
    older = state._replace(solver=state.solver._replace(rows=state.solver.rows[:, :-1]))
    for arguments, settings, error, message in (
        ((X, t), {"l2": 0.1, "state": 3}, TypeError, r"fit: state must be the state of a FitResult; got 3\."),
        ((X, t), {"l2": 0.2, "state": state}, ValueError, "fit: state must come from a fit with the same l2; got ano"),
        ((X, t), {"l2": 0.1, "state": older}, ValueError, "fit: state must come from this version of handgrad; got an"),
        ((X[:, :3], t), {"l2": 0.1, "state": state}, ValueError, "fit: state must come from a fit of the same data, f"),
    ):
        with pytest.raises(error, match=message):
            handgrad.fit(*arguments, **settings)
