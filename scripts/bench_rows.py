"""Times `fit` where rows are new, many-classed, half-precision, sparse or sharded.

Run: python scripts/bench_rows.py [PART ...]

As in `bench_fit.py` the gap of every answer is taken in float64 by code of its own. What a whole process costs is
measured in new ones, by `in_new_process.py`. Data are drawn from a seed; MNIST-10k is read from the folder that
HANDGRAD_DATA names.
"""

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

import handgrad
from bench_fit import GAP, by_handgrad, by_sklearn, race, relative_gap
from handgrad.rows.dense import Cut, blocks_of
from measure import machine


def in_new_process(function, *arguments, **environment):
    """What a function of in_new_process.py returns, and the seconds of its whole process."""
    script = Path(__file__).with_name("in_new_process.py")
    command = [sys.executable, str(script), function, *map(str, arguments)]
    start = time.perf_counter()
    run = subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
    return {**json.loads(run.stdout.splitlines()[-1]), "process": time.perf_counter() - start}


# --- The first fits of a process -------------------------------------------------------------------------------------


def bench_first():
    print("\nfirst fit in a new process, seconds | the ones after it | the first beyond them")
    for data in ("digits", "MNIST-10k"):
        if data == "MNIST-10k" and "HANDGRAD_DATA" not in os.environ:
            print(f"{data:<20} skipped, HANDGRAD_DATA does not name a folder")
            continue
        runs = [in_new_process("first_fit", data) for _ in range(3)]
        run = sorted(runs, key=lambda run: run["first"] - run["later"])[1]
        print(f"{data:<20} {run['first']:.2f} | {run['later']:.3f} | {run['first'] - run['later']:.2f}", flush=True)


def bench_sizes():
    run = in_new_process("random_sizes", "")
    print(
        f"\n20 fits of random N, P = 30, C = 3, in a new process: {run['seconds']:.2f} s; {run['compiling']} of them "
        f"compiled something, {sum(run['programs'])} programs in all, fit by fit {run['programs']}"
    )


def bench_folds():
    print("\ncross_val_score(cv=TimeSeriesSplit(9)) on scaled breast cancer in a new process, seconds | accuracy")
    for library in ("handgrad", "scikit-learn"):
        run = in_new_process("folds", library)
        print(f"{library:<20} {run['seconds']:.2f} | {run['score']:.4f}", flush=True)


# --- Many classes ----------------------------------------------------------------------------------------------------


