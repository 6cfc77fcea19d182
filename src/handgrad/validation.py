"""Every check of an argument, and every message.

A check names the function that the user called, what that function requires, what it got and what to do. Shapes
and dtypes are checked always, so under `jax.jit` at trace time. Values are looked at only where they are known: a
tracer has none, and there `formulas` answers a row that breaks the rules with NaN.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

# How far from 1 the sum of a row of a distribution may be, or 1.3 times its dtype's eps where that is more: rows that
# are rounded to bfloat16 are off by up to 0.004. Logits or counts passed for probabilities, which the check is for, are
# off by more. The loss and the gradient of a row that is off disagree by as much.
DISTRIBUTION_TOLERANCE = 1e-3


def check_array(function: str, argument: str, array: Any, shape: str, *, kind: str = "floating") -> Any:
    """Check that `array` is an array of as many axes as `shape` names, none empty, and of the dtype kind.

    Args:
      function: the public function that was called, for the message.
      argument: the argument's name, for the message.
      array: what was passed.
      shape: the required shape in the notation's letters, as "(N, C)".
      kind: "floating", "integer", or "number", which is either.

    Returns:
      The array's namespace.
    """
    if not is_array_api_obj(array):
        raise TypeError(
            f"{function}: {argument} must be an array of shape {shape}; got {type(array).__name__}. "
            "Convert it, for example with numpy.asarray."
        )
    if array.ndim != shape.count(",") + (not shape.endswith(",)")):
        raise ValueError(f"{function}: {argument} must have shape {shape}; got {tuple(array.shape)}.")
    if 0 in array.shape:
        raise ValueError(f"{function}: {argument} must not be empty; got shape {tuple(array.shape)} for {shape}.")
    xp = array_namespace(array)
    kinds = {"floating": "real floating", "integer": "integral", "number": ("real floating", "integral")}
    if not xp.isdtype(array.dtype, kinds[kind]):
        noun = {"floating": "floating-point", "integer": "integers", "number": "integers or floating-point"}[kind]
        raise TypeError(
            f"{function}: {argument} must be {noun}; got {array.dtype}. Convert it, for example with .astype."
        )
    return xp


def check_params(function: str, params: Any, argument: str = "params") -> tuple[int, int]:
    """Check W (P, C) and b (1, C) of one floating dtype. Returns (P, C)."""
    try:
        W, b = params
    except (TypeError, ValueError):
        raise TypeError(
            f"{function}: {argument} must be a pair (W, b); got {type(params).__name__}. Make one with "
            "handgrad.Params(W, b) or handgrad.init_params."
        ) from None
    check_array(function, f"{argument}.W", W, "(P, C)")
    check_array(function, f"{argument}.b", b, "(1, C)")
    if tuple(b.shape) != (1, W.shape[1]):
        raise ValueError(
            f"{function}: {argument}.b must have shape (1, C) = (1, {W.shape[1]}) for W {tuple(W.shape)}; "
            f"got {tuple(b.shape)}."
        )
    _check_same_dtype(function, f"{argument}.b", b, f"{argument}.W", W)
    return W.shape


def check_linear(function: str, params: Any, X: Any, argument: str = "params") -> None:
    """Check params and X (N, P) that fit each other."""
    num_features, num_classes = check_params(function, params, argument)
    check_array(function, "X", X, "(N, P)")
    if X.shape[1] != num_features:
        raise ValueError(
            f"{function}: X must have P = {num_features} columns for W {(num_features, num_classes)}; "
            f"got {tuple(X.shape)}."
        )
    _check_same_dtype(function, "X", X, f"{argument}.W", params[0])


def check_stacked(function: str, params: Any, argument: str, width: int, X: Any) -> None:
    """Check params of a layer that takes the `width` outputs of the layer before it."""
    num_features, num_classes = check_params(function, params, argument)
    if num_features != width:
        raise ValueError(
            f"{function}: {argument}.W must have shape ({width}, C), for the {width} outputs of the layer before it; "
            f"got {(num_features, num_classes)}."
        )
    _check_same_dtype(function, f"{argument}.W", params[0], "X", X)


def check_same_params(function: str, params: Any, argument: str, other: Any) -> None:
    """Check that `other` has the shapes and the dtype of params."""
    check_params(function, params)
    check_params(function, other, argument)
    check_same(function, f"{argument}.W", other[0], "params.W", params[0])


def check_same(function: str, argument: str, array: Any, other_argument: str, other: Any) -> None:
    """Check that two arrays have one shape and one dtype."""
    if tuple(array.shape) != tuple(other.shape):
        raise ValueError(
            f"{function}: {argument} must have the shape of {other_argument}, {tuple(other.shape)}; "
            f"got {tuple(array.shape)}."
        )
    _check_same_dtype(function, argument, array, other_argument, other)


def check_targets(
    function: str, targets: Any, num_rows: int, num_classes: int, *, ignore_index: int | None = None
) -> None:
    """Check labels (N,) in [0, C) of integer dtype, or distributions (N, C) of floating dtype.

    A label that is `ignore_index` is allowed too.
    """
    if is_array_api_obj(targets) and targets.ndim == 2:
        if tuple(targets.shape) == (num_rows, 1) and num_classes > 1:
            raise ValueError(
                f"{function}: targets must have shape (N, C) = {(num_rows, num_classes)}; got {(num_rows, 1)}. "
                "Labels as a column? Use targets[:, 0]."
            )
        _check_shape(function, "targets", targets, (num_rows, num_classes), "(N, C)")
        check_distributions(function, "targets", targets)
        return
    if is_array_api_obj(targets) and targets.ndim != 1:
        raise ValueError(
            f"{function}: targets must be labels (N,) or distributions (N, C) for {num_rows} rows and "
            f"{num_classes} classes; got shape {tuple(targets.shape)}."
        )
    xp = check_labels(function, "targets", targets)
    _check_shape(function, "targets", targets, (num_rows,), "(N,)")

    def is_outside(targets: Any) -> Any:
        labels = xp.astype(targets, xp.arange(1).dtype)
        outside = (labels < 0) | (labels >= num_classes)
        return outside if ignore_index is None else outside & (labels != ignore_index)

    for row, (label,) in _first_row(targets, is_outside):
        advice = " Labels that start at 1? Subtract 1." if label == num_classes else ""
        raise ValueError(
            f"{function}: labels must be integers in [0, {num_classes}) for logits "
            f"{(num_rows, num_classes)}; got {label} at row {row}.{advice}"
        )


def check_labels(function: str, argument: str, labels: Any) -> Any:
    """Check labels (N,) of integer dtype, whatever their values. Returns their namespace."""
    xp = check_array(function, argument, labels, "(N,)", kind="number")
    if not xp.isdtype(labels.dtype, "integral"):
        raise TypeError(
            f"{function}: {argument} must be labels (N,) of integer dtype or distributions (N, C) of floating dtype; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}. Labels as floats? Convert them to int32."
        )
    return xp


def check_distributions(function: str, argument: str, distributions: Any) -> Any:
    """Check (N, C) with rows that are non-negative and sum to 1. Returns the namespace."""
    xp = check_array(function, argument, distributions, "(N, C)")
    for row, values in _first_row(distributions, lambda T: ~are_distributions(xp, T)):
        raise ValueError(
            f"{function}: each row of {argument} must be a distribution, non-negative and with sum 1; got row "
            f"{row} with sum {sum(values):g} and smallest entry {min(values):g}. "
            "Pass probabilities, not logits or counts."
        )
    return xp


def check_weights(function: str, weights: Any, num_rows: int, argument: str = "weights", letter: str = "N") -> None:
    """Check sample weights (N,), integers or floating, finite and non-negative; None is allowed. So of classes (C,)."""
    if weights is None:
        return
    xp = check_array(function, argument, weights, f"({letter},)", kind="number")
    _check_shape(function, argument, weights, (num_rows,), f"({letter},)")
    for row, (weight,) in _first_row(weights, lambda w: ~((w >= 0) & xp.isfinite(w))):
        noun = "row" if letter == "N" else "class"
        raise ValueError(f"{function}: {argument} must be finite and non-negative; got {weight:g} at {noun} {row}.")


def check_head(function: str, X: Any, W: Any, bias: Any, by_row: dict[str, Any]) -> tuple[int, ...]:
    """Check X (..., P), W (P, C), bias (C,) or (1, C), and that what is given by row has X's leading axes, returned."""
    batch = tuple(X.shape[:-1]) if is_array_api_obj(X) and X.ndim > 1 else ()
    check_array(function, "X", X.reshape(math.prod(batch), -1) if len(batch) > 1 else X, "(N, P)")
    check_array(function, "W", W, "(P, C)")
    if X.shape[-1] != W.shape[0]:
        raise ValueError(f"{function}: X must have P = {W.shape[0]} columns for W {W.shape}; got {X.shape}.")
    _check_same_dtype(function, "X", X, "W", W)
    if bias is not None:
        check_array(function, "bias", bias, "(1, C)" if is_array_api_obj(bias) and bias.ndim > 1 else "(C,)")
        if tuple(bias.shape) not in ((W.shape[1],), (1, W.shape[1])):
            raise ValueError(
                f"{function}: bias must have shape (C,) or (1, C) with C = {W.shape[1]}; got {tuple(bias.shape)}."
            )
    for argument, array in by_row.items():
        if is_array_api_obj(array) and tuple(array.shape[: len(batch)]) != batch:
            raise ValueError(
                f"{function}: {argument} must begin with the leading axes of X, {batch}; got {tuple(array.shape)}."
            )
    return batch


