"""References that share no line with handgrad: the naive formulas in float64 NumPy and in jax.numpy."""

import gzip
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

# How far a result may be from the float64 oracle, for data, logits and results of size about 1: some 40 rounding errors
# of float32 and float64, as sums of up to a hundred products take; for the narrow dtypes, which round the logits and
# the result but sum in float32, about 8.
TOLERANCE = {"float32": 5e-6, "float64": 1e-14, "bfloat16": 3e-2, "float16": 4e-3}


def problem(num_rows, num_features, num_classes, *, targets="labels", weights=None, seed=0, dtype="float64"):
    """Random W, b, X, targets and weights as NumPy arrays."""
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(num_features, num_classes)) / np.sqrt(num_features)
    b = rng.normal(size=(1, num_classes))
    X = rng.normal(size=(num_rows, num_features))
    if targets == "labels":
        t = rng.integers(0, num_classes, num_rows).astype(np.int32)
    else:
        t = rng.dirichlet(np.ones(num_classes), num_rows).astype(dtype)
    if weights == "floating":
        w = rng.uniform(0.1, 2, num_rows).astype(dtype)
    elif weights == "counts":
        w = rng.integers(0, 4, num_rows).astype(np.int32)
        w[0] = 1
    else:
        w = None
    return W.astype(dtype), b.astype(dtype), X.astype(dtype), t, w


def distributions(targets, num_classes):
    return np.eye(num_classes)[targets] if targets.ndim == 1 else targets.astype(np.float64)


def softmax(Z):
    exponentials = np.exp(np.asarray(Z, np.float64))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def loss(W, b, X, targets, weights=None):
    """L = −Σ_i w_i Σ_j T_ij log Y_ij / Σ w, in float64."""
    W, b, X = (np.asarray(array, np.float64) for array in (W, b, X))
    T = distributions(np.asarray(targets), W.shape[1])
    w = np.ones(len(X)) if weights is None else np.asarray(weights, np.float64)
    return -(w[:, None] * T * np.log(softmax(X @ W + b))).sum() / w.sum()


def jax_loss(params, X, targets, weights=None):
    """The same for jax.grad: dtype that of the arguments."""
    W, b = params
    exponentials = jnp.exp(X @ W + b)
    Y = exponentials / jnp.sum(exponentials, axis=1, keepdims=True)
    if targets.ndim == 1:
        losses = -jnp.log(Y[jnp.arange(len(X)), targets])
    else:
        losses = -jnp.sum(targets * jnp.log(Y), axis=1)
    w = jnp.ones_like(losses) if weights is None else jnp.asarray(weights).astype(losses.dtype)
    return jnp.sum(w * losses) / jnp.sum(w)


def central_differences(function, array, step=1e-6):
    """d function / d array, entry by entry."""
    result = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        change = np.zeros(array.shape)
        change[index] = step
        result[index] = (function(array + change) - function(array - change)) / (2 * step)
    return result


def mnist_10k():
    """MNIST-10k, pixels in [0, 1] (10000, 784) float32 and labels, from the folder HANDGRAD_DATA; skips without it."""
    folder = os.environ.get("HANDGRAD_DATA")
    if not folder:
        pytest.skip("HANDGRAD_DATA does not name a folder with mnist-10k")
    images, labels = (
        np.frombuffer(gzip.decompress((Path(folder) / "mnist-10k" / name).read_bytes()), np.uint8)
        for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz")
    )
    return images[16:].reshape(-1, 784).astype(np.float32) / 255, labels[8:].astype(np.int32)
