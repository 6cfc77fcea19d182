"""What Python has for data: lists, series of pandas and polars, arrays of NumPy, JAX and PyTorch."""

import datetime
import decimal
import numbers
from typing import Any

import jax
import ml_dtypes
import numpy as np
from array_api_compat import is_torch_array

from handgrad.data.naming import printable
from handgrad.frames import torch_as_numpy

# What NumPy counts times in, and what Arrow does.
_UNITS = {"Y": "D", "M": "D", "W": "D", "h": "s", "m": "s"}
_VALUES = (str, numbers.Real, decimal.Decimal, datetime.date, datetime.time, datetime.timedelta)


def as_numpy(name: str, values: Any) -> np.ndarray:
    """An array of any library, or a list, as NumPy's; bfloat16 as float32.

    Raises:
      ValueError: a masked array, whose mask NumPy's functions forget.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(
            f"{name}: masked arrays are not taken. Fill what is masked in first: X.astype(float).filled(numpy.nan) has "
            "it as missing."
        )
    array = torch_as_numpy(values) if is_torch_array(values) else np.asarray(values)
    return array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array


def to_arrow(name: str, key: str, values: Any, *, is_text: bool) -> Any:
    """A column as a chunked array of Arrow's.

    Args:
      name, key: of the data and of the column, for messages.
      values: (N,).
      is_text: whether values of several types are to be texts; else they are refused.

    Raises:
      ValueError: values that are neither numbers, texts nor dates, or some of them the one and others the other.
    """
    import pyarrow

    refused = ValueError(f"{name}: column {printable(key)!r} holds neither numbers, texts nor dates.")
    try:
        plain = _plain(values)
        is_arrow = isinstance(plain, pyarrow.Array | pyarrow.ChunkedArray)
        array = plain if is_arrow else pyarrow.array(plain, from_pandas=True)
    except TypeError as error:
        raise refused from error
    except (pyarrow.ArrowException, ValueError, OverflowError):
        kept = [None if each is None or each != each else each for each in values]
        if all(isinstance(each, numbers.Integral) or each is None for each in kept):
            kind: Any = pyarrow.decimal256(76)
        elif all(isinstance(each, numbers.Real | decimal.Decimal) or each is None for each in kept):
            kind, kept = "float64", [None if each is None else float(each) for each in kept]
        elif not all(each is None or isinstance(each, _VALUES) for each in kept):
            raise refused from None
        elif is_text:
            kind, kept = "string", [None if each is None else str(each) for each in kept]
        else:
            raise ValueError(
                f"{name}: column {printable(key)!r} holds values of several types, such as "
                f"{' and '.join(sorted({type(each).__name__ for each in kept if each is not None}))}. Make them all "
                "numbers or all texts."
            ) from None
        try:
            array = pyarrow.array(kept, kind)
        except (pyarrow.ArrowException, OverflowError):
            raise refused from None
    return array if isinstance(array, pyarrow.ChunkedArray) else pyarrow.chunked_array([array])


def _plain(values: Any) -> Any:
    """Values as Arrow takes them.

    Raises:
      TypeError: values that it does not take, or would take for something else.
    """
    if hasattr(values, "to_arrow"):  # polars
        return values.to_arrow()
    is_sparse = hasattr(values, "sparse") or type(values).__name__ == "SparseArray"  # of pandas
    if is_sparse or is_torch_array(values) or isinstance(values, jax.Array):
        values = as_numpy("", values)
    if not isinstance(values, np.ndarray):
        return values
    dtype = values.dtype
    if dtype == ml_dtypes.bfloat16:
        return as_numpy("", values)
    if dtype.kind in "cV":
        raise TypeError(f"an array of {dtype}")
    if dtype.kind == "S":
        return np.strings.decode(values, "utf-8")
    if dtype.kind == "f":
        return values.astype(np.float64) if dtype.itemsize > 8 else values
    if dtype.kind in "mM":
        return values.astype(f"{dtype.kind}8[{_UNITS.get(np.datetime_data(dtype)[0], np.datetime_data(dtype)[0])}]")
    return values
