"""Sparse data as svmlight and LIBSVM write them: a line for each row, `class index:value index:value …  # comment`."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from handgrad.data.arrays import Stored
from handgrad.data.sources import Source, open_source, require_memory
from handgrad.data.words import require_pyarrow

BLOCK = 2**23  # bytes of text at once
_BYTES_A_VALUE = 16
_BYTES_A_FEATURE = 64  # what is measured of each
_MOST_FEATURES = 2**31 - 1


class _Place(NamedTuple):
    """Where in a file a block of lines begins."""

    byte: int  # of what is unpacked
    line: int
    row: int


class _Block(NamedTuple):
    """Some lines, and what they hold: a label and a number of entries for each row, and the entries."""

    place: _Place
    y: np.ndarray
    lengths: np.ndarray
    indices: np.ndarray  # as they are written
    values: np.ndarray


class _Shape(NamedTuple):
    """Of a whole file."""

    num_features: int
    first: int  # index, 0 or 1


def read(source: Source, first: int | None = None) -> tuple[Mapping[str, Any], int]:
    """X as SciPy's CSR (N, P), and y (N,), float64; and the index that indices begin at.

    That is `first`, or where that is None 1, or 0 where an index is 0.

    Raises:
      ValueError: a line is not such a one; the message names it.
    """
    require_memory(source.name, 3 * source.size)
    blocks: list[_Block] = []
    num_values = 0
    for block in _blocks(source):
        blocks.append(block)
        num_values += len(block.values)
        require_memory(source.name, num_values * _BYTES_A_VALUE)
    limits = np.array([_limits(block) for block in blocks]).reshape(-1, 2)
    whole = _Block(_START, *(np.concatenate(each) for each in list(zip(*blocks, strict=True))[1:])) if blocks else None
    if whole is None or not len(whole.y):
        raise ValueError(f"{source.name}: has no rows.")
    shape = _shape_of(source, limits, first)
    return {"X": _as_csr(whole, shape), "y": whole.y}, shape.first


def stored(source: Source, first: int | None = None) -> tuple[Mapping[str, Any], int]:
    """As `read`, with X as what is read in blocks, of which one pass tells the shape.

    Raises:
      ValueError: as `read`.
    """
    y: list[np.ndarray] = []
    places: list[_Place] = []
    limits: list[tuple[int, int]] = []
    num_rows = 0
    for block in _blocks(source):
        places.append(block.place)
        limits.append(_limits(block))
        y.append(block.y)
        num_rows += len(block.y)
        require_memory(source.name, 8 * num_rows)
    if not num_rows:
        raise ValueError(f"{source.name}: has no rows.")
    shape = _shape_of(source, np.array(limits), first)

    def cut(first: int, last: int | None) -> Iterator[Any]:
        at = int(np.searchsorted([place.row for place in places], first, side="right")) - 1
        for block in _blocks(source, places[at]):
            low, high = _limits(block)
            if low < shape.first or high - shape.first >= shape.num_features:
                raise ValueError(f"{source.name}: has changed since it was first read.")
            start = block.place.row
            if last is not None and start >= last:
                return
            X = _as_csr(block, shape)
            yield X[max(0, first - start) : None if last is None else last - start]

    X = Stored((num_rows, shape.num_features), lambda: read(source, shape.first)[0]["X"], cut)
    return {"X": X, "y": np.concatenate(y)}, shape.first


_START = _Place(0, 0, 0)


def _blocks(source: Source, place: _Place = _START) -> Iterator[_Block]:
    """What the lines hold from a place on, block by block."""
    require_pyarrow()
    with open_source(source) as file:
        if not source.packing:
            file.seek(place.byte)
        for start in range(0, place.byte if source.packing else 0, BLOCK):
            file.read(min(BLOCK, place.byte - start))
        rest = b""
        while piece := file.read(BLOCK):
            whole, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                block, num_lines = _parse(source, whole, place)
                yield block
                place = _Place(place.byte + len(whole) + 1, place.line + num_lines, place.row + len(block.y))
            elif len(rest) > 64 * BLOCK:
                raise ValueError(f"{source.name}: has a line of more than {len(rest) >> 20} MB.")
        if rest.strip():
            yield _parse(source, rest, place)[0]


def _limits(block: _Block) -> tuple[int, int]:
    """The least and the largest index; 1 and 0 where there is none."""
    return int(block.indices.min(initial=1)), int(block.indices.max(initial=0))


def _shape_of(source: Source, limits: np.ndarray, first: int | None) -> _Shape:
    found, largest = int(limits[:, 0].min(initial=1)), int(limits[:, 1].max(initial=0))
    if first is not None and found < first:
        raise ValueError(f"{source.name}: has an index 0, and in what the model was trained on the first is 1.")
    first = found if first is None else first
    num_features = max(1, largest - first + 1)
    require_memory(source.name, num_features * _BYTES_A_FEATURE)
    if num_features > _MOST_FEATURES:
        raise ValueError(f"{source.name}: has an index {largest:,}, and most are {_MOST_FEATURES:,}.")
    return _Shape(num_features, first)


def _as_csr(block: _Block, shape: _Shape) -> Any:
    import scipy.sparse

    pointers = np.concatenate([[0], np.cumsum(block.lengths)])
    columns = (block.indices - shape.first).astype(np.int32)
    values = np.require(block.values, requirements="W")  # Arrow's own are not to be put in order
    X = scipy.sparse.csr_array((values, columns, pointers), (len(block.y), shape.num_features))
    X.sum_duplicates()
    return X


def _parse(source: Source, text: bytes, place: _Place) -> tuple[_Block, int]:
    """What the lines hold, and how many there are."""
    import pyarrow
    import pyarrow.compute as compute

    lines = pyarrow.array(text.split(b"\n"), pyarrow.binary())
    try:
        lines = lines.cast("string")
        lines = compute.utf8_trim_whitespace(compute.list_element(compute.split_pattern(lines, "#", max_splits=1), 0))
        rows = compute.filter(lines, compute.not_equal(lines, ""))
        if not len(rows):
            none, no_index = np.zeros(0), np.zeros(0, np.int64)
            return _Block(place, none, no_index, no_index, none), len(lines)
        words = compute.utf8_split_whitespace(rows)
        first, flat = compute.list_element(words, 0), compute.list_flatten(words)
        lengths = compute.list_value_length(words).to_numpy().astype(np.int64)
        is_label = np.zeros(len(flat), bool)
        is_label[np.cumsum(lengths) - lengths] = True
        pairs = compute.filter(flat, pyarrow.array(~is_label))
        is_query = compute.starts_with(pairs, "qid:")
        if compute.any(is_query).as_py():
            owners = np.repeat(np.arange(len(rows)), lengths - 1)[is_query.to_numpy(zero_copy_only=False)]
            lengths = lengths - np.bincount(owners, minlength=len(rows))
            pairs = compute.filter(pairs, compute.invert(is_query))
        split = compute.split_pattern(pairs, ":")
        if len(pairs) and compute.any(compute.not_equal(compute.list_value_length(split), 2)).as_py():
            raise pyarrow.ArrowInvalid("a pair is not index:value")
        parts = compute.list_flatten(split)
        index = parts.take(pyarrow.array(np.arange(0, len(parts), 2))).cast("int64").to_numpy()
        value = parts.take(pyarrow.array(np.arange(1, len(parts), 2))).cast("float64").to_numpy()
        label = first.cast("float64").to_numpy()
        if (index < 0).any() or not np.isfinite(value).all() or not np.isfinite(label).all():
            raise pyarrow.ArrowInvalid("an index is negative, or a number infinite")
        return _Block(place, label, lengths - 1, index, value), len(lines)
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(_fault(source, text, place.line, error)) from None


def _fault(source: Source, text: bytes, before: int, error: Exception) -> str:
    """Which line it is."""
    for number, line in enumerate(text.split(b"\n"), before + 1):
        label, *pairs = line.split(b"#")[0].split() or [b"0"]
        for word in (label, *(part for pair in pairs if not pair.startswith(b"qid:") for part in _both(pair))):
            try:
                is_number = np.isfinite(float(word))
            except ValueError:
                is_number = False
            if not is_number:
                shown = line[:40].decode("utf-8", "replace")
                return f"{source.name}: line {number} is not `class index:value …` with finite numbers; got {shown!r}."
    return f"{source.name}: is not in svmlight's format ({' '.join(str(error).split())})."


def _both(pair: bytes) -> tuple[bytes, ...]:
    index, colon, value = pair.partition(b":")
    return (index if index.isdigit() else b"?", value if colon else b"?")
