"""A table from what was read: each column in its role, and all that is wrong said at once."""

import collections
from typing import Any, NamedTuple

import numpy as np

from handgrad.data import classes
from handgrad.data.arrow import Columns
from handgrad.data.columns import take
from handgrad.data.encoding import Encoding
from handgrad.data.lacking import missing_problem
from handgrad.data.naming import join, list_columns, printable, say_absent
from handgrad.data.objects import as_numpy
from handgrad.data.problems import Problem, say
from handgrad.data.review import review, say_marks
from handgrad.data.tables import DATES, Column, Kind, Missing, Table
from handgrad.data.words import as_codes, release, texts_of

READ_AS_TEXT = ("text", *DATES)  # whatever a file's own rows look like
FREED = 2**24  # bytes of Arrow's columns that have been taken; it keeps what was freed unless it is told not to


class Roles(NamedTuple):
    """Columns that are more or less than features, by name."""

    target: str | None
    drop: tuple[str, ...]
    keep: tuple[str, ...]
    weight: str | None
    ids: tuple[str, ...]
    group: str | None
    time: str | None


# --- Columns ----------------------------------------------------------------------------------------------------------


def assemble(
    data: Columns,
    roles: Roles,
    missing: Missing | None,
    encoding: Encoding | None,
    *,
    labels: Any = None,
    needs_classes: bool = True,
    ignored: str | None = None,
) -> Table:
    """The table of columns; those that an encoding needs, where there is one, else all that have no other role.

    Raises:
      ValueError: with all that is wrong.
    """
    plan = make_plan(data, roles, encoding, is_classed=not needs_classes or labels is not None, ignored=ignored)
    stands, names, kinds, texts, notes = plan
    wanted = list(dict.fromkeys([*names, *texts, *([roles.weight] if roles.weight else [])]))
    raw, more = data.read([stands[name] for name in wanted], [stands[name] for name in texts])
    release()  # what reading took beside them
    values = {name: raw.pop(stands[name]) for name in wanted}
    if not len(values[wanted[0]]):
        raise ValueError(f"{data.name}: has names of columns and no rows.")

    problems: list[Problem] = []
    found = classes_of(roles, values, labels, len(values[wanted[0]]), problems, data)
    beside = beside_of(roles, values, problems, data)
    columns, freed = {}, 0
    for name in names:
        column = take(name, values.pop(name), problems, kinds.get(name), is_typed=data.is_typed, decimal=data.decimal)
        columns[name], freed = column, freed + column.values.nbytes
        if freed > FREED:
            freed = release()
    release()
    table = Table(
        columns=columns,
        labels=found and found.labels,
        class_names=found.names if found else (),
        target=roles.target,
        missing=missing,
        left_out=tuple(name for name in stands if name not in columns and name != roles.target),
        notes=(*notes, *more, *say_marks(columns)),
        **beside,
    )
    if needs_classes and encoding is None:
        table = _without_missing(table, problems)
        table = table._replace(notes=(*table.notes, *review(table, problems)))
    elif needs_classes:
        classes.allow_any(problems)
    if problems:
        raise ValueError(say(data.name, problems, can_drop=encoding is None))
    return table


class Plan(NamedTuple):
    """Which columns are read.

    Attributes:
      stands: how each name stands in the data.
      names: those of the features.
      kinds: those that are given.
      texts: what is read as text.
      notes: what to know.
    """

    stands: dict[str, str]
    names: list[str]
    kinds: dict[str, Kind]
    texts: list[str]
    notes: list[str]


def make_plan(
    data: Columns, roles: Roles, encoding: Encoding | None = None, *, is_classed: bool, ignored: str | None = None
) -> Plan:
    """The columns that an encoding needs, where there is one, else all that have no other role.

    `is_classed` is whether no column needs to have the classes.

    Raises:
      ValueError: columns that are not there, or have the name of another.
    """
    stands = {name.strip(): name for name in data.names}
    if len(stands) < len(data.names):
        counts = collections.Counter(name.strip() for name in data.names)
        what, advice = "more than one column has the name", "Give each its own name."
        repeated = [Problem(what, repr(printable(name)), advice) for name, count in counts.items() if count > 1]
        raise ValueError(say(data.name, repeated))
    if roles.target is None and not is_classed:
        raise ValueError(f"{data.name}: needs --target, the column to predict.{data.hint} {list_columns(list(stands))}")
    _require_columns(data, roles, list(stands))
    others = {roles.target, roles.weight, roles.group, roles.time, ignored, *roles.ids, *roles.drop}
    notes = list(data.notes)
    if encoding is not None:
        names = _names_of_inputs(data.name, encoding, list(stands), others, notes)
    else:
        names = [name for name in roles.keep or stands if name not in others]
    if not names:
        raise ValueError(f"{data.name}: has no column but {roles.target!r}; there is nothing to predict it from.")
    kinds: dict[str, Kind] = {each.name: each.kind for each in (encoding and encoding.inputs) or ()}
    texts = [name for name in (roles.target, *roles.ids, roles.group, roles.time) if name]
    texts += [name for name in names if kinds.get(name) in READ_AS_TEXT]
    return Plan(stands, names, kinds, texts, notes)


