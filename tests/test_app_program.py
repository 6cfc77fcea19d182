"""The program as a shell sees it: help and completion at once, examples that run, one JSON object, the cache."""

import csv
import functools
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import typer.main

import handgrad
from handgrad.app import benching, caching, checking, exporting, fitting, training
from handgrad.app.cli import main
from handgrad.app.evaluating import mcnemar
from handgrad.app.probing import PRESETS
from handgrad.app.program import OPTIMIZERS, SCHEDULES, app
from handgrad.data import load_digits, read_table
from handgrad.data.tables import MISSING
from handgrad.formulas.activations import ACTIVATIONS
from test_app import fails

HEAVY = ("jax", "jaxlib", "numpy", "scipy", "pyarrow", "matplotlib", "sklearn", "optax", "onnx", "pandas")


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def unchecked(monkeypatch):
    """No check of the gradient, which compiles for seconds, for each shape of the data."""
    for module in (checking, fitting, training):
        monkeypatch.setattr(module, "check_at", lambda *_, **__: handgrad.GradientReport((), True, ""))


def write_flowers(path, rows=range(150), seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(max(rows) + 1, 3)).round(3)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["nr", "length", "width", "depth", "species"])
        writer.writerows([f"r{row}", *(X[row] + 2 * np.eye(3)[row % 3]), f"kind {row % 3}"] for row in rows)
    return path


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """A folder with a run of `fit`, and the rows that it was fitted to and new ones."""
    folder = tmp_path_factory.mktemp("flowers")
    write_flowers(folder / "flowers.csv")
    write_flowers(folder / "new.csv", range(60), seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "check_at", lambda *_, **__: handgrad.GradientReport((), True, ""))
        for name, l2 in (("run", "0.01"), ("strong", "3")):
            arguments = ["--target", "species", "--drop", "nr", "--l2", l2, "--out", str(folder / name)]
            assert main(["fit", str(folder / "flowers.csv"), *arguments]) == 0
    return folder


