"""The checks of settings: numbers, names, keys. `arguments` has them under the same names."""

import math
from typing import Any

import jax
import numpy as np


def check_choice(function: str, argument: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Check that the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{function}: {argument} must be one of {', '.join(map(repr, choices))}; got {value!r}.")


def check_positive_integer(function: str, argument: str, value: Any) -> None:
    """Check a count, such as a number of classes."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not 1 <= value < 2**31:
        limit = " below 2**31" if isinstance(value, (int, np.integer)) and value > 1 else ""
        raise ValueError(f"{function}: {argument} must be a positive integer{limit}; got {show(value)}.")


def check_number(
    function: str, argument: str, value: Any, *, positive: bool = False, most: float = math.inf, dtype: Any = None
) -> None:
    """Check a setting, such as a learning rate: finite, non-negative or even positive, and no more than `most`.

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


def is_true(answer: Any) -> bool:
    """Whether a callback says that it is enough: True of Python, NumPy or JAX, and nothing else that it may return."""
    answer = np.asarray(answer)
    return answer.dtype == bool and answer.shape == () and bool(answer)


def check_callback(function: str, callback: Any) -> None:
    """Check that a callback is a function, or None."""
    if callback is not None and not callable(callback):
        raise TypeError(f"{function}: callback must be a function; got {show(callback)}.")


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
