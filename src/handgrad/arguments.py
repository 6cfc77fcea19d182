"""Every check of an array, and its message; `settings` has those of numbers and names.

A check names the function that the user called, what that function requires, what it got and what to do. Shapes
and dtypes are checked always, so under `jax.jit` at trace time. Values are looked at only where they are known: a
tracer has none, and there `formulas` answers a row that breaks the rules with NaN.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, is_jax_array

from handgrad.precision import are_distributions, relative_weights, wide_dtype, widen_labels
from handgrad.settings import as_float, show
from handgrad.settings import check_axis as check_axis
from handgrad.settings import check_choice as check_choice
from handgrad.settings import check_dtype as check_dtype
from handgrad.settings import check_flag as check_flag
from handgrad.settings import check_key as check_key
from handgrad.settings import check_number as check_number
from handgrad.settings import check_positive_integer as check_positive_integer

# More classes than that, and than ten times the rows, are not taken from the largest label alone.
MOST_INFERRED_CLASSES = 1000


def check_array(function: str, argument: str, array: Any, shape: str, *, kind: str = "floating") -> Any:
    """Check that `array` is a plain array of as many axes as `shape` names, none empty, and of the dtype kind.

    Args:
      function: the public function that was called, for the message.
      argument: the argument's name, for the message.
      array: what was passed.
      shape: the required shape in the notation's letters, as "(N, C)".
      kind: "floating", or "number", which is integers too.

    Returns:
      The array's namespace.
    """
    check_plain(function, argument, array)
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
    noun = {"floating": "floating-point", "number": "integers or floating-point"}[kind]
    if not _is_dtype(xp, array.dtype, kind):
        raise TypeError(
            f"{function}: {argument} must be {noun}; got {array.dtype}. Convert it, for example with .astype."
        )
    if is_jax_array(array) and jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise TypeError(
            f"{function}: {argument} is {array.dtype}, made under jax.enable_x64, and JAX would cut it to 32 bits. "
            "Call it under jax.enable_x64 too, or convert it there."
        )
    return xp


def _is_dtype(xp: Any, dtype: Any, kind: str) -> bool:
    """Whether a dtype is of the kind, and wide enough to compute with: float8 and int4 only store."""
    try:
        if kind == "number" and xp.isdtype(dtype, "integral"):
            return xp.iinfo(dtype).bits >= 8
        return xp.isdtype(dtype, "real floating") and xp.finfo(dtype).bits >= 16
    except TypeError:  # NumPy's, of a dtype that is not its own, such as bfloat16
        return False


def check_plain(function: str, argument: str, array: Any) -> None:
    """Check that an array is not masked, for its mask would be lost, and not sparse, which few functions take."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{function}: {argument} must be an array without a mask; got a masked array. Fill it with .filled(value), "
            "and give rows that are not to count weight 0."
        )
    if is_sparse(array):
        size = np.prod(array.shape, dtype=float) * np.dtype(array.dtype).itemsize
        raise TypeError(
            f"{function}: {argument} must be dense; got a {type(array).__name__} of shape {tuple(array.shape)}, which "
            f"would take {size:,.0f} bytes. Give {argument}.todense(); handgrad.fit, fit_path and SoftmaxRegression "
            "take sparse X as it is."
        )


def check_known(function: str, *given: Any) -> None:
    """Check that a function which is stepped from Python, by what values say, has values and is not being compiled."""
    traced = (isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given))
    if any(traced) or isinstance(jax.device_put(np.float32(0)), jax.core.Tracer):
        raise TypeError(
            f"{function}: data must be known, which they are not under jax.jit, vmap or grad. Call it outside of these."
        )


def is_sparse(X: Any) -> bool:
    """Whether X is one of SciPy's sparse arrays or matrices, or JAX's BCOO or BCSR."""
    kind = f"{type(X).__module__}.{type(X).__name__}"
    return kind.startswith("scipy.sparse.") or kind.startswith("jax.experimental.sparse.") or hasattr(X, "tocsr")


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
        outside = ~widen_labels(xp, targets, num_classes)[1]
        limits = xp.iinfo(targets.dtype)
        if ignore_index is None or not limits.min <= ignore_index <= limits.max:
            return outside
        return outside & (targets != ignore_index)

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


