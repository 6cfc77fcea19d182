"""The fused head: softmax cross-entropy of XW + b, with all gradients, without its N×C logits."""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from array_api_compat import is_array_api_obj

from handgrad import validation
from handgrad.shapes import Float, Integer, Shaped
from handgrad.sweep import Arrays, Settings, first_class, num_shards, sum_over_classes, sweep, weigh

Array = Any

FUNCTION = "linear_cross_entropy"
# A block has as many rows as fill BLOCK_BYTES with float32 logits, and no fewer than LEAST_ROWS. In float32 on 2 cores,
# at (N, P, C) = (2048, 512, 32768), (4096, 256, 8192) and (8192, 512, 1024), from 256 to 1024 rows take the same time
# to within 10 %; 128 rows take a sixth more, since each block reads and writes dL/dW once, and all rows at once a third
# more, since the logits leave the caches. In half precision, on accelerators, products are faster and that reading is
# not: there four times the rows, reckoned and not measured.
BLOCK_BYTES = 2**22
LEAST_ROWS = 512
LEAST_ROWS_NARROW = 2048


class RowStatistics(NamedTuple):
    """What the sweep knows of each row, in nats; each of the shape of the labels."""

    log_sum_exp: Float[Array, "..."]
    log_probability: Float[Array, "..."]  # of the target, Σ_j T_j log y_j; 0 for an ignored label
    entropy: Float[Array, "..."]  # of the prediction, −Σ_j y_j log y_j
    prediction: Integer[Array, "..."]  # the class of the largest logit, the first where several share it


def linear_cross_entropy(
    X: Float[Array, "... P"],
    W: Float[Array, "P C"],
    targets: Array,
    *,
    bias: Float[Array, "..."] | None = None,
    weights: Shaped[Array, "..."] | None = None,
    class_weights: Shaped[Array, " C"] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    ignore_index: int | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    block_size: int | None = None,
    class_axis: str | None = None,
    with_stats: bool = False,
) -> Any:
    r"""Softmax cross-entropy of the logits XW + b, which are never stored: a language model's head and its loss.

    A row with target masses T, softmax y and log-sum-exp lse of its logits has the loss

        ℓ = −Σ_j T'_j k_j log y_j + z_loss · lse²        T' = (1 − s) T + s/C

    for class weights k and label smoothing s, and with sample weights w the mean is Σ wℓ / Σ w Σ_j T_j k_j. The rows
    are taken in blocks; the value and all gradients take three products of N·P·C, the value alone one.

    It is differentiable in X, W, bias and weights, in reverse and forward mode and again, and under `jit`, `vmap`,
    `jax.checkpoint`, `scan` and `shard_map`. What is not differentiated costs nothing.

    Args:
      X: data, shape (..., P), floating. The leading axes together are the N rows.
      W: weights (P, C) of X's dtype.
      targets: labels (...) of integer dtype in [0, C), or distributions (..., C).
      bias: (C,) or (1, C), floating.
      weights: sample weights (...), finite, non-negative. A row of weight 0 does not count, whatever is in its X.
      class_weights: k, (C,), finite, non-negative.
      label_smoothing: s, in [0, 1].
      z_loss: factor of lse², 0 or more.
      softcap: κ; logits z become κ tanh(z/κ).
      ignore_index: a label whose rows do not count, whatever is in their X.
      reduction: "mean", "sum" (Σ wℓ), or "none" (wℓ by row, whose gradients take four products).
      block_size: rows in a block. None chooses.
      class_axis: an axis of the enclosing `jax.shard_map` along which W, bias, class_weights, and targets if they are
        distributions, are sharded by class; X, labels and weights are the same along it, and so is the result.
      with_stats: return also what the sweep knows of each row; its gradients take two more products.

    Returns:
      The loss, in X's dtype, or float32 where that is narrower: a scalar, or (...) with reduction="none". 0 if no row
      counts. With with_stats, the pair (loss, RowStatistics). The gradients are summed in float32 where X is narrower,
      and returned in the dtype of what they belong to.

    Raises:
      TypeError: X and W of two dtypes, targets that are neither labels nor distributions; a derivative with respect to
        targets or class_weights.
      ValueError: shapes that disagree; settings out of range; a label outside [0, C), a row that is no distribution, a
        negative weight. Under `jit` the last three give NaN instead.

    Example:
      >>> X, W, t = np.ones((2, 3), np.float32), np.zeros((3, 4), np.float32), np.array([0, 3])
      >>> print(f"{linear_cross_entropy(X, W, t):.4f}")
      1.3863
      >>> print(jax.grad(linear_cross_entropy, argnums=1)(X, W, t)[0])
      [-0.25  0.25  0.25 -0.25]
    """
    X, W, bias = (jnp.asarray(array) if is_array_api_obj(array) else array for array in (X, W, bias))
    batch = validation.check_head(FUNCTION, X, W, bias, {"targets": targets, "weights": weights})
    N, C = math.prod(batch), W.shape[1]
    X, targets, weights = (_flatten(array, N, len(batch)) for array in (X, targets, weights))
    shards = validation.check_axis(FUNCTION, "class_axis", class_axis)
    labels = getattr(targets, "ndim", 1) == 1
    validation.check_targets(FUNCTION, targets, N, C * shards if labels else C, ignore_index=ignore_index)
    validation.check_weights(FUNCTION, weights, N)
    validation.check_weights(FUNCTION, class_weights, C, "class_weights", "C")
    validation.check_number(FUNCTION, "label_smoothing", label_smoothing, most=1)
    validation.check_number(FUNCTION, "z_loss", z_loss)
    validation.check_choice(FUNCTION, "reduction", reduction, ("mean", "sum", "none"))
    if softcap is not None:
        validation.check_number(FUNCTION, "softcap", softcap, positive=True)
    if ignore_index is not None and not isinstance(ignore_index, (int, np.integer)):
        raise TypeError(f"{FUNCTION}: ignore_index must be an integer, a label; got {ignore_index!r}.")
    if ignore_index is not None and not labels:
        raise ValueError(
            f"{FUNCTION}: ignore_index must be None where targets are distributions; got {ignore_index!r}. "
            "Give those rows weight 0."
        )
    if block_size is None:
        block_size = _block_size(N, C, X.dtype)
    validation.check_positive_integer(FUNCTION, "block_size", block_size)

    statistics = RowStatistics._fields if with_stats else ()
    settings = Settings(
        label_smoothing=float(label_smoothing),
        z_loss=float(z_loss),
        softcap=None if softcap is None else float(softcap),
        class_axis=class_axis,
        masked=weights is not None or ignore_index is not None,
        block_size=min(block_size, N),
        total=reduction != "none",
        rows=statistics if reduction != "none" else ("loss", *statistics),
    )
    bias, k = (None if row is None else row.reshape(1, C) for row in (bias, class_weights))
    loss, rows = _loss(settings, reduction, ignore_index, X, W, bias, targets, weights, k)
    if reduction == "none":
        loss = loss.reshape(batch)
    if not with_stats:
        return loss
    return loss, RowStatistics(*(rows[name].reshape(batch) for name in statistics))


