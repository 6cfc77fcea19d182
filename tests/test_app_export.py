"""`handgrad export`: the same probabilities in onnxruntime, in scikit-learn, and by the formula of an .npz."""

import itertools
import json
import sys

import jax
import numpy as np
import pytest

import handgrad
from handgrad.app.cli import main
from handgrad.app.exporting import to_pipeline
from handgrad.data import encode, fit_encoding, read_features, read_table
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.models import Model
from test_app import fails

COLUMNS = {
    "size": np.array([1e9, 1e9 + 1, np.nan, 1e9 + 3, 1e9 + 7, 1e9 + 2]),
    "colour": ["red", "", "blue", "red", "blue", "red"],
    "is old": np.array([True, False, True, True, False, False]),
    "kind": ["a", "b", "=c", "a", "b", "=c"],
}


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def write_csv(path, columns):
    names = list(columns)
    rows = zip(*(["" if str(value) == "nan" else str(value) for value in columns[name]] for name in names), strict=True)
    path.write_text("\n".join(",".join(row) for row in [names, *rows]) + "\n")
    return path


def of_table(tmp_path, missing="mean", names=tuple(COLUMNS)):
    """A model of a table with every kind of column and holes, and the file."""
    path = write_csv(tmp_path / "t.csv", {name: COLUMNS[name] for name in names})
    table = read_table(path, target="kind", missing=missing)
    encoding = fit_encoding(table)
    rng = np.random.default_rng(0)
    params = handgrad.Params(
        rng.normal(size=(len(encoding.offset), 3)).astype(np.float32), rng.normal(size=(1, 3)).astype(np.float32)
    )
    return Model(params, encoding, table.class_names, "kind"), path


