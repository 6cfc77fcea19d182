"""The formats in which people have tables: what is found out about each, and that all give the same rows."""

import bz2
import gzip
import io
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest

from handgrad.data import read_features, read_table, stream_table

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")

import pyarrow.feather  # noqa: E402
import pyarrow.parquet  # noqa: E402

RNG = np.random.default_rng(0)
SIZES = [1.5, -300.0, 5.0, 7.25, 0.0, 2.0]
COLOURS = ["red", "blue", "red", "a, b", "blue", "red"]
DAYS = ["2021-03-04", "2021-03-05", "1969-12-31", "2024-02-29", "2021-03-04", "2021-03-04"]
FLAGS = [True, False, True, True, False, False]
KINDS = ["x", "y", "x", "y", "x", "y"]
FRAME = {"size": SIZES, "colour": COLOURS, "day": DAYS, "flag": FLAGS, "kind": KINDS}
SINCE_1970 = [18690.0, 18691.0, -1.0, 19782.0, 18690.0, 18690.0]


def text(separator=",", decimal=".", quote='"', end="\n"):
    rows = [list(FRAME)]
    for size, *row in zip(*FRAME.values(), strict=True):
        rows.append([str(size).replace(".", decimal), *map(str, row)])
    quoted = [[f"{quote}{cell}{quote}" if cell in COLOURS else cell for cell in row] for row in rows]
    return end.join(separator.join(row) for row in quoted) + end


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def is_the_table(table):
    """That a table is the one above, whatever it was read from."""
    values = {name: column.values for name, column in table.columns.items()}
    np.testing.assert_array_equal(values["size"], SIZES)
    colour = table.columns["colour"]
    assert [colour.words[code] for code in colour.values] == COLOURS
    np.testing.assert_array_equal(values["day"], SINCE_1970)
    np.testing.assert_array_equal(values["flag"], FLAGS)
    assert {name: column.kind for name, column in table.columns.items()} == {
        "size": "number",
        "colour": "text",
        "day": "date",
        "flag": "boolean",
    }
    assert table.class_names == ("x", "y")
    np.testing.assert_array_equal(table.labels, [0, 1] * 3)
    return True


# --- Texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("t.csv", text(), ()),
        ("T.CSV", text(), ()),
        ("t.csv", text(end="\r\n"), ()),
        ("t.csv", text(";", ","), ("read as text separated by semicolons, with decimal commas.",)),
        ("t.csv", text(";"), ("read as text separated by semicolons.",)),
        ("t.tsv", text("\t"), ("read as text separated by tabs.",)),
        ("t.txt", text("|"), ("read as text separated by bars.",)),
        ("t.txt", text(",", quote="'"), ("read as text quoted by '.",)),
        ("t.csv", text().encode("utf-8-sig"), ()),
        ("t.csv", text().encode("utf-16"), ("read as text in utf-16.",)),
        ("t.csv.gz", gzip.compress(text().encode()), ()),
        ("T.CSV.GZ", gzip.compress(text().encode()), ()),
        ("t.tsv.bz2", bz2.compress(text("\t").encode()), ("read as text separated by tabs.",)),
        ("t.csv.zst", pa.compress(text().encode(), "zstd", asbytes=True), ()),
    ],
)
def test_text_is_read_however_it_is_written_and_what_is_unusual_is_said(tmp_path, name, content, note):
    table = read_table(write(tmp_path / name, content), target="kind")
    assert is_the_table(table)
    assert table.notes == note


def test_what_is_given_is_not_found_out(tmp_path):
    path = write(tmp_path / "t.csv", text(";", ",", "'").encode("cp1252"))
    given = {"separator": ";", "decimal": ",", "quote": "'", "text_encoding": "cp1252"}
    table = read_table(path, target="kind", **given)
    assert is_the_table(table)
    assert table.notes == ()
    with pytest.raises(ValueError, match=r"--decimal must be \. or ,; got 'x'\.$"):
        read_table(path, target="kind", decimal="x")
    with pytest.raises(ValueError, match="--separator must be one character of ASCII; got 'ab'"):
        read_table(path, target="kind", separator="ab")
    with pytest.raises(ValueError, match="--encoding must be one that Python knows"):
        read_table(path, target="kind", text_encoding="utf-99")
    wrong = read_table(write(tmp_path / "t.csv", "a;b,c;k\n" + "1;2,1;x\n2;2,1;y\n" * 4), target="k", separator=";")
    assert wrong.columns.keys() == {"a", "b,c"}


