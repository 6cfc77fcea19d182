"""Lists and data frames are taken for the arrays that they hold, or refused by column and row."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
from handgrad.frames import as_array, as_data, as_held_out, as_targets

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")

pytestmark = pytest.mark.messages

LIBRARIES = {"pandas": pandas, "polars": polars}
random = np.random.default_rng(0)
X = random.standard_normal((12, 3)).astype(np.float32)
t = np.arange(12) % 3
T = random.dirichlet(np.ones(3), 12).astype(np.float32)
w = random.uniform(0.5, 2, 12).astype(np.float32)


def frame(library, columns):
    return LIBRARIES[library].DataFrame(columns)


def series(library, values, name="kind"):
    return pandas.Series(values, name=name) if library == "pandas" else polars.Series(name, values)


# What trains: each from data, targets and weights, with rows held out, to parameters.
TRAINING = {
    "train": lambda X, targets, weights, validation: (
        handgrad.train(X, targets, weights=weights, validation=validation, num_classes=3, epochs=2).params
    ),
    "fit": lambda X, targets, weights, _: handgrad.fit(X, targets, weights=weights, l2=0.1, num_classes=3).params,
    "fit_path": lambda X, targets, weights, validation: (
        handgrad.fit_path(X, targets, weights=weights, l2s=[0.1, 1.0], validation=validation, num_classes=3).params
    ),
}


@pytest.mark.parametrize("function", TRAINING)
@pytest.mark.parametrize("targets", [t, T], ids=["labels", "distributions"])
def test_training_on_lists_and_frames_is_training_on_their_arrays(function, targets):
    run = TRAINING[function]
    expected = run(X, targets, w, (X[:5], targets[:5]))
    names = ["a", "b", "c"]
    for library in LIBRARIES:
        data = frame(library, {name: X[:, i] for i, name in enumerate(names)})
        if targets is t:
            given = series(library, targets)
        else:
            given = frame(library, {name: T[:, i] for i, name in enumerate(names)})
        params = run(data, given, series(library, w), (data[:5], given[:5]))
        jax.tree.map(np.testing.assert_array_equal, params, expected)
    lists = run(X.tolist(), targets.tolist(), w.tolist(), (X[:5].tolist(), targets[:5].tolist()))
    # Lists hold float64, which is centred or cut otherwise: the same optimum to no more than tol tells.
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-3), lists, expected)


def test_arrays_are_handed_on_untouched():
    for array in (X, jnp.asarray(X), X.astype(np.uint8), X.astype(np.float16), np.asfortranarray(X), None):
        assert as_data("fit", array) is array
    for array in (t, t.astype(np.uint8), jnp.asarray(t), T, jnp.asarray(T, jnp.bfloat16)):
        assert as_targets("fit", array) is array
        assert as_array("fit", array, "weights") is array


def test_a_frame_that_holds_one_array_is_not_copied():
    data = pandas.DataFrame(X)
    assert np.shares_memory(as_data("fit", data), data.to_numpy())


DTYPES = [
    # (the columns' dtypes, the array's)
    (["float32", "float32"], "float32"),
    (["float64", "float32"], "float64"),
    (["bool", "bool"], "float32"),
    (["uint8", "int16"], "float32"),
    (["float32", "bool"], "float32"),
    (["int32", "float32"], "float64"),
    (["int64", "int64"], "float64"),
    (["uint64", "int8"], "float64"),
]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(("dtypes", "expected"), DTYPES, ids=str)
def test_columns_are_promoted_to_a_floating_dtype_that_holds_them(library, dtypes, expected):
    columns = [np.array([0, 1, 1, 0, 1]).astype(dtype) for dtype in dtypes]
    array = as_data("fit", frame(library, {f"c{i}": column for i, column in enumerate(columns)}))
    assert array.dtype == expected
    np.testing.assert_array_equal(array, np.stack(columns, axis=1).astype(expected))


def test_half_precision_columns_stay_as_narrow_as_they_are():
    data = pandas.DataFrame({"a": np.float16([0.5, 2.0]), "b": np.uint8([255, 1]), "c": [True, False]})
    assert as_data("fit", data).dtype == np.float16
    np.testing.assert_array_equal(as_data("fit", data), [[0.5, 255, 1], [2, 1, 0]])


@pytest.mark.parametrize("dtype", ["Int64", "UInt8", "Float32", "boolean", "int64[pyarrow]", "double[pyarrow]"])
def test_nullable_columns_without_a_gap_are_numbers(dtype):
    if "pyarrow" in dtype:
        pytest.importorskip("pyarrow")
    column = pandas.Series([1.0, 0.0, 1.0]).astype(dtype)
    array = as_data("fit", pandas.DataFrame({"a": column, "b": np.float32([0.5, 2.0, 3.0])}))
    assert array.dtype == (np.float32 if dtype in ("UInt8", "Float32", "boolean") else np.float64)
    np.testing.assert_array_equal(array, [[1, 0.5], [0, 2], [1, 3]])
    assert as_array("fit", column, "weights").dtype == np.dtype(column.dtype.numpy_dtype)


def test_columns_of_one_name_each_count():
    data = pandas.DataFrame(X, columns=["a", "a", "b"]).astype({"b": "float64"})
    np.testing.assert_array_equal(as_data("fit", data), X)


def test_labels_keep_their_dtype_and_are_taken_in_the_order_of_the_rows():
    labels = pandas.Series(np.array([2, 0, 1], np.int8), index=[5, 3, 4])
    assert as_targets("fit", labels).dtype == np.int8
    np.testing.assert_array_equal(as_targets("fit", labels), [2, 0, 1])
    np.testing.assert_array_equal(as_targets("fit", pandas.Index([2, 0, 1])), [2, 0, 1])
    np.testing.assert_array_equal(as_targets("fit", labels.astype("Int64").array), [2, 0, 1])
    np.testing.assert_array_equal(as_targets("fit", polars.Series([2, 0, 1])), [2, 0, 1])
    assert as_targets("fit", (2, 0, 1)).dtype.kind == "i"


@pytest.mark.parametrize("library", LIBRARIES)
def test_one_hot_frames_and_lists_are_distributions(library):
    rows = np.eye(3, dtype=bool)[t]
    for given in (frame(library, {name: rows[:, i] for i, name in enumerate("abc")}), rows.astype(int).tolist()):
        array = as_targets("fit", given)
        assert array.dtype.kind == "f"
        np.testing.assert_array_equal(array, rows)


def test_integers_that_floats_do_not_hold_are_refused_and_others_are_not():
    exact = [2**53, -(2**53), 2**60, 3]
    assert as_data("fit", [exact, [0.5, 2.5, 1e300, -1e16]]).dtype == np.float64
    for given in (exact, np.array(exact), np.array([2**63, 2**53 + 2], np.uint64)):
        array = as_data("fit", pandas.DataFrame({"a": given, "b": 0.5}))
        assert [int(entry) for entry in array[:, 0]] == [int(entry) for entry in given]
    for wrong in (2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**64 - 1):
        column = np.array([0, wrong], np.uint64 if wrong >= 2**63 else np.int64)
        for library in LIBRARIES:
            with pytest.raises(
                ValueError, match=f"X's column 'a' must have integers that float64 holds; got {wrong}. An"
            ):
                as_data("fit", frame(library, {"a": column, "b": [0.5, 0.5]}))
        with pytest.raises(ValueError, match=f"fit: X must have integers that float64 holds; got {wrong}"):
            as_data("fit", [[0.5], [wrong]])
        assert int(as_targets("fit", pandas.Series(column))[1]) == wrong


NUMBERS = [1.0, 2.0, 3.0]
TEXT = ["x", "y", "x"]
REFUSED = {
    "text": (pandas.DataFrame({"a": NUMBERS, "kind": TEXT}), TypeError, "fit: X's column 'kind' must be numbers; got "),
    "text of polars": (polars.DataFrame({"kind": TEXT}), TypeError, "fit: X's column 'kind' must be numbers; got Str"),
    "categories": (
        pandas.DataFrame({"kind": pandas.Categorical([0, 1, 0])}),
        TypeError,
        "fit: X's column 'kind' must be numbers; got category. Drop it, or make numbers of it: of categories and text "
        "with sklearn.preprocessing.OneHotEncoder, of dates by subtracting one.",
    ),
    "categories of polars": (
        polars.DataFrame({"kind": polars.Series(TEXT).cast(polars.Categorical)}),
        TypeError,
        "fit: X's column 'kind' must be numbers; got Categorical",
    ),
    "dates": (
        pandas.DataFrame({"when": pandas.to_datetime(["2020-01-01"] * 3)}),
        TypeError,
        "fit: X's column 'when' must be numbers; got datetime64[",
    ),
    "decimals": (
        polars.DataFrame({"price": polars.Series([1, 2]).cast(polars.Decimal(5, 2))}),
        TypeError,
        "fit: X's column 'price' must be numbers; got Decimal(",
    ),
    "objects": (pandas.DataFrame({"a": [1, "x", 2.5]}, dtype=object), TypeError, "fit: X's column 'a' must be numbers"),
    "complex numbers": (
        pandas.DataFrame({"a": [1j]}),
        TypeError,
        "fit: X's column 'a' must be numbers; got complex128",
    ),
    "sparse columns": (
        pandas.DataFrame({"a": pandas.arrays.SparseArray([0, 1])}),
        TypeError,
        "fit: X's column 'a' must be numbers; got Sparse[int64, 0]. Pass sparse data as scipy.sparse has them: "
        "X.sparse.to_coo().",
    ),
    "NaN": (
        pandas.DataFrame({"a": NUMBERS, "age": [1.0, np.nan, np.nan]}),
        ValueError,
        "fit: X's column 'age' must have no missing values; got one at row 1. Drop such rows or fill them in first.",
    ),
    "NA": (
        pandas.DataFrame({"a": NUMBERS, "age": pandas.array([1, 2, None], "Int64")}),
        ValueError,
        "fit: X's column 'age' must have no missing values; got one at row 2.",
    ),
    "null": (
        polars.DataFrame({"age": [None, 1, 2]}),
        ValueError,
        "fit: X's column 'age' must have no missing values; got one at row 0.",
    ),
    "NaN of polars": (
        polars.DataFrame({"age": [1.0, float("nan")]}),
        ValueError,
        "fit: X's column 'age' must have no missing values; got one at row 1.",
    ),
    "rows of two lengths": (
        [[1.0, 2.0], [1.0]],
        ValueError,
        "fit: X must be rows of one length; got a list of several. Fill in or drop what is missing or too much.",
    ),
    "lists of text": ([[1.0, "x"]], TypeError, "fit: X must be numbers; got a list of text. Drop it, or make numbers"),
    "lists with None": ([[1.0, 2.0], [None, 1.0]], ValueError, "fit: X must have no missing values; got one at row 1."),
    "lists of too much": ([[10**30]], TypeError, "fit: X must be numbers; got a list of object."),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_number_is_refused_by_column_and_row(case):
    given, error, message = REFUSED[case]
    with pytest.raises(error, match="^" + re.escape(message)):
        as_data("fit", given)


LABELS = {
    "an array": np.array(TEXT),
    "an array of objects": np.array(TEXT, object),
    "a list": TEXT,
    "a tuple": tuple(TEXT),
    "pandas": pandas.Series(TEXT),
    "pandas' objects": pandas.Series(TEXT, dtype=object),
    "pandas' text": pandas.Series(TEXT, dtype="string"),
    "pandas' categories": pandas.Series(TEXT, dtype="category"),
    "pandas' values": pandas.Series(TEXT, dtype="string").array,
    "pandas' index": pandas.Index(TEXT),
    "polars": polars.Series(TEXT),
    "polars' categories": polars.Series(TEXT).cast(polars.Categorical),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_of_text_are_refused_with_the_estimator_that_takes_them(case):
    message = r"fit: targets must be numbers; got .*\. handgrad.SoftmaxRegression takes labels of any kind; or number"
    with pytest.raises(TypeError, match=message):
        as_targets("fit", LABELS[case])
    with pytest.raises(TypeError, match=r"train: targets must be numbers; got .*SoftmaxRegression"):
        handgrad.train(X[:3], LABELS[case])


@pytest.mark.parametrize("library", LIBRARIES)
def test_labels_as_a_frame_and_labels_that_are_missing_are_refused(library):
    with pytest.raises(ValueError, match=re.escape("Labels? Pass the column itself, targets['kind'].")):
        as_targets("fit", frame(library, {"kind": [0, 1]}))
    with pytest.raises(ValueError, match="fit: targets must have no missing values; got one at row 1"):
        as_targets("fit", series(library, [0.0, None]))
    with pytest.raises(ValueError, match="fit: weights must have no missing values; got one at row 1"):
        as_array("fit", series(library, [0.5, None]), "weights")


@pytest.mark.parametrize("library", LIBRARIES)
def test_columns_of_the_rows_held_out_must_be_those_of_the_data(library):
    data = frame(library, {"a": NUMBERS, "b": NUMBERS})
    swapped, fewer = data[["b", "a"]], data[["a"]]
    message = "fit_path: validation X must have the columns of X in their order; got 'b' for 'a' at 0."
    with pytest.raises(ValueError, match=re.escape(message)):
        as_held_out("fit_path", (swapped, [0, 1, 0]), data)
    with pytest.raises(ValueError, match="in their order; got 1 columns"):
        as_held_out("fit_path", (fewer, [0, 1, 0]), data)
    unnamed = as_held_out("fit_path", (np.ones((3, 2)), [0, 1, 0]), data)
    np.testing.assert_array_equal(unnamed[0], np.ones((3, 2)))
    held_out, targets = as_held_out("fit_path", (data, [0, 1, 0]), pandas.DataFrame(X[:, :2]))
    np.testing.assert_array_equal(held_out[:, 1], NUMBERS)
    assert targets.tolist() == [0, 1, 0]
