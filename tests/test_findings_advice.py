"""What findings say of a cause, and what they advise: no cause told twice, no option that the command has not."""

import re

import numpy as np
import pytest
import typer.main

import handgrad
from handgrad.app.findings import LOOKS, find
from handgrad.app.findings.finding import count
from handgrad.app.program import app
from handgrad.app.runs import Choice, class_shares
from handgrad.app.tables import as_class_weights
from handgrad.app.words import in_own_words
from handgrad.data import Column, Table
from handgrad.models import Model, probabilities
from test_findings import ROWS, evaluate, findings_of, learnable, run_of, table_of


def imbalanced(rows=2000, seed=0):
    """Columns of which two tell who is of a rare class."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 4))
    labels = (rng.random(rows) < 1 / (1 + np.exp(4 - X @ [2, 1, 0, 0]))).astype(np.int32)
    return {f"x{index}": Column("number", X[:, index]) for index in range(4)}, labels


def weighted(run, text):
    """The run as it is with weights of classes."""
    train = run.split.train
    weights = as_class_weights(text, train, run.model.class_names)
    params = handgrad.fit(train.X, train.labels, l2=1e-3, class_weights=weights).params
    model = Model(params, run.split.encoding, run.table.class_names, run.table.target)
    settings = {**run.settings, "class_weight": text}
    return run._replace(model=model, Y=probabilities(params, run.split.test.X), settings=settings)


def test_what_weights_of_classes_cost_is_told_as_theirs():
    run = run_of(table_of(*imbalanced()), l2=1e-3)
    assert "no-better-than-best-feature" not in findings_of(run)
    for text in ("balanced", "1=30"):
        found = findings_of(weighted(run, text))
        assert "--class-weight" in found["no-better-than-majority"].advice
        assert "recall" in found["no-better-than-majority"].advice
        # The feature alone has not been weighted so: what is compared are losses without these weights.
        assert not {"no-better-than-best-feature", "train-test-gap"} & set(found)
    found = findings_of(weighted(run, "1=300"))["miscalibrated"]
    assert "--class-weight does that" in found.advice


@pytest.mark.parametrize("seed", range(6))
def test_noise_is_told_as_one_thing(seed):
    rng = np.random.default_rng(seed)
    columns = {f"x{index}": Column("number", rng.normal(size=ROWS)) for index in range(4)}
    for share in (0.5, 0.05):
        labels = (rng.random(ROWS) < share).astype(np.int32)
        found = findings_of(run_of(table_of(columns, labels), l2=0.3))
        assert set(found) == {"no-better-than-majority"}
        assert "Nothing was learnt" in found["no-better-than-majority"].advice


def test_a_leak_is_told_as_one_thing():
    columns, labels = learnable()
    columns["leak"] = Column("number", labels + 0.01 * np.random.default_rng(0).normal(size=ROWS))
    found = findings_of(run_of(table_of(columns, labels), l2=1.0))
    assert "leakage" in found
    assert "no-better-than-best-feature" not in found
    assert "--drop leak" in found["leakage"].advice


def test_a_training_that_learns_nothing_of_what_there_is_is_told_to_try_another_rate():
    columns, labels = learnable()
    params = handgrad.init_params(4, 2)
    run = run_of(table_of(columns, labels), l2=0.0, params=params)._replace(fitted=None, command="train", best=0)
    found = findings_of(run)
    for code in ("no-better-than-majority", "no-better-than-best-feature"):
        assert "--learning-rate" in found[code].advice
    assert "smaller l2" in findings_of(run_of(table_of(columns, labels), l2=1e6))["no-better-than-majority"].advice
    rng = np.random.default_rng(0)
    noise = {name: Column("number", rng.normal(size=ROWS)) for name in columns}
    run = run_of(table_of(noise, labels), l2=0.01, params=params)._replace(fitted=None, command="train", best=0)
    assert "look for features" in findings_of(run)["no-better-than-majority"].advice


def test_rows_count_by_their_weights():
    columns, labels = learnable()
    weights = np.where(np.abs(columns["x0"].values) > 1, 100.0, 1e-6)
    run = run_of(table_of(columns, labels, weights=weights), l2=300.0)
    found = findings_of(run)["no-better-than-best-feature"]
    shares = class_shares(run.split.train.labels, run.split.train.weights, 2)
    evaluation = evaluate(run.Y, run.split.test.labels, shares, run.split.test.weights)
    assert found.evidence["loss"] == pytest.approx(evaluation.loss, rel=1e-6)


@pytest.mark.filterwarnings("ignore:fit. the classes can be separated")
def test_a_fit_without_a_penalty_is_told_to_take_one():
    columns, labels = learnable(noise=0.0)
    found = findings_of(run_of(table_of(columns, labels), l2=0.0))["not-converged"]
    assert "Leave --l2 out" in found.advice


def test_what_the_library_says_has_the_names_of_the_classes_and_no_argument_of_python():
    message = "float32 goes no further: within 1.5e-06 nats, and tol=1e-05 asks for less. Use float64 (jax.enable_x64)."
    assert in_own_words(message, ()) == message.partition(" Use")[0]
    message = "1 rows are left out, being of classes (0, 2) that the rows lack. Stratify the folds, or use fewer."
    assert in_own_words(message, "abc") == "1 row is left out, being of classes (a, c) that the rows lack."
    assert count(1, "row", "rows") == "1 row"


def all_kinds():
    """Runs in which each finding appears."""
    rng = np.random.default_rng(2)
    columns, labels = learnable()
    twice = labels.copy()
    twice[:5] = 2
    days = Column("date", np.arange(ROWS, dtype=float))
    leaky = columns | {"a leak": Column("number", labels * 1.0), "still": Column("number", np.ones(ROWS)), "day": days}
    leaky |= {"again": Column("number", 2 - columns["x0"].values)}
    names = np.array([f"p{index % 99}" for index in range(ROWS)])
    noise = {f"x{index}": Column("number", rng.normal(size=ROWS)) for index in range(90)}
    yield run_of(table_of(leaky, twice, ids={"who is it": names}), l2=1e-5)
    yield run_of(table_of(*learnable(rows=60)), l2=1e-4)
    yield run_of(table_of(noise, labels), l2=1e-5)
    yield run_of(table_of(columns | {"z": Column("number", 3.0 * labels + rng.normal(size=ROWS))}, labels), l2=3.0)
    yield run_of(table_of(*imbalanced()), scale=[1, 1, 1000, 1000])
    yield weighted(run_of(table_of(*imbalanced())), "1=300")
    run = run_of(table_of(*learnable(rows=4000)))
    for factor in (4, 0.2):
        W, b = (np.asarray(array) * factor for array in run.model.params)
        model = run.model._replace(params=handgrad.Params(W, b))
        yield run._replace(model=model, Y=probabilities(model.params, run.split.test.X))
    for message in ("float32 goes no further.", "max_iterations=3 are used up."):
        yield run._replace(fitted=run.fitted._replace(converged=False, message=message))
    arrays = Table(X=np.stack([labels, rng.normal(size=ROWS)], axis=1), labels=labels, class_names=("a", "b"))
    yield run_of(arrays)


def test_options_that_findings_name_are_those_of_the_command():
    commands = typer.main.get_command(app).commands
    l2s, scores = np.array([1.0, 0.1, 0.01]), np.array([0.5, 0.4, 0.45])
    codes = set()
    for run in all_kinds():
        for command in ("fit", "train", "probe"):
            for choice in (
                None,
                *(Choice(l2s, scores, by, "5 folds", best) for by, best in (("log-loss", 2), ("f1", 0))),
            ):
                if command == "train" and choice is not None:
                    continue
                settings = {**run.settings, "folds": 0 if choice is not None else None}
                if command == "probe":
                    settings["class_weight"] = None
                changed = run._replace(command=command, settings=settings, choice=choice)
                shares = class_shares(run.split.train.labels, None, len(run.model.class_names))
                for finding in find(changed, evaluate(run.Y, run.split.test.labels, shares)):
                    if command == "probe" and finding.code in ("group-overlap", "time-overlap"):
                        continue  # embeddings have neither
                    codes.add(finding.code)
                    text = f"{finding.says} {finding.advice}"
                    for part in re.split(r"(`handgrad \w+[^`]*`)", text):
                        named = part.strip("`").split()[1] if part.startswith("`handgrad") else command
                        has = {option for each in commands[named].params for option in each.opts}
                        wrong = set(re.findall(r"(?<![\w-])--[a-z0-9-]+", part)) - has
                        if changed.table.columns is None:
                            wrong |= {"--drop"} & set(re.findall(r"--[a-z-]+", part))
                        assert not wrong, (command, finding)
    assert len(codes) >= len(LOOKS)