def printed(capsys, *arguments):
    """The JSON object of a command."""
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- Help, completion, the cache --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words", "says"),
    [
        (["--version"], "", "handgrad "),
        (["--help"], "", "Exit status: 0 done; 1"),
        (["fit", "--help"], "", "Example: handgrad fit"),
        ([], "handgrad ev", "evaluate"),
        ([], "handgrad fit --sco", "--scoring"),
        ([], "handgrad train --optimizer ada", "adagrad\nadam\nadamw\n"),
    ],
)
def test_help_version_and_completion_import_nothing_heavy(arguments, words, says):
    program = (
        "import atexit, os, sys\nfrom handgrad.app.cli import main\n"
        f"heavy = lambda: print('HEAVY', [name for name in {HEAVY} if name in sys.modules])\n"
        "atexit.register(heavy)\nsys.argv[0] = 'handgrad'\nsys.exit(main())"
    )
    completion = {"_HANDGRAD_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    env = os.environ | (completion if words else {})
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert says in done.stdout
    assert done.stdout.endswith("HEAVY []\n")


def test_names_that_are_completed_are_those_that_are_taken():
    options = {
        (name, each.name): [each.shell_complete(None, begun) for begun in ("", "ra")]
        for name, command in typer.main.get_command(app).commands.items()
        for each in command.params
        if getattr(each, "_custom_shell_complete", None) is not None
    }
    found = {place: [getattr(item, "value", item) for item in items] for place, (items, _) in options.items()}
    assert [item.value for item in options["train", "optimizer"][1]] == ["radam"]
    assert found["train", "optimizer"] == list(OPTIMIZERS)
    assert found["train", "schedule"] == list(SCHEDULES)
    assert found["train", "activation"] == found["check", "activation"] == list(ACTIVATIONS)
    assert found["fit", "missing"] == list(MISSING)
    assert set(found["probe", "preset"]) == set(PRESETS)
    assert set(found["export", "to"]) == set(exporting.WRITERS)


def test_every_command_has_json_quiet_and_an_example(capsys):
    assert {command.callback.__name__ for command in app.registered_commands} >= {"fit", "train", "check", "predict"}
    for command in app.registered_commands:
        name = command.callback.__name__
        assert command.epilog.startswith(f"Example: handgrad {name} ")
        assert main([name, "--help"]) == 0
        output = capsys.readouterr().out
        assert all(option in output for option in ("--json", "--quiet", command.epilog))


@pytest.mark.usefixtures("unchecked", "standard_promotion")
def test_the_examples_of_the_help_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_flowers("flowers.csv")
    write_flowers("new.csv", range(30), seed=1)
    for path in (pathlib.Path("flowers.csv"), pathlib.Path("new.csv")):  # without the numbers of the rows
        path.write_text("\n".join(row.partition(",")[2] for row in path.read_text().splitlines()))
    prepare_examples()
    trivial_bench(monkeypatch, np.ones(2))
    for command in app.registered_commands:
        _, *arguments = shlex.split(command.epilog.removeprefix("Example: "))
        assert main(arguments) == 0, command.epilog
        assert capsys.readouterr().out.strip()[:1] != "{"
        if command.callback.__name__ == "fit":
            shutil.copytree("runs/flowers", "runs/other")


def prepare_examples():
    """The files that the examples of some commands speak of."""
    labels = np.arange(120) % 3
    np.save("features.npy", np.random.default_rng(0).normal(size=(120, 4)) + 2 * np.eye(3, 4)[labels])
    np.save("labels.npy", labels)


def test_what_is_compiled_is_kept_in_the_user_s_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    for name in ("JAX_COMPILATION_CACHE_DIR", *caching.SETTINGS):
        monkeypatch.setenv(name, "")  # put back at the end
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caching.keep_compiled()
    assert isinstance(warnings.showwarning, functools.partial)
    folder = pathlib.Path(os.environ["JAX_COMPILATION_CACHE_DIR"])
    assert folder.parent == tmp_path / "handgrad" / "programs"
    program = "import sys, jax; assert jax.jit(lambda x: x + 1)(1) == 2"
    subprocess.run([sys.executable, "-c", program], check=True)
    kept = [path for path in folder.iterdir() if path.name.startswith("jit_")]
    assert kept
    # What was cut short is removed without a word, and then kept anew; other warnings are shown.
    seen: list[str] = []
    show = functools.partial(caching._forget_damaged, folder, lambda message, *_: seen.append(str(message)))
    for name in ("read", "writ"):
        show(f"Error {name}ing persistent compilation cache entry for '{kept[0].name.partition('-')[0]}': error: x")
    show("another")
    assert seen == ["another"]
    assert not kept[0].exists()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
    caching.keep_compiled()
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "mine"


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    (tmp_path / "handgrad").write_text("a file in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caching.keep_compiled()
    assert "JAX_COMPILATION_CACHE_DIR" not in os.environ


def test_a_cache_that_has_grown_loses_what_was_not_used_for_longest(monkeypatch, tmp_path):
    monkeypatch.setattr(caching, "MOST_BYTES", 1000)
    (tmp_path / "machine").mkdir()
    for number in range(12):
        path = tmp_path / "machine" / f"program-{number}"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - number, 1000 - number))
    caching._bound(tmp_path)
    assert sorted(int(path.name[8:]) for path in (tmp_path / "machine").iterdir()) == [0, 1, 2, 3, 4]


def test_a_command_within_python_leaves_the_cache_alone(monkeypatch):
    monkeypatch.setattr(caching, "keep_compiled", lambda: pytest.fail("it was set"))
    assert main(["--version"]) == 0


# --- predict, evaluate, compare ---------------------------------------------------------------------------------------


