"""What the formulas and the checks share, so that a row is refused by one rule, traced or not."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from array_api_compat import is_jax_namespace, is_numpy_namespace

# How far from 1 the sum of a row of a distribution may be, or 1.3 times its dtype's eps where that is more: rows that
# are rounded to bfloat16 are off by up to 0.004. Logits or counts passed for probabilities, which the check is for, are
# off by more. A row within it is divided by its sum.
DISTRIBUTION_TOLERANCE = 1e-3


def widen(xp: Any, array: Any) -> Any:
    """The array in float32 where its dtype is narrower (float16, bfloat16), else as it is."""
    return xp.astype(array, xp.float32) if xp.finfo(array.dtype).bits < 32 else array


def wide_dtype(dtype: Any, xp: Any = jax.numpy) -> Any:
    """The dtype of `widen`'s result."""
    if xp.finfo(dtype).bits >= 32:
        return dtype
    return np.dtype(np.float32) if is_jax_namespace(xp) or is_numpy_namespace(xp) else xp.float32


def are_distributions(xp: Any, T: Any) -> Any:
    """For each row of T (N, C), whether it is non-negative and sums to 1; False where it has a NaN."""
    off = xp.abs(xp.sum(widen(xp, T), axis=1) - 1)
    return (xp.min(widen(xp, T), axis=1) >= 0) & (off <= distribution_tolerance(xp.finfo(T.dtype)))


def distribution_tolerance(finfo: Any) -> float:
    """How far from 1 the sum of a row of a distribution of that dtype may be."""
    return max(DISTRIBUTION_TOLERANCE, 1.3 * float(finfo.eps))


def distributions(xp: Any, T: Any, dtype: Any) -> Any:
    """T (N, C) in the dtype, float32 or wider, each row over its sum; NaN in a row that is no distribution.

    The gradient Y − T is that of the loss −Σ_j T_j log Y_j only where Σ_j T_j = 1.
    """
    rows = xp.astype(T, dtype)
    return xp.where(are_distributions(xp, T)[:, None], rows / xp.sum(rows, axis=1, keepdims=True), math.nan)


def widen_labels(xp: Any, labels: Any, num_classes: int) -> tuple[Any, Any]:
    """Labels in the library's default integer dtype, whose range holds any class count, and which are in [0, C).

    An unsigned label too large for it turns negative, and so stays outside.
    """
    labels = xp.astype(labels, xp.arange(1).dtype)
    return labels, (labels >= 0) & (labels < num_classes)


def relative_weights(xp: Any, weights: Any, dtype: Any) -> Any:
    """Weights over the largest of them, in the dtype: a mean needs only their ratios, and no sum of these overflows.

    NaN where a weight is negative or not finite, or positive and so small that the dtype would take it for 0.
    """
    weights = xp.astype(weights, dtype) if xp.isdtype(weights.dtype, "integral") else widen(xp, weights)
    largest = xp.max(weights)
    # XLA divides by multiplying with 1/largest, which must not be subnormal either.
    down = xp.where(largest > 2.0**64, 2.0**-8, xp.ones_like(largest))
    relative = xp.astype((weights * down) / xp.where(largest > 0, largest * down, 1.0), dtype)
    lost = (weights > 0) & (relative < float(xp.finfo(dtype).smallest_normal))
    return xp.where((weights < 0) | lost | _is_flushed(xp, weights), math.nan, relative)


def without_uncounted(xp: Any, rows: Any, relative: Any) -> Any:
    """Rows (N, …), 0 where their weight is 0: what is in such a row does not count, and 0 · NaN would."""
    return rows if relative is None else xp.where(relative[:, None] == 0, 0.0, rows)


def if_finite(xp: Any, array: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """What `then` computes if the array is finite throughout, else what `otherwise` does."""
    finite = xp.all(xp.isfinite(array))
    if isinstance(finite, jax.core.Tracer):
        return jax.lax.cond(finite, then, otherwise)
    return then() if bool(finite) else otherwise()


def _is_flushed(xp: Any, array: Any) -> Any:
    """Where a number is subnormal, on JAX: XLA's CPU takes it for 0 in any operation but on its bits."""
    if not is_jax_namespace(xp):
        return xp.zeros_like(array, dtype=xp.bool)
    finfo = xp.finfo(array.dtype)
    bits = jax.lax.bitcast_convert_type(array, f"uint{finfo.bits}") << 1  # without the sign
    return (bits > 0) & (bits < 2 ** (finfo.nmant + 1))
