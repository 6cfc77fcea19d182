"""Arrays in files: .npz, .npy, .safetensors and IDX. Headers are held against the file's size before memory is taken.

Nothing is unpickled. Which array holds the features and which the classes is known by the names that people use.
"""

import contextlib
import functools
import math
import os
import pathlib
import struct
import warnings
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from handgrad.data.naming import join, printable
from handgrad.data.sources import MOST_UNPACKED, Source, find_source, open_source, require_memory
from handgrad.data.tensors import BFLOAT16, Place, read_header
from handgrad.streams import Fill

# Features and their classes, as they are named, in the order in which they are looked for; the case does not matter.
PAIRS = (
    ("x", "y"), ("x_train", "y_train"), ("train_x", "train_y"), ("train_images", "train_labels"),
    ("train_data", "train_labels"), ("train_features", "train_labels"), ("images", "labels"), ("features", "labels"),
    ("embeddings", "labels"), ("data", "labels"), ("data", "target"), ("x", "labels"), ("features", "targets"),
    ("embeddings", "targets"), ("inputs", "targets"), ("arr_0", "arr_1"),
)  # fmt: skip
CUT_BYTES = 2**22  # of rows that are read at once
_IDX = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class Stored(NamedTuple):
    """An array in a file, not yet read."""

    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]
    # Its rows in blocks, each good until the next, from one on up to another, or to the end if None.
    cut: Callable[[int, int | None], Iterator[np.ndarray]] | None = None
    fill: Callable[[int, int | None], Fill] | None = None  # begins such a pass, which puts the next rows into an array
    map: Callable[[], np.memmap] | None = None  # where it lies in the file as it is, row by row


def stored_arrays(source: Source) -> Mapping[str, Stored]:
    """The arrays of a file by name; "" is the name of an only one.

    Raises:
      ValueError: a file that is damaged, or holds Python objects.
    """
    if source.format == "npz":
        return _of_npz(source)
    if source.format == "safetensors":
        return _of_safetensors(source)
    if source.format == "npy":
        return {"": Stored((), lambda: _opened(source, _read_npy), *_passes(source, None), lambda: _map(source))}
    return {"": Stored((), lambda: _opened(source, _read_idx))}


def choose(name: str, arrays: Mapping[str, Any], features: str | None, labels: str | None) -> tuple[str, str | None]:
    """The names of the features' array and of the classes', None where no such array is there."""
    lower = {key.lower(): key for key in arrays}
    for key in (features, labels):
        if key is not None and key not in arrays:
            raise ValueError(f"{name}: must hold the array {printable(key)!r}. {list_arrays(arrays)}")
    pair = next(
        (
            (lower[x], lower[y])
            for x, y in PAIRS
            if {x, y} <= lower.keys() and features in (None, lower[x]) and labels in (None, lower[y])
        ),
        (None, None),
    )
    named = [lower[x] for x, _ in PAIRS if x in lower]
    of_rows = [key for key, array in arrays.items() if len(array.shape) >= 2]
    chosen = features or pair[0] or next(iter(named), None) or _only(of_rows) or _only(list(arrays))
    if chosen is None:
        raise ValueError(
            f"{name}: which of its arrays holds the features must be said, by --features. {list_arrays(arrays)}"
        )
    flat = [key for key, array in arrays.items() if key != chosen and _is_label(array.shape)]
    named = [lower[y] for _, y in PAIRS if lower.get(y) in flat]
    return chosen, labels or pair[1] or next(iter(named), None) or _only(flat)


def _only(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None


def _is_label(shape: tuple[int, ...]) -> bool:
    return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)


def list_arrays(arrays: Mapping[str, Any]) -> str:
    """A sentence with the names."""
    return f"Arrays there: {join([f'{key} {tuple(array.shape)}' for key, array in arrays.items() if key]) or 'none'}."


