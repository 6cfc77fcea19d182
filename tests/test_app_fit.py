"""`handgrad fit`: how the penalty is chosen, what is fitted, and what Ctrl-C leaves."""

import csv
import io
import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import rich.console

import handgrad
from handgrad.app import choosing, fitting
from handgrad.app.choosing import HeldOut, choose, deal
from handgrad.app.cli import main
from handgrad.app.progress import Watch, watching
from handgrad.app.screen import Screen, make_screen
from handgrad.data import Table, read_table, split_and_scale
from handgrad.data.splitting import VALIDATION
from test_app import fails

L2S = np.array([1.0, 0.1, 0.01])


def only(path, best, last):
    """A path that does not go on."""
    return path[:0]


@pytest.fixture(autouse=True)
def wide_terminal(request, monkeypatch):
    """And no check of the gradient, but in one test: it compiles for seconds, for each shape of the data."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    if "certified_one" not in request.node.name:
        monkeypatch.setattr(fitting, "check_at", lambda *_: handgrad.GradientReport((), True, ""))


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """A .csv of two classes that overlap, with weights, groups and times, and its table."""
    path = tmp_path_factory.mktemp("points") / "points.csv"
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    X = (rng.normal(size=(120, 3)) + 0.7 * labels[:, None]).round(4)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "c", "weight", "group", "time", "kind"])
        for number, (row, label) in enumerate(zip(X.tolist(), labels, strict=True)):
            writer.writerow([*row, 1 + number % 3, f"g{number // 6}", number, ("no", "yes")[label]])
    return path


def run_fit(capsys, *arguments):
    """The metrics that the command prints."""
    assert main(["fit", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def blobs(num_rows=90, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) % 3
    X = (noise * rng.normal(size=(num_rows, 4)) + np.eye(3, 4)[labels]).astype(np.float32)
    return Table(X, labels=labels, class_names=("a", "b", "c"))


def held_out(table, folds=3):
    split = split_and_scale(table)
    return HeldOut(split.train, deal(table, split.rows.train, folds, 0), None, f"{folds} folds")


# --- The choice -------------------------------------------------------------------------------------------------------


def test_scores_are_the_losses_of_separate_fits_on_the_rows_they_leave_out():
    given = held_out(blobs())
    X, labels, _ = given.train
    choice = choose(given, 3, l2s=L2S, following=only)
    assert choice.l2s.tolist() == L2S.tolist()
    for l2, score in zip(L2S, choice.scores, strict=True):
        losses = []
        for out in given.rows.T:
            W, b = (
                np.asarray(array, np.float64)
                for array in handgrad.fit(X[~out], labels[~out], l2=l2, num_classes=3).params
            )
            Z = X[out] @ W + b
            losses.append(np.mean(np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(Z)), labels[out]]))
        np.testing.assert_allclose(score, np.mean(losses), rtol=1e-3)
    assert choice.best == np.argmin(choice.scores)


def test_a_validation_part_is_judged_with_its_weights():
    table = blobs()._replace(weights=np.linspace(0.1, 2, 90))
    split = split_and_scale(table, validation=0.3)
    choice = choose(HeldOut(split.train, None, split.validation, "others"), 3, l2s=L2S, following=only)
    X, labels, weights = split.validation
    W, b = handgrad.fit(*split.train[:2], weights=split.train.weights, l2=0.1).params
    Z = X @ np.asarray(W, np.float64) + np.asarray(b)
    losses = np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(Z)), labels]
    np.testing.assert_allclose(choice.scores[1], np.average(losses, weights=weights), rtol=5e-3)


@pytest.mark.parametrize(("noise", "edge", "bound"), [(1e3, "largest", 1.0), (1e-3, "smallest", 1e-4)])
def test_a_path_goes_on_to_its_bounds_where_the_best_stays_at_its_end(monkeypatch, noise, edge, bound):
    monkeypatch.setattr(choosing, "MOST", 1.0)
    monkeypatch.setattr(choosing, "LEAST", 1e-4)
    choice = choose(held_out(blobs(noise=noise)), 3)
    assert choice.edge == edge
    np.testing.assert_allclose(np.diff(np.log10(choice.l2s)), -0.5)
    assert choice.l2s[choice.best] == pytest.approx(bound)


def test_a_path_ends_where_float32_does():
    choice = choose(held_out(blobs(noise=1e-6)), 3)
    assert choice.edge == "smallest"
    assert 1e-7 < choice.l2s[-1] <= 1e-5
    assert choice.scores[-1] == choice.scores.min() < 1e-3


def test_a_path_goes_on_until_the_best_is_inside_it():
    given = held_out(blobs(), folds=5)
    far = choose(given, 3, l2s=10.0 ** -np.arange(5.0, 6.1, 0.5))
    near = choose(given, 3)
    assert far.edge is near.edge is None
    assert far.l2s[far.best] == pytest.approx(near.l2s[near.best])


def test_folds_have_every_row_once_and_every_class_and_no_group_twice():
    table = blobs()._replace(groups=np.arange(90, dtype=np.int32) // 6)
    rows = split_and_scale(table).rows.train
    out = deal(table, rows, 5, 0)
    assert (out.sum(axis=1) == 1).all()
    assert out.sum(axis=0).min() >= 6
    for group in np.unique(table.groups[rows]):
        assert out[table.groups[rows] == group].any(axis=0).sum() == 1
    out = deal(blobs(), rows, 4, 0)
    for of_fold in out.T:
        assert np.bincount(blobs().labels[rows][of_fold], minlength=3).min() >= 5


@pytest.mark.parametrize("num_rows", [4, 6, 8, 10, 14])
def test_few_rows_make_as_many_folds_as_there_may_be(num_rows):
    table = Table(np.random.default_rng(0).normal(size=(num_rows, 2)), labels=np.arange(num_rows) % 2)
    out = deal(table, np.arange(num_rows), 5, 0)
    assert out.shape[1] == min(5, num_rows // 2)
    assert (out.sum(axis=1) == 1).all()
    assert out.any(axis=0).all()
    grouped = table._replace(groups=np.arange(num_rows, dtype=np.int32) // (num_rows // 2))
    assert deal(grouped, np.arange(num_rows), 5, 0).shape[1] == 2


def test_scores_of_scikit_learn_are_those_of_its_scorer():
    metrics = pytest.importorskip("sklearn.metrics")
    given = held_out(blobs())
    X, labels, _ = given.train
    choice = choose(given, 3, scoring="f1_macro", l2s=L2S, following=only)
    scores = []
    for out in given.rows.T:
        params = handgrad.fit(X[~out], labels[~out], l2=1.0).params
        scores.append(metrics.f1_score(labels[out], handgrad.predict(params, X[out]), average="macro"))
    assert choice.scores[0] == pytest.approx(np.mean(scores))
    assert choice.best == np.argmax(choice.scores)


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_fit_is_the_certified_one_of_all_rows_but_the_test_rows(capsys, points, tmp_path):
    metrics = run_fit(capsys, points, "--target", "kind", "--keep", "a", "--keep", "b", "--out", tmp_path / "run")
    split = split_and_scale(read_table(points, target="kind", keep=["a", "b"]))
    expected = handgrad.fit(*split.train[:2], l2=metrics["l2"])
    found = handgrad.load(tmp_path / "run").params
    np.testing.assert_allclose(found.W, expected.params.W, atol=1e-6)
    assert (metrics["train_rows"], metrics["validation_rows"], metrics["test_rows"]) == (96, 0, 24)
    assert metrics["converged"] is metrics["gradient_check_passed"] is True
    assert 0 < metrics["gap"] <= 1e-5 * metrics["loss"]
    assert metrics["train_loss"] == pytest.approx(float(handgrad.loss(found, *split.train[:2])), rel=1e-5)
    assert metrics["path"]["held_out"] == "5 folds"
    assert metrics["l2"] == metrics["path"]["l2"][int(np.argmin(metrics["path"]["score"]))]
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {"model.safetensors", "metrics.json"}
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics


def test_weights_of_rows_and_of_classes_count(capsys, points, tmp_path):
    arguments = [points, "--target", "kind", "--drop", "group", "--drop", "time", "--weight", "weight", "--l2", "0.1"]
    table = read_table(points, target="kind", drop=["group", "time"], weight="weight")
    X, labels, weights = split_and_scale(table).train
    counts = np.bincount(labels, weights)
    for option, each in (
        ([], [1, 1]),
        (["--class-weight", "yes=3"], [1, 3]),
        (["--class-weight", "balanced"], counts.sum() / (2 * counts)),
    ):
        metrics = run_fit(capsys, *arguments, *option, "--out", tmp_path / "run", "--overwrite")
        expected = handgrad.fit(X, labels, l2=0.1, weights=weights, class_weights=each)
        np.testing.assert_allclose(handgrad.load(tmp_path / "run").params.W, expected.params.W, atol=1e-5)
        assert metrics["l2"] == 0.1
        assert "path" not in metrics


def test_later_rows_choose_and_test_where_there_is_a_time(capsys, points):
    arguments = ["--target", "kind", "--drop", "group", "--time", "time"]
    metrics = run_fit(capsys, points, *arguments)
    assert metrics["path"]["held_out"] == "the validation rows"
    assert metrics["train_rows"] == 96
    assert "--folds deals the rows whatever their --time" in fails(capsys, "fit", points, *arguments, "--folds", "3")


def test_sparse_rows_stay_sparse(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("handgrad.app.tables.require_memory", lambda *_: pytest.fail("it was made dense"))
    rng = np.random.default_rng(0)
    lines = [f"{row % 3} {1 + row % 3}:1 {4 + int(rng.integers(5))}:{rng.random():.3f}" for row in range(90)]
    (tmp_path / "t.svmlight").write_text("\n".join(lines))
    assert run_fit(capsys, tmp_path / "t.svmlight", "--out", tmp_path / "run")["test_accuracy"] == 1
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "t.svmlight")]) == 0


def test_a_class_that_is_not_trained_on_has_probability_0(capsys, tmp_path):
    # The latest rows alone have the third class.
    np.savez(tmp_path / "d.npz", X=np.random.default_rng(0).normal(size=(60, 2)), y=[*[0, 1] * 27, *[2] * 6],
             time=np.arange(60))  # fmt: skip
    metrics = run_fit(capsys, tmp_path / "d.npz", "--time", "time", "--out", tmp_path / "run")
    params = handgrad.load(tmp_path / "run").params
    assert np.isneginf(params.b[0, 2])
    assert metrics["test_loss"] is None
    assert metrics["train_loss"] < 0.7


def test_a_class_that_weighs_nothing_is_left_out_and_its_loss_is_said_to_be_infinite(capsys, points, monkeypatch):
    checked = []
    monkeypatch.setattr(
        fitting, "check_at", lambda _, part: checked.append(part) or handgrad.GradientReport((), True, "")
    )
    np.savez(points.parent / "three.npz", X=blobs().X, y=blobs().labels)
    metrics = run_fit(capsys, points.parent / "three.npz", "--class-weight", "1=0", "--l2", "0.1")
    assert metrics["train_loss"] is None
    assert set(checked[0].labels) == {0, 2}


def test_few_rows_choose_by_folds_and_fewer_choose_nothing(capsys, tmp_path):
    np.savez(tmp_path / "few.npz", X=np.arange(30.0)[:, None], y=np.arange(30) % 2)
    assert main(["fit", str(tmp_path / "few.npz"), "--folds", "0"]) == 0
    output = capsys.readouterr().out
    assert "note: a validation part of 2 rows would choose badly; 5 folds choose" in output
    assert "by log-loss on 5 folds" in output
    np.savez(tmp_path / "four.npz", X=np.arange(4.0)[:, None], y=np.arange(4) % 2)
    assert main(["fit", str(tmp_path / "four.npz")]) == 0
    assert "note: there are too few rows to choose a penalty by; l2 is 1/2\n" in capsys.readouterr().out


def test_a_path_of_which_nothing_converges_is_said(capsys, points, monkeypatch):
    monkeypatch.setattr(choosing, "MAX_ITERATIONS", 1)
    monkeypatch.setattr(fitting, "LEAST_VALIDATION", 5)
    assert main(["fit", str(points), "--target", "kind", "--drop", "group", "--folds", "0"]) == 0
    output = capsys.readouterr().out
    assert "note: no fit of the path has converged; l2 is 1/96\n" in output
    assert output.count(" to test") == 1


def test_a_validation_part_chooses_where_it_is_asked_for_and_all_is_fitted_then(capsys, monkeypatch, points):
    monkeypatch.setattr(fitting, "LEAST_VALIDATION", 5)
    metrics = run_fit(capsys, points, "--target", "kind", "--keep", "a", "--folds", "0")
    assert metrics["path"]["held_out"] == "the validation rows"
    assert (metrics["folds"], metrics["train_rows"], metrics["validation_rows"]) == (0, 96, 0)
    table = read_table(points, target="kind", keep=["a"])
    expected = handgrad.fit(*split_and_scale(table).train[:2], l2=metrics["l2"])
    assert metrics["loss"] == pytest.approx(expected.loss, rel=1e-5)
    split = split_and_scale(table, validation=VALIDATION)
    choice = choose(HeldOut(split.train, None, split.validation, "the validation rows"), 2)
    np.testing.assert_allclose(metrics["path"]["score"], choice.scores)


def test_a_fit_that_does_not_converge_says_so_and_is_exit_status_0(capsys, monkeypatch):
    monkeypatch.setattr(fitting, "MAX_ITERATIONS", 2)
    metrics = run_fit(capsys, "--l2", "0.001")
    assert metrics["converged"] is False
    assert "max_iterations=2 are used up" in metrics["message"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--l2", "0.1", "--folds", "3"], "--l2 is a penalty, and --folds and --scoring choose one"),
        (["--folds", "1"], "--folds must be 2 or more, or 0 for a validation part; got 1."),
        (["--scoring", "r2"], "--scoring must be a score of classes; got 'r2', which is one of numbers."),
        (["--scoring", "best"], "--scoring must be log-loss or one of scikit-learn's scores; got 'best'."),
        (["--class-weight", "ten=2"], "--class-weight must be balanced, or CLASS=WEIGHT with commas between them; got"),
        (["--l2", "-1"], "'--l2'"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, arguments, message):
    assert message in fails(capsys, "fit", *arguments)


def test_a_score_that_is_not_defined_and_rows_that_are_not_scored_are_told_by_name(capsys, tmp_path):
    rng = np.random.default_rng(0)
    names = np.array(["red", "green", "blue"])[np.arange(90) % 3]
    names[0] = "rare"
    with open(tmp_path / "colours.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["a", "b", "colour"],
                *([*row, name] for row, name in zip(rng.normal(size=(90, 2)).tolist(), names, strict=True)),
            ]
        )
    arguments = ["fit", tmp_path / "colours.csv", "--target", "colour"]
    said = fails(capsys, *arguments, "--scoring", "roc_auc")
    assert "--scoring roc_auc has no value for these rows" in said
    assert "For 4 classes there is roc_auc_ovr. log-loss and accuracy always have one." in said
    assert "--scoring neg_log_loss has no value for these rows" in fails(
        capsys, *arguments, "--scoring", "neg_log_loss"
    )
    assert main([*map(str, arguments)]) == 0
    note = "note: 1 row is left out of the validation loss, being of classes (rare) that the rows trained on lack.\n"
    assert note in capsys.readouterr().out


# --- Progress, and its end --------------------------------------------------------------------------------------------


def test_progress_comes_after_a_second_with_the_time_left(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    watch = Watch(make_screen(), "fitting")
    for clock[0], share in ((0.5, 0.1), (1.0, 0.25), (2.0, 0.5), (4.0, 0.4)):
        assert not watch(share, "so far")
    assert capsys.readouterr().out == "fitting: so far, 3 s left\nfitting: so far, 4 s left\n"


@pytest.mark.parametrize("width", [100, 60, 40])
def test_on_a_terminal_progress_is_a_bar_that_goes_away(monkeypatch, width):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    terminal = io.StringIO()
    console = rich.console.Console(file=terminal, force_terminal=True, width=width)
    with watching(Screen(console, False), "choosing the penalty") as watch:
        watch(0.1)
        assert terminal.getvalue() == ""
        clock[0] = 2.0
        watch(0.5, "12 of 25 fits with l2 from 0.00032 to 1e-05")
        watch.bar.refresh()
        assert "2 s left, 12 of" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")  # the line is cleared


def test_a_fit_s_share_is_that_of_the_way_that_the_gap_falls():
    watch = Watch(make_screen(quiet=True), "fitting")
    of_gap = watch.of_gap(1e-4)
    shares = []
    for gap in (1.0, 1e-2, 1e-1, 1e-4, 1e-5):
        of_gap(1, 1.0, gap)
        shares.append(watch.share)
    assert shares == pytest.approx([0, 0.5, 0.5, 1, 1])


def test_the_first_interruption_asks_and_the_second_ends():
    with watching(make_screen(quiet=True), "fitting") as watch:
        signal.raise_signal(signal.SIGINT)
        assert watch(0.5)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("stage", ["choose", "fit_part"])
def test_what_is_done_is_kept_at_an_interruption(capsys, monkeypatch, tmp_path, stage):
    # Pressed where the solver tells how far it is in the second part of the path, or in the tenth iteration of the fit.
    pressed = []

    def press(watch, share, words=""):
        if ("l2 from 0.00032" if stage == "choose" else "iteration 10,") in words and not pressed:
            pressed.append(words)
            signal.raise_signal(signal.SIGINT)
        return watch.asked

    monkeypatch.setattr(Watch, "__call__", press)
    assert main(["fit", "--out", str(tmp_path / "run")]) == 130
    output = capsys.readouterr()
    assert output.err == "handgrad: interrupted\n"
    assert "interrupted: what is done is kept; once more ends it at once" in output.out
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["converged"] is (stage == "choose")
    assert metrics["test_accuracy"] > 0.8
    assert len(metrics["path"]["l2"]) >= 5
    assert metrics["path"]["held_out"] == "5 folds"  # of 1,438 rows
    assert metrics["path"]["edge"] is None
    if stage == "fit_part":
        assert "the fit was ended before its time: the loss is certified to be within" in metrics["message"]
    model = handgrad.load(tmp_path / "run")
    assert np.isfinite(model.params.W).all()


@pytest.mark.slow
def test_an_interruption_before_anything_is_found_leaves_a_checkpoint(tmp_path):
    program = (
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from handgrad.app import cli, progress\n"
        "def press(watch, share, words=''):\n    signal.raise_signal(signal.SIGINT)\n    return watch.asked\n"
        "progress.Watch.__call__ = press\nsys.argv[1:] = ['fit', '--out', 'run']\nsys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "handgrad: interrupted\n")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["unfinished"]


@pytest.mark.parametrize("command", [["fit", "--l2", "0.01"], ["train", "--epochs", "3"]], ids=str)
def test_weights_count_by_their_ratios_at_any_size(tmp_path, capsys, command):
    rng = np.random.default_rng(0)
    x, ratio = rng.normal(size=(200, 2)), rng.integers(1, 4, size=200)
    found = []
    for number, unit in enumerate((1.0, 2.0**1020, 2.0**-1020)):
        path = tmp_path / f"{number}.csv"
        rows = [
            f"{a!r},{b!r},{unit * r!r},{'yes' if a + b > 0 else 'no'}"
            for (a, b), r in zip(x.tolist(), ratio.tolist(), strict=True)
        ]
        path.write_text("\n".join(["a,b,w,y", *rows]) + "\n")
        assert main([*command, str(path), "--target", "y", "--weight", "w", "--json"]) == 0
        metrics = json.loads(capsys.readouterr().out)
        found.append([metrics[name] for name in ("test_loss", "train_loss", "baseline_loss", "test_accuracy")])
    assert found[1:] == [found[0]] * 2
