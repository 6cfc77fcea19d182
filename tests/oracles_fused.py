"""What linear_cross_entropy is to be, written plainly, with all its logits, and without handgrad."""

import jax
import jax.numpy as jnp
import numpy as np


def rows(X, W, targets, bias=None, class_weights=None, label_smoothing=0.0, z_loss=0.0, softcap=None):
    """By row: the loss, and log-sum-exp, log-probability of the target, entropy and predicted class."""
    C = W.shape[1]
    Z = X @ W
    if bias is not None:
        Z = Z + jnp.reshape(bias, (1, C))
    if softcap is not None:
        Z = softcap * jnp.tanh(Z / softcap)
    lse = jax.scipy.special.logsumexp(Z, axis=1)
    log_Y = Z - lse[:, None]
    T = targets.astype(Z.dtype)
    if jnp.issubdtype(targets.dtype, jnp.integer):
        T = jax.nn.one_hot(targets, C, dtype=Z.dtype)
    k = jnp.ones(C, Z.dtype) if class_weights is None else jnp.asarray(class_weights, Z.dtype)
    smooth = (1 - label_smoothing) * T + label_smoothing / C
    loss = -jnp.sum(smooth * k[None, :] * log_Y, axis=1) + z_loss * lse**2
    return loss, {
        "log_sum_exp": lse,
        "log_probability": jnp.sum(T * log_Y, axis=1),
        "entropy": -jnp.sum(jnp.exp(log_Y) * log_Y, axis=1),
        "prediction": jnp.argmax(Z, axis=1),
        "mass": jnp.sum(T * k[None, :], axis=1),
    }


def loss(X, W, targets, *, bias=None, weights=None, ignore_index=None, reduction="mean", **settings):
    """Σ wℓ / Σ w k_t over the rows that count, or Σ wℓ, or wℓ."""
    losses, also = rows(X, W, targets, bias, **settings)
    w = jnp.ones_like(losses) if weights is None else jnp.asarray(weights, losses.dtype)
    if ignore_index is not None:
        w = jnp.where(targets == ignore_index, 0.0, w)
    if reduction == "none":
        return w * losses
    total = jnp.sum(w * losses)
    return total if reduction == "sum" else total / jnp.sum(w * also["mass"])


def problem(N, P, C, *, seed=0, dtype="float32", soft=False):
    """Arrays X, W, bias, targets, weights and class_weights."""
    rng = np.random.default_rng(seed)
    X, W, bias = rng.normal(size=(N, P)), rng.normal(size=(P, C)) / np.sqrt(P), rng.normal(size=C)
    targets = rng.dirichlet(np.ones(C), N) if soft else jnp.asarray(rng.integers(0, C, N), jnp.int32)
    weights, class_weights = rng.uniform(0.1, 2, N), rng.uniform(0.5, 2, C)
    narrow = [jnp.asarray(array, dtype) for array in (X, W, bias)]
    wide = "float64" if dtype == "float64" else "float32"
    if soft:
        targets = jnp.asarray(targets, wide)
    return *narrow, targets, jnp.asarray(weights, wide), jnp.asarray(class_weights, wide)


def in_float64(function, *arrays):
    """The function of the same numbers, computed and differentiated in float64."""
    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda array: (
                jnp.asarray(np.asarray(array, np.float64)) if jnp.issubdtype(array.dtype, jnp.floating) else array
            ),
            arrays,
        )
        return jax.tree.map(np.asarray, jax.jit(function)(*wide))


def assert_close(actual, expected, tolerance, least=1e-3):
    """Trees of arrays that agree to the tolerance, relative to the largest entry of each array, or to `least`."""
    leaves, references = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(leaves) == len(references)
    for a, e in zip(leaves, references, strict=True):
        assert a.shape == e.shape
        scale = max(float(np.max(np.abs(e))), least)
        np.testing.assert_allclose(np.asarray(a, np.float64) / scale, np.asarray(e, np.float64) / scale, atol=tolerance)