def _require_columns(data: Columns, roles: Roles, names: list[str]) -> None:
    asked = [roles.target, *roles.drop, *roles.keep, roles.weight, *roles.ids, roles.group, roles.time]
    there = set(names)
    absent = [name for name in dict.fromkeys(asked) if name is not None and name not in there]
    if absent:
        raise ValueError(f"{data.name}: {say_absent(absent, names)}{data.hint}")


def _names_of_inputs(
    name: str, encoding: Encoding, names: list[str], others: set[str | None], notes: list[str]
) -> list[str]:
    """The columns that a model needs, all of which must be there; what else is there is said."""
    if encoding.inputs is None:
        raise ValueError(f"{name}: has columns with names; the model was trained on an array.")
    inputs = [each.name for each in encoding.inputs]
    there = set(names)
    absent = [each for each in inputs if each not in there]
    if absent:
        raise ValueError(f"{name}: {say_absent(absent, names)}")
    known = {*inputs, *encoding.left_out, *others}
    unknown = [each for each in names if each not in known]
    if unknown:
        notes.append(f"columns that the model was not trained on are left out: {join(unknown)}.")
    return inputs


def classes_of(
    roles: Roles, values: dict[str, Any], labels: Any, num_rows: int, problems: list[Problem], data: Columns
) -> classes.Classes | None:
    """The classes in the target's column, or in an array; None without either."""
    if roles.target is not None:
        return classes.from_column(roles.target, values[roles.target], problems, is_typed=data.is_typed)
    if labels is None:
        return None
    y = as_numpy("labels", labels)
    if y.shape != (num_rows,):
        raise ValueError(f"{data.name}: has {num_rows} rows; labels must have shape ({num_rows},); got {y.shape}.")
    return classes.from_array(y, "labels", problems)


def beside_of(roles: Roles, values: dict[str, Any], problems: list[Problem], data: Columns) -> dict[str, Any]:
    """What stands beside each row, by its name in a table."""
    found: dict[str, Any] = {"ids": {name: texts_of(values[name]) for name in roles.ids}}
    if roles.weight is not None:
        column = take(roles.weight, values[roles.weight], problems, "number", decimal=data.decimal)
        found["weights"] = _weights(roles.weight, column, problems)
    if roles.group is not None:
        found["groups"] = as_codes(roles.group, values[roles.group], problems)
    if roles.time is not None:
        column = take(roles.time, values[roles.time], problems, is_typed=data.is_typed, decimal=data.decimal)
        found["times"] = _times(roles.time, column, problems)
    return found


def _weights(name: str, column: Column, problems: list[Problem]) -> np.ndarray:
    weights = column.values.astype(np.float64)
    if column.kind not in ("number", "boolean"):
        problems.append(Problem("weights are no numbers", printable(name), "Name another column by --weight."))
    wrong = ~(weights >= 0) | np.isinf(weights)
    if wrong.any() or not weights.any():
        row = int(np.argmax(wrong))
        where = f"{printable(name)} ({weights[row]:g} in row {row + 1})"
        advice = "Weights must be finite, at least 0, and not all 0."
        problems.append(Problem("weights are missing, negative, infinite, or all 0", where, advice))
    return weights


def _times(name: str, column: Column, problems: list[Problem]) -> np.ndarray:
    if column.kind == "text" or column.is_missing().any():
        advice = "Give each row its time, as a number or as 2026-11-26."
        problems.append(Problem("times are missing, or neither numbers nor dates", printable(name), advice))
        return np.zeros(len(column.values))
    return column.values.astype(np.float64)


def _without_missing(table: Table, problems: list[Problem]) -> Table:
    """The table without the rows that lack a value, where such are left out; where nothing is said, a problem."""
    assert table.columns is not None
    lacking = {name: where for name, column in table.columns.items() if (where := column.is_missing()).any()}
    for name, where in lacking.items():
        if where.all():
            problems.append(Problem("columns have no value in any row", printable(name), "", can_drop=True))
    if table.missing is None:
        problems += [missing_problem(name, where) for name, where in lacking.items() if not where.all()]
    if table.missing != "drop-rows":
        return table
    is_whole = np.ones(table.num_rows, bool)
    for where in lacking.values():
        is_whole &= ~where
    return keep_rows(table, is_whole, problems)


def keep_rows(table: Table, kept: np.ndarray, problems: list[Problem]) -> Table:
    """Some of the rows; those without a class are not among them."""
    if table.labels is not None:
        problems[:] = [problem for problem in problems if problem.what != classes.NO_CLASS[0]]
        kept = kept & (table.labels >= 0)
    if kept.all():
        return table
    if not kept.any():
        problems.append(Problem("no row has all its values", "", "Fill them in, or leave columns out by --drop."))
        return table
    rows = np.flatnonzero(kept)

    def take_rows(values: Any) -> Any:
        return None if values is None else values[rows]

    found = None
    if table.labels is not None:
        found = classes.index(list(table.class_names), table.labels[rows])
        classes.check(found, table.target or "labels", problems)
    return table._replace(
        X=take_rows(table.X),
        columns=table.columns
        and {name: column._replace(values=column.values[rows]) for name, column in table.columns.items()},
        labels=found and found.labels,
        class_names=found.names if found else (),
        weights=take_rows(table.weights),
        ids={name: take_rows(values) for name, values in table.ids.items()},
        groups=take_rows(table.groups),
        times=take_rows(table.times),
        file=table.file and table.file.take(rows),
        notes=(*table.notes, f"{len(kept) - len(rows):,} of {len(kept):,} rows lack a value and are left out."),
    )
