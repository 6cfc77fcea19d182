"""Columns that have types: .parquet, .arrow and .feather, and data frames of pandas, polars and pyarrow."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from handgrad.data.naming import printable
from handgrad.data.objects import to_arrow
from handgrad.data.ranges import ALL, Range, placed, until
from handgrad.data.sources import MOST_UNPACKED, SMALL, Source, parts_of, require_memory
from handgrad.data.words import is_text, require_pyarrow

_BYTES_A_VALUE = 8
SMALL_GROUP = 2**27  # bytes of rows that are read at once, where they are read in blocks
NUMBERS = 2**23  # that are read at once: to fewer rows at once Parquet gives twice the time
# In which columns become rows. Of a power of two, a row's numbers meet in few lines of the cache: 2.9 times the time.
TURNED_ROWS = 2000
PIECE = 2**16  # of a column, of larger groups of rows; which takes several times as long
_PANDAS_INDEX = "__index_level_"


class Columns(NamedTuple):
    """Columns that can be read.

    Attributes:
      name: of the data, for messages.
      names: of the columns, as they stand there.
      read: of those wanted, and those that are to be texts, chunked arrays of Arrow's by name, and notes.
      is_typed: whether a text is one; False where texts may be numbers.
      decimal: the mark in numbers that are texts.
      notes: what was found out.
      hint: what may be wrong where a column is not there.
      cut: as `read`, a few rows after the others, and how many at most; None where that is not done.
      numbers: a pass over columns of numbers, of which none is missing: some rows of them (n, P) after the others, from
        one on up to another, or to the end if None.
    """

    name: str
    names: Sequence[str]
    read: Callable[[Sequence[str], Sequence[str]], tuple[dict[str, Any], list[str]]]
    is_typed: bool = True
    decimal: str = "."
    notes: tuple[str, ...] = ()
    hint: str = ""
    cut: Callable[[Sequence[str], Sequence[str]], "Cut"] | None = None
    numbers: Callable[[Sequence[str], int, int | None], Iterator[np.ndarray]] | None = None


class Cut(NamedTuple):
    """Columns that are read in blocks.

    Attributes:
      begin: begins a pass: blocks of so many rows at most, each an array of Arrow's by the column's name; of the rows
        from a first one on up to one that is not read any more, or to the end if None.
      words: of columns whose texts may be numbers, how many rows have each text.
      notes: what was found out.
    """

    begin: Callable[[int, int, int | None], Iterator[dict[str, Any]]]
    words: Mapping[str, Mapping[str, int]] = MappingProxyType({})
    notes: tuple[str, ...] = ()


def from_file(source: Source) -> Columns:
    """The columns of a .parquet file or folder, or of Arrow's own file.

    Raises:
      ValueError: a file that is damaged.
    """
    require_pyarrow()
    return (_from_parquet if source.format == "parquet" else _from_arrow)(source)


def count_values(source: Source) -> int:
    """How many values a .parquet file or folder has, rows times columns."""
    names, num_rows, *_ = (_look_at_folder if source.path.is_dir() else _look_at_file)(source)
    return num_rows * len(names)


def _from_parquet(source: Source) -> Columns:
    look = _look_at_folder if source.path.is_dir() else _look_at_file
    names, num_rows, load, batches = _guarded(source, lambda: look(source))

    def read(wanted: Sequence[str], _: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        require_memory(source.name, num_rows * len(wanted) * _BYTES_A_VALUE)
        return _guarded(source, lambda: _by_name(load(wanted), wanted)), []

    names = [name for name in names if not name.startswith(_PANDAS_INDEX)]
    return Columns(source.name, names, read, cut=_cut(batches), numbers=_numbers(batches))


Batches = Callable[[Sequence[str], int, "Range"], Iterator[tuple[int, Any]]]


def _cut(batches: Batches) -> Callable[..., Cut]:
    """Batches of Arrow's of the columns wanted, of about so many rows, as blocks."""

    def blocks(wanted: Sequence[str], rows: int, wished: Range) -> Iterator[dict[str, Any]]:
        for at, batch in batches(wanted, rows, wished):
            own = batch.slice(*wished.of(at, len(batch)))
            for start in range(0, len(own), rows):
                yield _by_name(own.slice(start, rows), wanted)

    return lambda wanted, _: Cut(lambda rows, first, last: blocks(wanted, rows, Range(first, last)))


