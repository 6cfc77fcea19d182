"""The preconditioner with blocks of the leading eigenvectors: what it is, how large, and what it saves."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from handgrad import fit
from handgrad.rows import host
from handgrad.solvers import kronecker, placed, sweeps
from handgrad.solvers.kronecker import Curvature, invert_blocks, next_size, preconditioner, sizes_of_blocks
from handgrad.solvers.sums import ClassMoments


def rows_of(N, P):
    return SimpleNamespace(shape=(N, P), parts=SimpleNamespace(num_entries=N * P))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("vectors", [2, 5])
def test_it_is_the_inverse_of_blocks_and_of_a_diagonal(xp, vectors):
    rng, P, C, l2 = np.random.default_rng(0), 5, 3, 0.1
    a, g = np.append(np.sort(rng.uniform(0.1, 1, P)), 1.0), rng.uniform(0.1, 1, (1, C))
    factors = rng.normal(size=(C, vectors + 1, vectors + 1))
    blocks = factors @ factors.transpose(0, 2, 1) + np.eye(vectors + 1)
    V = rng.normal(size=(2, P + 1, C))
    rest = P - vectors
    expected = V / (a[:, None] * g + l2)
    for c in range(C):
        expected[:, rest:, c] = np.linalg.solve(blocks[c], V[:, rest:, c].T).T
    expected -= expected.mean(axis=2, keepdims=True)
    curvature = Curvature(*map(xp.asarray, (a, np.eye(P + 1), np.linalg.inv(blocks))))
    precondition = preconditioner(curvature, xp.asarray(g), xp.asarray([l2]), np.ones((1, C), bool))
    np.testing.assert_allclose(precondition(xp.asarray(V)), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("N", "P", "C", "lanes"),
    [(10000, 784, 10, 1), (10000, 784, 10, 8), (60000, 512, 100, 1), (1281167, 2048, 1000, 1), (2000, 12, 5000, 1)],
)
def test_blocks_keep_to_the_memory_that_they_may_take(N, P, C, lanes):
    sizes = sizes_of_blocks(rows_of(N, P), C, lanes)
    vectors = [size.vectors for size in sizes]
    assert vectors == sorted(vectors)
    assert vectors[0] <= 64
    assert vectors[-1] <= P
    limit = min(kronecker.LARGE_BLOCKS, max(kronecker.SMALL_BLOCKS, N * P / (1 if lanes > 1 else 4)))
    assert C * (vectors[-1] + 1) ** 2 <= limit
    assert vectors[-1] == P or C * (vectors[-1] + kronecker.LEADING + 1) ** 2 > limit


def test_blocks_of_a_few_more_rows_have_the_same_sizes_and_compile_nothing():
    assert sizes_of_blocks(rows_of(10000, 784), 10, 1) == sizes_of_blocks(rows_of(10001, 784), 10, 1)
    assert sizes_of_blocks(rows_of(9000, 784), 10, 1) == sizes_of_blocks(rows_of(10200, 784), 10, 1)


def test_there_are_no_blocks_without_eigenvectors_or_memory():
    assert sizes_of_blocks(rows_of(100, 300), 3, 1) == []
    assert sizes_of_blocks(rows_of(20000, 256), 1000, 1) == []


@pytest.mark.parametrize("width", [5, kronecker.ALONE + 1])
def test_there_are_no_blocks_of_a_trial_beyond_the_range_of_the_dtype(width):
    moments = np.broadcast_to(np.eye(width, dtype=np.float32), (2, width, width)).copy()
    nothing, a = np.zeros(len(moments)), np.ones(moments.shape[1])
    assert np.isfinite(invert_blocks(ClassMoments(moments, nothing), a, np.ones(1))).all()
    moments[1, 2, 3] = np.nan
    assert invert_blocks(ClassMoments(moments, nothing), a, np.ones(1)) is None
    moments[1, 2, 3], nothing[1] = 0, np.inf
    assert invert_blocks(ClassMoments(moments, nothing), a, np.ones(1)) is None


@pytest.mark.parametrize("xp", [np, jnp])
def test_a_direction_that_bends_nothing_is_not_taken(xp):
    a, g, V = (xp.asarray(array, np.float32) for array in ([0, 2, 1], [[0.1, 0.2]], [[[3, -1], [1, -2], [2, 5]]]))
    divide = preconditioner(
        Curvature(a, xp.eye(3, dtype=np.float32), None), g, xp.zeros(1, np.float32), xp.ones((1, 2), bool)
    )
    found = np.asarray(divide(V + 0))[0]
    np.testing.assert_array_equal(found[0], 0)
    expected = np.asarray(V)[0, 1:] / np.outer([2, 1], [0.1, 0.2])
    np.testing.assert_allclose(found[1:], expected - expected.mean(axis=1, keepdims=True), rtol=1e-5)


def test_blocks_have_more_and_more_vectors_and_as_many_as_the_problems_pay_for():
    sizes = sizes_of_blocks(rows_of(10000, 784), 10, 1)
    numbers = [-1]
    for _ in range(7):
        numbers.append(next_size(sizes, numbers[-1], 1))
    assert [sizes[number].vectors for number in numbers[1:]] == [64, 64, 64, 128, 256, 384, 384]
    # All rows where that costs little, a quarter of them where it would cost much more, and all of them in the end.
    assert [size.part for size in sizes] == [1, 1, 1, 1, 4, 4, 1]
    of_lanes = sizes_of_blocks(rows_of(10000, 784), 10, 8)
    assert of_lanes[next_size(of_lanes, -1, 32)][:2] == (784, 4)


@pytest.mark.parametrize("in_lanes", ["on the host", "compiled"])
def test_leading_blocks_save_a_quarter_of_the_iterations(in_lanes, monkeypatch):
    if in_lanes == "compiled":
        monkeypatch.setattr(placed, "FEW", 0)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 120)) * np.logspace(0, -2, 120)
    X = (X @ np.linalg.qr(rng.normal(size=(120, 120)))[0]).astype(np.float32)
    t = np.argmax(30 * X @ rng.normal(size=(120, 4)) + rng.gumbel(size=(3000, 4)), axis=1)
    monkeypatch.setattr(kronecker, "LEADING", 16)
    made, invert = [], sweeps.invert_blocks
    monkeypatch.setattr(sweeps, "invert_blocks", lambda *given: made.append(given[0].moments.shape) or invert(*given))
    result = fit(X, t, l2=1e-5)
    monkeypatch.setattr(sweeps, "sizes_of_blocks", lambda *_: [])
    without = fit(X, t, l2=1e-5)
    assert result.converged
    assert made[0] == (4, 17, 17)
    assert result.iterations < 0.75 * without.iterations


@pytest.mark.parametrize("rows", ["on the host", "compiled"])
def test_blocks_cost_rare_categories_no_iterations(rows, monkeypatch):
    if rows == "compiled":
        monkeypatch.setattr(host, "FEW", 0)
    rng = np.random.default_rng(0)
    X = np.eye(60, dtype=np.float32)[rng.zipf(1.3, (2, 6000)) % 30 + np.array([[0], [30]])].sum(axis=0)
    t = np.argmax(2 * X @ rng.normal(size=(60, 2)) + rng.gumbel(size=(6000, 2)), axis=1)
    monkeypatch.setattr(kronecker, "WORTH", 0)
    assert sizes_of_blocks(rows_of(6000, 60), 2, 1)[0].part > 1
    result = fit(X, t, l2=1e-7)
    monkeypatch.setattr(sweeps, "sizes_of_blocks", lambda *_: [])
    assert result.converged
    assert result.iterations <= fit(X, t, l2=1e-7).iterations