def test_umlauts_of_windows_are_read_and_said(tmp_path):
    content = "größe,kind\n1,grün\n2,blau\n3,grün\n4,blau\n"
    table = read_table(write(tmp_path / "t.csv", content.encode("cp1252")), target="kind")
    assert (list(table.columns), table.class_names) == (["größe"], ("blau", "grün"))
    assert table.notes == ("read as text in cp1252.",)
    late = "a,kind\n" + "1,x\n2,y\n" * 200_000 + "3,grün\n4,grün\n"
    table = read_table(write(tmp_path / "t.csv", late.encode("cp1252")), target="kind")
    assert table.class_names == ("grün", "x", "y")
    assert table.notes == ("read as text in cp1252, for it is none in utf-8.",)
    with pytest.raises(ValueError, match=r"t\.csv: is no text in utf-8; --encoding names another\.$"):
        read_table(tmp_path / "t.csv", target="kind", text_encoding="utf-8")


def test_bytes_that_come_late_and_are_no_text_in_the_encoding(tmp_path):
    rows = b"a,kind\n" + b"1,x\n2,y\n" * 200_000
    path = write(tmp_path / "t.csv", rows + b"3,\x81\n4,\x81\n")  # in cp1252 there is no such letter
    table = read_table(path, target="kind")
    assert table.class_names == ("x", "y", "\x81")
    assert table.notes[-1] == "read as text in latin-1, for it is none in cp1252."
    for encoding in ("ascii", "cp1252", "utf-8"):
        with pytest.raises(ValueError, match=rf"t\.csv: is no text in {encoding}; --encoding names another\.$"):
            read_table(path, target="kind", text_encoding=encoding)
    lone = rows.decode().encode("utf-16") + b"\x00\xd8\x00\x00"
    with pytest.raises(ValueError, match=r"t\.csv: is no text in utf-16; --encoding names another\.$"):
        read_table(write(path, lone), target="kind")


def test_line_ends_in_quotes_belong_to_the_value(tmp_path):
    content = 'a,b,k\n"1","x\ny",p\n"2","z",q\n' * 1 + '"1","x\ny",p\n"2","z",q\n' * 70_000
    table = read_table(write(tmp_path / "t.csv", content), target="k")
    assert table.columns["b"].words == ("x\ny", "z")
    assert table.num_rows == 140_002


def test_a_column_that_turns_out_not_to_be_of_numbers_is_read_as_what_it_is(tmp_path):
    rows = "".join(f"{index},{index % 7},{'xy'[index % 2]}\n" for index in range(150_000))
    table = read_table(write(tmp_path / "t.csv", "a,b,k\n" + rows + "0.5,3,x\n,NA,y\n"), target="k", missing="mean")
    assert table.columns["a"].values[-2:].tolist()[0] == 0.5
    assert table.columns["a"].is_missing().sum() == 1
    codes = rows.replace(",1,", ",one,").replace(",2,", ",two,").replace(",3,", ",three,").replace(",4,", ",four,")
    late = "a,b,k\n" + rows.replace("\n", "\n") + codes + codes
    with pytest.raises(ValueError, match=r"columns of numbers hold what is none: b \('one' in row 150002, 171,430 of"):
        read_table(write(tmp_path / "t.csv", late), target="k")