def check_weights(
    function: str,
    weights: Any,
    num_rows: int,
    argument: str = "weights",
    letter: str = "N",
    *,
    dtype: Any = None,
) -> None:
    """Check sample weights (N,), integers or floating, finite and non-negative; None is allowed. So of classes (C,).

    A positive weight must also be large enough, beside the largest, not to become 0 in `dtype`, in which it is used;
    where that is None, in its own.
    """
    if weights is None:
        return
    xp = check_array(function, argument, weights, f"({letter},)", kind="number")
    _check_shape(function, argument, weights, (num_rows,), f"({letter},)")
    noun = "row" if letter == "N" else "class"
    for row, (weight,) in _first_row(weights, lambda w: ~((w >= 0) & xp.isfinite(w))):
        raise ValueError(f"{function}: {argument} must be finite and non-negative; got {weight:g} at {noun} {row}.")
    if xp.isdtype(weights.dtype, "integral"):
        return
    dtype = wide_dtype(weights.dtype, xp) if dtype is None else dtype
    for row, (weight,) in _first_row(weights, lambda w: xp.isnan(relative_weights(xp, w, dtype))):
        raise ValueError(
            f"{function}: {argument} must be 0, or large enough beside the largest of them for {dtype}; got {weight:g} "
            f"at {noun} {row}, which would count as 0. Set it to 0, or compute in a wider dtype."
        )


def host_weights(function: str, weights: Any, num_rows: int, *, dtype: Any = None) -> np.ndarray:
    """Sample weights (N,) with known values, checked as they were given and divided by their largest in float64.

    Args:
      function: as in `check_array`.
      weights: what the user gave; None for ones.
      num_rows: N.
      dtype: a dtype of NumPy or JAX in which they will be used, float32 or wider.

    Returns:
      Array (N,) of float64, on the host: 0 where the weight is 0, else in (0, 1]; 0 throughout if all are 0.
    """
    if weights is None:
        return np.ones(num_rows)
    if isinstance(weights, np.ndarray) and weights.dtype == jax.numpy.bfloat16:
        weights = weights.astype(np.float32)  # NumPy itself does not know the dtype
    check_array(function, "weights", weights, "(N,)", kind="number")
    host = np.asarray(weights)
    host = host.astype(np.result_type(host.dtype, np.float64))  # float64, or longdouble
    check_weights(function, host, num_rows, dtype=np.dtype(np.float64 if dtype is None else dtype))
    return (host / (host.max() or 1)).astype(np.float64)


def check_finite(function: str, argument: str, array: Any) -> None:
    """Check that an array (N, P) has no NaN and no infinity, where its values are known."""
    xp = array_namespace(array)
    for row, _ in _first_row(array, lambda array: ~xp.all(xp.isfinite(array), axis=1)):
        raise ValueError(
            f"{function}: {argument} must be finite; row {row} has a NaN or an infinity. Drop such rows "
            "or fill them in first."
        )


def check_scalar(function: str, argument: str, value: Any, like: Any) -> Any:
    """Check a number, or an array of no axes, that the dtype of the array `like` holds. Returns it to go with that."""
    xp = array_namespace(like)
    if is_array_api_obj(value):
        if value.shape != ():
            raise ValueError(f"{function}: {argument} must be a scalar; got {tuple(value.shape)}.")
        if not _is_dtype(array_namespace(value), value.dtype, "number"):
            raise TypeError(f"{function}: {argument} must be a real number; got {value.dtype}.")
    if not isinstance(value, jax.core.Tracer):
        number = as_float(value)
        if not abs(number) <= float(xp.finfo(like.dtype).max):
            raise ValueError(f"{function}: {argument} must be a number that {like.dtype} holds; got {show(value)}.")
        if not is_array_api_obj(value):
            return number
    return xp.asarray(value, dtype=like.dtype)


def count_classes(function: str, targets: Any) -> int:
    """The number of classes that targets with known values have: columns, or the largest label + 1."""
    if is_array_api_obj(targets) and targets.ndim == 2:
        return targets.shape[1]
    xp = check_labels(function, "targets", targets)
    largest = int(xp.max(targets))
    if largest >= max(MOST_INFERRED_CLASSES, 10 * targets.shape[0]):
        raise ValueError(
            f"{function}: targets have the label {largest} in {targets.shape[0]} rows, which would make {largest + 1} "
            "classes. If that is meant, pass num_classes; otherwise number the classes from 0."
        )
    return max(largest, 0) + 1


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
    with jax.ensure_compile_time_eval() if is_jax_array(array) else contextlib.nullcontext():
        bad = is_bad(array)
        if bool(xp.any(bad)):
            row = int(xp.argmax(xp.astype(bad, xp.int32)))
            entries = [array[row]] if array.ndim == 1 else [array[row, column] for column in range(array.shape[1])]
            is_integral = xp.isdtype(array.dtype, "integral")
            yield row, [int(entry) if is_integral else float(entry) for entry in entries]
