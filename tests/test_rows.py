"""The rows: blocks against plain float64 NumPy, sums over blocks, devices and processes, and what never happens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import handgrad
import kinds
import oracles_fit
from handgrad.rows import dense, host, locate, to_csr
from handgrad.rows import parts as rows_parts
from handgrad.rows import sparse as rows_of_zeros
from handgrad.rows.blocks import DenseBlock
from handgrad.rows.dense import DenseRows
from handgrad.rows.host import HostRows
from handgrad.rows.sparse import SparseBlock
from handgrad.solvers import sums
from handgrad.solvers.sums import feature_moment, loss_and_gradient, rounding

# n, P, C, K: each pair of sizes coincides in one, all in another; one row, one feature, one class, one problem.
SIZES = [(7, 5, 3, 2), (4, 4, 3, 2), (6, 3, 3, 1), (3, 5, 3, 3), (4, 4, 4, 4), (1, 3, 2, 1), (5, 1, 1, 2), (1, 1, 1, 1)]
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-5}, "float64": {"rtol": 1e-12, "atol": 1e-12}}


def numbers(n, P, C, K, seed=0):
    """Features, half of them 0, about a centre; V, D and s."""
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((n, P)) < 0.5, rng.normal(size=(n, P)), 0)
    V, D = rng.normal(size=(K, P + 1, C)), rng.normal(size=(K, C, n))
    return X, rng.normal(size=P) / 4, V, D, rng.uniform(0.1, 1, n)


def block_of(kind, X, centre, scale, one, dtype):
    if kind == "sparse":
        csr = scipy.sparse.csr_array((X * scale).astype(dtype))
        halves = (csr[: len(X) // 2], csr[len(X) // 2 :]) if len(X) > 2 else (csr,)
        tiles = tuple(half.T.tocsr() for half in halves)
        return SparseBlock(tiles, (centre * scale).astype(dtype), np.dtype(dtype).type(one))
    X = ((X - centre) * scale).astype(dtype)
    return DenseBlock(X if kind == "numpy" else jnp.asarray(X), np.dtype(dtype).type(one))


# --- A block -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numpy", "jax", "sparse"])
@pytest.mark.parametrize(("scale", "one"), [(1.0, 1.0), (0.25, 1.0), (4.0, 0.0)])
def test_a_block_is_the_rows_about_their_centre_with_a_last_column(kind, scale, one, dtype):
    # JAX's products compile for each shape.
    for sizes in SIZES[:1] + SIZES[4:5] if kind == "jax" else SIZES:
        X, centre, V, D, s = numbers(*sizes)
        block = block_of(kind, X, centre, scale, one, dtype)
        features = scale * (X - centre)
        whole = np.append(features, np.full((len(X), 1), one), axis=1)
        V, D, s = (array.astype(dtype) if kind != "jax" else jnp.asarray(array, dtype) for array in (V, D, s))
        found = {
            "times": block.times(V),
            "transposed_times": block.transposed_times(D),
            "second_moment": block.second_moment(s),
            "column_squares": block.column_squares(s),
            "row_squares": block.row_squares(),
            "dense": block.dense(),
        }
        V, D, s = (np.asarray(array, np.float64) for array in (V, D, s))
        expected = {
            "times": np.einsum("np,kpc->kcn", whole, V),
            "transposed_times": np.einsum("np,kcn->kpc", whole, D),
            "second_moment": np.einsum("n,np,nq->pq", s, whole, whole),
            "column_squares": s @ whole**2,
            "row_squares": np.sum(features**2, axis=1),
            "dense": features,
        }
        for name, array in found.items():
            assert array.dtype == dtype, name
            np.testing.assert_allclose(array, expected[name], **TOLERANCE[dtype], err_msg=f"{name} of {sizes}")


def test_a_sparse_block_of_zeros_and_of_empty_rows_and_columns(dtype):
    X, centre, V, D, s = numbers(6, 4, 2, 1)
    X[2], X[:, 1] = 0, 0
    for given in (X, np.zeros_like(X)):
        block = block_of("sparse", given, centre, 1.0, 1.0, dtype)
        whole = np.append(given - centre, np.ones((6, 1)), axis=1)
        V, D, s = (array.astype(dtype) for array in (V, D, s))
        np.testing.assert_allclose(block.times(V)[0].T, whole @ V[0], **TOLERANCE[dtype])
        np.testing.assert_allclose(block.transposed_times(D)[0], whole.T @ D[0].T, **TOLERANCE[dtype])
        np.testing.assert_allclose(block.second_moment(s), (whole.T * s) @ whole, **TOLERANCE[dtype])
        np.testing.assert_allclose(block.row_squares(), np.sum((given - centre) ** 2, axis=1), **TOLERANCE[dtype])


# --- Sums over blocks, chunks and devices --------------------------------------------------------------------------


def counted(block, targets, weights, shared, static):
    """Σ w, Σ w x' and Σ w t, of each column of the weights."""
    xp = np if isinstance(weights, np.ndarray) else jnp
    labels = xp.astype(targets, weights.dtype)
    return xp.sum(weights, axis=0), block.transposed_times(weights.T[None])[0] * shared, labels @ weights


