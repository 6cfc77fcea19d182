"""Tables that stay in their files: what is known row by row is read, and the features anew for each pass over them.

The first pass, after one that finds out what the columns of a text are, looks at every value, as reading does. What it
says is wrong, and what comes of it, is what `read_table` would say; so are the keys by which the rows are split.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from handgrad import processes
from handgrad.data import arrow
from handgrad.data.array_tables import as_features, assemble_arrays, look_at_values
from handgrad.data.assembly import Plan, Roles, beside_of, classes_of, keep_rows, make_plan
from handgrad.data.columns import take
from handgrad.data.lacking import say_missing
from handgrad.data.moments import BLOCK_VALUES
from handgrad.data.naming import printable
from handgrad.data.numbers import Watch, numbers_of_array, numbers_of_columns, pass_over
from handgrad.data.problems import Problem, say
from handgrad.data.reading import as_format, choose, open_data
from handgrad.data.review import review_text, say_marks
from handgrad.data.sharing import joined_arrays, of_all_processes, own_rows
from handgrad.data.sources import STANDARD_INPUT, Source, available_memory, find_source
from handgrad.data.splitting import table_keys
from handgrad.data.tables import MISSING, Column, Filed, Kind, Missing, Numbers, Table
from handgrad.data.words import returning_memory

STREAMED = ("delimited", "parquet", "arrow", "npy", "npz")
LEAST_ROWS = 64  # of a block
ROWS_AT_ONCE = 8  # times what fits the cache
MOST_WORDS = 2**20  # of a text that are told apart
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
        packed or not, or of .npy and .npz with arrays stored row by row.
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
    with open_data(source, as_format(separator, decimal, quote, text_encoding)) as data:
        if not isinstance(data, arrow.Columns):
            stored = choose(data, roles, labels, features, load=lambda array: array)
            return _of_arrays(stored, roles, missing, watch)
        if features is not None or isinstance(labels, (str, os.PathLike)):
            raise ValueError(
                f"{data.name}: --features and --labels name arrays, and this has columns: --target names one."
            )
        with returning_memory():
            return _of_columns(data, roles, missing, labels, watch)


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


def read_rows(table: Table, rows: np.ndarray) -> Table:
    """Some rows of a table in its file, ascending, in memory; processes read them together."""
    assert table.file is not None
    # A block of an array is good until the next.
    own = [
        (None if block.X is None else block.X.copy(), block.columns)
        for block in table.file.begin(rows[processes.share(len(rows))])
    ]
    blocks = [block for of_process in processes.gather_values(own) for block in of_process]
    if table.file.kinds is None:
        some = Table(np.concatenate([X for X, _ in blocks]), image_shape=table.image_shape)
    else:
        some = Table(columns={name: _joined([columns[name] for _, columns in blocks]) for name in table.file.kinds})
    return some._replace(
        labels=None if table.labels is None else table.labels[rows],
        weights=None if table.weights is None else table.weights[rows],
        ids={name: values[rows] for name, values in table.ids.items()},
        groups=None if table.groups is None else table.groups[rows],
        times=None if table.times is None else table.times[rows],
        **{name: getattr(table, name) for name in ("class_names", "target", "missing", "left_out", "notes")},
    )


def _joined(columns: Sequence[Column]) -> Column:
    """Columns of one kind, one after the other."""
    if columns[0].kind != "text":
        return columns[0]._replace(values=np.concatenate([column.values for column in columns]))
    place: dict[str, int] = {}
    codes = [
        np.array([*(place.setdefault(word, len(place)) for word in column.words), -1], np.int32)[column.values]
        for column in columns
    ]
    return Column("text", np.concatenate(codes), tuple(place))


Blocks = Callable[[int, int | None], Iterator[Table]]  # of rows from one on up to another, or to the end


def _selected(blocks: Blocks, rows: np.ndarray, watch: Watch) -> Iterator[Table]:
    """Of the blocks the rows with these indices, ascending."""
    if not len(rows):
        return
    first, last = int(rows[0]), int(rows[-1]) + 1
    start = first
    for block in blocks(first, last):
        end = start + block.num_rows
        own = rows[slice(*np.searchsorted(rows, [start, end]))] - start
        if len(own):
            yield block if len(own) == block.num_rows else block.take(own)
        watch(end - first, last - first)
        start = end


def _filed(
    blocks: Blocks,
    keys: np.ndarray,
    kinds: Mapping[str, Kind] | None,
    num_inputs: int,
    watch: Watch,
    numbers: Numbers | None,
) -> Filed:
    return Filed(lambda rows: _selected(blocks, rows, watch), keys, kinds, num_inputs, numbers)


# --- Columns ----------------------------------------------------------------------------------------------------------


def _of_columns(data: arrow.Columns, roles: Roles, missing: Missing | None, labels: Any, watch: Watch) -> Table:
    plan = make_plan(data, roles, is_classed=labels is not None)
    problems: list[Problem] = []
    by_row = list(dict.fromkeys([*plan.texts, *([roles.weight] if roles.weight else [])]))
    raw, notes = data.read([plan.stands[name] for name in by_row], [plan.stands[name] for name in plan.texts])
    values = {name: raw.pop(plan.stands[name]) for name in by_row}
    num_rows = len(values[by_row[0]]) if by_row else len(labels)
    if not num_rows:
        raise ValueError(f"{data.name}: has names of columns and no rows.")
    found = classes_of(roles, values, labels, num_rows, problems, data)
    beside = beside_of(roles, values, problems, data)

    assert data.cut is not None
    cut = data.cut([plan.stands[name] for name in plan.names], [])
    step = max(LEAST_ROWS, ROWS_AT_ONCE * BLOCK_VALUES // len(plan.names))
    kinds = _kinds(data, plan, cut)

    def blocks(first: int, last: int | None) -> Iterator[Table]:
        start = first
        for block in pass_over(data.name, cut.begin(step, first, last)):
            wrong: list[Problem] = []
            columns = {name: _take(data, name, block[plan.stands[name]], wrong, kinds[name]) for name in plan.names}
            if wrong:
                since = f", its rows counted from row {start + 1:,}" if start else ""
                raise ValueError(say(f"{data.name}{since}", wrong))
            yield Table(columns=columns)
            start += len(next(iter(columns.values())).values)

    keys, lacking, words, whole = [], dict[str, tuple[int, int]](), dict[str, dict[str, None]](), []
    present = dict.fromkeys([name for name, kind in kinds.items() if kind == "text"], 0)
    first, last = own_rows(num_rows)
    start = first
    for block in blocks(first, last):
        assert block.columns is not None
        is_whole = np.ones(block.num_rows, bool)
        for name, column in block.columns.items():
            where = column.is_missing()
            if where.any():
                count, row = lacking.get(name, (0, start + int(np.argmax(where))))
                lacking[name] = count + int(where.sum()), row
                is_whole &= ~where
            if name in present:
                present[name] += int(np.count_nonzero(~where))
                own = words.setdefault(name, {})
                own.update(dict.fromkeys(column.words if len(own) < MOST_WORDS else ()))
        keys.append(table_keys(block))
        whole.append(is_whole)
        start += block.num_rows
        watch(start - first, (last or num_rows) - first)
    every_key, complete = joined_arrays(keys, np.uint64), joined_arrays(whole, bool)
    if len(every_key) != num_rows:
        raise ValueError(f"{data.name}: has {len(every_key):,} rows, and labels are there for {num_rows:,}.")
    lacking, present, words = of_all_processes(lacking, present, words)
    numbers = None if lacking else numbers_of_columns(data, plan, cut, num_rows, watch)
    table = Table(
        labels=found and found.labels,
        class_names=found.names if found else (),
        target=roles.target,
        missing=missing,
        left_out=tuple(name for name in plan.stands if name not in kinds and name != roles.target),
        notes=tuple(dict.fromkeys((*plan.notes, *notes, *cut.notes))),
        file=_filed(blocks, every_key, kinds, len(kinds), watch, numbers),
        **beside,
    )
    table = _without_missing(table, lacking, complete, problems)
    for name, own in words.items():
        review_text(name, len(own), present[name], own, problems)
    if problems:
        raise ValueError(say(data.name, problems))
    return table


def _take(data: arrow.Columns, name: str, values: Any, problems: list[Problem], kind: Kind | None) -> Column:
    column = take(name, values, problems, kind, is_typed=data.is_typed, decimal=data.decimal)
    return column if kind is None else column._replace(kind=kind)  # a block may have no value that tells it


def _kinds(data: arrow.Columns, plan: Plan, cut: arrow.Cut) -> dict[str, Kind]:
    """Of typed columns by their types, of others by all their texts."""
    import pyarrow

    first = next(pass_over(data.name, cut.begin(LEAST_ROWS, 0, None)))
    columns: dict[str, Column] = {}
    for name in plan.names:
        counts = cut.words.get(plan.stands[name])
        if counts is None:
            values = first[plan.stands[name]][:0]
        else:
            codes = np.repeat(np.arange(len(counts), dtype=np.int32), list(counts.values()))
            values = pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array(list(counts), "string"))
        columns[name] = _take(data, name, values, [], None)
    plan.notes.extend(say_marks(columns))
    return {name: column.kind for name, column in columns.items()}


def _without_missing(
    table: Table, lacking: dict[str, tuple[int, int]], whole: np.ndarray, problems: list[Problem]
) -> Table:
    """As reading does: without the rows that lack a value, where such are left out; or problems."""
    for name, (count, first) in lacking.items():
        if count == table.num_rows:
            problems.append(Problem("columns have no value in any row", printable(name), "", can_drop=True))
        elif table.missing is None:
            problems.append(say_missing(name, count, table.num_rows, first))
    return keep_rows(table, whole, problems) if table.missing == "drop-rows" else table


# --- Arrays -----------------------------------------------------------------------------------------------------------


def _of_arrays(arrays: Any, roles: Roles, missing: Missing | None, watch: Watch) -> Table:
    def blocks(first: int, last: int | None) -> Iterator[Table]:
        for block in pass_over(arrays.name, arrays.X.cut(first, last)):
            X, image_shape = as_features(arrays.name, block)
            yield Table(X, image_shape=image_shape)

    num_rows = len(arrays.y)
    begin, end = own_rows(num_rows)
    start, count, first = begin, 0, 0
    keys, whole = [], []
    about: tuple[Any, Any] | None = None
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
        about = block.X.shape[1], block.image_shape
        watch(start - begin, (end or num_rows) - begin)
    every_key, complete = joined_arrays(keys, np.uint64), joined_arrays(whole, bool)
    about = next(filter(None, processes.gather_values(about)), None)
    if about is None:
        raise ValueError(f"{arrays.name}: the features are empty.")
    # What stands beside the features is as it is for those that are read; these are not.
    beside = arrays._replace(X=np.broadcast_to(np.uint8(0), (len(every_key), 1)))
    lacking, *_ = of_all_processes({"the features": (count, first)} if count else {}, {}, {})
    numbers = None if lacking else numbers_of_array(arrays, num_rows, watch)
    file = _filed(blocks, every_key, None, about[0], watch, numbers)
    table = assemble_arrays(beside, roles, missing)._replace(X=None, image_shape=about[1], file=file)
    problems = []
    table = _without_missing(table, lacking, complete, problems)
    if problems:
        raise ValueError(say(arrays.name, problems))
    return table
