"""Times the gradient by hand against autograd, training against loops written by hand, and the import.

Everything of a row runs in one process, taking turns; ratios are medians. Run: python scripts/bench_training.py
PyTorch's row appears where PyTorch is installed.
"""

import functools
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

import handgrad
from handgrad import Params
from measure import interleaved, machine, median_ratio

GRADIENT_SHAPES = [(60000, 784, 10), (10000, 784, 10), (20000, 16, 26), (20000, 512, 1000)]
EPOCH_SHAPE, BATCH_SIZE, LEARNING_RATE = (60000, 784, 10), 128, 0.5


def problem(num_rows, num_features, num_classes):
    keys = jax.random.split(jax.random.key(0), 3)
    X = jax.random.normal(keys[0], (num_rows, num_features))
    t = jax.random.randint(keys[1], (num_rows,), 0, num_classes)
    return handgrad.init_params(num_features, num_classes, key=keys[2]), X, t


def optax_loss(params, X, t):
    return optax.softmax_cross_entropy_with_integer_labels(X @ params.W + params.b, t).mean()


def bench_gradients():
    print("\nvalue_and_gradient, float32 | by hand, ms | autograd of optax's loss, ms | by hand / autograd")
    autograd = jax.jit(jax.value_and_grad(optax_loss))
    for shape in GRADIENT_SHAPES:
        args = problem(*shape)
        seconds = interleaved(
            {
                "hand": functools.partial(handgrad.value_and_gradient, *args),
                "autograd": functools.partial(autograd, *args),
            },
            repeats=15 if shape[2] == 1000 else 60,
        )
        hand, auto = (1e3 * statistics.median(seconds[name]) for name in ("hand", "autograd"))
        ratio = median_ratio(seconds["hand"], seconds["autograd"])
        print(f"(N,P,C) = {shape!s:17} | {hand:8.2f} | {auto:8.2f} | {ratio:.2f}")


def scan_epoch(X, t):
    """An epoch as a careful user of JAX writes it: a scan, jax.grad, optax, donated buffers; drops the short batch."""
    optimizer = optax.sgd(LEARNING_RATE)

    def step(carry, rows):
        params, state = carry
        value, gradient = jax.value_and_grad(optax_loss)(params, X[rows], t[rows])
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def epoch(params, state, key):
        order = jax.random.permutation(key, len(X))
        batches = order[: len(X) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
        (params, state), values = jax.lax.scan(step, (params, state), batches)
        return params, state, values.mean()

    def run(epochs):
        params = Params(jnp.zeros((X.shape[1], EPOCH_SHAPE[2])), jnp.zeros((1, EPOCH_SHAPE[2])))
        state = optimizer.init(params)
        for number in range(epochs):
            params, state, value = epoch(params, state, jax.random.key(number))
            float(value)
        return params

    return run


def torch_epoch(X, t):
    """An epoch as PyTorch's tutorials write it, on tensors in memory, without the cost of a DataLoader."""
    import torch

    X, t = torch.from_numpy(np.array(X)), torch.from_numpy(np.array(t)).long()

    def run(epochs):
        layer = torch.nn.Linear(X.shape[1], EPOCH_SHAPE[2])
        optimizer = torch.optim.SGD(layer.parameters(), lr=LEARNING_RATE)
        for _ in range(epochs):
            for rows in torch.randperm(len(X)).split(BATCH_SIZE):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(layer(X[rows]), t[rows]).backward()
                optimizer.step()
        return ()

    return run


def bench_epochs(epochs=4):
    _, X, t = problem(*EPOCH_SHAPE)
    settings = {"batch_size": BATCH_SIZE, "epochs": epochs}
    sgd = optax.sgd(LEARNING_RATE)
    functions = {
        "handgrad.train, explicit update": lambda: handgrad.train(X, t, learning_rate=LEARNING_RATE, **settings).params,
        "handgrad.train, optax.sgd": lambda: handgrad.train(X, t, optimizer=sgd, **settings).params,
        "lax.scan, jax.grad and optax by hand": functools.partial(scan_epoch(X, t), epochs),
    }
    try:
        functions["PyTorch loop"] = functools.partial(torch_epoch(X, t), epochs)
    except ImportError:
        print("\nPyTorch is not installed; its row is left out.")
    print(f"\nan epoch at (N,P,C) = {EPOCH_SHAPE}, batch {BATCH_SIZE} | ms | ratio to the first")
    seconds = interleaved(functions, repeats=7)
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        print(f"{name} | {1e3 * statistics.median(values) / epochs:.1f} | {median_ratio(values, first):.2f}")


def bench_import(repeats=9):
    seconds = {"import handgrad": [], "import jax, optax": []}
    for _ in range(repeats):
        for statement, values in seconds.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            values.append(time.perf_counter() - start)
    hand, plain = seconds.values()
    print("\nimport handgrad, s | import jax, optax, s | ratio")
    print(f"{statistics.median(hand):.2f} | {statistics.median(plain):.2f} | {median_ratio(hand, plain):.2f}")


if __name__ == "__main__":
    print(machine())
    bench_gradients()
    bench_epochs()
    bench_import()
