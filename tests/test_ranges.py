"""Rows of a file from one to another: those that are asked for, read from near the first of them."""

import numpy as np
import pytest

from handgrad.data import ranges, stream_table
from handgrad.data.sources import find_source
from test_streaming_tables import ARRAYS, COLUMNED, ROLES, SPARSE, blocks, write, write_arrays  # noqa: F401

FORMS = [*COLUMNED, *ARRAYS, *SPARSE, "lines"]


def write_lines(folder):
    """Text with lines that are no rows, of either kind, and none at its end."""
    path = folder / "lines.csv"
    rows = [f"{number},{number % 7},{'ab'[number % 2]}" for number in range(100)]
    ends = ["\n", "\r\n", "\n\n", "\r\n\r\n\n"]
    path.write_text("\n\r\n" + "".join(row + ends[i % 4] for i, row in enumerate(["p,q,kind", *rows])).rstrip())
    return path


def numbers_or_words(block):
    """The rows of a block of a table."""
    if block.columns is None:
        return block.X.toarray() if block.is_sparse else block.X.copy()
    return np.stack(
        [
            np.array([*own.words, ""])[own.values] if own.words else own.values.astype(str)
            for own in block.columns.values()
        ],
        axis=1,
    )


@pytest.mark.parametrize("form", FORMS)
def test_a_pass_over_some_rows_has_them_and_no_others(form, tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "STEP", 7)
    monkeypatch.setattr(ranges, "PIECE", 50)
    for module in ("handgrad.data.delimited", "handgrad.data.ranges"):
        monkeypatch.setattr(f"{module}.STEP", 7)
    if form == "lines":
        table = stream_table(write_lines(tmp_path), target="kind")
    elif form in (*ARRAYS, *SPARSE):
        table = stream_table(write_arrays(tmp_path, form))
    else:
        table = stream_table(write(tmp_path, form), **ROLES)

    def values(rows):
        read = [numbers_or_words(block) for block in table.file.begin(np.asarray(rows, np.int64))]
        return np.concatenate(read) if read else np.empty((0, 0))

    every = values(range(100))
    assert len(every) == 100
    rng = np.random.default_rng(0)
    wanted = [[], [0], [99], [50], range(30, 60), range(29, 31), range(100)]
    wanted += [np.sort(rng.choice(100, size, replace=False)) for size in (2, 5, 40)]
    for rows in wanted:
        found = values(rows)
        assert len(found) == len(rows)
        if len(rows):
            np.testing.assert_array_equal(found, every[np.asarray(rows)])
        if table.file.numbers is not None:
            names = None if table.file.kinds is None else [*table.file.kinds][:2]
            read = np.empty((101, len(names) if names else 5), table.file.numbers.dtype)
            assert table.file.numbers.begin(names, np.asarray(rows, np.int64))(read) == len(rows)


def test_lines_tell_where_rows_begin_or_are_said_not_to(tmp_path, monkeypatch):
    monkeypatch.setattr(ranges, "STEP", 3)
    monkeypatch.setattr(ranges, "PIECE", 8)
    path = write_lines(tmp_path)
    with find_source(path) as source:
        places = ranges.find_rows(source, 100)
        assert ranges.find_rows(source, 99) is None
    text = path.read_bytes() + b"\n"
    assert [int(text[place:].split(b",")[0]) for place in places[:-1]] == list(range(0, 100, 3))
    assert places[-1] == len(text)
