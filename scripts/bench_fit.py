"""Times `fit` and `fit_path` against other solvers, to the same certified relative gap.

The gap of every solver's answer is taken in float64 by code that is none of theirs; each runs at the loosest of its
tolerances that reaches the gap, in whichever dtype gets there sooner. Run: python scripts/bench_fit.py [PART ...]
MNIST-10k is read from the folder that HANDGRAD_DATA names. Set OMP_NUM_THREADS only if you mean it.
"""

import functools
import gzip
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import handgrad
from handgrad import Params
from handgrad.data import load_digits
from measure import interleaved, machine, median_ratio

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles_fit import relative_gap

GAP = 1e-5


def digits():
    table = load_digits()
    return table.X.astype(np.float64), table.labels


def mnist():
    folder = os.environ.get("HANDGRAD_DATA")
    if folder is None:
        raise FileNotFoundError("HANDGRAD_DATA does not name a folder with mnist-10k")
    files = sorted((Path(folder) / "mnist-10k").glob("*.gz"))
    images, labels = (np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8) for file in files)
    return images[16:].reshape(-1, 784) / 255, labels[8:].astype(np.int32)


def embeddings(N=20000, P=512, C=100):
    """N rows of P features about C centres; the condition number of the noise's covariance is 1e4."""
    rng = np.random.default_rng(0)
    t = rng.integers(0, C, N).astype(np.int32)
    rotation, _ = np.linalg.qr(rng.normal(size=(P, P)))
    X = (0.35 * rng.normal(size=(C, P))[t] + rng.normal(size=(N, P))) * np.logspace(0, -2, P)
    return 10 * X @ rotation, t


