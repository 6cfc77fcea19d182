"""Sparse rows that are streamed: the answers of these rows in memory, whatever blocks they come in, and never dense."""

import threading
import tracemalloc

import jax
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse as jax_sparse

import handgrad
import oracles_fit
from handgrad import sparse_streams
from handgrad.rows import locate, sparse
from handgrad.rows.parts import FAR, is_far
from kinds import SparseBlocks, mesh


def problem(N=300, P=40, C=3, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    X = scipy.sparse.random_array((N, P), density=0.15, rng=rng, format="csr", dtype=dtype)
    X.data *= 10 ** rng.uniform(-1, 1, P)[X.indices]
    t = (X @ rng.normal(size=(P, C)) + rng.normal(size=(N, C))).argmax(axis=1)
    return X.astype(dtype), t, rng.uniform(0, 2, N).astype(dtype)


@pytest.fixture
def small_chunks(monkeypatch):
    """Several chunks, of several tiles."""
    monkeypatch.setattr(sparse_streams, "CHUNK_ENTRIES", (200, 200))
    monkeypatch.setattr(sparse_streams, "MOST_ROWS", 37)
    monkeypatch.setattr(sparse, "TILE_ROWS", 11)
    monkeypatch.setattr(sparse, "TILE_DENSITY", 0)


# --- The same answer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("l2", [0.01, 0.0])
@pytest.mark.usefixtures("small_chunks")
def test_sparse_blocks_have_the_answer_of_the_same_rows_in_memory(l2, x64):
    with jax.enable_x64(x64):
        X, t, w = problem(dtype=np.float64 if x64 else np.float32)
        t = t if l2 else np.arange(300) % 3  # which no features tell apart
        found, expected = (handgrad.fit(*of, l2=l2, weights=w) for of in ((SparseBlocks(X, t), None), (X, t)))
        assert found.converged
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)
        exact = oracles_fit.objective(found.params.W, found.params.b, X.toarray(), np.eye(3)[t], l2, w)[0]
        np.testing.assert_allclose(found.loss, exact, rtol=1e-6)
        assert l2 == 0 or found.loss - expected.loss <= found.gap <= 1e-5 * found.loss


@pytest.mark.usefixtures("small_chunks")
def test_paths_folds_validations_and_the_estimator_take_sparse_blocks():
    X, t, w = problem()
    settings = {"l2s": [1.0, 0.1, 0.01], "weights": w}
    for validation, streamed in (((X[:50], t[:50]), (SparseBlocks(X[:50], t[:50]), None)), (3, 3)):
        expected = handgrad.fit_path(X, t, validation=validation, **settings)
        found = handgrad.fit_path(SparseBlocks(X), t, validation=streamed, **settings)
        np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-5)
        np.testing.assert_allclose(found.validation_loss, expected.validation_loss, rtol=1e-3)
        assert found.best == expected.best
    found = handgrad.SoftmaxRegression(Cs=[0.1, 1.0]).fit(SparseBlocks(X, t), None)
    expected = handgrad.SoftmaxRegression(Cs=[0.1, 1.0]).fit(X, t)
    assert found.C_ == expected.C_
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.predict_proba(SparseBlocks(X)), expected.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("of", [scipy.sparse.csc_matrix, scipy.sparse.coo_array, jax_sparse.BCSR.from_scipy_sparse])
def test_blocks_are_sparse_in_any_form(of):
    X, t, _ = problem()
    found = handgrad.fit(SparseBlocks(X, t, of=lambda block: of(scipy.sparse.csr_matrix(block))), None, l2=0.01)
    np.testing.assert_allclose(found.loss, handgrad.fit(X, t, l2=0.01).loss, rtol=1e-6)


def rows_of(chunks):
    chunks = list(chunks)
    return [chunk.shape[0] for chunk in chunks], scipy.sparse.vstack(chunks).toarray()


@pytest.mark.parametrize("most", [1, 6, 60, 10**6])
def test_a_chunk_has_the_rows_that_fit_whatever_block_they_come_in(most, monkeypatch):
    monkeypatch.setattr(sparse_streams, "CHUNK_ENTRIES", (most, most))
    monkeypatch.setattr(sparse_streams, "MOST_ROWS", 20)
    X = problem(N=90)[0].toarray()
    X[7:11] = 0  # rows without an entry
    X = scipy.sparse.csr_array(X)
    entries, sizes = np.diff(X.indptr), []
    for of_blocks in (1, 3, 90):
        cut = np.array_split(np.arange(90), of_blocks)
        stream = sparse_streams.of_sparse_blocks("", X.shape, X.dtype, lambda cut=cut: (X[rows] for rows in cut))
        found, rows = rows_of(stream.chunks())
        np.testing.assert_array_equal(rows, X.toarray())
        sizes.append(found)
        ends = np.cumsum(found)
        for start, stop in zip([0, *ends], ends, strict=False):
            assert stop - start <= 20
            assert entries[start:stop].sum() <= most or stop - start == 1 or not entries[start : stop - 1].any()
            assert stop == 90 or stop - start == 20 or entries[start : stop + 1].sum() > most
    assert sizes[0] == sizes[1] == sizes[2]


