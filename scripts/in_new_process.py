"""What `bench_rows.py` measures in processes of their own: python scripts/in_new_process.py FUNCTION [ARGUMENT ...]

Each function prints what it returns, as JSON, and imports no more than what it measures. Memory is read from /proc,
so on Linux alone: the peak that getrusage knows counts what the parent had in memory when it made the process.
"""

import json
import os
import sys
import time
import warnings
from pathlib import Path

import numpy as np


def first_fit(data):
    """Seconds of a first fit, and of the ones that follow."""
    import bench_fit
    import handgrad

    X, t = {"digits": bench_fit.digits, "MNIST-10k": bench_fit.mnist}[data]()
    X = X.astype(np.float32)
    first, *later = (_seconds(lambda: handgrad.fit(X, t, l2=1 / len(X))) for _ in range(4))
    return {"first": first, "later": sorted(later)[1]}


def random_sizes(_):
    """20 fits of a random number of rows: how many compiled something, how many programs in all, and the seconds."""
    import jax

    import handgrad

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(seconds) if event.endswith("backend_compile_duration") else None
    )
    rng, spent, programs = np.random.default_rng(0), [], []
    for N in rng.integers(1000, 2001, 20):
        X, t = rng.normal(size=(N, 30)).astype(np.float32), rng.integers(0, 3, N)
        before = len(compiled)
        spent.append(_seconds(lambda X=X, t=t: handgrad.fit(X, t, l2=1e-3)))
        programs.append(len(compiled) - before)
    return {"seconds": sum(spent), "compiling": sum(map(bool, programs)), "programs": programs}


def folds(library):
    """cross_val_score on scaled breast cancer, folds of nine sizes: seconds after what is needed is imported."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import TimeSeriesSplit, cross_val_score
    from sklearn.preprocessing import scale

    model = LogisticRegression()
    if library == "handgrad":
        from handgrad.estimator import SoftmaxRegression

        model = SoftmaxRegression()
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    start = time.perf_counter()
    scores = cross_val_score(model, X, y, cv=TimeSeriesSplit(9))
    return {"seconds": time.perf_counter() - start, "score": scores.mean()}


def embeddings(library, folder, tol):
    """A fit of X.npy and t.npy to W.npy and b.npy: seconds of the fit, and peak memory above what the import took."""
    folder = Path(folder)
    if library == "handgrad":
        import handgrad

        imported = _peak()
        X, t = np.load(folder / "X.npy"), np.load(folder / "t.npy")
        results = []
        spent = _seconds(lambda: results.append(handgrad.fit(X, t, l2=1 / len(X), tol=float(tol))))
        W, b = results[0].params
    else:
        from sklearn.linear_model import LogisticRegression

        imported = _peak()
        X, t = np.load(folder / "X.npy"), np.load(folder / "t.npy")
        model = LogisticRegression(solver=library, tol=float(tol), max_iter=2000)
        spent = _seconds(lambda: model.fit(X.astype(np.float32), t))
        W, b = model.coef_.T, model.intercept_
    np.save(folder / "W.npy", W)
    np.save(folder / "b.npy", b)
    return {"seconds": spent, "above_import": _peak() - imported}


def memory(_):
    """At (60000, 784, 10): the temporary bytes of the sweep, and how far a fit's memory rises above what there was."""
    import handgrad
    from handgrad.rows import dense

    rng = np.random.default_rng(0)
    X, t = rng.standard_normal((60000, 784), np.float32), rng.integers(0, 10, 60000)
    calls = _recorded(dense, "sum_chunk")

    def fit():
        with warnings.catch_warnings(action="ignore"):
            handgrad.fit(X, t, l2=1e-2)

    fit()
    temporary = max(program.memory_analysis().temp_size_in_bytes for program in _compiled(calls))
    before = _current()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
    fit()
    return {"temporary": temporary, "rise": _peak() - before, "X": X.nbytes}


def devices(num_rows):
    """X on 8 devices of one processor: the collectives of the sweep, and how far the answer is from one device's."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    import handgrad
    from handgrad.rows import dense
    from measure import collectives

    rng = np.random.default_rng(0)
    t = rng.integers(0, 10, int(num_rows))
    X = (rng.standard_normal((10, 64))[t] + 2 * rng.standard_normal((int(num_rows), 64))).astype(np.float32)
    alone = handgrad.fit(X, t, l2=1e-2)
    calls = _recorded(dense, "sum_chunk")
    rows = NamedSharding(jax.make_mesh((jax.device_count(),), ("rows",)), PartitionSpec("rows"))
    sharded = handgrad.fit(jax.device_put(X, rows), t, l2=1e-2)
    found = sorted({each for program in _compiled(calls) for each in collectives(program.as_text())})
    return {
        "collectives": found,
        "devices": jax.device_count(),
        "loss": abs(sharded.loss / alone.loss - 1),
        "W": float(np.abs(sharded.params.W - alone.params.W).max() / np.abs(alone.params.W).max()),
        "gap": sharded.gap / sharded.loss,
    }


def _recorded(module, name):
    """Lets the calls of a compiled function be recorded: a list of (function, arguments as shapes)."""
    import jax

    function, calls = getattr(module, name), {}

    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None))

    def record(*arguments):
        static, arrays = arguments[:4], jax.tree.map(shape, arguments[4:])
        calls[str((static, arrays))] = (function, *static, *arrays)
        return function(*arguments)

    setattr(module, name, record)
    return calls


def _compiled(calls):
    return [function.lower(*arguments).compile() for function, *arguments in calls.values()]


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _peak():
    return _status("VmHWM:")


def _current():
    return _status("VmRSS:")


def _status(field):
    return next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(field))


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(__file__))
    warnings.filterwarnings("ignore")
    name, *arguments = sys.argv[1:]
    print(json.dumps(globals()[name](*arguments)))
