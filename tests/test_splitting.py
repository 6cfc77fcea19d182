"""Splits: the same rows whatever their order, each class in each part, rows that belong together on one side."""

import collections
import itertools

import numpy as np
import pytest
import scipy.sparse

from handgrad.data import (
    Parts,
    Table,
    describe_gaps,
    hash_rows,
    load_digits,
    read_table,
    split_and_scale,
    split_rows,
    table_keys,
)

RNG = np.random.default_rng(0)  # of what is drawn once, in this order


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rows_of(part, *columns):
    """The rows of a part, as a multiset."""
    return collections.Counter(zip(*(column[part].tolist() for column in columns), strict=True))


def few_values(count):
    return RNG.integers(0, 4, count), RNG.integers(0, 3, count)


def copies(count):
    x = RNG.normal(size=count)
    x[: count // 3] = x[count // 3 : 2 * (count // 3)]
    return x, np.where(np.arange(count) % (count // 3) < 40, 0, 1)


TABLES = {
    "different rows": (RNG.normal(size=500), RNG.integers(0, 3, 500)),
    "copies": copies(300),
    "few values": few_values(400),
    "rare classes": (RNG.normal(size=60), np.repeat(np.arange(12), [20, 10, 8, 6, 5, 4, 2, 1, 1, 1, 1, 1])),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("seed", [0, 7])
def test_the_parts_have_the_same_rows_whatever_their_order(rng, name, seed):
    x, labels = TABLES[name]
    parts = split_rows(labels, hash_rows({"x": x}), seed=seed)
    for _ in range(5):
        order = rng.permutation(len(x))
        others = split_rows(labels[order], hash_rows({"x": x[order]}), seed=seed)
        for part, other in zip(parts, others, strict=True):
            assert rows_of(part, x, labels) == rows_of(other, x[order], labels[order])


@pytest.mark.parametrize("name", TABLES)
def test_the_parts_share_no_row_and_have_all(name):
    x, labels = TABLES[name]
    parts = split_rows(labels, hash_rows({"x": x}))
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(x)))
    assert all((np.diff(part) > 0).all() for part in parts)


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.2), (0.0, 0.2), (0.25, 0.0), (0.1, 0.6)])
def test_each_class_is_split_in_the_same_fractions(rng, validation, test):
    labels = rng.permutation(np.repeat([0, 1, 2, 3], [1003, 507, 78, 21]))
    parts = split_rows(labels, hash_rows({"x": np.arange(len(labels))}), validation=validation, test=test)
    for part, fraction in zip(parts, (1 - validation - test, validation, test), strict=True):
        counts = np.bincount(labels[part], minlength=4)
        assert (np.abs(counts - fraction * np.bincount(labels)) < 1).all()
        assert abs(len(part) - fraction * len(labels)) <= 2