@pytest.mark.usefixtures("small_chunks")
def test_what_is_known_of_the_entries_is_that_of_all_rows():
    dense = problem(dtype=np.float64)[0].toarray()
    dense[:, 5] = 1e9 + np.random.default_rng(0).normal(size=300)
    dense[:, 6] = 0
    X = scipy.sparse.csr_array(dense)
    stream = sparse_streams.of_sparse_blocks("", X.shape, X.dtype, lambda: (X[i : i + 7] for i in range(0, 300, 7)))
    np.testing.assert_array_equal(stream.entries.number, np.count_nonzero(dense, axis=0))
    centre = dense.mean(axis=0)
    features = np.flatnonzero(stream.entries.number)
    expected = [np.sqrt(np.mean((dense[dense[:, p] != 0, p] - centre[p]) ** 2)) for p in features]
    np.testing.assert_allclose(stream.entries.deviations(centre, features), expected, rtol=1e-7)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_features_far_from_zero_are_found_in_a_stream_as_in_memory_and_fitted(spread):
    X, t, _ = problem()
    dense = X.toarray()
    dense[:, 3] = 20 * FAR + spread * np.random.default_rng(1).normal(size=300)
    X = scipy.sparse.csr_array(dense)
    stream = sparse_streams.of_sparse_blocks("", X.shape, X.dtype, lambda: iter([X]))
    centre = dense.mean(axis=0, dtype=np.float64)
    centre[3] = 20 * FAR if spread == 0 else centre[3]
    for rows in (X, stream):
        assert is_far(locate("fit", rows).parts[0], centre) == (spread > 0)
    found, expected = handgrad.fit(SparseBlocks(X, t), None, l2=0.01), handgrad.fit(X, t, l2=0.01)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    assert found.converged


def test_the_preconditioner_is_that_of_the_same_rows_in_memory():
    X, t, _ = problem(N=60, P=200)
    for rows in (X, sparse_streams.of_sparse_blocks("", X.shape, X.dtype, lambda: iter([X]))):
        assert locate("fit", rows).num_entries == X.nnz
    found, expected = handgrad.fit(SparseBlocks(X, t), None, l2=0.01), handgrad.fit(X, t, l2=0.01)
    assert (found.iterations, found.passes) == (expected.iterations, expected.passes)


def test_rows_are_never_made_dense_nor_held_together():
    N, P, each = 20_000, 5_000, 10  # 400 MB dense, 2.4 MB sparse

    class Source:
        def __iter__(self):
            for seed in range(20):
                own = np.random.default_rng(seed)
                n = N // 20
                X = (np.ones(n * each, np.float32), own.integers(P, size=n * each), np.arange(n + 1) * each)
                yield scipy.sparse.csr_array(X, shape=(n, P)), own.integers(2, size=n)

    handgrad.fit(Source(), None, l2=0.1, max_iterations=1, tol=0.5)  # compile
    tracemalloc.start()
    handgrad.fit(Source(), None, l2=0.1, tol=0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * N * P / 8


def test_the_readers_end_with_a_fit_that_is_broken_off():
    X, t, _ = problem()
    before = threading.active_count()

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        handgrad.fit(SparseBlocks(X, t), None, l2=0.1, callback=stop)
    assert threading.active_count() == before


# --- What is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (lambda X: X[:-1], "got 300 in the first and 299 in a later one"),
        (lambda X: scipy.sparse.vstack([X, X[:1]], format="csr"), "got 300 in the first and more"),
        (lambda X: X[::-1], "row 0 is another one"),
        (lambda X: X[:, :-1], "got 39 columns of sparse float32 in a later pass, and 40"),
        (lambda X: X.astype(np.float64), "got 40 columns of sparse float64 in a later pass"),
        (lambda X: X.toarray(), "got 40 columns of float32 in a later pass, and 40 of sparse float32"),
    ],
)
def test_sparse_blocks_that_differ_in_a_later_pass_are_refused(later, words):
    X, t, _ = problem()

    class Source:
        passes = 0

        def __iter__(self):
            self.passes += 1
            yield X if self.passes < 3 else later(X)

    with pytest.raises(ValueError, match=words):
        handgrad.fit(Source(), t, l2=0.1)


def test_sparse_blocks_that_do_not_fit_are_refused():
    X, t, _ = problem()
    for blocks, error, words in (
        ([X, X.toarray()], ValueError, r"alike; got X \(300, 40\) of sparse float32 and \(300, 40\) of float32"),
        ([X, X[:, :3]], ValueError, r"alike; got X \(300, 40\) of sparse float32 and \(300, 3\) of sparse float32"),
        ([scipy.sparse.coo_array(np.ones(3))], TypeError, r"a coo_array of shape \(3,\)"),
        ([X.astype(bool)], TypeError, "and bool"),
        ([X.astype(np.int64)], TypeError, "integers of 8 or 16 bits"),
    ):
        source = type("Source", (), {"__iter__": lambda _, blocks=blocks: iter(blocks)})()
        with pytest.raises(error, match=words):
            handgrad.fit(source, np.tile(t, len(blocks)), l2=0.1)
    with pytest.raises(ValueError, match="mesh is for dense data"):
        handgrad.fit(SparseBlocks(X, t), None, l2=0.1, mesh=mesh())
    for validation in (None, (SparseBlocks(X, t), None)):
        with pytest.raises(TypeError, match=r"train: X must be dense; got a source of sparse blocks.*\.toarray\(\)"):
            handgrad.train(
                X.toarray() if validation else SparseBlocks(X, t), t if validation else None, validation=validation
            )


def test_a_value_that_is_not_finite_is_named_by_its_row():
    X, t, _ = problem()
    row = int(np.flatnonzero(np.diff(X.indptr))[5])
    X.data[X.indptr[row]] = np.nan
    with pytest.raises(ValueError, match=f"X must be finite.*row {row}"):
        handgrad.fit(SparseBlocks(X, t), None, l2=0.1)
