"""Tables: what is read, what is refused and in which words, how rows are split and features scaled."""

import re

import numpy as np
import pytest

from handgrad.data import (
    Column,
    Table,
    encode,
    fit_encoding,
    load_digits,
    read_features,
    read_table,
    split_and_scale,
)
from handgrad.data.naming import printable

RNG = np.random.default_rng(0)


def numbers(table):
    """The features as they were read, (N, P)."""
    if table.columns is None:
        return table.X
    return np.column_stack([column.values for column in table.columns.values()])


def encoding_of(*names):
    """An encoding of columns of numbers."""
    return fit_encoding(Table(columns={name: Column("number", np.arange(2.0)) for name in names}))


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def save_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


# --- What is read -----------------------------------------------------------------------------------------------------


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    digits, reference = load_digits(), datasets.load_digits()
    np.testing.assert_array_equal(digits.X, reference.data)
    np.testing.assert_array_equal(digits.labels, reference.target)


def test_digits_are_1797_images_of_10_classes():
    digits = load_digits()
    assert digits.X.shape == (1797, 64)
    assert (digits.X.min(), digits.X.max()) == (0, 16)
    assert digits.class_names == tuple(range(10))
    np.testing.assert_array_equal(np.bincount(digits.labels), [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_csv_is_read_with_its_names_and_text_classes(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "a,kind,b\n1,yes,2.5\n-3e2,no, 4\n5,yes ,6\n7,no,8\n"), target="kind")
    np.testing.assert_array_equal(numbers(table), [[1, 2.5], [-300, 4], [5, 6], [7, 8]])
    np.testing.assert_array_equal(table.labels, [1, 0, 1, 0])
    assert table.class_names == ("no", "yes")
    assert tuple(table.columns) == ("a", "b")
    assert (table.image_shape, table.target) == (None, "kind")


def test_csv_column_whose_first_block_is_integers_is_read_to_the_end(tmp_path):
    rows = "".join(f"{index},{'xy'[index % 2]}\n" for index in range(200_000))
    table = read_table(write(tmp_path / "t.csv", "a,kind\n" + rows + "0.5,x\nTRUE_AT_LAST,y\n"[:6]), target="kind")
    assert numbers(table)[-1, 0] == 0.5


def test_csv_booleans_are_zeros_and_ones(tmp_path):
    table = read_table(write(tmp_path / "t.csv", "a,k\nTrue,x\nFalse,y\nFalse,x\nTrue,y\n"), target="k")
    np.testing.assert_array_equal(numbers(table)[:, 0], [1, 0, 0, 1])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ("10 50 20 10 50 20", (10, 20, 50)),
        ("9 10 9 10", (9, 10)),
        ("01 2 01 2", ("01", "2")),
        ("1.0 2.0 1.0 2.0", ("1.0", "2.0")),
        ("b a ü a b ü", ("a", "b", "ü")),
    ],
)
def test_csv_classes_keep_the_form_they_have_in_the_file(tmp_path, labels, names):
    rows = "".join(f"{index},{label}\n" for index, label in enumerate(labels.split()))
    table = read_table(write(tmp_path / "t.csv", "\ufeffa,k\n" + rows), target="k")
    assert table.class_names == names
    assert [str(names[label]) for label in table.labels] == labels.split()


@pytest.mark.parametrize(
    ("y", "names"),
    [
        (np.array([10, 50, 20, 10, 50, 20], np.uint8), (10, 20, 50)),
        (np.array(["b", "a"] * 3), ("a", "b")),
        (np.array([b"b", b"a"] * 3), ("a", "b")),
        (np.array([True, False] * 3), (False, True)),
        (np.array([2.0, 1.0] * 3), (1, 2)),
        (np.array([0.5, 1.0] * 3), (0.5, 1)),
        (np.array([[3], [1]] * 3), (1, 3)),
        (np.array(["c10", "c9"] * 3), ("c9", "c10")),
        (np.array([-1, 1] * 3), (-1, 1)),
    ],
)
def test_npz_classes_keep_their_type_and_are_sorted_as_a_person_would(tmp_path, y, names):
    table = read_table(save_npz(tmp_path / "t.npz", X=np.zeros((6, 2)), y=y))
    assert table.class_names == names
    assert [type(name) for name in table.class_names] == [type(name) for name in names]
    assert [names[label] for label in table.labels] == list((y.astype(str) if y.dtype.kind == "S" else y).ravel())


