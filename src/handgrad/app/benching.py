"""`handgrad bench`: how long things take on this machine, and how long others take for the same."""

import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import handgrad
from handgrad.app.progress import Watch, watching
from handgrad.app.screen import Screen
from handgrad.data import load_digits, split_and_scale

REPEATS = 31  # at most
LEAST = 3
L2 = 1e-3


class Comparison(NamedTuple):
    """Two ways to the same result; `agree` is whether they have it, told from what they return."""

    what: str
    other: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agree: Callable[[Any, Any], bool]


class Timed(NamedTuple):
    """Medians in seconds, their ratio (how many times as long the other takes), and how often each was timed."""

    what: str
    other: str
    seconds: float
    other_seconds: float
    ratio: float
    repeats: int


def bench(*, screen: Screen, seconds: float) -> int:
    """See `handgrad.app.program`."""
    about = {
        "handgrad": handgrad.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    screen.say(", ".join(f"{name} {value}" for name, value in about.items()), style="bold")
    comparisons = [_value_and_gradient(), _head(), *_fits()]
    timed = []
    with watching(screen, "timing") as watch:
        for number, each in enumerate(comparisons):
            timed.append(_time(each, seconds / len(comparisons), watch, number / len(comparisons)))
            if watch.asked:
                break
    rows = []
    for one in timed:
        times = (_in_words(one.seconds), one.other, _in_words(one.other_seconds))
        rows.append((one.what, *times, f"{one.ratio:.2f}", str(one.repeats)))
    screen.table(("what", "handgrad", "against", "its time", "times as long", "repeats"), rows)
    if len(comparisons) < 4:
        screen.note(["scikit-learn is not installed, and not timed"])
    screen.answer(lambda: about | {"comparisons": [one._asdict() for one in timed]})
    if watch.asked:
        raise KeyboardInterrupt
    return 0


def _time(each: Comparison, seconds: float, watch: Watch, share: float) -> Timed:
    """The two in turn, so that what disturbs the machine disturbs both; the first of each compiles and is not timed."""
    results = jax.block_until_ready(each.ours()), jax.block_until_ready(each.theirs())
    if not each.agree(*results):
        raise AssertionError(f"bench: {each.what}: the two do not agree")
    end = time.perf_counter() + seconds
    pairs: list[tuple[float, float]] = []
    while len(pairs) < LEAST or (len(pairs) < REPEATS and time.perf_counter() < end):
        pairs.append((_call(each.ours), _call(each.theirs)))
        if watch(share, each.what):
            break
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(other / own for own, other in pairs)
    return Timed(each.what, each.other, ours, theirs, ratio, len(pairs))


def _call(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def _in_words(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{1000 * seconds:.2f} ms"


# --- What is compared -------------------------------------------------------------------------------------------------


def _close(a: Any, b: Any) -> bool:
    return all(np.allclose(x, y, rtol=1e-3, atol=1e-5) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def _plain_loss(params: handgrad.Params, X: jax.Array, labels: jax.Array) -> jax.Array:
    """As anyone would write it."""
    log_Y = jax.nn.log_softmax(X @ params.W + params.b)
    return -jnp.mean(jnp.take_along_axis(log_Y, labels[:, None], axis=1))


def _problem(num_rows: int, num_features: int, num_classes: int) -> tuple[handgrad.Params, jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(0), 3)
    W = 0.1 * jax.random.normal(keys[0], (num_features, num_classes), jnp.float32)
    X = jax.random.normal(keys[1], (num_rows, num_features), jnp.float32)
    labels = jax.random.randint(keys[2], (num_rows,), 0, num_classes)
    return handgrad.Params(W=W, b=jnp.zeros((1, num_classes), jnp.float32)), X, labels


def _value_and_gradient() -> Comparison:
    arguments = _problem(8192, 256, 64)
    autograd = jax.jit(jax.value_and_grad(_plain_loss))
    return Comparison(
        "loss and gradient, 8,192 × 256, 64 classes",
        "jax.value_and_grad",
        lambda: handgrad.value_and_gradient(*arguments),
        lambda: autograd(*arguments),
        _close,
    )


def _head() -> Comparison:
    params, X, labels = _problem(2048, 128, 4096)

    def fused(X: jax.Array, W: jax.Array) -> Any:
        return handgrad.linear_cross_entropy(X, W, labels)

    def plain(X: jax.Array, W: jax.Array) -> jax.Array:
        return _plain_loss(handgrad.Params(W=W, b=jnp.zeros((1, 1), jnp.float32)), X, labels)

    ours, theirs = (jax.jit(jax.value_and_grad(function, argnums=(0, 1))) for function in (fused, plain))
    return Comparison(
        "head and its gradients, 2,048 × 128, 4,096 classes",
        "jax.value_and_grad",
        lambda: ours(X, params.W),
        lambda: theirs(X, params.W),
        _close,
    )


def _fits() -> list[Comparison]:
    """Of scikit-learn, where it is installed."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score
    except ModuleNotFoundError:
        return []
    X, labels, _ = split_and_scale(load_digits()).train
    C, l2s = 1 / (L2 * len(X)), np.array([0.1, 0.01])

    def theirs() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the iterations that are its default
            return LogisticRegression(C=C, tol=1e-6, max_iter=2000).fit(X, labels).coef_

    def their_folds() -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            models = [LogisticRegression(C=1.5 / (l2 * len(X))) for l2 in l2s]
            return [-cross_val_score(model, X, labels, cv=3, scoring="neg_log_loss").mean() for model in models]

    return [
        Comparison(
            f"fit of digits, l2 = {L2:g}",
            "LogisticRegression, tol = 1e-6",
            lambda: np.asarray(handgrad.fit(X, labels, l2=L2).params.W),
            theirs,
            lambda a, b: bool(np.abs(a - b.T).max() <= 0.02 * np.abs(a).max()),
        ),
        Comparison(
            "2 penalties by 3 folds of digits",
            "LogisticRegression",
            lambda: handgrad.fit_path(X, labels, l2s=l2s, validation=3).validation_loss,
            their_folds,
            lambda a, b: abs(int(np.argmin(a)) - int(np.argmin(b))) <= 1,  # their folds are others
        ),
    ]