def check_sums(rows, X, centre, weights=None):
    N = len(X)
    w = np.ones((N, 2)) * [1, 3] if weights is None else weights
    t = np.arange(N) % 7
    by_row = rows.place(t.astype(np.int32)), rows.place(w.astype(rows.dtype))
    total, features, labels = rows.sum(counted, by_row, np.ones((), rows.dtype), columns=2)
    np.testing.assert_array_equal(total, w.sum(axis=0))  # a row counted twice, or not at all, is one off
    np.testing.assert_allclose(features[:-1], (X - centre).T @ w, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(labels, t @ w)


# Two rows are left before whole chunks and two after; of 515 what is left is more than a chunk.
@pytest.mark.parametrize("num_rows", [1, 63, 64, 65, 200, 256, 257, 259, 260, 261, 300, 512, 515, 516, 1000])
def test_every_row_counts_once_in_chunks_and_blocks(monkeypatch, num_rows):
    # Chunks of 256 rows and blocks of 64, of 32 bytes a row: the last of each reaches back, or is padded.
    monkeypatch.setattr(dense, "CHUNK_BYTES", 256 * 32)
    monkeypatch.setattr(dense, "CPU_BYTES", 64 * 32)
    monkeypatch.setattr(dense, "LEAST_ROWS", 96)
    X = np.random.default_rng(0).normal(size=(num_rows, 8)).astype(np.float32) + 3
    centre = X.mean(axis=0)
    rows = DenseRows(locate("test", X), centre, 1.0, 1.0, np.dtype(np.float32))
    assert len(rows._chunks) == {257: 1, 259: 1}.get(num_rows, -(-num_rows // 256))
    check_sums(rows, X, centre)


@pytest.mark.parametrize(("offset", "dtype"), [(0, "float32"), (1, "float32"), (15, "float32"), (3, "float16")])
def test_rows_are_not_copied_wherever_they_lie_in_memory(monkeypatch, offset, dtype):
    monkeypatch.setattr(dense, "CHUNK_BYTES", 256 * 12)
    monkeypatch.setattr(dense, "CPU_BYTES", 64 * 12)
    monkeypatch.setattr(dense, "LEAST_ROWS", 96)
    numbers = np.random.default_rng(0).integers(-9, 9, 900 * 3 + 64).astype(dtype)
    X = numbers[offset : offset + 900 * 3].reshape(900, 3)
    rows = DenseRows(locate("test", X), np.ones(3), 1.0, 1.0, np.dtype(np.float32))
    there = range(X.ctypes.data, X.ctypes.data + X.nbytes)
    is_copy = [numbers.unsafe_buffer_pointer() not in there for numbers, _ in rows._X]
    copied = [chunk.count(len(X)) for chunk, copy in zip(rows._chunks, is_copy, strict=True) if copy]
    assert len(copied) == 1
    assert sum(copied) <= 0.5 * len(X)
    check_sums(rows, X.astype(np.float32), 1)


@pytest.mark.parametrize("order", ["C", "F"])
def test_one_program_serves_every_chunk(monkeypatch, order):
    monkeypatch.setattr(dense, "CHUNK_BYTES", 256 * 12)
    monkeypatch.setattr(dense, "LEAST_ROWS", 8)
    X = np.asarray(np.random.default_rng(0).integers(-9, 9, (900, 3)), np.float32, order=order)
    jax.clear_caches()
    for num_rows in (300, 700, 900):
        check_sums(DenseRows(locate("test", X[:num_rows]), np.ones(3), 1.0, 1.0, np.dtype(np.float32)), X[:num_rows], 1)
    assert dense.sum_chunk._cache_size() == 1


@pytest.mark.parametrize("block", [64, 100, 300])
def test_what_a_block_reads_beyond_the_rows_that_there_are_is_like_the_first(monkeypatch, block):
    monkeypatch.setattr(dense, "CHUNK_BYTES", 640 * 12)
    monkeypatch.setattr(dense, "CPU_BYTES", block * 12)
    monkeypatch.setattr(dense, "LARGE_BYTES", block * 12)
    aligned = dense.aligned
    monkeypatch.setattr(dense, "aligned", lambda shape, dtype: aligned(shape, dtype) * np.nan)
    X = np.random.default_rng(0).integers(-9, 9, (700, 3)).astype(np.float32)
    check_sums(DenseRows(locate("test", X), np.ones(3), 1.0, 1.0, np.dtype(np.float32)), X, 1)


@pytest.mark.parametrize("num_rows", [1, 5, 13, 100, 513])  # of 513 one device has a chunk more than the others
@pytest.mark.parametrize("layout", ["mesh", "reversed", "some"])
def test_every_row_counts_once_over_devices(monkeypatch, num_rows, layout):
    monkeypatch.setattr(dense, "CHUNK_BYTES", 64 * 12)
    monkeypatch.setattr(dense, "CPU_BYTES", 5 * 12)
    monkeypatch.setattr(dense, "ALIGNED", 4)
    devices = {"mesh": jax.devices(), "reversed": jax.devices()[::-1], "some": jax.devices()[5:2:-1]}[layout]
    X = np.random.default_rng(0).integers(-9, 9, (num_rows, 3)).astype(np.float32)
    parts = locate("test", X, Mesh(np.array(devices), ("any",)))
    assert parts.num_rows == num_rows
    check_sums(DenseRows(parts, np.zeros(3), 1.0, 1.0, np.dtype(np.float32)), X, 0)


@pytest.mark.parametrize("spec", [("a",), ("b",), (("a", "b"),), (("b", "a"),), ()])
def test_rows_that_several_devices_hold_count_once(spec):
    two = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    X = np.random.default_rng(0).integers(-9, 9, (40, 3)).astype(np.float32)
    parts = locate("test", jax.device_put(X, NamedSharding(two, PartitionSpec(*spec))))
    assert parts.num_rows == 40
    check_sums(DenseRows(parts, np.zeros(3), 1.0, 1.0, np.dtype(np.float32)), X, 0, np.arange(80.0).reshape(40, 2))


@pytest.mark.parametrize("num_rows", [1, 7, 20])
def test_sparse_rows_count_once_in_blocks_and_tiles(monkeypatch, num_rows):
    for module, name, few in (
        (rows_parts, "SPARSE_ROWS", 7),
        (rows_of_zeros, "TILE_ROWS", 3),
        (rows_of_zeros, "SHARED", 0),
    ):
        monkeypatch.setattr(module, name, few)
    monkeypatch.setattr(rows_of_zeros, "TILE_DENSITY", 0)
    X = numbers(num_rows, 40, 1, 1)[0].astype(np.float32)
    rows = HostRows(locate("test", scipy.sparse.csr_array(X)), np.zeros(40), 1.0, 1.0, np.dtype(np.float32))
    assert len(list(rows._sparse())) == {1: 1, 7: 1, 20: 3}[num_rows]
    check_sums(rows, X, 0, np.arange(2.0 * num_rows).reshape(num_rows, 2))
    whole = list(rows._blocks(4))
    monkeypatch.setattr(host, "SPARSE_BYTES", 8 * 4 * 3)  # three rows of four columns: a tile
    pieces = list(rows._blocks(4))
    assert len(whole) == len(list(rows._sparse()))
    assert len(pieces) == sum(len(block.tiles) for _, block in whole)
    assert [rows.start for rows, _ in pieces] == [0, *(rows.stop for rows, _ in pieces[:-1])]
    check_sums(rows, X, 0, np.arange(2.0 * num_rows).reshape(num_rows, 2))


def test_threads_change_no_bit_of_a_sparse_product(monkeypatch):
    X, centre, V, D, _ = numbers(50, 40, 3, 2)
    monkeypatch.setattr(rows_of_zeros, "TILE_DENSITY", 0)
    monkeypatch.setattr(rows_of_zeros, "TILE_ROWS", 9)
    block = SparseBlock(rows_of_zeros.cut(scipy.sparse.csr_array(X)), centre, 1.0)
    alone = block.times(V), block.transposed_times(D)
    monkeypatch.setattr(rows_of_zeros, "SHARED", 0)
    for processors in (1, 2, 3, 40):
        monkeypatch.setattr(rows_of_zeros, "_processors", lambda processors=processors: processors)
        np.testing.assert_array_equal(block.times(V), alone[0])
        np.testing.assert_array_equal(block.transposed_times(D), alone[1])


def test_threads_of_a_sparse_product_have_the_caller_s_settings_for_errors(monkeypatch):
    monkeypatch.setattr(rows_of_zeros, "SHARED", 0)
    monkeypatch.setattr(rows_of_zeros, "_processors", lambda: 2)
    tile = rows_of_zeros.cut(scipy.sparse.csr_array(np.ones((4, 2))))
    block = SparseBlock(tile * 2, np.ones(2), 1.0)
    V = np.full((1, 3, 2), 1e308)
    with np.errstate(all="raise"), pytest.raises(FloatingPointError):
        block.times(V)
    with np.errstate(all="ignore"):
        assert not np.isfinite(block.times(V)).all()


@pytest.mark.parametrize("num_rows", [1, 4, 5, 300])
def test_few_rows_count_once_in_blocks(monkeypatch, num_rows):
    monkeypatch.setattr(host, "BLOCK_BYTES", 5 * 12)
    X = np.random.default_rng(0).integers(-9, 9, (num_rows, 3)).astype(np.float32)
    check_sums(HostRows(locate("test", X), np.ones(3), 1.0, 1.0, np.dtype(np.float32)), X, 1)


@pytest.mark.parametrize("kind", ["labels", "distributions"])
def test_the_sums_of_rows_in_pieces_are_those_of_all(monkeypatch, kind):
    X, _, V, _, _ = numbers(20, 4, 3, 2)
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 20) if kind == "labels" else rng.dirichlet(np.ones(3), 20)
    weights = rng.dirichlet(np.ones(20), 2).T
    arguments = DenseBlock(X, 1.0), targets, weights, (V, np.array([1, 0], np.int32)), None
    whole = loss_and_gradient(*arguments)
    monkeypatch.setattr(sums, "PIECE", 3 * 7)
    for found, expected in zip(loss_and_gradient(*arguments), whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


def test_a_feature_whose_square_overflows_does_nothing_to_the_rows_that_are_padded():
    """0·∞ of a row of weight 0 would be NaN, which quietly leaves a lane without what it is to end by."""
    X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    X[:, 0] = 1e25
    rows = DenseRows(locate("test", X), np.float32([1e25, 0, 0]), 1.0, 1.0, np.dtype(np.float32))
    by_row = rows.place(np.zeros(10, np.int32)), rows.place(np.full((10, 1), 0.1, np.float32))
    shared = np.zeros((1, 4, 2), np.float32), np.zeros(1, np.int32)
    moment = rows.sum(feature_moment, by_row, shared, columns=2, static=False)
    np.testing.assert_allclose(moment, [0, *np.mean(X[:, 1:] ** 2, axis=0), 1], rtol=1e-5)
    assert np.isfinite(rows.sum(rounding, by_row, shared, columns=2)).all()


@pytest.fixture
def captured(monkeypatch):
    """The arguments with which chunks are summed, program after program."""
    calls, original = [], dense.sum_chunk

    def spy(*arguments):
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None)),
            arguments[4:],
        )
        calls.append((*arguments[:4], *shapes))
        return original(*arguments)

    monkeypatch.setattr(dense, "sum_chunk", spy)
    return calls, original