@pytest.mark.parametrize(
    ("shape", "dtype", "image_shape"),
    [
        ((6, 4, 5), np.float32, (4, 5)),
        ((6, 64), np.uint8, (8, 8)),
        ((6, 64), np.float32, None),
        ((6, 49), np.uint8, None),
        ((6, 65), np.uint8, None),
    ],
)
def test_npz_images_are_known_by_their_shape_or_by_bytes_in_a_square(tmp_path, shape, dtype, image_shape):
    X = RNG.integers(0, 9, shape).astype(dtype)
    table = read_table(save_npz(tmp_path / "t.npz", X=X, y=[1, 2] * 3))
    assert table.image_shape == image_shape
    np.testing.assert_array_equal(numbers(table), X.reshape(6, -1))


def test_features_are_matched_by_name(tmp_path):
    path = write(tmp_path / "t.csv", "kind,b,a\nx,2,1\ny,4,3\n")
    np.testing.assert_array_equal(numbers(read_features(path, encoding_of("a", "b"), target="kind")), [[1, 2], [3, 4]])


def test_features_need_no_classes(tmp_path):
    np.testing.assert_array_equal(numbers(read_features(write(tmp_path / "t.csv", "b,a\n2,1\n"))), [[2, 1]])
    np.testing.assert_array_equal(read_features(save_npz(tmp_path / "t.npz", X=np.eye(2))).X, np.eye(2))


# --- What is refused --------------------------------------------------------------------------------------------------

FOUR = {"X": np.zeros((4, 2)), "y": [1, 1, 2, 2]}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"X": np.zeros((4, 2)), "Z": np.zeros((4, 2))},
            "needs --labels, the classes: an array in it or another file.",
        ),
        (
            {"y": [1], "t": [1]},
            "which of its arrays holds the features must be said, by --features. Arrays there: y (1,)",
        ),
        (FOUR | {"X": np.zeros((4, 2), object)}, "holds Python objects, which are not read"),
        (FOUR | {"X": np.full((4, 2), "a")}, "the features must be real numbers; got <U1."),
        (FOUR | {"X": np.zeros((4, 2), complex)}, "the features must be real numbers; got complex128."),
        (FOUR | {"X": np.zeros(4)}, "the features must have shape (N, P), or (N, H, W) or (N, H, W, 3) for images"),
        (FOUR | {"X": np.zeros((0, 2))}, "the features are empty; their shape is (0, 2)."),
        (
            FOUR | {"X": np.array([[0, 1], [2, np.nan], [4, 5], [6, 7]])},
            "values are missing: the features (1 of 4, the first in row 2). Fill them by --missing mean|median|",
        ),
        (
            FOUR | {"X": np.array([[0, 1], [2, np.nan], [-np.inf, 5], [6, 7]]), "y": [1] * 4},
            "three things to mend. (1) numbers are infinite: the features (row 3, column 1). Leave such rows out, or "
            "fill them in. (2) all 4 rows are of class 1. Two classes at least are needed. (3) values are missing:",
        ),
        (FOUR | {"y": [1, 2]}, "the features have 4 rows and the labels 2; each row needs its class."),
        (FOUR | {"y": np.eye(4)}, "the labels must have shape (N,), a class for each row; got (4, 4). One-hot?"),
        (FOUR | {"y": [1j, 1, 2, 2]}, "the labels must be numbers or text, the classes; got complex128."),
        (FOUR | {"y": [1, 2, 3, 4]}, "4 rows have 4 classes by the labels. A class needs two rows on average."),
    ],
)
def test_npz_content_is_refused_in_words(tmp_path, arrays, message):
    path = save_npz(tmp_path / "t.npz", **arrays)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_table(path)


