"""The program through its entry point: what it prints, writes and returns, and what it says when something is wrong."""

import csv
import html
import io
import json
import shlex
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
from handgrad.app.cli import main
from handgrad.app.runs import begin
from handgrad.app.screen import make_screen
from handgrad.data import Table, encode, load_digits, read_table, split_and_scale
from handgrad.data.splitting import VALIDATION
from test_splitting import write_visits

FILES = {"model.safetensors", "metrics.json", "report.html"}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def flowers(tmp_path_factory):
    """A .csv of three named classes, its features of wildly different scale, and the run trained on it."""
    generator = np.random.default_rng(0)
    labels = np.arange(150) % 3
    X = generator.normal(size=(150, 3)) + 4 * np.eye(3)[labels]
    X = X * [1e-6, 1, 1e8] + [0, 5, 1e10]
    folder = tmp_path_factory.mktemp("flowers")
    with open(folder / "flowers.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["petal, width", "$kind$", "b", "c"])
        writer.writerows([row[0], f"[class {label}]", *row[1:]] for row, label in zip(X, labels, strict=True))
    arguments = ["train", str(folder / "flowers.csv"), "--target", "$kind$", "--epochs", "20"]
    assert main([*arguments, "--out", str(folder / "run")]) == 0
    return folder


def fails(capsys, *arguments, status=2):
    """The one line of a failure."""
    assert main([str(argument) for argument in arguments]) == status
    error = capsys.readouterr().err
    assert error.startswith("handgrad: ")
    assert error.count("\n") == 1
    return error.removeprefix("handgrad: ").rstrip()


def read_csv(text):
    header, *rows = csv.reader(io.StringIO(text))
    return header, rows


# --- train ------------------------------------------------------------------------------------------------------------


def test_the_digits_are_learnt_by_the_explicit_update(digits_run):
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert metrics["optimizer"] == "sgd"
    assert metrics["test_accuracy"] >= 0.95
    assert metrics["test_loss"] < 0.12
    assert metrics["train_loss"] < 0.08
    assert metrics["gradient_check_passed"] is True


def test_metrics_say_what_was_run(digits_run):
    metrics = json.loads((digits_run / "metrics.json").read_text())
    assert {
        "data": "digits",
        "rows": 1797,
        "train_rows": 1259,
        "validation_rows": 179,
        "test_rows": 359,
        "features": 64,
        "classes": 10,
        "schedule": "plateau",
        "patience": 20,
        "class_weight": None,
        "l2": 0.0,
        "seed": 0,
    }.items() <= metrics.items()
    assert metrics["versions"]["handgrad"] == handgrad.__version__
    assert 0.1 < metrics["learning_rate"] < 0.3
    assert 1 <= metrics["best_epoch"] <= len(metrics["history"]) <= metrics["epochs"]
    assert metrics["history"][-1] == {
        "epoch": len(metrics["history"]),
        "loss": metrics["history"][-1]["loss"],
        "validation_loss": metrics["history"][-1]["validation_loss"],
        "validation_accuracy": metrics["history"][-1]["validation_accuracy"],
    }
    assert metrics["history"][-1]["validation_loss"] != metrics["test_loss"]


def test_metrics_are_those_of_the_model_in_the_file(digits_run):
    metrics = json.loads((digits_run / "metrics.json").read_text())
    params = handgrad.load(digits_run).params
    split = split_and_scale(load_digits(), validation=VALIDATION)

    def loss_and_accuracy(part):
        right = np.asarray(handgrad.predict(params, part.X)) == part.labels
        return pytest.approx(float(handgrad.loss(params, part.X, part.labels)), rel=1e-6), pytest.approx(right.mean())

    kept = metrics["history"][metrics["best_epoch"] - 1]
    assert (metrics["test_loss"], metrics["test_accuracy"]) == loss_and_accuracy(split.test)
    assert (kept["validation_loss"], kept["validation_accuracy"]) == loss_and_accuracy(split.validation)
    assert metrics["train_loss"] == loss_and_accuracy(split.train)[0]


def test_a_run_is_three_files_and_its_report_repeats_the_command(digits_run, flowers):
    for run in (digits_run, flowers / "run"):
        assert {path.name for path in run.iterdir()} == FILES
    table, run = map(str, (flowers / "flowers.csv", flowers / "run"))
    command = ["train", table, "--target", "$kind$", "--epochs", "20", "--out", run]
    assert json.loads((flowers / "run" / "metrics.json").read_text())["arguments"] == command
    page = html.unescape((flowers / "run" / "report.html").read_text())
    assert f"<pre><code>{shlex.join(['handgrad', *command])}</code></pre>" in page


def test_output_without_a_terminal_is_a_few_plain_lines(capsys):
    assert main(["train", "--epochs", "30"]) == 0
    output = capsys.readouterr().out
    assert "digits: 1,797 rows, 64 features, 10 classes; 1,259 to train on, 179 to watch, 359 to test" in output
    assert sum(line.startswith("epoch ") for line in output.splitlines()) == 11
    assert "\nEpoch 30 of 30 is kept, with the least loss of the 179 rows to watch, 0." in output
    assert output.count("float64  W            autograd") == 2
    assert "test accuracy    9" in output
    assert "\x1b" not in output


def test_a_run_can_be_repeated_to_the_byte(tmp_path):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main(["train", "--epochs", "2", "--seed", seed, "--out", str(tmp_path / name)]) == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.usefixtures("standard_promotion")
def test_an_optax_optimizer_learns_too(tmp_path):
    assert main(["train", "--optimizer", "adam", "--epochs", "20", "--full-batch", "--out", str(tmp_path)]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert (metrics["optimizer"], metrics["learning_rate"], metrics["batch_size"]) == ("adam", 0.01, None)
    assert metrics["test_accuracy"] > 0.8


def test_features_of_wildly_different_scale_are_learnt(flowers):
    assert json.loads((flowers / "run" / "metrics.json").read_text())["test_accuracy"] >= 0.9


def test_images_in_an_npz_are_learnt_and_drawn(tmp_path):
    digits = load_digits()
    names = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
    np.savez(tmp_path / "d.npz", X=digits.X.reshape(-1, 8, 8) / 16, y=names[digits.labels])
    assert main(["train", str(tmp_path / "d.npz"), "--epochs", "20", "--out", str(tmp_path / "run")]) == 0
    model = handgrad.load(tmp_path / "run")
    assert model.encoding.image_shape == (8, 8)
    assert model.class_names == tuple(sorted(names.tolist()))
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") >= 10
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["test_accuracy"] > 0.9


def test_a_run_is_replaced_only_when_asked(capsys, tmp_path):
    arguments = ["train", "--epochs", "1", "--out", tmp_path]
    assert main(list(map(str, arguments))) == 0
    first = (tmp_path / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert "holds a run already. Choose another folder, or pass --overwrite" in fails(capsys, *arguments)
    assert (tmp_path / "model.safetensors").read_bytes() == first
    (tmp_path / "notes.txt").write_text("mine")
    assert main([*map(str, arguments), "--l2", "0.1", "--overwrite"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() != first
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"notes.txt"}


def test_a_loss_that_becomes_infinite_is_said_and_nothing_is_written(capsys, tmp_path):
    error = fails(capsys, "train", "--learning-rate", "1e38", "--out", tmp_path / "run", status=1)
    assert (
        "in epoch 1, and nothing is written. Try a smaller --learning-rate: left out, it is 0.17, which suits" in error
    )
    assert list(tmp_path.iterdir()) == []


def test_a_failed_gradient_check_is_exit_status_1(monkeypatch, capsys, tmp_path):
    def wrong(params, X, targets, *, gradient=None):
        dW, db = handgrad.gradient(params, X, targets)
        report = real(params, X, targets, gradient=gradient)
        assert dW.shape == params.W.shape
        assert db.shape == params.b.shape
        return report._replace(passed=False)

    real = handgrad.check_gradients
    monkeypatch.setattr(handgrad, "check_gradients", wrong)
    assert main(["check"]) == 1
    assert main(["train", "--epochs", "1", "--out", str(tmp_path)]) == 1
    assert "gradient check   FAILED" in capsys.readouterr().out
    assert json.loads((tmp_path / "metrics.json").read_text())["gradient_check_passed"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "sdg"], "--optimizer must be one of sgd, adagrad, adam"),
        (["--schedule", "cosin"], "--schedule must be one of plateau, constant, cosine, linear; got 'cosin'."),
        (["--patience", "-1"], "'--patience'"),
        (["--learning-rate", "nan"], "--learning-rate must be positive and finite; got nan."),
        (["--learning-rate", "0"], "--learning-rate must be positive and finite; got 0.0."),
        (["--epochs", "0"], "'--epochs'"),
        (["--batch-size", "x"], "'--batch-size'"),
        (["--l2", "-1"], "'--l2'"),
        (["--target", "y"], "--target needs DATA, a table to read."),
        (["--nope"], "--nope"),
        (["nowhere.npz"], "nowhere.npz: there is no such file."),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, message):
    assert message in fails(capsys, "train", *arguments)


def test_out_must_be_a_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is a file; a run needs a folder." in fails(capsys, "train", "--out", tmp_path / "file")
    assert "file: is a file; a run needs a folder." in fails(capsys, "train", "--out", tmp_path / "file" / "run")


# --- check ------------------------------------------------------------------------------------------------------------


def test_check_prints_the_table(capsys):
    assert main(["check"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("dtype")
    assert len(rows) == 6
    assert all(row.endswith("passed") for row in rows)


# --- predict ----------------------------------------------------------------------------------------------------------


def test_predictions_are_those_of_predict_proba(capsys, digits_run, tmp_path):
    digits = load_digits()
    np.savez(tmp_path / "d.npz", X=digits.X[:50])
    assert main(["predict", str(digits_run), str(tmp_path / "d.npz")]) == 0
    header, rows = read_csv(capsys.readouterr().out)
    assert header == ["class", *map(str, range(10))]
    model = handgrad.load(digits_run)
    Y = np.asarray(handgrad.predict_proba(model.params, jnp.asarray(encode(model.encoding, Table(digits.X[:50])).X)))
    np.testing.assert_allclose(np.array([row[1:] for row in rows], np.float32), Y, rtol=1e-5)
    assert [row[0] for row in rows] == [str(label) for label in Y.argmax(axis=1)]


def test_predictions_need_the_columns_in_no_order_and_ignore_the_classes(capsys, flowers, tmp_path):
    header, rows = read_csv((flowers / "flowers.csv").read_text())
    order = [3, 0, 2]
    with open(tmp_path / "unknown.csv", "w", newline="") as file:
        csv.writer(file).writerows([[row[index] for index in order] for row in [header, *rows]])
    assert main(["predict", str(flowers / "run"), str(flowers / "flowers.csv")]) == 0
    with_classes = capsys.readouterr().out
    assert main(["predict", str(flowers / "run"), str(tmp_path / "unknown.csv")]) == 0
    assert capsys.readouterr().out == with_classes
    predicted_header, predicted = read_csv(with_classes)
    assert predicted_header == ["class", "[class 0]", "[class 1]", "[class 2]"]
    assert np.mean([row[0] == true[1] for row, true in zip(predicted, rows, strict=True)]) > 0.9


def test_predictions_go_to_a_file(capsys, flowers, tmp_path):
    arguments = ["predict", str(flowers / "run"), str(flowers / "flowers.csv")]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert main([*arguments, "--out", str(tmp_path / "p.csv")]) == 0
    assert (tmp_path / "p.csv").read_text() == printed
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]
    assert "there is no such folder" in fails(capsys, *arguments, "--out", tmp_path / "nowhere" / "p.csv")
    assert "--out is what is read here" in fails(capsys, *arguments, "--out", flowers / "flowers.csv")
    model = flowers / "run" / "model.safetensors"
    content = model.read_bytes()
    (tmp_path / "link").symlink_to(model)
    for path in (model, tmp_path / "link"):
        assert "--out is what is read here" in fails(capsys, *arguments, "--out", path)
    assert "is a folder; a file is needed" in fails(capsys, *arguments, "--out", "")
    assert model.read_bytes() == content


def test_features_in_the_wrong_number_are_refused(capsys, digits_run, flowers, tmp_path):
    np.savez(tmp_path / "d.npz", X=np.zeros((3, 65)))
    message = "the model was trained on 64 features; got 65 in a row."
    assert message in fails(capsys, "predict", digits_run, tmp_path / "d.npz")
    (tmp_path / "d.csv").write_text('"petal, width",b\n1,2\n')
    assert "has no column 'c'. Columns there: petal, width, b." in fails(
        capsys, "predict", flowers / "run", tmp_path / "d.csv"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-9], "is damaged or cut short"),
        (lambda content: content[:100], "is damaged or cut short"),
        (lambda _: b"", "is damaged or cut short"),
        (lambda _: b"PK hello, I am another file", "is damaged or cut short"),
        (lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:], "does not match its checksum"),
        (lambda content: content.replace(b"[class 1]", b"[class 3]"), "does not match its checksum"),
        (lambda content: content.replace(b'{"handgrad":', b'{"leftgrad":'), "was not written by handgrad"),
        (lambda content: content.replace(b'_version\\": 2', b'_version\\": 9'), "has format 9, written by handgrad"),
        (lambda content: content.replace(b'_version\\": 2', b'_version\\"; 1'), "does not match its checksum"),
    ],
)
def test_damaged_and_foreign_models_are_refused(capsys, flowers, tmp_path, damage, message):
    content = (flowers / "run" / "model.safetensors").read_bytes()
    damaged = damage(content)
    assert damaged != content
    (tmp_path / "model.safetensors").write_bytes(damaged)
    assert message in fails(capsys, "predict", tmp_path, flowers / "flowers.csv")