def test_a_class_is_trained_on_then_tested_then_validated():
    for count, sizes in ((1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (4, (2, 1, 1)), (5, (3, 1, 1))):
        labels = np.repeat([0, 1], [100, count])
        parts = split_rows(labels, hash_rows({"x": np.arange(100 + count)}))
        assert tuple(np.bincount(labels[part], minlength=2)[1] for part in parts) == sizes


def test_copies_of_a_row_are_in_one_part():
    x, labels = copies(300)
    parts = split_rows(labels, hash_rows({"x": x}))
    for part in parts:
        assert not set(x[part]) & {value for other in parts if other is not part for value in x[other]}
    assert abs(len(parts.test) - 60) <= 2


def test_draws_of_few_values_are_in_every_part():
    x, labels = TABLES["few values"]
    for part in split_rows(labels, hash_rows({"x": x}), validation=0.2):
        assert set(zip(x[part].tolist(), labels[part].tolist(), strict=True)) == set(
            zip(x.tolist(), labels.tolist(), strict=True)
        )


def test_another_seed_is_another_split_of_the_same_sizes():
    digits = load_digits()
    keys = hash_rows({"X": digits.X})
    splits = [split_rows(digits.labels, keys, seed=seed) for seed in range(3)]
    assert len({len(split.test) for split in splits}) == 1
    overlap = len(np.intersect1d(splits[0].test, splits[1].test)) / len(splits[0].test)
    assert 0.1 < overlap < 0.3


def test_the_test_has_the_same_rows_however_many_validate(rng):
    labels, keys = rng.integers(0, 3, 1000), hash_rows({"x": np.arange(1000)})
    tests = [split_rows(labels, keys, validation=validation).test for validation in (0.0, 0.1, 0.3)]
    assert all(len(np.setxor1d(tests[0], other)) <= 6 for other in tests[1:])


def test_rows_that_are_added_leave_most_of_the_others_where_they_were(rng):
    labels, keys = rng.integers(0, 3, 2000), hash_rows({"x": np.arange(2000)})
    before = split_rows(labels[:1990], keys[:1990]).test
    after = split_rows(labels, keys).test
    assert len(np.setdiff1d(before, after)) <= 10


# --- Groups and times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "numbers"])
@pytest.mark.parametrize("num_groups", [12, 60, 500])
def test_a_group_is_in_one_part_and_the_classes_nearly_in_their_fractions(rng, kind, num_groups):
    groups = rng.integers(0, num_groups, 3000)
    rate = rng.uniform(0.05, 0.5, num_groups)
    labels = (rng.uniform(size=3000) < rate[groups]).astype(int)
    names = groups.astype(str) if kind == "text" else groups
    parts = split_rows(labels, hash_rows({"x": np.arange(3000)}), groups=names)
    for part, other in ((0, 1), (0, 2), (1, 2)):
        assert not set(groups[parts[part]]) & set(groups[parts[other]])
    for part, fraction in zip(parts, (0.7, 0.1, 0.2), strict=True):
        share = np.bincount(labels[part]) / np.bincount(labels)
        np.testing.assert_allclose(share, fraction, atol=0.05 if num_groups > 12 else 0.1)
    order = rng.permutation(3000)
    others = split_rows(labels[order], hash_rows({"x": order}), groups=names[order])
    for part, other in zip(parts, others, strict=True):
        assert set(part) == set(order[other])


def test_a_class_of_one_group_is_trained_on():
    groups = np.repeat(np.arange(20), 10)
    labels = np.where(groups == 7, 2, groups % 2)
    parts = split_rows(labels, hash_rows({"x": np.arange(200)}), groups=groups)
    assert set(labels[parts.train]) == {0, 1, 2}
    assert describe_gaps(labels, parts, ("a", "b", "c")) == [
        "not validated, for want of rows: the classes 'c' (10)",
        "not tested, for want of rows: the classes 'c' (10)",
    ]


@pytest.mark.parametrize(
    "times",
    [
        RNG.permutation(1000),
        RNG.integers(0, 40, 1000),
        np.datetime64("2020-01-01") + RNG.permutation(1000),
        np.repeat([3, 1, 2], [700, 200, 100]),
    ],
)
@pytest.mark.parametrize("validation", [0.1, 0.0])
def test_later_rows_are_tested_on_earlier_ones(rng, times, validation):
    labels = rng.integers(0, 2, 1000)
    keys = hash_rows({"x": np.arange(1000)})
    parts = split_rows(labels, keys, times=times, validation=validation)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
    in_order = [times[part] for part in parts if part.size]
    assert len(in_order) == 2 + (validation > 0)
    assert all(before.max() < after.min() for before, after in itertools.pairwise(in_order))
    if len(np.unique(times)) > 3:
        assert abs(len(parts.test) - 200) <= 25
        assert abs(len(parts.validation) - 1000 * validation) <= 30


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test": 1.0}, "fractions of the rows, 0 or more and less than 1 together; got 0.1 and 1.0"),
        ({"validation": float("nan")}, "got nan and 0.2"),
        ({"test": 0.95}, "got 0.1 and 0.95"),
        ({"groups": np.array([1, 1, 2, 2])}, "need as many groups; got 2 different ones"),
        ({"times": np.array([1, 1, 1, 1])}, "need as many times; got 1 different one. Take another column"),
        ({"validation": 0.0, "labels": np.arange(4)}, "no row is left to test, for each class has but one, or"),
        ({"times": np.arange(4), "groups": np.arange(4)}, "by groups or by times, not by both"),
    ],
)
def test_splits_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        split_rows(
            **({"labels": np.array([0, 1, 0, 1]), "keys": hash_rows({"x": np.minimum(np.arange(4), 2)})} | settings)
        )


# --- Keys -------------------------------------------------------------------------------------------------------------


def test_equal_rows_have_equal_keys_whatever_holds_them():
    whole = np.array([[0, 1], [2, 250], [0, 1]])
    keys = hash_rows({"X": whole})
    assert keys[0] == keys[2] != keys[1]
    for dtype in (np.uint8, np.int32, np.float32, np.float64, np.uint64):
        np.testing.assert_array_equal(hash_rows({"X": whole.astype(dtype)}), keys)
    a, b = np.array(["x", "é", "x"]), np.array([-0.0, np.nan, 0.0])
    keys = hash_rows({"a": a, "b": b})
    assert keys[0] == keys[2]
    np.testing.assert_array_equal(hash_rows({"b": -b, "a": a.astype(object)}), keys)


def test_different_rows_have_different_keys():
    def count(columns):
        return len(np.unique(hash_rows(columns)))

    assert count({"x": np.arange(10**5)}) == 10**5
    assert count({"x": np.arange(2**60, 2**60 + 1000)}) == 1000
    assert count({"x": np.array(["1", "1.0", " 1", ""])}) == 4
    a, b = np.array([1, 2, 3, 3]), np.array([2, 1, 3, 4])
    assert count({"a": a, "b": b}) == 4
    assert count({"X": np.stack([a, b], axis=1)}) == 4
    assert (hash_rows({"a": a}) != hash_rows({"b": a})).all()
    with pytest.raises(ValueError, match="there must be a column"):
        hash_rows({})