@pytest.mark.parametrize("damage", ["truncated", "a byte changed", "not an archive", "empty", "a .npy"])
def test_damaged_npz_is_refused_in_words(tmp_path, damage):
    path = save_npz(tmp_path / "t.npz", X=RNG.normal(size=(100, 8)), y=np.arange(100) % 2)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[len(content) // 2 :]
    elif damage == "a byte changed":
        content[1000] ^= 255
    else:
        content = {"not an archive": b"PK hello", "empty": b"", "a .npy": content[100:]}[damage]
    write(path, bytes(content))
    with pytest.raises(ValueError, match=r"is (empty|not an \.npz archive, or is damaged or cut short)\.$"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty."),
        ("a,kind\n", "has names of columns and no rows."),
        ("a,b\n1,2\n", "has no column 'kind'. Columns there: a, b."),
        ("a,Kind\n1,2\n", "has no column 'kind'. Did you mean 'Kind'? Columns there: a, Kind."),
        ("kind\nx\ny\n", "has no column but 'kind'; there is nothing to predict it from."),
        ("a,a,kind\n1,2,x\n", "more than one column has the name: 'a'. Give each its own name."),
        ("a,,kind\n0,2,x\n0,2,x\n", "column 2 has no name. Give it one in the first line."),
        ("a,kind\n1,x\n3,\n2,x\n4,y\n1,x\n", "rows have no class: 1 by kind, the first is row 2. Leave them out"),
        ("a,kind\n1,x\n-inf,y\n1,x\n1,y\n", "numbers are infinite: a (in row 2)."),
        (
            "a,kind\n1,x\n2\n3,y,z\n",
            "has 2 names, separated by commas, and rows with another number of values: 2 (1), 3 (3).",
        ),
        (b"a\0,kind\n1,x\n", "is no text, for it holds NUL bytes."),
        ("a,kind\n1,x\n2,x\n", "all 2 rows are of class 'x'. Two classes at least are needed."),
        ("a,kind\n1,x\n2,y\n", "2 rows have 2 classes by kind. A class needs two rows on average. Is it a quantity"),
        ("a,b,kind\n1.5,x,x\n2.5,y,y\n", "2 rows have 2 classes"),
        ("5.1,3.5,setosa\n4.9,3.0,virginica\n", "the first line looks like a row of numbers. The first line must have"),
        ("a;b\n1;2\n", "has no column 'kind'."),
        (
            "a,b,c,d,kind\n1,,x,1/2/2020,p\n3,2,,4/5/2020,p\n,5,y,5/5/2020,q\n4,Berlin,x,7/8/2020,\n6,inf,x,1/2/2020,q\n",
            "five things to mend. (1) rows have no class: 1 by kind, the first is row 4. Leave them out in the file, "
            "or in fit and train by --missing drop-rows. (2) columns of numbers hold what is none: b ('Berlin' in "
            "row 4). Correct it, or leave those cells empty. --drop leaves columns out. (3) numbers are "
            "infinite: b (in row 5). Leave such rows out, or fill them in. (4) dates may be day/month or month/day: "
            "d ('1/2/2020'). Write them as 2026-11-26. (5) values are missing: a (1 of 5, the first in row 3), b (1 "
            "of 5, the first in row 1), c (1 of 5, the first in row 2). Fill them by --missing "
            "mean|median|most-frequent|indicator, leave such rows out by --missing drop-rows, or columns by --drop.",
        ),
    ],
)
def test_csv_content_is_refused_in_words(tmp_path, content, message):
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_table(path, target="kind")


