"""Fits data that stay on the disk: memory, a pass beside reading and computing, the proof, and scikit-learn's SGD.

    python scripts/bench_stream.py [FILE.json] [--fraction 0.01] [--repeats 5] [--folder FOLDER]

Rows of 784 numbers of float32 and ten classes, 1,300,000 with --fraction 1 (4 GB), are written once as .npy and as
Parquet, into the folder, or one that is removed. Each kind is a process of its own, whose peak of resident memory is
that of /proc, so on Linux alone; pages of a file that is mapped count in it, though the system may take them back. A
pass is a sum of the loss and its gradient over all rows; its ratio is to the larger of what reading the file alone
into rows takes, and of the same sum of rows in memory, medians of calls that take turns. Reading Parquet is what
pyarrow does by itself: its batches, each turned into rows by `RecordBatch.to_tensor`; what its columns alone take
stands beside it. On a busy machine the seconds of all processors together say more; where reading and computing keep
them all at work, a pass takes no less than the sum of both over their number, and `bound_seconds` is the larger of that
and of the other two. scikit-learn's classifier goes over the same blocks for as long as the fit took, compiling
included; its loss is the least of the rates that are tried.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

import jax
import numpy as np
import pyarrow
import pyarrow.parquet

import handgrad
from handgrad.data import encode, fit_encoding, stream_table
from handgrad.solvers.data import prepare
from handgrad.solvers.sums import loss_and_gradient
from measure import interleaved, machine

ROWS, FEATURES, CLASSES = 1_300_000, 784, 10
L2 = 1e-4
BLOCK = 10_000
KINDS = ("mapped .npy", ".npy", "Parquet")
SAID = (
    "{kind}: peak {peak_gb:.2f} GB; a pass {pass_seconds:.3f} s, {ratio:.2f} of the larger of reading "
    "({read_seconds:.3f}) and computing in memory ({in_memory_seconds:.3f}), {ratio_to_bound:.2f} of what so many "
    "processors can do; processor seconds {pass_cpu:.3f}, {read_cpu:.3f} and {in_memory_cpu:.3f}; {passes} passes in "
    "{fit_seconds:.1f} s; loss {loss:.6f}, relative gap {relative_gap:.1e}"
)
RATES = (1e-4, 1e-3, 1e-2)


def write(folder, num_rows):
    """Classes that overlap, in features of which every eighth shares its neighbour's noise."""
    rng = np.random.default_rng(0)
    centres = 0.08 * rng.normal(size=(CLASSES, FEATURES)).astype(np.float32)
    labels = rng.integers(CLASSES, size=num_rows)
    X = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (num_rows, FEATURES))
    names = [f"feature_{index}" for index in range(FEATURES)]
    writer = None
    for start in range(0, num_rows, BLOCK):
        own = labels[start : start + BLOCK]
        block = rng.standard_normal((len(own), FEATURES), np.float32) + centres[own]
        block[:, 1::8] += block[:, ::8]
        X[start : start + BLOCK] = block
        table = pyarrow.table({**dict(zip(names, block.T, strict=True)), "kind": own})
        writer = writer or pyarrow.parquet.ParquetWriter(
            folder / "table.parquet", table.schema, use_dictionary=False, compression="none"
        )
        writer.write_table(table)
    writer.close()
    X.flush()
    np.save(folder / "y.npy", labels)


def opened(kind, folder):
    """What is given to `fit`, and what only reads the file."""
    labels = np.load(folder / "y.npy")
    path = folder / ("table.parquet" if kind == "Parquet" else "x.npy")
    if kind == "mapped .npy":
        return np.load(path, mmap_mode="r"), labels, lambda: read_bytes(path)
    table = stream_table(path, **({"target": "kind"} if kind == "Parquet" else {}))
    X = encode(fit_encoding(table), table).X
    return X, table.labels, (lambda: read_rows(path)) if kind == "Parquet" else lambda: read_bytes(path)


def read_bytes(path):
    """All of a file, into one buffer."""
    buffer = bytearray(2**24)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def read_columns(path):
    """All of a file, as Arrow has it."""
    names = [f"feature_{index}" for index in range(FEATURES)]
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        yield from file.iter_batches(BLOCK, columns=names)  # to fewer rows at once it gives twice the time


def read_rows(path):
    """All of a file, in rows of float32, without a line of handgrad's."""
    for batch in read_columns(path):
        batch.to_tensor(row_major=True)


