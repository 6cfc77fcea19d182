"""What the caller gave, looked at before JAX narrows it.

Where `jax_enable_x64` is off, JAX cuts what NumPy holds in 64 bits to 32 without a word: the label 2³² becomes 0, the
feature 1e39 infinite, the weight 1e-50 zero. A compiled formula sees only what is left, and so the look comes before.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from handgrad import arguments
from handgrad.settings import show

# The types that need no look. JAX's own array, whose class has no public name, is learnt from the first that comes.
_PLAIN_TYPES: set[type] = {bool, str, type(None)}


def compiled(function: Callable[..., Any], static_argnames: Sequence[str] = ()) -> Any:
    """The function compiled by `jax.jit`, under its own name, signature and docstring, with a look at its arguments."""
    jitted = jax.jit(function, static_argnames=static_argnames)
    names = tuple(inspect.signature(function).parameters)

    @functools.wraps(function)
    def face(*args: Any, **kwargs: Any) -> Any:
        if not (_are_plain(args) and _are_plain(kwargs.values())):
            looks = {
                name: _look(function.__name__, name, value)
                for name, value in (*zip(names, args, strict=False), *kwargs.items())
                if name not in static_argnames and not _are_plain((value,))
            }
            args = (*(looks.get(*pair) for pair in zip(names, args, strict=False)), *args[len(names) :])
            kwargs = {name: looks.get(name, value) for name, value in kwargs.items()}
        try:
            return jitted(*args, **kwargs)
        except (TypeError, ValueError):  # perhaps JAX's, of what it has no type for, which does not name the argument
            for name, value in (*zip(names, args, strict=False), *kwargs.items()):
                _check_types(function.__name__, name, value, is_static=name in static_argnames)
            raise

    face.__module__ = "handgrad"  # where it is found under its name, so that it can be pickled
    face.lower = jitted.lower  # type: ignore[attr-defined]
    return face


def _are_plain(values: Iterable[Any]) -> bool:
    # Called at every call: twice as fast as JAX's own flattening.
    for value in values:
        if type(value) not in _PLAIN_TYPES and not (isinstance(value, (tuple, list)) and _are_plain(value)):
            return False
    return True


def _look(function: str, argument: str, value: Any) -> Any:
    """The argument as JAX may have it, or an error if that would be another value."""
    if argument == "weights" and isinstance(value, np.ndarray) and value.ndim == 1 and value.size:
        wide = jax.dtypes.canonicalize_dtype(np.float64)
        return arguments.host_weights(function, value, value.size, dtype=wide).astype(wide)
    if isinstance(value, np.ndarray):
        return _look_at_leaf(function, argument, value)
    return jax.tree.map(lambda leaf: _look_at_leaf(function, argument, leaf), value)


def _look_at_leaf(function: str, argument: str, leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        if not isinstance(leaf, jax.core.Tracer):
            _PLAIN_TYPES.add(type(leaf))
        return leaf
    arguments.check_plain(function, argument, leaf)
    return narrow(function, argument, leaf)


def _check_types(function: str, argument: str, value: Any, is_static: bool) -> None:
    try:
        hash(value if is_static else jax.tree.structure(value))
    except (TypeError, ValueError):
        raise TypeError(
            f"{function}: {argument} must have settings that are numbers or names of Python; got {show(value)}."
        ) from None
    for leaf in () if is_static else jax.tree.leaves(value):
        check_for_jax(function, argument, leaf)


def as_jax(function: str, argument: str, value: Any) -> jax.Array:
    """A value as an array of JAX's: what that would change, and what it has no type for, is refused."""
    value = narrow(function, argument, value)
    check_for_jax(function, argument, value)
    return jnp.asarray(value)


def check_for_jax(function: str, argument: str, value: Any) -> None:
    """Check that a value is one that JAX has a type for: text, objects and data frames are none."""
    try:
        jax.typeof(value)
    except TypeError:
        got = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
        raise TypeError(
            f"{function}: {argument} must be numbers in arrays; got {got}. Convert it, for example with "
            "numpy.asarray(…, dtype=float)."
        ) from None


def narrow(function: str, argument: str, value: Any) -> Any:
    """A value of NumPy or Python in the dtype that JAX computes in: integers keep their value, floats stay finite.

    What is no real number is returned as it is.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.ndarray, np.generic)):
        return value
    if isinstance(value, int):
        limits = np.iinfo(jax.dtypes.canonicalize_dtype(np.int64))
        if not limits.min <= value <= limits.max:
            raise ValueError(f"{function}: {argument} must be an integer of {limits.bits} bits; got {show(value)}.")
        return value
    given = np.asarray(value)
    if given.dtype.kind not in "iuf" or (given.dtype.itemsize < 8 and given.dtype.isnative):
        return value
    dtype = jax.dtypes.canonicalize_dtype(f"{given.dtype.kind}{min(given.dtype.itemsize, 8)}")
    if given.dtype == dtype and given.dtype.isnative:
        return value
    with np.errstate(over="ignore"):
        narrowed = given.astype(dtype)
    lost = (np.isinf(narrowed) & ~np.isinf(given)) if given.dtype.kind == "f" else narrowed != given
    if lost.any():
        place = tuple(int(index) for index in np.argwhere(lost)[0])
        where = f" at {place}" if place else ""
        raise ValueError(
            f"{function}: {argument} has {given[place]}{where}, which {dtype} cannot hold, and JAX computes in 32 bits "
            "here. Scale it, or compute under jax.enable_x64."
        )
    return value if isinstance(value, float) else narrowed