def test_only_sums_travel_between_devices(captured):
    calls, sum_chunk = captured
    X = np.random.default_rng(0).normal(size=(1600, 6)).astype(np.float32)
    handgrad.fit(kinds.sharded(X, AxisType.Auto), np.arange(1600) % 3, l2=1e-2)
    names = {call[0].__name__ for call in calls}
    assert {"loss_and_gradient", "feature_moment"} <= names
    for name in names:
        arguments = next(call for call in calls if call[0].__name__ == name)
        text = sum_chunk.lower(*arguments).compile().as_text()
        assert "all-reduce" in text, name
        for collective in ("all-gather", "all-to-all", "collective-permute"):
            assert collective not in text, f"{collective} in {name}"


def test_rows_sharded_by_columns_too_are_refused():
    two = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    X = jax.device_put(np.ones((8, 2), np.float32), NamedSharding(two, PartitionSpec("a", "b")))
    with pytest.raises(ValueError, match="fit: X must be sharded by rows alone, each device having all 2 columns"):
        handgrad.fit(X, np.arange(8) % 2, l2=1.0)


@pytest.mark.parametrize(
    ("X", "mesh", "error", "message"),
    [
        (np.eye(4, dtype=np.float32), "rows", TypeError, "mesh must be a jax.sharding.Mesh, with devices; got str"),
        (scipy.sparse.eye_array(4, format="csr"), kinds.mesh, ValueError, "mesh is for dense data; sparse X"),
        (lambda: kinds.sharded(np.eye(8, dtype=np.float32), AxisType.Auto), kinds.mesh, ValueError, "got X on 8 dev"),
    ],
)
def test_a_mesh_that_does_nothing_is_refused(X, mesh, error, message):
    X, mesh = (value() if callable(value) else value for value in (X, mesh))
    with pytest.raises(error, match=f"fit: .*{message}"):
        handgrad.fit(X, np.arange(X.shape[0]) % 2, l2=1.0, mesh=mesh)


