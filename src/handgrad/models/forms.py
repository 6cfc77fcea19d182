"""The form of a model's description: what it must have, of which type, and nothing else."""

import types
import typing
from typing import Any, NamedTuple


class Optional(NamedTuple):
    """Null, or a value of the form."""

    form: Any


_NAMES = Optional([str])
_CLASS_NAMES = [bool | int | float | str]
# A list of one form is a list of any length, a tuple of forms a list of that length, a dictionary has just these names.
FORMS: dict[int, dict[str, Any]] = {
    1: {  # of version 0.1: features as they are, each x then (x − offset) · scale
        "format_version": int,
        "activations": [str],
        "class_names": _CLASS_NAMES,
        "feature_names": _NAMES,
        "image_shape": Optional([int]),
        "target": str | None,
        "preprocessing": str,
        "versions": {"handgrad": str, "jax": str},
        "sha256": str,
    },
    2: {
        "format_version": int,
        "activations": [str],
        "class_names": _CLASS_NAMES,
        "target": str | None,
        "encoding": {
            "inputs": Optional([(str, str, [str])]),  # name, kind, words
            "missing": str | None,
            "left_out": [str],
            "image_shape": Optional([int]),
            "first_index": int | None,
        },
        "versions": {"handgrad": str, "jax": str},
        "sha256": str,
    },
}


def require_form(value: Any, form: Any, place: str) -> None:
    """Check that a value out of JSON has the form.

    Raises:
      ValueError: with the place in which it has not.

    Example:
      >>> require_form({"names": ["a", 1]}, {"names": [str]}, "it")
      Traceback (most recent call last):
      ValueError: it: names: 2 is a int and not a str
    """
    if isinstance(form, Optional):
        if value is not None:
            require_form(value, form.form, place)
    elif isinstance(form, dict):
        if type(value) is not dict or set(value) != set(form):
            raise ValueError(f"{place} does not have the entries {', '.join(form)} and no others")
        for name, own in form.items():
            require_form(value[name], own, f"{place}: {name}")
    elif isinstance(form, list | tuple):
        if type(value) is not list or (isinstance(form, tuple) and len(value) != len(form)):
            raise ValueError(f"{place} is no list{f' of {len(form)}' if isinstance(form, tuple) else ''}")
        forms = form if isinstance(form, tuple) else form * len(value)
        for number, (entry, own) in enumerate(zip(value, forms, strict=True), 1):
            require_form(entry, own, f"{place}: {number}")
    else:
        allowed = typing.get_args(form) if isinstance(form, types.UnionType) else (form,)
        if type(value) not in allowed:
            names = " or ".join(own.__name__ for own in allowed)
            raise ValueError(f"{place} is a {type(value).__name__} and not a {names}")
        if isinstance(value, str):
            _require_text(value, place)


def _require_text(value: str, place: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place} is no text in UTF-8") from None
