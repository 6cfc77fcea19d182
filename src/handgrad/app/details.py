"""What metrics.json and the report show of a run beyond its headline, in JSON's own types.

The few of many: the worst confusions, the strongest weights, the most confident mistakes. All of it is bounded, so that
a model of a million weights has a page that opens.
"""

from __future__ import annotations

import datetime
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from handgrad.data.encoding import Encoding, features_of
from handgrad.data.tables import DATES, Column, Table
from handgrad.formulas.layer import Params, linear
from handgrad.formulas.network import Layer, activate, layers_of, pass_back
from handgrad.models import Model

if TYPE_CHECKING:
    from handgrad.app.evaluation import Evaluation
    from handgrad.app.runs import Run

MOST_CLASSES = 24  # more do not fit beside each other as counts
MOST_CONFUSIONS = 20
MOST_COLUMNS = 30  # columns of the data
MOST_OUTPUTS, MOST_STRONGEST = 12, 8  # classes or units whose strongest weights are shown, and how many of each
MOST_IMAGES = 60  # classes or units whose weights are shown where the features are pixels
MOST_OF_TWO = 24  # weights of two classes, which have one signed column
MOST_MISTAKES, MOST_TELLING = 12, 3


def name_features(encoding: Encoding) -> list[str]:
    """What X's columns stand for, counted from 1 where they have no names."""
    inputs = [f"feature {number}" for number in range(1, len(encoding.fill) + 1)]
    missing = [f"{inputs[index]} is missing" for index in np.flatnonzero(encoding.has_indicator)]
    return list(encoding.feature_names or (*inputs, *missing))


def list_columns(encoding: Encoding) -> list[dict[str, Any]] | None:
    """The columns that the model reads, the first of them where there are many."""
    if encoding.inputs is None:
        return None
    return [
        {"column": each.name, "kind": each.kind, "features": len(features_of(each)) + int(has)}
        for each, has in zip(encoding.inputs[:MOST_COLUMNS], encoding.has_indicator, strict=False)
    ]


