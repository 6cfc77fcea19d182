"""The head's loss of what a user gave: judged on the host where it is known, before JAX casts it; then the sweep."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from array_api_compat import is_array_api_obj
from jax import lax

from handgrad import arguments
from handgrad.compiled import as_jax, narrow
from handgrad.head import Array, Arrays, ByName, Settings, first_class, sum_over_classes
from handgrad.precision import wide_dtype
from handgrad.settings import is_integer, show
from handgrad.sweep import sum_of, sweep, weigh

# Where tanh(z/κ) is itself in float32, neither lost among its smallest numbers nor beyond its largest.
LEAST_CAP, LARGEST_CAP = 1e-30, 1e30
# In place of a label: of a row that does not count, and of one that is in no class.
IGNORED, OUTSIDE = -1, -2


def head_loss(
    function: str,
    X: Array,
    W: Array,
    *,
    bias: Array | None,
    targets: Array | None,
    weights: Array | None,
    class_weights: Array | None = None,
    teacher: tuple[Array, Array, Array | None] | None = None,
    total: tuple[tuple[str, float], ...] = (("loss", 1.0),),
    statistics: tuple[str, ...] = (),
    ignore_index: int | None,
    reduction: str,
    recompute: bool | None,
    transposed: bool,
    block_size: int | None,
    class_axis: str | None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None,
    temperature: float = 1.0,
    layout: tuple[Any, Any, Any] | None = None,
) -> tuple[Array, ByName]:
    """The loss, Σ of the values by row that `total` names times their factors; and the statistics of each row.

    The arguments are those of `handgrad.linear_cross_entropy` and `handgrad.linear_distillation`, `function` is which
    of them was called, for messages; `teacher` is X, W and bias of one.
    """
    given = {"targets": targets, "weights": weights, "class_weights": class_weights}
    arguments.check_flag(function, "transposed", transposed)
    arguments.check_flag(function, "recompute", recompute, optional=True)
    if not (ignore_index is None or is_integer(ignore_index)):
        raise TypeError(f"{function}: ignore_index must be an integer, a label; got {show(ignore_index)}.")
    X, W, bias = _ready(function, "", X, W, bias)
    for argument, array in given.items():
        arguments.check_plain(function, argument, array)
    batch, C = _check_head(function, X, W, bias, {"targets": targets, "weights": weights}, transposed=transposed)
    N = math.prod(batch)
    shards = arguments.check_axis(function, "class_axis", class_axis)
    teacher_X, teacher_W, teacher_b = teacher or (None, None, None)
    if teacher is not None:
        teacher_X, teacher_W, teacher_b = _ready(function, "teacher_", *teacher)
        _check_teacher(function, teacher_X, teacher_W, teacher_b, batch, C, transposed)
    # JAX's own targets, which no cast has narrowed unseen, stay where they are.
    targets = as_jax(function, "targets", targets) if _is_bfloat16(targets) else targets
    targets = targets if isinstance(targets, jax.Array) else _at_hand(targets)
    weights, k = _at_hand(weights), _at_hand(class_weights)
    labels = getattr(targets, "ndim", len(batch)) == len(batch)
    if teacher is None or targets is not None:
        arguments.check_targets(
            function, _flat(targets, batch), N, C * shards if labels else C, ignore_index=ignore_index
        )
    arguments.check_weights(function, _flat(weights, batch), N)
    arguments.check_weights(function, k, C, "class_weights", "C")
    arguments.check_number(function, "label_smoothing", label_smoothing, most=1)
    arguments.check_number(function, "z_loss", z_loss, dtype=wide_dtype(X.dtype))
    arguments.check_choice(function, "reduction", reduction, ("mean", "sum", "none"))
    if softcap is not None:
        arguments.check_number(function, "softcap", softcap, positive=True)
        if not LEAST_CAP <= float(softcap) <= LARGEST_CAP:
            raise ValueError(
                f"{function}: softcap must be from {LEAST_CAP:g} to {LARGEST_CAP:g}; got {softcap!r}. "
                "Leave out one that caps nothing."
            )
    if ignore_index is not None and not labels:
        raise ValueError(
            f"{function}: ignore_index must be None where targets are distributions; got {ignore_index!r}. "
            "Give those rows weight 0."
        )
    if block_size is not None:
        arguments.check_positive_integer(function, "block_size", block_size)

    # What is known is made ready on the host, before JAX casts it; `_loss` does the same with what is traced.
    if isinstance(targets, np.ndarray) and labels:
        targets = _indices(targets, C * shards, ignore_index)
        if ignore_index is not None:
            ignore_index = IGNORED
            weights = np.where(targets == IGNORED, 0, weights) if isinstance(weights, np.ndarray) else weights
    targets = narrow(function, "targets", targets)
    wide, mean = wide_dtype(X.dtype), reduction == "mean"
    if isinstance(weights, np.ndarray):
        weights = _known_scale(function, "weights", weights, wide, divide=mean)
    if isinstance(k, np.ndarray):
        k = _known_scale(function, "class_weights", k, wide, divide=mean and not z_loss)

    losses = tuple(name for name, _ in total)
    settings = Settings(
        num_classes=C * shards,
        total=total if reduction != "none" else (),
        rows=(*(losses if reduction == "none" else ()), *statistics),
        masked=weights is not None or ignore_index is not None,
        transposed=bool(transposed),
        recompute=recompute,
        block_size=None if block_size is None else int(block_size),
        class_axis=class_axis,
        label_smoothing=float(label_smoothing),
        z_loss=float(z_loss),
        softcap=None if softcap is None else float(softcap),
        temperature=float(temperature),
        layout=layout,
    )
    bias, teacher_b, k = (None if row is None else row.reshape(1, C) for row in (bias, teacher_b, k))
    arrays = Arrays(X, W, bias, weights, targets, k, teacher_X, teacher_W, teacher_b)
    return _loss(settings, total, reduction, ignore_index, arrays)


def _ready(function: str, prefix: str, X: Any, W: Any, bias: Any) -> Any:
    """JAX's arrays, nothing lost; what is no array stays as it is, to be refused."""
    given = {f"{prefix}X": X, f"{prefix}W": W, f"{prefix}bias": bias}
    for argument, array in given.items():
        arguments.check_plain(function, argument, array)
    return (
        as_jax(function, argument, array) if is_array_api_obj(array) else array for argument, array in given.items()
    )


