"""Tables that stay in their files: what they are, and what is made of them, is as if they had been read."""

import datetime
import gzip

import numpy as np
import pytest

import handgrad
from handgrad import processes
from handgrad.data import arrays as stored_arrays
from handgrad.data import (
    delimited,
    encode,
    filed,
    fit_encoding,
    measuring,
    read_table,
    sharing,
    split_and_scale,
    stream_table,
    streaming_columns,
    svmlight,
)
from handgrad.data.splitting import table_keys
from handgrad.sparse_streams import SparseStream

pyarrow = pytest.importorskip("pyarrow")
for name in ("csv", "feather", "parquet"):
    pytest.importorskip(f"pyarrow.{name}")

ROLES = {"target": "kind", "weight": "weight", "group": "clinic", "ids": ("number",)}
COLUMNED = ("csv", "csv.gz", "tsv", "parquet", "folder", "feather", "arrow")
ARRAYS = ("npy", "npz")
SPARSE = ("svmlight", "svmlight.gz")


@pytest.fixture(autouse=True)
def blocks(request, monkeypatch):
    """Of eleven rows, which no size divides, or as they are."""
    size = getattr(request, "param", "few")
    if size == "few":
        monkeypatch.setattr(streaming_columns, "LEAST_ROWS", 11)
        monkeypatch.setattr(streaming_columns, "ROWS_AT_ONCE", 0)
        monkeypatch.setattr(stored_arrays, "CUT_BYTES", 11 * 5 * 4)
        monkeypatch.setattr(svmlight, "BLOCK", 400)
    return size


def columns(num_rows=100, *, missing=False):
    rng = np.random.default_rng(0)
    labels = np.arange(num_rows) % 3
    size = rng.normal(size=num_rows) + labels
    town = rng.choice(["Ulm", "Bonn", "Köln"], num_rows).tolist()
    if missing:
        size[::7] = np.nan
        town[40] = town[93] = None
    start = datetime.date(2026, 1, 1)
    return {
        "size": pyarrow.array(size, from_pandas=True),
        "count": (rng.integers(0, 9, num_rows) + labels).tolist(),
        "town": town,
        "smokes": rng.choice([True, False], num_rows).tolist(),
        "day": [start + datetime.timedelta(days=int(day)) for day in rng.integers(0, 400, num_rows)],
        "constant": [1.0] * num_rows,
        "weight": (1 + rng.random(num_rows)).tolist(),
        "clinic": [f"c{number // 4}" for number in range(num_rows)],
        "number": [f"n{number}" for number in range(num_rows)],
        "kind": [("no", "perhaps", "yes")[label] for label in labels],
    }


def write(folder, form, **how):
    table = pyarrow.table(columns(**how))
    path = folder / f"table.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=30)
    elif form == "folder":
        path.mkdir()
        for number in range(3):
            pyarrow.parquet.write_table(table[number * 40 : number * 40 + 40], path / f"part-{number}.parquet")
    elif form == "feather":
        pyarrow.feather.write_feather(table, path, chunksize=23)
    elif form == "arrow":
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=37)
    else:
        options = pyarrow.csv.WriteOptions(delimiter="\t" if form == "tsv" else ",")
        pyarrow.csv.write_csv(table, path, write_options=options)
        if form == "csv.gz":
            path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def write_arrays(folder, form, dtype=np.float32, num_rows=100):
    rng = np.random.default_rng(1)
    y = np.arange(num_rows) % 3
    X = (3 * rng.normal(size=(num_rows, 5)) + y[:, None] + 100).astype(dtype)
    if form in SPARSE:
        path = folder / f"data.{form}"
        with gzip.open(path, "wt") if form.endswith("gz") else open(path, "w") as file:
            file.write("".join(_lines(X * (np.abs(X - 100) > 2), y)))
        return path
    if form == "npz":
        np.savez_compressed(folder / "data.npz", X=X, y=y)
        return folder / "data.npz"
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", y)
    return folder / "x.npy"


def _lines(X, y):
    """Rows as svmlight has them, counted from 1 and in any order, and lines that are none."""
    for number, (x, label) in enumerate(zip(X, y, strict=True)):
        pairs = [f"{place + 1}:{value:.9g}" for place, value in enumerate(x) if value][:: 1 - 2 * (number % 2)]
        yield (
            " ".join([str(label), *pairs]) + ("  # a row\n" if number % 7 == 0 else "\n") + "# none\n\n" * (number % 3)
        )


