"""`handgrad fit --stream`: answers, findings and report of a table in its file are those of one in memory."""

import json
import math

import numpy as np
import pytest

import handgrad
from handgrad.app import fitting, progress, sampling, tables
from handgrad.app.cli import main
from handgrad.app.screen import make_screen
from handgrad.data import streaming, streaming_columns
from test_app import fails
from test_streaming_tables import ROLES, write, write_arrays

OPTIONS = ("--target", "kind", "--weight", "weight", "--group", "clinic", "--id", "number")
APART = {"stream", "arguments", "seconds", "versions", "iterations", "message", "gap", "gradient_norm"}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """In a block; and no check of the gradient, which compiles for seconds."""
    monkeypatch.setattr(streaming_columns, "LEAST_ROWS", 40)
    monkeypatch.setattr(streaming_columns, "ROWS_AT_ONCE", 0)
    monkeypatch.setattr(fitting, "check_at", lambda *_: handgrad.GradientReport((), True, ""))


def run_fit(capsys, *arguments):
    assert main(["fit", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def assert_close(found, expected, place="", *, rtol=2e-3):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for name, own in expected.items():
            assert_close(found[name], own, f"{place}/{name}", rtol=rtol)
    elif isinstance(expected, list):
        assert len(found) == len(expected), place
        for number, own in enumerate(expected):
            assert_close(found[number], own, f"{place}/{number}", rtol=rtol)
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=rtol, abs_tol=rtol), f"{place}: {found} and {expected}"
    else:
        assert found == expected or place.endswith("/says"), f"{place}: {found} and {expected}"


def without(metrics, names=APART):
    return {name: value for name, value in metrics.items() if name not in names}


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("csv", OPTIONS),
        pytest.param(
            "parquet",
            (*OPTIONS, "--folds", "0", "--missing", "indicator", "--class-weight", "balanced"),
            marks=pytest.mark.slow,
        ),
        pytest.param("npy", ("--l2", "0.1"), marks=pytest.mark.slow),
        ("svmlight", ("--l2", "0.1")),
    ],
)
def test_a_run_of_a_file_says_what_one_in_memory_says(form, options, tmp_path, capsys):
    is_array = form in ("npy", "svmlight")
    path = write_arrays(tmp_path, form) if is_array else write(tmp_path, form, missing="--missing" in options)
    expected = run_fit(capsys, path, *options)
    found = run_fit(capsys, path, *options, "--stream", "--out", tmp_path / "run")
    assert found["stream"] is True
    assert found["l2"] == expected["l2"]
    assert math.isclose(found["loss"], expected["loss"], rel_tol=2e-5)
    assert found["test_fingerprint"] == expected["test_fingerprint"]
    assert_close(without(found), without(expected))
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


def test_of_a_sample_mistakes_and_all_that_is_counted_are_those_of_all_rows(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(900, 64)).astype(np.float32)
    X[:, 3] = 2.0
    labels = (X[:, 0] + 0.5 * rng.normal(size=900) > 0).astype(int)
    labels[:4] = 2
    np.savez(tmp_path / "data.npz", X=(40 * X + 100).clip(0, 255).astype(np.uint8), y=labels)
    expected = run_fit(capsys, tmp_path / "data.npz", "--l2", "0.1")
    monkeypatch.setattr(sampling, "MOST_SAMPLED", 100)
    found = run_fit(capsys, tmp_path / "data.npz", "--l2", "0.1", "--stream", "--out", tmp_path / "run")
    rare, of_all = (
        [finding for finding in run["findings"] if finding["code"] == "rare-classes"] for run in (found, expected)
    )
    assert rare == of_all
    assert rare[0]["evidence"] == {"rows": {"2": 3}}
    apart = {*APART, "findings"}
    assert_close(without(found, apart), without(expected, apart))
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png") > len(found["mistakes"])


def test_what_a_sample_would_get_wrong_is_not_said(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 5)).astype(np.float32)
    X[:, 0], X[:, 4] = np.arange(400) % 2 + 0.1 * X[:, 0], 3
    X[7, 0] = 5  # the one row of its class that is on the other side
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", (np.arange(400) % 2) * (np.arange(400) != 7))
    codes = {}
    for most in (20_000, 30):
        monkeypatch.setattr(sampling, "MOST_SAMPLED", most)
        found = run_fit(capsys, tmp_path / "x.npy", "--l2", "0.01", "--stream")
        codes[most] = {finding["code"] for finding in found["findings"]}
    assert "constant-features" in codes[20_000]
    assert not {"constant-features", "separated-classes"} & codes[30]


def test_a_table_too_large_for_the_memory_is_streamed_and_that_is_said(tmp_path, capsys, monkeypatch):
    path = write(tmp_path, "parquet")
    monkeypatch.setattr(streaming, "available_memory", lambda: 10_000)
    assert main(["fit", str(path), *OPTIONS, "--l2", "0.1"]) == 0
    assert "would take more than half of the free memory" in capsys.readouterr().out
    path.with_suffix(".bad.parquet").write_bytes(path.read_bytes()[:-100] + bytes(100))
    said = fails(capsys, "fit", str(path.with_suffix(".bad.parquet")), "--target", "kind")
    assert "is not in the format parquet, or is damaged" in said
    monkeypatch.setattr(streaming, "available_memory", lambda: 10**9)
    assert not streaming.needs_streaming(path)
    assert not streaming.needs_streaming("-")


def test_what_does_not_go_with_a_stream_is_one_line(tmp_path, capsys):
    path = write(tmp_path, "csv")
    said = fails(capsys, "fit", str(path), *OPTIONS, "--stream", "--scoring", "f1_macro")
    assert "--scoring must be log-loss or accuracy with --stream; got 'f1_macro'" in said
    assert "--stream needs DATA" in fails(capsys, "fit", "--stream")


def test_each_pass_shows_its_rows_or_what_it_is_a_step_towards(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    screen = make_screen()
    passes = progress.Passes(screen)
    passes(50, 100)
    passes(100, 100)
    passes(10, 100)
    with progress.watching(screen, "fitting") as watch:
        watch(0.5, "iteration 3")
        watch.next = 0
        passes(70, 100)
    out = capsys.readouterr().out
    assert "reading: 50 of 100 rows" in out
    assert "reading: 10 of 100 rows" in out
    assert "fitting: iteration 3, 70% of a pass" in out


def test_a_table_in_a_file_is_read_with_all_that_is_asked_of_it(tmp_path):
    table = tables.read_or_stream(make_screen(quiet=True), write(tmp_path, "csv"), dict(ROLES), in_file=True)
    assert table.file is not None
    assert table.weights is not None
    assert "read anew for each pass" in table.notes[-1]
