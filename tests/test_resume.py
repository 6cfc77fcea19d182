"""`--resume`: a run that was ended before its time, whenever and however, ends as one that was not."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import handgrad
import resuming
from handgrad.app import checkpoints, cli, fitting, training, unfinished
from handgrad.app.cli import main
from handgrad.app.progress import Watch
from handgrad.files import new_run
from test_app import fails
from test_app_program import write_flowers
from test_streaming_tables import write, write_arrays

COMMANDS = {
    "fit": ["fit", "flowers.csv", "--target", "species", "--drop", "nr", "--out", "run", "--checkpoint-every", "3"],
    "train": ["train", "flowers.csv", "--target", "species", "--drop", "nr", "--out", "run", "--checkpoint-every", "2"],
}
COMMANDS["fit"][6:6] = ["--scoring", "accuracy"]  # the path then has a second part
COMMANDS["train"] += ["--epochs", "40", "--patience", "3", "--learning-rate", "2"]  # a plateau is met and left


@pytest.fixture(autouse=True)
def program(monkeypatch):
    """Signals as the program has them, none received yet, and no check of the gradient."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(cli, "received", [])
    for module in (fitting, training):
        monkeypatch.setattr(module, "check_at", lambda *_, **__: handgrad.GradientReport((), True, ""))
    before = {number: signal.signal(number, cli.raise_interrupt) for number in cli.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What each command comes to where nothing happens."""
    folder, results = tmp_path_factory.mktemp("whole"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for module in (fitting, training):
            patch.setattr(module, "check_at", lambda *_, **__: handgrad.GradientReport((), True, ""))
        write_flowers("flowers.csv")
        for name, arguments in COMMANDS.items():
            assert main(arguments) == 0
            assert {path.name for path in pathlib.Path("run").iterdir()} == FILES
            results[name] = result(pathlib.Path("run"))
            shutil.rmtree("run")
    assert len(results["train"][1]["history"]) > 8
    return results


FILES = {"model.safetensors", "metrics.json", "report.html"}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_flowers("flowers.csv")
    return tmp_path


def result(run):
    """The bytes of the model, and the metrics but for the time that they took."""
    metrics = json.loads((run / "metrics.json").read_text())
    return (run / "model.safetensors").read_bytes(), {**metrics, "seconds": 0}


def press(monkeypatch, number, words, name="__call__"):
    """The signal comes where the program says how far it is in these words, once."""
    real, pressed = getattr(Watch, name), []

    def told(watch, share, said=""):
        if words in said and not pressed:
            pressed.append(said)
            signal.raise_signal(number)
        return real(watch, share, said)

    monkeypatch.setattr(Watch, name, told)
    return pressed


# --- Ended by a signal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "something_is_found"), [("l2 from 0.1", False), ("l2 from 10", True), ("iteration 4", True)]
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_and_the_fit_goes_on_from_there(
    here, whole, capsys, monkeypatch, number, words, something_is_found
):
    is_a_run_too = number == signal.SIGINT and something_is_found
    pressed = press(monkeypatch, number, words)
    arguments = COMMANDS["fit"][:-2]  # without --checkpoint-every
    assert main(arguments) == 128 + number
    assert pressed
    assert "`handgrad fit --resume run` goes on with it" in capsys.readouterr().out
    kept = {path.name for path in (here / "run").iterdir()}
    assert kept == ({"unfinished", *FILES} if is_a_run_too else {"unfinished"})
    assert {path.name for path in (here / "run" / "unfinished").iterdir()} == {"arguments.json", "data.json", "1"}
    if is_a_run_too:
        assert handgrad.load("run").class_names == ("kind 0", "kind 1", "kind 2")
    else:
        with pytest.raises(FileNotFoundError, match="run: is not finished; `--resume` goes on with it"):
            handgrad.load("run")
    monkeypatch.chdir(here.parent)  # files are found from where the command was given
    assert main(["fit", "--resume", str(here / "run")]) == 0
    assert {path.name for path in (here / "run").iterdir()} == FILES
    model, metrics = result(here / "run")
    assert model == whole["fit"][0]
    assert metrics == {**whole["fit"][1], "arguments": arguments}


@pytest.mark.parametrize("in_file", [True, False])
def test_a_table_stays_in_its_file_or_in_memory_as_it_did_whatever_memory_is_free_later(here, monkeypatch, in_file):
    whole = ["--stream"] if in_file else []
    assert main([*COMMANDS["fit"][:-4], *whole, "--out", "whole"]) == 0
    monkeypatch.setattr("handgrad.app.tables.needs_streaming", lambda *_: in_file)
    press(monkeypatch, signal.SIGTERM, "iteration 4")
    assert main(COMMANDS["fit"]) == 143
    monkeypatch.setattr("handgrad.app.tables.needs_streaming", lambda *_: not in_file)
    assert main(["fit", "--resume", "run"]) == 0
    (model, metrics), (expected, others) = result(here / "run"), result(here / "whole")
    assert model == expected
    assert metrics == {**others, "arguments": COMMANDS["fit"]}


def test_a_training_goes_on_before_and_after_it_has_left_a_plateau(here, whole, monkeypatch, capsys):
    epochs, ends = len(whole["train"][1]["history"]), iter([1, 2, 5, 4, 99])
    real = training.descend

    def descend(settings, params, data, callback, work, watch):
        left = next(ends)

        def told(epoch):
            nonlocal left
            left -= 1
            if left == 0:
                signal.raise_signal(signal.SIGTERM)
            return callback(epoch)

        return real(settings, params, data, told, work, watch)

    monkeypatch.setattr(training, "descend", descend)
    assert main(COMMANDS["train"]) == 143
    for _ in range(3):
        assert main(["train", "--resume", "run", "--quiet"]) == 143
    assert main(["train", "--resume", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("goes on with it\n")[2])["best_epoch"] > 1
    assert epochs > 12
    assert result(here / "run") == whole["train"]


# --- Killed -----------------------------------------------------------------------------------------------------------


def kill(folder, arguments, wait):
    """Run the program until `wait` returns, and kill it then; whether that came before its end."""
    command, before = [sys.executable, "-u", resuming.__file__, *arguments], newest(folder)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        wait(process, folder / "run" / "unfinished")
        process.kill()
        process.stdout.read()
    assert process.returncode in (0, -signal.SIGKILL)
    for path in folder.rglob("*.json"):
        if "orbax" not in str(path):
            json.loads(path.read_text())
    if (folder / "run" / "model.safetensors").exists():
        handgrad.load(folder / "run")
    if (folder / "run" / "unfinished").exists():
        assert before <= newest(folder)
    return process.returncode != 0


def newest(folder):
    """The number of the last checkpoint, which can be read; 0 without any."""
    found = checkpoints.checkpoints(folder / "run")
    return int(found[-1].name) if found and checkpoints._restore(found[-1]) else 0


def until_read(process):
    """Until it has said what there is to learn from, or that there is nothing to do."""
    any(line.startswith("flowers.csv: ") for line in process.stdout)


def inside(place):
    """The names in a folder, which may go at any moment."""
    try:
        return set(os.listdir(place))
    except FileNotFoundError:
        return set()


def until_written(process, place):
    """Until another checkpoint than the first is being written."""
    until_read(process)
    while process.poll() is None and all(name.startswith("1.") for name in inside(place) if "orbax" in name):
        pass


def random_moments(seed, most, at_work):
    rng = random.Random(seed)

    def wait(process, _):
        if at_work:
            until_read(process)
        time.sleep(rng.uniform(0, most))

    return wait


def die_and_go_on(here, whole, name, waits):
    """The command, killed again and again, and then left alone."""
    arguments = COMMANDS[name]
    for wait in waits:
        assert kill(here, arguments, wait), "it had ended before"
        assert newest(here) > 0
        arguments = [name, "--resume", "run"]
    assert main(arguments) == 0
    assert {path.name for path in (here / "run").iterdir()} == FILES
    assert {path.name for path in here.iterdir()} == {"run", "flowers.csv"}
    assert result(here / "run") == whole[name]


def test_a_fit_killed_at_random_and_amid_a_checkpoint_ends_as_if_it_had_not_been(here, whole):
    die_and_go_on(here, whole, "fit", [until_written, random_moments(0, 0.2, at_work=True), until_written])


@pytest.mark.slow
def test_a_training_killed_amid_a_checkpoint_ends_as_if_it_had_not_been(here, whole):
    die_and_go_on(here, whole, "train", [until_written])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fit", "train"])
def test_a_run_killed_at_thirty_moments_ends_as_if_it_had_not_been(here, whole, name):
    waits, kills = [random_moments(name, 4, at_work=False), random_moments(name, 1, at_work=True), until_written], 0
    while kills < 30:
        shutil.rmtree("run", ignore_errors=True)
        arguments = COMMANDS[name]
        while kill(here, arguments, waits[kills % 3]):
            kills += 1
            if any((here / "run").glob("*")):  # else it was killed before its first second was over
                arguments = [name, "--resume", "run"]
        assert result(here / "run") == whole[name]


ROLES = ("--target", "kind", "--weight", "weight", "--group", "clinic", "--id", "number")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("fit", "data.svmlight", "--stream", "--folds", "3"),
        ("fit", "x.npy", "--stream", "--l2", "1e-5", "--class-weight", "balanced"),
        ("fit", "table.csv", *ROLES, "--stream", "--class-weight", "balanced"),
        ("train", "data.svmlight", "--stream", "--epochs", "25", "--batch-size", "16", "--class-weight", "balanced"),
        ("train", "table.csv", *ROLES, "--hidden", "16", "--optimizer", "adam", "--patience", "8", "--epochs", "60"),
    ],
)
def test_runs_of_all_kinds_that_are_killed_end_as_if_they_had_not_been(here, arguments):
    for form in ("svmlight", "npy"):
        write_arrays(here, form, num_rows=2000)
    write(here, "csv")
    arguments = [*arguments, "--checkpoint-every", "1", "--out"]
    start = time.monotonic()
    subprocess.run([sys.executable, resuming.__file__, *arguments, "whole"], cwd=here, check=True, capture_output=True)
    took, kills = time.monotonic() - start, 0
    now = [*arguments, "run"]
    is_killed = True
    while is_killed and kills < 4:
        is_killed = kill(here, now, random_moments(kills, took if kills else min(1, took / 2), at_work=False))
        kills += is_killed
        if any((here / "run").glob("*")):  # else it was killed before its first second was over
            now = [arguments[0], "--resume", "run"]
    done = subprocess.run([sys.executable, resuming.__file__, *now], cwd=here, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    (model, metrics), (expected, others) = result(here / "run"), result(here / "whole")
    assert model == expected
    assert metrics == {**others, "arguments": metrics["arguments"]}


# --- What is said -----------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(here, monkeypatch):
    """A fit with a checkpoint."""
    press(monkeypatch, signal.SIGTERM, "iteration 4")
    assert main(COMMANDS["fit"]) == 143
    return here / "run"


def edited(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_run_that_cannot_be_gone_on_with_says_why_in_one_line(begun, capsys):
    resume = ("fit", "--resume", "run")
    (begun.parent / "mine").mkdir()
    assert (
        fails(capsys, "fit", "--resume", "none") == "none: there is no such run. `handgrad fit --out RUN` begins one."
    )
    assert fails(capsys, "fit", "--resume", "mine") == "mine: holds no run. `handgrad fit --out RUN` begins one."
    assert fails(capsys, "train", *resume[1:]).startswith(
        "run: was begun by `handgrad fit`, which has a --resume of it"
    )
    message = "--resume goes on with the arguments that the run was begun with; got --seed too."
    assert fails(capsys, *resume, "--seed", "0") == message
    assert fails(capsys, "fit", "flowers.csv", *resume[1:]) == message.replace("--seed", "DATA")
    with unfinished.locked(begun):
        assert fails(capsys, *resume).startswith(f"{begun}: another process is at work on this run.")
        assert "run: another process is at work" in fails(capsys, *COMMANDS["fit"], "--overwrite")
    arguments = begun / "unfinished" / "arguments.json"
    text = arguments.read_text()
    edited(arguments, versions={"handgrad": "0.0.1", "jax": "0.1"})
    assert "run: was begun with handgrad 0.0.1, jax 0.1; this is handgrad " in fails(capsys, *resume)
    for damaged in (text[:20], "[]", "{}", text.replace('"arguments": [', '"arguments": 3, "x": [')):
        arguments.write_text(damaged)
        assert "arguments.json: is damaged, or was not written by handgrad." in fails(capsys, *resume)
    arguments.write_text(text)
    write_flowers("flowers.csv", range(149))
    assert "was begun with data that have changed: 150 rows, now 149." in fails(capsys, *resume)
    write_flowers("flowers.csv", seed=1)
    assert "was begun with data that have changed: 150 rows as before, but others." in fails(capsys, *resume)
    write_flowers("flowers.csv")
    assert main(list(resume)) == 0
    assert json.loads((begun / "metrics.json").read_text())["converged"]


def test_a_finished_run_is_said_to_be_and_is_no_mistake(here, capsys):
    assert main(["fit", "flowers.csv", "--target", "species", "--drop", "nr", "--l2", "1", "--out", "run"]) == 0
    before = {path: path.read_bytes() for path in (here / "run").iterdir()}
    capsys.readouterr()
    assert main(["fit", "--resume", "run"]) == 0
    assert capsys.readouterr().out == "run: is finished; there is nothing to go on with\n"
    assert main(["fit", "--resume", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "run", "finished": True}
    assert {path: path.read_bytes() for path in (here / "run").iterdir()} == before


def test_an_unfinished_run_is_replaced_only_when_asked_if_it_has_a_checkpoint(begun, whole, capsys):
    message = "run: holds an unfinished run, which --resume goes on with. Choose another folder, or pass --overwrite"
    assert message in fails(capsys, *COMMANDS["fit"])
    assert message in fails(capsys, "probe", "x.npy", "y.npy", "--out", "run")
    with pytest.raises(ValueError, match="holds an unfinished run"), new_run(begun, overwrite=False):
        pass
    assert "run: is not finished; `--resume` goes on with it" in fails(capsys, "predict", "run", "flowers.csv")
    assert "run: is not finished; `--resume` goes on with it" in fails(capsys, "compare", "run", "run")
    assert main([*COMMANDS["fit"], "--overwrite"]) == 0
    assert result(begun)[0] == whole["fit"][0]


def test_a_run_without_a_checkpoint_is_begun_anew_and_one_that_fails_leaves_nothing(here, whole, capsys, monkeypatch):
    (here / "run" / "unfinished").mkdir(parents=True)
    unfinished.write(here / "run" / "unfinished" / "arguments.json", checkpoints.describe(COMMANDS["fit"]))
    (here / "run" / ".partial-0123abcd").mkdir()
    (here / "run" / "notes.txt").write_text("mine")
    assert main(COMMANDS["fit"]) == 0
    assert {path.name for path in (here / "run").iterdir()} == FILES | {"notes.txt"}
    assert result(here / "run") == whole["fit"]
    shutil.rmtree("run")
    assert "no-such.csv" in fails(capsys, "fit", "no-such.csv", "--out", "a/b/run")
    assert "in epoch 1, and nothing is written" in fails(
        capsys, *COMMANDS["train"][:-1], "1e38", "--l2", "1", "--out", "a/run", status=1
    )
    assert {path.name for path in here.iterdir()} == {"flowers.csv"}


def test_what_stood_there_is_whole_until_the_new_run_is(here, whole, monkeypatch):
    assert main(["fit", "flowers.csv", "--target", "species", "--drop", "nr", "--l2", "1", "--out", "run"]) == 0
    before = result(here / "run")
    press(monkeypatch, signal.SIGTERM, "iteration 4")
    assert main([*COMMANDS["fit"], "--overwrite"]) == 143
    assert result(here / "run") == before
    assert main(["fit", "--resume", "run"]) == 0
    assert result(here / "run")[0] == whole["fit"][0]


def test_checkpoints_need_a_folder_and_orbax(here, capsys, monkeypatch):
    arguments = ["fit", "flowers.csv", "--target", "species", "--checkpoint-every", "3"]
    assert fails(capsys, *arguments) == (
        "--checkpoint-every needs --out, the folder of the run that the checkpoints are kept in."
    )
    monkeypatch.setattr(checkpoints, "has_orbax", lambda: False)
    message = "--checkpoint-every needs orbax: pip install 'handgrad[resume]'"
    assert fails(capsys, *arguments, "--out", "run") == message


@pytest.mark.parametrize("words", ["l2 from 0.1", "iteration 4"])
def test_without_orbax_a_run_goes_on_from_its_beginning(here, whole, monkeypatch, words):
    monkeypatch.setattr(checkpoints, "has_orbax", lambda: False)
    press(monkeypatch, signal.SIGTERM, words)
    assert main(COMMANDS["fit"][:-2]) == 143
    assert {path.name for path in (here / "run" / "unfinished").iterdir()} == {"arguments.json", "data.json"}
    assert main(["fit", "--resume", "run"]) == 0
    assert result(here / "run")[0] == whole["fit"][0]


def test_data_are_known_by_every_number_of_theirs_in_their_order():
    from handgrad.data import Table, load_digits

    digits = load_digits()
    X = digits.X.copy()
    X[5, 7] += 1
    others = [
        digits._replace(X=X),
        digits._replace(X=digits.X[::-1]),
        digits._replace(labels=digits.labels[::-1]),
        digits._replace(weights=np.ones(1797)),
        digits._replace(class_names=tuple(range(1, 11))),
    ]
    assert len({checkpoints.fingerprint(table) for table in (digits, *others)}) == 6
    assert checkpoints.fingerprint(digits._replace(notes=("a",))) == checkpoints.fingerprint(digits)
    objects = [Table(ids={"a": np.array(["x", value], object)}) for value in ("y", "z", "\ud800")]
    assert len({checkpoints.fingerprint(table) for table in objects}) == 3


def test_a_file_s_name_that_is_no_text_is_kept(tmp_path):
    name = os.fsdecode(b"\xff.csv")
    unfinished.write(tmp_path / "a.json", {"data": name})
    assert unfinished.read(tmp_path / "a.json", {"data": ""}) == {"data": name}
