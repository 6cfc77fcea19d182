"""The fused head: softmax cross-entropy of XW + b, with all gradients, without its N×C logits."""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from array_api_compat import is_array_api_obj
from jax import lax

from handgrad import arguments
from handgrad.compiled import narrow
from handgrad.head import Arrays, Settings, first_class, num_shards, sum_over_classes
from handgrad.precision import wide_dtype
from handgrad.shapes import Float, Integer, Shaped
from handgrad.sweep import sweep, weigh

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
# Where tanh(z/κ) is itself in float32, neither lost among its smallest numbers nor beyond its largest.
LEAST_CAP, LARGEST_CAP = 1e-30, 1e30
# In place of a label: of a row that does not count, and of one that is in no class.
IGNORED, OUTSIDE = -1, -2


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
      targets: labels (...) of integer dtype in [0, C), or distributions (..., C), whose rows are divided by their sums.
      bias: (C,) or (1, C), floating. −inf masks a class, under a softcap too.
      weights: sample weights (...), finite, non-negative. A row of weight 0 does not count, whatever is in its X.
      class_weights: k, (C,), finite, non-negative.
      label_smoothing: s, in [0, 1].
      z_loss: factor of lse², 0 or more.
      softcap: κ, from 1e-30 to 1e30; logits z become κ tanh(z/κ).
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
      ValueError: shapes that disagree; settings out of range; a number too large for the dtype that JAX has for it; a
        label outside [0, C), a row that is no distribution, a weight that is negative, or that would become 0 or
        infinite in the dtype of the loss. Under `jit` the last three give NaN instead.

    Example:
      >>> X, W, t = np.ones((2, 3), np.float32), np.zeros((3, 4), np.float32), np.array([0, 3])
      >>> print(f"{linear_cross_entropy(X, W, t):.4f}")
      1.3863
      >>> print(jax.grad(linear_cross_entropy, argnums=1)(X, W, t)[0])
      [-0.25  0.25  0.25 -0.25]
    """
    given = {"targets": targets, "weights": weights, "class_weights": class_weights}
    for argument, array in {"X": X, "W": W, "bias": bias, **given}.items():
        arguments.check_plain(FUNCTION, argument, array)
    X, W, bias = (
        jnp.asarray(narrow(FUNCTION, argument, array)) if is_array_api_obj(array) else array
        for argument, array in (("X", X), ("W", W), ("bias", bias))
    )
    batch = arguments.check_head(FUNCTION, X, W, bias, {"targets": targets, "weights": weights})
    N, C = math.prod(batch), W.shape[1]
    # JAX's own targets, which no cast has narrowed unseen, stay where they are.
    targets = targets if isinstance(targets, jax.Array) else _at_hand(targets)
    weights, k = _at_hand(weights), _at_hand(class_weights)
    X, targets, weights = (_flatten(array, N, len(batch)) for array in (X, targets, weights))
    shards = arguments.check_axis(FUNCTION, "class_axis", class_axis)
    labels = getattr(targets, "ndim", 1) == 1
    arguments.check_targets(FUNCTION, targets, N, C * shards if labels else C, ignore_index=ignore_index)
    arguments.check_weights(FUNCTION, weights, N)
    arguments.check_weights(FUNCTION, k, C, "class_weights", "C")
    arguments.check_number(FUNCTION, "label_smoothing", label_smoothing, most=1)
    arguments.check_number(FUNCTION, "z_loss", z_loss)
    arguments.check_choice(FUNCTION, "reduction", reduction, ("mean", "sum", "none"))
    if softcap is not None:
        arguments.check_number(FUNCTION, "softcap", softcap, positive=True)
        if not LEAST_CAP <= float(softcap) <= LARGEST_CAP:
            raise ValueError(
                f"{FUNCTION}: softcap must be from {LEAST_CAP:g} to {LARGEST_CAP:g}; got {softcap!r}. "
                "Leave out one that caps nothing."
            )
    if ignore_index is not None and (not isinstance(ignore_index, (int, np.integer)) or isinstance(ignore_index, bool)):
        raise TypeError(f"{FUNCTION}: ignore_index must be an integer, a label; got {ignore_index!r}.")
    if ignore_index is not None and not labels:
        raise ValueError(
            f"{FUNCTION}: ignore_index must be None where targets are distributions; got {ignore_index!r}. "
            "Give those rows weight 0."
        )
    if block_size is None:
        block_size = _block_size(N, C, X.dtype)
    arguments.check_positive_integer(FUNCTION, "block_size", block_size)

    # What is known is made ready on the host, before JAX casts it; `_loss` does the same with what is traced.
    if isinstance(targets, np.ndarray) and labels:
        targets = _indices(targets, C * shards, ignore_index)
        if ignore_index is not None:
            ignore_index = IGNORED
            weights = np.where(targets == IGNORED, 0, weights) if isinstance(weights, np.ndarray) else weights
    wide, mean = wide_dtype(X.dtype), reduction == "mean"
    if isinstance(weights, np.ndarray):
        weights = _known_scale("weights", weights, wide, divide=mean)
    if isinstance(k, np.ndarray):
        k = _known_scale("class_weights", k, wide, divide=mean and not z_loss)

    statistics = RowStatistics._fields if with_stats else ()
    settings = Settings(
        label_smoothing=float(label_smoothing),
        z_loss=float(z_loss),
        softcap=None if softcap is None else float(softcap),
        class_axis=class_axis,
        masked=weights is not None or ignore_index is not None,
        block_size=min(int(block_size), N),
        total=reduction != "none",
        rows=statistics if reduction != "none" else ("loss", *statistics),
    )
    bias, k = (None if row is None else row.reshape(1, C) for row in (bias, k))
    loss, rows = _loss(settings, reduction, ignore_index, X, W, bias, targets, weights, k)
    if reduction == "none":
        loss = loss.reshape(batch)
    if not with_stats:
        return loss
    return loss, RowStatistics(*(rows[name].reshape(batch) for name in statistics))


# --- What was given, looked at before any cast ------------------------------------------------------------------------


def _at_hand(array: Any) -> Any:
    """The array in NumPy, where its values are known: so it is judged on the host, in the dtype in which it came."""
    known = is_array_api_obj(array) and not isinstance(array, jax.core.Tracer)
    if not known or not getattr(array, "is_fully_addressable", True):
        return array
    with jax.ensure_compile_time_eval():
        return np.asarray(array)


def _flatten(array: Any, N: int, leading: int) -> Any:
    return array.reshape(N, *array.shape[leading:]) if is_array_api_obj(array) else array


def _indices(labels: Array, num_classes: int, ignore_index: int | None) -> Array:
    """Labels as int32, of which some are IGNORED or OUTSIDE.

    They are compared in their own dtype: cast first, 2³² would be the label 0, and −100 a large one of uint32.
    """
    xp = np if isinstance(labels, np.ndarray) else jnp
    limits = jnp.iinfo(labels.dtype)
    if limits.bits < 32:
        labels = labels.astype(np.int32)
    valid = (labels >= 0) & (labels < num_classes)
    indices = xp.where(valid, xp.where(valid, labels, 0).astype(np.int32), np.int32(OUTSIDE))
    if ignore_index is not None and limits.min <= ignore_index <= limits.max:
        indices = xp.where(labels == ignore_index, np.int32(IGNORED), indices)
    return indices


def _known_scale(argument: str, weights: np.ndarray, dtype: Any, divide: bool) -> np.ndarray:
    """Known weights in the dtype, first divided by their largest where only their ratios count.

    Refused where one that is more than 0 would become 0, or one that is finite infinite.
    """
    wide = weights.astype(np.float64)
    if divide:
        wide /= wide.max() or 1
    kept = (weights == 0) | ((wide >= jnp.finfo(dtype).tiny) & (wide <= float(jnp.finfo(dtype).max)))
    if not kept.all():
        at = int(np.argmin(kept))
        raise ValueError(
            f"{FUNCTION}: {argument} must be 0 or in the range of {jnp.dtype(dtype)}"
            f"{', divided by their largest' if divide else ''}; got {weights[at]:g} at {at}. Scale them, or give it 0."
        )
    return wide.astype(dtype)


def _traced_scale(settings: Settings, weights: Array, dtype: Any, divide: bool, *, of_classes: bool = False) -> Array:
    """The same of weights that nobody has seen: NaN for what is refused there, and for a negative one."""
    floating = jnp.issubdtype(weights.dtype, jnp.floating)
    wide = weights if floating and jnp.finfo(weights.dtype).bits >= 32 else weights.astype(dtype)
    # XLA takes a subnormal number for 0; its bits tell it apart.
    bits = lax.bitcast_convert_type(lax.stop_gradient(wide), f"int{jnp.finfo(wide.dtype).bits}")
    if divide:
        largest = lax.stop_gradient(jnp.max(wide))
        if of_classes and settings.class_axis is not None:
            largest = lax.pmax(largest, settings.class_axis)
        # By a power of 2: XLA multiplies by the reciprocal instead, which of a large number is subnormal, so 0.
        exponent = jnp.minimum(jnp.frexp(largest)[1], jnp.finfo(wide.dtype).maxexp - 2)
        wide = wide * jnp.ldexp(jnp.ones_like(largest), -exponent)
    scaled = wide.astype(dtype)
    kept = jnp.where(bits > 0, (scaled >= jnp.finfo(dtype).tiny) & jnp.isfinite(scaled), wide == 0)
    return jnp.where(kept, scaled, math.nan)


def _block_size(N: int, C: int, dtype: Any) -> int:
    """Rows in a block: as few blocks as the bytes of their logits allow, all of about one size."""
    least = LEAST_ROWS if jnp.finfo(dtype).bits >= 32 else LEAST_ROWS_NARROW
    blocks = math.ceil(N / max(BLOCK_BYTES // (4 * C), least))
    return math.ceil(N / blocks)


# --- The loss -----------------------------------------------------------------------------------------------------


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
    wide, mean = wide_dtype(X.dtype), reduction == "mean"
    ignored = outside = jnp.zeros(N, bool)
    if targets.ndim == 1:
        targets = _indices(targets, C * num_shards(settings), ignore_index)
        ignored, outside = targets == IGNORED, targets == OUTSIDE
    if weights is None:
        w = jnp.where(ignored, 0, jnp.ones(N, wide))
    else:
        w = _traced_scale(settings, jnp.where(ignored, 0, weights), wide, divide=mean)
    if k is not None:
        k = _traced_scale(settings, k, wide, divide=mean and not settings.z_loss, of_classes=True)
    a = w / _normaliser(settings, w, targets, k) if mean else w
    # A share that is lost is no row that does not count.
    a = jnp.where((outside | (a == 0)) & (w != 0), math.nan, a)
    total, rows = sweep(settings, Arrays(X=X, W=W, b=b, a=a, targets=targets, k=k))
    if total is None:
        total = weigh(a, rows.pop("loss"))
    if "prediction" in rows:
        rows["prediction"] = rows["prediction"].astype(jnp.int32)
    if "log_probability" in rows:
        rows["log_probability"] = jnp.where(ignored, 0, jnp.where(outside, math.nan, rows["log_probability"]))
    return total, rows


def _normaliser(settings: Settings, w: Array, targets: Array, k: Array | None) -> Array:
    """Σ w Σ_j T_j k_j; where it is 0, 1 if Σ wℓ is 0 too, else NaN."""
    counts = w != 0
    if k is not None:
        if targets.ndim == 2:
            # Of a row of weight 0 too: its mass is the derivative of the sum in w.
            T = targets.astype(w.dtype)
            mass, total = sum_over_classes(settings, (T @ k[0], jnp.sum(T, axis=1)))
            mass = jnp.where((w == 0) & ~jnp.isfinite(mass / total), 0, mass / total)
        else:
            t = targets - first_class(settings, k.shape[1])
            mass = sum_over_classes(settings, jnp.where((t >= 0) & (t < k.shape[1]), k[0, t], 0))
        w = w * mass
        if not (settings.label_smoothing or settings.z_loss):
            counts &= mass != 0
    n = jnp.sum(w)
    return jnp.where(n == 0, jnp.where(jnp.any(counts), math.nan, 1), n)