def measure(kind, folder, repeats):
    """The numbers of one kind."""
    X, labels, read = opened(kind, folder)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = handgrad.fit(X, labels, l2=L2)
    spent = time.perf_counter() - start
    peak = peak_memory()
    streamed = prepare("bench", X, labels, None, None, None, CLASSES)
    blocks = (np.asarray(block) for block in X.blocks(BLOCK)) if hasattr(X, "blocks") else [np.array(X)]
    in_memory = prepare("bench", np.concatenate([block.copy() for block in blocks]), labels, None, None, None, CLASSES)
    functions = {"read": read, "pass": summing(streamed), "in_memory": summing(in_memory)}
    if kind == "Parquet":
        functions["columns"] = lambda: collections.deque(read_columns(folder / "table.parquet"), maxlen=0)
    seconds = interleaved(functions, repeats)
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    of_processors = {
        name: statistics.median(cpu_seconds(each) for _ in range(repeats)) for name, each in functions.items()
    }
    longer = max(medians["read"], medians["in_memory"])
    bound = max(longer, (of_processors["read"] + of_processors["in_memory"]) / os.cpu_count())
    return {
        "kind": kind,
        "peak_gb": peak / 2**30,
        "fit_seconds": spent,
        "passes": result.passes,
        "loss": result.loss,
        "relative_gap": result.gap / result.loss,
        **{f"{name}_seconds": each for name, each in medians.items()},
        **{f"{name}_cpu": each for name, each in of_processors.items()},
        "ratio": medians["pass"] / longer,
        "bound_seconds": bound,
        "ratio_to_bound": medians["pass"] / bound,
    }


def summing(data):
    """A sum of the loss and its gradient over the rows."""
    V = np.zeros((1, FEATURES + 1, CLASSES), data.dtype)
    weights = (data.weights / data.weights.sum())[:, None].astype(data.dtype)
    by_row = tuple(data.rows.place(array) for array in (data.targets.astype(np.int32), weights))
    shared = V, np.zeros(1, np.int32)
    return lambda: data.rows.sum(loss_and_gradient, by_row, shared, columns=CLASSES)


def cpu_seconds(function):
    """Of all processors together."""
    start = time.process_time()
    jax.block_until_ready(function())
    return time.process_time() - start


def peak_memory():
    """Of this process, in bytes."""
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith("VmHWM:")).split()[1])


def by_sgd(folder, seconds):
    """The least of the penalised losses that SGDClassifier comes to in so many seconds."""
    from sklearn.linear_model import SGDClassifier

    X, labels = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy")
    losses = {}
    for rate in RATES:
        model = SGDClassifier(loss="log_loss", alpha=L2, learning_rate="constant", eta0=rate, average=True)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for start in range(0, len(X), BLOCK):
                own = slice(start, start + BLOCK)
                model.partial_fit(np.array(X[own]), labels[own], classes=np.arange(CLASSES))
                if time.perf_counter() > end:
                    break
        losses[rate] = loss_of(model.coef_.T, model.intercept_, X, labels)
    return min(losses.values())


def loss_of(W, b, X, labels):
    """The penalised loss in float64."""
    total = 0.0
    for start in range(0, len(X), BLOCK):
        Z = X[start : start + BLOCK].astype(np.float64) @ W + b
        Z -= Z.max(axis=1, keepdims=True)
        total += (np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(Z)), labels[start : start + BLOCK]]).sum()
    return total / len(X) + L2 / 2 * (np.asarray(W, np.float64) ** 2).sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=pathlib.Path)
    parser.add_argument("--fraction", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)  # of a process that this one starts
    given = parser.parse_args()
    if given.kind:
        print(json.dumps(measure(given.kind, given.folder, given.repeats)))
        return
    with contextlib.ExitStack() as stack:
        folder = given.folder or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        num_rows = int(ROWS * given.fraction)
        if not (folder / "y.npy").exists() or len(np.load(folder / "y.npy")) != num_rows:
            folder.mkdir(exist_ok=True, parents=True)
            write(folder, num_rows)
        size = (folder / "x.npy").stat().st_size
        print(f"{machine()}; {num_rows:,} × {FEATURES}, {size / 2**30:.2f} GB", flush=True)
        results = {"machine": machine(), "rows": num_rows, "features": FEATURES, "file_bytes": size, "kinds": []}
        seconds = 0.0
        for kind in KINDS:
            command = [sys.executable, __file__, "--kind", kind, "--folder", folder, "--repeats", given.repeats]
            found = json.loads(subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE).stdout)
            print(SAID.format(**found), flush=True)
            seconds = seconds or found["fit_seconds"]
            results["kinds"].append(found)
        results["load_average"] = round(os.getloadavg()[1], 1)
        results["partial_fit"] = {"seconds": seconds, "loss": by_sgd(folder, seconds)}
        least = results["partial_fit"]["loss"]
        print(
            f"SGDClassifier.partial_fit in {seconds:.1f} s: loss {least:.6f}, beside {results['kinds'][0]['loss']:.6f}"
        )
    if given.out:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
