"""Each finding where it must appear, and where it must not; none where nothing is wrong."""

import json

import numpy as np
import pytest
from scipy import sparse

import handgrad
from handgrad.app.evaluation import evaluate
from handgrad.app.findings import find, of_results
from handgrad.app.findings.alone import cut, judge_features
from handgrad.app.findings.finding import Facts
from handgrad.app.runs import Choice, Run, class_shares, metrics_of
from handgrad.data import Column, Table, load_digits, split_and_scale
from handgrad.models import Model, probabilities

ROWS = 600


def learnable(seed=0, *, rows=ROWS, noise=1.0, num_classes=2):
    """Columns of which several tell something, none everything, and their classes."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(rows, 4))
    Z = X @ generator.normal(size=(4, num_classes)) * 2 + noise * generator.gumbel(size=(rows, num_classes))
    return {f"x{index}": Column("number", X[:, index]) for index in range(4)}, Z.argmax(axis=1).astype(np.int32)


def table_of(columns, labels, **more):
    return Table(columns=columns, labels=labels, class_names=tuple(range(int(labels.max()) + 1)), target="y", **more)


def run_of(table, *, l2=0.01, choice=None, validation=0.0, params=None, tol=1e-5, scale=1.0):
    split = split_and_scale(table, validation=validation)
    if scale is not None:
        parts = {part: getattr(split, part)._replace(X=getattr(split, part).X * np.float32(scale)) for part in PARTS}
        split = split._replace(**parts)
    fitted = handgrad.fit(split.train.X, split.train.labels, l2=l2, num_classes=len(table.class_names), tol=tol)
    params = fitted.params if params is None else params
    shares = class_shares(split.train.labels, None, len(table.class_names))
    return Run(
        command="fit",
        settings={"data": "table", "l2": l2},
        table=table,
        split=split,
        model=Model(params, split.encoding, table.class_names, table.target),
        Y=probabilities(params, split.test.X),
        train_loss=evaluate(probabilities(params, split.train.X), split.train.labels, shares).loss,
        seconds=0.1,
        fitted=fitted,
        choice=choice,
    )


PARTS = ("train", "validation", "test")


def findings_of(run):
    shares = class_shares(run.split.train.labels, run.split.train.weights, len(run.model.class_names))
    evaluation = evaluate(run.Y, run.split.test.labels, shares, run.split.test.weights)
    findings = find(run, evaluation)
    json.dumps(metrics_of(run, evaluation, findings), allow_nan=False)
    for finding in findings:
        assert finding.says.endswith("."), finding
        assert finding.advice.endswith("."), finding
        assert finding.evidence, finding
    return {finding.code: finding for finding in findings}


def test_nothing_is_found_where_nothing_is_wrong():
    assert findings_of(run_of(table_of(*learnable()))) == {}
    assert findings_of(run_of(table_of(*learnable(1, num_classes=5, rows=1500)), l2=1e-3)) == {}


def test_the_digits_have_no_finding_but_that_they_are_told_apart():
    digits = load_digits()
    assert set(findings_of(run_of(digits, l2=1e-4))) <= {"separated-classes"}


# --- The data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["number", "steps", "text"])
def test_a_feature_that_is_the_answer_is_a_leak(kind):
    columns, labels = learnable()
    generator = np.random.default_rng(3)
    columns["paid"] = {
        "number": Column(
            "number", np.where(labels == 1, 5 + generator.normal(size=ROWS) ** 2, 4 - generator.random(ROWS))
        ),
        "steps": Column("number", 2.0 * generator.integers(5, size=ROWS) + labels),
        "text": Column("text", (labels + 2 * generator.integers(3, size=ROWS)).astype(np.int32), tuple("abcdef")),
    }[kind]
    found = findings_of(run_of(table_of(columns, labels)))["leakage"]
    assert set(found.evidence["explained"]) == {"paid"}
    assert "paid" in found.says


def test_a_leak_is_seen_among_many_features_dense_and_sparse():
    generator = np.random.default_rng(4)
    labels = generator.integers(3, size=500).astype(np.int32)
    X = generator.random((500, 400)) * (generator.random((500, 400)) < 0.1)
    X[:, 321] = np.where(labels == 2, 0, labels + 1.0)
    for features in (X, sparse.csr_array(X)):
        found = findings_of(run_of(Table(X=features, labels=labels, class_names=("a", "b", "c"))))
        assert set(found["leakage"].evidence["explained"]) == {"feature 322"}


def test_what_tells_much_and_not_all_is_no_leak():
    columns, labels = learnable()
    generator = np.random.default_rng(3)
    columns["close"] = Column("number", labels + 0.35 * generator.normal(size=ROWS))  # 92 % right alone
    columns["name"] = Column("text", np.arange(ROWS, dtype=np.int32), tuple(map(str, range(ROWS))))  # tells each row
    alone = {each.name: each for each in judge_features(run_of(table_of(columns, labels)))}
    assert 0.3 < alone["close"].explained < 0.95
    assert alone["name"].explained == pytest.approx(0, abs=1e-6)
    assert alone["name"].train_explained < 0.05
    assert "leakage" not in findings_of(run_of(table_of(columns, labels)))


def test_noise_is_left_in_one_piece():
    generator = np.random.default_rng(5)
    for num_classes in (2, 10, 200):
        leaves = [
            cut(
                np.bincount(
                    np.arange(2000) // 8 * num_classes + generator.integers(num_classes, size=2000),
                    minlength=250 * num_classes,
                ),
                num_classes,
            ).max()
            for _ in range(20)
        ]
        assert np.mean(leaves) <= 0.1
    steps = np.bincount(np.arange(2000) // 10 * 40 + np.arange(2000) // 50, minlength=200 * 40)
    assert cut(steps, 40).max() == 39


def test_ids_on_both_sides_of_the_split_are_an_overlap():
    columns, labels = learnable()
    patients = np.array([f"p{index % 150}" for index in range(ROWS)])
    run = run_of(table_of(columns, labels, ids={"patient": patients}))
    found = findings_of(run)["group-overlap"]
    train = set(patients[run.split.rows.train])
    share = np.mean([patient in train for patient in patients[run.split.rows.test]])
    assert found.evidence["shares"]["patient"] == pytest.approx(share)
    assert "--group patient" in found.advice
    groups = np.unique(patients, return_inverse=True)[1].astype(np.int32)
    apart = table_of(columns, labels, ids={"patient": patients}, groups=groups)
    assert "group-overlap" not in findings_of(run_of(apart))
    empty = np.where(np.arange(ROWS) % 2, "", np.array([f"row{index}" for index in range(ROWS)]))
    assert "group-overlap" not in findings_of(run_of(table_of(columns, labels, ids={"cabin": empty})))
    own = np.array([f"row{index}" for index in range(ROWS)])
    assert "group-overlap" not in findings_of(run_of(table_of(columns, labels, ids={"row": own})))


def test_a_test_that_is_not_the_latest_is_said_where_there_are_dates():
    columns, labels = learnable()
    days = np.random.default_rng(6).permutation(ROWS).astype(float)
    dated = columns | {"day": Column("date", days)}
    run = run_of(table_of(dated, labels))
    found = findings_of(run)["time-overlap"]
    latest = days[run.split.rows.train].max()
    assert found.evidence["shares"]["day"] == pytest.approx(np.mean(days[run.split.rows.test] <= latest))
    assert "time-overlap" not in findings_of(run_of(table_of(dated, labels, times=days)))
    assert "time-overlap" not in findings_of(run_of(table_of(columns, labels)))


def test_a_handful_of_test_rows_is_said_to_show_little():
    columns, labels = learnable(rows=60)
    found = findings_of(run_of(table_of(columns, labels)))
    assert found["few-test-rows"].evidence["test_rows"] == 12


def test_rare_classes_are_named_with_their_rows():
    columns, labels = learnable()
    labels = labels.copy()
    labels[:6] = 2
    found = findings_of(run_of(table_of(columns, labels)))["rare-classes"]
    counts = np.bincount(run_of(table_of(columns, labels)).split.train.labels)
    assert found.evidence["rows"] == {"2": counts[2]}
    assert "2 (5)" in found.says or f"2 ({counts[2]})" in found.says


def test_constant_and_duplicated_features_are_named():
    columns, labels = learnable()
    columns["still"] = Column("number", np.full(ROWS, 3.0))
    columns["in inches"] = Column("number", columns["x1"].values / -2.54 + 7)
    columns["word"] = Column("text", (np.arange(ROWS) % 2).astype(np.int32), ("no", "yes"))  # two features, one column
    found = findings_of(run_of(table_of(columns, labels)))
    assert found["constant-features"].evidence == {"features": ["still"], "count": 1}
    assert found["duplicated-features"].evidence == {"pairs": [["x1", "in inches"]], "count": 1}
    digits = load_digits()
    X = np.asarray(digits.X).copy()
    X[:, 20] = X[:, 21]
    assert "duplicated-features" not in findings_of(run_of(digits._replace(X=X), l2=1e-3))
    assert "duplicated-features" in findings_of(run_of(digits._replace(X=X, image_shape=None), l2=1e-3))


def test_entries_of_an_array_that_are_constant_are_counted_but_for_pixels_and_words():
    digits = load_digits()
    X = np.asarray(digits.X).copy()
    X[:, 10] = 7
    found = findings_of(run_of(digits._replace(X=X, image_shape=None), l2=1e-3))["constant-features"]
    assert "feature 11" in found.evidence["features"]
    assert found.evidence["count"] == np.sum(X.min(axis=0) == X.max(axis=0))
    for table in (digits._replace(X=X), digits._replace(X=sparse.csr_array(X.astype(np.float32)), image_shape=None)):
        assert "constant-features" not in findings_of(run_of(table, l2=1e-3))


# --- The model --------------------------------------------------------------------------------------------------------


def test_noise_is_no_better_than_the_majority():
    generator = np.random.default_rng(7)
    columns, _ = learnable()
    labels = (generator.random(ROWS) < 0.1).astype(np.int32)
    found = findings_of(run_of(table_of(columns, labels)))["no-better-than-majority"]
    assert "majority class, '0'" in found.says
    assert found.evidence["right"] <= found.evidence["majority_right"] + 3


def test_a_rare_class_that_is_never_answered_is_no_better_than_the_majority_though_the_loss_is():
    generator = np.random.default_rng(8)
    x = generator.normal(size=3000)
    labels = (generator.random(3000) < 1 / (1 + np.exp(4 - 1.2 * x))).astype(np.int32)
    columns = {"x": Column("number", x), "y": Column("number", generator.normal(size=3000))}
    found = findings_of(run_of(table_of(columns, labels)))["no-better-than-majority"]
    assert found.evidence["loss"] < found.evidence["baseline_loss"]
    assert "--class-weight balanced" in found.advice


def test_one_feature_that_tells_all_there_is_to_tell_is_named():
    generator = np.random.default_rng(9)
    x = generator.normal(size=1500)
    columns = {"x": Column("number", x)} | {
        f"noise{index}": Column("number", generator.normal(size=1500)) for index in range(5)
    }
    labels = (np.abs(x) + 0.1 * generator.normal(size=1500) > 0.7).astype(np.int32)  # on no straight line
    found = findings_of(run_of(table_of(columns, labels)))
    assert found["no-better-than-best-feature"].evidence["feature"] == "x"
    assert "--hidden" in found["no-better-than-best-feature"].advice


def test_a_model_that_is_much_better_is_not_called_no_better_for_want_of_test_rows():
    generator = np.random.default_rng(12)
    labels = (np.arange(60) % 2).astype(np.int32)
    columns = {name: Column("number", labels + 0.9 * generator.normal(size=60)) for name in "abcdef"}
    found = findings_of(run_of(table_of(columns, labels)))
    assert "few-test-rows" in found
    assert "no-better-than-majority" not in found
    assert "no-better-than-best-feature" not in found


def test_a_fit_without_its_certificate_is_said():
    run = run_of(table_of(*learnable()))
    for message, code in (
        ("float32 goes no further: the loss is certified.", "float32-at-its-end"),
        ("max_iterations=3 are used up: the loss is.", "not-converged"),
    ):
        fitted = run.fitted._replace(converged=False, message=message, gap=np.inf)
        assert code in findings_of(run._replace(fitted=fitted))


def test_rows_that_are_all_told_apart_are_separated():
    columns, labels = learnable(noise=0.0)
    found = findings_of(run_of(table_of(columns, labels), l2=1e-5))
    assert found["separated-classes"].evidence["train_rows"] == 480
    assert "separated-classes" not in findings_of(run_of(table_of(columns, labels), l2=1e3))


def test_a_best_penalty_at_the_edge_is_said():
    run = run_of(table_of(*learnable()))
    l2s, scores = np.array([1.0, 0.1, 0.01]), np.array([0.5, 0.4, 0.45])
    for best, code in ((0, "largest"), (1, None), (2, "smallest")):
        found = findings_of(run._replace(choice=Choice(l2s, scores, "log-loss", "5 folds", best)))
        assert ("penalty-at-edge" in found) == (code is not None)
        if code:
            assert code in found["penalty-at-edge"].says


def test_features_of_unequal_size_under_a_penalty_are_said():
    table = table_of(*learnable())
    assert "unscaled-l2" in findings_of(run_of(table, scale=[1, 1, 1000, 1000]))
    assert "unscaled-l2" not in findings_of(run_of(table, scale=[1, 2, 5, 9]))
    assert "unscaled-l2" not in findings_of(run_of(table, scale=1000.0))


def test_rows_learnt_by_heart_are_a_gap():
    generator = np.random.default_rng(10)
    X = generator.normal(size=(400, 300))
    labels = (X[:, 0] + generator.normal(size=400) > 0).astype(np.int32)
    table = Table(X=X, labels=labels, class_names=("a", "b"))
    found = findings_of(run_of(table, l2=1e-4))["train-test-gap"]
    assert found.evidence["train_accuracy"] > found.evidence["test_accuracy"] + 0.05
    assert "train-test-gap" not in findings_of(run_of(table, l2=100.0))


def test_probabilities_that_are_too_sure_or_not_sure_enough_are_miscalibrated():
    table = table_of(*learnable(rows=4000))
    run = run_of(table)
    W, b = (np.asarray(array) for array in run.model.params)
    for factor, word in ((4.0, "surer"), (0.2, "less sure")):
        found = findings_of(run_of(table, params=handgrad.Params(W * factor, b * factor)))
        assert word in found["miscalibrated"].says
    assert "miscalibrated" not in findings_of(run)


def test_calibrated_probabilities_are_hardly_ever_called_miscalibrated():
    run, generator = run_of(table_of(*learnable(rows=2000))), np.random.default_rng(11)
    shares = np.array([0.5, 0.5])
    hits = 0
    for _ in range(200):
        p = generator.beta(0.7, 0.7, size=len(run.Y))
        labels = (generator.random(len(p)) < p).astype(np.int32)
        Y = np.stack([1 - p, p], axis=1)
        drawn = run._replace(Y=Y, split=run.split._replace(test=run.split.test._replace(labels=labels)))
        hits += of_results.miscalibrated(Facts(drawn, evaluate(Y, labels, shares), Y, ())) is not None
    assert hits <= 2
