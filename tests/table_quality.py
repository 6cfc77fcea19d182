"""How good the certified fit and gradient descent are by their defaults on a real table, beside scikit-learn."""

import contextlib
import io
import json
import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

import known_tables
from handgrad.app.cli import main
from handgrad.data import read_table, split_and_scale


class Quality(NamedTuple):
    """The log-loss of the rows to test, in nats.

    Attributes:
      shares: of the shares of the classes alone.
      reference, error: of scikit-learn's LogisticRegressionCV, and its standard error.
      fit, train: of `handgrad fit` and `handgrad train`.
      epoch: which epoch that has kept.
    """

    shares: float
    reference: float
    error: float
    fit: float
    train: float
    epoch: int


def measure(name: str, folder: Path) -> Quality:
    """Both by their defaults, as a person runs them; LogisticRegressionCV on the rows that `handgrad fit` has."""
    from sklearn.linear_model import LogisticRegressionCV

    path, target, needed = known_tables.write(name, folder)
    table = read_table(path, target=target, **needed)
    split = split_and_scale(table)
    (X, labels, _), test = split.train, split.test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of folds that lack a class, and iterations that are used up
        model = LogisticRegressionCV(Cs=np.logspace(-4, 4, 17), scoring="neg_log_loss", max_iter=5000).fit(X, labels)
    Y = np.zeros((len(test.labels), len(table.class_names)))
    Y[:, model.classes_] = model.predict_proba(test.X)
    with np.errstate(divide="ignore"):
        losses = -np.log(Y[np.arange(len(Y)), test.labels])
        shares = -np.log(np.bincount(labels, minlength=Y.shape[1]) / len(labels))[test.labels]
    fitted, trained = (_run(command, path, target, needed) for command in ("fit", "train"))
    return Quality(
        float(shares.mean()),
        float(losses.mean()),
        float(losses.std(ddof=1) / math.sqrt(len(losses))),
        fitted["test_loss"],
        trained["test_loss"],
        trained["best_epoch"],
    )


def _run(command: str, path: Path, target: str, needed: dict) -> dict:
    """The metrics of `handgrad fit` or `handgrad train`."""
    columns = [text for name in ("drop", "ids") for each in needed.get(name, ()) for text in (_flag(name), each)]
    missing = ["--missing", needed["missing"]] if "missing" in needed else []
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main([command, str(path), "--target", target, *columns, *missing, "--json"])
    if status:
        raise RuntimeError(f"handgrad {command} {path.name} ended with status {status}.")
    return json.loads(printed.getvalue())


def _flag(name: str) -> str:
    return {"ids": "--id"}.get(name, f"--{name}")
