"""`--distributed`: several processes fit one model, as one process does, and go on with it after any end."""

import json
import random
import shutil
import signal
import time

import numpy as np
import pytest

import handgrad
import oracles_fit
import together
from handgrad.app import fitting
from handgrad.app.cli import main
from handgrad.data import read_table, split_and_scale
from test_app_program import write_flowers
from test_app_stream import assert_close, without
from test_resume import inside, newest
from test_streaming_tables import ROLES, write, write_arrays

pytest.importorskip("orbax.checkpoint")
FLOWERS = ("fit", "flowers.csv", "--target", "species", "--drop", "nr", "--scoring", "accuracy")
KEPT = (*FLOWERS, "--l2", "0.001", "--out", "run", "--checkpoint-every", "2", "--distributed")
KEPT = tuple(word for word in KEPT if word not in ("--scoring", "accuracy"))
CHOSEN = (*FLOWERS, "--out", "run", "--checkpoint-every", "3", "--distributed")
APART = {"arguments", "seconds", "versions", "iterations", "message", "gap", "gradient_norm", "processes", "stream"}
KILLED = -signal.SIGKILL


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fitting, "check_at", lambda *_: handgrad.GradientReport((), True, ""))
    write_flowers("flowers.csv")
    return tmp_path


def run(*arguments, count=2, **how):
    """What process 0 has said; the others have said nothing, and all have ended well."""
    (first, *others) = together.run("resuming.py", count, arguments, **how)
    assert first[0] == 0, first
    assert others == [(0, "", "")] * len(others)
    return first[1]


def result(folder):
    """The bytes of the model, and the metrics but for the time that they took."""
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    return (folder / "run" / "model.safetensors").read_bytes(), {**metrics, "seconds": 0}


def alone(capsys, *arguments):
    """What one process finds that knows of no others."""
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- One answer -------------------------------------------------------------------------------------------------------


OPTIONS = ("--target", "kind", "--weight", "weight", "--group", "clinic", "--id", "number")
CASES = [
    ("csv", ("--missing", "median", "--folds", "0"), 2, 1),
    ("csv", (), 4, 1),
    ("csv", ("--stream",), 2, 2),
    ("parquet", ("--stream", "--missing", "indicator", "--class-weight", "balanced"), 4, 2),
    ("folder", ("--missing", "drop-rows", "--stream"), 2, 1),
    ("arrow", ("--missing", "most-frequent"), 2, 1),
    ("feather", ("--missing", "mean", "--stream"), 1, 8),
    ("npy", ("--stream",), 4, 1),
    ("npy", (), 2, 2),
    ("npz", ("--stream",), 2, 1),
    ("svmlight", ("--stream",), 2, 1),
    ("svmlight.gz", (), 3, 2),
]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "options", "count", "devices"), CASES)
def test_processes_say_what_one_says_that_has_all_rows(here, capsys, form, options, count, devices):
    if form.startswith(("np", "svm")):
        path, how, roles = write_arrays(here, form), ("--l2", "0.01"), {}
    else:
        path, how, roles = write(here, form, missing="--missing" in options), OPTIONS, ROLES
    expected = alone(capsys, "fit", path, *how, *[option for option in options if option != "--stream"])
    found = json.loads(run("fit", path, *how, *options, "--distributed", "--json", count=count, devices=devices))
    assert found["processes"] == count
    assert found.get("stream", False) == ("--stream" in options)
    assert found["test_fingerprint"] == expected["test_fingerprint"]
    assert found["l2"] == expected["l2"]
    assert abs(found["loss"] - expected["loss"]) <= found["gap"] + expected["gap"]
    assert found["gap"] <= 1e-5 * found["loss"]
    assert_close(without(found, APART), without(expected, APART))
    assert roles or "columns" in found


@pytest.mark.slow
def test_the_encoding_is_that_of_one_process_and_the_certificate_is_true_of_all_rows(here):
    write_arrays(here, "npy", num_rows=101)
    run("fit", "x.npy", "--l2", "0.01", "--out", "run", "--distributed", "--quiet", count=3)
    split = split_and_scale(read_table("x.npy"))
    model, metrics = handgrad.load("run"), result(here)[1]
    for name in ("offset", "scale"):
        np.testing.assert_allclose(getattr(model.encoding, name), getattr(split.encoding, name), rtol=1e-14)
    W, b = map(np.asarray, model.params)
    X, T = split.train.X.astype(np.float64), np.eye(3)[split.train.labels]
    loss = oracles_fit.objective(W, b, X, T, 0.01, None)[0]
    np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
    assert oracles_fit.relative_gap(W, b, X, split.train.labels, 0.01, None) * loss <= 1.05 * metrics["gap"]


# --- One end ----------------------------------------------------------------------------------------------------------


def ended(running, *, after=0.0):
    """As `together.outcomes`; each has ended by itself soon after the first has."""
    time.sleep(after)
    start = time.monotonic()
    found = together.outcomes(running)
    assert time.monotonic() - start < 60
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_what_fails_on_one_process_ends_all_and_process_0_says_it(here, number):
    arguments, environment = KEPT, {"HANDGRAD_TEST_FAILS": str(number)}
    with together.started("resuming.py", 2, arguments, environment=environment) as running:
        found = ended(running)
    assert [status for status, *_ in found] == [2, 2]
    who = "" if number == 0 else "process 1: "
    assert found[0][2] == f"handgrad: {who}it was to fail\n"
    assert found[1][1:] == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_ends_all_with_a_checkpoint(here, number):
    run(*CHOSEN)
    whole = result(here)
    shutil.rmtree("run")
    with together.started("resuming.py", 2, CHOSEN) as running:
        assert until_written(running, here / "run" / "unfinished")
        running[1].send_signal(number)
        found = ended(running)
    assert [status for status, *_ in found] == [128 + number] * 2
    assert "`handgrad fit --resume run` goes on with it" in found[0][1]
    assert found[1][1:] == ("", "")
    run("fit", "--resume", "run")
    assert result(here)[0] == whole[0]


