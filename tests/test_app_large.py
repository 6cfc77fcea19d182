"""Files larger than the memory: the program trains on them, evaluates and predicts them, as if they were in memory."""

import json
import re
import tracemalloc

import numpy as np
import pytest

import handgrad
from handgrad.app import answering, evaluating, fitting, predicting, training
from handgrad.app.cli import main
from handgrad.data import arrays, fit_encoding, judging, read_table, streaming, streaming_columns
from handgrad.models import Model
from test_app import fails
from test_app_stream import APART, assert_close, without
from test_streaming_tables import write, write_arrays

SAME = 1e-6  # probabilities of float32 are rounded otherwise in blocks of other sizes; sums over them are float64
OPTIONS = ("--target", "kind", "--weight", "weight", "--id", "number")


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """In a block; and no check of the gradient, which compiles for seconds."""
    for module, name in ((streaming_columns, "LEAST_ROWS"), (judging, "LEAST_ROWS")):
        monkeypatch.setattr(module, name, 17)
    monkeypatch.setattr(streaming_columns, "ROWS_AT_ONCE", 0)
    monkeypatch.setattr(judging, "BLOCKS_AT_ONCE", 0)
    monkeypatch.setattr(arrays, "CUT_BYTES", 17 * 5 * 4)
    monkeypatch.setattr(training, "check_at", lambda *_, **__: handgrad.GradientReport((), True, ""))


@pytest.fixture
def large(monkeypatch):
    """What makes every table one that is too large for the memory."""

    def make(is_large=True):
        for module in (answering, evaluating, predicting):
            monkeypatch.setattr(module, "needs_streaming", lambda _: is_large)

    return make