def labels_beside(source: Source) -> pathlib.Path | None:
    """The file with the classes of a .npy or an IDX file, by its name, where such a one is there."""
    name, folder = source.path.name, source.path.parent
    there = {path.name.lower(): path for path in folder.iterdir()} if folder.is_dir() else {}
    stem, dot, ending = name.lower().partition(".npy")
    guesses = [f"{y}{dot}{ending}" for x, y in PAIRS if x == stem]
    guesses += [name.lower().replace("images", "labels").replace("idx3", "idx1")] if "images" in name.lower() else []
    return next((there[guess] for guess in guesses if guess in there), None)


def read_labels(path: Any) -> np.ndarray:
    """The array of a file that holds one, or whose classes have a name that people use."""
    with find_source(path) as source:
        if source.format not in ("npy", "npz", "safetensors", "idx"):
            raise ValueError(f"{source.name}: --labels must be an array in a file; got {source.format}.")
        arrays = stored_arrays(source)
        names = [y for _, y in PAIRS if y in arrays] or list(arrays)
        if len(arrays) > 1 and names[0] not in dict(PAIRS).values():
            raise ValueError(f"{source.name}: must hold one array, the classes. {list_arrays(arrays)}")
        return arrays[names[0]].load()


def _opened(source: Source, read: Callable[..., Any], *arguments: Any) -> Any:
    """What `read` gives of the open file."""
    with _guarded(source), open_source(source) as file:
        return read(source, file, *arguments)


@contextlib.contextmanager
def _guarded(source: Source) -> Iterator[None]:
    """Whatever reading raises as one line."""
    try:
        yield
    # Damaged bytes make zipfile, its decompressors and the parsers of headers raise almost anything.
    except Exception as error:
        if str(error).startswith(f"{source.name}: "):
            raise
        if "Object arrays" in str(error):
            raise ValueError(
                f"{source.name}: holds Python objects, which are not read, for they could run code. Save plain arrays: "
                "numbers for the features, integers or text for the classes."
            ) from None
        kind = {"npz": "an .npz archive", "npy": "an .npy array", "idx": "an IDX file"}.get(
            source.format, "safetensors"
        )
        raise ValueError(f"{source.name}: is not {kind}, or is damaged or cut short.") from None


# --- .npy and .npz ----------------------------------------------------------------------------------------------------


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be read")
    _require_shape(shape)
    return shape, is_fortran, dtype


def _require_shape(shape: tuple[Any, ...]) -> None:
    if any(type(size) is not int or size < 0 for size in shape):
        raise ValueError("a shape must be of whole numbers")


def _read_npy(source: Source, file: Any, size: int | None = None) -> np.ndarray:
    """An array whose header and content are `size` bytes, all of the file if None."""
    shape, is_fortran, dtype = _read_header(file)
    content = (source.size if size is None else size) - file.tell()
    array = _read_content(source, file, shape[::-1] if is_fortran else shape, dtype, content)
    if file.read(1):
        raise ValueError("there is more than the header says")
    return array.T if is_fortran else array


def _read_content(source: Source, file: Any, shape: tuple[int, ...], dtype: np.dtype, content: int) -> np.ndarray:
    """The array that the next bytes of the file are; `content` bytes are there."""
    size = math.prod(shape) * dtype.itemsize
    if size > content:
        raise ValueError("the header says more than is there")
    require_memory(source.name, size)
    data, filled = np.empty(size, np.uint8), 0
    while filled < size:
        count = file.readinto(memoryview(data.data)[filled : filled + 2**24])
        if not count:
            raise ValueError("the content is cut short")
        filled += count
    return data.view(dtype).reshape(shape) if size else np.empty(shape, dtype)


