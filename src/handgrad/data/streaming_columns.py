"""Columns that stay in their file: what each is, and what is known row by row, from passes over them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from handgrad.data import arrow
from handgrad.data.assembly import Plan, Roles, beside_of, classes_of, make_plan
from handgrad.data.columns import NONE_SUCH, take
from handgrad.data.filed import filed, without_missing
from handgrad.data.moments import BLOCK_VALUES
from handgrad.data.naming import printable
from handgrad.data.numbers import Watch, numbers_of_columns, pass_over
from handgrad.data.problems import Problem, say
from handgrad.data.review import review_text, say_marks
from handgrad.data.sharing import joined_arrays, of_all_processes, own_rows
from handgrad.data.splitting import table_keys
from handgrad.data.tables import Column, Missing, Table

LEAST_ROWS = 64  # of a block
ROWS_AT_ONCE = 8  # times what fits the cache
MOST_WORDS = 2**20  # of a text that are told apart


def of_columns(data: arrow.Columns, roles: Roles, missing: Missing | None, labels: Any, watch: Watch) -> Table:
    """The table of columns in a file.

    Raises:
      ValueError: with all that is wrong.
    """
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
    read_as = _look(data, plan, cut)
    kinds = {name: column.kind for name, column in read_as.items()}

    def blocks(first: int, last: int | None) -> Iterator[Table]:
        start = first
        for block in pass_over(data.name, cut.begin(step, first, last)):
            wrong: list[Problem] = []
            columns = {name: _take(data, name, block[plan.stands[name]], wrong, read_as[name]) for name in plan.names}
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
        file=filed(blocks, every_key, kinds, len(kinds), watch, numbers),
        **beside,
    )
    table = without_missing(table, lacking, complete, problems)
    for name, own in words.items():
        review_text(name, len(own), present[name], own, problems)
    if problems:
        raise ValueError(say(data.name, problems))
    return table


def _take(data: arrow.Columns, name: str, values: Any, problems: list[Problem], like: Column | None) -> Column:
    column = take(name, values, problems, like and like.kind, is_typed=data.is_typed, decimal=data.decimal)
    if like is None:
        return column
    if column.sign != like.sign and not column.is_missing().all():
        where = f"{printable(name)} (some with {like.sign or column.sign!r}, some without)"
        problems.append(Problem(NONE_SUCH["number"][0], where, NONE_SUCH["number"][1], can_drop=True))
    return column._replace(kind=like.kind)  # a block may have no value that tells it


def _look(data: arrow.Columns, plan: Plan, cut: arrow.Cut) -> dict[str, Column]:
    """What the columns are: typed ones by their types, others by all their texts."""
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
    return columns
