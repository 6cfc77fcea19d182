"""How a table becomes X: exact moments, filled values, words, and an encoding that is kept and comes back the same."""

import fractions
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handgrad.data import Column, Encoding, Table, encode, fit_encoding
from handgrad.data.description import from_description, to_description
from handgrad.data.moments import blocks_of, measure
from handgrad.data.naming import natural_key

RNG = np.random.default_rng(0)
NAN = np.nan


def text(values, words=("red", "blue")):
    return Column("text", np.array([words.index(value) if value else -1 for value in values], np.int32), tuple(words))


def number(*values):
    return Column("number", np.array(values, np.float64))


# --- Moments ----------------------------------------------------------------------------------------------------------


def exact(values):
    """Mean and standard deviation in rational numbers."""
    there = [fractions.Fraction(value) for value in values if not np.isnan(value)]
    mean = sum(there) / len(there)
    unit = max(abs(value - mean) for value in there) or 1
    return float(mean), float(sum(((value - mean) / unit) ** 2 for value in there) / len(there)) ** 0.5 * float(unit)


@pytest.mark.parametrize("as_array", [True, False])
@pytest.mark.parametrize(
    ("centre", "spread"), [(0, 1), (1e9, 1e-3), (-1e15, 10), (1e150, 1e140), (1e-150, 1e-160), (0, 1e300), (7, 0)]
)
def test_moments_are_exact_where_sums_of_squares_are_not(monkeypatch, as_array, centre, spread):
    monkeypatch.setattr("handgrad.data.moments.BLOCK_VALUES", 64)  # many blocks
    values = centre + spread * RNG.normal(size=(100, 3))
    values[RNG.random(size=values.shape) < 0.1] = NAN
    values[:70, 2] = NAN
    moments = measure(blocks_of(values if as_array else list(values.T), None), 3)
    for column, found in zip(values.T, map(moments.at, range(3)), strict=True):
        mean, deviation = exact(column)
        assert found.count == np.count_nonzero(~np.isnan(column))
        assert found.missing == 100 - found.count
        assert (found.low, found.high) == (np.nanmin(column), np.nanmax(column))
        np.testing.assert_allclose(found.mean, mean, rtol=1e-14, atol=1e-14 * deviation)
        np.testing.assert_allclose(found.deviation, deviation, rtol=1e-9)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30), st.integers(0, 5), st.floats(-1e6, 1e6))
@settings(deadline=None, derandomize=True, database=None, max_examples=60)
def test_moments_of_filled_values_are_those_of_the_filled_column(values, missing, fill):
    column = np.array(values + [NAN] * missing)
    filled = measure(blocks_of([column], None), 1).at(0).filled(fill)
    expected = measure(blocks_of([np.where(np.isnan(column), fill, column)], None), 1).at(0)
    scale = max(abs(fill), *map(abs, values), 1e-300)
    np.testing.assert_allclose(filled, expected, rtol=1e-9, atol=1e-12 * scale)


def test_blocks_are_all_rows_of_all_columns(monkeypatch):
    monkeypatch.setattr("handgrad.data.moments.BLOCK_VALUES", 10)
    monkeypatch.setattr("handgrad.data.moments.BLOCK_COLUMNS", 4)
    X, rows = RNG.normal(size=(23, 9)), np.arange(0, 23, 2)
    for data in (X, list(X.T)):
        for chosen in (None, rows):
            seen = {}
            for columns, block in blocks_of(data, chosen):
                seen.setdefault(columns.start, []).append(block)
            found = np.concatenate([np.concatenate(seen[start], axis=1) for start in sorted(seen)])
            np.testing.assert_array_equal(found.T, X if chosen is None else X[rows])


# --- Encoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("missing", "fill"), [("mean", 11 / 3), ("median", 3.0), ("most-frequent", 1.0), ("indicator", 11 / 3)]
)
@pytest.mark.parametrize("as_array", [True, False])
def test_missing_numbers_are_filled_as_is_asked(missing, fill, as_array):
    values = np.array([[1.0, 5], [3.0, 6], [NAN, 5], [7.0, 7]])
    if missing == "most-frequent":
        values[1, 0] = 1.0
        fill = 1.0
    if as_array:
        table = Table(values, missing=missing)
    else:
        table = Table(columns={"a": number(*values[:, 0]), "b": number(*values[:, 1])}, missing=missing)
    encoding = fit_encoding(table)
    X = encode(encoding, table).X
    filled = np.where(np.isnan(values), fill, values)
    expected = (filled - filled.mean(axis=0)) / filled.std(axis=0)
    np.testing.assert_allclose(X[:, :2], expected, rtol=1e-6, atol=1e-6)
    if missing == "indicator":
        np.testing.assert_array_equal(X[:, 2:], [[0], [0], [1], [0]])
        assert as_array or encoding.feature_names == ("a", "b", "a is missing")
    else:
        assert X.shape == (4, 2)