def of_array(*, activation=None, dtype=np.float32, names=(3, 5, 7), fill=None, masked=False):
    """A model of an array of four numbers, one of them constant."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(30, 4)) * [1, 100, 1e-3, 0] + [0, 50, 0, 2]
    if fill is not None:
        X[::7, 1] = np.nan
    table = read_table({"X": X, "y": np.arange(30) % 3}, missing=fill)
    encoding = fit_encoding(table)
    sizes = (len(encoding.offset), *([] if activation is None else [5]), len(names))
    params = (
        handgrad.Params(rng.normal(size=size).astype(dtype), rng.normal(size=(1, size[1])).astype(dtype))
        for size in itertools.pairwise(sizes)
    )
    layers = tuple(
        handgrad.Layer(own, name)
        for own, name in zip(params, [activation, "softmax"] if activation else ["softmax"], strict=True)
    )
    if masked:
        W, b = layers[-1].params
        W, b = np.where(np.arange(len(names)) == 1, 0, W), np.where(np.arange(len(names)) == 1, -np.inf, b)
        layers = (*layers[:-1], handgrad.Layer(handgrad.Params(W.astype(dtype), b.astype(dtype)), "softmax"))
    return Model(layers if activation else layers[0].params, encoding, tuple(names), None), X


def run_onnx(path, inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["class", "probabilities"], inputs)


def export(model, tmp_path, to):
    handgrad.save(model, tmp_path / "run", overwrite=True)
    path = tmp_path / f"model.{to}"
    assert main(["export", str(tmp_path / "run"), "--to", to, "--out", str(path), "--overwrite", "--quiet"]) == 0
    return path


def by_formula(path, columns):
    """What the formula that stands in the .npz says, with NumPy alone; columns in the order of the inputs."""
    f = np.load(path)
    features, indicators, start = [], [], 0
    for i, values in enumerate(columns):
        if f["kinds"][i] == "text":
            words = f["words"][start : start + f["word_counts"][i]]
            start += f["word_counts"][i]
            missing = np.array([value == "" for value in values])
            places = [list(words).index(value) if value in words else -1 for value in values]
            places = np.where(missing, -1 if np.isnan(f["fill"][i]) else f["fill"][i], places)
            features += [(places == k).astype(float) for k in range(len(words))]
        else:
            values = np.asarray(values, float)
            missing = np.isnan(values)
            features.append(np.where(missing, f["fill"][i], values))
        if f["has_indicator"][i]:
            indicators.append(missing.astype(float))
    X = ((np.stack(features + indicators, axis=1) - f["offset"]) * f["scale"]).astype(np.float32)
    functions = {"relu": lambda Z: np.maximum(Z, 0), "tanh": np.tanh}
    for number, name in enumerate(f["activations"], 1):
        Z = X @ f[f"W{number}"] + f[f"b{number}"]
        if name == "softmax":
            E = np.exp(Z - Z.max(axis=1, keepdims=True))
            X = E / E.sum(axis=1, keepdims=True)
        else:
            X = functions[name](Z)
    return X


def columns_of(table, model):
    """The columns as a person has them, by name: texts, and numbers with NaN where they are missing."""
    found = {}
    for each in model.encoding.inputs:
        column = table.columns[each.name]
        words = np.array([*column.words, ""], object)
        found[each.name] = words[column.values] if each.kind == "text" else column.values.astype(np.float64)
    return found


@pytest.mark.parametrize("missing", ["mean", "most-frequent", "indicator"])
def test_tables_give_the_same_in_onnxruntime_and_by_the_formula(tmp_path, missing):
    model, _ = of_table(tmp_path, missing)
    new = {**COLUMNS, "colour": ["blue", "", "green", "red", "red", ""]}
    table = read_features(write_csv(tmp_path / "new.csv", new), model.encoding, target="kind")
    with pytest.warns(UserWarning, match="that no row to train on has"):
        Y = model.predict_proba(table)
    columns = columns_of(table, model)
    path = export(model, tmp_path, "onnx")
    classes, found = run_onnx(path, {name: values[:, None] for name, values in columns.items()})
    np.testing.assert_allclose(found, Y, rtol=1e-5, atol=1e-7)
    assert classes.tolist() == [model.class_names[index] for index in Y.argmax(axis=1)]
    found = by_formula(export(model, tmp_path, "npz"), columns.values())
    np.testing.assert_allclose(found, Y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_networks_of_every_activation_give_the_same_in_onnxruntime(tmp_path, activation):
    model, X = of_array(activation=activation)
    classes, found = run_onnx(export(model, tmp_path, "onnx"), {"X": X})
    Y = handgrad.formulas.predict_proba(model.params, encode(model.encoding, read_features({"X": X})).X)
    np.testing.assert_allclose(found, Y, rtol=2e-5, atol=1e-7)
    assert classes.dtype == np.int64
    assert classes.tolist() == [model.class_names[index] for index in Y.argmax(axis=1)]


@pytest.mark.parametrize(
    "how",
    [{"dtype": np.float64}, {"fill": "mean"}, {"fill": "indicator"}, {"masked": True}, {"names": (True, False)}],
    ids=str,
)
def test_arrays_give_the_same_everywhere(tmp_path, how):
    model, X = of_array(**how)
    Y = model.predict_proba({"X": X})
    with jax.enable_x64(how.get("dtype") == np.float64):
        classes, found = run_onnx(export(model, tmp_path, "onnx"), {"X": X})
    tolerance = 1e-6 if "dtype" not in how else 1e-12
    np.testing.assert_allclose(found, Y, rtol=20 * tolerance, atol=tolerance)
    assert [str(name) for name in classes] == [str(model.class_names[index]) for index in Y.argmax(axis=1)]
    np.testing.assert_allclose(by_formula(export(model, tmp_path, "npz"), X.T), Y, rtol=2e-5, atol=1e-6)
    pytest.importorskip("sklearn")
    joblib = pytest.importorskip("joblib")
    pipeline = joblib.load(export(model, tmp_path, "sklearn"))
    np.testing.assert_allclose(pipeline.predict_proba(X), Y, rtol=2e-5, atol=1e-6)
    assert pipeline.predict(X).tolist() == model.predict({"X": X}).tolist()


def test_a_pipeline_takes_a_data_frame_of_the_columns(tmp_path):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    model, _ = of_table(tmp_path, "indicator", ["size", "is old", "kind"])
    frame = pd.DataFrame({name: np.asarray(COLUMNS[name], float) for name in ("size", "is old")})
    Y = model.predict_proba({name: COLUMNS[name] for name in ("size", "is old")})
    np.testing.assert_allclose(to_pipeline(model).predict_proba(frame), Y, rtol=1e-5)


def test_what_is_written_is_said_and_what_cannot_be_is_one_line(capsys, tmp_path, monkeypatch):
    model, _ = of_table(tmp_path)
    run = tmp_path / "runs" / "kinds"
    handgrad.save(model, run)
    assert main(["export", str(run), "--to", "npz", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    path = tmp_path / "runs" / "kinds.npz"
    assert (found["out"], found["bytes"]) == (str(path), path.stat().st_size)
    assert "softmax, exp(Z) / sum(exp(Z))" in str(np.load(path)["formula"])
    assert "kinds.npz: is there already. Choose another name by --out" in fails(capsys, "export", run, "--to", "npz")
    assert "--to must be one of onnx, npz, sklearn; got 'pmml'." in fails(capsys, "export", run, "--to", "pmml")
    message = (
        "--to sklearn takes softmax regressions of numbers; the model has columns of text, colour. Take --to onnx."
    )
    assert message in fails(capsys, "export", run, "--to", "sklearn")
    handgrad.save(of_array()[0], tmp_path / "numbers")
    assert main(["export", str(tmp_path / "numbers"), "--to", "sklearn"]) == 0
    assert "note: a file of joblib runs code when it is loaded" in capsys.readouterr().out
    monkeypatch.delitem(sys.modules, "handgrad.app.onnx_graph", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "--to onnx needs onnx: pip install 'handgrad[onnx]'" in fails(capsys, "export", run, "--to", "onnx")
    assert sorted(each.name for each in (tmp_path / "runs").iterdir()) == ["kinds", "kinds.npz"]
