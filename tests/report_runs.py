"""Runs of many kinds, for reports to be made of."""

import functools

import jax
import numpy as np

import handgrad
from handgrad.app.checking import check_at
from handgrad.app.evaluation import evaluate
from handgrad.app.findings import Finding
from handgrad.app.report.page import render
from handgrad.app.runs import Choice, Run, class_shares, metrics_of
from handgrad.data import Table, load_digits, split_and_scale
from handgrad.data.splitting import VALIDATION
from handgrad.data.tables import Column
from handgrad.formulas import Params
from handgrad.models import Model, probabilities
from handgrad.solvers.results import FitResult

FINDING = Finding(
    "rare-classes", "Two classes <b>& more</b> have 3 rows.", {"rows": 3, "share": 0.012}, "Get more rows."
)
NASTY = (
    "<script>alert(1)</script>",
    "x" * 200,
    "ثلاثة وعشرون",
    "👩‍🔬 emoji",
    "\x1b[31mred\x00",
    "a\u202eb",
    '" onload="x',
    "{{ 7 * 7 }}",
)


def run_of(table, params, *, command="fit", **more):
    """A run of these parameters; its split has validation rows where it is a training."""
    split = more.pop("split", None) or split_and_scale(table, validation=VALIDATION if command == "train" else 0.0)
    encoding = split.encoding
    return Run(
        command=command,
        settings={"data": "a & b.csv", "l2": 0.01, "hidden": [], "batch_size": None, "seed": 0},
        table=table,
        split=split,
        model=Model(params, encoding, table.class_names, table.target),
        Y=more.pop("Y", None) if "Y" in more else probabilities(params, split.test.X),
        train_loss=0.25,
        seconds=1.5,
        **more,
    )


def page_of(run, findings=(), arguments=("fit", "a & b.csv")):
    """(page, metrics, evaluation) of a run."""
    shares = class_shares(run.split.train.labels, run.split.train.weights, len(run.model.class_names))
    evaluation = evaluate(run.Y, run.split.test.labels, shares, run.split.test.weights)
    metrics = metrics_of(run, evaluation, tuple(findings), arguments)
    return render(run, metrics), metrics, evaluation


def fitted(params, l2=0.01, gap=3e-7, **more):
    values = {"loss": 0.3, "gradient_norm": 2e-9, "iterations": 12, "passes": 20, "converged": True}
    values["message"] = "the loss is certified to be within 3e-07 nats of the optimum, 1e-06 of it."
    return FitResult(params=params, gap=gap, l2=l2, **values | more)


def choice():
    l2s = 10.0 ** np.arange(1, -6, -1.0)
    return Choice(l2s, 0.2 + 0.05 * (np.log10(l2s) + 2) ** 2, "log-loss", "the validation rows", 3)


def drawn(num_features, num_classes, scale=0.5, seed=0):
    """Parameters that nobody has fitted."""
    generator = np.random.default_rng(seed)
    W = scale * generator.normal(size=(num_features, num_classes)).astype(np.float32)
    return Params(W - W.mean(axis=1, keepdims=True), np.zeros((1, num_classes), np.float32))


@functools.cache
def digits_trained():
    table = load_digits()
    split = split_and_scale(table, validation=VALIDATION)
    params = handgrad.init_params(64, 10)
    validation = (split.validation.X, split.validation.labels)
    first = check_at(params, split.train)
    params, history = handgrad.train(
        split.train.X, split.train.labels, learning_rate=0.5, batch_size=32, epochs=12, validation=validation
    )[:2]
    checks = (first, check_at(params, split.train))
    best = int(np.argmin([epoch.validation_loss for epoch in history])) + 1
    return run_of(table, params, command="train", split=split, history=history, checks=checks, best=best)


@functools.cache
def digits_fitted():
    table = load_digits()
    split = split_and_scale(table)
    found = handgrad.fit(split.train.X, split.train.labels, l2=1e-3)
    return run_of(table, found.params, split=split, fitted=found, choice=choice())


@functools.cache
def network():
    table = load_digits()
    split = split_and_scale(table, validation=VALIDATION)
    params = handgrad.init_network(jax.random.key(0), (64, 16, 10), "relu")
    history = (handgrad.Epoch(1, 1.5, 1.25, 0.75),)
    return run_of(table, params, command="train", split=split, history=history, best=1)


def columns(num_rows=400, num_classes=2, seed=0, class_names=None):
    """A table of a number, a date, a boolean and texts, with values missing."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_rows) % num_classes
    size = generator.normal(size=num_rows) + labels / num_classes
    size[::17] = np.nan
    town = generator.integers(3, size=num_rows).astype(np.int32)
    return Table(
        columns={
            "size <cm>": Column("number", size),
            "born": Column("date", 18000.0 + generator.integers(4000, size=num_rows)),
            "member": Column("boolean", generator.integers(2, size=num_rows)),
            "town": Column("text", town, ("Bonn", "Ulm", "ثلاثة")),
        },
        labels=labels.astype(np.int32),
        class_names=class_names or tuple(f"kind {index}" for index in range(num_classes)),
        target="kind",
        missing="indicator",
        ids={"id": np.array([f"p{row}" for row in range(num_rows)])},
        left_out=("notes & remarks",),
        notes=("a separator was found out: ';'",),
    )


@functools.cache
def named_two():
    table = columns()
    split = split_and_scale(table)
    found = handgrad.fit(split.train.X, split.train.labels, l2=1e-2)
    return run_of(table, found.params, split=split, fitted=found, choice=choice())


@functools.cache
def nasty():
    table = columns(num_classes=len(NASTY), class_names=NASTY)
    split = split_and_scale(table)
    return run_of(table, drawn(split.train.X.shape[1], len(NASTY)), split=split, fitted=fitted(None))


def many(num_classes, num_features=30, rows_each=10):
    """Blobs of many classes, some of which overlap, told by their means."""
    generator = np.random.default_rng(1)
    means = 0.5 * generator.normal(size=(num_classes, num_features))
    labels = np.repeat(np.arange(num_classes), rows_each).astype(np.int32)
    X = (means[labels] + generator.normal(size=(len(labels), num_features))).astype(np.float32)
    table = Table(X=X, labels=labels, class_names=tuple(f"species {index + 1}" for index in range(num_classes)))
    split = split_and_scale(table)
    encoding = split.encoding
    W = ((means - encoding.offset) * encoding.scale).T.astype(np.float32)
    params = Params(W, -0.5 * (W**2).sum(axis=0, keepdims=True))
    return run_of(table, params, split=split, fitted=fitted(params), choice=choice())