def gathered(stream, rows=17):
    if isinstance(stream, SparseStream):
        return stream.in_memory().toarray()
    return np.concatenate([block.copy() for block in stream.blocks(rows)])


def assert_alike(read, streamed):
    assert streamed.file is not None
    assert streamed.class_names == read.class_names
    assert streamed.num_rows == read.num_rows
    assert (streamed.target, streamed.left_out, streamed.image_shape) == (read.target, read.left_out, read.image_shape)
    for name in ("labels", "weights", "groups", "times"):
        np.testing.assert_array_equal(getattr(streamed, name), getattr(read, name))
    assert {name: own.tolist() for name, own in streamed.ids.items()} == {
        name: own.tolist() for name, own in read.ids.items()
    }
    np.testing.assert_array_equal(table_keys(streamed), table_keys(read))
    np.testing.assert_array_equal(table_keys(streamed._replace(ids={})), table_keys(read._replace(ids={})))


def assert_same_encoding(expected, found):
    for name, one, other in zip(expected._fields, expected, found, strict=True):
        if isinstance(one, np.ndarray):
            np.testing.assert_allclose(other, one, rtol=1e-12, atol=1e-12, err_msg=name)
        else:
            assert other == one


def assert_split_alike(read, streamed):
    expected, found = (split_and_scale(table, validation=0.1) for table in (read, streamed))
    assert_same_encoding(expected.encoding, found.encoding)
    assert found.notes == expected.notes
    for one, other in zip(expected[1], found[1], strict=True):
        np.testing.assert_array_equal(other, one)
    for one, other in zip(expected[2:5], found[2:5], strict=True):
        assert other.X.shape == one.X.shape
        of_one = one.X if isinstance(one.X, np.ndarray) else one.X.toarray()
        np.testing.assert_allclose(gathered(other.X), of_one, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(other.labels, one.labels)
        np.testing.assert_array_equal(other.weights, one.weights)
    return expected, found


# --- As if they had been read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", ["few", "many"], indirect=True)
@pytest.mark.parametrize("form", COLUMNED)
def test_columns_in_a_file_are_those_that_are_read(form, blocks, tmp_path):
    path = write(tmp_path, form)
    read, streamed = read_table(path, **ROLES), stream_table(path, **ROLES)
    assert_alike(read, streamed)
    assert_split_alike(read, streamed)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("missing", ["mean", "median", "most-frequent", "indicator", "drop-rows"])
def test_missing_values_in_a_file_are_as_those_that_are_read(missing, form, tmp_path):
    path = write(tmp_path, form, missing=True)
    read, streamed = (table(path, missing=missing, **ROLES) for table in (read_table, stream_table))
    assert_alike(read, streamed)
    assert streamed.notes == read.notes
    assert_split_alike(read, streamed)


@pytest.mark.parametrize("blocks", ["few", "many"], indirect=True)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, ">f8"])
@pytest.mark.parametrize("form", ARRAYS)
def test_arrays_in_a_file_are_those_that_are_read(form, dtype, blocks, tmp_path):
    path = write_arrays(tmp_path, form, dtype)
    read, streamed = read_table(path), stream_table(path)
    assert_alike(read, streamed)
    assert_split_alike(read, streamed)


@pytest.mark.parametrize("blocks", ["few", "many"], indirect=True)
@pytest.mark.parametrize("form", SPARSE)
def test_sparse_rows_in_a_file_are_those_that_are_read(form, blocks, tmp_path):
    path = write_arrays(tmp_path, form)
    read, streamed = read_table(path), stream_table(path)
    assert_alike(read, streamed)
    assert_split_alike(read, streamed)
    assert isinstance(split_and_scale(streamed).train.X, SparseStream)
    rows = np.array([3, 40, 41, 99])
    some = filed.read_rows(streamed, rows)
    np.testing.assert_array_equal(some.X.toarray(), read.X[rows].toarray())
    np.testing.assert_array_equal(some.labels, read.labels[rows])


def test_a_line_of_a_later_block_that_is_not_svmlight_is_named(tmp_path):
    path = write_arrays(tmp_path, "svmlight")
    lines = path.read_text().splitlines()
    lines[110] = "1 1:x"
    path.write_text("\n".join(lines))
    for table in (read_table, stream_table):
        with pytest.raises(ValueError, match=r"svmlight: line 111 is not `class index:value …`.*; got '1 1:x'"):
            table(path)