def test_a_model_that_is_not_there_is_one_line(capsys, flowers, tmp_path):
    assert "there is no such model" in fails(capsys, "predict", tmp_path, flowers / "flowers.csv")


# --- The program ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], ["train", "check", "predict"]),
        (["train"], ["--optimizer", "--full-batch", "--overwrite", "what suits the data", "0.01 for the others"]),
        (["check"], ["--target"]),
        (["predict"], ["--out"]),
    ],
)
def test_help_names_the_options(capsys, command, words):
    assert main([*command, "--help"]) == 0
    output = capsys.readouterr().out
    assert all(word in output for word in words)


def test_no_arguments_show_the_help(capsys):
    assert main([]) == 0
    assert "Usage: handgrad" in capsys.readouterr().out


def test_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"handgrad {handgrad.__version__}")


def test_mistakes_of_ours_keep_their_traceback(monkeypatch):
    monkeypatch.setattr("handgrad.app.tables.load_digits", lambda: 1 + "1")
    with pytest.raises(TypeError, match="unsupported operand"):
        main(["check"])


def test_a_missing_extra_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(handgrad, "app", handgrad.app)  # what is imported now must not stay
    for name in [name for name in sys.modules if name.startswith("handgrad.app")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert fails(capsys, "check") == "the program needs rich.console: pip install 'handgrad[app]'"


def test_the_program_runs_as_a_process(tmp_path):
    command = [sys.executable, "-m", "handgrad", "train", "--epochs", "2", "--out", "runs/digits"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "model, report    runs/digits/\n" in done.stdout
    assert {path.name for path in (tmp_path / "runs" / "digits").iterdir()} == FILES
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("handgrad: runs/digits: holds a run already. Choose another folder, or pass --over")


def interrupt(folder, number, line):
    """Train, and send a signal as soon as there is such a line; the exit status and what is on standard error."""
    # SIGINT is ignored in what a shell runs in the background, and in its children. A lost interruption would be seen
    # by the number of epochs coming to its end: no clock, which a busy machine would break.
    program = (
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from handgrad.app.cli import main\n"
        "class Announcing:\n    @staticmethod\n    def find_spec(name, path=None, target=None):\n"
        "        if name == 'jax':\n            print('the imports begin')\n"
        "sys.meta_path.insert(0, Announcing)\nsys.exit(main())"
    )
    command = [sys.executable, "-u", "-c", program, "train", "--epochs", "20000", "--patience", "0", "--out", "run"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert any(printed.startswith(line) for printed in process.stdout)
        process.send_signal(number)
        _, error = process.communicate()
    return process.returncode, error


def test_an_interruption_of_the_imports_leaves_nothing_and_no_traceback(tmp_path):
    assert interrupt(tmp_path, signal.SIGINT, "the imports begin") == (130, "handgrad: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_leaves_a_checkpoint_and_no_traceback(tmp_path):
    assert interrupt(tmp_path, signal.SIGTERM, "epoch ") == (143, "handgrad: ended by SIGTERM\n")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["unfinished"]
    assert (tmp_path / "run" / "unfinished" / "1").is_dir()


def test_epochs_that_are_done_when_it_is_interrupted_are_kept(tmp_path):
    assert interrupt(tmp_path, signal.SIGINT, "epoch ") == (130, "handgrad: interrupted\n")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert 1 <= metrics["best_epoch"] <= len(metrics["history"]) < 20_000
    assert metrics["test_accuracy"] > 0.5
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES | {"unfinished"}


@pytest.mark.parametrize("is_busy", [False, True])
def test_an_interruption_that_was_dropped_comes_again(tmp_path, is_busy):
    # As where it falls into what JAX does at each garbage collection.
    program = (
        "import signal, sys, threading, time\nfrom handgrad.app import cli, tables\n"
        "start, waits = threading.Timer.start, [0.0, 0.1]\n"
        "def start_slowly(timer):\n    start(timer)\n    time.sleep(waits.pop() if waits else 0.0)\n"
        f"threading.Timer.start = start_slowly if {is_busy} else start\n"
        "class Dropping:\n    def __del__(self):\n        raise KeyboardInterrupt\n"
        "def drop():\n    Dropping()\n    print('went on', flush=True)\n    for _ in range(10**9):\n        pass\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "tables.load_digits = drop\nsys.argv[1:] = ['check']\nsys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "went on\n", "handgrad: interrupted\n")


def test_names_with_escapes_reach_the_terminal_written_out(capsys, tmp_path):
    path = tmp_path / "\x1b[31mred\udcff.npz"
    assert r"\x1b[31mred\udcff.npz: there is no such file" in fails(capsys, "train", path)
    np.savez(path, X=np.arange(20.0)[:, None], y=np.arange(20) % 2)
    assert main(["train", str(path), "--epochs", "1", "--out", str(tmp_path / "\x1b[2Jrun")]) == 0
    output = capsys.readouterr().out
    assert r"\x1b[31mred\udcff.npz: 20 rows" in output
    assert "\x1b" not in output
    assert json.loads((tmp_path / "\x1b[2Jrun" / "metrics.json").read_text())["data"] == str(path)


def test_groups_stay_together_and_ids_go_through(capsys, tmp_path):
    path, run = write_visits(tmp_path / "visits.csv", range(200)), tmp_path / "run"
    columns = ["--target", "kind", "--id", "visit", "--group", "patient", "--missing", "mean"]
    assert main(["train", str(path), *columns, "--seed", "3", "--epochs", "1", "--out", str(run)]) == 0
    metrics = json.loads((run / "metrics.json").read_text())
    table = read_table(path, target="kind", ids=["visit"], group="patient", missing="mean")
    split = split_and_scale(table, validation=VALIDATION, seed=3)
    assert [metrics[f"{part}_rows"] for part in ("train", "validation", "test")] == [len(rows) for rows in split.rows]
    right = handgrad.load(run).predict(table)[split.rows.test] == np.array(table.class_names)[split.test.labels]
    assert metrics["test_accuracy"] == pytest.approx(right.mean())
    capsys.readouterr()
    assert main(["predict", str(run), str(path), "--id", "visit"]) == 0
    header, rows = read_csv(capsys.readouterr().out)
    assert header == ["visit", "class", "ill", "well"]
    assert [row[0] for row in rows] == [f"v{number}" for number in range(200)]
    assert [row[1] for row in rows] == handgrad.load(run).predict(table).tolist()
    message = "rows are split by groups or by times, not by both"
    assert message in fails(capsys, "train", path, *columns, "--time", "day", "--epochs", "1")


def test_classes_that_are_too_rare_for_a_part_are_said(capsys):
    table = Table(np.arange(22.0)[:, None], labels=np.repeat([0, 1, 2], [19, 2, 1]), class_names=("a", "\x1b[2J", "c"))
    begin(make_screen(), "six.csv", table, split_and_scale(table, validation=VALIDATION))
    output = capsys.readouterr().out
    assert "note: not validated, for want of rows: the classes '\\x1b[2J' (2), 'c' (1)\n" in output
    assert "note: not tested, for want of rows: the classes 'c' (1)\n" in output
