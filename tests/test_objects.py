"""Columns and arrays that Python has are read as what they are, whichever library made them, or refused."""

import datetime
import decimal
import re

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from handgrad.data import encode, fit_encoding, read_features, read_table, stream_table

pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")

from pyarrow import parquet  # noqa: E402

KINDS = list("uvuvuvuv")
NUMBERS = [0, 1, 2, 3, 4, 5, 6, 7]


def column_of(values, **how):
    return read_table({"x": values, "kind": KINDS}, target="kind", **how).columns["x"]


def tensor(values, dtype="float32"):
    torch = pytest.importorskip("torch")
    return torch.tensor(values, dtype=getattr(torch, dtype))


def series(values, dtype=None):
    polars = pytest.importorskip("polars")
    return polars.Series(values, dtype=dtype and getattr(polars, dtype))


NUMBERS_OF = {
    "jax": lambda: jnp.asarray(NUMBERS),
    "bfloat16 of jax": lambda: jnp.asarray(NUMBERS, jnp.bfloat16),
    "bfloat16 of numpy": lambda: np.asarray(NUMBERS, ml_dtypes.bfloat16),
    "torch": lambda: tensor(NUMBERS),
    "bfloat16 of torch": lambda: tensor(NUMBERS, "bfloat16"),
    "integers of torch": lambda: tensor(NUMBERS, "int64"),
    "sparse of pandas": lambda: pd.Series(pd.arrays.SparseArray(NUMBERS)),
    "a sparse array of pandas": lambda: pd.arrays.SparseArray(NUMBERS),
    "categories of pandas": lambda: pd.Categorical(NUMBERS),
    "nullable of pandas": lambda: pd.array(NUMBERS, dtype="Int64"),
    "an index of pandas": lambda: pd.Index(NUMBERS),
    "long double": lambda: np.asarray(NUMBERS, np.longdouble),
    "half": lambda: np.asarray(NUMBERS, np.float16),
    "polars": lambda: series(NUMBERS),
    "128 bits of polars": lambda: series(NUMBERS, "Int128"),
    "decimals and integers": lambda: [decimal.Decimal(0), *NUMBERS[1:]],
    "integers and floats": lambda: np.array([0, 1.0, *NUMBERS[2:]], object),
    "a range": lambda: range(8),
    "a tuple": lambda: tuple(NUMBERS),
    "arrow": lambda: pa.array(NUMBERS),
    "chunks of arrow": lambda: pa.chunked_array([NUMBERS[:3], NUMBERS[3:]]),
}


@pytest.mark.parametrize("kind", NUMBERS_OF)
def test_numbers_are_numbers_whoever_holds_them(kind):
    column = column_of(NUMBERS_OF[kind]())
    assert column.kind == "number"
    np.testing.assert_array_equal(column.values, NUMBERS)


@pytest.mark.parametrize("unit", ["Y", "M", "D", "h", "s", "ns"])
def test_dates_of_numpy_are_dates_in_any_unit(unit):
    days = np.array(["2026-01-01", "1969-01-01", "NaT", "2024-01-01"] * 2, f"M8[{unit}]")
    column = column_of(days, missing="mean")
    assert column.kind == "date"
    np.testing.assert_array_equal(column.values[:4], [20454, -365, np.nan, 19723])


def test_texts_of_polars_are_texts_and_so_are_dictionaries_of_any_index():
    polars = pytest.importorskip("polars")
    towns = ["Ulm", "Bonn", None, "Ulm"] * 2
    data = {
        "enum": polars.Series(towns, dtype=polars.Enum(["Bonn", "Aalen", "Ulm"])),
        "category": polars.Series(towns, dtype=polars.Categorical),
        "unsigned": pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1] * 2, "uint8"), pa.array(["Bonn", "Ulm"])),
        "kind": polars.Series(KINDS, dtype=polars.Enum(["v", "u"])),
    }
    for source in (data, polars.DataFrame({name: data[name] for name in ("enum", "category", "kind")})):
        table = read_table(source, target="kind", missing="most-frequent")
        assert table.class_names == ("u", "v")
        assert table.labels.tolist() == [0, 1] * 4
        for column in table.columns.values():
            assert [None if code < 0 else column.words[code] for code in column.values] == towns


