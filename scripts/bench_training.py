"""Times the gradient by hand against autograd, training against loops written by hand, and the import.

Everything of a row runs in one process, taking turns; ratios are medians. Run: python scripts/bench_training.py
PyTorch's rows appear where PyTorch is installed.
"""

import functools
import itertools
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
NETWORK_ROWS, NETWORK_SIZES = 8192, (784, 256, 128, 10)
EPOCH_ROWS, BATCH_SIZE = 60000, 128
LEARNING_RATE = {2: 0.5, 4: 0.1}  # by the number of sizes


def problem(num_rows, sizes):
    """Random data, and a network (Params alone without hidden layers) to start from."""
    keys = jax.random.split(jax.random.key(0), 3)
    X = jax.random.normal(keys[0], (num_rows, sizes[0]))
    t = jax.random.randint(keys[1], (num_rows,), 0, sizes[-1])
    network = handgrad.init_network(keys[2], sizes)
    return network[0].params if len(sizes) == 2 else network, X, t


def plain_loss(params, X, t):
    """The loss as a careful user of JAX writes it, for jax.grad."""
    *hidden, output = [params] if isinstance(params, Params) else [layer.params for layer in params]
    for W, b in hidden:
        X = jax.nn.relu(X @ W + b)
    return optax.softmax_cross_entropy_with_integer_labels(X @ output.W + output.b, t).mean()


autograd = jax.jit(jax.value_and_grad(plain_loss))


def bench_gradients():
    print("\nvalue_and_gradient, float32 | by hand, ms | jax.value_and_grad, ms | by hand / autograd | temporary MB")
    for num_rows, *sizes in [*GRADIENT_SHAPES, (NETWORK_ROWS, *NETWORK_SIZES)]:
        args = problem(num_rows, sizes)
        functions = {"hand": handgrad.value_and_gradient, "autograd": autograd}
        seconds = interleaved(
            {name: functools.partial(function, *args) for name, function in functions.items()},
            repeats=60 if sizes[-1] < 100 else 15,
        )
        hand, auto = (1e3 * statistics.median(seconds[name]) for name in functions)
        megabytes = [
            function.lower(*args).compile().memory_analysis().temp_size_in_bytes / 1e6
            for function in functions.values()
        ]
        print(
            f"N = {num_rows}, {'-'.join(map(str, sizes))} | {hand:.2f} | {auto:.2f} | "
            f"{median_ratio(seconds['hand'], seconds['autograd']):.2f} | {megabytes[0]:.1f} against {megabytes[1]:.1f}"
        )


def scan_epochs(start, X, t, learning_rate, epochs):
    """Epochs as a careful user of JAX writes them: a scan, jax.grad, optax, donated buffers; no last short batch."""
    optimizer = optax.sgd(learning_rate)

    def step(carry, rows):
        params, state = carry
        value, gradient = jax.value_and_grad(plain_loss)(params, X[rows], t[rows])
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), value

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def epoch(params, state, key):
        order = jax.random.permutation(key, len(X))
        batches = order[: len(X) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
        (params, state), values = jax.lax.scan(step, (params, state), batches)
        return params, state, values.mean()

    def run():
        params = jax.tree.map(jnp.copy, start)
        state = optimizer.init(params)
        for number in range(epochs):
            params, state, value = epoch(params, state, jax.random.key(number))
            float(value)
        return params

    return run


def torch_epochs(sizes, X, t, learning_rate, epochs, *, loader):
    """Epochs as PyTorch's tutorials write them; without the DataLoader, batches are indexed from tensors in memory."""
    import torch

    X, t = torch.from_numpy(np.array(X)), torch.from_numpy(np.array(t)).long()
    dataset = torch.utils.data.TensorDataset(X, t)
    data_loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)

    def batches():
        return data_loader if loader else ((X[rows], t[rows]) for rows in torch.randperm(len(X)).split(BATCH_SIZE))

    def run():
        layers = []
        for before, after in itertools.pairwise(sizes):
            layers += [torch.nn.ReLU(), torch.nn.Linear(before, after)]
        network = torch.nn.Sequential(*layers[1:])
        optimizer = torch.optim.SGD(network.parameters(), lr=learning_rate)
        for _ in range(epochs):
            for X_batch, t_batch in batches():
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(X_batch), t_batch).backward()
                optimizer.step()
        return ()

    return run


def bench_epochs(sizes, epochs, repeats):
    start, X, t = problem(EPOCH_ROWS, sizes)
    rate = LEARNING_RATE[len(sizes)]
    sgd = optax.sgd(rate)
    settings = {"batch_size": BATCH_SIZE, "epochs": epochs, "params": start}
    functions = {
        "handgrad.train, explicit update": lambda: handgrad.train(X, t, learning_rate=rate, **settings).params,
        "handgrad.train, optax.sgd": lambda: handgrad.train(X, t, optimizer=sgd, **settings).params,
        "lax.scan, jax.grad and optax by hand": scan_epochs(start, X, t, rate, epochs),
    }
    try:
        functions["PyTorch loop, DataLoader"] = torch_epochs(sizes, X, t, rate, epochs, loader=True)
        functions["PyTorch loop, tensors indexed by hand"] = torch_epochs(sizes, X, t, rate, epochs, loader=False)
    except ImportError:
        print("\nPyTorch is not installed; its rows are left out.")
    print(
        f"\nan epoch of {'-'.join(map(str, sizes))} at N = {EPOCH_ROWS}, batch {BATCH_SIZE} | ms | ratio to the first"
    )
    seconds = interleaved(functions, repeats)
    first = next(iter(seconds.values()))
    for name, values in seconds.items():
        print(f"{name} | {1e3 * statistics.median(values) / epochs:.1f} | {median_ratio(values, first):.2f}")


def bench_import(repeats=9):
    # The names of handgrad are imported with the first that is asked for.
    seconds = {"import jax, optax": [], "import handgrad": [], "import handgrad; handgrad.loss": []}
    for _ in range(repeats):
        for statement, values in seconds.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            values.append(time.perf_counter() - start)
    print("\nimporting | s | ratio to jax and optax")
    for statement, values in seconds.items():
        ratio = median_ratio(values, seconds["import jax, optax"])
        print(f"{statement} | {statistics.median(values):.2f} | {ratio:.2f}")


if __name__ == "__main__":
    print(machine())
    bench_gradients()
    bench_epochs((784, 10), epochs=10, repeats=5)
    bench_epochs(NETWORK_SIZES, epochs=4, repeats=3)
    bench_import()