def _check_head(
    function: str, X: Any, W: Any, bias: Any, by_row: dict[str, Any], *, transposed: bool = False, prefix: str = ""
) -> tuple[tuple[int, ...], int]:
    """Check X (..., P), W (P, C), or (C, P), bias (C,) or (1, C), and that what is given by row has X's leading axes.

    W is of X's dtype, or float32 where that is narrower. Returned are the leading axes and C.
    """
    batch = tuple(X.shape[:-1]) if is_array_api_obj(X) and X.ndim > 1 else ()
    # No reshape to (N, P): of an array that is there it would be a copy, and over devices move its rows.
    arguments.check_array(function, f"{prefix}X", X, f"({'N, ' * max(len(batch), 1)}P)")
    arguments.check_array(function, f"{prefix}W", W, "(C, P)" if transposed else "(P, C)")
    P, C = W.shape[::-1] if transposed else W.shape
    if X.shape[-1] != P:
        raise ValueError(
            f"{function}: {prefix}X must have P = {P} columns for {prefix}W {W.shape}{', transposed' * transposed}; "
            f"got {X.shape}."
        )
    if W.dtype != X.dtype and W.dtype != wide_dtype(X.dtype):
        raise TypeError(
            f"{function}: {prefix}X and {prefix}W must have one dtype, or {prefix}W float32 where {prefix}X is "
            f"narrower; got {X.dtype} and {W.dtype}. Convert one of them."
        )
    if bias is not None:
        arguments.check_array(
            function, f"{prefix}bias", bias, "(1, C)" if is_array_api_obj(bias) and bias.ndim > 1 else "(C,)"
        )
        if tuple(bias.shape) not in ((C,), (1, C)):
            raise ValueError(
                f"{function}: {prefix}bias must have shape (C,) or (1, C) with C = {C}; got {tuple(bias.shape)}."
            )
    for argument, array in by_row.items():
        if is_array_api_obj(array) and tuple(array.shape[: len(batch)]) != batch:
            raise ValueError(
                f"{function}: {argument} must begin with the leading axes of {prefix}X, {batch}; got "
                f"{tuple(array.shape)}."
            )
    return batch, int(C)