def check_axis(function: str, argument: str, name: str | None) -> int:
    """Check the name of an axis of the enclosing `jax.shard_map`; None is allowed. Returns its number of devices."""
    if name is None:
        return 1
    try:
        return jax.lax.axis_size(name)
    except NameError:
        raise ValueError(
            f"{function}: {argument} must be an axis of the enclosing jax.shard_map; there is no {name!r} here. "
            "Call it inside jax.shard_map over a mesh with that axis, or leave it out."
        ) from None


def check_choice(function: str, argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Check that the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{function}: {argument} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_finite(function: str, argument: str, array: Any) -> None:
    """Check that an array (N, P) has no NaN and no infinity, where its values are known."""
    xp = array_namespace(array)
    for row, _ in _first_row(array, lambda array: ~xp.all(xp.isfinite(array), axis=1)):
        raise ValueError(
            f"{function}: {argument} must be finite; row {row} has a NaN or an infinity. Drop such rows "
            "or fill them in first."
        )


def check_positive_integer(function: str, argument: str, value: Any) -> None:
    """Check a count, such as a number of classes."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{function}: {argument} must be a positive integer; got {value!r}.")


def check_number(function: str, argument: str, value: Any, *, positive: bool = False, most: float = math.inf) -> None:
    """Check a setting, such as a learning rate: finite, non-negative or even positive, and no more than `most`."""
    try:
        fits = 0 <= float(value) <= most and float(value) < math.inf and not (positive and float(value) == 0)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        least = "more than 0" if positive else "0 or more"
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise ValueError(f"{function}: {argument} must be a finite number, {least}{limit}; got {value!r}.")


def check_scalar(function: str, argument: str, value: Any, like: Any) -> Any:
    """Check a number or an array of no axes. Returns it as it goes with the array `like`: in its dtype."""
    if isinstance(value, (int, float)) and not isinstance(value, np.generic):
        return value
    if getattr(value, "shape", None) != ():
        raise ValueError(f"{function}: {argument} must be a scalar; got {getattr(value, 'shape', value)!r}.")
    return array_namespace(like).asarray(value, dtype=like.dtype)


def count_classes(function: str, targets: Any) -> int:
    """The number of classes that targets with known values have: columns, or the largest label + 1."""
    if is_array_api_obj(targets) and targets.ndim == 2:
        return targets.shape[1]
    xp = check_labels(function, "targets", targets)
    return max(int(xp.max(targets)), 0) + 1


# What the formulas share with the checks, so that a row is refused by one rule, traced or not.


def widen(xp: Any, array: Any) -> Any:
    """The array in float32 where its dtype is narrower (float16, bfloat16), else as it is."""
    return xp.astype(array, xp.float32) if xp.finfo(array.dtype).bits < 32 else array


def wide_dtype(dtype: Any) -> Any:
    """The dtype of `widen`'s result on JAX."""
    return np.dtype(np.float32) if jax.numpy.finfo(dtype).bits < 32 else dtype


def are_distributions(xp: Any, T: Any) -> Any:
    """For each row of T (N, C), whether it is non-negative and sums to 1; False where it has a NaN."""
    off = xp.abs(xp.sum(widen(xp, T), axis=1) - 1)
    return (xp.min(widen(xp, T), axis=1) >= 0) & (off <= distribution_tolerance(xp.finfo(T.dtype)))


def distribution_tolerance(finfo: Any) -> float:
    """How far from 1 the sum of a row of a distribution of that dtype may be."""
    return max(DISTRIBUTION_TOLERANCE, 1.3 * float(finfo.eps))


def _check_shape(function: str, argument: str, array: Any, shape: tuple[int, ...], letters: str) -> None:
    if tuple(array.shape) != shape:
        raise ValueError(f"{function}: {argument} must have shape {letters} = {shape}; got {tuple(array.shape)}.")


def _check_same_dtype(function: str, argument: str, array: Any, other_argument: str, other: Any) -> None:
    if array.dtype != other.dtype:
        raise TypeError(
            f"{function}: {argument} and {other_argument} must have one dtype; got {array.dtype} and {other.dtype}. "
            "Convert one of them."
        )


def _first_row(array: Any, is_bad: Callable[[Any], Any]) -> Iterator[tuple[int, list[Any]]]:
    """The first row that is bad, with its entries as Python numbers, if there is one and its values can be seen."""
    if isinstance(array, jax.core.Tracer):
        return
    xp = array_namespace(array)
    # Where a caller is being compiled, jax.numpy only takes down what to compute, even of arrays that are there.
    with jax.ensure_compile_time_eval():
        bad = is_bad(array)
        if bool(xp.any(bad)):
            row = int(xp.argmax(xp.astype(bad, xp.int32)))
            entries = [array[row]] if array.ndim == 1 else [array[row, column] for column in range(array.shape[1])]
            is_integral = xp.isdtype(array.dtype, "integral")
            yield row, [int(entry) if is_integral else float(entry) for entry in entries]