def test_words_are_features_in_their_order_and_a_missing_one_is_the_most_frequent():
    words = ("size 10", "size 9", "unused")
    table = Table(columns={"a": text(["size 10", "size 9", "", "size 10"], words)}, missing="mean")
    encoding = fit_encoding(table)
    assert encoding.feature_names == ("a=size 9", "a=size 10")
    np.testing.assert_array_equal(encode(encoding, table).X, [[0, 1], [1, 0], [0, 1], [0, 1]])
    indicating = fit_encoding(table._replace(missing="indicator"))
    assert indicating.feature_names == ("a=size 9", "a=size 10", "a is missing")
    np.testing.assert_array_equal(encode(indicating, table).X, [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]])


def test_words_that_no_row_to_train_on_has_count_as_none_and_are_said():
    table = Table(columns={"a": text(["red", "blue", "red", "red"]), "n": number(1, 2, 3, 4)})
    encoding = fit_encoding(table, np.array([0, 1]))
    later = Table(columns={"n": number(1.5, 1.5, 1.5), "a": text(["green", "blue", "green"], ("green", "blue"))})
    encoded = encode(encoding, later)
    np.testing.assert_array_equal(encoded.X, [[0, 0, 0], [1, 0, 0], [0, 0, 0]])
    (note,) = encoded.notes
    assert note.startswith(
        "column 'a' has 1 texts in 2 rows that no row to train on has, and they count as none: 'green'"
    )


def test_columns_with_one_value_are_left_out():
    table = Table(columns={"a": number(1, 1, 5), "t": text(["red", "red", "blue"]), "n": number(1, 2, 3)})
    encoding = fit_encoding(table, np.array([0, 1]))
    assert encoding.feature_names == ("n",)
    assert encoding.left_out == ("a", "t")
    assert encode(encoding, table).notes == ()
    with pytest.raises(ValueError, match="each of the columns a has one value in all rows to train on"):
        fit_encoding(Table(columns={"a": number(1, 1)}))


def test_missing_values_are_refused_dropped_or_filled_when_they_are_new():
    whole = Table(columns={"a": number(1, 2, 3), "t": text(["red", "blue", "red"])})
    holes = Table(columns={"a": number(1, NAN, 3), "t": text(["red", "blue", ""])})
    with pytest.raises(
        ValueError, match=r"values are missing: a \(1 of 3, .* row 2\), t \(1 of 3, .* row 3\). No row that"
    ):
        encode(fit_encoding(whole), holes)
    encoded = encode(fit_encoding(whole._replace(missing="drop-rows")), holes)
    np.testing.assert_array_equal(encoded.rows, [0])
    assert encoded.X.shape == (1, 3)
    filled = encode(fit_encoding(whole._replace(missing="mean")), holes)
    np.testing.assert_allclose(filled.X[:, 0], [-1.2247449, 0, 1.2247449], rtol=1e-6)
    np.testing.assert_array_equal(filled.X[:, 1:], [[0, 1], [1, 0], [0, 1]])
    X = np.array([[1.0, 2], [3, 5], [NAN, 4]])
    with pytest.raises(
        ValueError, match=r"values are missing: the features \(1 of 3, the first in row 3\). No row that"
    ):
        encode(fit_encoding(Table(X[:2])), Table(X))
    np.testing.assert_array_equal(encode(fit_encoding(Table(X[:2], missing="drop-rows")), Table(X)).rows, [0, 1])


def test_what_does_not_fit_the_model_is_refused_by_name():
    encoding = fit_encoding(Table(columns={"a": number(1, 2), "b": number(1, 2), "t": text(["red", "blue"])}))
    with pytest.raises(ValueError, match=r"has no column 'b'\. Columns there: a, t\."):
        encode(encoding, Table(columns={"a": number(1), "t": text(["red"])}))
    for column in (text(["red"]), Column("date", np.array([18690.0]))):
        with pytest.raises(
            ValueError, match=r"column 'b' must be numbers, as what the model was trained on; got (text|dates)"
        ):
            encode(encoding, Table(columns={"a": number(1), "b": column, "t": text(["red"])}))
    flags = Column("boolean", np.array([1.0]))
    assert encode(encoding, Table(columns={"a": number(1), "b": flags, "t": text(["red"])})).X.shape == (1, 4)
    with pytest.raises(ValueError, match=r"got an array \(2, 4\), whose columns have no names"):
        encode(encoding, Table(np.zeros((2, 4))))
    with pytest.raises(ValueError, match="the model was trained on 4 features; got 3 in a row"):
        encode(fit_encoding(Table(np.eye(4))), Table(np.zeros((2, 3))))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_])
