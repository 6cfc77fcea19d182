"""Streamed rows: the same answers as in memory, each pass a reading, little in memory, and words for bad sources."""

import sys
import threading
import traceback
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

import handgrad
import oracles_fit
from handgrad import streams as row_streams
from handgrad.rows import streams
from kinds import Blocks, mesh


def problem(N=300, P=5, C=3, seed=0):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(N, P)) * 10 ** rng.uniform(-1, 1, P) + rng.normal(size=P)).astype(np.float32)
    return X, rng.integers(C, size=N), rng.uniform(0, 2, N).astype(np.float32)


class Steps:
    """A source with reset and next."""

    def __init__(self, X, t, end):
        self.blocks, self.end = [(X[i : i + 17], t[i : i + 17]) for i in range(0, len(X), 17)], end

    def reset(self):
        self.place = 0

    def next(self):
        self.place += 1
        if self.place > len(self.blocks):
            if self.end is StopIteration:
                raise StopIteration
            return self.end
        return self.blocks[self.place - 1]


# --- The same answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [None, StopIteration])
def test_a_source_may_have_reset_and_next(end):
    X, t, _ = problem()
    found = handgrad.fit(Steps(X, t, end), None, l2=0.01)
    np.testing.assert_allclose(found.loss, handgrad.fit(X, t, l2=0.01).loss, rtol=1e-6)
    assert found.converged


def test_targets_and_weights_come_with_the_blocks_or_beside_them():
    X, t, w = problem()
    expected = handgrad.fit(X, t, l2=0.01, weights=w).loss
    for source, targets, weights in (
        (Blocks(X, t, w), None, None),
        (Blocks(X, t), None, w),
        (Blocks(X), t, w),
        (Blocks(X, np.eye(3)[t], w), None, None),
    ):
        found = handgrad.fit(source, targets, l2=0.01, weights=weights)
        np.testing.assert_allclose(found.loss, expected, rtol=1e-6)
        exact = oracles_fit.objective(found.params.W, found.params.b, X, np.eye(3)[t], 0.01, w)[0]
        np.testing.assert_allclose(found.loss, exact, rtol=1e-6)


def test_a_path_and_its_validation_may_be_streamed_both():
    X, t, w = problem()
    settings = {"l2s": [1.0, 0.1, 0.01], "weights": w}
    for validation, streamed in (((X[:50], t[:50]), (Blocks(X[:50], t[:50]), None)), (3, 3)):
        expected = handgrad.fit_path(X, t, validation=validation, **settings)
        found = handgrad.fit_path(Blocks(X), t, validation=streamed, **settings)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-5)
        np.testing.assert_allclose(found.validation_loss, expected.validation_loss, rtol=1e-3)


def test_float64_is_centred_before_it_is_narrowed():
    rng = np.random.default_rng(1)
    X = 1e6 + rng.normal(size=(200, 2))
    t = (X[:, 0] + 0.5 * rng.normal(size=200) > 1e6).astype(int)
    found, expected = (handgrad.fit(source, t, l2=0.01, tol=0.02) for source in (Blocks(X), X))
    assert found.params.W.dtype == np.float32
    np.testing.assert_allclose(found.params.W, expected.params.W, rtol=1e-4)


@pytest.mark.parametrize("kind", ["memory map", "its rows", "uint8"])
def test_a_memory_map_is_read_in_blocks(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "LEAST_MAPPED", 0)
    X, t, _ = problem()
    dtype = np.uint8 if kind == "uint8" else np.float32
    stored = np.memmap(tmp_path / "X", dtype, "w+", shape=X.shape)
    stored[:] = np.abs(X) if kind == "uint8" else X
    rows = stored[40:] if kind == "its rows" else stored
    found = handgrad.fit(rows, t[-len(rows) :], l2=0.01)
    np.testing.assert_allclose(found.loss, handgrad.fit(np.array(rows), t[-len(rows) :], l2=0.01).loss, rtol=1e-6)


