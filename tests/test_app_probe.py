"""`handgrad probe`: embeddings from files, published protocols, and what a penalty is called elsewhere."""

import json

import numpy as np
import pytest

import handgrad
from handgrad.app import fitting, probing
from handgrad.app.choosing import HeldOut, choose
from handgrad.app.cli import main
from handgrad.app.embeddings import read_embeddings
from handgrad.app.probing import PRESETS, halved
from handgrad.app.translating import translate
from handgrad.data import Part
from handgrad.data.tensors import write_tensors
from test_app import fails


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """And no check of the gradient, which compiles for seconds."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(fitting, "check_at", lambda *_: handgrad.GradientReport((), True, ""))


def embeddings(num_rows=200, dtype=np.float16, seed=0, noise=1.0):
    labels = np.arange(num_rows) % 4
    means = 1.5 * np.random.default_rng(9).normal(size=(4, 6))
    X = noise * np.random.default_rng(seed).normal(size=(num_rows, 6)) + means[labels]
    return X.astype(dtype), labels


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed, num_rows in (("train", 0, 200), ("test", 1, 80)):
        X, y = embeddings(num_rows, seed=seed)
        X, y = (X, y) if name == "train" else (X[y > 0], y[y > 0])  # of other classes, so that these have other numbers
        np.save(f"{name}_features.npy", X)
        np.save(f"{name}_labels.npy", y)
    return tmp_path


def metrics_of(capsys, *arguments):
    capsys.readouterr()
    assert main(["probe", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_preset_of_dino_is_the_published_one():
    Cs = PRESETS["dino"].Cs
    assert len(Cs) == 45
    assert (Cs[0], Cs[-1]) == (1e-6, 1e5)
    np.testing.assert_allclose(np.diff(np.log10(Cs)), 0.25)
    assert PRESETS["dino"].scoring == "accuracy"


@pytest.mark.parametrize("peak", [-6.0, -2.3, 0.0, 0.7, 5.9, 6.0])
def test_the_search_of_clip_finds_the_peak_to_an_eighth_of_a_decade(peak):
    path, last = np.sort(PRESETS["clip"].Cs)[::-1], None
    assert np.log10(path).tolist() == [6, 4, 2, 0, -2, -4, -6]
    while last is None or len(last):
        best = int(np.argmin(np.abs(np.log10(path) - peak)))
        last = halved(path, best, last)
        assert not set(last) & set(path)
        path = np.sort(np.concatenate([path, last]))[::-1]
    tried = len(path)
    assert np.abs(np.log10(path[best]) - peak) <= 1 / 16 + 1e-9
    assert tried <= 7 + 8
    eighths = np.log10(path) * 8
    np.testing.assert_allclose(eighths, np.round(eighths), atol=1e-9)


def test_the_penalty_chosen_has_the_best_accuracy_and_the_strongest_of_those(capsys, files):
    metrics = metrics_of(capsys, "train_features.npy", "train_labels.npy", "--preset", "dino")
    path = metrics["path"]
    assert path["scoring"] == "accuracy"
    assert path["held_out"] == "16 of the training rows"
    assert path["l2"] == sorted(path["l2"], reverse=True)
    best = int(np.argmax(path["score"]))
    # The same C for more rows.
    assert metrics["l2"] == pytest.approx(path["l2"][best] * 144 / 160)
    Cs = 1 / (np.array(path["l2"]) * 144)
    assert {round(float(np.log10(C)) * 4, 6) % 1 for C in Cs} == {0}
    assert len(path["l2"]) >= 35


def test_accuracies_are_those_of_separate_fits():
    X, labels = embeddings(noise=3)
    held_out = HeldOut(Part(X[:150], labels[:150], None), None, Part(X[150:], labels[150:], None), "others")
    choice = choose(held_out, 4, scoring="accuracy", l2s=np.array([1.0, 0.01]), following=probing.nothing_more)
    for l2, score in zip(choice.l2s, choice.scores, strict=True):
        params = handgrad.fit(X[:150], labels[:150], l2=l2).params
        right = np.asarray(handgrad.predict(params, X[150:].astype(np.float32))) == labels[150:]
        assert score == pytest.approx(right.mean())


def test_separate_files_are_trained_on_and_tested_as_they_are(capsys, files):
    run = files / "run"
    arguments = ["train_features.npy", "train_labels.npy", "--l2", "0.01", "--out", run]
    metrics = metrics_of(capsys, *arguments, "--test-features", "test_features.npy", "--test-labels", "test_labels.npy")
    assert (metrics["train_rows"], metrics["test_rows"]) == (200, 60)
    X, y = embeddings()
    expected = handgrad.fit(X, y, l2=0.01)
    model = handgrad.load(run)
    np.testing.assert_allclose(model.params.W, expected.params.W, atol=1e-6)
    tested, labels = np.load("test_features.npy"), np.load("test_labels.npy")
    assert metrics["test_accuracy"] > 0.5
    assert metrics["test_accuracy"] == np.mean(model.predict(tested) == labels)
    message = "--test-features and --test-labels go together; got one of them."
    assert message in fails(capsys, "probe", *arguments, "--test-features", "test_features.npy")


def test_half_precision_stays_as_it_is_stored(files, monkeypatch):
    table, num_train = read_embeddings(files / "train_features.npy", "train_labels.npy", None, None, None)
    assert (table.X.dtype, num_train) == (np.float16, None)
    seen = []

    def look(screen, part, *_):
        seen.append(part.X.dtype)
        raise KeyboardInterrupt

    monkeypatch.setattr(probing, "fit_part", look)
    test = ["--test-features", "test_features.npy", "--test-labels", "test_labels.npy"]
    assert main(["probe", "train_features.npy", "train_labels.npy", "--l2", "0.1", *test]) == 130
    assert seen == [np.float16]


def test_standardized_features_have_mean_0_and_deviation_1_and_the_model_does_it_again(capsys, files):
    run = files / "run"
    metrics_of(capsys, "train_features.npy", "train_labels.npy", "--l2", "0.01", "--standardize", "--out", run)
    model = handgrad.load(run)
    X, labels = embeddings()
    assert model.encoding.scale.std() > 0
    assert np.mean(model.predict(X) == labels) > 0.9


@pytest.mark.parametrize("kind", ["npz", "safetensors", "lists", "columns"])
def test_embeddings_come_in_files_of_every_kind(kind, tmp_path):
    X, y = embeddings(dtype=np.float32)
    path, labels = tmp_path / f"e.{kind}", "labels"
    if kind == "npz":
        np.savez(path, embeddings=X, labels=y)
    elif kind == "safetensors":
        write_tensors(path, {"embeddings": X, "labels": y}, {})
    else:
        pa = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        path = tmp_path / f"{kind}.parquet"
        columns = {"e": list(X)} if kind == "lists" else {f"e{i}": X[:, i] for i in range(6)}
        parquet.write_table(pa.table({**columns, "labels": [f"class {label}" for label in y]}), path)
    table, _ = read_embeddings(path, labels, None, None, None)
    np.testing.assert_array_equal(table.X, X)
    np.testing.assert_array_equal(table.labels, y)
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({"y": y}), tmp_path / "y.parquet")
        np.save(tmp_path / "X.npy", X)
        table, _ = read_embeddings(tmp_path / "X.npy", str(tmp_path / "y.parquet"), None, None, None)
        np.testing.assert_array_equal(table.labels, y)


def test_what_does_not_fit_is_one_line(capsys, files):
    np.save("narrow.npy", np.zeros((60, 5), np.float32))
    np.save("strange.npy", np.arange(60) % 7)
    train = ["train_features.npy", "train_labels.npy"]
    error = fails(capsys, "probe", *train, "--test-features", "narrow.npy", "--test-labels", "test_labels.npy")
    assert "narrow.npy: must have 6 features, as train_features.npy; got 5." in error
    error = fails(capsys, "probe", *train, "--test-features", "test_features.npy", "--test-labels", "strange.npy")
    assert "has rows of classes that train_features.npy has none of: 4, 5, 6." in error
    assert "--preset must be one of dino, clip, path; got 'mae'." in fails(capsys, "probe", *train, "--preset", "mae")
    assert "there is no such file" in fails(capsys, "probe", "nowhere.parquet", "y")


@pytest.mark.parametrize("form", ["npy", "npz", "parquet"])
def test_rows_with_a_nan_are_named_and_the_advice_is_one_that_helps(form, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)).astype(np.float32), np.arange(60) % 3
    X[[7, 20], [0, 3]] = np.nan

    def write(X, y):
        if form == "parquet":
            arrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(arrow.table({**{f"f{i}": X[:, i] for i in range(4)}, "y": y}), "x.parquet")
        else:
            np.save("x.npy", X)
            np.savez("x.npz", x=X, y=y)
        np.save("y.npy", y)

    write(X, y)
    how = ["probe", f"x.{form}", "y.npy" if form == "npy" else "y", "--l2", "0.1"]
    error = fails(capsys, *how)
    assert f"x.{form}: embeddings must have no NaN; got 2 of 60 rows with one: 8, 21." in error
    assert "--missing" not in error
    rows = np.isfinite(X).all(axis=1)  # as it says
    write(X[rows], y[rows])
    assert metrics_of(capsys, *how[1:])["l2"] == 0.1


# --- Translation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_c_of_a_penalty_has_the_same_optimum_in_scikit_learn(num_classes):
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    labels = np.arange(120) % num_classes
    X = rng.normal(size=(120, 3)) + np.eye(3)[labels]
    W = np.asarray(handgrad.fit(X.astype(np.float32), labels, l2=0.02, tol=1e-6).params.W)
    C = translate(0.02, 120, num_classes)[0].value
    model = linear_model.LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(X, labels)
    coef = (W[:, 1:] - W[:, :1]).T if num_classes == 2 else W.T
    np.testing.assert_allclose(model.coef_, coef, atol=2e-3)


def test_the_alpha_of_a_penalty_has_the_same_optimum_by_stochastic_descent():
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    X = rng.normal(size=(200, 2)) + labels[:, None]
    W = np.asarray(handgrad.fit(X.astype(np.float32), labels, l2=0.1).params.W)
    alpha = next(each for each in translate(0.1, 200, 2) if "SGDClassifier" in each.of).value
    model = linear_model.SGDClassifier(
        loss="log_loss", alpha=alpha, average=True, max_iter=2000, tol=None, random_state=0
    ).fit(X, labels)
    np.testing.assert_allclose(model.coef_[0], W[:, 1] - W[:, 0], rtol=0.02)


def test_the_weight_decay_of_a_penalty_leaves_no_gradient_at_the_optimum():
    # What torch.optim.SGD moves W by: dL/dW of the mean loss plus weight_decay·W.
    X, labels = embeddings(dtype=np.float32)
    params = handgrad.fit(X, labels, l2=0.05, tol=1e-8).params
    decay = next(each for each in translate(0.05, 200, 4) if each.name == "weight_decay").value
    dW = np.asarray(handgrad.gradient(params, X, labels).W)
    assert np.abs(dW + decay * np.asarray(params.W)).max() < 1e-3 * np.abs(dW).max()


def test_ridge_s_alpha_is_that_of_the_same_penalty_beside_a_mean_of_halved_squares():
    linear_model = pytest.importorskip("sklearn.linear_model")
    X, y = embeddings(dtype=np.float64)
    X -= X.mean(axis=0)
    expected = np.linalg.solve(X.T @ X / 200 + 0.3 * np.eye(6), X.T @ (y - y.mean()) / 200)
    alpha = translate(0.3, 200, 4)[-1].value
    np.testing.assert_allclose(linear_model.Ridge(alpha=alpha).fit(X, y).coef_, expected, rtol=1e-9)


def test_a_translation_is_printed_and_in_the_metrics(capsys, files):
    arguments = ["train_features.npy", "train_labels.npy", "--l2", "0.01", "--translate"]
    found = metrics_of(capsys, *arguments)["translation"]
    assert found[0] == {
        "of": "scikit-learn LogisticRegression",
        "name": "C",
        "value": pytest.approx(1 / (0.01 * 160)),
        "formula": "1/(l2·rows)",
        "same_optimum": True,
    }
    assert main(["probe", *arguments]) == 0
    assert "C             = 0.625        scikit-learn LogisticRegression: 1/(l2·rows)\n" in capsys.readouterr().out
