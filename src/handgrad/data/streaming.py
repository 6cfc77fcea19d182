"""Tables that stay in their files: what is known row by row is read, and the features anew for each pass over them.

The first pass, after one that finds out what the columns of a text are, looks at every value, as reading does. What it
says is wrong, and what comes of it, is what `read_table` would say; so are the keys by which the rows are split.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from handgrad import processes
from handgrad.data import arrow
from handgrad.data.array_tables import as_features, assemble_arrays, look_at_values
from handgrad.data.assembly import Roles
from handgrad.data.filed import filed, without_missing
from handgrad.data.numbers import Watch, numbers_of_array, pass_over
from handgrad.data.problems import Problem, say
from handgrad.data.reading import as_format, choose, open_data
from handgrad.data.sharing import joined_arrays, of_all_processes, own_rows
from handgrad.data.sources import STANDARD_INPUT, Source, available_memory, find_source
from handgrad.data.splitting import table_keys
from handgrad.data.streaming_columns import of_columns
from handgrad.data.tables import MISSING, Missing, Table
from handgrad.data.words import returning_memory

STREAMED = ("delimited", "parquet", "arrow", "npy", "npz", "svmlight")
SELDOM_MORE = 20  # bytes of the table and X for each of a packed file; of others about 2


def stream_table(
    source: Any,
    *,
    target: str | None = None,
    labels: Any = None,
    features: str | None = None,
    missing: Missing | None = None,
    drop: Sequence[str] = (),
    keep: Sequence[str] = (),
    weight: str | None = None,
    ids: Sequence[str] = (),
    group: str | None = None,
    time: str | None = None,
    separator: str = "",
    decimal: str = "",
    quote: str = "",
    text_encoding: str = "",
    callback: Watch | None = None,
) -> Table:
    r"""A table that stays in its file: what `read_table` gives, but the features, which are read anew for each pass.

    `fit_encoding`, `encode` and `split_and_scale` take it as any table. They read the file once each, or once in each
    pass over the X that they give, of float32, for `handgrad.fit` and `handgrad.fit_path`. In memory are a few blocks
    of rows and, for each row, its label, its weight, its ids, group and time where there are such, and 8 bytes by which
    it is known. Where `jax.distributed` has begun, each process reads its share of the rows, and all call this.

    Args:
      source: the path of a .parquet file, or a folder of such, of .arrow or .feather, of .csv, .tsv and .txt in UTF-8,
        packed or not, of .npy and .npz with arrays stored row by row, or of .svmlight, whose rows stay sparse.
      target, labels, features, missing, drop, keep, weight, ids, group, time, separator, decimal, quote, text_encoding:
        as for `read_table`. A median, or most frequent number, is that of a column with at most 2²⁰ different ones.
      callback: called as callback(done, rows) in each pass over the features, with how many of the rows it has read.

    Returns:
      Table, its features in `file`.

    Raises:
      FileNotFoundError, ValueError: as `read_table`; a file that is not read in blocks.

    Example:
      >>> import tempfile
      >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
      ...     _ = file.write("size,kind\n" + "1,a\n2,b\n" * 4)
      ...     file.flush()
      ...     table = stream_table(file.name, target="kind")
      >>> table.num_rows, table.class_names, table.file.kinds
      (8, ('a', 'b'), {'size': 'number'})
    """
    if missing not in (None, *MISSING):
        raise ValueError(f"stream_table: missing must be one of {', '.join(MISSING)}; got {missing!r}.")
    _require_streamed(source)
    roles = Roles(target, tuple(drop), tuple(keep), weight, tuple(ids), group, time)
    watch: Watch = callback or (lambda *_: None)
    with open_data(source, as_format(separator, decimal, quote, text_encoding), in_blocks=True) as data:
        if not isinstance(data, arrow.Columns):
            stored = choose(data, roles, labels, features, load=lambda array: array)
            return _of_arrays(stored, roles, missing, watch)
        if features is not None or isinstance(labels, (str, os.PathLike)):
            raise ValueError(
                f"{data.name}: --features and --labels name arrays, and this has columns: --target names one."
            )
        with returning_memory():
            return of_columns(data, roles, missing, labels, watch)


def _require_streamed(path: Any) -> Source:
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(
            f"stream_table: source must be the path of a file; got {type(path).__name__}. handgrad.fit takes arrays, "
            "memory maps, and objects that begin anew each time they are gone over, as they are."
        )
    if str(path) == STANDARD_INPUT:
        raise ValueError("standard input: can be read only once. Name a file.")
    with find_source(path) as found:
        if found.format not in STREAMED:
            raise ValueError(
                f"{found.name}: {found.format} is not read in blocks. Write it as .parquet, or as .npy with its labels "
                "in another one, or read it into memory."
            )
        return found


def needs_streaming(path: Any, share: float = 1.0) -> bool:
    """Whether a share of a file's table, and X made of it, would take more than half of the memory that is free."""
    if str(path) == STANDARD_INPUT:
        return False
    with find_source(path) as found:
        size = share * SELDOM_MORE * found.size
        if found.format not in STREAMED or size <= available_memory() / 2:
            return False
        if found.format == "parquet":
            try:
                size = share * 12 * arrow.count_values(found)  # float64 and float32
            except Exception:  # damaged bytes make Arrow raise almost anything, and reading says what is wrong
                return False
        elif not found.packing:
            size = share * 2 * found.size
    return size > available_memory() / 2


def _of_arrays(arrays: Any, roles: Roles, missing: Missing | None, watch: Watch) -> Table:
    def blocks(first: int, last: int | None) -> Iterator[Table]:
        for block in pass_over(arrays.name, arrays.X.cut(first, last)):
            X, image_shape = as_features(arrays.name, block)
            yield Table(X, image_shape=image_shape)

    num_rows = len(arrays.y)
    begin, end = own_rows(num_rows)
    start, count, first = begin, 0, 0
    keys, whole = [], []
    about: tuple[Any, Any, bool] | None = None
    for block in blocks(begin, end):
        problems: list[Problem] = []
        where = look_at_values(block.X, problems)
        if problems:
            since = f", its rows counted from row {start + 1:,}" if start else ""
            raise ValueError(say(f"{arrays.name}{since}", problems))
        where = np.zeros(block.num_rows, bool) if where is None else where
        first = first if count else start + int(np.argmax(where))
        count += int(where.sum())
        keys.append(table_keys(block))
        whole.append(~where)
        start += block.num_rows
        about = block.X.shape[1], block.image_shape, block.is_sparse
        watch(start - begin, (end or num_rows) - begin)
    every_key, complete = joined_arrays(keys, np.uint64), joined_arrays(whole, bool)
    about = next(filter(None, processes.gather_values(about)), None)
    if about is None:
        raise ValueError(f"{arrays.name}: the features are empty.")
    # What stands beside the features is as it is for those that are read; these are not.
    beside = arrays._replace(X=np.broadcast_to(np.uint8(0), (len(every_key), 1)))
    lacking, *_ = of_all_processes({"the features": (count, first)} if count else {}, {}, {})
    num_inputs, image_shape, is_sparse = about
    numbers = None if lacking or is_sparse else numbers_of_array(arrays, num_rows, watch)
    file = filed(blocks, every_key, None, num_inputs, watch, numbers, is_sparse=is_sparse)
    table = assemble_arrays(beside, roles, missing)._replace(X=None, image_shape=image_shape, file=file)
    problems = []
    table = without_missing(table, lacking, complete, problems)
    if problems:
        raise ValueError(say(arrays.name, problems))
    return table
