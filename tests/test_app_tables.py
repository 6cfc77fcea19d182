"""The program on tables as people have them: one command to train, one to predict, and one line where it cannot."""

import csv
import io
import random
import sys

import numpy as np
import pytest

from handgrad.app.cli import main
from handgrad.models import load

KINDS = ("=1+1", "a\rb", "NA")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table with every difficulty: semicolons, decimal commas, holes, texts, dates, ids, classes that bite."""
    folder, draw = tmp_path_factory.mktemp("table"), random.Random(0)
    with open(folder / "flowers.CSV", "w", newline="", encoding="cp1252") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["nr", "größe", "farbe", "tag", "gewicht", "art"])
        for number in range(240):
            kind = number % 3
            size = "" if number % 17 == 0 else f"{draw.gauss(2.0 * kind, 0.5):.3f}".replace(".", ",")
            colour = draw.choice(["rot", "grün"]) if kind else "blau"
            weight = "1,5" if kind else "1"
            writer.writerow([f"r{number}", size, colour, f"2021-0{draw.randint(1, 9)}-1{kind}", weight, KINDS[kind]])
    arguments = ["--target", "art", "--missing", "indicator", "--id", "nr", "--weight", "gewicht", "--epochs", "30"]
    assert main(["train", str(folder / "flowers.CSV"), *arguments, "--out", str(folder / "run")]) == 0
    return folder


def fails(capsys, *arguments):
    """The one line of a failure."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("handgrad: ")
    assert error.count("\n") == 1
    return error.removeprefix("handgrad: ").rstrip()


def test_a_table_with_every_difficulty_is_learnt_with_one_command(table):
    model = load(table / "run")
    assert model.encoding.feature_names == (
        "größe",
        "farbe=blau",
        "farbe=grün",
        "farbe=rot",
        "tag",
        "größe is missing",
    )
    assert model.class_names == KINDS
    assert model.encoding.missing == "indicator"
    assert set(model.encoding.left_out) == {"nr", "gewicht"}


def test_predictions_carry_the_ids_and_nothing_that_bites(capsys, table, monkeypatch):
    path = table / "flowers.CSV"
    assert main(["predict", str(table / "run"), str(path), "--id", "nr"]) == 0
    printed, notes = capsys.readouterr()
    assert notes == "note: read as text separated by semicolons, with decimal commas, in cp1252.\n"
    assert "\r" not in printed
    header, *rows = csv.reader(io.StringIO(printed, newline=""))
    assert header == ["nr", "class", "'=1+1", "a\\rb", "NA"]
    assert [row[0] for row in rows] == [f"r{number}" for number in range(240)]
    written = {"=1+1": "'=1+1", "NA": "NA", "a\rb": "a\\rb"}
    assert np.mean([row[1] == written[KINDS[number % 3]] for number, row in enumerate(rows)]) > 0.95
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert main(["predict", str(table / "run"), "-", "--id", "nr"]) == 0
    assert capsys.readouterr().out == printed


def test_new_words_and_columns_are_noted_and_missing_columns_named(capsys, table, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("farbe,größe,tag,extra\nlila,1.5,2021-05-05,7\nrot,,2021-05-05,7\n")
    assert main(["predict", str(table / "run"), str(path)]) == 0
    printed, notes = capsys.readouterr()
    assert len(printed.splitlines()) == 3
    assert notes.splitlines() == [
        "note: columns that the model was not trained on are left out: extra.",
        "note: column 'farbe' has 1 texts in 1 rows that no row to train on has, and they count as none: 'lila'.",
    ]
    path.write_text("farbe,größe\nrot,1\n")
    assert "new.csv: has no column 'tag'. Columns there: farbe, größe." in fails(capsys, "predict", table / "run", path)
    path.write_text("farbe,größe,tag\nrot,x,gestern\n")
    error = fails(capsys, "predict", table / "run", path)
    assert "columns of numbers hold what is none: größe ('x' in row 1)" in error


def test_all_that_a_table_needs_is_said_in_one_line(capsys, table):
    error = fails(capsys, "train", table / "flowers.CSV", "--target", "art")
    assert "two things to mend. (1) values are missing: größe (15 of 240, the first in row 1). Fill them by" in error
    assert "(2) texts differ in most rows, as names and ids do: nr (240 texts in 240 rows, such as 'r0')." in error
    assert "needs --target, the column to predict. Columns there: nr, größe," in fails(
        capsys, "train", table / "flowers.CSV"
    )
    assert "missing must be one of mean" in fails(capsys, "train", table / "flowers.CSV", "--missing", "zero")


@pytest.mark.slow
def test_a_model_that_was_trained_without_such_rows_says_nothing_of_rows_that_lack_a_value(capsys, table, tmp_path):
    arguments = [
        "--target",
        "art",
        "--drop",
        "nr",
        "--missing",
        "drop-rows",
        "--epochs",
        "1",
        "--out",
        tmp_path / "run",
    ]
    assert main(["train", str(table / "flowers.CSV"), *map(str, arguments)]) == 0
    assert "note: 15 of 240 rows lack a value and are left out." in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "run"), str(table / "flowers.CSV")]) == 0
    printed, notes = capsys.readouterr()
    rows = list(csv.reader(io.StringIO(printed, newline="")))[1:]
    assert [number for number, row in enumerate(rows) if row == ["", "", "", ""]] == list(range(0, 240, 17))
    assert "15 rows lack a value, and nothing is said of them." in notes


@pytest.mark.slow
def test_sparse_rows_are_learnt_and_predicted(capsys, tmp_path):
    draw = random.Random(0)
    lines = [
        f"{row % 2} " + " ".join(f"{1 + 3 * k + row % 2}:{draw.random():.2f}" for k in range(4)) for row in range(90)
    ]
    (tmp_path / "t.svmlight").write_text("\n".join(lines))
    assert main(["train", str(tmp_path / "t.svmlight"), "--epochs", "20", "--out", str(tmp_path / "run")]) == 0
    assert "test accuracy    100.00%" in capsys.readouterr().out
    (tmp_path / "new.svmlight").write_text("0 1:1\n0 2:1\n")
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.svmlight")]) == 0
    assert [row.split(",")[0] for row in capsys.readouterr().out.splitlines()] == ["class", "0", "1"]


@pytest.mark.parametrize("command", ["train", "check", "predict"])
def test_help_has_the_options_of_reading(capsys, command):
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(
        option in shown for option in ("--id", "--separator", "--decimal", "--quote", "--encoding", "--features")
    )
    assert ("--missing" in shown) == ("--group" in shown) == (command != "predict")