def bench_classes():
    N, P, C = 20000, 256, 1000
    rng = np.random.default_rng(0)
    t = rng.integers(0, C, N)
    X = (0.5 * rng.standard_normal((C, P))[t] + rng.standard_normal((N, P))).astype(np.float32)
    cut = Cut(C, jax.devices()[0].platform == "cpu")
    block = blocks_of(N, P, (P + 1) * C, cut, np.dtype(np.float32)).rows
    times = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    @jax.jit
    def products(V, X):
        def add(i, total):
            rows = jax.lax.dynamic_slice_in_dim(X, i * block, block)
            return total + times(jax.lax.optimization_barrier(times(V, rows.T)), rows)

        return jax.lax.fori_loop(0, N // block, add, jnp.zeros_like(V))

    V, placed = jnp.asarray(rng.standard_normal((C, P)), jnp.float32), jnp.asarray(X)
    jax.block_until_ready(products(V, placed))
    ratios = []
    for _ in range(5):
        seconds = np.diff(iteration_times(X, t, iterations=12))
        start = time.perf_counter()
        for _ in range(10):
            jax.block_until_ready(products(V, placed))
        alone = (time.perf_counter() - start) / 10 * N / (N // block * block)
        # Some iterations of a line that is hard to search take two passes or more.
        ratios.append(float(np.mean(seconds[seconds < 1.5 * seconds.min()])) / alone)
    print(
        f"\nan iteration of one pass at {(N, P, C)} over its two products in blocks of {block}, {1e3 * alone:.0f} ms: "
        f"{statistics.median(ratios):.2f} × ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def iteration_times(X, t, iterations):
    """When each of the first iterations of a fit ended, which is then broken off."""
    times = []

    def tick(iteration, _loss, _gap):
        times.append(time.perf_counter())
        if iteration >= iterations:
            raise StopIteration

    with contextlib.suppress(StopIteration):
        handgrad.fit(X, t, l2=1e-5, callback=tick)
    return times


# --- Half precision --------------------------------------------------------------------------------------------------


def bench_half():
    print("\nembeddings: whole process, s | ratio | fit alone, s | MB above the import | gap")
    for name, draw in (("alike in all directions", even_embeddings), ("of a text encoder's kind", uneven_embeddings)):
        X, t = draw(np.random.default_rng(0), 50000, 384, 100)
        print(f"{X.shape}, float16, 100 classes, C=1, {name}", flush=True)
        race_of_processes(X.astype(np.float16), t)


def even_embeddings(rng, N, P, C):
    """Classes of normal rows, scaled to the length √P: as easy for a solver as data can be."""
    t = rng.integers(0, C, N)
    X = rng.standard_normal((N, P), np.float32) + 0.35 * rng.standard_normal((C, P), np.float32)[t]
    return X / np.linalg.norm(X, axis=1, keepdims=True) * P**0.5, t


def uneven_embeddings(rng, N, P, C):
    """Rows of length √P whose k-th variance is 1/k of the first, about a mean as large as all that varies."""
    t = rng.integers(0, C, N)
    sizes = np.arange(1, P + 1, dtype=np.float32) ** -0.5
    X = rng.standard_normal((N, P), np.float32) + 0.5 * rng.standard_normal((C, P), np.float32)[t]
    X = (X * sizes) @ np.linalg.qr(rng.standard_normal((P, P)))[0].astype(np.float32)
    X += np.linalg.norm(sizes) / P**0.5
    return X / np.linalg.norm(X, axis=1, keepdims=True) * P**0.5, t


def race_of_processes(X, t):
    ours = None
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "X.npy", X)
        np.save(Path(folder) / "t.npy", t)
        for library in ("handgrad", "lbfgs", "newton-cg"):
            for tol in (0.97 * GAP,) if library == "handgrad" else 10.0 ** -np.arange(5, 9, 0.5):
                run = in_new_process("embeddings", library, folder, tol)
                W, b = (np.load(Path(folder) / f"{name}.npy") for name in "Wb")
                gap = relative_gap(W, b, X, t, 1 / len(X))
                if gap <= GAP or run["process"] > 40:
                    break
            ours = ours or run["process"]
            print(
                f"{library:<20} {run['process']:6.2f} | {run['process'] / ours:5.2f} | {run['seconds']:6.2f} | "
                f"{run['above_import'] / 1e6:5.0f} | {gap:.1e}{'' if gap <= GAP else '  not reached'}",
                flush=True,
            )


# --- Sparse ----------------------------------------------------------------------------------------------------------


def documents(N, P, per_row, shares):
    """Rows of tf-idf of words: most of them drawn as Zipf has it, some from 400 words of the row's own class."""
    rng = np.random.default_rng(0)
    t = rng.choice(len(shares), N, p=shares / shares.sum())
    words = np.searchsorted(np.cumsum(_zipf(P)), rng.random((N, per_row)))
    topics = np.stack([rng.choice(P, 400, p=_zipf(P), replace=False) for _ in shares])
    own = topics[t[:, None], rng.integers(0, 400, (N, per_row))]
    words = np.minimum(np.where(rng.random((N, per_row)) < 0.12, own, words), P - 1)
    counts = scipy.sparse.coo_array((np.ones(words.size), (np.repeat(np.arange(N), per_row), words.ravel())), (N, P))
    counts = counts.tocsr()
    counts.sum_duplicates()
    in_rows = np.bincount(counts.indices, minlength=P)
    counts.data = (1 + np.log(counts.data)) * (1 + np.log((1 + N) / (1 + in_rows)))[counts.indices]
    lengths = np.sqrt(counts.multiply(counts).sum(axis=1))
    counts.data /= np.repeat(lengths, np.diff(counts.indptr))
    return counts.astype(np.float32), t


def _zipf(P):
    weights = 1 / (np.arange(P) + 100.0)
    return weights / weights.sum()


def sparse_solvers():
    tolerances = tuple(10.0 ** -np.arange(2, 7.5, 0.5))
    yield "handgrad.fit", by_handgrad
    for solver in ("newton-cg", "lbfgs"):
        for dtype in (np.float32, np.float64):
            name = f"{solver} {dtype.__name__}"
            yield (
                name,
                functools.partial(by_sklearn, solver, tolerances[2:] if solver == "lbfgs" else tolerances, dtype),
            )


def bench_topics():
    X, t = documents(11314, 130107, 185, np.ones(20))
    print(f"\n{X.nnz} values", end="")
    for C in (1.0, 10.0):
        race("topics", X, t, C, sparse_solvers())


def bench_news():
    X, t = documents(60000, 47236, 77, 1 / (1 + np.arange(53.0)))
    print(f"\n{X.nnz} values", end="")
    race("news", X, t, 1.0, sparse_solvers())


# --- Memory and devices ----------------------------------------------------------------------------------------------


def bench_memory():
    run = in_new_process("memory", "")
    temporary, rise = (run[name] / run["X"] for name in ("temporary", "rise"))
    print(
        f"\nmemory at (60000, 784, 10), X of {run['X'] / 1e6:.0f} MB apart: the sweep's program needs {temporary:.3f} "
        f"X, the process grows by {rise:.3f} X",
        flush=True,
    )


def bench_devices():
    for N in (20000, 40000):
        run = in_new_process("devices", N, XLA_FLAGS="--xla_force_host_platform_device_count=8")
        travels = "; ".join(f"{kind} of {elements} elements" for kind, elements in run["collectives"])
        print(
            f"\n{N} rows over {run['devices']} devices, P = 64, C = 10: {travels or 'nothing travels'}. Against one "
            f"device the loss differs by {run['loss']:.1e}, W by {run['W']:.1e}; gap {run['gap']:.1e}",
            flush=True,
        )


PARTS = {
    "first": bench_first,
    "sizes": bench_sizes,
    "folds": bench_folds,
    "classes": bench_classes,
    "half": bench_half,
    "topics": bench_topics,
    "news": bench_news,
    "memory": bench_memory,
    "devices": bench_devices,
}

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(machine())
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
