"""Models: what is saved comes back as it was, and says of raw data what the parameters say of what becomes of them."""

import base64
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import safetensors
import safetensors.numpy
import scipy.sparse

import handgrad
from handgrad.data import Column, Table, encode, fit_encoding, split_and_scale
from handgrad.models import model as models_module

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype(np.float32)
LABELS = np.arange(40) % 4
PARAMS = handgrad.Params(RNG.normal(size=(3, 4)).astype(np.float32), RNG.normal(size=(1, 4)).astype(np.float32))
FILE = "model.safetensors"


def network():
    return handgrad.init_network(jax.random.key(0), (3, 5, 5, 4), "tanh")


def results():
    start = handgrad.init_params(3, 4, key=jax.random.key(1))
    path = handgrad.fit_path(X, LABELS, l2s=[0.1, 1.0], validation=(X, LABELS))
    return {
        "fit": (handgrad.fit(X, LABELS, l2=0.1), lambda result: result.params),
        "path": (path, lambda result: result.best_params),
        "train": (handgrad.train(X, LABELS, epochs=2, learning_rate=0.1, params=start), lambda result: result.params),
        "network": (network(), lambda result: result),
        "list of layers": (list(network()), tuple),
        "params": (PARAMS, lambda result: result),
        "pair": (tuple(PARAMS), lambda result: handgrad.Params(*result)),
    }


def test_what_fit_and_train_found_comes_back_as_it_was(tmp_path):
    for name, (result, params_of) in results().items():
        handgrad.save(result, tmp_path / name)
        model = handgrad.load(tmp_path / name)
        params = params_of(result)
        assert jax.tree.structure(model.params) == jax.tree.structure(params), name
        for own, array in zip(jax.tree.leaves(model.params), jax.tree.leaves(params), strict=True):
            assert own.dtype == array.dtype
            np.testing.assert_array_equal(own, array)
        Y = model.predict_proba(Table(X))
        np.testing.assert_allclose(Y, handgrad.predict_proba(params, X), rtol=2e-5, err_msg=name)
        np.testing.assert_array_equal(model.predict(Table(X)), Y.argmax(axis=1))
        handgrad.save(model, tmp_path / "again", overwrite=True)
        assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / name / FILE).read_bytes()


@pytest.mark.parametrize("classes", [["low", "high"], [10.0, 2.0, 7.0], [True, False]])
@pytest.mark.parametrize("named", [False, True])
def test_a_fitted_estimator_is_saved_with_the_names_that_it_knows(classes, named, tmp_path):
    y = np.array(classes)[np.arange(len(X)) % len(classes)]
    data = pandas.DataFrame(X, columns=["a", "b", "c"]) if named else X
    estimator = handgrad.SoftmaxRegression().fit(data, y)
    handgrad.save(estimator, tmp_path / "run")
    model = handgrad.load(tmp_path / "run")
    rows = {name: X[:, column] for column, name in enumerate("abc")} if named else X
    assert model.class_names == tuple(sorted(classes))
    np.testing.assert_allclose(model.predict_proba(rows), estimator.predict_proba(data), rtol=2e-5)
    np.testing.assert_array_equal(model.predict(rows), estimator.predict(data))
    handgrad.save(estimator, tmp_path / "own", class_names=[f"class {i}" for i in range(len(classes))])
    assert handgrad.load(tmp_path / "own").class_names[0] == "class 0"
    with pytest.raises(ValueError, match="not fitted"):
        handgrad.save(handgrad.SoftmaxRegression(), tmp_path / "none")


@pytest.mark.parametrize("kind", ["float64", "float32", "float16", "bfloat16"])
def test_each_dtype_comes_back_and_predicts_no_worse_than_float32(tmp_path, kind):
    dtype = jnp.dtype(kind)
    params = jax.tree.map(lambda array: np.asarray(array, dtype), PARAMS)
    handgrad.save(params, tmp_path / "run")
    model = handgrad.load(tmp_path / "run")
    assert model.params.W.dtype == dtype
    Z = X.astype(np.float64) @ params.W.astype(np.float64) + params.b.astype(np.float64)
    expected = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
    Y = model.predict_proba(Table(X))
    assert Y.dtype == (np.float64 if kind == "float64" else np.float32)
    np.testing.assert_allclose(Y, expected, rtol=1e-12 if kind == "float64" else 2e-5)