def resident():
    """Bytes of files' pages in this process."""
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith("RssFile:")).split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what is resident is told by Linux")
@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_pass_over_a_memory_map_lets_its_pages_go_and_changes_nothing(mode, tmp_path):
    stored = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.float32, (60_000, 100))
    stored[:] = np.arange(60_000)[:, None] % 97
    stored.flush()
    del stored
    X = np.load(tmp_path / "X.npy", mmap_mode=mode)
    if mode != "r":
        X[5] = 1000
    expected = np.arange(60_000) % 97 + (np.arange(60_000) == 5) * (1000 - 5) * (mode != "r")
    for rows, of_rows in ((X, expected), (X[7:][::3], expected[7:][::3]), (X[:, 3:5], expected)):
        before = resident()
        found = [block[:, 0].copy() for block in streams.of_mapped(rows).blocks(1000)]
        grown = resident() - before
        np.testing.assert_array_equal(np.concatenate(found), of_rows)
        assert mode == "c" or grown < X.nbytes / 4


def test_one_row_and_one_class_of_one_feature_are_streamed():
    for N, P, C in ((1, 1, 1), (3, 3, 3)):
        X, t, _ = problem(N, P, C)
        t = np.arange(N) % C
        found, expected = handgrad.fit(Blocks(X), t, l2=0.1), handgrad.fit(X, t, l2=0.1)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [1, 4, 300])
def test_chosen_rows_are_those_of_the_indices_whatever_is_read_at_once(size, monkeypatch):
    X, _, _ = problem()
    monkeypatch.setattr(row_streams, "PIECE_VALUES", 7 * 5)
    rng = np.random.default_rng(0)
    for rows in (np.arange(300), np.flatnonzero(rng.random(300) < 0.3), np.array([299]), np.arange(0)):
        stream = row_streams.of_blocks("", X.shape, X.dtype, lambda: iter(np.array_split(X, 11)))
        fill, found = row_streams.chosen(stream.begin(), rows, 5, X.dtype), [X[:0]]
        array = np.empty((size, 5), X.dtype)
        while count := fill(array):
            found.append(array[:count].copy())
        np.testing.assert_array_equal(np.concatenate(found), X[rows])


# --- What it costs -------------------------------------------------------------------------------------------------


def test_a_sweep_is_one_pass_and_little_else_is():
    X, t, _ = problem()
    source = Blocks(X)
    found = handgrad.fit(source, t, l2=0.01)
    # To count the rows, for their mean and limits, for A, and twice for the proof.
    assert source.passes <= found.passes + 6