REFUSED = {
    "complex numbers": (np.arange(8) * 1j, "column 'x' holds neither numbers, texts nor dates."),
    "complex numbers of pandas": (pd.Series(np.arange(8) * 1j), "column 'x' holds neither numbers, texts nor dates."),
    "records": (np.zeros(8, [("a", float)]), "column 'x' holds neither numbers, texts nor dates."),
    "objects": ([object()] * 8, "column 'x' holds neither numbers, texts nor dates."),
    "picoseconds": (np.zeros(8, "M8[ps]"), "column 'x' holds neither numbers, texts nor dates."),
    "numbers and texts": ([1, "2"] * 4, "column 'x' holds values of several types, such as int and str. Make them all"),
    "one number": (3, "column 'x' must be an array (N,); got 3."),
    "one text": ("abcdefgh", "column 'x' must be an array (N,); got 'abcdefgh'."),
    "an array of no axes": (np.array(3), "column 'x' must be an array (N,); got array(3)."),
    "a huge integer": ([10**30, 1] * 4, f"where float64 does not tell neighbours apart: x ({10**30} in row 1)"),
    "unsigned ones": (np.array([1, 2**64 - 1] * 4, "u8"), f"tell neighbours apart: x ({2**64 - 1} in row 2)"),
    "some missing": (pa.array([1, None, -(2**63), 1] * 2), f"tell neighbours apart: x ({-(2**63)} in row 3)"),
    "decimals": (pa.array([decimal.Decimal(2**53 + 1)] * 8, pa.decimal128(38)), f"apart: x ({2**53 + 1} in row 1)"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_column_is_refused_in_a_line(kind):
    values, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"^the dictionary: .*{re.escape(message)}") as error:
        column_of(values)
    assert "\n" not in str(error.value)


def test_values_of_several_types_may_be_classes_and_are_passed_through():
    table = read_table({"x": NUMBERS, "kind": [1, "a"] * 4, "id": [1, "a"] * 4}, target="kind", ids=["id"])
    assert table.class_names == ("1", "a")
    assert table.ids["id"].tolist() == ["1", "a"] * 4


def test_decimals_that_are_no_integers_are_rounded_as_other_numbers_are():
    money = pa.array([decimal.Decimal("12345678901234567.89"), decimal.Decimal(1)] * 4, pa.decimal128(38, 2))
    np.testing.assert_array_equal(column_of(money).values[:2], [12345678901234567.89, 1])


def test_a_frame_with_two_columns_of_one_name_is_refused():
    frame = pd.DataFrame([[1, 2, "u"], [3, 4, "v"]] * 4, columns=["x", "x", "kind"])
    with pytest.raises(ValueError, match="more than one column has the name: 'x'"):
        read_table(frame, target="kind")


def test_masked_arrays_are_refused_where_numpy_forgets_the_mask():
    X = np.ma.array(np.arange(16.0).reshape(8, 2), mask=np.eye(8, 2))
    with pytest.raises(ValueError, match=r"the array: masked arrays are not taken\. Fill what is masked in first"):
        read_table(X, labels=KINDS)
    labels = np.ma.array(NUMBERS, mask=[True, *[False] * 7])
    for data in (X.data, {"x": NUMBERS}):
        with pytest.raises(ValueError, match="labels: masked arrays are not taken"):
            read_table(data, labels=labels)
    column = column_of(np.ma.array(np.arange(8.0), mask=[True, *[False] * 7]), missing="mean")
    np.testing.assert_array_equal(np.isnan(column.values), [True, *[False] * 7])


@pytest.mark.parametrize("kind", ["torch", "bfloat16 of torch", "jax", "bfloat16 of jax"])
def test_arrays_of_other_libraries_are_arrays(kind):
    X = NUMBERS_OF[kind]().reshape(4, 2)
    table = read_table(X, labels=tensor([0, 1, 0, 1], "int64"))
    np.testing.assert_array_equal(table.X, np.reshape(NUMBERS, (4, 2)))
    assert table.labels.tolist() == [0, 1, 0, 1]


# --- Roles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([decimal.Decimal("1.00"), decimal.Decimal("2.50")] * 4), (1, 2.5)),
        (pa.array([decimal.Decimal(2**60), decimal.Decimal(2**60 + 1)] * 4, pa.decimal128(38)), (2**60, 2**60 + 1)),
        ([1.0, 1e300] * 4, (1, 1e300)),
        (pa.DictionaryArray.from_arrays(pa.array([0, 1] * 4, "uint16"), pa.array([7, 5])), (5, 7)),
    ],
)
def test_numbers_of_any_type_are_classes(values, names):
    table = read_table({"x": NUMBERS, "kind": values}, target="kind")
    assert table.class_names == names
    assert [type(name) for name in table.class_names] == [type(name) for name in names]


