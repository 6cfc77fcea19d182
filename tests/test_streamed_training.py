"""Gradient descent, and the estimator, over rows that are read for each pass: what they come to in memory."""

import dataclasses
import tracemalloc

import jax
import numpy as np
import optax
import pytest

import handgrad
from handgrad import processes
from handgrad.rows import open_source
from handgrad.rows.streams import of_mapped
from handgrad.solvers import streamed_epochs
from handgrad.solvers.step import suitable_rate
from handgrad.streams import of_blocks
from kinds import Blocks


def problem(N=301, P=5, C=3, dtype=np.float32):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(N, P)) + 2 * np.arange(P)).astype(dtype)
    return X, rng.integers(C, size=N), rng.uniform(0.1, 2, N)


def mapped(path, X):
    np.save(path, X)
    return of_mapped(np.load(path, mmap_mode="r"))


def assert_same(found, expected, rtol=1e-6):
    for one, other in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)
        assert one.dtype == other.dtype
    for one, other in zip(found.history, expected.history, strict=True):
        np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)
        np.testing.assert_allclose(one.validation_loss or 0, other.validation_loss or 0, rtol=1e-5)
        np.testing.assert_allclose(one.validation_accuracy or 0, other.validation_accuracy or 0, rtol=1e-5)


# --- Where all rows are mixed at once ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x64", "how"),
    [
        (False, {"batch_size": 32, "patience": 2}),
        pytest.param(False, {"batch_size": None, "l2": 0.1}, marks=pytest.mark.slow),
        pytest.param(True, {"batch_size": 32, "l2": 0.1}, marks=pytest.mark.slow),
        pytest.param(True, {"batch_size": None, "patience": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_stream_that_is_mixed_at_once_is_trained_on_as_in_memory(x64, how):
    with jax.enable_x64(x64):
        X, t, w = problem(dtype=np.float64 if x64 else np.float32)
        held_out = X[:40], t[:40], w[:40]
        how = {"epochs": 3, "weights": w, **how}
        expected = handgrad.train(X, t, validation=held_out, **how)
        of_blocks = (Blocks(X[:40], t[:40], w[:40]), None)
        for rows, validation in ((Blocks(X), held_out), (Blocks(X), of_blocks), (X, of_blocks)):
            found = handgrad.train(rows, t, validation=validation, **how)
            assert_same(found, expected, 1e-12 if x64 else 1e-6)
            assert found.best == expected.best


def test_blocks_with_targets_and_weights_networks_and_optimizers_are_trained_on():
    X, t, w = problem(64, 3)
    network = handgrad.init_network(jax.random.key(0), (3, 4, 3), "tanh")
    how = {
        "epochs": 2,
        "batch_size": 10,
        "params": network,
        "optimizer": optax.sgd(0.1, 0.9),
        "class_weights": {0: 2.0},
    }
    expected = handgrad.train(X, np.eye(3)[t], weights=w, **how)
    assert_same(handgrad.train(Blocks(X, np.eye(3)[t], w), None, **how), expected)


def test_one_row_and_blocks_of_one_row_are_trained_on():
    for N, P, C in ((1, 1, 1), (3, 3, 3)):
        X, t, _ = problem(N, P, C)
        t = np.arange(N) % C
        for batch_size in (1, None):
            how = {"epochs": 2, "batch_size": batch_size, "learning_rate": 0.1}
            assert_same(handgrad.train(Blocks(X), t, **how), handgrad.train(X, t, **how))


def test_the_rate_that_suits_a_stream_is_that_of_its_rows(monkeypatch):
    from handgrad.solvers import step

    X, t, w = problem(3000)
    params = handgrad.init_params(5, 3)
    stream = open_source("train", Blocks(X), t, None)[0]
    for weights in (None, w):
        how = {"batch_size": 32, "l2": 0.1}
        expected = suitable_rate(params, jax.numpy.asarray(X), weights, **how)
        np.testing.assert_allclose(suitable_rate(params, stream, weights, **how), expected, rtol=1e-5)
        monkeypatch.setattr(step, "MOST_VALUES", 2000)
        np.testing.assert_allclose(suitable_rate(params, stream, weights, **how), expected, rtol=0.1)
        monkeypatch.undo()
    # One row that is in no sample has all of the curvature: the rate suits it all the same.
    X[7] = 1000
    stream = open_source("train", Blocks(X), t, None)[0]
    monkeypatch.setattr(step, "MOST_VALUES", 2000)
    how = {"batch_size": None, "l2": 0.0}
    expected = suitable_rate(params, jax.numpy.asarray(X), None, **how)
    assert 0.5 * expected < suitable_rate(params, stream, None, **how) < 1.1 * expected


# --- Where some rows are mixed after the others -----------------------------------------------------------------------


@pytest.fixture
def small_buffers(monkeypatch):
    monkeypatch.setattr(streamed_epochs, "BUFFER_BYTES", 64 * 2 * 4)
    monkeypatch.setattr(streamed_epochs, "RUN_BYTES", 3 * 2 * 4)


@pytest.mark.parametrize("kind", ["blocks", "map"])
def test_an_epoch_has_each_row_once_in_an_order_of_its_own(kind, small_buffers, tmp_path):
    N = 301
    X = np.arange(2 * N, dtype=np.float32).reshape(N, 2)
    stream = mapped(tmp_path / "x.npy", X) if kind == "map" else open_source("", Blocks(X), np.arange(N), None)[0]
    data = streamed_epochs.Streamed(stream, np.float32, np.arange(N), np.arange(N) / 2)
    assert streamed_epochs.rows_at_once(data, 10) == 60
    orders = []
    for epoch in (1, 1, 2):
        blocks = list(streamed_epochs.mixed(data, jax.random.key(epoch), 60))
        assert [len(t) for _, t, _ in blocks] == [60] * 5 + [1]
        rows, t, w = map(np.concatenate, zip(*blocks, strict=True))
        np.testing.assert_array_equal(rows, X[t])
        np.testing.assert_array_equal(w, t / 2)
        np.testing.assert_array_equal(np.sort(t), np.arange(N))
        orders.append(t)
    np.testing.assert_array_equal(orders[0], orders[1])
    assert (orders[0] != orders[2]).mean() > 0.9
    first = orders[0][:60]
    assert (first.max() < 60) == (kind == "blocks")
    assert (np.diff(first) == 1).mean() < 0.2


def test_steps_over_buffers_are_those_over_the_same_rows_in_memory(small_buffers):
    X, t, w = problem(157, 2)
    stream = open_source("", Blocks(X), t, None)[0]
    weights = (w / w.mean()).astype(np.float32)
    data = streamed_epochs.Streamed(stream, np.float32, t, weights)
    key = jax.random.fold_in(jax.random.key(3), 1)
    blocks = list(streamed_epochs.mixed(data, key, streamed_epochs.rows_at_once(data, 10)))
    W, b = np.zeros((2, 3)), np.zeros((1, 3))
    losses = 0.0
    for X_, t_, w_ in blocks:
        for start in range(0, len(t_), 10):
            x, T, own = X_[start : start + 10].astype(float), np.eye(3)[t_[start : start + 10]], w_[start : start + 10]
            Z = x @ W + b
            Y = np.exp(Z - Z.max(1, keepdims=True))
            Y /= Y.sum(1, keepdims=True)
            losses -= (own * np.log((Y * T).sum(1))).sum()
            D = own[:, None] * (Y - T) / len(own)
            W, b = W - 0.05 * (x.T @ D + 0.1 * W), b - 0.05 * D.sum(0, keepdims=True)
    how = {"batch_size": 10, "learning_rate": 0.05, "l2": 0.1, "weights": w, "key": jax.random.key(3)}
    found = handgrad.train(Blocks(X), t, epochs=1, **how)
    np.testing.assert_allclose(found.params.W, W, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.params.b, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.history[0].loss, losses / 157, rtol=1e-5)
    assert found.state.steps == 16


def test_three_epochs_and_three_are_six_bit_for_bit(small_buffers):
    X, t, _ = problem(157, 2)
    how = {
        "batch_size": 10,
        "optimizer": optax.sgd(0.01, momentum=0.9),
        "validation": (Blocks(X[:30]), t[:30]),
        "patience": 6,
    }
    expected = handgrad.train(Blocks(X), t, epochs=6, **how)
    first = handgrad.train(Blocks(X), t, epochs=3, **how)
    found = handgrad.train(Blocks(X), t, epochs=3, state=first.state, **how)
    for one, other in zip(jax.tree.leaves(found.state), jax.tree.leaves(expected.state), strict=True):
        if not jax.dtypes.issubdtype(getattr(one, "dtype", float), jax.dtypes.prng_key):
            np.testing.assert_array_equal(one, other)
    assert first.history + found.history == expected.history


@pytest.mark.parametrize("batch_size", [1, *(pytest.param(size, marks=pytest.mark.slow) for size in (7, 50, None))])
def test_the_weighted_optimum_is_that_of_batches_of_any_size(batch_size, small_buffers):
    X, t = np.zeros((200, 2), np.float32), np.arange(200) % 2
    w = np.where(t == 1, 9.0, 1.0)
    rate = 1 if batch_size is None else 0.05
    found = handgrad.train(Blocks(X), t, weights=w, batch_size=batch_size, epochs=60, learning_rate=rate)
    odds = np.diff(found.params.b[0])[0]
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), 0.9, atol=0.06)


def test_weights_of_0_and_absent_classes_count_for_nothing(small_buffers):
    X, t, w = problem(150, 2)
    w[:100] = 0
    how = {"weights": w, "batch_size": None, "epochs": 2, "num_classes": 5, "learning_rate": 0.1}
    assert_same(handgrad.train(Blocks(X), t, **how), handgrad.train(X, t, **how))


def test_rows_sorted_by_class_are_said_and_those_of_a_map_are_mixed(small_buffers, tmp_path):
    X, t, _ = problem(300, 2)
    t = np.sort(t)
    how = {"batch_size": 10, "epochs": 1, "learning_rate": 0.01}
    with pytest.warns(RuntimeWarning, match="nearly sorted by class, and only 60 of them are mixed"):
        handgrad.train(Blocks(X), t, **how)
    handgrad.train(mapped(tmp_path / "x.npy", X), t, **how)
    handgrad.train(Blocks(X), np.arange(300) % 3, **how)


def test_an_epoch_is_one_reading_and_the_reader_ends(small_buffers):
    X, t, _ = problem(157, 2)
    source = Blocks(X)
    handgrad.train(source, t, epochs=3, batch_size=10, learning_rate=0.1)
    assert source.passes == 1 + 3


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [32, None])
def test_a_training_holds_a_few_buffers_and_what_is_known_of_each_row(batch_size, monkeypatch):
    monkeypatch.setattr(streamed_epochs, "BUFFER_BYTES", 2**20)
    N, P, size = 40_000, 400, 250
    block = np.random.default_rng(0).normal(size=(size, P)).astype(np.float32)

    class Source:
        def __iter__(self):
            for number in range(N // size):
                yield block + np.float32(number % 7)

    t = np.arange(N) % 3
    how = {"batch_size": batch_size, "epochs": 2, "learning_rate": 0.001}
    handgrad.train(Source(), t, **how)  # compiled
    tracemalloc.start()
    handgrad.train(Source(), t, **how)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20 + 5 * 8 * N < 4 * N * P / 4


# --- What is refused --------------------------------------------------------------------------------------------------


def test_what_no_step_can_be_made_with_is_refused(small_buffers):
    X, t, _ = problem(157, 2)
    how = {"epochs": 1, "batch_size": 10, "learning_rate": 0.1}
    wrong = X.copy()
    wrong[130, 1] = np.nan
    with pytest.raises(ValueError, match=r"X must be finite in float32.*row 130"):
        handgrad.train(Blocks(wrong), t, **how)
    large = X.astype(np.float64)
    large[5] = 1e300
    with pytest.raises(ValueError, match=r"X must be finite in float32.*too large a number in row 5"):
        handgrad.train(Blocks(large), t, **how)
    with pytest.raises(TypeError, match="only once"):
        handgrad.train((block for block in [X]), t, **how)
    with pytest.raises(TypeError, match="floating"):
        handgrad.train(Blocks(X.astype(np.int8)), t, **how)
    with pytest.raises(ValueError, match=r"labels must be integers in \[0, 2\)"):
        handgrad.train(Blocks(X), t, num_classes=2, **how)
    with pytest.raises(ValueError, match="over a stream an optimizer gets no function of the parameters"):
        handgrad.train(Blocks(X), t, epochs=1, batch_size=None, optimizer=optax.lbfgs())
    with pytest.raises(ValueError, match="X must have P = 3 columns"):
        handgrad.train(Blocks(X), t, params=handgrad.init_params(3, 3), **how)


# --- The estimator ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pytest.param(np.float32, marks=pytest.mark.slow), np.float64])
def test_an_estimator_of_a_stream_is_that_of_its_rows(dtype):
    X, t, w = problem(dtype=dtype)
    names = np.array(["b", "a", "c"])[t]
    close = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-6, "atol": 1e-7}
    choosing = {"Cs": [0.1, 1.0], "cv": 3, "class_weight": "balanced"}
    for how, y in (({}, names), (choosing, 10 * t)):
        expected = handgrad.SoftmaxRegression(**how).fit(X, y, w)
        found = handgrad.SoftmaxRegression(**how).fit(Blocks(X), y, w)
        np.testing.assert_allclose(found.coef_, expected.coef_, **close)
        np.testing.assert_array_equal(found.classes_, expected.classes_)
        assert (found.coef_.dtype, found.n_features_in_) == (dtype, 5)
        np.testing.assert_array_equal(found.predict(Blocks(X)), found.predict(X))
        np.testing.assert_allclose(found.predict_proba(Blocks(X)), found.predict_proba(X), rtol=1e-6)
    own = handgrad.SoftmaxRegression().fit(Blocks(X, 10 * t, w), None)
    np.testing.assert_allclose(own.coef_, handgrad.SoftmaxRegression().fit(X, 10 * t, w).coef_, **close)


