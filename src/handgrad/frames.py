"""Lists, tensors of PyTorch, and data frames of pandas or polars, as NumPy arrays; other arrays stay what they are.

No library is imported: who has something of one has imported it. Columns of integers and booleans become floating,
in the narrowest dtype that NumPy's promotion gives all columns together, float32 or wider where none is floating.
Nothing is lost without a word: a missing value, and an integer that float64 does not hold, are refused by column and
row. Rows are taken in their order, whatever a frame's index says.
"""

import re
import sys
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import jax
import numpy as np
from array_api_compat import is_torch_array

POLARS_NUMBERS = re.compile(r"Boolean|U?Int(8|16|32|64)|Float(16|32|64)")
EXACT = 2**53  # integers below it are in float64 what they are
MAKE_NUMBERS = (
    "Drop it, or make numbers of it: of categories and text with sklearn.preprocessing.OneHotEncoder, of dates by "
    "subtracting one."
)
NUMBER_LABELS = (
    "handgrad.SoftmaxRegression takes labels of any kind; or number them from 0, as "
    "numpy.unique(targets, return_inverse=True)[1] does."
)


def as_data(function: str, X: Any, argument: str = "X") -> Any:
    """Data (N, P): lists and frames as a floating NumPy array, what else is given untouched.

    Args:
      function: the public function that was called, for the message.
      X: what the user gave.
      argument: the argument's name, for the message.
    """
    if _is_frame(X):
        return _as_matrix(function, argument, X)
    array = as_array(function, X, argument, MAKE_NUMBERS)
    return array if array is X else _floating(function, argument, array, X)


def as_targets(function: str, targets: Any, argument: str = "targets") -> Any:
    """Labels (N,) or distributions (N, C), as `as_data`; labels keep their dtype, and those of text are refused."""
    if _is_frame(targets):
        if targets.shape[1] == 1:
            raise ValueError(
                f"{function}: {argument} must be labels (N,) or distributions (N, C); got a frame of one column. "
                f"Labels? Pass the column itself, {argument}[{next(iter(targets.columns))!r}]."
            )
        return _as_matrix(function, argument, targets)
    array = as_array(function, targets, argument, NUMBER_LABELS)
    if isinstance(array, np.ndarray) and array.dtype.kind in "OSTU":
        raise TypeError(f"{function}: {argument} must be numbers; got an array of {array.dtype}. {NUMBER_LABELS}")
    return array if array is targets or array.ndim == 1 else _floating(function, argument, array, targets)


def as_array(function: str, values: Any, argument: str, advice: str = "Convert them first.") -> Any:
    """Numbers (N,), such as weights: lists and columns as a NumPy array of their own dtype, what else untouched."""
    if (column := _as_column(values)) is not None:
        return _from_column(function, argument, column, advice)
    if is_torch_array(values):
        values = torch_as_numpy(values)
    if isinstance(values, np.ndarray) and values.dtype == jax.numpy.bfloat16:
        return jax.numpy.asarray(values)  # NumPy itself does not know the dtype
    if not isinstance(values, (list, tuple)):
        return values
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(
            f"{function}: {argument} must be rows of one length; got a {type(values).__name__} of several. "
            "Fill in or drop what is missing or too much."
        ) from None
    if array.dtype.kind == "O":
        _check_missing(function, argument, np.array([entry is None for entry in array.flat]).reshape(array.shape))
    if not (array.dtype == bool or jax.dtypes.issubdtype(array.dtype, np.number)):
        got = "text" if array.dtype.kind in "SU" else str(array.dtype)
        raise TypeError(f"{function}: {argument} must be numbers; got a {type(values).__name__} of {got}. {advice}")
    return array


def torch_as_numpy(tensor: Any) -> np.ndarray:
    """A tensor of PyTorch as NumPy's array, bfloat16 as that of ml_dtypes."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy has no name for; its numbers are all in float32
        return np.asarray(tensor.float()).astype(jax.numpy.bfloat16)
    return np.asarray(tensor)


def as_held_out(function: str, validation: Any, X: Any, required: str = "a pair (X, targets)") -> tuple[Any, Any]:
    """The pair (X, targets) of rows that are not trained on, whose columns must be named as those of X, as given.

    `required` is what the error says that validation must be.
    """
    try:
        held_out, targets = validation
    except (TypeError, ValueError):
        length = f" of {len(validation)}" if getattr(validation, "ndim", 1) and hasattr(validation, "__len__") else ""
        raise ValueError(
            f"{function}: validation must be {required}; got a {type(validation).__name__}{length}."
        ) from None
    names, others = _names(X), _names(held_out)
    if names and others and names != others:
        place = next((i for i, pair in enumerate(zip(names, others, strict=False)) if len({*pair}) > 1), None)
        got = f"{len(others)} columns" if place is None else f"{others[place]!r} for {names[place]!r} at {place}"
        raise ValueError(f"{function}: validation X must have the columns of X in their order; got {got}.")
    return as_data(function, held_out, "validation X"), as_targets(function, targets, "validation targets")


def _is_frame(value: Any) -> bool:
    return any(isinstance(value, module.DataFrame) for module in _loaded())


def _loaded() -> Iterator[Any]:
    """The modules of pandas and polars that are loaded to the end."""
    for name in ("pandas", "polars"):
        if hasattr(sys.modules.get(name), "DataFrame"):
            yield sys.modules[name]


def _names(X: Any) -> list[str]:
    """The columns' names, where X has such: pandas numbers columns that have none."""
    names = list(X.columns) if _is_frame(X) else []
    return names if all(isinstance(name, str) for name in names) else []


