"""What `handgrad train` decides and says: the epoch that it keeps, odd settings, class weights, what a check costs."""

import csv
import io
import itertools
import json
import re

import numpy as np
import pytest
import rich.console

import handgrad
import known_tables
from handgrad.app.checking import OF_AUTOGRAD, budget_of_each, check_at, multiplications
from handgrad.app.cli import main
from handgrad.app.program import OPTIMIZERS, SCHEDULES
from handgrad.app.screen import Screen, make_screen
from handgrad.app.tables import as_class_weights
from handgrad.app.training import say_kept, show_epochs
from handgrad.data import Part, load_digits, split_and_scale
from handgrad.data.splitting import VALIDATION
from test_app import fails


def train(capsys, *arguments):
    """What is printed; with --json the metrics."""
    assert main(["train", *map(str, arguments)]) == 0
    printed = capsys.readouterr().out
    return json.loads(printed) if "--json" in arguments else printed


def write_table(path, X, classes):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([[*(f"x{i}" for i in range(X.shape[1])), "kind"]])
        csv.writer(file).writerows([[*row, kind] for row, kind in zip(X.tolist(), classes, strict=True)])
    return path


# --- The epoch that is kept -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_breast_cancer_ends_as_good_as_at_its_best_epoch(tmp_path, capsys):
    path, target, _ = known_tables.write("breast_cancer", tmp_path)
    metrics = train(capsys, path, "--target", target, "--json")
    losses = [epoch["validation_loss"] for epoch in metrics["history"]]
    best = metrics["best_epoch"]
    assert best == np.argmin(losses) + 1
    assert best + 20 <= len(losses) < metrics["epochs"] == 200
    assert metrics["test_loss"] < 0.1
    printed = train(capsys, path, "--target", target)
    assert f"Epoch {best} of 200 is kept, with the least loss of the 57 rows to watch, {min(losses):.4f}." in printed
    assert f"The training ended after {len(losses)}, for want of a better one." in printed
    assert f"parameters       those of epoch {best} of {len(losses)}" in printed
    assert f"test loss        {metrics['test_loss']:.4f}" in printed


def test_patience_0_goes_on_to_the_end_and_others_end_before(capsys):
    settings = ["--epochs", "9", "--learning-rate", "1e6", "--json"]
    assert len(train(capsys, *settings, "--patience", "0")["history"]) == 9
    assert len(train(capsys, *settings, "--patience", "4", "--schedule", "constant")["history"]) == 4


def test_a_plateau_is_left_from_the_best_epoch_on_at_a_tenth_of_the_rate(capsys):
    settings = ["--epochs", "40", "--learning-rate", "5", "--patience", "2", "--json"]
    first = train(capsys, *settings, "--schedule", "constant")
    both = train(capsys, *settings)
    history, turn = both["history"], len(first["history"])
    assert first["best_epoch"] + 2 == turn < len(history)
    assert history[:turn] == first["history"]
    assert [epoch["epoch"] for epoch in history] == list(range(1, len(history) + 1))
    losses = [epoch["validation_loss"] for epoch in history]
    assert both["best_epoch"] == np.argmin(losses) + 1 > turn
    # The first epoch after the turn begins at the best of those before, not at the last.
    assert history[turn]["loss"] < first["history"][first["best_epoch"]]["loss"]


def test_a_learning_rate_that_is_absurd_is_said_and_what_it_comes_to_is_not_kept(capsys):
    printed = train(capsys, "--learning-rate", "1e6", "--epochs", "9", "--patience", "3")
    assert "note: --learning-rate 1e+06 is 5.8e+06 times 0.17, which suits these data; the loss may rise" in printed
    assert "No epoch of 9 was better on the 179 rows to watch than the start, which is kept: nothing is lea" in printed
    assert "test loss        2.3026 nats" in printed
    printed = train(capsys, "--learning-rate", "1e-6", "--epochs", "1")
    assert "note: --learning-rate 1e-06 is 5.8e-06 times 0.17, which suits these data; little will be learnt" in printed
    for rate in ("0.5", "0.01"):
        printed = train(capsys, "--learning-rate", rate, "--epochs", "1")
        assert "note:" not in printed
    assert "It was still falling: more --epochs may do better." in printed


