"""Features that stay in their file: passes over some of the rows, and rows that are brought into memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from handgrad import processes
from handgrad.data.assembly import keep_rows
from handgrad.data.lacking import say_missing
from handgrad.data.naming import printable
from handgrad.data.numbers import Watch
from handgrad.data.problems import Problem
from handgrad.data.tables import Column, Filed, Kind, Numbers, Table
from handgrad.sparse_streams import stacked

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


def filed(
    blocks: Blocks,
    keys: np.ndarray,
    kinds: Mapping[str, Kind] | None,
    num_inputs: int,
    watch: Watch,
    numbers: Numbers | None = None,
    *,
    is_sparse: bool = False,
) -> Filed:
    """Features of which blocks are read, with progress; the other arguments are those of `Filed`."""
    return Filed(lambda rows: _selected(blocks, rows, watch), keys, kinds, num_inputs, numbers, is_sparse)


def without_missing(
    table: Table, lacking: dict[str, tuple[int, int]], whole: np.ndarray, problems: list[Problem]
) -> Table:
    """As reading does: without the rows that lack a value, where such are left out; or problems."""
    for name, (count, first) in lacking.items():
        if count == table.num_rows:
            problems.append(Problem("columns have no value in any row", printable(name), "", can_drop=True))
        elif table.missing is None:
            problems.append(say_missing(name, count, table.num_rows, first))
    return keep_rows(table, whole, problems) if table.missing == "drop-rows" else table


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
        every = [X for X, _ in blocks]
        some = Table(stacked(every) if table.is_sparse else np.concatenate(every), image_shape=table.image_shape)
    else:
        some = Table(columns={name: _joined([columns[name] for _, columns in blocks]) for name in table.file.kinds})
    return some._replace(
        labels=None if table.labels is None else table.labels[rows],
        weights=None if table.weights is None else table.weights[rows],
        ids={name: values[rows] for name, values in table.ids.items()},
        groups=None if table.groups is None else table.groups[rows],
        times=None if table.times is None else table.times[rows],
        **{
            name: getattr(table, name)
            for name in ("class_names", "target", "missing", "left_out", "notes", "first_index")
        },
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