def test_predictions_as_json_are_those_of_the_csv(capsys, flowers, tmp_path):
    arguments = ["predict", flowers / "run", flowers / "new.csv", "--id", "nr"]
    found = printed(capsys, *arguments)
    assert main(list(map(str, arguments))) == 0
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert found["classes"] == ["kind 0", "kind 1", "kind 2"]
    assert [row["class"] for row in found["rows"]] == [row["class"] for row in rows]
    assert [row["ids"]["nr"] for row in found["rows"]] == [row["nr"] for row in rows]
    Y = [[float(row[name]) for name in found["classes"]] for row in rows]
    np.testing.assert_allclose([row["probabilities"] for row in found["rows"]], Y, rtol=1e-6)
    written = printed(capsys, *arguments, "--out", tmp_path / "p.csv")
    assert (written["rows"], written["out"]) == (60, str(tmp_path / "p.csv"))


@pytest.mark.parametrize("name", ["class", "kind 1"])
def test_what_is_passed_through_is_not_taken_for_what_the_model_says(capsys, flowers, tmp_path, name):
    text = (flowers / "new.csv").read_text()
    (tmp_path / "new.csv").write_text(text.replace("nr,", f"{name},", 1))
    out = tmp_path / "out.csv"
    for options in ([], ["--out", str(out)]):
        assert main(["predict", str(flowers / "run"), str(tmp_path / "new.csv"), "--id", name, *options]) == 2
        assert f"--id {name}: what is written has a column of that name" in capsys.readouterr().err
    assert not out.exists()
    found = printed(capsys, "predict", flowers / "run", tmp_path / "new.csv", "--id", name)
    assert found["rows"][0]["ids"] == {name: "r0"}


def test_a_class_may_be_called_class(capsys, tmp_path):
    rows = [f"{i % 7 + 9 * (i % 2)},{('class', 'other')[i % 2]}" for i in range(60)]
    (tmp_path / "data.csv").write_text("\n".join(["x,y", *rows]))
    assert main(["fit", str(tmp_path / "data.csv"), "--target", "y", "--out", str(tmp_path / "run"), "--quiet"]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "data.csv")]) == 0
    names, first, second = capsys.readouterr().out.splitlines()[:3]
    assert names == "predicted class,class,other"
    assert [first.split(",")[0], second.split(",")[0]] == ["class", "other"]


def test_an_evaluation_s_numbers_are_those_of_the_probabilities(capsys, flowers):
    found = printed(capsys, "evaluate", flowers / "run", flowers / "new.csv")
    model = handgrad.load(flowers / "run")
    Y, labels = model.predict_proba(read_table(flowers / "new.csv", target="species", drop=["nr"])), np.arange(60) % 3
    losses = -np.log(Y[np.arange(60), labels].astype(float))
    assert found["rows"] == 60
    assert found["accuracy"] == np.mean(Y.argmax(axis=1) == labels)
    assert found["loss"] == pytest.approx(losses.mean())
    assert found["loss_standard_error"] == pytest.approx(losses.std(ddof=1) / np.sqrt(60))
    assert found["baseline_loss"] == pytest.approx(np.log(3))
    assert np.sum(found["confusion"]) == 60
    assert found["unknown_classes"] == {}
    assert main(["evaluate", str(flowers / "run"), str(flowers / "new.csv")]) == 0
    output = capsys.readouterr().out
    assert f"accuracy         {found['accuracy']:.2%} (" in output
    assert "kind 2" in output


def test_classes_that_a_model_does_not_know_are_said(capsys, flowers, tmp_path):
    text = (flowers / "new.csv").read_text()
    path = tmp_path / "new.csv"
    path.write_text(text.replace("kind 2", "kind 3"))
    found = printed(capsys, "evaluate", flowers / "run", path)
    assert found["rows"] == 40
    assert found["unknown_classes"] == {"kind 3": 20}
    assert main(["evaluate", str(flowers / "run"), str(path)]) == 0
    assert "note: rows of classes that the model does not know are left out of the numbers: 'kind 3' (20)" in (
        capsys.readouterr().out
    )
    path.write_text("".join(line for line in text.splitlines(True) if "kind 1" in line or "species" in line))
    assert printed(capsys, "evaluate", flowers / "run", path)["rows"] == 20  # of one class
    path.write_text(text.replace("kind", "sort"))
    message = "has no row of a class that the model knows; got sort 0, sort 1, sort 2, and it knows kind 0, kind 1, ki"
    assert message in fails(capsys, "evaluate", flowers / "run", path)