@pytest.mark.parametrize("num_rows", [1, 2, 3, 7, 8, 9, 31, 40])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_the_number_of_rows_makes_no_difference(tmp_path, monkeypatch, num_rows, is_sparse):
    monkeypatch.setattr(models_module, "MAX_ENTRIES", 25)  # eight rows of three features
    handgrad.save(PARAMS, tmp_path / "run")
    rows = X[:num_rows].copy()
    rows[rows < 0] = 0
    Y = handgrad.load(tmp_path / "run").predict_proba(Table(scipy.sparse.csr_array(rows) if is_sparse else rows))
    np.testing.assert_allclose(Y, handgrad.predict_proba(PARAMS, rows), rtol=2e-5)


@pytest.mark.parametrize(
    "names",
    [
        (0, 1, 2, 3),
        ("a", "ü, b", "=1+1", "\x1b[31m\r"),
        (-1, 2**64 - 1, 10, 20),
        (1, "one", True, 2.5),
        (0.1, 1.5, 1e300, -0.25),
        (np.int8(1), np.float32(0.5), np.str_("x"), np.bool_(False)),
        np.array(["a", "b", "c", "d"]),
    ],
)
def test_names_of_classes_come_back_in_their_type(tmp_path, names):
    plain = tuple(name.item() if isinstance(name, np.generic) else name for name in names)
    handgrad.save(PARAMS, tmp_path / "run", class_names=names)
    model = handgrad.load(tmp_path / "run")
    assert model.class_names == plain
    assert [type(name) for name in model.class_names] == [type(name) for name in plain]
    predicted = model.predict(Table(X)).tolist()
    assert predicted == [plain[label] for label in handgrad.predict(PARAMS, X)]
    assert [type(name) for name in predicted] == [type(plain[label]) for label in handgrad.predict(PARAMS, X)]


def table_of(count):
    return Table(
        columns={
            "size": Column("number", RNG.normal(size=count) * 100 + 7),
            "town": Column("text", RNG.integers(0, 3, count).astype(np.int32), ("Bonn", "Köln", "Ulm")),
        },
        labels=np.arange(count) % 4,
        class_names=("a", "b", "c", "d"),
        target="kind",
    )


def test_raw_data_become_what_was_trained_on(tmp_path):
    table = table_of(60)
    split = split_and_scale(table)
    result = handgrad.fit(split.train.X, split.train.labels, l2=0.1)
    handgrad.save(result, tmp_path / "run", class_names=table.class_names, encoding=split.encoding, target="kind")
    model = handgrad.load(tmp_path / "run")
    assert (model.target, model.encoding.feature_names) == ("kind", ("size", "town=Bonn", "town=Köln", "town=Ulm"))
    expected = handgrad.predict_proba(result.params, encode(split.encoding, table).X)
    np.testing.assert_allclose(model.predict_proba(table), expected, rtol=2e-5)


def raw(table):
    """The columns of a table as a person has them."""
    size, town = table.columns.values()
    return {"town": np.array(town.words)[town.values], "size": size.values}


def test_what_a_person_has_is_read_by_its_names(tmp_path):
    table = table_of(40)
    handgrad.save(PARAMS._replace(W=np.ones((4, 4), np.float32)), tmp_path / "run", encoding=fit_encoding(table))
    model = handgrad.load(tmp_path / "run")
    expected, data = model.predict_proba(table), raw(table)
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(data)
    frame.to_csv(tmp_path / "data.csv", index=False)
    frame.to_parquet(tmp_path / "data.parquet")
    for given in (data, frame, tmp_path / "data.csv", str(tmp_path / "data.parquet")):
        np.testing.assert_array_equal(model.predict_proba(given), expected)
    with pytest.warns(UserWarning, match="columns that the model was not trained on are left out: extra"):
        np.testing.assert_array_equal(model.predict_proba({"extra": data["size"], **data}), expected)
    with pytest.raises(ValueError, match="has no column 'town'"):
        model.predict({"size": data["size"]})
    with pytest.raises(ValueError, match="has no column 'town'"):
        model.predict(table._replace(columns={"size": table.columns["size"]}))
    handgrad.save(PARAMS, tmp_path / "array")
    model = handgrad.load(tmp_path / "array")
    np.save(tmp_path / "X.npy", X)
    for given in (X, X.astype(np.float64), jnp.asarray(X), tmp_path / "X.npy"):
        np.testing.assert_allclose(model.predict_proba(given), handgrad.predict_proba(PARAMS, X), rtol=2e-5)


