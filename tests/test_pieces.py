"""How work is cut: products of NumPy's arrays for BLAS, so that it wakes no threads, and rows for the cache."""

from typing import ClassVar

import numpy as np
import pytest

from handgrad.rows import dense
from handgrad.rows.blocks import ALONE, ALONE_VECTOR, inner, product

# m, k and n of (m, k) times (k, n).
PRODUCTS = [
    *((10, 64, 1797), (64, 1797, 64), (1, 20000, 3), (3, 4, 50001), (50001, 4, 3), (20001, 9, 1)),
    *((385, 385, 100), (100, 385, 385), (785, 785, 20), (520, 520, 52), (33, 900, 500)),  # cut both ways
]


@pytest.mark.parametrize(("m", "k", "n"), [*PRODUCTS, (7, 0, 5)])
def test_products_in_pieces_are_the_products(m, k, n):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(m, k)), rng.normal(size=(k, n))
    np.testing.assert_allclose(product(a, b), np.einsum("mk,kn->mn", a, b), atol=1e-10)
    np.testing.assert_allclose(product(a.T.copy().T, b), np.einsum("mk,kn->mn", a, b), atol=1e-10)
    several = rng.normal(size=(2, m, k)), rng.normal(size=(2, k, n))
    np.testing.assert_allclose(product(*several), np.einsum("jmk,jkn->jmn", *several), atol=1e-10)
    np.testing.assert_allclose(product(a, several[1]), np.einsum("mk,jkn->jmn", a, several[1]), atol=1e-10)
    np.testing.assert_allclose(product(several[0], b[None]), np.einsum("jmk,kn->jmn", several[0], b), atol=1e-10)


class Watched(np.ndarray):
    """An array that counts the multiplications of each product of two matrices that BLAS is asked for."""

    counts: ClassVar[list[tuple[int, int]]] = []

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        if ufunc is np.matmul:
            (*_, m, k), (*_, n) = (array.shape for array in inputs)
            self.counts.append((m * k * n, min(m, n)))
        inputs = [np.asarray(array) for array in inputs]
        found = getattr(ufunc, method)(*inputs, out=None if out is None else (np.asarray(out[0]),), **settings)
        return found.view(Watched)


@pytest.mark.parametrize(("m", "k", "n"), PRODUCTS)
def test_products_of_lanes_wake_no_threads_that_would_take_a_core_from_the_sweeps(m, k, n):
    Watched.counts.clear()
    product(np.ones((m, k)).view(Watched), np.ones((k, n)).view(Watched))
    assert Watched.counts
    assert all(count <= (ALONE if thin > 1 else ALONE_VECTOR) for count, thin in Watched.counts)


@pytest.mark.parametrize("shape", [(1, 38_500), (3, 9001), (2, 130, 70)])
def test_inner_products_of_many_numbers_wake_no_threads(shape):
    a, b = np.random.default_rng(0).normal(size=(2, *shape))
    Watched.counts.clear()
    np.testing.assert_allclose(inner(a.view(Watched), b.view(Watched)), (a * b).reshape(shape[0], -1).sum(axis=1))
    assert Watched.counts
    assert all(count <= ALONE_VECTOR for count, _ in Watched.counts)


@pytest.mark.parametrize("seed", range(50))
def test_blocks_are_as_large_as_the_cache_and_none_is_left_over(seed):
    rows, num_features, columns = (10 ** np.random.default_rng(seed).uniform(0, [6, 5, 4])).astype(int).tolist()

    def blocks_of(on_cpu, num_sums=1):
        return dense.blocks_of(rows, num_features, num_sums, dense.Cut(columns, on_cpu), np.dtype(np.float32))

    for num_sums, limit, together in ((1, dense.CPU_BYTES, dense.CPU_AT_ONCE), (2**20, dense.LARGE_BYTES, 1)):
        block, at_once = blocks_of(on_cpu=True, num_sums=num_sums)
        fit = max(1, min(limit // (4 * max(num_features, columns)), dense.CPU_ROWS))
        assert at_once == (1 if fit >= rows else together)
        assert min(rows, fit // 2) <= block <= min(rows, fit) + dense.ALIGNED
        times = -(-rows // (at_once * block))
        assert times * at_once * block < rows + times * at_once * dense.ALIGNED
    elsewhere, one = blocks_of(on_cpu=False)
    fit = max(1, dense.OTHER_BYTES // (4 * max(num_features, columns)))
    assert one == 1
    assert min(rows, fit) - dense.ALIGNED < elsewhere <= min(rows, fit)
