"""An encoding as plain values and arrays, to be kept with a model, and back again, whatever was done to them there."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from handgrad.data.encoding import KINDS, Encoding, Input, features_of
from handgrad.data.tables import MISSING


def to_description(encoding: Encoding) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The encoding as what JSON can say, and as arrays."""
    description = {
        "inputs": None if encoding.inputs is None else [list(each) for each in encoding.inputs],
        "missing": encoding.missing,
        "left_out": list(encoding.left_out),
        "image_shape": encoding.image_shape and list(encoding.image_shape),
        "first_index": encoding.first_index,
    }
    arrays = {
        "fill": encoding.fill,
        "has_indicator": encoding.has_indicator.astype(np.uint8),
        "offset": encoding.offset,
        "scale": encoding.scale,
    }
    return description, arrays


def from_description(description: Any, arrays: Mapping[str, np.ndarray]) -> Encoding:
    """The encoding of `to_description`.

    Raises:
      ValueError: what was given is not such a one; the message says in which respect, and begins with "the encoding".
    """
    try:
        encoding = _rebuild(description, arrays)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"the encoding is not one that handgrad wrote: {type(error).__name__} {error}") from None
    for fault, found in _faults(encoding).items():
        if found:
            raise ValueError(f"the encoding {fault}")
    return encoding


def _rebuild(description: Any, arrays: Mapping[str, np.ndarray]) -> Encoding:
    inputs, shape, left_out = description["inputs"], description["image_shape"], description["left_out"]
    if not all(each is None or isinstance(each, list) for each in (inputs, shape)) or not isinstance(left_out, list):
        raise TypeError("a list is needed")
    indicators = arrays["has_indicator"]
    return Encoding(
        inputs=None if inputs is None else tuple(Input(name, kind, tuple(words)) for name, kind, words in inputs),
        missing=description["missing"],
        left_out=tuple(left_out),
        image_shape=None if shape is None else tuple(operator.index(size) for size in shape),
        first_index=description["first_index"],
        fill=_numbers(arrays["fill"]),
        has_indicator=_numbers(indicators).astype(bool),
        offset=_numbers(arrays["offset"]),
        scale=_numbers(arrays["scale"]),
    )


def _numbers(array: Any) -> np.ndarray:
    numbers = np.asarray(array, np.float64)
    if numbers.ndim != 1:
        raise ValueError("an array (N,) is needed")
    return numbers


def _faults(encoding: Encoding) -> dict[str, bool]:
    fill, has, offset, scale = encoding.fill, encoding.has_indicator, encoding.offset, encoding.scale
    inputs = encoding.inputs
    texts = [] if inputs is None else [text for each in inputs for text in (each.name, *each.words)]
    num_features = fill.size if inputs is None else sum(len(features_of(each)) for each in inputs)
    return {
        "has a name that is no text.": not all(isinstance(text, str) for text in (*texts, *encoding.left_out)),
        "has a kind of column that is none.": any(each.kind not in KINDS for each in inputs or ()),
        "has words in a column of numbers.": any(each.words and each.kind != "text" for each in inputs or ()),
        "names a column or a word twice.": inputs is not None
        and (
            len({each.name for each in inputs}) < len(inputs)
            or any(len(set(each.words)) < len(each.words) for each in inputs)
        ),
        "treats missing values in a way that is none.": encoding.missing not in (None, *MISSING),
        "has arrays of the wrong shape.": not fill.size == has.size == (fill.size if inputs is None else len(inputs))
        or not offset.size == scale.size == num_features + int(has.sum()),
        "has an image of another size.": encoding.image_shape is not None
        and int(np.prod(encoding.image_shape, dtype=object)) != num_features,
        "has a first index that is none.": encoding.first_index not in ((None, 0, 1) if inputs is None else (None,)),
        "has an offset or a scale that is no number.": not (np.isfinite(offset).all() and np.isfinite(scale).all()),
        "has a scale that is not positive.": bool((scale <= 0).any()),
        "fills by an infinite number.": bool(np.isinf(fill).any()),
        "fills by a word that is none.": any(
            each.kind == "text" and not np.isnan(value) and not (0 <= value < len(each.words) and value == int(value))
            for each, value in zip(inputs or (), fill, strict=False)
        ),
    }