def test_rows_without_a_value_have_no_answer_where_such_rows_were_left_out(tmp_path):
    table = table_of(20)._replace(missing="drop-rows")
    handgrad.save(PARAMS._replace(W=np.ones((4, 4), np.float32)), tmp_path / "run", encoding=fit_encoding(table))
    model = handgrad.load(tmp_path / "run")
    everything = model.predict_proba(table)
    table.columns["size"].values[[0, 7]] = np.nan
    with pytest.warns(UserWarning, match="2 rows lack a value, and nothing is said of them"):
        Y = model.predict_proba(table)
    with pytest.warns(UserWarning, match="2 rows"):
        names = model.predict(table)
    lacks = np.isin(np.arange(20), [0, 7])
    assert np.isnan(Y[lacks]).all()
    np.testing.assert_array_equal(Y[~lacks], everything[~lacks])
    assert [name is None for name in names] == lacks.tolist()


def test_a_class_that_is_left_out_stays_so(tmp_path):
    handgrad.save(PARAMS._replace(b=np.array([[0, -np.inf, 0, 0]], np.float32)), tmp_path / "run")
    Y = handgrad.load(tmp_path / "run").predict_proba(Table(X))
    assert (Y[:, 1] == 0).all()
    np.testing.assert_allclose(Y.sum(axis=1), 1, rtol=1e-6)


def test_logits_beyond_the_dtype_are_said_by_row(tmp_path):
    handgrad.save(PARAMS._replace(W=np.full((3, 4), 3e38, np.float32)), tmp_path / "run")
    rows = np.zeros((5, 3), np.float32)
    rows[3] = 1e30, -1e30, 0
    with pytest.raises(ValueError, match="no probabilities for row 4: its logits are not finite"):
        handgrad.load(tmp_path / "run").predict(Table(rows))