def test_rows_lie_where_they_are_or_where_jax_puts_new_arrays():
    X = np.ones((4, 3), np.float32)
    assert locate("test", jax.device_put(X, jax.devices()[3])).devices == (jax.devices()[3],)
    for default, expected in (
        ("cpu", jax.devices()[0]),
        (jax.devices()[5], jax.devices()[5]),
        (None, jax.devices()[0]),
    ):
        with jax.default_device(default):
            assert locate("test", X).devices == (expected,)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_rows")
def test_rows_on_another_device_are_fitted_there():
    X, t = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 3
    expected = handgrad.fit(X, t, l2=0.1).loss
    there = handgrad.fit(jax.device_put(X, jax.devices()[3]), t, l2=0.1)
    np.testing.assert_allclose(there.loss, expected, rtol=1e-6)


# --- Processes -----------------------------------------------------------------------------------------------------


# --- Sparse data ---------------------------------------------------------------------------------------------------


def sparse_problem(num_rows=60, P=6, C=3):
    rng = np.random.default_rng(0)
    X = np.where(rng.random((num_rows, P)) < 0.4, rng.normal(size=(num_rows, P)) * np.geomspace(0.2, 5, P), 0)
    return X.astype(np.float32), rng.integers(0, C, num_rows)


def test_sparse_data_are_never_made_dense(monkeypatch):
    """What has an entry for each row; a P×P second moment of few features may be dense."""
    X, t = sparse_problem(100, 70)
    csr = scipy.sparse.csr_array(X)
    wide = scipy.sparse.hstack([csr, scipy.sparse.csr_array((100, 3000), dtype=np.float32)]).tocsr()
    kind = kinds.KINDS["bcoo"](X)

    def unless_rows(original):
        def checked(self, *arguments, **more):
            assert 100 not in self.shape, f"{type(self).__name__} {self.shape} was made dense"
            return original(self, *arguments, **more)

        return checked

    containers = "csr_array", "csr_matrix", "csc_array", "csc_matrix", "coo_array", "coo_matrix"
    for name in ("toarray", "todense"):
        for container in (*(getattr(scipy.sparse, container) for container in containers), sparse.BCOO):
            if hasattr(container, name):
                monkeypatch.setattr(container, name, unless_rows(getattr(container, name)))
    assert handgrad.fit(wide, t, l2=1e-2).converged
    assert handgrad.fit(kind, t, l2=1e-2).converged
    path = handgrad.fit_path(wide, t, l2s=[0.1, 1.0], validation=3)
    held_out = handgrad.fit_path(wide, t, l2s=[0.1], validation=(wide[:20], t[:20]))
    assert path.converged.all()
    assert held_out.converged.all()
    model = handgrad.SoftmaxRegression(C=0.1).fit(wide, t)
    assert model.predict_proba(wide).shape == (100, 3)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "dia", "bsr"])