@pytest.mark.parametrize("change", ["6:1", "0:1", ""])
def test_a_sparse_file_that_has_changed_is_refused(change, tmp_path):
    path = write_arrays(tmp_path, "svmlight")
    X = split_and_scale(stream_table(path)).train.X
    path.write_text(f"{path.read_text()}1 {change}\n" if change else path.read_text()[:-200])
    with pytest.raises(ValueError, match=r"has changed since it was first read|the same rows in each pass"):
        for _ in X.chunks():
            pass


@pytest.mark.parametrize("missing", ["median", "most-frequent", "indicator", "drop-rows"])
def test_missing_entries_of_an_array_are_as_those_that_are_read(missing, tmp_path):
    path = write_arrays(tmp_path, "npy")
    X = np.load(path)
    X[3, 1] = X[50, 1] = X[99, 4] = np.nan
    np.save(path, X.round(1))
    read, streamed = (table(path, missing=missing) for table in (read_table, stream_table))
    assert_alike(read, streamed)
    assert_split_alike(read, streamed)


def test_images_and_rows_in_the_order_of_time_are_as_those_that_are_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"X": rng.integers(0, 255, (60, 8, 9, 3)).astype(np.uint8), "y": np.arange(60) % 2, "t": np.arange(60) % 7}
    np.savez(tmp_path / "images.npz", **arrays)
    read, streamed = (table(tmp_path / "images.npz", time="t") for table in (read_table, stream_table))
    assert streamed.image_shape == (8, 9, 3)
    assert_alike(read, streamed)
    assert_split_alike(read, streamed)


def test_what_a_text_is_follows_from_all_its_rows(tmp_path):
    header = "late,yes,stamp,comma,kind\n"
    rows = [f"{i % 5},TRUE,{i % 28 + 1}.03.2026,x{i % 2},{'ab'[i % 2]}" for i in range(60)]
    for number in range(6):  # more texts than there are numbers, in fewer rows
        rows[50 + number] = f"k {7 + number},false,1.12.2025,x1,a"
    path = tmp_path / "table.csv"
    path.write_text(header + "\n".join(rows))
    for table in (read_table, stream_table):
        with pytest.raises(ValueError, match=r"columns of numbers hold what is none: late \('k 7'"):
            table(path, target="kind")
    rows = ["k" + row for row in rows]
    path.write_text(header + "\n".join(rows))
    read, streamed = (table(path, target="kind") for table in (read_table, stream_table))
    assert streamed.file.kinds == {"late": "text", "yes": "boolean", "stamp": "date", "comma": "text"}
    assert_alike(read, streamed)
    assert_split_alike(read, streamed)


def test_a_block_without_values_is_of_the_kind_of_its_column(tmp_path):
    rows = [f"{i % 28 + 1}.03.2026,TRUE,{'ab'[i % 2]}" if not 11 <= i < 33 else f",,{'ab'[i % 2]}" for i in range(60)]
    path = tmp_path / "table.csv"
    path.write_text("stamp,yes,kind\n" + "\n".join(rows))
    read, streamed = (table(path, target="kind", missing="mean") for table in (read_table, stream_table))
    assert_alike(read, streamed)
    assert_split_alike(read, streamed)


@pytest.mark.slow
def test_a_fit_of_a_file_is_that_of_what_is_read(tmp_path):
    path = write_arrays(tmp_path, "npy")
    splits = [split_and_scale(table(path)) for table in (read_table, stream_table)]
    expected, found = (handgrad.fit(split.train.X, split.train.labels, l2=0.01) for split in splits)
    assert found.converged
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-5)


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_rows_that_are_brought_into_memory_stay_what_they_are(form, tmp_path):
    path = write_arrays(tmp_path, form) if form == "npy" else write(tmp_path, form)
    how = {} if form == "npy" else ROLES
    read, streamed = read_table(path, **how), stream_table(path, **how)
    for rows in (np.arange(100), np.arange(0, 100, 3)):
        some = filed.read_rows(streamed, rows)
        expected = encode(fit_encoding(read), read).X[rows]
        np.testing.assert_array_equal(encode(fit_encoding(read), some).X, expected)
        np.testing.assert_array_equal(some.labels, read.labels[rows])


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("form", ["csv", "parquet", "npy"])
def test_rows_that_are_dealt_to_processes_are_the_table_s_each_once(form, is_held, tmp_path, monkeypatch):
    path = write_arrays(tmp_path, form) if form == "npy" else write(tmp_path, form)
    table = stream_table(path, **({} if form == "npy" else ROLES))
    encoding = fit_encoding(table)
    X = gathered(encode(encoding, table).X)
    monkeypatch.setattr(sharing, "DEALT_BYTES", 30 * 4 * X.shape[1])
    table = table._replace(file=table.file._replace(is_held=is_held))
    for count in (1, 3, 40):  # of which the last is more than there are rows for, in what is left over
        monkeypatch.setattr(processes, "count", lambda count=count: count)
        found, seen = np.full_like(X, np.nan), np.zeros(len(X), int)
        for number in range(count):
            monkeypatch.setattr(processes, "index", lambda number=number: number)
            stream = sharing.encode_dealt(encoding, table)
            own = np.flatnonzero(stream.owners == number)
            assert abs(np.count_nonzero(own < 30) - 30 / count) < 1
            seen[own] += 1
            blocks = [np.empty((0, X.shape[1]), np.float32), *(block.copy() for block in stream.blocks(7))]
            found[own] = np.concatenate(blocks)
            assert stream.shape == X.shape
        np.testing.assert_array_equal(seen, 1)
        np.testing.assert_array_equal(found, X)