@pytest.mark.parametrize(
    ("change", "kwargs", "error", "message"),
    [
        (
            {"W": np.full((3, 4), np.nan, np.float32)},
            {},
            ValueError,
            "layer 1 has a weight or a bias that is no",
        ),
        (
            {"b": np.full((1, 4), np.inf, np.float32)},
            {},
            ValueError,
            "layer 1 has a weight or a bias that is no",
        ),
        ({"b": np.full((1, 4), -np.inf, np.float32)}, {}, ValueError, "layer 1 has a weight or a bias"),
        ({"b": np.zeros(4, np.float32)}, {}, ValueError, r"layer 1 must have W \(3, C\) and b \(1, C\); got \(3, 4\)"),
        ({"b": np.zeros((1, 4))}, {}, ValueError, "must be of one floating dtype, that of the first; got float32 and"),
        ({}, {"class_names": ["a", "b"]}, ValueError, "4 classes must have as many names; got 2"),
        ({}, {"class_names": ["a", "b", 1, "1"]}, ValueError, "two classes have names that are written alike"),
        ({}, {"class_names": [1.0, 2.0, 3.0, np.nan]}, ValueError, "or one is a number that is not finite"),
        ({}, {"class_names": ["a", "b", "c", None]}, TypeError, "class_names must be booleans, numbers or text; got"),
        ({}, {"class_names": ["a", "b", "c", "\ud800"]}, ValueError, "class_names: 4 is no text in UTF-8"),
        ({}, {"feature_names": ["a", "b"]}, ValueError, "feature_names must be 3 texts that differ; got"),
        ({}, {"feature_names": ["a", "b", "b"]}, ValueError, "feature_names must be 3 texts that differ; got"),
        ({}, {"encoding": fit_encoding(Table(X[:, :2]))}, ValueError, r"layer 1 must have W \(2, C\)"),
        ({}, {"encoding": fit_encoding(Table(X)), "feature_names": ["a"]}, ValueError, "has names of its own"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(tmp_path, change, kwargs, error, message):
    with pytest.raises(error, match=message):
        handgrad.save(PARAMS._replace(**change), tmp_path / "run", **kwargs)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("result", [None, X, (X,), (), "run", {"W": X, "b": X}])
def test_what_is_no_result_is_refused(tmp_path, result):
    with pytest.raises(TypeError, match="save: result must be what fit, fit_path or train returned"):
        handgrad.save(result, tmp_path / "run")


def test_a_model_shows_itself_in_a_safe_line(tmp_path):
    handgrad.save(network(), tmp_path / "run", class_names=["\x1b[31m", "b", "c", "d"])
    shown = "Model(3 features → 5 tanh → 5 tanh → 4 classes: \\x1b[31m, b, c, d)"
    assert repr(handgrad.load(tmp_path / "run")) == shown


def test_a_path_without_a_best_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a path must have a best penalty"):
        handgrad.save(handgrad.fit_path(X, LABELS, l2s=[0.1, 1.0]), tmp_path / "run")


def test_a_run_is_replaced_only_when_asked(tmp_path):
    handgrad.save(PARAMS, tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds a run already.*in Python overwrite=True"):
        handgrad.save(network(), tmp_path / "run")
    assert isinstance(handgrad.load(str(tmp_path / "run")).params, handgrad.Params)
    handgrad.save(network(), str(tmp_path / "run"), overwrite=True)
    assert len(handgrad.load(tmp_path / "run" / FILE).params) == 3
    with pytest.raises(FileNotFoundError, match="there is no such model"):
        handgrad.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="there is no such model"):
        handgrad.load(tmp_path)


# --- The file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_one_of_safetensors(tmp_path):
    handgrad.save(network(), tmp_path / "run", class_names=["a", "b", "c", "d"])
    path = tmp_path / "run" / FILE
    tensors = safetensors.numpy.load_file(path)
    for number, layer in enumerate(network(), 1):
        np.testing.assert_array_equal(tensors[f"W{number}"], layer.params.W)
        np.testing.assert_array_equal(tensors[f"b{number}"], layer.params.b)
    with safetensors.safe_open(path, "numpy") as file:
        description = json.loads(file.metadata()["handgrad"])
    assert description["class_names"] == ["a", "b", "c", "d"]
    assert set(description) == {
        "format_version", "activations", "class_names", "target", "encoding", "versions", "sha256",
    }  # fmt: skip
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_the_file_says_nothing_of_when_and_where_it_was_written(tmp_path):
    for name in ("here", "there"):
        handgrad.save(PARAMS, tmp_path / name / "run")
    here, there = ((tmp_path / name / "run" / FILE).read_bytes() for name in ("here", "there"))
    assert here == there
    assert str(tmp_path).encode() not in here


def test_names_that_are_too_many_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("handgrad.data.tensors.MAX_HEADER", 1000)
    with pytest.raises(ValueError, match=r"classes, columns and words take [0-9,]+ bytes, too many to keep"):
        handgrad.save(PARAMS, tmp_path / "run", class_names=["a" * 300, "b", "c", "d"])
    assert list(tmp_path.iterdir()) == []


# What version 0.1 wrote for a network 2-3-2.
OLD = (
    "c-oayJ#W-77(NNHbZ0$9W&vbQw)3GR()E~t6_yUoDS9t<KH!oZv0GZ5`WyHQh@oTWo0|TBGPA<Yz)!%A?<6XYN?5WiKkxJSd7r$>=)q`MYm}z7"
    "P{2V!nxc4(N@#e|0Y@=fCn#^b8dQ2JI$5<%f?|haCqa;@>J*fQq`{68q@XDiWNNa_RSjnenwwj;1S!)7YO!NBt>v8?WZ>ii)JZ4quu4%CrLxSA"
    "6<6h!Th&mARF<$3hS{7fmj+hQ6+#&#LGP=ETj8n`tFFz2lvPvM;*&Gyxzpyk6zZw-%#j%^g(Yt@4h`t!yYFCSWI`vz^4^(jTZ~Ltf-Z*CB``m*"
    "1uyq_z@v~wGzbY75%n}cGa5#mu#8b3az=><BB$J6aGwwo0->%TVdg@ppVW^c+ohQaSLZ9C2l6uT5Jp3I6d$uWM#J1JQEG@_8qBqHi1lAe8eo?h"
    "=@Gr7bJ?Fd?EbBE8TJR$Bld5li}!f?0S<{#F7EN9`#eK}qoLacyHB~tGh&z$ZF=Dh%l-wwX7(K2*yH=|{$ewJc&PXF!MDe=ueZ0;57UGG=bO!8"
    "^65+eb~ElZKHZET-CVtb>(S_QpXZk|*Ohv^{p%lbZ}`6fhC~S_"
)


def test_a_model_of_version_0_1_is_read(tmp_path):
    (tmp_path / FILE).write_bytes(zlib.decompress(base64.b85decode(OLD)))
    model = handgrad.load(tmp_path)
    assert (model.class_names, model.target, model.encoding.feature_names) == (
        ("no", "yes"), "kind", ("height", "width"),
    )  # fmt: skip
    assert [layer.activation for layer in model.params] == ["tanh", "softmax"]
    columns = {"height": Column("number", np.array([0.0, 3.0])), "width": Column("number", np.array([1.0, -2.0]))}
    expected = [[0.09244507551193237, 0.9075549244880676], [0.683219313621521, 0.316780686378479]]
    np.testing.assert_allclose(model.predict_proba(Table(columns=columns)), expected, rtol=1e-6)