def until_at_work(running):
    """Until process 0 has said what there is to learn from; whether it has."""
    return any(line.startswith("flowers.csv: ") for line in running[0].stdout)


def until_written(running, place):
    """Until a checkpoint is being written; whether one is."""
    there = inside(place)  # of a run that goes on
    while all(process.poll() is None for process in running):
        if any((place / name).is_dir() for name in inside(place) - there):
            return True
    return False


def kill_one(folder, arguments, victim, wait):
    """Run the processes until `wait` returns, and kill one then: the others end, and all that is there can be read."""
    with together.started("resuming.py", 2, arguments) as running:
        wait(running, folder / "run" / "unfinished")
        running[victim].kill()
        found = ended(running)
    was_running = found[victim][0] == KILLED
    if was_running and found[1 - victim][0] != 0:
        assert found[1 - victim][0] in (1, -signal.SIGABRT), found
        assert "ended" in found[1 - victim][2] or "died" in found[1 - victim][2] or victim, found
    for path in folder.rglob("*.json"):
        if "orbax" not in str(path):
            json.loads(path.read_text())
    if (folder / "run" / "model.safetensors").exists():
        handgrad.load(folder / "run")
    newest(folder)
    return was_running


@pytest.mark.slow
def test_a_run_of_which_one_process_is_killed_ends_as_if_it_had_not_been(here):
    run(*KEPT)
    whole = result(here)
    shutil.rmtree("run")
    assert kill_one(here, KEPT, 1, until_written)
    assert newest(here) > 0
    assert run("fit", "--resume", "run").startswith("flowers.csv: 150 rows")
    assert result(here) == whole
    assert {path.name for path in here.iterdir()} == {"run", "flowers.csv"}


@pytest.mark.slow
def test_thirty_kills_of_one_process_of_two_change_nothing(here):
    run(*CHOSEN)
    whole, rng, kills = result(here), random.Random(0), 0
    while kills < 30:
        shutil.rmtree("run", ignore_errors=True)
        arguments = CHOSEN
        for _ in range(5):
            seconds = rng.uniform(0, 3)
            waits = [
                lambda running, _, seconds=seconds: until_at_work(running) and time.sleep(seconds),
                until_written,
            ]
            if not kill_one(here, arguments, rng.randrange(2), rng.choice(waits)):
                break
            kills += 1
            if any((here / "run").glob("*")):
                arguments = ("fit", "--resume", "run")
        run(*arguments)
        assert result(here) == whole


@pytest.mark.slow
def test_a_finished_run_is_said_to_be_by_process_0(here):
    run(*KEPT)
    assert run("fit", "--resume", "run") == "run: is finished; there is nothing to go on with\n"


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    ("options", "count", "devices"),
    [
        (("--batch-size", "20", "--class-weight", "balanced"), 1, 2),
        (("--full-batch", "--stream"), 2, 1),
        (("--batch-size", "20", "--optimizer", "adam"), 3, 2),
        (("--batch-size", "20", "--stream"), 4, 1),
    ],
)
def test_a_training_of_processes_is_that_of_one_over_the_same_rows(here, capsys, options, count, devices):
    options = ("--target", "species", "--drop", "nr", "--epochs", "6", "--patience", "0", "--l2", "0.01", *options)
    arguments = [*options, *(["--stream"] if "--stream" not in options else [])]
    assert main(["train", "flowers.csv", *arguments, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    found = json.loads(run("train", "flowers.csv", *options, "--distributed", "--json", count=count, devices=devices))
    assert_close(found["history"], expected["history"], rtol=1e-5)
    assert found["processes"] == count


@pytest.mark.slow
def test_a_training_of_which_one_process_is_killed_ends_as_if_it_had_not_been(here):
    arguments = ("train", "flowers.csv", "--target", "species", "--drop", "nr", "--epochs", "30", "--patience", "0")
    arguments = (*arguments, "--out", "run", "--checkpoint-every", "2", "--distributed")
    run(*arguments)
    whole = result(here)
    shutil.rmtree("run")
    assert kill_one(here, arguments, 0, until_written)
    run("train", "--resume", "run")
    assert result(here) == whole


@pytest.mark.slow
def test_a_run_goes_on_with_as_many_processes_as_it_was_begun_with(here):
    with together.started("resuming.py", 2, KEPT) as running:
        until_written(running, here / "run" / "unfinished")
        running[0].kill()
        ended(running)
    for count in (1, 3):
        first, *_ = together.run("resuming.py", count, ("fit", "--resume", "run"))
        assert first[0] == 2
        assert "run: was begun with handgrad " in first[2]
        assert f"processes {count} of 1 devices" in first[2]
        assert "processes 2 of 1 devices" in first[2]


@pytest.mark.slow
def test_what_does_not_go_with_several_processes_is_one_line(here):
    for arguments, message in (
        (("fit", "--distributed"), "--distributed needs DATA, a table to read."),
        (
            (*FLOWERS, "--scoring", "f1_macro", "--distributed"),
            "--scoring must be log-loss or accuracy with --distributed",
        ),
        (("fit", "nix.csv", "--target", "a", "--distributed"), "nix.csv: there is no such file."),
    ):
        found = together.run("resuming.py", 2, arguments)
        assert [status for status, *_ in found] == [2, 2]
        assert message in found[0][2]
        assert found[1][1:] == ("", "")