def seconds(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


# --- The solvers: each yields (name, seconds, W, b) at ever tighter tolerances --------------------------------------


def by_handgrad(X, t, l2):
    X = X.astype(np.float32)
    first, _ = seconds(lambda: handgrad.fit(X, t, l2=l2, tol=0.97 * GAP))
    runs = [seconds(lambda: handgrad.fit(X, t, l2=l2, tol=0.97 * GAP)) for _ in range(5)]
    result = runs[0][1]
    print(f"    first call {first:.2f} s, {result.iterations} iterations, {result.passes} passes", flush=True)
    yield statistics.median(run[0] for run in runs), *result.params


def by_sklearn(solver, tolerances, dtype, X, t, l2):
    from sklearn.linear_model import LogisticRegression

    X = X.astype(dtype)
    for tol in tolerances:
        model = LogisticRegression(C=1 / (l2 * X.shape[0]), solver=solver, tol=tol, max_iter=20000)
        spent, _ = seconds(functools.partial(model.fit, X, t))
        yield spent, model.coef_.T, model.intercept_


def by_torch(X, t, l2):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    X, t = torch.tensor(X, dtype=torch.float32, device=device), torch.tensor(t, dtype=torch.long, device=device)
    for tol in (1e-6, 1e-7):
        W = torch.zeros(X.shape[1], int(t.max()) + 1, requires_grad=True, device=device)
        b = torch.zeros(W.shape[1], requires_grad=True, device=device)
        options = {"max_iter": 5000, "tolerance_grad": tol, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS([W, b], history_size=10, **options)

        def closure(optimizer=optimizer, W=W, b=b):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(X @ W + b, t) + l2 / 2 * (W * W).sum()
            loss.backward()
            return loss

        spent, _ = seconds(functools.partial(optimizer.step, closure))
        yield spent, W.detach().cpu().numpy(), b.detach().cpu().numpy()


def by_optax(X, t, l2):
    X, t = jnp.asarray(X, jnp.float32), jnp.asarray(t)
    start = Params(W=jnp.zeros((X.shape[1], int(t.max()) + 1)), b=jnp.zeros((1, int(t.max()) + 1)))

    def loss(params):
        Z = X @ params.W + params.b
        return optax.softmax_cross_entropy_with_integer_labels(Z, t).mean() + l2 / 2 * jnp.sum(params.W**2)

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    @functools.partial(jax.jit, static_argnames="limit")
    def minimise(params, limit):
        def step(carry):
            params, state = carry
            value, grad = value_and_grad(params, state=state)
            updates, state = optimizer.update(grad, state, params, value=value, grad=grad, value_fn=loss)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(0, limit, lambda _, carry: step(carry), (params, optimizer.init(params)))[0]

    for limit in (250, 500, 1000, 2000):
        jax.block_until_ready(minimise(start, limit))
        spent, params = seconds(lambda limit=limit: jax.block_until_ready(minimise(start, limit)))
        yield spent, *params


def by_jaxopt(X, t, l2):
    import jaxopt

    X, t = jnp.asarray(X, jnp.float32), jnp.asarray(t)
    start = Params(W=jnp.zeros((X.shape[1], int(t.max()) + 1)), b=jnp.zeros((1, int(t.max()) + 1)))

    def loss(params):
        Z = X @ params.W + params.b
        return optax.softmax_cross_entropy_with_integer_labels(Z, t).mean() + l2 / 2 * jnp.sum(params.W**2)

    for limit in (250, 500, 1000, 2000):
        run = jax.jit(jaxopt.LBFGS(loss, maxiter=limit, tol=0.0, linesearch="zoom").run)
        jax.block_until_ready(run(start).params)
        spent, result = seconds(lambda run=run: jax.block_until_ready(run(start)))
        yield spent, *result.params


def solvers(num_parameters):
    decades = tuple(10.0 ** -np.arange(3, 8.5, 0.5))
    yield "handgrad.fit", by_handgrad
    for dtype in (np.float32, np.float64):
        yield f"newton-cg {dtype.__name__}", functools.partial(by_sklearn, "newton-cg", decades, dtype)
    if num_parameters < 1000:
        yield "newton-cholesky", functools.partial(by_sklearn, "newton-cholesky", decades, np.float64)
    for dtype in (np.float32, np.float64):
        yield f"lbfgs {dtype.__name__}", functools.partial(by_sklearn, "lbfgs", decades[2:], dtype)
    yield "torch L-BFGS", by_torch
    yield "optax L-BFGS", by_optax
    yield "jaxopt L-BFGS", by_jaxopt


def race(title, X, t, C, entrants):
    """Seconds and gap of each solver, (name, run), and how many times as long as the first it took."""
    l2 = 1 / (X.shape[0] * C)
    print(f"\n{title} {X.shape}, C={C:g}: seconds to a relative gap of {GAP:g} | ratio to handgrad | gap", flush=True)
    ours = None
    for solver, run in entrants:
        total = 0.0
        try:
            for spent, W, b in run(X, t, l2):
                total += spent
                gap = relative_gap(np.asarray(W), np.asarray(b), X, t, l2)
                if gap <= GAP or total > 40:
                    break
        except ImportError as missing:
            print(f"{solver:<20} {missing}")
            continue
        ours = ours or spent
        reached = "" if gap <= GAP else "  not reached"
        print(f"{solver:<20} {spent:8.3f} | {spent / ours:6.2f} | {gap:.1e}{reached}", flush=True)


def bench_fit(data, name):
    X, t = data()
    for C in (1.0, 0.01):
        race(name, X, t, C, solvers(X.shape[1] * (int(t.max()) + 1)))


def bench_accelerator():
    """What runs where JAX's default device is: MNIST-10k, and rows enough for a GPU."""
    entrants = {"handgrad.fit": by_handgrad, "torch L-BFGS": by_torch, "optax L-BFGS": by_optax}
    for name, data in (("MNIST-10k", mnist), ("embeddings", functools.partial(embeddings, 100000, 1024, 100))):
        race(name, *data(), 1.0, entrants.items())


# --- The rest --------------------------------------------------------------------------------------------------------


def bench_path():
    from sklearn.linear_model import LogisticRegression

    X, t = mnist()
    X = X.astype(np.float32)
    Cs = np.logspace(-4, 4, 32)
    l2s = 1 / (len(X) * Cs)

    def worst(params):
        return max(relative_gap(np.asarray(W), np.asarray(b), X, t, l2) for (W, b), l2 in zip(params, l2s, strict=True))

    def one_after_another():
        fits = []
        for l2 in l2s:
            fits.append(handgrad.fit(X, t, l2=l2, params=fits[-1].params if fits else None, tol=1e-4))
        return [result.params for result in fits]

    def by_sklearn():
        models = [LogisticRegression(C=C, solver="lbfgs", tol=1e-4, max_iter=20000).fit(X, t) for C in Cs]
        return [(model.coef_.T, model.intercept_) for model in models]

    print("\n32 penalties on MNIST-10k, C=1e-4…1e4: seconds | the largest gap reached", flush=True)
    first, _ = seconds(lambda: handgrad.fit_path(X, t, l2s=l2s, tol=1e-4))
    spent, path = seconds(lambda: handgrad.fit_path(X, t, l2s=l2s, tol=1e-4))
    print(f"    first call {first:.1f} s, {path.iterations.sum()} iterations, {path.converged.sum()} of 32 converged")
    print(f"handgrad.fit_path    {spent:8.1f} | {worst(list(zip(*path.params, strict=True))):.1e}", flush=True)
    one_after_another()
    for name, run in (("warm handgrad.fit", one_after_another), ("lbfgs at tol=1e-4", by_sklearn)):
        spent, params = seconds(run)
        print(f"{name:<20} {spent:8.1f} | {worst(params):.1e}", flush=True)


def bench_scaled():
    X, t = mnist()
    X = X[:, np.flatnonzero(X.std(axis=0) > 0)[:200]]
    scales = 10 ** np.random.default_rng(0).uniform(-3, 3, 200)
    with jax.enable_x64(True):
        for name, data in (("as they are", X), ("scaled", X * scales)):
            result = handgrad.fit(data, t, l2=1 / len(X))
            print(f"200 pixels {name}: {result.passes} passes, gap {result.gap / result.loss:.1e}", flush=True)


def bench_objective():
    def by_optax(params, X, t, w):
        losses = optax.softmax_cross_entropy_with_integer_labels(X @ params.W + params.b, t)
        return losses.mean() if w is None else (w * losses).sum() / w.sum()

    functions = {"handgrad": handgrad.value_and_gradient, "optax": jax.jit(jax.value_and_grad(by_optax))}
    print("\nvalue and gradient, float32 | handgrad, ms | jax.value_and_grad of optax, ms | handgrad / optax")
    for N, P, C in ((60000, 784, 10), (256, 784, 10), (1797, 64, 10), (8192, 1024, 1000)):
        rng = np.random.default_rng(0)
        X, t = jnp.asarray(rng.normal(size=(N, P)), jnp.float32), jnp.asarray(rng.integers(0, C, N), jnp.int32)
        params = Params(W=jnp.asarray(rng.normal(size=(P, C)) / P**0.5, jnp.float32), b=jnp.zeros((1, C)))
        for rows, w in (("", None), ("weighted", jnp.asarray(rng.uniform(0.1, 2, N), jnp.float32))):
            calls = {name: functools.partial(function, params, X, t, w) for name, function in functions.items()}
            timed = interleaved(calls, 21 if N > 5000 else 301)
            ours, theirs = (1e3 * statistics.median(timed[name]) for name in functions)
            ratio = median_ratio(timed["handgrad"], timed["optax"])
            print(f"{(N, P, C)!s:<19}{rows:<9}| {ours:8.2f} | {theirs:8.2f} | {ratio:.2f}", flush=True)


PARTS = {
    "digits": functools.partial(bench_fit, digits, "digits"),
    "mnist": functools.partial(bench_fit, mnist, "MNIST-10k"),
    "embeddings": functools.partial(bench_fit, embeddings, "embeddings"),
    "accelerator": bench_accelerator,
    "path": bench_path,
    "scaled": bench_scaled,
    "objective": bench_objective,
}

if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    print(machine())
    for part in sys.argv[1:] or [part for part in PARTS if part != "accelerator"]:
        try:
            PARTS[part]()
        except FileNotFoundError as missing:
            print(f"\n{part}: skipped, {missing}")