@pytest.mark.parametrize(("fitted", "met"), [("1 2", "1.0 2.0"), ("1.0 2.0", "1 2"), ("01 2", "01 2.0")])
def test_classes_that_are_the_same_number_are_the_same(capsys, tmp_path, unchecked, fitted, met):
    rows = np.random.default_rng(0).normal(size=(30, 2)).round(3).tolist()
    for name, classes in (("fitted", fitted.split()), ("met", met.split())):
        lines = [",".join([*map(str, row), classes[number % 2]]) for number, row in enumerate(rows)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,b,kind", *lines]))
    run = tmp_path / "run"
    assert main(["fit", str(tmp_path / "fitted.csv"), "--target", "kind", "--l2", "1", "--out", str(run)]) == 0
    found = printed(capsys, "evaluate", run, tmp_path / "met.csv")
    assert (found["rows"], found["unknown_classes"]) == (30, {})
    (tmp_path / "met.csv").write_text("a,b,kind\n1.5,2,1.5\n1,2,2\n")
    assert printed(capsys, "evaluate", run, tmp_path / "met.csv")["unknown_classes"] == {"1.5": 1}


def test_rows_that_weigh_nothing_say_nothing(capsys, flowers, tmp_path):
    header, *rows = (flowers / "new.csv").read_text().splitlines()
    weighed = [f"{header},weight", *(f"{row},0" for row in rows[:5]), f"{rows[5].replace('kind', 'sort')},1"]
    (tmp_path / "new.csv").write_text("\n".join(weighed))
    assert main(["evaluate", str(flowers / "run"), str(tmp_path / "new.csv"), "--weight", "weight"]) == 2
    assert "the rows of classes that the model knows all weigh 0" in capsys.readouterr().err


def test_arrays_and_rows_without_values_are_evaluated(capsys, tmp_path, unchecked):
    digits = load_digits()
    np.savez(tmp_path / "d.npz", X=digits.X[:400].reshape(-1, 8, 8), y=digits.labels[:400])
    assert main(["fit", str(tmp_path / "d.npz"), "--l2", "0.01", "--out", str(tmp_path / "run")]) == 0
    np.savez(tmp_path / "new.npz", X=digits.X[400:500].reshape(-1, 8, 8), y=digits.labels[400:500].astype(float))
    assert printed(capsys, "evaluate", tmp_path / "run", tmp_path / "new.npz")["rows"] == 100
    np.savez(tmp_path / "one.npz", X=digits.X[400:410].reshape(-1, 8, 8), y=np.full(10, 3))
    assert printed(capsys, "evaluate", tmp_path / "run", tmp_path / "one.npz")["rows"] == 10
    X = np.random.default_rng(0).normal(size=(40, 2))
    X[3, 1] = np.nan
    np.savez(tmp_path / "holes.npz", X=X, y=np.arange(40) % 2)
    arguments = [tmp_path / "holes.npz", "--missing", "drop-rows", "--l2", "0.1", "--out", tmp_path / "holes"]
    assert main(["fit", *map(str, arguments)]) == 0
    assert printed(capsys, "evaluate", tmp_path / "holes", tmp_path / "holes.npz")["rows"] == 39


def test_runs_stand_side_by_side_with_the_settings_in_which_they_differ(capsys, flowers):
    found = printed(capsys, "compare", flowers / "run", flowers / "strong")
    assert found["same_test_rows"] is True
    assert [run["l2"] for run in found["runs"]] == [0.01, 3]
    assert found["runs"][0]["test_loss"] < found["runs"][1]["test_loss"]
    assert "data" not in found["runs"][0]
    assert main(["compare", str(flowers / "run"), str(flowers / "strong")]) == 0
    output = capsys.readouterr().out
    assert "l2" in output
    assert "data" not in output
    assert "two runs or more; got 1" in fails(capsys, "compare", flowers / "run")
    assert "need --data" in fails(capsys, "compare", flowers / "run", flowers / "run", "--target", "x")


@pytest.mark.usefixtures("unchecked")
def test_runs_of_other_rows_are_said_and_tried_on_the_same(capsys, flowers, tmp_path):
    write_flowers(tmp_path / "flowers.csv", range(90), seed=2)
    arguments = ["--target", "species", "--drop", "nr", "--l2", "0.01", "--out", str(tmp_path / "run")]
    assert main(["fit", str(tmp_path / "flowers.csv"), *arguments]) == 0
    runs = [flowers / "run", tmp_path / "run"]
    assert main(["compare", *map(str, runs)]) == 0
    assert "note: these runs were not tested on the same rows" in capsys.readouterr().out
    (pair,) = printed(capsys, "compare", *runs, "--data", flowers / "new.csv")["pairs"]
    table = read_table(flowers / "new.csv", target="species", drop=["nr"])
    first, other = (handgrad.load(run).predict_proba(table)[np.arange(60), table.labels] for run in runs)
    difference = np.log(first.astype(float)) - np.log(other)
    assert pair["loss_difference"] == pytest.approx(difference.mean(), rel=1e-4)
    assert pair["loss_difference_error"] == pytest.approx(difference.std(ddof=1) / np.sqrt(60), rel=1e-4)
    right = [handgrad.load(run).predict(table) == np.array(table.class_names)[table.labels] for run in runs]
    assert pair["only_right"] == np.sum(right[1] & ~right[0])
    assert pair["only_wrong"] == np.sum(right[0] & ~right[1])


def test_mcnemar_s_p_value_is_that_of_the_binomial_test():
    scipy_stats = pytest.importorskip("scipy.stats")
    for wins, losses in ((0, 0), (0, 5), (3, 9), (40, 60), (1000, 1200)):
        expected = scipy_stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_a_bench_is_a_ratio_of_what_agrees(capsys, monkeypatch):
    times = iter([1.0, 2.0, 1.0, 9.0, 3.0, 3.0] * 4)  # ours and theirs in turn
    monkeypatch.setattr(benching, "REPEATS", 3)
    monkeypatch.setattr(benching, "_call", lambda _: next(times))
    trivial_bench(monkeypatch, np.ones(2))
    found = printed(capsys, "bench")["comparisons"]
    assert len(found) == 2
    assert found[0] == {
        "what": "what", "other": "other", "seconds": 1.0, "other_seconds": 3.0, "ratio": 2.0, "repeats": 3,
    }  # fmt: skip
    assert main(["bench"]) == 0
    output = capsys.readouterr().out
    assert "what  handgrad  against  its time  times as long  repeats\n" in output
    assert "note: scikit-learn is not installed" in output
    trivial_bench(monkeypatch, np.zeros(2))
    with pytest.raises(AssertionError, match="the two do not agree"):
        main(["bench"])


def trivial_bench(monkeypatch, theirs):
    comparison = benching.Comparison("what", "other", lambda: np.ones(2), lambda: theirs, benching._close)
    for name in ("_value_and_gradient", "_head"):
        monkeypatch.setattr(benching, name, lambda: comparison)
    monkeypatch.setattr(benching, "_fits", lambda: [])


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_what_a_bench_compares_agrees(capsys):
    pytest.importorskip("sklearn")
    found = printed(capsys, "bench", "--seconds", "1")["comparisons"]
    assert len(found) == 4
    assert all(each["ratio"] > 0 and each["repeats"] >= 3 for each in found)