def test_a_schedule_goes_down_to_nothing_in_all_epochs(capsys):
    drops = []
    for schedule in ("plateau", "linear"):
        metrics = train(capsys, "--schedule", schedule, "--epochs", "4", "--json")
        assert metrics["schedule"] == schedule
        drops.append(-np.diff([epoch["validation_loss"] for epoch in metrics["history"]])[-1])
    assert drops[0] > 2 * drops[1] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_optimizer_learns_with_every_schedule(capsys, optimizer, schedule):
    metrics = train(capsys, "--optimizer", optimizer, "--schedule", schedule, "--epochs", "20", "--json")
    assert metrics["test_loss"] < 1.6


# --- Few rows ---------------------------------------------------------------------------------------------------------


def test_six_rows_and_a_class_of_one_row_are_trained_on_and_what_is_missing_is_said(tmp_path, capsys):
    path = write_table(tmp_path / "six.csv", np.arange(12.0).reshape(6, 2) ** 1.5, ["a", "b", "a", "b", "a", "c"])
    printed = train(capsys, path, "--target", "kind")
    assert "note: not tested, for want of rows: the classes 'c' (1)" in printed
    assert "note: no rows are left to watch: the best epoch is told by those that are trained on" in printed
    assert "test accuracy" in printed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_model_that_is_worse_than_the_shares_of_the_classes_is_said_to_be(tmp_path, capsys, seed):
    generator = np.random.default_rng(seed)
    kinds = np.where(generator.random(120) < 0.2, "rare", "usual")
    path = write_table(tmp_path / "noise.csv", generator.normal(size=(120, 30)), kinds)
    metrics = train(capsys, path, "--target", "kind", "--json")
    codes = [finding["code"] for finding in metrics["findings"]]
    assert metrics["test_loss"] < metrics["baseline_loss"] or "no-better-than-majority" in codes


def test_why_a_training_ended_and_a_loss_above_that_of_the_start_are_said(capsys):
    history = tuple(handgrad.Epoch(epoch, 1.0, 0.5, 1.0) for epoch in (1, 2, 3))
    for interrupted, words in ((True, "as it was asked to."), (False, "for want of a better one.")):
        say_kept(make_screen(), history, 1, 9, 6, (0.7, 0.6), interrupted=interrupted)
        said = capsys.readouterr().out
        assert said.startswith("Epoch 1 of 9 is kept, with the least loss of the 6 rows to watch, 0.5000. The training")
        assert said.endswith(f" ended after 3, {words}\n")
    # A row to watch may be right by chance however absurd the parameters are.
    say_kept(make_screen(), history, 2, 9, 6, (0.6931, 1e30), interrupted=False)
    assert (
        "note: the loss of the rows trained on, 1e+30, is above that of the start, 0.6931." in capsys.readouterr().out
    )


# --- Weights of classes -----------------------------------------------------------------------------------------------


def test_balanced_weights_are_those_of_scikit_learn():
    utils = pytest.importorskip("sklearn.utils")
    labels, w = np.array([0, 0, 0, 1, 2, 2]), np.array([1.0, 2.0, 0.5, 3.0, 1.0, 1.0])
    for weights in (None, w):
        found = as_class_weights("balanced", Part(np.zeros((6, 1)), labels, weights), ("a", "b", "c"))
        counts = np.bincount(labels, weights)
        np.testing.assert_allclose(found, counts.sum() / (3 * counts))
    plain = as_class_weights("balanced", Part(np.zeros((6, 1)), labels, None), ("a", "b", "c"))
    np.testing.assert_allclose(plain, utils.compute_class_weight("balanced", classes=np.arange(3), y=labels))


