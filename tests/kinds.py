"""The kinds of rows that data may come in, each made of a NumPy array X, and `fit` on each of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from handgrad.rows import host
from handgrad.solvers import placed

DEVICES = 8


def mesh(axis_type=AxisType.Auto):
    return jax.make_mesh((DEVICES,), ("rows",), axis_types=(axis_type,))


def sharded(X, axis_type):
    return jax.device_put(X, NamedSharding(mesh(axis_type), PartitionSpec("rows")))


class Blocks:
    """A source of blocks of many sizes, of no rows too, all of them in one buffer."""

    SIZES = 3, 0, 1, 40, 7

    def __init__(self, X, *by_row):
        self.arrays, self.dtype, self.passes = (X, *by_row), X.dtype, 0

    def __iter__(self):
        self.passes += 1
        buffers = [np.empty((max(self.SIZES), *array.shape[1:]), array.dtype) for array in self.arrays]
        start, number = 0, 0
        while start < len(self.arrays[0]):
            size = min(self.SIZES[number % len(self.SIZES)], len(self.arrays[0]) - start)
            number += 1
            for buffer, array in zip(buffers, self.arrays, strict=True):
                buffer[:size] = array[start : start + size]
            block = [buffer[:size] for buffer in buffers]
            yield block[0] if len(block) == 1 else tuple(block)
            start += size
            for buffer in buffers:
                buffer[...] = 77  # of no use to who has not copied it


class SparseBlocks:
    """A source of sparse blocks of many sizes, of no rows too, whose memory is of no use after them."""

    def __init__(self, X, *by_row, of=lambda block: block):
        self.arrays, self.dtype, self.of = (scipy.sparse.csr_array(X), *by_row), X.dtype, of

    def __iter__(self):
        start, number = 0, 0
        while start < self.arrays[0].shape[0]:
            size = Blocks.SIZES[number % len(Blocks.SIZES)]
            number += 1
            X, *by_row = (array[start : start + size] for array in self.arrays)
            yield (self.of(X), *by_row) if by_row else self.of(X)
            start += size
            X.data[:], X.indices[:] = 77, 0


# What `fit` is given for X. A kind that does not hold X exactly is none that its data come in.
KINDS = {
    "dense": lambda X: X,
    "compiled": lambda X: X,  # as dense data are that are not few
    "jax": jnp.asarray,
    "float16": lambda X: X.astype(np.float16),
    "bfloat16": lambda X: jnp.asarray(X, jnp.bfloat16),
    "int8": lambda X: X.astype(np.int8),
    "uint16": lambda X: X.astype(np.uint16),
    "csr": scipy.sparse.csr_array,
    "csc": scipy.sparse.csc_matrix,
    "coo": scipy.sparse.coo_array,
    "bcoo": lambda X: sparse.BCOO((jnp.asarray(X[X != 0]), jnp.asarray(np.argwhere(X))), shape=X.shape),
    "bcsr": lambda X: sparse.BCSR.from_scipy_sparse(scipy.sparse.csr_matrix(X)),
    "mesh": lambda X: X,
    "streamed": Blocks,
    "streamed, mesh": Blocks,
    "streamed, sparse": SparseBlocks,
    "auto": lambda X: sharded(X, AxisType.Auto),
    "explicit": lambda X: sharded(X, AxisType.Explicit),
}
SHARDED = "auto", "explicit"
STREAMED = "streamed", "streamed, mesh", "streamed, sparse"
SPARSE = "csr", "csc", "coo", "bcoo", "bcsr"
NARROW = "float16", "bfloat16", "int8", "uint16"


def to_kind(kind, X):
    """X as this kind, and the arguments that go with it; the test is skipped where the kind does not hold X."""
    with np.errstate(all="ignore"):
        converted = KINDS[kind](X)
        same = kind in SPARSE or kind in STREAMED or np.array_equal(np.asarray(converted).astype(X.dtype), X)
    wide = jax.dtypes.canonicalize_dtype(X.dtype) == np.float64
    as_precise = not wide if kind in NARROW else converted.dtype == X.dtype
    if not (same and as_precise):
        pytest.skip(f"{kind} does not hold these data")
    return converted, {"mesh": mesh()} if "mesh" in kind else {}


def on_kind(kind, function):
    """`fit` or `fit_path` of X as this kind, with rows of weight 0 where so many devices cannot share them evenly."""

    def with_kind(X, targets, **arguments):
        missing = -len(X) % DEVICES if kind in SHARDED else 0
        if missing:
            weights = arguments.get("weights")
            weights = np.ones(len(X)) if weights is None else weights
            arguments["weights"] = np.append(weights, np.zeros(missing))
            X, targets = (np.concatenate([array, array[:1].repeat(missing, axis=0)]) for array in (X, targets))
        X, more = to_kind(kind, X)
        with pytest.MonkeyPatch.context() as patched:
            if kind == "compiled":
                patched.setattr(host, "FEW", 0)
                patched.setattr(placed, "FEW", 0)
            return function(X, targets, **arguments, **more)

    return with_kind


def over_kinds(metafunc, fixture, by_default):
    """Parametrise a fixture over all kinds, of which dense, and those that a test has by default, are not slow."""
    if fixture in metafunc.fixturenames:
        quick = "dense", *by_default.get(metafunc.function.__name__, ())
        cases = [pytest.param(kind, marks=() if kind in quick else pytest.mark.slow) for kind in KINDS]
        metafunc.parametrize(fixture, cases, indirect=True)