def _check_teacher(
    function: str, X: Array, W: Array, bias: Array | None, batch: tuple[int, ...], C: int, transposed: bool
) -> None:
    leading, classes = _check_head(function, X, W, bias, {}, transposed=transposed, prefix="teacher_")
    if leading != batch or classes != C:
        raise ValueError(
            f"{function}: teacher_X must have the leading axes of X, {batch}, and teacher_W the classes of W, {C}; got "
            f"{leading} and {classes}."
        )


def _at_hand(array: Any) -> Any:
    """The array in NumPy, where its values are known: so it is judged on the host, in the dtype in which it came."""
    known = is_array_api_obj(array) and not isinstance(array, jax.core.Tracer)
    if not known or not getattr(array, "is_fully_addressable", True):
        return array
    with jax.ensure_compile_time_eval():
        array = np.asarray(array)
    return array.astype(np.float32) if _is_bfloat16(array) else array  # of which NumPy knows little


def _is_bfloat16(array: Any) -> bool:
    return getattr(array, "dtype", None) == jnp.bfloat16


def _flat(array: Any, batch: tuple[int, ...]) -> Any:
    many = len(batch) > 1 and is_array_api_obj(array)
    return array.reshape(math.prod(batch), *array.shape[len(batch) :]) if many else array


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


def _known_scale(function: str, argument: str, weights: np.ndarray, dtype: Any, divide: bool) -> np.ndarray:
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
            f"{function}: {argument} must be 0 or in the range of {jnp.dtype(dtype)}"
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


# --- The loss -----------------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _loss(
    settings: Settings, total: tuple[tuple[str, float], ...], reduction: str, ignore_index: int | None, arrays: Arrays
) -> tuple[Array, ByName]:
    """The loss, Σ aℓ or by row, with a = w/n for the weights w in the place of a; and what is wanted of each row."""
    X, targets, weights, k = arrays.X, arrays.targets, arrays.a, arrays.k
    batch, wide, mean = X.shape[:-1], wide_dtype(X.dtype), reduction == "mean"
    ignored = outside = jnp.zeros(batch, bool)
    if targets is not None and targets.ndim == len(batch):
        targets = _indices(targets, settings.num_classes, ignore_index)
        ignored, outside = targets == IGNORED, targets == OUTSIDE
    if weights is None:
        w = jnp.where(ignored, 0, jnp.ones(batch, wide))
    else:
        w = _traced_scale(settings, jnp.where(ignored, 0, weights), wide, divide=mean)
    if k is not None:
        k = _traced_scale(settings, k, wide, divide=mean and not settings.z_loss, of_classes=True)
    all_alike = not settings.masked and k is None
    a = w / (w.size if all_alike else _normaliser(settings, w, targets, k)) if mean else w
    # A share that is lost is no row that does not count.
    a = jnp.where((outside | (a == 0)) & (w != 0), math.nan, a)
    if "loss" not in dict(total):
        targets = None  # they were there for the rows to be ignored
    loss, rows = sweep(settings, arrays._replace(a=a, targets=targets, k=k))
    if loss is None:
        loss = weigh(a, sum_of(total, rows))
    if "prediction" in rows:
        rows["prediction"] = rows["prediction"].astype(jnp.int32)
    if "log_probability" in rows:
        rows["log_probability"] = jnp.where(ignored, 0, jnp.where(outside, math.nan, rows["log_probability"]))
    return loss, rows


def _normaliser(settings: Settings, w: Array, targets: Any, k: Array | None) -> Array:
    """Σ w Σ_j T_j k_j; where it is 0, 1 if Σ wℓ is 0 too, else NaN."""
    counts = w != 0
    if k is not None:
        if targets.ndim > w.ndim:
            # Of a row of weight 0 too: its mass is the derivative of the sum in w.
            T = targets.astype(w.dtype)
            mass, total = sum_over_classes(settings, (T @ k[0], jnp.sum(T, axis=-1)))
            mass = jnp.where((w == 0) & ~jnp.isfinite(mass / total), 0, mass / total)
        else:
            t = targets - first_class(settings, k.shape[1])
            mass = sum_over_classes(settings, jnp.where((t >= 0) & (t < k.shape[1]), k[0, t], 0))
        w = w * mass
        if not (settings.label_smoothing or settings.z_loss):
            counts &= mass != 0
    n = jnp.sum(w)
    return jnp.where(n == 0, jnp.where(jnp.any(counts), math.nan, 1), n)
