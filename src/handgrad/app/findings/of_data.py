"""Findings about the data: what tells too much, what is too little, what stands on both sides of the split."""

from __future__ import annotations

import shlex

import numpy as np

from handgrad.app.findings.finding import Facts, Finding, count
from handgrad.data.measuring import constant_columns
from handgrad.data.naming import join
from handgrad.data.tables import DATES

RARE = 10  # rows to train on
WIDE = 0.1  # half of an interval of the accuracy
MOST_COMPARED = 2000  # features, each with each
COMPARED_ROWS = 5000
SAME = 1 - 1e-6  # a correlation


def leakage(facts: Facts) -> Finding | None:
    """A feature that is nearly the answer."""
    telling = [each for each in facts.features if each.is_nearly_the_answer]
    if not telling:
        return None
    shares = {each.name: round(each.explained, 4) for each in telling}
    return Finding(
        "leakage",
        f"One feature alone explains {telling[0].explained:.0%} of the classes' entropy on the test rows: "
        f"{join([each.name for each in telling])}.",
        {"explained": shares},
        f"Ask whether it is known before the class is. If not, leave it out{facts.leave_out(telling[0].name)}, and fit "
        "again.",
    )


def group_overlap(facts: Facts) -> Finding | None:
    """Ids that stand in several rows, on both sides of the split."""
    table, split = facts.run.table, facts.run.split
    shares = {}
    for name, ids in table.ids.items():
        tested, others = ids[split.rows.test], ids[np.concatenate([split.rows.train, split.rows.validation])]
        shared = np.isin(tested, others[others != ""])  # a cell that is empty is no id
        if shared.any():
            shares[name] = float(shared.mean())
    if not shares or table.groups is not None or table.times is not None:
        return None
    name = max(shares, key=lambda name: shares[name])
    return Finding(
        "group-overlap",
        f"{shares[name]:.0%} of the test rows have a value of {name!r} that rows trained on have too, so the test may "
        "flatter the model.",
        {"shares": shares},
        f"Keep such rows together by --group {shlex.quote(name)} instead of --id {shlex.quote(name)}.",
    )


def time_overlap(facts: Facts) -> Finding | None:
    """Dates, and a test that is not the latest of them."""
    table, split = facts.run.table, facts.run.split
    if table.times is not None or table.columns is None:
        return None
    shares = {}
    for each in split.encoding.inputs or ():
        if each.kind in DATES:
            days = table.columns[each.name].values
            latest = np.nanmax(days[split.rows.train]) if len(split.rows.train) else np.nan
            shares[each.name] = float(np.mean(days[split.rows.test] <= latest))
    shares = {name: share for name, share in shares.items() if share > 0}
    if not shares:
        return None
    name = max(shares, key=lambda name: shares[name])
    return Finding(
        "time-overlap",
        f"{shares[name]:.0%} of the test rows are no later by {name!r} than the last row trained on: the test does not "
        "tell how well the future is predicted.",
        {"shares": shares},
        f"If that is what the model is for, test on the latest rows by --time {shlex.quote(name)}.",
    )


def few_test_rows(facts: Facts) -> Finding | None:
    """A test too small for what it is to show."""
    evaluation = facts.evaluation
    low, high = evaluation.accuracy_interval
    if high - low <= 2 * WIDE:
        return None
    return Finding(
        "few-test-rows",
        f"{evaluation.rows} rows test the model, and say no more of its accuracy than that it is between {low:.0%} and "
        f"{high:.0%}.",
        {"test_rows": evaluation.rows, "interval": [low, high]},
        "Collect more rows, or judge by cross-validation, as scikit-learn's cross_val_score does of SoftmaxRegression.",
    )


def rare_classes(facts: Facts) -> Finding | None:
    """Classes that are hardly there."""
    counts = np.bincount(facts.run.split.train.labels, minlength=len(facts.run.model.class_names))
    rare = [int(index) for index in np.argsort(counts, kind="stable") if counts[index] < RARE]
    if not rare:
        return None
    names = [f"{facts.run.model.class_names[index]} ({counts[index]})" for index in rare]
    weigh = "" if facts.is_probe or facts.class_weights is not None else ", weigh them up by --class-weight balanced"
    return Finding(
        "rare-classes",
        f"Fewer than {RARE} rows to train on have the class {join(names, 10)}.",
        {"rows": {str(facts.run.model.class_names[index]): int(counts[index]) for index in rare}},
        f"Collect more of them{weigh}, or merge them with others; the test tells little of them.",
    )


def constant_features(facts: Facts) -> Finding | None:
    """Columns that tell nothing, and were left out."""
    encoding, table, X = facts.run.split.encoding, facts.run.table, facts.run.split.train.X
    names = constant_columns(encoding, table)
    # A word that no row has, and a pixel at a picture's edge, are so by right.
    if encoding.inputs is None and encoding.image_shape is None and isinstance(X, np.ndarray) and len(X):
        names = tuple(f"feature {index + 1}" for index in np.flatnonzero(X.min(axis=0) == X.max(axis=0)))
    if not names:
        return None
    return Finding(
        "constant-features",
        f"{count(len(names), 'feature has', 'features have')} one value in all rows trained on: {join(names, 10)}.",
        {"features": list(names[:100]), "count": len(names)},
        "They tell nothing and do no harm; look whether they were meant to be so.",
    )


def duplicated_features(facts: Facts) -> Finding | None:
    """Columns of which one follows from the other on a straight line."""
    encoding, X = facts.run.split.encoding, facts.run.split.train.X
    # Neighbours in a picture, at its edges above all, are alike by right.
    if encoding.image_shape is not None or X.shape[1] > MOST_COMPARED or X.shape[0] < 3:
        return None
    X = X[:: -(-X.shape[0] // COMPARED_ROWS)]
    X = np.asarray(X if isinstance(X, np.ndarray) else X.toarray(), np.float64)
    X = X - X.mean(axis=0)
    norms = np.sqrt((X**2).sum(axis=0))
    X = X[:, norms > 0] / norms[norms > 0]
    kept = np.flatnonzero(norms > 0)
    same = np.abs(X.T @ X) > SAME
    names = encoding.feature_names or [f"feature {index + 1}" for index in range(len(norms))]
    # The words of one text follow from one another; what is told of is two columns.
    origins = _origins(facts)
    pairs = [
        (names[kept[i]], names[kept[j]])
        for i, j in np.argwhere(np.triu(same, 1))
        if origins is None or origins[kept[i]] != origins[kept[j]]
    ]
    if not pairs:
        return None
    return Finding(
        "duplicated-features",
        f"{count(len(pairs), 'pair of features tells', 'pairs of features tell')} the same, up to scale and sign: "
        f"{join([f'{a} and {b}' for a, b in pairs], 5)}.",
        {"pairs": [list(pair) for pair in pairs[:100]], "count": len(pairs)},
        "The penalty shares a weight out between them, so that neither's says much alone; leave one "
        f"out{facts.leave_out()}.",
    )


def _origins(facts: Facts) -> list[str] | None:
    """The column that each feature is made of."""
    encoding = facts.run.split.encoding
    if encoding.inputs is None:
        return None
    of_text = [each.name for each in encoding.inputs for _ in (each.words if each.kind == "text" else "1")]
    return of_text + [each.name for each, has in zip(encoding.inputs, encoding.has_indicator, strict=True) if has]
