"""Gradient problems drawn from a seed, and what a naive loss in float64 says of each. Nothing here is of handgrad.

How far a right answer may be off is not chosen but follows from rounding: the oracle is run on the problem and on three
copies of it whose every number is off by some rounding errors, and to what these differ by come a few rounding errors
of the largest terms that are summed.
"""

import itertools
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("layer", "head", "network", "devices")
ACTIVATIONS = {"tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid, "softplus": jax.nn.softplus, "silu": jax.nn.silu}
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
# Of rounding errors: by how many the oracle's copies are off, and how many times what that makes of it is allowed, the
# second for sums that are longer than one operation; and how many of the largest terms.
ERRORS, FACTOR, TERMS = 4, 4, 8


class Configuration(NamedTuple):
    """What is compiled once, and serves many problems."""

    kind: str
    sizes: tuple[int, ...]  # N, P, the hidden layers' widths, C
    dtype: str
    soft: bool
    around: str = "jit"  # jit, eager, vmap, scan or checkpoint
    rows: int = 1  # devices that share the rows
    classes: int = 1  # devices that share the classes
    block_size: int | None = None
    reduction: str = "mean"
    stats: bool = False
    integers: str = "int32"  # the dtype of labels
    weights: str | None = None  # their dtype
    class_weights: bool = False
    bias: bool = True
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    ignore_index: int | None = None
    activation: str = "tanh"


def configurations(rng, number):
    """So many, the kinds in turn; every second has sizes that coincide."""
    return [_configuration(rng, KINDS[index % 4], index // 4 % 2 == 0) for index in range(number)]


def _configuration(rng, kind, coincide):
    choose = lambda *options: options[rng.integers(len(options))]  # noqa: E731
    N, P, C = (int(size) for size in rng.integers(1, 9, 3))
    rows, classes = choose((1, 8), (2, 4), (4, 2), (2, 2)) if kind == "devices" else (1, 1)
    if coincide:  # of what one device has
        N, P, C = choose((N, P, P), (N, N, C), (N, P, N), (P, P, P), (1, P, P), (1, 1, 1), (N, 1, 1))
    sizes = (N * rows, P, C * classes)
    dtype = choose("float32", "float32", "float64", "float64", "bfloat16", "float16")
    if kind == "network":
        dtype = choose("float32", "float64")
    common = {
        "kind": kind,
        "dtype": dtype,
        "soft": bool(rng.integers(2)),
        "integers": choose(*INTEGERS),
        "weights": choose(None, dtype, dtype, "int32"),
    }
    if kind == "layer":
        around = "jit" if dtype == "bfloat16" else choose("jit", "eager")  # of which NumPy has none of its own
        return Configuration(sizes=sizes, around=around, **common)
    if kind == "network":
        hidden = tuple(P if coincide else int(size) for size in rng.integers(1, 9, choose(1, 2)))
        return Configuration(
            sizes=(N, P, *hidden, C), around=choose("jit", "eager"), activation=choose(*ACTIVATIONS), **common
        )
    around = "jit" if kind == "devices" else choose("jit", "eager", "vmap", "scan", "checkpoint")
    return Configuration(
        sizes=sizes,
        around=around,
        rows=rows,
        classes=classes,
        block_size=choose(None, 1, N, P, 3),
        reduction=choose("sum", "none") if kind == "devices" else choose("mean", "mean", "sum", "none"),
        stats=bool(rng.integers(2)),
        class_weights=bool(rng.integers(2)),
        bias=bool(rng.integers(4)),
        label_smoothing=choose(0.0, 0.0, 0.1, 1.0),
        z_loss=choose(0.0, 0.02),
        softcap=choose(None, None, 1.5, 30.0),
        ignore_index=None if common["soft"] else choose(None, 0, 5, -100),
        **common,
    )


# --- A problem --------------------------------------------------------------------------------------------------------


class Problem(NamedTuple):
    """A problem as handgrad takes it, and the same for the oracle in float64."""

    X: np.ndarray
    layers: list[tuple[np.ndarray, np.ndarray]]
    targets: np.ndarray
    weights: np.ndarray | None
    class_weights: np.ndarray | None
    direction: list[np.ndarray]  # of X, then of each layer's W and b
    cotangents: np.ndarray  # (4, N): of the loss and three statistics of each row
    masked: np.ndarray  # the classes whose bias is −∞
    heeded: np.ndarray  # 0 for a row whose label is ignore_index
    oracle: dict


def draw(rng, cfg):
    """A problem, its values free."""
    N, C = cfg.sizes[0], cfg.sizes[-1]
    head = cfg.kind in ("head", "devices")
    to_dtype = lambda array: np.asarray(array).astype(jnp.dtype(cfg.dtype))  # noqa: E731
    X, layers, masked = _data(rng, cfg, to_dtype)
    t, T = _targets(rng, cfg, masked, to_dtype)
    w, heeded = _weights(rng, cfg, to_dtype), np.ones(N)
    if cfg.ignore_index is not None:
        if np.iinfo(cfg.integers).min <= cfg.ignore_index <= np.iinfo(cfg.integers).max:
            t = np.where(rng.uniform(size=N) < 0.2, cfg.ignore_index, t)
        heeded = (t != cfg.ignore_index).astype(np.float64)
    k = to_dtype(rng.uniform(0.1, 2, C) * (rng.uniform(size=C) < 0.8)) if cfg.class_weights else None
    shapes = [X.shape, *(array.shape for layer in layers for array in layer)]
    direction = [to_dtype(rng.normal(size=shape)) for shape in shapes]
    cotangents = rng.normal(size=(4, N))
    cotangents[1:] *= cfg.stats
    if cfg.reduction != "none":
        cotangents[0] = cotangents[0, 0]
    direction[-1][:] *= np.asarray(cfg.bias, direction[-1].dtype)
    if not head:  # whose Hessian is of the parameters alone
        direction[0][:] = 0
        cotangents[0] = 1
    # What does not count may hold anything, unless its statistics are wanted.
    anything = (w * heeded == 0) & (rng.integers(3) == 0) & head & (not cfg.stats)
    wide = lambda array: np.where(np.isneginf(array), 0, array.astype(np.float64))  # noqa: E731
    oracle = {
        "X": np.where(anything[:, None], 0, wide(X)),
        "layers": [[wide(array) for array in layer] for layer in layers],
        "T": T,
        "w": w,
        "k": np.ones(C) if k is None else wide(k),
        "direction": [wide(array) for array in direction],
        "cotangents": cotangents,
    }
    return Problem(
        X=np.where(anything[:, None], to_dtype(np.nan), X),
        layers=layers,
        targets=t if cfg.soft else t.astype(cfg.integers),
        weights=w.astype(cfg.weights) if cfg.weights else None,
        class_weights=k,
        direction=direction,
        cotangents=cotangents,
        masked=masked,
        heeded=heeded,
        oracle=oracle,
    )


def _data(rng, cfg, to_dtype):
    """X, the layers, and which classes are masked. Logits up to ±1e4, of X both large and small."""
    N, P, *hidden, C = cfg.sizes
    moderate = hidden or jnp.finfo(cfg.dtype).bits < 32
    logits = rng.choice([0.0, 1.0, 4.0] if moderate else [0.0, 1e-3, 1.0, 1.0, 30.0, 1e4])
    spread = 1.0 if moderate else rng.choice([1e-3, 1.0, 1.0, 1e3])
    X = to_dtype(spread * rng.normal(size=(N, P)))
    layers = []
    for a, c in itertools.pairwise((P, *hidden, C)):
        last = len(layers) == len(hidden)
        scale = logits / spread if last else 1.0
        W = to_dtype(scale * rng.normal(size=(a, c)) / a**0.5)
        b = to_dtype(min(logits, 2.0) * rng.normal(size=(1, c)) * (cfg.bias or not last))
        layers.append((W, b))
    masked = np.zeros(C, bool)
    if C > 1 and cfg.bias and not cfg.label_smoothing and rng.integers(3) == 0:
        masked[rng.choice(C, rng.integers(1, C), replace=False)] = True
        layers[-1][1][0, masked] = -np.inf
    return X, layers, masked


def _targets(rng, cfg, masked, to_dtype):
    """Targets, and T in float64. Some classes are absent; distributions sum to 1 within the tolerance."""
    N, C = cfg.sizes[0], cfg.sizes[-1]
    present = np.flatnonzero(~masked)
    present = rng.choice(present, rng.integers(1, len(present) + 1), replace=False)
    if not cfg.soft:
        t = rng.choice(present, N)
        return t, np.eye(C)[t]
    T = np.zeros((N, C))
    T[:, present] = rng.dirichlet(np.full(len(present), rng.choice([0.05, 1.0])), N)
    T = to_dtype(T * rng.uniform(0.9992, 1.0008, (N, 1)) if rng.integers(2) else T)
    return T, T.astype(np.float64) / T.astype(np.float64).sum(axis=1, keepdims=True)


def _weights(rng, cfg, to_dtype):
    """Weights in float64: some 0, and where only their ratios count huge or tiny."""
    N = cfg.sizes[0]
    if cfg.weights is None:
        return np.ones(N)
    if cfg.weights == "int32":
        return rng.integers(0, 4, N).astype(np.float64)
    free = cfg.reduction == "mean" and jnp.finfo(cfg.dtype).bits >= 32
    scale = rng.choice([1.0, 1e-30, 1e30, 1.5e38]) if free else 1.0
    return to_dtype(scale * rng.uniform(0.01, 1, N) * (rng.uniform(size=N) < 0.8)).astype(np.float64)


# --- The oracle: a naive loss, and jax.grad of it in float64 ---------------------------------------------------------


def naive(X, layers, w, *, T, k, cotangents, masked, settings, activation):
    """What is differentiated: Σ c_i w_i ℓ_i over the normaliser, and the statistics times their cotangents."""
    s, z_loss, cap, mean, heeded = settings
    w, masked = heeded * w, masked[None, :]
    for W, b in layers[:-1]:
        X = ACTIVATIONS[activation](X @ W + b)
    W, b = layers[-1]
    Z = X @ W + b
    Z = jnp.where(cap > 0, jnp.where(cap > 0, cap, 1) * jnp.tanh(Z / jnp.where(cap > 0, cap, 1)), Z)
    Z = jnp.where(masked, -jnp.inf, Z)
    m = jax.lax.stop_gradient(jnp.max(Z, axis=1, keepdims=True))
    lse = (m + jnp.log(jnp.sum(jnp.where(masked, 0, jnp.exp(Z - m)), axis=1, keepdims=True)))[:, 0]
    log_Y = jnp.where(masked, 0, Z - lse[:, None])
    Y = jnp.where(masked, 0, jnp.exp(log_Y))
    losses = -jnp.sum(((1 - s) * T + s / T.shape[1]) * k[None, :] * log_Y, axis=1) + z_loss * lse**2
    n = jnp.where(mean, jnp.sum(w * (T @ k)), 1)
    none = jnp.where(jnp.any(w != 0) & ((s > 0) | (z_loss > 0)), jnp.nan, 1)  # there is no mean, or it is 0
    total = jnp.sum(cotangents[0] * w * losses) / jnp.where(n == 0, none, n)
    of_rows = (lse, heeded * jnp.sum(T * log_Y, axis=1), -jnp.sum(Y * log_Y, axis=1))
    return total + sum(jnp.sum(c * row) for c, row in zip(cotangents[1:], of_rows, strict=True))


def opinion(problem, masked, settings, activation):
    """The value, its gradient in X, the layers and w, the derivative along the direction, and the Hessian times it."""

    def of(X, layers, w):
        fixed = {name: problem[name] for name in ("T", "k", "cotangents")}
        return naive(X, layers, w, masked=masked, settings=settings, activation=activation, **fixed)

    X, layers, w, (dX, *rest) = problem["X"], problem["layers"], problem["w"], problem["direction"]
    along = (dX, [rest[i : i + 2] for i in range(0, len(rest), 2)], jnp.zeros_like(w))
    gradient = jax.value_and_grad(of, argnums=(0, 1, 2))
    (value, grads), (slope, hessian) = jax.jvp(gradient, (X, layers, w), along)
    return {"value": value, "gradient": grads, "slope": slope, "hessian": hessian[:2]}


@partial(jax.jit, static_argnums=3)
def opinions(problems, masked, settings, activation):
    """Of several problems."""
    return jax.vmap(lambda problem: opinion(problem, masked, settings, activation))(problems)


def expected(cfg, rng, problem):
    """The oracle's opinion, and how far rounding may be from it."""
    eps = float(jnp.finfo(cfg.dtype).eps)
    numbers = (cfg.label_smoothing, cfg.z_loss, cfg.softcap or 0.0)
    settings = (*map(np.float64, numbers), cfg.reduction == "mean", problem.heeded)

    def copies(array):
        off = 1 + ERRORS * eps * rng.uniform(-1, 1, (3, *array.shape))
        return np.concatenate([array[None], array[None] * off])

    with jax.enable_x64(True):
        problems = jax.tree.map(copies, problem.oracle)
        values = jax.tree.map(np.asarray, opinions(problems, problem.masked, settings, cfg.activation))
    exact = jax.tree.map(lambda a: a[0], values)
    spread = jax.tree.map(lambda a: np.max(np.abs(a[1:] - a[0]), axis=0), values)
    terms = largest_terms(cfg, problem)
    tiny = 64 * float(jnp.finfo(cfg.dtype).tiny)
    return exact, jax.tree.map(lambda off, term: FACTOR * off + TERMS * eps * term + tiny, spread, terms)


def largest_terms(cfg, problem):
    """The sums of the absolute values of all that is summed, entry by entry or coarser, in the form of `opinion`."""
    oracle = problem.oracle
    X, layers, k, c = (oracle[name] for name in ("X", "layers", "k", "cotangents"))
    w = oracle["w"] * problem.heeded
    As, A = [np.abs(X)], X
    for W, b in layers[:-1]:
        A = np.asarray(ACTIVATIONS[cfg.activation](A @ W + b), np.float64)
        As.append(np.abs(A))
    W, b = layers[-1]
    Z = np.where(problem.masked, 0, A @ W + b)
    if cfg.softcap:
        Z = np.clip(Z, -cfg.softcap, cfg.softcap)
    size = np.max(np.abs(Z), axis=1) + np.log(Z.shape[1]) + 1
    mass = oracle["T"] @ k
    n = np.sum(w * mass) if cfg.reduction == "mean" else 1.0
    n = 1.0 if n == 0 else n
    # Of dℓ/dz, and of the statistics' gradients.
    each = k.max() + 2 * cfg.z_loss * size
    r = np.abs(c[0] * w) / n * each + np.abs(c[1:3]).sum(axis=0) + 2 * np.abs(c[3]) * size
    of_loss = each * size + k.max()
    by_w = np.abs(c[0]) / n * of_loss
    if cfg.reduction == "mean":
        by_w = by_w + np.abs(c[0, 0]) * np.sum(w * of_loss) / n**2 * mass
    # Backwards, by absolute values: activations have slopes of 1.1 at most.
    G, grads = np.repeat(r[:, None], Z.shape[1], axis=1), []
    for A, (W, _) in zip(As[::-1], layers[::-1], strict=True):
        grads.insert(0, [A.T @ G, G.sum(axis=0, keepdims=True)])
        G = 1.1 * G @ np.abs(W).T
    dX, *rest = oracle["direction"]
    # The logits' change is what a second derivative multiplies all this by, and a direction where it stands for W.
    moved, change = np.abs(dX), []
    for i, (A, (W, _)) in enumerate(zip(As, layers, strict=True)):
        moved = moved @ np.abs(W) + A @ np.abs(rest[2 * i]) + np.abs(rest[2 * i + 1])
        change.append(moved.max(initial=0) + np.abs(rest[2 * i]).sum() + 1)
    many = 4 * np.prod(change) + 8 * np.abs(dX).max()
    largest = r.sum() * (1 + np.abs(dX).max() + sum(np.abs(array).sum() for array in rest))
    largest += max(array.max() for layer in grads for array in layer)
    return {
        "value": np.sum(np.abs(c[0] * w) / n * of_loss) + np.sum(np.abs(c[1:]) * size),
        "gradient": (G, grads, by_w),
        "slope": np.sum(r[:, None] * moved),
        "hessian": (many * (G + largest), [[many * largest + 0 * array for array in layer] for layer in grads]),
    }