def test_arrays_of_any_dtype_are_scaled_in_float64_and_given_in_float32(dtype):
    values = RNG.integers(0, 2, (50, 3)).astype(dtype)
    X = encode(fit_encoding(Table(values)), Table(values)).X
    wide = values.astype(np.float64)
    np.testing.assert_allclose(X, (wide - wide.mean(axis=0)) / wide.std(axis=0), rtol=1e-6)
    assert X.dtype == np.float32
    columns = {name: Column("number", column) for name, column in zip("abc", values.T, strict=True)}
    np.testing.assert_array_equal(encode(fit_encoding(Table(columns=columns)), Table(columns=columns)).X, X)


def test_sparse_features_stay_sparse_and_lie_in_minus_one_to_one():
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.random_array((30, 8), density=0.3, rng=RNG, format="csr") * 100 - sparse.eye_array(30, 8, format="csr")
    table = Table(sparse.csr_array(X))
    encoded = encode(fit_encoding(table), table).X
    largest = np.abs(X.toarray()).max(axis=0)
    assert encoded.format == "csr"
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded.toarray(), X.toarray() / largest, rtol=1e-6)


# --- To keep, and to sort ---------------------------------------------------------------------------------------------


def encodings():
    columns = {"a": number(1, NAN, 3), "t": text(["red", "", "blue"]), "d": Column("date", np.array([1.0, 2, 3]))}
    for missing in ("mean", "indicator", "drop-rows", None):
        yield fit_encoding(Table(columns=columns, missing=missing, left_out=("id",)))
    yield fit_encoding(Table(RNG.integers(0, 9, (5, 12)).astype(np.uint8), image_shape=(2, 2, 3)))
    yield fit_encoding(Table(np.array([[1.0, NAN], [2, 3], [4, 7]]), missing="indicator"))


@pytest.mark.parametrize("number", range(6))
def test_an_encoding_comes_back_from_its_description(number):
    encoding = list(encodings())[number]
    description, arrays = to_description(encoding)
    again = from_description(json.loads(json.dumps(description)), arrays)
    assert type(again) is Encoding
    for before, after in zip(encoding, again, strict=True):
        np.testing.assert_array_equal(after, before) if isinstance(before, np.ndarray) else None
        assert isinstance(before, np.ndarray) or after == before


def test_a_description_that_is_none_is_refused_whatever_it_is():
    description, arrays = to_description(next(encodings()))
    wrong = [None, 1, "x", [], {}, [1], {"inputs": 3}, [[]], -1, [["a", "number"]], [["a", "b", []]], "mean"]
    cases = [
        (description | {key: value}, arrays)
        for key in description
        for value in wrong
        if value != description[key] and not (key == "image_shape" and value is None)
        if not (key in ("missing", "left_out") and value in (None, []))
    ]
    for key, array in arrays.items():
        texts, infinite = np.array(["x"] * len(array)), np.full(array.shape, np.inf)
        others = [array[:-1], array[None], texts, None, {}] + ([infinite] if key != "has_indicator" else [])
        cases += [(description, arrays | {key: value}) for value in others]
        cases += [(description, arrays | {"scale": scale}) for scale in (0 * arrays["scale"], -arrays["scale"])]
        cases.append((description, {name: value for name, value in arrays.items() if name != key}))
    for description, arrays in cases:
        with pytest.raises(ValueError, match=r"^the encoding [^\n]*$"):
            from_description(description, arrays)
    assert len(cases) > 60


def test_names_are_sorted_as_a_person_would():
    names = ["class 10", "class 2", "b", "A", "10", "2", "-1", "2.5", 7, True, "ü", "1" * 5000, "x" + "9" * 5000]
    assert sorted(names, key=natural_key)[:9] == ["-1", True, "2", "2.5", 7, "10", "1" * 5000, "A", "b"]
    assert sorted(names, key=natural_key)[9:] == ["class 2", "class 10", "x" + "9" * 5000, "ü"]
    assert sorted([2**53 + 1, 2**53], key=natural_key) == [2**53, 2**53 + 1]
