"""`handgrad predict`: a class and probabilities for each row."""

import pathlib
import sys
from typing import Any

import numpy as np

from handgrad.app.screen import Screen
from handgrad.app.words import one_line
from handgrad.data import Table, read_features, write_table
from handgrad.files import MODEL_FILE, new_file
from handgrad.models import Answers, Model, answer, load


def predict(
    *, screen: Screen, reading: dict[str, Any], run: pathlib.Path, data: pathlib.Path, out: pathlib.Path | None
) -> None:
    """See `handgrad.app.program`."""
    model = load(run)
    table = read_features(data, model.encoding, target=model.target, **reading)
    answers = answer(model, table)
    if not screen.console.quiet:
        for note in answers.notes:
            print(f"note: {one_line(note)}", file=sys.stderr)
    if screen.as_json and out is None:
        screen.answer(lambda: _as_json(model, table, answers))
        return
    if out is None:
        _write(sys.stdout, model, table, answers.Y)
        return
    for path in (data, run, run / MODEL_FILE):
        if out.exists() and path.exists() and out.samefile(path):
            raise ValueError(f"{out}: --out is what is read here. Choose another name.")
    with new_file(out) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        _write(file, model, table, answers.Y)
    screen.answer(lambda: {"rows": len(answers.Y), "out": str(out), "notes": list(answers.notes)})


def _as_json(model: Model, table: Table, answers: Answers) -> dict[str, Any]:
    names, has_none = list(model.class_names), np.isnan(answers.Y[:, 0]).tolist()
    rows: list[dict[str, Any]] = []
    for number, (Y, none) in enumerate(zip(answers.Y.tolist(), has_none, strict=True)):
        row = {"class": None if none else names[int(np.argmax(Y))], "probabilities": None if none else Y}
        if table.ids:
            row["ids"] = {name: str(values[number]) for name, values in table.ids.items()}
        rows.append(row)
    return {"classes": names, "rows": rows, "notes": list(answers.notes)}


def _write(file: Any, model: Model, table: Table, Y: np.ndarray) -> None:
    has_none = np.isnan(Y[:, 0])
    names = [*model.class_names, None]
    classes = [names[index] for index in np.where(has_none, -1, Y.argmax(axis=1)).tolist()]
    columns: list[tuple[str, Any]] = [*table.ids.items(), ("class", classes)]
    for name, probabilities in zip(model.class_names, Y.T, strict=True):
        columns.append((str(name), np.where(has_none, None, probabilities) if has_none.any() else probabilities))
    write_table(file, columns)