def _numbers(batches: Batches) -> Callable[[Sequence[str], int, int | None], Iterator[np.ndarray]]:
    """Batches of Arrow's, the next of which is read meanwhile, as arrays, whose columns lie one after the other."""

    def blocks(wanted: Sequence[str], first: int, last: int | None) -> Iterator[np.ndarray]:
        wished = Range(first, last)
        read = batches(wanted, max(1, NUMBERS // len(wanted)), wished)
        with ThreadPoolExecutor(1) as reader:
            future = reader.submit(next, read, None)
            while (found := future.result()) is not None:
                future = reader.submit(next, read, None)
                at, batch = found
                batch = batch.slice(*wished.of(at, len(batch))).select(list(wanted))
                for start in range(0, len(batch), TURNED_ROWS):
                    yield batch.slice(start, TURNED_ROWS).to_tensor(row_major=False).to_numpy()

    return blocks


def _by_name(table: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """The columns, which a file gives in its own order, their texts held to be in UTF-8."""
    columns = {name: table.column(name) for name in wanted}
    for column in columns.values():
        is_of_texts = is_text(getattr(column.type, "value_type", column.type))
        for chunk in getattr(column, "chunks", [column]) if is_of_texts else ():
            (chunk.dictionary if hasattr(chunk, "dictionary") else chunk).validate(full=True)
    return columns


_Parquet = tuple[list[str], int, Callable[[Sequence[str]], Any], Batches]


def _look_at_file(source: Source) -> _Parquet:
    import pyarrow.parquet

    # Buffered before, all of the file would be in memory twice.
    file = pyarrow.parquet.ParquetFile(source.path, pre_buffer=False)
    texts = [field.name for field in file.schema_arrow if is_text(field.type)]

    def load(wanted: Sequence[str]) -> Any:
        return pyarrow.parquet.ParquetFile(source.path, pre_buffer=False, read_dictionary=texts).read(list(wanted))

    def batches(wanted: Sequence[str], rows: int, wished: Range) -> Iterator[tuple[int, Any]]:
        data = file.metadata
        every = [data.row_group(group) for group in range(data.num_row_groups)]
        starts = np.cumsum([0, *(group.num_rows for group in every)])
        met = [number for number, group in enumerate(every) if wished.meets(starts[number], group.num_rows)]
        if not met:
            return
        piece = 0 if max(every[number].total_byte_size for number in met) <= SMALL_GROUP else PIECE
        # What is known of a hundred thousand pieces of columns takes as long, and as much memory, as the columns.
        how = {"metadata": data, "pre_buffer": False, "buffer_size": piece, "read_dictionary": texts}
        with pyarrow.parquet.ParquetFile(source.path, **how) as opened:
            read = opened.iter_batches(rows, row_groups=met, columns=list(wanted))
            yield from until(placed(read, int(starts[met[0]])), wished)

    return file.schema_arrow.names, file.metadata.num_rows, load, batches


def open_folder(source: Source) -> Any:
    """The dataset of a folder, whose columns are those of all its files: of types that have what each file has.

    Raises:
      ValueError, OSError: files that are damaged, or have other types than one another.
    """
    import pyarrow.dataset

    form = pyarrow.dataset.ParquetFileFormat(pre_buffer=False, use_buffered_stream=True)
    paths, base = [str(part) for part in parts_of(source.path)], str(source.path)
    opened = functools.partial(
        pyarrow.dataset.dataset, paths, format=form, partitioning="hive", partition_base_dir=base
    )
    data = opened()
    schemas = [data.schema, *(fragment.physical_schema for fragment in data.get_fragments())]
    plain = [pyarrow.schema([field.with_type(_without_dictionary(field.type)) for field in own]) for own in schemas]
    try:
        return opened(schema=pyarrow.unify_schemas(plain, promote_options="permissive"))
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        message = printable(" ".join(str(error).split()))
        raise ValueError(
            f"{source.name}: a column has one type in some files and another in others ({message})."
        ) from None


def _without_dictionary(dtype: Any) -> Any:
    return dtype.value_type if hasattr(dtype, "index_type") else dtype


def _look_at_folder(source: Source) -> _Parquet:
    data = open_folder(source)

    def batches(wanted: Sequence[str], rows: int, wished: Range) -> Iterator[tuple[int, Any]]:
        start = 0
        for fragment in data.get_fragments():  # in the order in which they are read together
            num_rows = fragment.count_rows()
            if wished.meets(start, num_rows):
                read = fragment.to_batches(data.schema, columns=list(wanted), batch_size=rows, batch_readahead=1)
                yield from until(placed(read, start), wished)
            start += num_rows

    return data.schema.names, data.count_rows(), lambda wanted: data.to_table(columns=list(wanted)), batches


def _from_arrow(source: Source) -> Columns:
    import pyarrow

    schema = _guarded(source, lambda: _arrow_schema(source))

    def read(wanted: Sequence[str], _: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        table = _guarded(source, lambda: _checked(source, _arrow_batches(source, pyarrow.OSFile), schema, wanted))
        return {name: table.column(name) for name in wanted}, []

    # A batch may be all of the file: what is read in blocks is mapped.
    def batches(_: Sequence[str], __: int, wished: Range) -> Iterator[tuple[int, Any]]:
        return placed(_arrow_batches(source, pyarrow.memory_map, wished), 0)

    return Columns(source.name, schema.names, read, cut=_cut(batches), numbers=_numbers(batches))


def _arrow_schema(source: Source) -> Any:
    import pyarrow

    with _arrow_reader(source, pyarrow.OSFile) as reader:
        "".join(reader.schema.names).encode()
        return reader.schema


@contextlib.contextmanager
def _arrow_reader(source: Source, open_file: Callable[[str], Any]) -> Iterator[Any]:
    import pyarrow

    with open_file(str(source.path)) as file:
        try:
            reader = pyarrow.ipc.open_file(file)
        except pyarrow.ArrowInvalid:
            file.seek(0)
            reader = pyarrow.ipc.open_stream(file)
        yield reader


def _arrow_batches(source: Source, open_file: Callable[[str], Any], wished: Range = ALL) -> Iterator[Any]:
    """The batches of Arrow's own file, each held to be what it claims before it is looked into."""
    start = 0
    with _arrow_reader(source, open_file) as reader:
        if hasattr(reader, "num_record_batches"):
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = iter(reader)
        for batch in batches:
            if wished.meets(start, len(batch)):
                batch.validate(full=True)
            start += len(batch)
            yield batch


def _checked(source: Source, batches: Iterator[Any], schema: Any, wanted: Sequence[str]) -> Any:
    """The columns wanted of batches that are no more than such a file may hold."""
    import pyarrow

    kept, size = [], 0
    for batch in batches:
        size += batch.nbytes
        if size > max(SMALL, source.size * MOST_UNPACKED):
            raise ValueError(f"{source.name}: unpacks to more than {MOST_UNPACKED} times its size, as no table does.")
        require_memory(source.name, size)
        kept.append(batch.select(list(wanted)))
    return pyarrow.Table.from_batches(kept, pyarrow.schema([schema.field(name) for name in wanted]))


def _guarded(source: Source, read: Callable[[], Any]) -> Any:
    """What `read` gives; whatever it raises as one line."""
    try:
        return read()
    except Exception as error:  # damaged bytes make Arrow raise almost anything
        message = " ".join(str(error).split())
        if message.startswith(f"{source.name}: "):
            raise
        raise ValueError(
            f"{source.name}: is not in the format {source.format}, or is damaged ({printable(message)})."
        ) from None


# --- From Python ------------------------------------------------------------------------------------------------------


def from_table(name: str, table: Any) -> Columns:
    """The columns of a table of pyarrow's."""

    def read(wanted: Sequence[str], _: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        return {column: table.column(column) for column in wanted}, []

    return Columns(name, table.column_names, read)


def from_frame(frame: Any) -> Columns | None:
    """The columns of a data frame of pandas or polars, a table of pyarrow's or a dictionary; None for what is none."""
    module = type(frame).__module__.partition(".")[0]
    if module == "pyarrow" and hasattr(frame, "column_names"):
        import pyarrow

        table = pyarrow.Table.from_batches([frame]) if isinstance(frame, pyarrow.RecordBatch) else frame
        return from_table("the table", table)
    if isinstance(frame, Mapping):
        return _from_columns("the dictionary", list(frame.items()))
    for library in ("pandas", "polars"):
        if hasattr(sys.modules.get(library), "DataFrame") and isinstance(frame, sys.modules[library].DataFrame):
            values = [frame.iloc[:, i] for i in range(frame.shape[1])] if library == "pandas" else frame.iter_columns()
            return _from_columns("the data frame", list(zip(frame.columns, values, strict=True)))
    return None


def _from_columns(name: str, columns: Sequence[tuple[Any, Any]]) -> Columns:
    require_pyarrow()
    lengths = {}
    for key, values in columns:
        if not hasattr(values, "__len__") or isinstance(values, (str, bytes)) or getattr(values, "shape", None) == ():
            raise ValueError(f"{name}: column {printable(str(key))!r} must be an array (N,); got {values!r}.")
        lengths[str(key)] = len(values)
    if len(set(lengths.values())) > 1:
        short, long = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
        raise ValueError(
            f"{name}: columns must have as many rows as one another; got {lengths[short]} in {short!r} and "
            f"{lengths[long]} in {long!r}."
        )
    by_name = {str(key): values for key, values in columns}

    def read(wanted: Sequence[str], texts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
        return {key: to_arrow(name, key, by_name[key], is_text=key in texts) for key in wanted}, []

    return Columns(name, [str(key) for key, _ in columns], read)  # of one name twice, who asks for it is told