def list_confusions(evaluation: Evaluation, names: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The classes that are taken for others most often."""
    wrong = evaluation.confusion - np.diag(np.diag(evaluation.confusion))
    rows = wrong.sum(axis=1) + np.diag(evaluation.confusion)
    pairs = np.flatnonzero(wrong)
    worst = pairs[np.argsort(-wrong.ravel()[pairs], kind="stable")][:MOST_CONFUSIONS]
    return [
        {
            "class": names[true],
            "predicted": names[taken],
            "rows": int(wrong[true, taken]),
            "share": float(wrong[true, taken] / rows[true]),
        }
        for true, taken in (divmod(int(pair), len(names)) for pair in worst)
    ]


def shown_weights(model: Model) -> tuple[np.ndarray, tuple[Any, ...], str]:
    """Weights (P, K) of the first layer, what the K columns are, and the word for one.

    Of two classes only the difference means anything: they have one column, which speaks for the second.
    """
    first, *others = layers_of(model.params)
    W = np.asarray(first.params.W)
    if others:
        return W, tuple(range(1, W.shape[1] + 1)), "unit"
    if W.shape[1] == 2:
        return W[:, 1:] - W[:, :1], model.class_names[1:], "class"
    return W, model.class_names, "class"


def list_weights(model: Model) -> dict[str, Any]:
    """Of the classes that are shown, the largest weight, and where no feature is a pixel the strongest, from + to −."""
    W, outputs, of = shown_weights(model)
    has_images = model.encoding.image_shape is not None
    most_outputs = MOST_IMAGES if has_images else MOST_OUTPUTS
    largest = float(np.abs(W[:, :most_outputs]).max(initial=0.0))
    found: dict[str, Any] = {"of": of, "outputs": W.shape[1], "largest": largest}
    if has_images:
        return found
    names = name_features(model.encoding)
    most = MOST_OF_TWO if W.shape[1] == 1 else MOST_STRONGEST
    strongest = []
    for output, column in zip(outputs[:most_outputs], W.T, strict=False):
        order = np.argsort(-np.abs(column), kind="stable")[:most]
        order = order[np.argsort(-column[order], kind="stable")]
        features = [{"feature": names[index], "weight": float(column[index])} for index in order.tolist()]
        strongest.append({"output": output, "features": features})
    return found | {"strongest": strongest}


def list_mistakes(run: Run, evaluation: Evaluation) -> list[dict[str, Any]]:
    """The test rows of which the model is most sure and wrong; each with the values that led it there."""
    names, found = run.model.class_names, []
    for index in evaluation.mistakes[:MOST_MISTAKES].tolist():
        row, true = int(run.split.rows.test[index]), int(run.split.test.labels[index])
        taken = int(run.Y[index].argmax())
        mistake = {
            "row": (row if run.sampled is None else int(run.sampled[row])) + 1,
            "ids": {name: str(values[row]) for name, values in run.table.ids.items()},
            "class": names[true],
            "predicted": names[taken],
            "probability": float(run.Y[index, taken]),
            "probability_of_class": float(run.Y[index, true]),
        }
        if run.model.encoding.image_shape is None:
            x = run.split.test.X[[index]]
            x = np.asarray(x if isinstance(x, np.ndarray) else x.toarray(), np.float64)
            mistake["values"] = _telling(run, x, row, true, taken)
        found.append(mistake)
    return found


def _telling(run: Run, x: np.ndarray, row: int, true: int, taken: int) -> list[dict[str, Any]]:
    """The values that speak most for the class that a row was taken for, against its own: x ∘ ∂(z_taken − z_true)/∂x.

    Of a softmax regression these add up, with the bias, to the difference of the logits.
    """
    pushes = (x * _slopes(run.model, x, true, taken))[0]
    strongest = np.argsort(-pushes, kind="stable")[:MOST_TELLING].tolist()
    return [
        {**_value(run.table, run.model.encoding, index, row), "push": float(pushes[index])}
        for index in strongest
        if pushes[index] > 0
    ]


def _slopes(model: Model, x: np.ndarray, true: int, taken: int) -> np.ndarray:
    """∂(z_taken − z_true)/∂x, handed back from layer to layer."""
    *hidden, output = layers_of(model.params)
    passes, A = [], x
    for params, activation in hidden:
        layer = Layer(Params(*(np.asarray(array, np.float64) for array in params)), activation)
        Z = linear(layer.params, A)
        A = activate(np, layer, Z)
        passes.append((layer, Z, A))
    W = np.asarray(output.params.W)
    G = np.asarray(W[:, taken], np.float64)[None] - W[:, true]
    for layer, Z, A in reversed(passes):
        G = pass_back(np, layer, Z, A, G) @ layer.params.W.T
    return G


def _value(table: Table, encoding: Encoding, index: int, row: int) -> dict[str, Any]:
    """What the table has in a row where a feature comes from: null where that is missing."""
    num_inputs = len(encoding.fill)
    widths = (
        np.ones(num_inputs, int) if encoding.inputs is None else [len(features_of(each)) for each in encoding.inputs]
    )
    places = np.concatenate([np.repeat(np.arange(num_inputs), widths), np.flatnonzero(encoding.has_indicator)])
    place = int(places[index])
    if encoding.inputs is None:
        value = float(table.X[row, place])
        return {"name": f"feature {place + 1}", "value": None if math.isnan(value) else value}
    assert table.columns is not None  # what has been encoded has them
    name = encoding.inputs[place].name
    return {"name": name, "value": _cell(table.columns[name], row)}


def _cell(column: Column, row: int) -> Any:
    if column.is_missing()[row]:
        return None
    if column.kind == "text":
        return column.words[column.values[row]]
    value = float(column.values[row])
    if column.kind == "boolean":
        return bool(value)
    if column.kind in DATES:
        moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(days=value)
        return moment.isoformat(" ", "minutes").removesuffix(" 00:00")
    return value