LISTS, DAY = pa.array([[1]] * 8), datetime.date(2024, 1, 1)


@pytest.mark.parametrize(
    ("columns", "roles", "message"),
    [
        ({"kind": LISTS}, {}, "classes are neither numbers nor texts: kind (list<item: int64>)."),
        ({"kind": pa.array([b"\xff", b"a"] * 4)}, {}, "classes are neither numbers nor texts: kind (binary)."),
        ({"kind": [1.0, np.inf] * 4}, {}, "an infinite number is a class: kind."),
        ({"kind": KINDS, "w": [DAY] * 8}, {"weight": "w"}, "weights are no numbers: w."),
        ({"kind": KINDS, "w": LISTS}, {"weight": "w"}, "neither numbers, texts nor dates: w (list<item: int64>)."),
        ({"kind": KINDS, "t": LISTS}, {"time": "t"}, "neither numbers, texts nor dates: t (list<item: int64>)."),
    ],
)
def test_columns_that_their_role_cannot_have_are_refused_in_a_line(tmp_path, columns, roles, message):
    data = {"x": NUMBERS, **columns}
    parquet.write_table(pa.table(data), tmp_path / "t.parquet")
    for source in (data, tmp_path / "t.parquet"):
        with pytest.raises(ValueError, match=re.escape(message).replace("item", "(item|element)")) as error:
            read_table(source, target="kind", **roles)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("values", [np.full(30, np.inf), np.tile([np.inf, -np.inf, 1.0], 10)])
def test_infinite_numbers_are_said_and_nothing_else_is(values):
    with pytest.raises(ValueError, match=r"numbers are infinite: x \(in row 1\)"):
        read_table({"x": values, "kind": ["u", "v"] * 15}, target="kind")


# --- Folders of .parquet ----------------------------------------------------------------------------------------------


def write_parts(folder, *parts):
    folder.mkdir()
    for number, part in enumerate(parts):
        parquet.write_table(pa.table(part), folder / f"part-{number}.{('parquet', 'PARQUET', 'Pq')[number]}")
    return folder


@pytest.mark.parametrize("read", [read_table, stream_table])
def test_a_folder_has_the_columns_of_all_its_files_and_types_that_suit_all(tmp_path, read):
    kinds, towns = {"kind": ["u", "v"]}, pa.array(["Ulm", "Bonn"])
    first = {"x": [1, 2], "town": towns.dictionary_encode(), **kinds}
    second = {"x": [1.5, 2.5], "more": [3.0, None], "town": towns.cast("large_string"), **kinds}
    folder = write_parts(tmp_path / "parts", first, second, {"more": [1, 2], "town": towns, **kinds})
    (folder / "README.txt").write_text("not a table")
    (folder / "_SUCCESS").write_text("")
    (folder / "_temporary").mkdir()
    parquet.write_table(pa.table(first), folder / "_temporary" / "part.parquet")
    table = read(folder, target="kind", missing="mean")
    blocks = [table] if table.file is None else list(table.file.begin(np.arange(6)))
    values = {name: np.concatenate([block.columns[name].values for block in blocks]) for name in ("x", "more")}
    np.testing.assert_array_equal(values["x"], [1, 2, 1.5, 2.5, np.nan, np.nan])
    np.testing.assert_array_equal(values["more"], [np.nan, np.nan, 3, np.nan, 1, 2])
    columns = [block.columns["town"] for block in blocks]
    assert [column.words[code] for column in columns for code in column.values] == towns.to_pylist() * 3
    assert table.labels.tolist() == [0, 1] * 3


def test_files_of_types_that_nothing_unites_are_refused_in_a_line(tmp_path):
    folder = write_parts(tmp_path / "parts", {"x": [1], "kind": ["u"]}, {"x": ["one"], "kind": ["v"]})
    with pytest.raises(
        ValueError, match=r"parts: a column has one type in some files and another in others \(.*x"
    ) as e:
        read_table(folder, target="kind")
    assert "\n" not in str(e.value)


def test_numbers_where_there_were_texts_are_spelt_whatever_they_are():
    encoding = fit_encoding(read_table({"a": ["x", "1.5", "inf", "2"] * 4, "kind": ["p", "q"] * 8}, target="kind"))
    X = encode(encoding, read_features({"a": np.array([1.5, np.inf, 2, -np.inf, 1e300])}, encoding)).X
    words = [encoding.inputs[0].words.index(word) for word in ("1.5", "inf", "2")]
    np.testing.assert_array_equal(X[:3, words], np.eye(3))
    assert not X[3:].any()
