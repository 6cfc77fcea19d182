"""Twelve real tables, read as they are, against the pipeline that a data scientist would write in scikit-learn."""

import csv

import numpy as np
import pytest

import handgrad
import known_tables
import table_quality
from handgrad.data import read_table, split_and_scale

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")

from sklearn.compose import ColumnTransformer  # noqa: E402
from sklearn.impute import SimpleImputer  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import OneHotEncoder, StandardScaler  # noqa: E402

NEEDED = {  # what one message says of each table that is not fine as it is
    "penguins": ["values are missing: culmen_length_mm (2 of 344, the first in row 4)", "sex (10 of 344"],
    "titanic": [
        "three things to mend.",
        "columns of numbers hold what is none: ticket ('PC 17609' in row 10, 352 of 1,309), boat ('D' in row 9,",
        "values are missing: age (263 of 1,309, the first in row 16), fare (1 of 1,309",
        "texts differ in most rows, as names and ids do: name (1,307 texts in 1,309 rows, such as",
    ],
    "zoo": ["texts differ in most rows, as names and ids do: animal (100 texts in 101 rows, such as 'aardvark'). Pass"],
}


def pipeline(frame, missing):
    """Of numbers the mean or median and standardisation, of texts the most frequent and a column for each."""
    numbers = [name for name in frame if pd.api.types.is_numeric_dtype(frame[name])]
    texts = [name for name in frame if name not in numbers]
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(strategy=missing or "mean"), StandardScaler()), numbers),
            (
                "texts",
                make_pipeline(
                    SimpleImputer(strategy="most_frequent"), OneHotEncoder(sparse_output=False, handle_unknown="ignore")
                ),
                texts,
            ),
        ]
    ), [*numbers, *texts]


def expected(path, table, split, needed):
    """X of the rows to train on and to test on, its columns by name."""
    frame = pd.read_csv(path)[list(table.columns)]
    transform, _ = pipeline(frame, needed.get("missing"))
    train, test = (frame.iloc[rows] for rows in (split.rows.train, split.rows.test))
    X = transform.fit_transform(train)
    names = [name.partition("__")[2] for name in transform.get_feature_names_out()]
    return names, X, transform.transform(test)


def our_names(table, split):
    names = []
    for each in split.encoding.inputs:
        names += [f"{each.name}_{word}" for word in each.words] if each.kind == "text" else [each.name]
    return names


@pytest.mark.parametrize("name", known_tables.NAMES)
def test_a_real_table_is_read_at_once_or_all_that_it_needs_is_said_at_once(tmp_path, name):
    path, target, needed = known_tables.write(name, tmp_path)
    if needed:
        with pytest.raises(ValueError, match=r"--missing|--id") as caught:
            read_table(path, target=target)
        assert "\n" not in str(caught.value)
        assert all(words in str(caught.value) for words in NEEDED[name])
    else:
        assert name not in NEEDED
    table = read_table(path, target=target, **needed)
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    column = [row[header.index(target)].strip() for row in rows]
    assert [str(table.class_names[label]) for label in table.labels] == column
    assert table.num_rows == len(rows)


@pytest.mark.parametrize("name", known_tables.NAMES)
def test_features_of_a_real_table_are_those_of_the_pipeline(tmp_path, name):
    path, target, needed = known_tables.write(name, tmp_path)
    table = read_table(path, target=target, **needed)
    split = split_and_scale(table)
    names, X, X_test = expected(path, table, split, needed)
    ours = our_names(table, split)
    place = [names.index(name) for name in ours]
    np.testing.assert_allclose(split.train.X, X[:, place], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(split.test.X, X_test[:, place], rtol=1e-5, atol=1e-6)
    left_out = [index for index in range(len(names)) if index not in place]
    assert (X[:, left_out] == X[:1, left_out]).all()  # columns that are the same in every row to train on


@pytest.mark.slow
@pytest.mark.parametrize("name", known_tables.NAMES)
def test_a_fit_of_a_real_table_is_as_good_as_the_pipeline(tmp_path, name):
    path, target, needed = known_tables.write(name, tmp_path)
    table = read_table(path, target=target, **needed)
    split = split_and_scale(table)
    _, X, X_test = expected(path, table, split, needed)
    l2 = 1 / len(split.train.labels)
    result = handgrad.fit(split.train.X, split.train.labels, l2=l2, tol=1e-6, num_classes=len(table.class_names))
    Y = np.asarray(handgrad.predict_proba(result.params, split.test.X), np.float64)
    # Of two classes scikit-learn has one column w, and softmax (−w/2, w/2), whose squares are half as large.
    model = LogisticRegression(C=2.0 if Y.shape[1] == 2 else 1.0, tol=1e-8, max_iter=10_000).fit(X, split.train.labels)
    reference = model.predict_proba(X_test)
    labels = split.test.labels
    ours, theirs = (-np.log(each[np.arange(len(labels)), labels]).mean() for each in (Y, reference))
    np.testing.assert_allclose(ours, theirs, rtol=5e-3)
    assert (Y.argmax(axis=1) == reference.argmax(axis=1)).mean() >= 1 - 1 / len(labels)


@pytest.mark.slow
@pytest.mark.parametrize("name", known_tables.NAMES)
def test_by_their_defaults_fit_and_train_are_as_good_as_a_cross_validated_regression(tmp_path, name):
    found = table_quality.measure(name, tmp_path)
    assert found.fit <= found.reference + found.error
    assert found.train <= found.reference + found.error
    assert max(found.fit, found.train) < found.shares
