"""The head's loss written naively, without handgrad, for jax.grad in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Compiled whole, else each operation of it is a program of its own.
SETTINGS = ("reduction", "s", "z_loss", "softcap", "ignore_index")


@functools.partial(jax.jit, static_argnames=SETTINGS[1:])
def rows(X, W, targets, bias, weights, k, *, s, z_loss, softcap, ignore_index):
    """ℓ, w and Σ_j T_j k_j of each row, and what statistics there are."""
    num_classes = W.shape[1]
    Z = X @ W + (0 if bias is None else jnp.reshape(bias, (1, num_classes)))
    if softcap is not None:
        Z = softcap * jnp.tanh(Z / softcap)
    w = jnp.ones(len(X)) if weights is None else weights
    if targets.ndim == 1:
        if ignore_index is not None:
            w = jnp.where(targets == ignore_index, 0.0, w)
            targets = jnp.where(targets == ignore_index, 0, targets)
        T = jnp.eye(num_classes)[targets]
    else:
        T = targets
    k = jnp.ones(num_classes) if k is None else k
    lse = jnp.log(jnp.sum(jnp.exp(Z - Z.max(axis=1, keepdims=True)), axis=1)) + Z.max(axis=1)
    log_Y = Z - lse[:, None]
    smoothed = (1 - s) * T + s / num_classes
    losses = -jnp.sum(smoothed * k[None, :] * log_Y, axis=1) + z_loss * lse**2
    statistics = {
        "log_sum_exp": lse,
        "log_probability": jnp.sum(T * log_Y, axis=1),
        "entropy": -jnp.sum(jnp.exp(log_Y) * log_Y, axis=1),
        "prediction": jnp.argmax(Z, axis=1),
    }
    return losses, w, T @ k, statistics


@functools.partial(jax.jit, static_argnames=SETTINGS)
def loss(X, W, targets, bias=None, weights=None, k=None, *, reduction="mean", **settings):
    losses, w, mass, _ = rows(X, W, targets, bias, weights, k, **settings)
    if reduction == "none":
        return w * losses
    return jnp.sum(w * losses) / (jnp.sum(w * mass) if reduction == "mean" else 1)


def problem(N, P, C, *, targets="labels", seed=0):
    """X, W, targets, bias, weights, class weights as NumPy arrays of float32 numbers in float64."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32).astype(np.float64)

    X, W, bias = normal(N, P), normal(P, C) / 2, normal(C)
    weights, k = (rng.uniform(0.25, 2, size).astype(np.float32).astype(np.float64) for size in (N, C))
    if targets == "labels":
        t = rng.integers(0, C, N).astype(np.int32)
    else:
        t = rng.dirichlet(np.ones(C), N)
    return X, W, t, bias, weights, k