@pytest.mark.parametrize("container", ["array", "matrix"])
def test_sparse_data_of_any_format_are_taken(form, container):
    X, t = sparse_problem()
    expected = handgrad.fit(scipy.sparse.csr_array(X), t, l2=1e-2)
    X = getattr(scipy.sparse, f"{form}_{container}")(X)
    np.testing.assert_array_equal(handgrad.fit(X, t, l2=1e-2).params.W, expected.params.W)
    path = handgrad.fit_path(X, t, l2s=[1e-2], validation=(X, t))
    np.testing.assert_allclose(path.validation_loss, expected.loss - 5e-3 * np.sum(expected.params.W**2), rtol=1e-4)


def test_arrays_of_jax_are_read_in_their_own_layout():
    X, t = sparse_problem(6, 6)
    array = jnp.asarray(X)
    padded = sparse.BCOO.fromdense(array, nse=30)
    for layout in (padded, sparse.BCSR.from_bcoo(padded)):
        np.testing.assert_array_equal(to_csr("test", layout).toarray(), X)
    # Square, so that no shape tells that it is the transpose which is in rows.
    with pytest.raises(TypeError, match="fit: sparse X must be SciPy's, BCOO or BCSR; got CSC"):
        handgrad.fit(sparse.CSC.fromdense(array), t, l2=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"n_batch": 1}, {"n_dense": 1}])