@pytest.mark.parametrize("mark", [",", ".", "'", "\u2019", " ", "\u00a0", "\u202f"])
@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("read", [read_table, stream_table])
def test_thousands_may_have_marks_between_them(tmp_path, read, mark, decimal):
    if mark == decimal:
        pytest.skip("the decimal mark groups nothing")
    numbers = [1234.5, -1234567, 12.25, 999, 1000, 0.5] * 5
    written = [f"{number:,}".translate({ord(","): mark, ord("."): decimal}) for number in numbers]
    path = write(
        tmp_path / "t.csv", "\n".join(["a;kind", *(f"{each};{'uv'[i % 2]}" for i, each in enumerate(written))])
    )
    table = read(path, target="kind", decimal=decimal)
    block = table.file.begin(np.arange(30)) if table.file else iter([table])
    np.testing.assert_array_equal(next(block).columns["a"].values, numbers)
    assert f"read as numbers with {mark!r} between thousands: a." in table.notes


@pytest.mark.parametrize("wrong", ["1,23", "0,234", "1,2345", "12,34,567", ",123", "1,234,"])
def test_what_only_resembles_a_grouped_number_is_none(tmp_path, wrong):
    path = write(tmp_path / "t.csv", "\n".join(["a,kind", '"1,234",u', f'"{wrong}",v', "5,u", "6,v"]))
    with pytest.raises(ValueError, match=re.escape(f"columns of numbers hold what is none: a ({wrong!r} in row 2)")):
        read_table(path, target="kind")


def test_a_point_is_no_decimal_mark_where_the_comma_is(tmp_path):
    path = write(tmp_path / "t.csv", "a;kind\n1,5;u\n1.5;v\n2,5;u\n3,5;v\n")
    with pytest.raises(ValueError, match=re.escape("columns of numbers hold what is none: a ('1.5' in row 2)")):
        read_table(path, target="kind")


def test_wide_tables_are_read(tmp_path):
    X = RNG.normal(size=(8, 3000)).round(3)
    header = ",".join([*(f"c{index}" for index in range(3000)), "k"])
    rows = [",".join([*map(str, row), "xy"[index % 2]]) for index, row in enumerate(X.tolist())]
    table = read_table(write(tmp_path / "t.csv", "\n".join([header, *rows])), target="k")
    np.testing.assert_array_equal(np.column_stack([column.values for column in table.columns.values()]), X)


def test_an_index_that_pandas_wrote_is_left_out(tmp_path):
    pd.DataFrame(FRAME).to_csv(tmp_path / "t.csv")
    table = read_table(tmp_path / "t.csv", target="kind")
    assert is_the_table(table)
    assert table.notes == ("columns without a name are left out: 1.",)
    pd.DataFrame(FRAME).set_index("flag").to_parquet(tmp_path / "t.parquet")
    assert "flag" in read_table(tmp_path / "t.parquet", target="kind").columns


@pytest.mark.parametrize(
    ("dates", "days"),
    [
        (["2021-03-04 12:00", "2021-03-05 06:00"], [18690.5, 18691.25]),
        (["2021-03-04T12:00:00Z", "2021-03-04T12:00:00+12:00"], [18690.5, 18690.0]),
        (["04.03.2021", "31.12.1969"], [18690.0, -1.0]),
        (["2021/03/04", "1969/12/31"], [18690.0, -1.0]),
        (["31/12/1969", "04/03/2021"], [-1.0, 18690.0]),
        (["12/31/1969", "03/04/2021"], [-1.0, 18690.0]),
    ],
)
def test_dates_are_days_since_1970(tmp_path, dates, days):
    rows = "".join(f"{date},{kind}\n" for date, kind in zip(dates * 3, "xxyyxx", strict=True))
    column = read_table(write(tmp_path / "t.csv", f"day,k\n{rows}"), target="k").columns["day"]
    assert column.kind.endswith("date")
    np.testing.assert_allclose(column.values, days * 3, rtol=0, atol=1e-9)


# --- Columns with types -----------------------------------------------------------------------------------------------


def frame():
    return pd.DataFrame(FRAME | {"day": pd.to_datetime(DAYS)})


