"""`handgrad predict`: a class and probabilities for each row."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from handgrad.app.answering import LARGE, answers_of, once
from handgrad.app.screen import Screen
from handgrad.app.words import one_line
from handgrad.data import Table, write_table
from handgrad.data.streaming import needs_streaming
from handgrad.files import MODEL_FILE, new_file
from handgrad.models import Answers, Model, load


def predict(
    *, screen: Screen, reading: dict[str, Any], run: pathlib.Path, data: pathlib.Path, out: pathlib.Path | None
) -> None:
    """See `handgrad.app.program`."""
    model = load(run)
    is_large = needs_streaming(data)
    if is_large and screen.as_json and out is None:
        raise ValueError(f"{data}: is too large for one JSON object. Name a file by --out, or leave --json out.")
    with answers_of(model, data, is_labelled=False, target=model.target, **reading) as (table, answers):
        notes = [LARGE.format(data)] if is_large else []
        notes += table.notes
        if screen.as_json and out is None:
            found = next(answers)
            _say(screen, notes := [*notes, *found.notes])
            screen.answer(lambda: _as_json(model, table, found._replace(notes=tuple(notes))))
            return
        if out is None:
            with contextlib.suppress(AttributeError):  # a table is as in a file, whatever a terminal writes
                sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
            _write(sys.stdout, model, table, answers, notes)
            _say(screen, once(notes))
            return
        num_rows = _write_file(out, (data, run, run / MODEL_FILE), model, table, answers, notes)
    notes = once(notes)
    _say(screen, notes)
    screen.answer(lambda: {"rows": num_rows, "out": str(out), "notes": notes})


def _say(screen: Screen, notes: list[str]) -> None:
    if not screen.console.quiet:
        for note in notes:
            print(f"note: {one_line(note)}", file=sys.stderr)


def _write_file(out: pathlib.Path, read: tuple[pathlib.Path, ...], *what: Any) -> int:
    for path in read:
        if out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"{out}: --out is what is read here. Choose another name.")
    with new_file(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        return _write(file, *what)


def _as_json(model: Model, table: Table, answers: Answers) -> dict[str, Any]:
    names, has_none = list(model.class_names), np.isnan(answers.Y[:, 0]).tolist()
    rows: list[dict[str, Any]] = []
    for number, (Y, none) in enumerate(zip(answers.Y.tolist(), has_none, strict=True)):
        row = {"class": None if none else names[int(np.argmax(Y))], "probabilities": None if none else Y}
        if table.ids:
            row["ids"] = {name: str(values[number]) for name, values in table.ids.items()}
        rows.append(row)
    return {"classes": names, "rows": rows, "notes": list(answers.notes)}


def _write(file: Any, model: Model, table: Table, answers: Iterator[Answers], notes: list[str]) -> int:
    """Write the rows, adding what there is to note; how many there are."""
    names, answer = [*model.class_names, None], "class"
    while answer in map(str, model.class_names):
        answer = f"predicted {answer}"
    taken = {answer, *map(str, model.class_names)} & {*table.ids}
    if taken:
        raise ValueError(
            f"--id {one_line(min(taken))}: what is written has a column of that name, of what the model says. Give the "
            "one in the data another name, or pass --json."
        )
    start = 0
    for Y, more in answers:
        notes += more
        has_none = np.isnan(Y[:, 0])
        own = slice(start, start + len(Y))
        classes = [names[index] for index in np.where(has_none, -1, Y.argmax(axis=1)).tolist()]
        columns: list[tuple[str, Any]] = [(name, values[own]) for name, values in table.ids.items()]
        columns.append((answer, classes))
        for name, each in zip(model.class_names, Y.T, strict=True):
            # Numbers of NumPy's own, which have the digits of their dtype.
            numbers = [None if none else number for number, none in zip(each, has_none, strict=True)]
            columns.append((str(name), numbers if has_none.any() else each))
        write_table(file, columns, has_names=start == 0)
        start = own.stop
    return start