def test_rows_without_a_class_or_a_value_are_left_out_where_that_is_asked(tmp_path):
    path = write(tmp_path / "t.csv", "a,b,k,id\n1,2,x,r0\n3,,y,r1\n5,6,,r2\n7,8,y,r3\n1,2,x,r4\n3,4,y,r5\n9,9,x,r6\n")
    table = read_table(path, target="k", missing="drop-rows", ids=["id"])
    np.testing.assert_array_equal(numbers(table), [[1, 2], [7, 8], [1, 2], [3, 4], [9, 9]])
    np.testing.assert_array_equal(table.labels, [0, 1, 0, 1, 0])
    assert table.ids["id"].tolist() == ["r0", "r3", "r4", "r5", "r6"]
    assert table.notes == ("2 of 7 rows lack a value and are left out.",)
    with pytest.raises(ValueError, match="rows have no class: 1 by k, the first is row 3"):
        read_table(path, target="k", missing="mean", ids=["id"])
    lonely = write(tmp_path / "t.csv", "a,k\n1,x\n,y\n2,x\n3,x\n,y\n")
    with pytest.raises(ValueError, match="all 3 rows are of class 'x'"):
        read_table(lonely, target="k", missing="drop-rows")
    empty = write(tmp_path / "t.csv", "a,b,k\n1,,x\n,1,y\n2,,x\n,2,y\n")
    with pytest.raises(ValueError, match="no row has all its values"):
        read_table(empty, target="k", missing="drop-rows")


def test_classes_are_named_by_a_column_or_by_an_array(tmp_path):
    with pytest.raises(ValueError, match=r"needs --target, the column to predict. Columns there: a, b\.$"):
        read_table(write(tmp_path / "t.csv", "a,b\n1,2\n"))
    with pytest.raises(ValueError, match="--target names columns, and this is an array; --labels names its classes"):
        read_table(save_npz(tmp_path / "t.npz", **FOUR), target="y")
    with pytest.raises(ValueError, match="--features and --labels name arrays, and this has columns"):
        read_table(write(tmp_path / "t.csv", "a,b\n1,2\n"), labels="b")


def test_long_lists_of_columns_are_cut(tmp_path):
    header = ",".join(f"c{index}" for index in range(100))
    with pytest.raises(ValueError, match=r"c19 and 80 more\.$"):
        read_table(write(tmp_path / "t.csv", header + "\n"))


def test_paths_are_refused_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"t\.csv: there is no such file\.$"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"the ending must be one of \.csv, \.tsv, "):
        read_table(write(tmp_path / "t.doc", "a,b"))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match=r"is a folder; a file is needed, or a folder of \.parquet files"):
        read_table(tmp_path / "folder.npz")


def test_columns_that_the_model_does_not_know_are_left_out_with_a_note_and_those_it_needs_are_named(tmp_path):
    path = write(tmp_path / "t.csv", "a,c,kind\n1,x,x\n")
    with pytest.raises(ValueError, match=r"has no columns 'b', 'd'\. Columns there: a, c, kind\.$"):
        read_features(path, encoding_of("a", "b", "d"), target="kind")
    table = read_features(path, encoding_of("a"), target="kind")
    assert list(table.columns) == ["a"]
    assert table.notes == ("columns that the model was not trained on are left out: c.",)


# --- Splitting and scaling --------------------------------------------------------------------------------------------


def make_table(X, image_shape=None):
    return Table(X, labels=np.arange(len(X)) % 2, class_names=("a", "b"), image_shape=image_shape)


def encoded(table):
    return encode(fit_encoding(table), table).X


def test_columns_of_a_table_are_standardised():
    X = RNG.normal(size=(500, 3)) * [1e-9, 1, 1e12] + [0, -7, 1e13]
    scaled = encoded(make_table(X)).astype(np.float64)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(axis=0), 1, atol=1e-6)


def test_a_small_change_of_a_large_number_is_not_lost():
    changes = np.arange(8.0)
    X = (1e9 + changes * 2**-20)[:, None]
    scaled = encoded(make_table(X))
    np.testing.assert_allclose(scaled[:, 0], (changes - changes.mean()) / changes.std(), rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1, -1e300])