def test_arrays_of_jax_may_be_dense_in_one_axis(axes):
    X, _ = sparse_problem(6, 6)
    np.testing.assert_array_equal(to_csr("test", sparse.BCOO.fromdense(jnp.asarray(X), **axes)).toarray(), X)


@pytest.mark.parametrize("narrow", [jnp.float16, jnp.bfloat16, jnp.int8])
def test_narrow_values_of_sparse_arrays_are_widened(narrow):
    X, t = sparse_problem()
    X = np.asarray(jnp.asarray(10 * X).astype(narrow))
    expected = handgrad.fit(scipy.sparse.csr_array(X.astype(np.float32)), t, l2=1e-2)
    indices = np.stack(X.nonzero(), axis=1)
    given = sparse.BCOO((jnp.asarray(X[X != 0]), jnp.asarray(indices)), shape=X.shape)
    np.testing.assert_array_equal(handgrad.fit(given, t, l2=1e-2).params.W, expected.params.W)


def test_zeros_that_are_stored_duplicates_and_unsorted_indices_change_nothing():
    X, t = sparse_problem()
    X[7], X[:, 2] = 0, 0
    plain = scipy.sparse.csr_array(X)
    rows, columns = plain.nonzero()
    halves = np.concatenate([plain.data / 2, plain.data / 2, np.zeros(3, np.float32)])
    where = np.append(np.tile(rows, 2), [7, 8, 9]), np.append(np.tile(columns, 2), [0, 2, 2])
    mixed = np.random.default_rng(1).permutation(len(halves))
    coo = scipy.sparse.coo_array((halves[mixed], tuple(index[mixed] for index in where)), shape=X.shape)
    order = np.argsort(where[0][mixed], kind="stable")
    counts = np.bincount(where[0], minlength=len(X))
    csr = scipy.sparse.csr_array(
        (halves[mixed][order], where[1][mixed][order], np.append(0, np.cumsum(counts))), shape=X.shape
    )
    assert not csr.has_canonical_format
    before = csr.data.copy()
    expected = handgrad.fit(X, t, l2=1e-2)
    for given in (coo, csr):
        assert to_csr("test", given).has_canonical_format
        result = handgrad.fit(given, t, l2=1e-2)
        assert result.converged
        np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
    np.testing.assert_array_equal(csr.data, before)  # the caller's own
    assert handgrad.fit(scipy.sparse.csr_array(X.shape, dtype=np.float32), t, l2=1e-2).converged  # nothing is stored


