"""Tables for a model to be tried on that are larger than the memory: gone over once, their features block by block."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from handgrad.data import arrow, classes
from handgrad.data.array_tables import as_features, assemble_arrays, look_at_values
from handgrad.data.assembly import READ_AS_TEXT, Roles, beside_of, classes_of, make_plan
from handgrad.data.columns import take
from handgrad.data.encoding import Encoding
from handgrad.data.moments import BLOCK_VALUES
from handgrad.data.numbers import pass_over
from handgrad.data.problems import Problem, say
from handgrad.data.reading import as_format, choose, open_data
from handgrad.data.tables import Column, Kind, Missing, Table

LEAST_ROWS = 64  # of a block
BLOCKS_AT_ONCE = 8  # times what fits the cache


class InBlocks(NamedTuple):
    """What is known of each row, in a table without features, and the features, in tables of some rows each."""

    beside: Table
    blocks: Iterator[Table]


@contextlib.contextmanager
def read_in_blocks(
    source: Any,
    encoding: Encoding,
    *,
    is_labelled: bool,
    target: str | None = None,
    labels: Any = None,
    features: str | None = None,
    missing: Missing | None = None,
    weight: str | None = None,
    ids: Sequence[str] = (),
    separator: str = "",
    decimal: str = "",
    quote: str = "",
    text_encoding: str = "",
) -> Iterator[InBlocks]:
    """What `read_table`, or without classes `read_features`, gives of a file that `stream_table` can take.

    In memory are a few blocks of rows and, of each row, its class, its weight and its ids, where there are such.

    Args:
      source: the path of a file.
      encoding: of the model.
      is_labelled: whether there are classes, in `target` or `labels`; else the target is left out.
      target, labels, features, missing, weight, ids, separator, decimal, quote, text_encoding: as for `read_table`.

    Raises:
      FileNotFoundError, ValueError: as `read_table`; those of a block as the blocks are gone over.
    """
    roles = Roles(target if is_labelled else None, (), (), weight, tuple(ids), None, None)
    with open_data(source, as_format(separator, decimal, quote, text_encoding), encoding, in_blocks=True) as data:
        if not isinstance(data, arrow.Columns):
            stored = choose(data, roles, labels, features, is_labelled=is_labelled, load=lambda array: array)
            yield _of_arrays(stored, roles, missing, encoding)
            return
        if features is not None or isinstance(labels, (str, os.PathLike)):
            raise ValueError(
                f"{data.name}: --features and --labels name arrays, and this has columns: --target names one."
            )
        yield _of_columns(data, roles, missing, encoding, None if is_labelled else target)


def _of_columns(
    data: arrow.Columns, roles: Roles, missing: Missing | None, encoding: Encoding, ignored: str | None
) -> InBlocks:
    plan = make_plan(data, roles, encoding, is_classed=roles.target is None, ignored=ignored)
    by_row = [name for name in dict.fromkeys([roles.target, *roles.ids, roles.weight]) if name]
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    more: list[str] = []
    if by_row:
        texts = [plan.stands[name] for name in by_row if name != roles.weight]
        raw, more = data.read([plan.stands[name] for name in by_row], texts)
        values = {name: raw.pop(plan.stands[name]) for name in by_row}
    num_rows = len(values[by_row[0]]) if by_row else 0
    found = classes_of(roles, values, None, num_rows, problems, data)
    beside = Table(
        labels=found and found.labels,
        class_names=found.names if found else (),
        target=roles.target,
        missing=missing,
        notes=(*plan.notes, *more),
        **beside_of(roles, values, problems, data),
    )
    classes.allow_any(problems)
    if problems:
        raise ValueError(say(data.name, problems))
    assert data.cut is not None
    texts = [plan.stands[name] for name in plan.names if plan.kinds[name] in READ_AS_TEXT]
    cut = data.cut([plan.stands[name] for name in plan.names], texts)
    step = max(LEAST_ROWS, BLOCKS_AT_ONCE * BLOCK_VALUES // len(plan.names))

    def blocks() -> Iterator[Table]:
        start, kinds = 0, dict(plan.kinds)
        for block in pass_over(data.name, cut.begin(step, 0, None)):
            wrong: list[Problem] = []
            columns = {name: _take(data, name, block[plan.stands[name]], wrong, kinds[name]) for name in plan.names}
            # Of dates as 03/04/2026 which part is the day, where the model does not say so: as in the blocks before.
            kinds |= {name: column.kind for name, column in columns.items() if kinds[name] == "date"}
            _require(data.name, wrong, start)
            yield Table(columns=columns)
            start += len(next(iter(columns.values())).values)

    return InBlocks(beside, blocks())


def _take(data: arrow.Columns, name: str, values: Any, problems: list[Problem], kind: Kind) -> Column:
    return take(name, values, problems, kind, is_typed=data.is_typed, decimal=data.decimal)


def _of_arrays(arrays: Any, roles: Roles, missing: Missing | None, encoding: Encoding) -> InBlocks:
    num_rows = 1 if arrays.y is None else len(arrays.y)
    if arrays.others:
        num_rows = len(next(iter(arrays.others.values())))
    like = arrays._replace(X=np.broadcast_to(np.uint8(0), (num_rows, 1)))
    beside = assemble_arrays(like, roles, missing, num_inputs=len(encoding.fill))._replace(X=None)

    def blocks() -> Iterator[Table]:
        start = 0
        for block in pass_over(arrays.name, arrays.X.cut(0, None)):
            X, image_shape = as_features(arrays.name, block, len(encoding.fill))
            wrong: list[Problem] = []
            look_at_values(X, wrong)
            _require(arrays.name, wrong, start)
            yield Table(X, image_shape=image_shape)
            start += X.shape[0]

    return InBlocks(beside, blocks())


def _require(name: str, problems: list[Problem], start: int) -> None:
    if problems:
        since = f", its rows counted from row {start + 1:,}" if start else ""
        raise ValueError(say(f"{name}{since}", problems, can_drop=False))
