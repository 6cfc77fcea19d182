"""Files of safetensors: eight bytes with the length of a header, a header of JSON, and the numbers.

Nothing in such a file is taken at its word. What it claims is compared with the size of the file before memory is
taken, and only what is exactly so is read.

Reference: https://github.com/huggingface/safetensors, "Format".
"""

import json
import math
import os
import pathlib
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": BFLOAT16, "BOOL": np.dtype("?"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 2**24
# What becomes of a part of JSON in Python, in bytes, and how much of that there may be beside twice the text.
PART, MAX_PARTS = 32, 2**25
MAX_AXES = 8


class Place(NamedTuple):
    """Where an array is in a file: its first byte is the `start`-th."""

    dtype: np.dtype
    shape: tuple[int, ...]
    start: int


def write_tensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays by name, and texts by name. The same ones give the same bytes."""
    # The widest first, so that each begins at a multiple of its item.
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        dtype, shape = NAMES[tensors[name].dtype], list(tensors[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(f"{path}: the names of classes, columns and words take {len(text):,} bytes, too many to keep.")
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(np.ascontiguousarray(tensors[name]).tobytes())


def read_tensors(path: pathlib.Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Read texts and arrays.

    Raises:
      OSError: what the system has against it.
      ValueError: anything that is not as `write_tensors` writes it; the message goes into one that names the file.
    """
    # Not to wait for a pipe's other end.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no regular file")
        metadata, places = read_header(file, status.st_size)
        start = file.tell()
        content = file.read(status.st_size - start)
    if len(content) < status.st_size - start:
        raise ValueError("it is cut short")
    return metadata, {
        name: np.frombuffer(content, place.dtype, math.prod(place.shape), place.start - start).reshape(place.shape)
        for name, place in places.items()
    }


def read_header(file: BinaryIO, size: int) -> tuple[dict[str, str], dict[str, Place]]:
    """The texts, and where the arrays are, of a file of so many bytes that is read from its beginning.

    Raises:
      ValueError: as `read_tensors`.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, MAX_HEADER):
        raise ValueError("its header has no such length")
    header = parse(file.read(length).decode())
    metadata = header.pop("__metadata__", {})
    if not (isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())):
        raise ValueError("its metadata are no texts")
    return metadata, _places(header, 8 + length, size)


def parse(text: str) -> dict[str, Any]:
    """An object of JSON, in which no name stands twice, and no number that is none.

    Raises:
      ValueError: as `read_tensors`.
    """
    if PART * sum(map(text.count, "[{,")) > 2 * len(text) + MAX_PARTS:
        raise ValueError("its header has too many parts")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands twice in its header")
        return found

    def refuse(constant: str) -> None:
        raise ValueError(f"its header has the number {constant}")

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError("its header is too deep") from None
    if not isinstance(value, dict):
        raise ValueError("its header is no object")
    return value


def _places(header: Mapping[str, Any], start: int, size: int) -> dict[str, Place]:
    """Where each array is; together they are all that the file has from `start` on."""
    places: dict[str, Place] = {}
    spans = []
    for name, entry in header.items():
        if not (isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}):
            raise ValueError("an array is not described by dtype, shape and offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not (isinstance(dtype, str) and dtype in DTYPES):
            raise ValueError("an array has a dtype that is not read")
        if not (_are_sizes(shape) and _are_sizes(offsets) and len(shape) <= MAX_AXES and len(offsets) == 2):
            raise ValueError("an array has a shape or offsets that are no sizes")
        if offsets[1] - offsets[0] != math.prod(shape) * DTYPES[dtype].itemsize:
            raise ValueError("an array has another size than its shape says")
        places[name] = Place(DTYPES[dtype], tuple(shape), start + offsets[0])
        spans.append(offsets)
    end = 0
    for begin, stop in sorted(spans):
        if begin != end:
            raise ValueError("its arrays have gaps or overlap")
        end = stop
    if start + end != size:
        raise ValueError("its arrays end elsewhere than the file")
    return places


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)