@pytest.mark.parametrize("devices", [1, 8])
def test_memory_holds_a_few_chunks_and_what_is_known_of_each_row(devices, monkeypatch):
    from handgrad.rows import streamed

    monkeypatch.setattr(streamed, "CHUNK_BYTES", 2**18)
    N, P, size = 20_000, 400, 250
    rng = np.random.default_rng(0)
    block = rng.normal(size=(size, P)).astype(np.float32)

    class Source:
        def __iter__(self):
            for number in range(N // size):
                yield block + np.float32(number % 7)

    t = rng.integers(3, size=N)
    settings = {"mesh": mesh()} if devices > 1 else {}
    handgrad.fit(Source(), t, l2=0.1, **settings)  # compiled
    tracemalloc.start()
    handgrad.fit(Source(), t, l2=0.1, **settings)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    chunks = 3 * devices * 2**18
    blocks = 4 * 2**22  # in float64, for the centre and the proof
    of_rows = 8 * N * (3 + 3 + 3)  # labels, weights, logits of the proof
    assert peak < chunks + blocks + 3 * of_rows < 4 * N * P


def test_the_thread_that_reads_ends_with_the_fit_and_with_an_error():
    X, t, _ = problem()
    before = threading.active_count()
    handgrad.fit(Blocks(X), t, l2=0.1)

    class Breaks(Blocks):
        def __iter__(self):
            for number, block in enumerate(super().__iter__()):
                if self.passes > 4 and number == 2:
                    raise OSError("the disk is gone")
                yield block

    with pytest.raises(OSError, match="the disk is gone"):
        handgrad.fit(Breaks(X), t, l2=0.1)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        handgrad.fit(Blocks(X), t, l2=0.1, callback=stop)
    assert threading.active_count() <= before + 1


# --- What is refused -----------------------------------------------------------------------------------------------


class Fickle:
    """Another number of rows in each pass after the first."""

    def __init__(self, X, change, *, first=1):
        self.X, self.change, self.first, self.passes = X, change, first, 0

    def __iter__(self):
        self.passes += 1
        yield self.X if self.passes <= self.first else self.change(self.X)


@pytest.mark.parametrize("first", [1, 2, 4])
@pytest.mark.parametrize(
    "change", [lambda X: X[:-1], lambda X: np.concatenate([X, X[:1]]), lambda X: X[:0], lambda X: X[:, :-1]]
)
def test_a_source_whose_passes_differ_is_refused(change, first):
    X, t, _ = problem(256)  # a chunk's rows, that are full without one more reading
    with pytest.raises(ValueError, match="same rows in each pass"):
        handgrad.fit(Fickle(X, change, first=first), t, l2=0.1)


class Restless:
    """As many rows in each pass, but not the same."""

    def __init__(self, X, change):
        self.X, self.change, self.passes = X, change, 0

    def __iter__(self):
        self.passes += 1
        X = self.X if self.passes < 3 else self.change(self.X)
        yield from np.array_split(X, 3 + self.passes)


@pytest.mark.parametrize("function", [handgrad.fit, handgrad.train])
@pytest.mark.parametrize(
    "change", [lambda X: X[::-1], lambda X: np.roll(X, 1, axis=0), lambda X: np.concatenate([X[:1], X[:0:-1]])]
)
def test_a_source_that_is_shuffled_or_drawn_anew_in_a_later_pass_is_refused(change, function):
    X, t, _ = problem()
    how = {"l2": 0.1} if function is handgrad.fit else {"learning_rate": 0.1, "epochs": 3}
    with pytest.raises(ValueError, match=r"the same rows in each pass, in one order; row \d+ is another one"):
        function(Restless(X, change), t, **how)
    function(Restless(X, lambda X: X), t, **how)


@pytest.mark.parametrize("change", [lambda t, w: (t[::-1], w), lambda t, w: (t, w + 1)])
def test_a_source_whose_targets_differ_in_a_later_pass_is_refused(change):
    X, t, w = problem()

    class Source:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield X, *((t, w) if self.passes < 3 else change(t, w))

    t[0] = (t[-1] + 1) % 3
    with pytest.raises(ValueError, match=r"the same rows in each pass, in one order; row \d+ is another one"):
        handgrad.fit(Source(), None, l2=0.1)


@pytest.mark.parametrize(
    ("blocks", "targets", "error", "words"),
    [
        ([], [0], ValueError, "got a source without"),
        ([np.ones((2, 3)), np.ones((2, 4))], [0, 1, 0, 1], ValueError, "blocks must be alike"),
        ([np.ones((2, 3)), np.ones((2, 3), np.float32)], [0, 1, 0, 1], ValueError, "blocks must be alike"),
        ([np.ones(3)], [0], TypeError, r"blocks must be X,.*; got a ndarray of shape \(3,\) and float64"),
        ([None], [0], TypeError, "blocks must be X,.*; got a NoneType"),
        ([{"X": np.ones((2, 3))}], [0], TypeError, "blocks must be X,.*; got a dict"),
        ([(np.ones((2, 3)), [0, 1], [1, 1], [1, 1])], None, TypeError, "blocks must be X,.*; got a tuple of 4"),
        ([np.ma.masked_array(np.ones((2, 3)), True)], [0, 1], TypeError, "X must be an array without a mask"),
        (
            [(np.ones((2, 3)), np.ma.masked_array([0, 1], True))],
            None,
            TypeError,
            "targets must be .* without a mask",
        ),
        ([np.array([["a"]])], [0], TypeError, "must be numbers|blocks must be X,"),
        ([(np.ones((2, 3)), np.array([0]))], None, ValueError, "must have its 2 rows; got 1"),
        ([(np.ones((2, 3)), np.array([0, 1])), np.ones((2, 3))], None, ValueError, "with each of a source's blocks"),
        ([(np.ones((2, 3)), np.array([0, 1]))], [0, 1], ValueError, "targets come with the blocks of X and beside it"),
        ([np.ones((2, 3))], None, ValueError, "targets must be given, or come with the blocks"),
        ([np.ones((2, 3))], [0, 1, 0], ValueError, "targets"),
        ([np.array([[0.0], [np.nan]])], [0, 1], ValueError, "row 1"),
        ([np.ones((2, 3), np.int64)], [0, 1], TypeError, "integers of 8 or 16 bits"),
    ],
)
def test_sources_that_do_not_fit_are_refused(blocks, targets, error, words):
    class Source:
        def __iter__(self):
            return iter(blocks)

    with pytest.raises(error, match=words):
        handgrad.fit(Source(), None if targets is None else np.array(targets), l2=0.1)


@pytest.mark.parametrize(
    "of",
    [
        lambda X, t: (X.tolist(), t.tolist()),
        lambda X, t: [X, t],
        lambda X, t: (X.astype(">f4"), t.astype(">i8")),
        lambda X, t: (jnp.asarray(X, jnp.bfloat16), jnp.asarray(t)),
        lambda X, t: (X.astype(jnp.bfloat16), t),
        lambda X, t: (scipy.sparse.csr_array(X), t),
        lambda X, t: (X.astype(np.float16), t),
    ],
)
def test_blocks_are_of_any_arrays_that_hold_numbers(of):
    X, t, _ = problem()
    X = X.round()

    class Source:
        def __iter__(self):
            for start in range(0, 300, 70):
                yield of(X[start : start + 70], t[start : start + 70])

    np.testing.assert_allclose(handgrad.fit(Source(), None, l2=0.1).loss, handgrad.fit(X, t, l2=0.1).loss, rtol=1e-5)


class MineError(Exception):
    """An error of the user's own."""


@pytest.mark.parametrize("passes", [0, 1, 2, 4])
@pytest.mark.parametrize("function", [handgrad.fit, handgrad.train])
def test_what_a_source_raises_arrives_as_it_is(passes, function):
    X, t, _ = problem()
    error = MineError("no more of it")

    class Source:
        begun = 0

        def __iter__(self):
            self.begun += 1
            yield X[:100], t[:100]
            if self.begun > passes:
                raise error
            yield X[100:], t[100:]

    before = threading.active_count()
    how = {"l2": 0.1} if function is handgrad.fit else {"learning_rate": 0.1, "epochs": 6}
    with pytest.raises(MineError, match="no more of it") as raised:
        function(Source(), None, **how)
    assert raised.value is error
    assert "in __iter__" in "".join(traceback.format_exception(raised.value))
    assert threading.active_count() <= before + 1


def test_what_can_be_gone_over_once_is_refused():
    X, t, _ = problem()
    with pytest.raises(TypeError, match=r"only once\. Give an object whose __iter__ begins anew"):
        handgrad.fit((block for block in [X]), t, l2=0.1)


def test_without_a_penalty_streams_are_decided_in_memory_where_they_fit(monkeypatch):
    from handgrad.solvers import existence

    X, t, _ = problem()
    with jax.enable_x64(True):
        assert handgrad.fit(Blocks(X.astype(np.float64)), t, l2=0).converged
    monkeypatch.setattr(existence, "DENSE_BYTES", 1000)
    with pytest.raises(ValueError, match="more than 1000"):
        handgrad.fit(Blocks(X), t, l2=0)