def test_a_constant_column_becomes_zero(constant):
    X = np.column_stack([np.full(7, constant), np.arange(7.0)])
    encoding = fit_encoding(make_table(X))
    assert encoding.scale[0] == 1
    np.testing.assert_array_equal(encode(encoding, make_table(X)).X[:, 0], 0)


def test_pixels_are_scaled_by_one_number_to_between_zero_and_one():
    X = RNG.integers(3, 200, (20, 64)).astype(np.uint8)
    X[0, :2] = 3, 199
    scaled = encoded(make_table(X, (8, 8)))
    np.testing.assert_allclose(scaled, (X.astype(float) - 3) / 196, rtol=1e-6)
    assert scaled.dtype == np.float32


def test_the_encoding_is_measured_on_the_training_rows_alone():
    table = make_table(RNG.normal(size=(50, 2)))._replace(weights=np.arange(50.0))
    split = split_and_scale(table, validation=0.2)
    np.testing.assert_allclose(split.train.X.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_array_equal(np.sort(np.concatenate(split.rows)), np.arange(50))
    everything = encode(split.encoding, table).X
    for part, rows in zip((split.train, split.validation, split.test), split.rows, strict=True):
        np.testing.assert_array_equal(part.X, everything[rows])
        np.testing.assert_array_equal(part.labels, table.labels[rows])
        np.testing.assert_array_equal(64 * part.weights, rows)


def test_values_too_large_to_scale_are_named():
    X = np.array([[1.0, 2], [-1e308, 3], [1e308, 4]])
    with pytest.raises(ValueError, match=r"column 1 of the features has a number in row \d that is too large to scale"):
        encoded(make_table(X))
    encoding = fit_encoding(make_table(np.arange(6.0).reshape(3, 2)))
    with pytest.raises(ValueError, match=r"column 2 of the features has a number in row 2 that is too large to scale"):
        encode(encoding, Table(np.array([[0, 1], [2, 1e200]])))


# --- Names, numbers, and how they are written -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NA", "null", "nan", "n/a", "NaN", '"NA"', '"null"', "None", "-"])
def test_no_name_of_a_class_is_taken_for_a_missing_one(tmp_path, name):
    table = read_table(write(tmp_path / "t.csv", f"a,k\n1,{name}\n2,x\n3,{name}\n4,x\n"), target="k")
    assert sorted(table.class_names) == sorted([name.strip('"'), "x"])
    np.testing.assert_array_equal(table.labels, [table.class_names.index(text) for text in [name.strip('"'), "x"] * 2])


@pytest.mark.parametrize("value", ["nan", " nan", "NaN", "-nan", "+nan", "NA", " n/a", "null", "", " ", '"NA"', "<NA>"])
def test_a_feature_without_a_value_is_said(tmp_path, value):
    path = write(tmp_path / "t.csv", f"a,b,k\n1,2,x\n3,{value},y\n5,6,x\n7,8,y\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}: values are missing: b (1 of 4, the first in row 2).")):
        read_table(path, target="k")
    filled = read_table(path, target="k", missing="mean")
    assert np.isnan(filled.columns["b"].values).tolist() == [False, True, False, False]


