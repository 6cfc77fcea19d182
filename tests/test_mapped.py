"""An array that stays in its .npy file is mapped: summed where it lies, and held to be what it was."""

import tracemalloc

import jax
import numpy as np
import pytest

import handgrad
from handgrad import mapped
from handgrad.data import arrays as stored_arrays
from handgrad.data import encode, fit_encoding, split_and_scale, stream_table
from handgrad.rows import streamed
from handgrad.solvers import streamed_epochs
from handgrad.solvers.data import prepare
from test_streaming_tables import blocks, gathered, write_arrays  # noqa: F401


def test_an_array_is_summed_where_it_lies_and_who_waits_is_told_of_it_too(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "CHUNK_BYTES", 64 * 5 * 4)
    calls = []
    path = write_arrays(tmp_path, "npy", num_rows=300)
    table = stream_table(path, callback=lambda *how: calls.append(how))
    X = encode(fit_encoding(table), table).X
    rows = prepare("test", X, table.labels, None, None, None, None).rows
    assert not rows._buffers
    calls.clear()
    found = handgrad.fit(X, table.labels, l2=0.1)
    assert calls.count((300, 300)) >= found.passes
    assert {done for done, _ in calls} >= {64, 128, 192, 256, 300}
    some = table.take(np.arange(50, 200)).file.numbers
    np.testing.assert_array_equal(some.pages(np.arange(10, 20)).rows, np.load(path)[60:70])
    assert some.pages(np.array([1, 3])) is None


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_of_a_map_few_pages_are_in_memory_however_few_rows_of_it_are_chosen(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "PIECE_BYTES", at_once * 5 * 4)
    X = np.load(write_arrays(tmp_path, "npy"), mmap_mode="r")
    brought = []
    pages = mapped.watched(mapped.pages_of(X), lambda start, end: brought.append(end - start))
    for rows in (np.arange(100), np.array([3]), np.arange(0, 100, 30), np.r_[5:9, 40:60, 99], np.arange(0)):
        fill, found = mapped.filling_from(pages, rows), [X[:0]]
        array = np.empty((11, 5), np.float32)
        while count := fill(array):
            found.append(array[:count].copy())
        np.testing.assert_array_equal(np.concatenate(found), X[rows])
    assert max(brought) <= at_once


def test_rows_that_are_drawn_from_all_of_an_array_are_scaled(tmp_path, monkeypatch):
    table = stream_table(write_arrays(tmp_path, "npy"))
    X = encode(fit_encoding(table), table).X
    monkeypatch.setattr(streamed_epochs, "BUFFER_BYTES", 7 * 5 * 4)
    monkeypatch.setattr(streamed_epochs, "RUN_BYTES", 3 * 5 * 4)
    data = streamed_epochs.Streamed(X, np.dtype(np.float32), np.arange(100), None)
    found, numbers, _ = map(list, zip(*streamed_epochs.mixed(data, jax.random.key(0), 7), strict=True))
    assert len(found) == 15
    np.testing.assert_array_equal(np.concatenate(found), gathered(X)[np.concatenate(numbers)])


def test_an_array_that_changes_between_passes_is_refused(tmp_path, monkeypatch):
    path = write_arrays(tmp_path, "npy")
    table = stream_table(path)
    of_some, of_all = split_and_scale(table).train.X, encode(fit_encoding(table), table).X
    assert of_some.pages is None
    assert of_all.pages is not None
    X, words = np.load(path), r"x\.npy: has changed since it was first read"
    monkeypatch.setattr(streamed_epochs, "BUFFER_BYTES", 20)  # so that rows are drawn from all of the map
    for change in (lambda: np.save(path, X[:-60]), lambda: np.save(path, X.view("i4")), lambda: path.write_bytes(b"")):
        np.save(path, X)
        gathered(of_some), gathered(of_all)
        change()
        for go in (
            lambda: gathered(of_some),
            lambda: gathered(of_all),
            lambda: handgrad.fit(of_all, table.labels, l2=0.1),
            lambda: handgrad.train(of_all, table.labels, learning_rate=0.1, epochs=1),
        ):
            with pytest.raises(ValueError, match=words):
                go()


@pytest.mark.parametrize("form", ["npy", "npz"])
def test_a_packed_file_that_changes_between_passes_is_refused(form, tmp_path):
    path = write_arrays(tmp_path, form)
    stream = split_and_scale(stream_table(path)).train.X
    if form == "npz":
        np.savez_compressed(path, X=np.load(path)["X"][:-60], y=np.load(path)["y"])
    else:
        path.unlink()  # what is mapped stays
        np.save(path, np.zeros((3, 3)))
        assert len(gathered(stream)) == stream.shape[0]
        return
    with pytest.raises(ValueError, match="same rows in each pass"):
        gathered(stream)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"data\.npz: .*is damaged"):
        gathered(stream)


def test_a_pass_holds_a_few_blocks(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(stored_arrays, "CUT_BYTES", 2**16)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20_000, 50)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.arange(20_000) % 3)

    def go():
        table = stream_table(tmp_path / "x.npy")
        for _ in encode(fit_encoding(table), table).X.blocks(500):
            pass

    go()
    tracemalloc.start()
    go()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 + 20_000 * (8 + 8 + 8 + 8 + 4 + 2) < 20_000 * 50 * 4
