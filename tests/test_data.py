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
        (np.array([True, False] * 3), ("False", "True")),
        (np.array([-1, 1] * 3), (-1, 1)),
    ],
)
def test_npz_classes_are_integers_or_text(tmp_path, y, names):
    table = read_table(save_npz(tmp_path / "t.npz", X=np.zeros((6, 2)), y=y))
    assert table.class_names == names
    assert all(type(name) in (int, str) for name in table.class_names)
    assert [names[label] for label in table.labels] == [
        name if names[0] != "False" else str(bool(name)) for name in (y.astype(str) if y.dtype.kind == "S" else y)
    ]


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
        ({"X": np.zeros((4, 2)), "labels": [1]}, "must hold the array y. Arrays there: X, labels."),
        ({"y": [1]}, "must hold the array X. Arrays there: y."),
        (FOUR | {"X": np.zeros((4, 2), object)}, "holds Python objects, which are not read"),
        (FOUR | {"X": np.full((4, 2), "a")}, "X must be real numbers; got <U1."),
        (FOUR | {"X": np.zeros((4, 2), complex)}, "X must be real numbers; got complex128."),
        (FOUR | {"X": np.zeros(4)}, "X must have shape (N, P), or (N, H, W) for images; got (4,)."),
        (FOUR | {"X": np.zeros((0, 2))}, "X is empty; its shape is (0, 2)."),
        (FOUR | {"X": np.array([[0, 1], [2, np.nan], [4, 5], [6, 7]])}, "row 2, column 2 of X is nan."),
        (FOUR | {"X": np.array([[0, 1], [2, 3], [-np.inf, 5], [6, 7]])}, "row 3, column 1 of X is -inf."),
        (FOUR | {"y": [1, 2]}, "X has 4 rows and y has 2; each row needs its class."),
        (FOUR | {"y": np.eye(4)}, "y must have shape (N,), a class for each row; got (4, 4). One-hot?"),
        (FOUR | {"y": [1.0, 1, 2, 2]}, "y must be integers or text, the classes; got float64. Whole numbers?"),
        (FOUR | {"y": [7, 7, 7, 7]}, "all 4 rows are of class 7; at least two classes are needed."),
        (FOUR | {"y": [1, 2, 3, 4]}, "4 rows have 4 classes; a class needs two rows on average. Is y a quantity"),
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
    with pytest.raises(ValueError, match=r"is not an \.npz archive, or is damaged or cut short\.$"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty."),
        ("a,kind\n", "has a header and no rows."),
        ("a,b\n1,2\n", "has no column 'kind'. Columns there: a, b."),
        ("a,Kind\n1,2\n", "has no column 'kind'. Did you mean 'Kind'? Columns there: a, Kind."),
        ("kind\nx\ny\n", "has no column but 'kind'; there is nothing to predict it from."),
        ("a,a,kind\n1,2,x\n", "has more than one column 'a'. Give each its own name."),
        (",a,kind\n0,2,x\n", "column 1 has no name. An index that pandas wrote? Write with index=False."),
        ("a,b,kind\n1,2,x\n3,,y\n", "column 'b' has no value in row 2. Leave such rows out or fill them in."),
        ("a,b,kind\n1,NaN,x\n3,4,y\n", "column 'b' has no value in row 1."),
        ("a,kind\n1,x\n3,\n", "column 'kind' has no value in row 2."),
        ("a,b,kind\n1,2,x\n3,Berlin,y\n", "column 'b' must be numbers; got 'Berlin' in row 2."),
        ("a,kind\n1,x\n-inf,y\n", "column 'a' is infinite in row 2."),
        ("a,kind\n1,x\n2\n", "CSV parse error: Row #3: Expected 2 columns, got 1: 2"),
        (b"a,kind\n\xff,x\n", "is not text in UTF-8 with values separated by commas."),
        ("a,kind\n1,x\n2,x\n", "all 2 rows are of class 'x'; at least two classes are needed."),
        ("a,kind\n1,x\n2,y\n", "2 rows have 2 classes; a class needs two rows on average. Is kind a quantity"),
    ],
)
def test_csv_content_is_refused_in_words(tmp_path, content, message):
    path = write(tmp_path / "t.csv", content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        read_table(path, target="kind")


def test_target_belongs_to_csv(tmp_path):
    with pytest.raises(ValueError, match=r"needs --target, the column to predict. Columns there: a, b\.$"):
        read_table(write(tmp_path / "t.csv", "a,b\n1,2\n"))
    with pytest.raises(ValueError, match=r"an \.npz has its classes in y"):
        read_table(save_npz(tmp_path / "t.npz", **FOUR), target="y")


def test_long_lists_of_columns_are_cut(tmp_path):
    header = ",".join(f"c{index}" for index in range(100))
    with pytest.raises(ValueError, match=r"c19 and 80 more\.$"):
        read_table(write(tmp_path / "t.csv", header + "\n"))


def test_paths_are_refused_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"t\.csv: there is no such file\.$"):
        read_table(tmp_path / "t.csv")
    with pytest.raises(ValueError, match=r"the ending must be \.npz or \.csv; got \.txt\.$"):
        read_table(tmp_path / "t.txt")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match="is a folder; a file is needed"):
        read_table(tmp_path / "folder.npz")


def test_columns_that_the_model_does_not_know_are_refused(tmp_path):
    path = write(tmp_path / "t.csv", "a,c,kind\n1,2,x\n")
    with pytest.raises(ValueError, match=r"has no column 'b'\. Columns there: a, c\.$"):
        read_features(path, encoding_of("a", "b"), target="kind")
    with pytest.raises(ValueError, match=r"has columns that the model was not trained on: c\. Leave them out\.$"):
        read_features(path, encoding_of("a"), target="kind")


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
        np.testing.assert_array_equal(part.weights, rows)


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
    with pytest.raises(ValueError, match=re.escape(f"{path}: column 'b' has no value in row 2.")):
        read_table(path, target="k")


@pytest.mark.parametrize("value", ["１２", "1_000", "0x10", "1 2", "¼", "1e", "true", "--1", "1\u00a0000"])
def test_what_only_looks_like_a_number_is_named(tmp_path, value):
    path = write(tmp_path / "t.csv", f"a,k\n1.5,x\n{value},y\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}: column 'a' must be numbers; got {value!r} in row 2.")):
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
    with pytest.raises(ValueError, match=r"has more than one column 'a'\."):
        read_table(write(tmp_path / "t.csv", "a, a,k\n1,2,x\n"), target="k")


@pytest.mark.parametrize("value", [2**53 + 1, -(2**53) - 1, 2**63 - 1])
def test_integers_that_float64_would_merge_are_refused(tmp_path, value):
    path = write(tmp_path / "t.csv", f"a,k\n1,x\n2,y\n{value},x\n4,y\n")
    with pytest.raises(ValueError, match=rf"column 'a' has the integer {value} in row 3; beyond 2\*\*53 float64 does"):
        read_table(path, target="k")
    path = save_npz(tmp_path / "t.npz", X=np.array([[1], [2], [value], [4]]), y=[1, 2, 1, 2])
    with pytest.raises(ValueError, match=rf"X has the integer {value} in row 3; beyond 2\*\*53 float64 does not tell"):
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
    with pytest.raises(ValueError, match=re.escape(f"{path}: y holds bytes that are no text in UTF-8.")):
        read_table(path)
    y = np.array(["ü".encode(), b"a"] * 2)
    assert read_table(save_npz(tmp_path / "t.npz", X=np.zeros((4, 1)), y=y)).class_names == ("a", "ü")