@pytest.mark.parametrize("value", ["１２", "1_000", "0x10", "1 2", "¼", "1e", "true", "--1"])
def test_what_only_looks_like_a_number_is_named(tmp_path, value):
    path = write(tmp_path / "t.csv", f"a,k\n1.5,x\n{value},y\n2,x\n3,y\n")
    shown = printable(value)
    message = f"{path}: columns of numbers hold what is none: a ({shown!r} in row 2). Correct it,"
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(path, target="k")


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        ("1 1.0 2 2.0", (1, 2), [0, 0, 1, 1]),
        ("1.0 1.00 2.50 2.5", ("1", "2.5"), [0, 0, 1, 1]),
        ("0 -0.0 +3 3", (0, 3), [0, 0, 1, 1]),
        ("1 1.0 a a", ("1", "a"), [0, 0, 1, 1]),
        ("01 1 01 1", ("01", "1"), [0, 1, 0, 1]),
        ("9007199254740993.0 9007199254740993 9007199254740992 9007199254740992", (2**53, 2**53 + 1), [1, 1, 0, 0]),
        ("100 1e2 100 1e2", ("100", "1e2"), [0, 1, 0, 1]),
        ("10 10.0 20 20", (10, 20), [0, 0, 1, 1]),
    ],
)
def test_a_number_written_in_two_ways_is_one_class(tmp_path, labels, names, indices):
    rows = "".join(f"{index},{label}\n" for index, label in enumerate(labels.split()))
    table = read_table(write(tmp_path / "t.csv", "a,k\n" + rows), target="k")
    assert table.class_names == names
    np.testing.assert_array_equal(table.labels, indices)
    saved = read_table(save_npz(tmp_path / "t.npz", X=np.zeros((4, 1)), y=np.array(labels.split())))
    assert saved.class_names == tuple(sorted(map(str, names)))


def test_names_of_columns_are_trimmed(tmp_path):
    path = write(tmp_path / "t.csv", " a ,b\t, kind\n1,2,x\n3,4,y\n5,6,x\n7,8,y\n")
    table = read_table(path, target="kind")
    assert tuple(table.columns) == ("a", "b")
    np.testing.assert_array_equal(numbers(read_features(path, encoding_of("b", "a"), target="kind"))[0], [2, 1])
    with pytest.raises(ValueError, match=r"more than one column has the name: 'a'\."):
        read_table(write(tmp_path / "t.csv", "a, a,k\n1,2,x\n"), target="k")


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1])
def test_integers_that_float64_would_merge_are_refused(tmp_path, value):
    path = write(tmp_path / "t.csv", f"a,k\n1,x\n2,y\n{value},x\n4,y\n")
    with pytest.raises(ValueError, match=rf"integers are beyond 2\*\*53, where .*: a \({value} in row 3\)\."):
        read_table(path, target="k")
    path = save_npz(tmp_path / "t.npz", X=np.array([[1], [2], [value], [4]]), y=[1, 2, 1, 2])
    with pytest.raises(ValueError, match=rf"integers are beyond 2\*\*53, .*: the features \({value} in row 3\)\."):
        read_table(path)


def test_integers_that_float64_tells_apart_are_read(tmp_path):
    content = f"a,k\n{2**53},x\n{-(2**53)},y\n{10**18},x\n1e300,y\n"
    table = read_table(write(tmp_path / "t.csv", content), target="k")
    np.testing.assert_array_equal(numbers(table)[:, 0], [2**53, -(2**53), 10**18, 1e300])
    X = np.array([[2**53], [1], [2], [3]], np.uint64)
    np.testing.assert_array_equal(read_features(save_npz(tmp_path / "t.npz", X=X)).X, X)


def test_classes_beyond_the_integers_of_float64_stay_apart(tmp_path):
    y = np.array([2**64 - 1, 2**64 - 2] * 2, np.uint64)
    assert read_table(save_npz(tmp_path / "t.npz", X=np.zeros((4, 1)), y=y)).class_names == (2**64 - 2, 2**64 - 1)


def test_bytes_that_are_no_text_are_no_classes(tmp_path):
    path = save_npz(tmp_path / "t.npz", X=np.zeros((4, 1)), y=np.array([b"\xff", b"a"] * 2))
    with pytest.raises(ValueError, match=re.escape(f"{path}: the labels hold bytes that are no text in UTF-8.")):
        read_table(path)
    y = np.array(["ü".encode(), b"a"] * 2)
    assert read_table(save_npz(tmp_path / "t.npz", X=np.zeros((4, 1)), y=y)).class_names == ("a", "ü")