def test_weights_by_name_take_names_as_they_are():
    part, names = Part(np.zeros((1, 1)), np.zeros(1, int), None), ("a,b", "x=1", 3, True)
    found = as_class_weights("x=1=2e1,a,b=0.5,3=0", part, names)
    assert found.tolist() == [0.5, 20.0, 0.0, 1.0]
    assert as_class_weights(None, part, names) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("z=1", "--class-weight must be balanced, or CLASS=WEIGHT with commas between them; got 'z=1', with 'z' for"),
        ("balance", "got 'balance', with 'balance' for a class of 0, 1, 2, 3"),
        ("", "got '', with '' for a class of"),
        ("1=2,,", "got '1=2,,', with ',' for a class of"),
        (",".join(f"{c}=0" for c in range(10)), "--class-weight must leave weight to a row; got '0=0,1=0,2=0"),
        ("1=x", "--class-weight must have finite weights, 0 or more; got 'x' for '1'."),
        ("1=-1", "--class-weight must have finite weights, 0 or more; got '-1' for '1'."),
        ("1=nan", "--class-weight must have finite weights, 0 or more; got 'nan' for '1'."),
    ],
)
def test_wrong_weights_of_classes_are_one_line(capsys, text, message):
    assert message in fails(capsys, "train", "--class-weight", text)


def test_a_class_that_weighs_more_is_found_more_often(capsys):
    recalls = []
    for weight in ([], ["--class-weight", "8=20"]):
        metrics = train(capsys, "--epochs", "2", *weight, "--json")
        assert metrics["class_weight"] == (weight[1] if weight else None)
        recalls.append(metrics["per_class"][8]["recall"])
    assert recalls[0] + 0.05 < recalls[1]


# --- What a check costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (64,)])
@pytest.mark.parametrize(("num_features", "num_classes"), [(4, 3), (64, 10), (30, 3000), (2000, 200), (10**4, 10**4)])
def test_two_checks_cost_a_tenth_of_the_training_or_a_tenth_of_a_second(num_features, num_classes, hidden):
    sizes = (num_features, *hidden, num_classes)
    weights = sum(a * b for a, b in itertools.pairwise(sizes))
    shapes = [np.broadcast_to(np.float32(0), pair) for pair in itertools.pairwise(sizes)]
    params = tuple(handgrad.Layer(handgrad.Params(W, W[:1]), "relu") for W in shapes)
    for rows, epochs in ((100, 1), (6000, 31), (10**6, 200)):
        budget = budget_of_each(params, rows, epochs)
        allowed = max(0.1 * 3 * rows * epochs * weights, 2 * 2**27)
        checked = [each for each in (2, 4, 8, 16, 32, 64, 128, 256, 512) if multiplications(params, each) <= budget]
        assert 2 * budget <= allowed
        assert checked or 2 * multiplications(params, 2) <= 0.2 * 3 * 6000 * 31 * weights  # two rows at the least


@pytest.mark.parametrize("classes", [10, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_check_costs_what_is_counted(monkeypatch, classes):
    seen = []
    real = handgrad.check_gradients

    def check(params, X, targets, **own):
        seen.append(len(X))
        return real(params, X, targets, **own)

    monkeypatch.setattr(handgrad, "check_gradients", check)
    part, features, epochs = split_and_scale(load_digits(), validation=VALIDATION).train, 64, 31
    if classes == 3000:
        part, features = Part(np.ones((6000, 30), np.float32), np.arange(6000) % 3000, None), 30
    params = handgrad.init_params(features, classes)
    budget = budget_of_each(params, len(part.labels), epochs)
    report = check_at(params, part, budget=budget)
    assert report.passed
    entries = sum(check.entries for check in report.checks if check.reference == "differences")
    done = seen[0] * features * classes * (4 * entries + OF_AUTOGRAD)
    assert done <= multiplications(params, seen[0]) <= budget
    assert seen[0] >= 16
    if classes == 3000:
        assert 2 * done <= 0.1 * 3 * 6000 * epochs * features * classes


@pytest.mark.parametrize(
    ("width", "has_bar", "has_accuracy"), [(100, True, True), (70, False, True), (40, False, False)]
)
def test_a_narrow_terminal_shows_the_epoch_and_the_time_left(width, has_bar, has_accuracy):
    terminal = io.StringIO()
    screen = Screen(rich.console.Console(file=terminal, force_terminal=True, width=width), False)
    with show_epochs(screen, 400) as show_epoch:
        show_epoch(handgrad.Epoch(300, 0.5, 0.5, 0.75))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"epoch +300/400 .*(-:--:--|0:00:00) loss 0.5000", shown)
    assert ("━" in shown, "accuracy 75.00%" in shown) == (has_bar, has_accuracy)