def _passes(source: Source, member: str | None) -> tuple[Callable[..., Iterator[np.ndarray]], Callable[..., Fill]]:
    """A pass over the rows of an .npy file, or of one in an archive: in blocks, and into arrays."""

    def cut(first: int, last: int | None) -> Iterator[np.ndarray]:
        reading = _reading(source, member, first, last)
        shape, dtype = next(reading)
        rows = max(1, CUT_BYTES // max(math.prod(shape[1:]) * dtype.itemsize, 1))
        buffer = np.empty((min(rows, shape[0]), *shape[1:]), dtype)
        while count := reading.send(buffer):
            yield buffer[:count]

    def fill(first: int, last: int | None) -> Fill:
        reading = _reading(source, member, first, last)
        next(reading)
        return reading.send

    return cut, fill


def _reading(source: Source, member: str | None, first: int, last: int | None) -> Generator[Any, np.ndarray, None]:
    """Gives shape and dtype; then, for each array that it is sent, how many rows there were for it."""
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(open(source.path, "rb", buffering=0 if member is None else -1))
        with _guarded(source):
            if member is not None:
                file = stack.enter_context(stack.enter_context(zipfile.ZipFile(file)).open(member))
            shape, is_fortran, dtype = _read_header(file)
        if is_fortran and len(shape) > 1:
            raise ValueError(
                f"{source.name}: is stored column by column, and is read in blocks of rows. Save "
                "numpy.ascontiguousarray of it."
            )
        end = shape[0] if last is None else min(last, shape[0])
        if first:
            with _guarded(source):
                file.seek(first * math.prod(shape[1:]) * dtype.itemsize, os.SEEK_CUR)
        array, left = (yield shape, dtype), max(0, end - first)
        while True:
            block = array[:left]
            if dtype not in (block.dtype, bool) or block.size != len(block) * math.prod(shape[1:]):
                raise ValueError(f"{source.name}: has changed since it was first read.")
            left -= len(block)
            content = block.reshape(-1).view(np.uint8).data
            for start in range(0, len(content), CUT_BYTES):
                piece, filled = content[start : start + CUT_BYTES], 0
                while filled < len(piece):
                    with _guarded(source):
                        count = file.readinto(piece[filled:])
                    if not count:
                        raise ValueError(f"{source.name}: is damaged or cut short.")
                    filled += count
            array = yield len(block)


def _map(source: Source) -> np.memmap:
    """An .npy file's array, mapped, after a pass over it that has held its header against it."""
    with open(source.path, "rb") as file, _guarded(source):
        shape, _, dtype = _read_header(file)
        return np.memmap(file, dtype, "r", file.tell(), shape)


def _of_npz(source: Source) -> dict[str, Stored]:
    def look(_: Source, file: BinaryIO) -> dict[str, Stored]:
        arrays = {}
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if info.filename.endswith(".npy"):
                    with archive.open(info) as member:
                        try:
                            shape = _read_header(member)[0]
                        except ValueError as error:
                            if "Object" not in str(error):
                                raise
                            shape = ()  # of use to nobody who does not ask for it
                    key = info.filename.removesuffix(".npy")
                    load_it = functools.partial(_opened, source, load, info.filename)
                    arrays[key] = Stored(shape, load_it, *_passes(source, info.filename))
        return arrays

    def load(_: Source, file: BinaryIO, name: str) -> np.ndarray:
        with zipfile.ZipFile(file) as archive, archive.open(name) as member:
            # Reading to the end compares the archive's checksum.
            return _read_npy(source, member, archive.getinfo(name).file_size)

    return _opened(source, look)


# --- IDX and .safetensors ---------------------------------------------------------------------------------------------


def _read_idx(source: Source, file: Any) -> np.ndarray:
    zeros, kind, num_dimensions = struct.unpack(">HBB", file.read(4))
    shape = struct.unpack(f">{num_dimensions}I", file.read(4 * num_dimensions))
    if zeros or not 1 <= num_dimensions <= 4:
        raise ValueError("the header is not that of an IDX file")
    content = source.size * MOST_UNPACKED if source.packing else source.size - 4 - 4 * num_dimensions
    array = _read_content(source, file, shape, np.dtype(_IDX[kind]), content)
    if file.read(1):
        raise ValueError("there is more than the header says")
    return array


def _of_safetensors(source: Source) -> dict[str, Stored]:
    def look(_: Source, file: BinaryIO) -> dict[str, Stored]:
        return {
            name: Stored(place.shape, functools.partial(_opened, source, load, place))
            for name, place in read_header(file, source.size)[1].items()
        }

    def load(_: Source, file: BinaryIO, place: Place) -> np.ndarray:
        file.seek(place.start)
        array = _read_content(source, file, place.shape, place.dtype, source.size - place.start)
        return array.astype(np.float32) if place.dtype == BFLOAT16 else array

    return _opened(source, look)
