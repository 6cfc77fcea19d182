"""Fits data of which each process has some rows, or is refused; run by `test_processes` as `processes.py OUT`."""

import sys

import jax
import numpy as np
import scipy.sparse
from jax.sharding import NamedSharding, PartitionSpec

import handgrad
from handgrad import launching, processes
from kinds import Blocks, SparseBlocks

N, P, C, L2 = 103, 5, 3, 1e-2


def problem():
    """Rows whose number no number of processes divides. The last class is that of some of the last rows alone."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, P)).astype(np.float32) * [1, 10, 0.1, 1, 3] + np.float32(2)
    labels = rng.integers(0, C - 1, N)
    labels[-20::3] = C - 1
    return X.astype(np.float32), labels, rng.uniform(0.5, 2, N).astype(np.float32)


def weights_of(name):
    """Those of the rows that a fit is given."""
    weights = problem()[2]
    if name.endswith("stream without weight"):
        weights[:41] = 0
    return weights


def of_process(count, number):
    """The rows of a process: the first has 41, and of more than two the last has none."""
    ends = [0, 41, *np.linspace(41, N, max(2, count - 1)).round().astype(int)[1:], *[N] * (count > 2)]
    return slice(*ends[number : number + 2]) if count > 1 else slice(0, N)


def refusals(number, own):
    """What each process hears of rows that one of them should not have."""
    X, labels, weights = own
    other = number == 1
    wrong = {
        "features": Blocks(X[:, : P - other], labels, weights),
        "dtypes": Blocks(X.astype(np.float64 if other else np.float32), labels, weights),
        "weights": Blocks(X, labels) if other else Blocks(X, labels, weights),
        "labels": Blocks(X, labels - 5 * other, weights),
        "not finite": Blocks(np.where(other, np.nan, X), labels, weights),
        "nothing": Blocks(X[:0], labels[:0], weights[:0]),
        "sparse ones": SparseBlocks(X, labels, weights) if other else Blocks(X, labels, weights),
        "sparse, not finite": SparseBlocks(np.where(other, np.nan, X), labels, weights),
    }
    for name, source in wrong.items():
        try:
            handgrad.fit(source, None, l2=L2)
        except (TypeError, ValueError) as error:
            yield name, f"{error}"


if __name__ == "__main__":
    launching.start()
    count, number = processes.count(), processes.index()
    X, labels, weights = problem()
    share, found = processes.share(N), {}

    def keep(name, result):
        found.update({f"{name}/{field}": getattr(result, field) for field in ("loss", "gap", "converged")})
        found.update({f"{name}/W": result.params.W, f"{name}/b": result.params.b})

    how = {"l2": L2, "tol": 1e-6}
    devices = len(jax.devices())
    padded = [np.concatenate([array, array[: -N % devices]]) for array in problem()]
    padded[2][N:] = 0
    sharding = NamedSharding(jax.make_mesh((devices,), ("rows",)), PartitionSpec("rows"))
    arrays = [jax.make_array_from_callback(array.shape, sharding, array.__getitem__) for array in padded]
    keep("sharded", handgrad.fit(*arrays[:2], weights=arrays[2], **how))
    keep("share", handgrad.fit(processes.Share(X[share], share.start, N), labels, weights=weights, **how))
    sparse = processes.Share(scipy.sparse.csr_array(X[share]), share.start, N)
    keep("sparse share", handgrad.fit(sparse, labels, weights=weights, **how))
    for name in ("stream", "stream without weight", "stream of one"):
        rows = of_process(count, number) if name != "stream of one" else slice(0, N if number == 0 else 0)
        source = Blocks(X[rows], labels[rows], weights_of(name)[rows])
        keep(name, handgrad.fit(source, None, mesh=sharding.mesh, **how))
        source = SparseBlocks(X[rows], labels[rows], weights_of(name)[rows])
        keep(f"sparse {name}", handgrad.fit(source, None, **how))
    path = handgrad.fit_path(arrays[0], arrays[1], l2s=[L2, 1.0], weights=arrays[2], tol=1e-6)
    found["path"] = path.loss
    if count > 1:
        rows = of_process(count, number)
        own = X[rows], labels[rows], weights[rows]
        found.update({f"refused/{name}": said for name, said in refusals(number, own)})
    np.savez(f"{sys.argv[1]}/{number}.npz", **found)
    launching.finish()