def test_many_classes_without_rows_are_cut_short():
    parts = Parts(np.array([0]), np.array([], int), np.arange(1, 15))
    not_trained, not_tested = describe_gaps(np.arange(15), parts, ("\x1b[31m", *range(1, 15)))
    assert not_trained.startswith("not trained on, for want of rows: the classes 1 (1), 2 (1)")
    assert not_trained.endswith("10 (1) and 4 more")
    assert not_tested == "not tested, for want of rows: the classes '\\x1b[31m' (1)"


# --- From files -------------------------------------------------------------------------------------------------------


def write_visits(path, order):
    """Visits of patients, in some order of rows: an id, when it was, numbers with holes, a text, two classes."""
    draw = np.random.default_rng(5)
    patient, when, size = draw.integers(0, 30, 200), draw.permutation(200), draw.normal(size=200).round(3)
    town, kind = draw.choice(["Bonn", "Ulm"], 200), np.where(draw.uniform(size=200) < 0.3, "ill", "well")
    with open(path, "w") as file:
        file.write("visit,patient,day,size,town,kind\n")
        for row in order:
            number = "" if row % 17 == 0 else size[row]
            day = np.datetime64("2024-01-01") + when[row]
            file.write(f"v{row},p{patient[row]},{day},{number},{town[row]},{kind[row]}\n")
    return path


def visits_of(path, **columns):
    table = read_table(path, target="kind", missing="mean", ids=["visit"], **columns)
    split = split_and_scale(table, validation=0.1)
    names = [table.ids["visit"][rows].tolist() for rows in split.rows]
    return split, names


@pytest.mark.parametrize("columns", [{}, {"group": "patient"}, {"time": "day"}])
def test_a_file_in_another_order_is_split_and_encoded_alike(tmp_path, columns):
    split, names = visits_of(write_visits(tmp_path / "a.csv", range(200)), **columns)
    other, other_names = visits_of(
        write_visits(tmp_path / "b.csv", np.random.default_rng(1).permutation(200)), **columns
    )
    assert [sorted(part) for part in names] == [sorted(part) for part in other_names]
    assert split.encoding.feature_names == other.encoding.feature_names
    np.testing.assert_allclose(split.encoding.scale, other.encoding.scale, rtol=1e-12)
    for part, own, others in zip(names, split[2:5], other_names, strict=False):
        assert len(own.labels) == len(part) == len(others)


def test_patients_are_on_one_side_and_later_days_are_tested_on_earlier_ones(tmp_path):
    path = write_visits(tmp_path / "visits.csv", range(200))
    table = read_table(path, target="kind", missing="mean", drop=["visit"])
    patients, days = (table.columns[name] for name in ("patient", "day"))
    split, names = visits_of(path, group="patient")
    sides = [{patients.words[patients.values[int(name[1:])]] for name in part} for part in names]
    assert sum(map(len, sides)) == len(set().union(*sides)) == 30
    assert split.encoding.feature_names[0] == "day"
    split, names = visits_of(path, time="day")
    train, validation, test = (days.values[[int(name[1:]) for name in part]] for part in names)
    assert train.max() < validation.min() <= validation.max() < test.min()
    assert "day" not in split.encoding.feature_names


def test_rows_are_known_by_their_ids_where_these_differ(tmp_path):
    table = read_table(write_visits(tmp_path / "visits.csv", range(200)), target="kind", missing="mean", ids=["visit"])
    changed = table._replace(columns={"size": table.columns["size"]})
    np.testing.assert_array_equal(table_keys(table), table_keys(changed))
    same = table._replace(ids={"visit": np.full(200, "v")})
    assert len(np.unique(table_keys(same))) > 190
    assert (table_keys(same) != table_keys(table)).all()


def test_dense_and_sparse_rows_have_the_same_keys(rng):
    X = rng.normal(size=(50, 6)) * (rng.uniform(size=(50, 6)) < 0.3)
    dense, sparse = Table(X), Table(scipy.sparse.csr_array(X))
    np.testing.assert_array_equal(table_keys(dense), table_keys(sparse))


@pytest.mark.parametrize(("weighed", "what"), [(slice(16, 20), "train on"), (slice(12), "test"), (slice(14), "test")])
def test_a_part_whose_rows_all_weigh_nothing_is_refused(weighed, what):
    weights = np.zeros(20)
    weights[weighed] = 2.0
    table = read_table(
        {"x": range(20), "y": ["u", "v"] * 10, "t": range(20), "w": weights}, target="y", weight="w", time="t"
    )
    with pytest.raises(ValueError, match=f"the {20 - 4 if what != 'test' else 4} rows to {what} all weigh 0"):
        split_and_scale(table)