def _as_column(values: Any) -> Any:
    """A series, or what pandas has for one, as a series."""
    for module in _loaded():
        if isinstance(values, module.Series):
            return values
        if module.__name__ == "pandas" and isinstance(values, (module.Index, module.api.extensions.ExtensionArray)):
            return module.Series(values)
    return None


def _as_matrix(function: str, argument: str, frame: Any) -> np.ndarray:
    named = frame.items() if hasattr(frame, "items") else zip(frame.columns, frame.iter_columns(), strict=True)
    columns = [_from_column(function, f"{argument}'s column {name!r}", column, MAKE_NUMBERS) for name, column in named]
    if not columns:
        return np.empty(frame.shape)
    dtype = np.result_type(*{column.dtype for column in columns})
    if dtype.kind != "f":
        dtype = np.result_type(dtype, np.float32)
    if set(frame.dtypes) == {dtype}:
        return frame.to_numpy()  # pandas has such columns in one array
    for name, column in zip(frame.columns, columns, strict=True):
        if column.dtype.kind in "iu" and column.dtype.itemsize == 8:
            _check_exact(function, f"{argument}'s column {name!r}", column, column)
    return np.stack(columns, axis=1, dtype=dtype)


def _from_column(function: str, what: str, column: Any, advice: str) -> np.ndarray:
    """The values of a series in the NumPy dtype of its own."""
    dtype = column.dtype
    is_polars = hasattr(dtype, "is_numeric")
    is_sparse = hasattr(dtype, "fill_value")
    if is_sparse or not (POLARS_NUMBERS.fullmatch(str(dtype)) if is_polars else dtype.kind in "biuf"):
        if is_sparse:
            advice = "Pass sparse data as scipy.sparse has them: X.sparse.to_coo()."
        raise TypeError(f"{function}: {what} must be numbers; got {dtype}. {advice}")
    _check_missing(function, what, np.asarray(column.is_null() if is_polars else column.isna()))
    values = column.to_numpy() if is_polars else column.to_numpy(dtype=getattr(dtype, "numpy_dtype", dtype))
    if values.dtype.kind == "f":
        _check_missing(function, what, np.isnan(values))
    return values


def _floating(function: str, what: str, array: np.ndarray, given: Any) -> np.ndarray:
    """What a list holds, in floating-point."""
    if array.dtype.kind in "iuf":
        _check_exact(function, what, array, given)
    return array.astype(np.result_type(array.dtype, np.float32)) if array.dtype.kind in "biu" else array


def check_integers(function: str, argument: str, given: Any, as_float: Any) -> None:
    """Check that the integers which somebody else has made floating-point, `as_float`, are what was given."""
    values = getattr(as_float, "data", as_float) if hasattr(as_float, "tocsr") else as_float
    if values.size == 0 or np.abs(values).max() < EXACT:
        return
    if hasattr(given, "tocsr"):
        given = given.data
    if _is_frame(given):
        _as_matrix(function, argument, given)
    elif np.asarray(given).dtype.kind in "iu":
        _check_exact(function, argument, np.asarray(given), given)


def _check_missing(function: str, what: str, missing: np.ndarray) -> None:
    if missing.any():
        raise ValueError(
            f"{function}: {what} must have no missing values; got one at row {np.argwhere(missing)[0][0]}. Drop such "
            "rows or fill them in first."
        )


def _check_exact(function: str, what: str, array: np.ndarray, given: Any) -> None:
    """Check that the integers which were given are in float64 what they are; NumPy makes one float of [1.5, 2**60]."""
    large = (array >= EXACT) | (array <= -EXACT)
    for value in np.asarray(given, dtype=object)[large] if large.any() else ():
        if isinstance(value, Integral) and int(float(value)) != value:
            raise ValueError(
                f"{function}: {what} must have integers that float64 holds; got {value}. An identifier? Drop it; "
                "otherwise subtract the least of them."
            )