def test_an_estimator_refuses_what_a_stream_has_not():
    X, t, _ = problem()
    for how, y, words in (
        ({"Cs": [1.0], "scoring": "accuracy"}, t, "scoring needs all rows at once"),
        ({}, t[:9], "inconsistent numbers of samples"),
        ({}, None, "targets must be given, or come with the blocks"),
        ({}, 0 * t, "two classes or more"),
    ):
        with pytest.raises(ValueError, match=words):
            handgrad.SoftmaxRegression(**how).fit(Blocks(X), y)


# --- Where processes share the rows -----------------------------------------------------------------------------------


def shared(X, number, count, period, monkeypatch):
    """A stream of the rows of one of so many processes."""
    monkeypatch.setattr(processes, "count", lambda: count)
    monkeypatch.setattr(processes, "index", lambda: number)
    owners = processes.dealt(len(X), period)
    own = X[owners == number]
    stream = of_blocks("", own.shape, own.dtype, lambda: iter(np.array_split(own, 7)))
    return dataclasses.replace(stream, shape=X.shape, owners=owners)


@pytest.mark.parametrize(("count", "period"), [(1, 301), (2, 60), (3, 50), (4, 301), (7, 4)])
def test_the_batches_of_processes_are_together_those_of_one(count, period, small_buffers, monkeypatch):
    N, B, devices = 301, 10, 2
    X, t = np.arange(2 * N, dtype=np.float32).reshape(N, 2), np.arange(N)
    key = jax.random.key(1)
    whole = streamed_epochs.Streamed(open_source("", Blocks(X), t, None)[0], np.float32, t, None)
    expected = [
        t[start : start + B] for _, t, _ in streamed_epochs.mixed(whole, key, 60) for start in range(0, len(t), B)
    ]
    rooms, found = [], [[] for _ in expected]
    for number in range(count):
        weighted = number % 2 == 1
        data = streamed_epochs.Streamed(
            shared(X, number, count, period, monkeypatch),
            np.float32,
            t,
            (t + 1.0).astype(np.float32) if weighted else None,
        )
        blocks = list(streamed_epochs._dealt(data, key, 60, B, devices))
        rooms.append([block[0].shape[1] for _, block in blocks])
        np.testing.assert_array_equal(
            np.concatenate([counts for counts, _ in blocks]), [len(rows) for rows in expected]
        )
        every = [batch for _, block in blocks for batch in zip(*block, strict=True)]
        for rows, (X_, t_, w_) in zip(found, every, strict=True):
            np.testing.assert_array_equal(X_[w_ > 0], X[t_[w_ > 0]])
            np.testing.assert_array_equal(w_[w_ > 0], t_[w_ > 0] + 1 if weighted else 1)
            rows.extend(t_[w_ > 0])
    assert rooms == rooms[:1] * count
    assert all(room % devices == 0 for room in rooms[0])
    for rows, batch in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.sort(rows), np.sort(batch))


@pytest.mark.parametrize(
    "how",
    [
        {"batch_size": 25, "l2": 0.1},
        {"batch_size": 25, "optimizer": optax.adam(0.01)},
        {"batch_size": None, "l2": 0.1},
    ],
)
@pytest.mark.usefixtures("standard_promotion")
def test_rows_that_are_shared_are_trained_on_by_all_devices_as_by_one(how, monkeypatch):
    X, t, w = problem()
    how = {"epochs": 2, "weights": w, "patience": 5, "class_weights": [1.0, 2.0, 0.5], **how}
    expected = handgrad.train(X, t, validation=(X[:40], t[:40]), **how)
    validation = shared(X[:40], 0, 1, 13, monkeypatch), t[:40]
    found = handgrad.train(shared(X, 0, 1, 100, monkeypatch), t, validation=validation, **how)
    assert_same(found, expected, 1e-5)
