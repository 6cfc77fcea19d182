"""The compiled programs of the rows: the memory they take, and that few serve whatever comes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
from handgrad.rows import dense, locate
from handgrad.rows.dense import DenseRows
from handgrad.solvers.sums import loss_and_gradient


def test_temporary_memory_is_a_fraction_of_the_data(monkeypatch):
    def measured(of, static, cut, mesh, about, own, shared):
        described = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), (about, own, shared))
        raise MeasuredError(sum_chunk.lower(of, static, cut, mesh, *described).compile().memory_analysis())

    sum_chunk = dense.sum_chunk
    monkeypatch.setattr(dense, "sum_chunk", measured)
    rows = DenseRows(locate("test", jnp.zeros((12800, 784))), np.zeros(784), 1.0, 1.0, np.dtype(np.float32))  # 40 MB
    by_row = rows.place(np.zeros(12800, np.int32)), rows.place(np.ones((12800, 1), np.float32))
    shared = np.zeros((1, 785, 10), np.float32), np.zeros(1, np.int32)
    with pytest.raises(MeasuredError) as caught:
        rows.sum(loss_and_gradient, by_row, shared, columns=10)
    (memory,) = caught.value.args
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes <= 0.3 * 12800 * 784 * 4


class MeasuredError(Exception):
    """Carries what was found of a program that is not run."""


@pytest.mark.usefixtures("compiled_rows")
def test_few_programs_serve_any_number_of_rows():
    rng = np.random.default_rng(0)
    jax.clear_caches()
    for _ in range(20):
        X = rng.normal(size=(rng.integers(1000, 2001), 30)).astype(np.float32)
        assert handgrad.fit(X, rng.integers(0, 3, len(X)), l2=0.1, tol=1e-3).converged
    assert dense.sum_chunk._cache_size() <= 6  # the sweep with G and without, A, the class blocks, the slopes


@pytest.mark.usefixtures("compiled_rows")
def test_new_callbacks_weights_and_folds_compile_nothing():
    rng = np.random.default_rng(0)
    X, t = rng.normal(size=(300, 4)).astype(np.float32), rng.integers(0, 3, 300)
    handgrad.fit(X, t, l2=0.1)
    handgrad.fit_path(X, t, l2s=[0.1, 1.0], validation=3)
    before = dense.sum_chunk._cache_size()
    for number in range(3):
        handgrad.fit(X, t, l2=0.1 * number + 0.1, weights=rng.uniform(0, 1, 300), callback=lambda *_: None)
        handgrad.fit_path(X[number:], t[number:], l2s=[0.1, 2.0], validation=3)
    assert dense.sum_chunk._cache_size() == before