@pytest.mark.parametrize(("shift", "scale"), [(0, 1e-30), (0, 1e20), (2e4, 1.0)])
def test_sparse_data_of_any_size_and_far_from_zero_are_fitted_in_float32(shift, scale):
    """The centre is taken off after a product: of a feature far from 0 float32 would leave nothing."""
    X, t = sparse_problem()
    X = np.append(X, shift + np.random.default_rng(1).normal(size=(60, 1)), axis=1) * scale
    X, l2 = X.astype(np.float32), 1e-2 * np.clip(scale, 1e-15, 1e18) ** 2
    given = scipy.sparse.csr_array(X)
    result = handgrad.fit(given, t, l2=l2)
    assert result.params.W.dtype == np.float32
    assert result.converged
    W, b, X64 = (np.asarray(array, np.float64) for array in (*result.params, X))
    np.testing.assert_allclose(result.loss, oracles_fit.objective(W, b, X64, np.eye(3)[t], l2)[0], rtol=1e-6)
    rows = HostRows(locate("test", given), X.mean(axis=0, dtype=np.float64), 1.0, 1.0, np.dtype(np.float32))
    assert (next(iter(rows._sparse()))[1].tiles[0].dtype == np.float64) == (shift > 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_row_that_is_not_finite_is_named(bad):
    X, t = sparse_problem()
    X[41, 3] = bad
    for given in (scipy.sparse.csr_array(X), scipy.sparse.csc_array(X), X):
        with pytest.raises(ValueError, match="fit: X must be finite; row 41 has a NaN or an infinity"):
            handgrad.fit(given, t, l2=1.0)
        with pytest.raises(ValueError, match="fit_path: validation X must be finite; row 41 has"):
            handgrad.fit_path(np.ones_like(X), t, l2s=[1.0], validation=(given, t))
    with pytest.raises(ValueError, match="fit: X must be finite; row 41 has a NaN or an infinity"):
        handgrad.fit(X, t, l2=1.0, mesh=kinds.mesh())