def with_type(kind, tmp_path):
    if kind == "pandas":
        return frame()
    if kind == "categories":
        return frame().astype({"colour": "category", "kind": "category"})
    if kind == "polars":
        return pytest.importorskip("polars").DataFrame(frame())
    if kind == "arrow":
        return pa.table(frame())
    if kind == "dictionary":
        return FRAME | {"day": np.array(DAYS, "M8[D]"), "size": np.array(SIZES)}
    path = tmp_path / f"t.{kind.partition(' ')[0]}"
    if kind == "parquet":
        frame().to_parquet(path)
    elif kind == "parquet folder":
        path.mkdir()
        frame()[:3].to_parquet(path / "a.parquet")
        frame()[3:].to_parquet(path / "b.parquet")
    elif kind == "feather":
        frame().to_feather(path)
    elif kind == "arrow file":
        pyarrow.feather.write_feather(frame(), path, compression="zstd")
    elif kind == "arrow stream":
        table = pa.table(frame())
        with pa.ipc.new_stream(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


TYPED = ["pandas", "categories", "polars", "arrow", "dictionary", "parquet", "parquet folder", "feather"]
TYPED += ["arrow file", "arrow stream"]


@pytest.mark.parametrize("kind", TYPED)
def test_columns_that_have_types_are_the_same_table(tmp_path, kind):
    assert is_the_table(read_table(with_type(kind, tmp_path), target="kind"))


@pytest.mark.parametrize("kind", TYPED)
def test_columns_are_found_by_name_in_whatever_order_they_stand(tmp_path, monkeypatch, kind):
    order = ["kind", "flag", "size", "day", "colour"]
    whole = frame
    monkeypatch.setitem(globals(), "frame", lambda: whole()[order])
    monkeypatch.setitem(globals(), "FRAME", {name: FRAME[name] for name in order})
    source = with_type(kind, tmp_path)
    table = read_table(source, target="kind")
    assert list(table.columns) == order[1:]
    assert is_the_table(
        table._replace(columns={name: table.columns[name] for name in ("size", "colour", "day", "flag")})
    )
    few = read_table(source, target="flag", keep=["day", "size"])
    np.testing.assert_array_equal(few.columns["size"].values, SIZES)
    np.testing.assert_array_equal(few.columns["day"].values, SINCE_1970)
    assert [bool(few.class_names[label]) for label in few.labels] == FLAGS


def test_columns_of_one_name_are_refused(tmp_path):
    twice = pa.Table.from_arrays([pa.array([1, 2, 3, 4])] * 3, names=["a", " a", "k"])
    with pytest.raises(ValueError, match=r"^the table: more than one column has the name: 'a'"):
        read_table(twice, target="k")


def test_types_of_all_kinds_become_numbers(tmp_path):
    import datetime
    import decimal

    table = pa.table(
        {
            "small": pa.array([1, None, 3, 4], "int8"),
            "half": pa.array(np.array([1, 2, 3, 4], np.float16)),
            "money": pa.array([decimal.Decimal("1.25"), None, decimal.Decimal("3"), decimal.Decimal("4")]),
            "hours": pa.array([datetime.timedelta(seconds=s) for s in (60, 1, 2, 3)]),
            "clock": pa.array([datetime.time(0, 1), datetime.time(0, 2), None, datetime.time(1)]),
            "words": pa.array(["1", "2", "1", None]),
            "k": pa.array([1.0, 2.0, 1.0, 2.0]),
        }
    )
    read = read_table(table, target="k", missing="mean")
    assert {name: column.kind for name, column in read.columns.items()} == {
        **dict.fromkeys(["small", "half", "money", "hours", "clock"], "number"),
        "words": "text",
    }
    np.testing.assert_array_equal(read.columns["money"].values, [1.25, np.nan, 3, 4])
    np.testing.assert_array_equal(read.columns["hours"].values, [60, 1, 2, 3])
    np.testing.assert_array_equal(read.columns["clock"].values, [60, 120, np.nan, 3600])
    assert read.class_names == (1, 2)
    nested = table.append_column("list", pa.array([[1], [2], [3], [4]]))
    with pytest.raises(
        ValueError, match=r"neither numbers, texts nor dates: list \(list<.*>\)\. --drop leaves columns"
    ):
        read_table(nested, target="k", missing="mean")
    assert "list" not in read_table(nested, target="k", missing="mean", drop=["list"]).columns


# --- Arrays -----------------------------------------------------------------------------------------------------------

X, Y = RNG.normal(size=(6, 4)), np.array([3, 1] * 3)
IMAGES = RNG.integers(0, 256, (6, 5, 4)).astype(np.uint8)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize(
    "keys",
    ["X y", "x_train y_train", "X_train Y_train", "train_images train_labels", "embeddings labels", "these those"],
)
def test_arrays_are_known_by_the_names_that_people_use(tmp_path, keys):
    features, labels = keys.split()
    np.savez_compressed(tmp_path / "t.NPZ", **{features: X, labels: Y})
    table = read_table(tmp_path / ("t.NPZ" if (tmp_path / "t.NPZ").exists() else "t.NPZ.npz"))
    np.testing.assert_array_equal(table.X, X)
    assert table.class_names == (1, 3)
    np.testing.assert_array_equal(table.labels, [1, 0] * 3)
    np.testing.assert_array_equal(read_table({features: X, labels: Y}).X, X)


def test_arrays_of_any_name_can_be_named_and_others_are_said(tmp_path):
    np.savez(tmp_path / "t.npz", a=X, b=X + 1, c=Y, d=Y + 1, w=np.arange(6.0), name=np.array(list("abcdef")))
    table = read_table(tmp_path / "t.npz", features="b", labels="d", weight="w", ids=["name"])
    np.testing.assert_array_equal(table.X, X + 1)
    assert table.class_names == (2, 4)
    np.testing.assert_array_equal(table.weights, np.arange(6.0))
    assert table.ids["name"].tolist() == list("abcdef")
    assert table.notes == ("features from b; arrays left out: a, c.",)
    with pytest.raises(ValueError, match=r"which of its arrays holds the features must be said, by --features\."):
        read_table(tmp_path / "t.npz")


@pytest.mark.parametrize("ending", ["npy", "safetensors", "idx", "npz"])
def test_features_and_classes_in_files_of_their_own(tmp_path, ending):
    bytes_ = (X * 10).astype(np.uint8)
    if ending == "npy":
        np.save(tmp_path / "features.npy", bytes_)
        np.save(tmp_path / "classes.npy", Y)
        np.save(tmp_path / "labels.npy", Y)
        pair = tmp_path / "features.npy", tmp_path / "classes.npy"
    elif ending == "idx":
        pair = write(tmp_path / "x.idx", idx(bytes_)), write(tmp_path / "y.idx", idx(Y.astype(np.uint8)))
    elif ending == "npz":
        np.savez(tmp_path / "x.npz", z=bytes_)
        np.savez(tmp_path / "y.npz", z=Y[:, None])
        pair = tmp_path / "x.npz", tmp_path / "y.npz"
    else:
        save_file = pytest.importorskip("safetensors.numpy").save_file
        save_file({"embeddings": bytes_}, tmp_path / "x.safetensors")
        save_file({"labels": Y}, tmp_path / "y.safetensors")
        pair = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    table = read_table(pair[0], labels=pair[1])
    np.testing.assert_array_equal(table.X, bytes_)
    assert table.class_names == (1, 3)
    np.testing.assert_array_equal(read_features(pair[0]).X, bytes_)
    if ending == "npy":
        assert read_table(pair[0]).class_names == (1, 3)  # labels.npy lies beside it


def test_the_files_of_mnist_are_read_as_they_are(tmp_path):
    path = write(tmp_path / "train-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES)))
    write(tmp_path / "train-labels-idx1-ubyte.gz", gzip.compress(idx(Y.astype(np.uint8))))
    table = read_table(path)
    np.testing.assert_array_equal(table.X, IMAGES.reshape(6, -1))
    assert (table.image_shape, table.class_names) == ((5, 4), (1, 3))


def test_bfloat16_is_read(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = X.astype(ml_dtypes.bfloat16)
    save_file({"embeddings": half.view(np.uint16), "labels": Y}, tmp_path / "t.safetensors")
    content = (tmp_path / "t.safetensors").read_bytes().replace(b'"dtype":"U16"', b'"dtype":"BF16"')
    start = struct.unpack("<Q", content[:8])[0] + 1
    table = read_table(write(tmp_path / "t.safetensors", struct.pack("<Q", start) + content[8:]))
    np.testing.assert_array_equal(table.X, half.astype(np.float32))


@pytest.mark.parametrize(
    ("shape", "image_shape"), [((6, 5, 4, 3), (5, 4, 3)), ((6, 3, 5, 4), (5, 4, 3)), ((6, 5, 4, 1), (5, 4))]
)
def test_images_in_colour(shape, image_shape):
    images = RNG.integers(0, 256, shape).astype(np.uint8)
    table = read_table(images, labels=Y)
    assert table.image_shape == image_shape
    last = images if shape[3] in (1, 3) else np.moveaxis(images, 1, 3)
    np.testing.assert_array_equal(table.X, last.reshape(6, -1))


# --- Roles, and standard input ----------------------------------------------------------------------------------------


def test_columns_have_roles(tmp_path):
    content = "id,a,b,w,g,t,k\n" + "".join(
        f"r{index},{index},{index % 3},{index + 0.5},g{index % 2},2021-01-{index + 1:02},{'xy'[index % 2]}\n"
        for index in range(8)
    )
    path = write(tmp_path / "t.csv", content)
    table = read_table(path, target="k", ids=["id"], weight="w", group="g", time="t", drop=["b"])
    assert list(table.columns) == ["a"]
    assert table.ids["id"].tolist() == [f"r{index}" for index in range(8)]
    np.testing.assert_array_equal(table.weights, np.arange(8) + 0.5)
    np.testing.assert_array_equal(table.groups, [0, 1] * 4)
    np.testing.assert_array_equal(table.times, 18628 + np.arange(8))
    assert set(table.left_out) == {"id", "b", "w", "g", "t"}
    assert list(read_table(path, target="k", keep=["a"]).columns) == ["a"]
    with pytest.raises(ValueError, match=r"has no columns 'z', 'q'\. Columns there: id, a, b, w, g, t, k\.$"):
        read_table(path, target="z", drop=["q"])
    with pytest.raises(ValueError, match=r"weights are missing, negative, infinite, or all 0: w \(-1 in row 2\)"):
        read_table(write(tmp_path / "w.csv", "a,w,k\n1,1,x\n2,-1,x\n3,1,y\n4,1,y\n"), target="k", weight="w")


def test_standard_input_is_read_where_a_dash_asks_for_it(tmp_path, monkeypatch):
    for content in (text().encode(), gzip.compress(text().encode()), with_type("parquet", tmp_path).read_bytes()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert is_the_table(read_table("-", target="kind"))
    program = "from handgrad.data import read_table; print(read_table('-', target='kind').num_rows)"
    done = subprocess.run(
        [sys.executable, "-c", program], input=text().encode(), capture_output=True, check=True, env=os.environ
    )
    assert done.stdout == b"6\n"


def test_what_cannot_be_a_table_is_refused():
    with pytest.raises(ValueError, match=r"a table is read from a path, .*; got int\.$"):
        read_table(3)
    with pytest.raises(ValueError, match="columns must have as many rows as one another; got 1 in 'b' and 2 in 'a'"):
        read_table({"a": [1, 2], "b": [1]}, target="a")
    with pytest.raises(ValueError, match=r"missing must be one of mean, median, .*; got 'zero'\.$"):
        read_table({"a": [1, 2]}, target="a", missing="zero")


def test_whole_numbers_that_look_like_ids_dates_or_codes_are_pointed_out():
    rows = np.arange(60)
    columns = {
        "number": rows + 100,
        "day": 20260101 + rows % 31 + 100 * (rows % 12),
        "price": 20260101 + rows,  # there is no 32nd
        "doors": rows % 4,
        "size": rows * 0.5,
        "k": rows % 2,
    }
    assert read_table(columns, target="k").notes == (
        "whole numbers that differ in every row look like ids: number, price; --id or --drop them.",
        "whole numbers that look like dates are taken as quantities: day; 2026-11-26 is a date.",
        "few different whole numbers are taken as quantities, not as classes: doors.",
    )