def _flatten(array: Any, N: int, leading: int) -> Any:
    return array.reshape(N, *array.shape[leading:]) if is_array_api_obj(array) else array


def _block_size(N: int, C: int, dtype: Any) -> int:
    """Rows in a block: as few blocks as the bytes of their logits allow, all of about one size."""
    least = LEAST_ROWS if jnp.finfo(dtype).bits >= 32 else LEAST_ROWS_NARROW
    blocks = math.ceil(N / max(BLOCK_BYTES // (4 * C), least))
    return math.ceil(N / blocks)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _loss(
    settings: Settings,
    reduction: str,
    ignore_index: int | None,
    X: Array,
    W: Array,
    b: Array | None,
    targets: Array,
    weights: Array | None,
    k: Array | None,
) -> tuple[Array, dict[str, Array]]:
    """The loss, Σ aℓ or by row, with a = w/n; and what is wanted of each row."""
    N, C = X.shape[0], W.shape[1]
    wide = validation.wide_dtype(X.dtype)
    w = jnp.ones(N, wide) if weights is None else weights.astype(wide)
    w = jnp.where(w < 0, math.nan, w)
    k = None if k is None else k.astype(wide)
    ignored = jnp.zeros(N, bool)
    valid = ~ignored
    if targets.ndim == 1:
        labels = targets.astype(jnp.arange(1).dtype)
        valid = (labels >= 0) & (labels < C * num_shards(settings))
        if ignore_index is not None:
            ignored = labels == ignore_index
            w = jnp.where(ignored, 0, w)
        targets = jnp.where(valid, labels, -1).astype(jnp.int32)
    n = _normaliser(settings, w, targets, k) if reduction == "mean" else 1
    a = jnp.where(valid | (w == 0), w / n, math.nan)
    total, rows = sweep(settings, Arrays(X=X, W=W, b=b, a=a, targets=targets, k=k))
    if total is None:
        total = weigh(a, rows.pop("loss"))
    if "prediction" in rows:
        rows["prediction"] = rows["prediction"].astype(jnp.int32)
    if "log_probability" in rows:
        rows["log_probability"] = jnp.where(ignored, 0, jnp.where(valid, rows["log_probability"], math.nan))
    return total, rows


def _normaliser(settings: Settings, w: Array, targets: Array, k: Array | None) -> Array:
    """Σ w Σ_j T_j k_j, or 1 where that is 0."""
    if k is not None:
        if targets.ndim == 2:
            mass = jnp.where((w == 0)[:, None], 0, targets.astype(w.dtype)) @ k[0]
        else:
            t = targets - first_class(settings, k.shape[1])
            mass = jnp.where((t >= 0) & (t < k.shape[1]), k[0, t], 0)
        w = w * sum_over_classes(settings, mass)
    n = jnp.sum(w)
    return jnp.where(n == 0, 1, n)