def run(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run on a table with texts, dates and missing values, and that of one on an array."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fitting, "check_at", lambda *_: handgrad.GradientReport((), True, ""))
        for path, options in (
            (write(folder, "csv", missing=True), (*OPTIONS, "--missing", "drop-rows")),
            (write_arrays(folder, "npy"), ()),
            (write_arrays(folder, "svmlight"), ()),
        ):
            assert main(["fit", str(path), "--l2", "0.1", "--out", str(folder / path.suffix), "-q", *options]) == 0
    return folder


def assert_written_alike(one, other):
    for row, own in zip(one.splitlines(), other.splitlines(), strict=True):
        for cell, its in zip(row.split(","), own.split(","), strict=True):
            if cell != its:
                np.testing.assert_allclose(float(cell), float(its), rtol=SAME)
                assert len(its) <= 13  # as many digits as float32 has


# --- evaluate and predict ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "parquet", "feather"])
def test_columns_in_blocks_are_judged_as_those_in_memory(form, trained, tmp_path, capsys, large):
    path = write(tmp_path, form, missing=True)
    large(False)
    expected = run(capsys, "evaluate", trained / ".csv", path, "--weight", "weight")
    large()
    found = run(capsys, "evaluate", trained / ".csv", path, "--weight", "weight")
    assert expected["rows"] == 83
    apart = {"notes"}
    assert_close(without(found, apart), without(expected, apart), rtol=SAME)
    assert any("rows lack a value" in note and "more blocks" in note for note in found["notes"])


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_columns_in_blocks_are_predicted_as_those_in_memory(form, trained, tmp_path, capsys, large):
    path = write(tmp_path, form, missing=True)
    written = []
    for is_large in (False, True):
        large(is_large)
        out = tmp_path / f"{is_large}.csv"
        told = run(capsys, "predict", trained / ".csv", path, "--id", "number", "--out", out)
        assert told["rows"] == 100
        assert main(["predict", str(trained / ".csv"), str(path), "--id", "number", "-q"]) == 0
        assert capsys.readouterr().out == out.read_text()
        written.append(out.read_text())
    assert_written_alike(*written)
    assert written[0].count("\n") == 101
    assert "n0,,,," in written[0]


@pytest.mark.parametrize("form", ["npy", "npz", "svmlight", "svmlight.gz", "fewer columns"])
def test_arrays_in_blocks_are_judged_and_predicted_as_those_in_memory(form, trained, tmp_path, capsys, large):
    path = write_arrays(tmp_path, "svmlight" if form == "fewer columns" else form)
    if form == "fewer columns":
        path.write_text(re.sub(r" [345]:\S+", "", path.read_text()))
    model = trained / (".npy" if form.startswith("np") else ".svmlight")
    found = []
    for is_large in (False, True):
        large(is_large)
        out = tmp_path / f"{is_large}.csv"
        judged = run(capsys, "evaluate", model, path)
        run(capsys, "predict", model, path, "--out", out)
        found.append((without(judged, {"notes"}), out.read_text()))
    assert_written_alike(found[0][1], found[1][1])
    assert_close(found[1][0], found[0][0], rtol=SAME)


def test_runs_are_compared_on_a_large_file_as_on_one_in_memory(trained, tmp_path, capsys, large):
    path = write_arrays(tmp_path, "npy")
    pairs = []
    for is_large in (False, True):
        large(is_large)
        pairs.append(run(capsys, "compare", trained / ".npy", trained / ".npy", "--data", path)["pairs"])
    assert_close(pairs[1], pairs[0], rtol=SAME)


def test_what_is_wrong_with_a_large_file_is_one_line(trained, tmp_path, capsys, large):
    large()
    path = write(tmp_path, "parquet", missing=True)
    said = fails(capsys, "predict", str(trained / ".csv"), str(path), "--json")
    assert "too large for one JSON object. Name a file by --out" in said
    X = np.load(write_arrays(tmp_path, "npy"))
    X[70, 2] = np.inf
    np.save(tmp_path / "x.npy", X)
    said = fails(capsys, "predict", str(trained / ".npy"), str(tmp_path / "x.npy"), "--out", str(tmp_path / "out.csv"))
    assert "from row 69: numbers are infinite: the features (row 3, column 3)" in said
    assert not (tmp_path / "out.csv").exists()
    X[70, 2] = np.nan
    np.save(tmp_path / "x.npy", X)
    said = fails(capsys, "evaluate", str(trained / ".npy"), str(tmp_path / "x.npy"))
    assert "Its block begins at row 69" in said
    np.save(tmp_path / "y.npy", np.arange(90) % 3)
    assert "more rows than the 90 that labels are there for" in fails(
        capsys,
        "evaluate",
        str(trained / ".npy"),
        str(write_arrays(tmp_path, "npz")),
        "--labels",
        str(tmp_path / "y.npy"),
    )


def test_a_file_is_large_where_it_would_take_half_of_the_memory(trained, tmp_path, capsys, monkeypatch):
    path = write_arrays(tmp_path, "npy")
    monkeypatch.setattr(streaming, "available_memory", lambda: 2000)
    assert main(["evaluate", str(trained / ".npy"), str(path)]) == 0
    assert "would take more than half of the free memory, and is read in blocks" in capsys.readouterr().out


def test_a_large_file_that_is_judged_is_never_in_memory_as_a_whole(tmp_path, large, monkeypatch):
    monkeypatch.setattr(arrays, "CUT_BYTES", 2**18)
    X, y = np.random.default_rng(0).normal(size=(20_000, 300)).astype(np.float32), np.arange(20_000) % 3
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", y)
    encoding = fit_encoding(read_table(X[:100], labels=y[:100]))
    model = Model(handgrad.init_params(300, 3), encoding, (0, 1, 2), None)
    large()
    del X
    evaluating.judge(model, tmp_path / "x.npy", {})  # compiled
    tracemalloc.start()
    judged = evaluating.judge(model, tmp_path / "x.npy", {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(judged.rows) == 20_000
    # A few blocks, and of each row its class as it is stored and numbered, 20 bytes of what is said of it, its index.
    assert peak < 8 * 2**18 + 100 * 20_000 < 4 * 20_000 * 300 / 4


# --- train ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("npy", ("--epochs", "3")),
        ("svmlight", ("--epochs", "3")),
        pytest.param("csv", (*OPTIONS, "--epochs", "3", "--class-weight", "balanced"), marks=pytest.mark.slow),
        pytest.param(
            "parquet", (*OPTIONS, "--epochs", "2", "--optimizer", "lion", "--full-batch"), marks=pytest.mark.slow
        ),
    ],
)
def test_a_training_on_a_file_says_what_one_in_memory_says(form, options, tmp_path, capsys):
    path = write_arrays(tmp_path, form) if form in ("npy", "svmlight") else write(tmp_path, form)
    expected = run(capsys, "train", path, *options)
    out = () if form == "npy" else ("--out", tmp_path / "run")
    found = run(capsys, "train", path, *options, "--stream", *out)
    assert found["stream"] is True
    assert found["test_fingerprint"] == expected["test_fingerprint"]
    assert_close(without(found, APART), without(expected, APART), rtol=1e-4)
    assert not out or (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_a_training_on_rows_sorted_by_class_says_so(tmp_path, capsys, monkeypatch):
    from handgrad.solvers import streamed_epochs

    monkeypatch.setattr(streamed_epochs, "BUFFER_BYTES", 64 * 5 * 4)
    write_arrays(tmp_path, "npy", num_rows=300)
    np.save(tmp_path / "y.npy", np.sort(np.load(tmp_path / "y.npy")))
    assert main(["train", str(tmp_path / "x.npy"), "--stream", "--epochs", "1"]) == 0
    assert "nearly sorted by class" in capsys.readouterr().out
