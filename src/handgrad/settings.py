"""The checks of settings: numbers, names, keys. `arguments` has them under the same names."""

import math
from collections.abc import Iterable
from typing import Any, TypeGuard

import jax
import numpy as np


def check_choice(function: str, argument: str, value: Any, choices: Iterable[str]) -> None:
    """Check that the value is one of the names."""
    if not (isinstance(value, str) and value in choices):
        raise ValueError(f"{function}: {argument} must be one of {', '.join(map(repr, choices))}; got {show(value)}.")


def check_flag(function: str, argument: str, value: Any, *, optional: bool = False) -> None:
    """Check a setting that is on or off, or None where that is allowed: "no" and 0.5 would count as on."""
    if not (isinstance(value, (bool, np.bool_)) or (optional and value is None)):
        choices = "True, False or None" if optional else "True or False"
        raise TypeError(f"{function}: {argument} must be {choices}; got {show(value)}.")


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a value is an integer of Python or NumPy, which takes spans of time for such."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64))


def check_positive_integer(function: str, argument: str, value: Any) -> None:
    """Check a count, such as a number of classes."""
    if not (is_integer(value) and 1 <= value < 2**31):
        limit = " below 2**31" if is_integer(value) and value > 1 else ""
        raise ValueError(f"{function}: {argument} must be a positive integer{limit}; got {show(value)}.")


def check_number(
    function: str, argument: str, value: Any, *, positive: bool = False, most: float = math.inf, dtype: Any = None
) -> float:
    """A setting, such as a learning rate, as a float: finite, non-negative or even positive, and at most `most`.

    With a dtype, one of NumPy or JAX in which the setting is used: neither infinite there, nor 0 where it is not 0.
    """
    number = as_float(value)
    if not (0 <= number <= most and number < math.inf and not (positive and number == 0)):
        least = "more than 0" if positive else "0 or more"
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise ValueError(f"{function}: {argument} must be a finite number, {least}{limit}; got {show(value)}.")
    if dtype is not None and number != 0:
        smallest, largest = smallest_number(dtype), float(jax.numpy.finfo(dtype).max)
        if not smallest <= number <= largest:
            raise ValueError(
                f"{function}: {argument} must be 0, or from {smallest:.2g} to {largest:.2g} for data of "
                f"{np.dtype(dtype)}; got {show(value)}."
            )
    return number


def check_dtype(function: str, argument: str, dtype: Any) -> np.dtype:
    """A floating dtype, which may be named."""
    try:
        found = jax.numpy.dtype(dtype)
    except (TypeError, ValueError):
        raise TypeError(f"{function}: {argument} must be a floating dtype; got {show(dtype)}.") from None
    if not jax.numpy.issubdtype(found, np.floating):
        raise TypeError(f"{function}: {argument} must be floating-point; got {found}.")
    if found.itemsize > 8:
        raise TypeError(f"{function}: {argument} must be of 64 bits at most; got {found}.")
    return found


def is_true(answer: Any) -> bool:
    """Whether a callback says that it is enough: True of Python, NumPy or JAX, and nothing else that it may return."""
    answer = np.asarray(answer)
    return answer.dtype == bool and answer.shape == () and bool(answer)


def check_callback(function: str, callback: Any, argument: str = "callback") -> None:
    """Check that a callback is a function, or None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{function}: {argument} must be a function; got {show(callback)}.")


def smallest_number(dtype: Any) -> float:
    """The smallest positive number of a floating dtype that is not taken for 0."""
    finfo = jax.numpy.finfo(dtype)
    # XLA's CPU takes subnormal numbers for 0, but not those of float16, which it computes with in float32.
    return float(finfo.smallest_subnormal if np.dtype(dtype) == np.float16 else finfo.smallest_normal)


def check_key(function: str, key: Any) -> None:
    """Check a JAX random key, such as of `jax.random.key(0)`, or of the older `jax.random.PRNGKey`."""
    if isinstance(key, jax.Array) and (
        (jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ())
        or (key.dtype == np.uint32 and key.ndim == 1)
    ):
        return
    raise TypeError(f"{function}: key must be a JAX random key; got {show(key)}. Make one with jax.random.key(0).")


def check_axis(function: str, argument: str, name: str | None) -> int:
    """Check the name of an axis of the enclosing `jax.shard_map`; None is allowed. Returns its number of devices."""
    if name is None:
        return 1
    if not all(isinstance(each, str) for each in (name if isinstance(name, tuple) else (name,))):
        raise TypeError(f"{function}: {argument} must be the name of an axis, or None; got {show(name)}.")
    try:
        return jax.lax.axis_size(name)
    except NameError:
        raise ValueError(
            f"{function}: {argument} must be an axis of the enclosing jax.shard_map; there is no {name!r} here. "
            "Call it inside jax.shard_map over a mesh with that axis, or leave it out."
        ) from None


def as_float(value: Any) -> float:
    """A real number as a float; NaN for anything else, such as text, a boolean, or a number beyond float64."""
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    if isinstance(value, (bool, str, bytes)) or kind in "bcmMOSU" or tuple(getattr(value, "shape", ())) != ():
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def show(value: Any) -> str:
    """The value as Python writes it, cut to one short line."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # of an integer of more digits than Python writes
        return f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]}…"