def test_a_stored_encoding_takes_a_file(tmp_path):
    path = write(tmp_path, "parquet")
    table = read_table(path, **ROLES)
    encoding = fit_encoding(table)
    X = encode(encoding, stream_table(path, **ROLES)).X
    np.testing.assert_allclose(gathered(X), encode(encoding, table).X, rtol=1e-6, atol=1e-6)


def test_who_waits_is_told_how_far_each_pass_is(tmp_path):
    calls = []
    table = stream_table(write(tmp_path, "parquet"), **ROLES, callback=lambda *how: calls.append(how))
    assert calls[-1] == (100, 100)
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    calls.clear()
    gathered(encode(fit_encoding(table), table).X)
    assert calls.count((100, 100)) == 2


# --- What is refused --------------------------------------------------------------------------------------------------


def test_what_is_not_read_in_blocks_says_what_to_do(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (tmp_path / "latin.csv").write_bytes("a,kind\n1,Köln\n2,Bonn\n".encode("cp1252") * 3)
    np.save(tmp_path / "x.npy", np.asfortranarray(np.ones((6, 2))))
    np.save(tmp_path / "y.npy", np.arange(6) % 2)
    for source, words in (
        (tmp_path / "x.safetensors", "safetensors is not read in blocks. Write it as .parquet"),
        ("-", "standard input: can be read only once. Name a file"),
        (tmp_path / "latin.csv", "only UTF-8 is read in blocks. Convert it first"),
        (tmp_path / "x.npy", "numpy.ascontiguousarray"),
        (np.ones((3, 3)), "must be the path of a file; got ndarray. handgrad.fit takes"),
    ):
        with pytest.raises(ValueError, match=words):
            stream_table(source, target="kind" if str(source).endswith("csv") else None)


def test_what_is_wrong_in_a_later_block_is_said_with_its_rows(tmp_path):
    path = write_arrays(tmp_path, "npy")
    X = np.load(path)
    X[70, 2] = np.inf
    np.save(path, X)
    with pytest.raises(ValueError, match=r"from row 67: numbers are infinite: the features \(row 5, column 3\)"):
        stream_table(path)
    table = pyarrow.table({"a": [1.0] * 35 + [float("inf")] + [2.0] * 10, "kind": ["a", "b"] * 23})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"counted from row 34: numbers are infinite: a \(in row 3\)"):
        stream_table(tmp_path / "t.parquet", target="kind")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_missing_values_are_refused_with_their_number_and_the_first(form, tmp_path):
    path = write(tmp_path, form, missing=True)
    said = []
    for table in (read_table, stream_table):
        with pytest.raises(ValueError, match=r"town \(2 of 100, the first in row 41\)") as caught:
            table(path, **ROLES)
        said.append(str(caught.value))
    assert said[1] == said[0]


def test_texts_that_are_too_many_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("name,kind\n" + "".join(f"n{i},{'ab'[i % 2]}\n" for i in range(60)))
    said = []
    for table in (read_table, stream_table):
        with pytest.raises(ValueError, match=r"name \(60 texts in 60 rows, such as 'n0'\)") as caught:
            table(path, target="kind")
        said.append(str(caught.value))
    assert said[1] == said[0]
    monkeypatch.setattr(delimited, "MOST_WORDS", 50)
    with pytest.raises(ValueError, match="'name' has more than 50 different texts"):
        stream_table(path, target="kind")


def test_a_median_of_too_many_numbers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "MOST_TALLIED", 20)
    table = stream_table(write_arrays(tmp_path, "npy"), missing="median")
    with pytest.raises(ValueError, match=r"more than 20 different ones.*--missing mean or indicator"):
        fit_encoding(table)


