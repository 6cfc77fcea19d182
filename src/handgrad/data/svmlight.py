"""Sparse data as svmlight and LIBSVM write them: a line for each row, `class index:value index:value …  # comment`."""

from typing import Any

import numpy as np

from handgrad.data.sources import Source, open_source, require_memory
from handgrad.data.words import require_pyarrow

BLOCK = 2**23  # bytes of text at once
_BYTES_A_VALUE = 16


def read(source: Source) -> tuple[Any, np.ndarray]:
    """X as SciPy's CSR (N, P), and y (N,), float64. Indices begin at 1, or at 0 where one is 0.

    Raises:
      ValueError: a line is not such a one; the message names it.
    """
    require_pyarrow()
    import scipy.sparse

    require_memory(source.name, 3 * source.size)
    y: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    indices: list[np.ndarray] = []
    values: list[np.ndarray] = []
    num_lines, num_values = 0, 0
    with open_source(source) as file:
        rest = b""
        while piece := file.read(BLOCK):
            whole, newline, rest = (rest + piece).rpartition(b"\n")
            if newline:
                num_lines += _add(source, whole, num_lines, y, counts, indices, values)
                num_values += len(indices[-1])
                require_memory(source.name, num_values * _BYTES_A_VALUE)
            elif len(rest) > 64 * BLOCK:
                raise ValueError(f"{source.name}: has a line of more than {len(rest) >> 20} MB.")
        if rest.strip():
            _add(source, rest, num_lines, y, counts, indices, values)
    if not y:
        raise ValueError(f"{source.name}: has no rows.")
    columns = np.concatenate(indices)
    first = int(columns.min(initial=1) != 0)
    columns -= first
    pointers = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    num_features = int(columns.max(initial=0)) + 1
    require_memory(source.name, num_features * 64)  # what is measured of each
    if num_features > 2**31 - 1:
        raise ValueError(f"{source.name}: has an index {num_features - 1 + first:,}, and most are 2,147,483,647.")
    X = scipy.sparse.csr_array(
        (np.concatenate(values), columns.astype(np.int32), pointers), (len(pointers) - 1, num_features)
    )
    X.sum_duplicates()
    return X, np.concatenate(y)


def _add(source: Source, text: bytes, before: int, y: list, counts: list, indices: list, values: list) -> int:
    """Append what the lines hold; returns how many lines there are."""
    import pyarrow
    import pyarrow.compute as compute

    lines = pyarrow.array(text.split(b"\n"), pyarrow.binary())
    try:
        lines = lines.cast("string")
        lines = compute.utf8_trim_whitespace(compute.list_element(compute.split_pattern(lines, "#", max_splits=1), 0))
        rows = compute.filter(lines, compute.not_equal(lines, ""))
        if len(rows):
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
            y.append(label)
            counts.append(lengths - 1)
            indices.append(index)
            values.append(value)
        else:
            indices.append(np.zeros(0, np.int64))
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(_place(source, text, before, error)) from None
    return len(lines)


def _place(source: Source, text: bytes, before: int, error: Exception) -> str:
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