def test_whole_numbers_that_float64_merges_are_refused_in_any_block(tmp_path):
    path = tmp_path / "t.csv"
    numbers = [*range(59), 2**53 + 1]
    path.write_text("a;b;kind\n" + "".join(f'{n};"x\n{n % 2},5";{"pq"[n % 2]}\n' for n in numbers))
    with pytest.raises(ValueError, match=r"integers are beyond 2\*\*53.*a \(9007199254740993 in row 5\)"):
        stream_table(path, target="kind")
    path.write_text("a;b;kind\n" + "".join(f'{n},5;"x\n{n % 2}";{"pq"[n % 2]}\n' for n in range(60)))
    read, streamed = (table(path, target="kind") for table in (read_table, stream_table))
    assert streamed.file.kinds == {"a": "number", "b": "text"}
    assert_alike(read, streamed)


@pytest.mark.parametrize("has_text", [False, True])
def test_a_number_too_large_to_scale_is_told_by_its_column(has_text, tmp_path):
    small = [1e-300 * (number % 5) for number in range(200)]
    table = {"a": range(200), "b": small, "kind": ["x", "y"] * 100}
    if has_text:
        table["c"] = ["u", "v"] * 100
    encoding = fit_encoding(read_table(table, target="kind"))
    table["b"] = [*small[:-1], 1.0]
    pyarrow.parquet.write_table(pyarrow.table({**table, "a": list(table["a"])}), tmp_path / "t.parquet")
    read, streamed = read_table(table, target="kind"), stream_table(tmp_path / "t.parquet", target="kind")
    for rows, where in (
        (read, "row 200 that is"),
        (streamed, r"row 2 that is.*\(Its block begins at row 199 of them.\)" if has_text else "row 200 that is"),
    ):
        with pytest.raises(ValueError, match=rf"column 'b' has a number in {where}"):
            gathered(encode(encoding, rows).X)


# --- Numbers that are summed as they are stored -----------------------------------------------------------------------


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_shifted_features_lose_nothing_where_they_are_scaled_as_they_are_summed(form, fit_intercept, tmp_path):
    rng = np.random.default_rng(3)
    t = np.arange(400) % 3
    X = (rng.normal(size=(400, 4)) + t[:, None] + [0, 1e6, -3e4, 100]).astype(np.float32)
    if form == "npy":
        np.save(tmp_path / "t.npy", X)
        how = {"labels": t}
    else:
        columns = {name: X[:, number] for number, name in enumerate("abcd")}
        pyarrow.parquet.write_table(pyarrow.table({**columns, "kind": t}), tmp_path / "t.parquet", row_group_size=90)
        how = {"target": "kind"}
    read, streamed = (table(tmp_path / f"t.{form}", **how) for table in (read_table, stream_table))
    encoding = fit_encoding(read)
    found, expected = (
        handgrad.fit(encode(encoding, table).X, t, l2=0.01, tol=1e-7, fit_intercept=fit_intercept)
        for table in (streamed, read)
    )
    assert found.converged
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    np.testing.assert_allclose(found.params.W, expected.params.W, atol=2e-4)
    stream = encode(encoding, streamed).X
    assert stream.offset is not None
    np.testing.assert_array_equal(gathered(stream), encode(encoding, read).X)


def test_columns_of_several_types_and_sizes_are_one_array_of_numbers(tmp_path):
    numbers = np.arange(60)
    table = {
        "small": pyarrow.array(numbers % 9, pyarrow.int8()),
        "single": pyarrow.array(numbers / 7, pyarrow.float32()),
        "large": pyarrow.array(numbers * 2**45 + 1, pyarrow.int64()),
        "kind": (numbers % 2).tolist(),
    }
    for sizes in ({}, {"b": 1e-40, "a": 1e35}):  # scales that float32 has not: these are scaled before
        path = tmp_path / "t.parquet"
        more = {name: pyarrow.array(numbers * size, pyarrow.float64()) for name, size in sizes.items()}
        pyarrow.parquet.write_table(pyarrow.table({**table, **more}), path, row_group_size=17)
        read, streamed = (load(path, target="kind") for load in (read_table, stream_table))
        encoding = fit_encoding(read)
        X = encode(encoding, streamed).X
        assert X.stored_dtype == np.float64
        np.testing.assert_array_equal(gathered(X), encode(encoding, read).X)
        assert_split_alike(read, streamed)
    for name in ("offset", "scale"):
        assert np.isfinite(getattr(encoding, name)).all()
