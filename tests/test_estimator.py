"""The estimator against scikit-learn: its check battery, its answers, its tools."""

import copy
import inspect
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import get_scorer, make_scorer, matthews_corrcoef
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import grids
import handgrad
from handgrad import SoftmaxRegression, scikit

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore::sklearn.exceptions.SkipTestWarning"
)


BATTERY = parametrize_with_checks([SoftmaxRegression()])
# Each has shapes of its own, which nothing else has compiled: half of the battery's time.
COMPILING = {
    "check_class_weight_classifiers",
    "check_classifiers_classes",
    "check_classifiers_one_label_sample_weights",
    "check_classifiers_train",
    "check_dtype_object",
    "check_estimators_dtypes",
    "check_estimators_overwrite_params",
    "check_fit2d_1feature",
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weights_shape",
}


def in_default(_estimator, check):
    function = getattr(check, "func", check)
    return function.__name__ not in COMPILING


@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, marks=() if in_default(estimator, check) else pytest.mark.slow)
        for estimator, check in BATTERY.args[1]
    ],
    ids=BATTERY.kwargs["ids"],
)
def test_passes_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0}])
@pytest.mark.parametrize("C", [0.01, 10.0])
def test_optimum_is_that_of_logistic_regression(num_classes, class_weight, C):
    X, y = load_iris(return_X_y=True)
    keep = (y < num_classes) & (np.arange(150) % 3 > 0)
    weights = np.random.default_rng(0).uniform(0.5, 2, keep.sum())
    ours = SoftmaxRegression(C=C, class_weight=class_weight, tol=1e-10).fit(X[keep], y[keep], weights)
    solver = LogisticRegression(C=C, class_weight=class_weight, solver="newton-cholesky", tol=1e-10)
    theirs = solver.fit(X[keep], y[keep], weights)
    # A gap of 1e-10 of a loss of 0.1 leaves W, where l2 is 1e-3, sqrt(2 gap / l2) = 1.4e-4 from the optimum at most.
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1.4e-4)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-3)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
    np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), atol=1e-3)
    np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=2e-3)
    assert ours.gap_ <= 1e-10


def test_labels_may_be_strings_and_frames_give_feature_names():
    pandas = pytest.importorskip("pandas")
    X, y = load_iris(return_X_y=True)
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    fitted = SoftmaxRegression().fit(frame, np.array(["x", "y", "z"])[y])
    assert list(fitted.classes_) == ["x", "y", "z"]
    assert list(fitted.feature_names_in_) == ["a", "b", "c", "d"]
    assert fitted.score(frame, np.array(["x", "y", "z"])[y]) > 0.95


def test_labels_need_not_be_consecutive():
    X, y = load_iris(return_X_y=True)
    fitted = SoftmaxRegression().fit(X, np.array([10, 50, 20])[y])
    np.testing.assert_array_equal(fitted.classes_, [10, 20, 50])
    assert fitted.score(X, np.array([10, 50, 20])[y]) > 0.95


def test_a_fit_that_does_not_converge_warns_as_scikit_learn_does():
    X, y = load_iris(return_X_y=True)
    with pytest.warns(ConvergenceWarning, match="SoftmaxRegression: max_iterations=2 are used up"):
        SoftmaxRegression(max_iter=2).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="12 of the 12 fits of the sweep have not converged"):
        SoftmaxRegression(Cs=[1.0, 10.0], max_iter=2).fit(X, y)


def test_polars_frames_are_taken():
    polars = pytest.importorskip("polars")
    X, y = load_iris(return_X_y=True)
    fitted = SoftmaxRegression().fit(polars.DataFrame(X, schema=["a", "b", "c", "d"]), y)
    assert list(fitted.feature_names_in_) == ["a", "b", "c", "d"]


def test_works_in_the_tools_of_scikit_learn():
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(StandardScaler(), SoftmaxRegression())
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.9
    search = GridSearchCV(SoftmaxRegression(), {"C": [0.1, 1.0]}, cv=3).fit(X, y)
    restored = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(restored.predict_proba(X), search.predict_proba(X))
    assert clone(restored).get_params() == restored.get_params()


def test_warm_start_goes_on_from_the_last_fit():
    X, y = load_digits(return_X_y=True)
    estimator = SoftmaxRegression(C=0.01, warm_start=True).fit(X, y)
    cold = estimator.n_iter_[0]
    assert estimator.fit(X, y).n_iter_[0] < cold / 4


def test_cs_chooses_what_separate_fits_choose():
    X, y = load_iris(return_X_y=True)
    Cs, folds = [0.01, 1.0, 100.0], StratifiedKFold(3, shuffle=True, random_state=0)
    swept = SoftmaxRegression(Cs=Cs, cv=folds, tol=1e-8).fit(X, y)
    expected = np.zeros(3)
    for train, test in folds.split(X, y):
        for i, C in enumerate(Cs):
            single = SoftmaxRegression(C=C, tol=1e-8).fit(X[train], y[train])
            expected[i] -= single.predict_log_proba(X[test])[np.arange(test.size), y[test]].mean() / 3
    np.testing.assert_allclose(swept.scores_, expected, rtol=1e-4)
    assert Cs[np.argmin(expected)] == swept.C_


def test_folds_are_trained_on_the_rows_that_the_splitter_names():
    """The later rows, which no fold trains on, say the opposite of the earlier ones."""
    X = np.tile([-1.0, 1.0], 12)[:, None]
    y = np.concatenate([np.tile([0, 1], 4), np.tile([1, 0], 8)])
    swept = SoftmaxRegression(Cs=[0.01, 1.0], cv=[(np.arange(4), np.arange(4, 8))], tol=1e-8).fit(X, y)
    np.testing.assert_allclose(swept.scores_, [0.683, 0.302], atol=5e-4)
    assert swept.C_ == 1


CVS = {
    "time": TimeSeriesSplit(3),
    "random": ShuffleSplit(3, test_size=0.3, random_state=0),
    "predefined": PredefinedSplit(np.arange(150) % 3 - (np.arange(150) < 20)),
    "bootstrap": [(np.random.default_rng(i).integers(0, 150, 150), np.arange(i, 150, 5)) for i in range(2)],
}


@pytest.mark.parametrize(
    ("cv", "class_weight"),
    grids.product(
        CVS,
        [None, "balanced"],
        quick=lambda cv, class_weight: cv == "time" or (cv == "bootstrap" and class_weight is None),
    ),
)
def test_scores_are_those_of_grid_search(cv, class_weight):
    cv = CVS[cv]
    X, y = load_iris(return_X_y=True)
    order = np.random.default_rng(0).permutation(150)
    X, y = X[order], y[order]
    Cs = [0.01, 1.0, 30.0]
    swept = SoftmaxRegression(Cs=Cs, cv=cv, class_weight=class_weight, tol=1e-6).fit(X, y)
    single = SoftmaxRegression(class_weight=class_weight, tol=1e-6)
    search = GridSearchCV(single, {"C": Cs}, cv=cv, scoring="neg_log_loss").fit(X, y)
    np.testing.assert_allclose(swept.scores_, -search.cv_results_["mean_test_score"], rtol=1e-3)
    assert search.best_params_["C"] == swept.C_
    np.testing.assert_allclose(swept.predict_proba(X), search.predict_proba(X), atol=2e-3)


def test_the_sweep_is_not_fitted_again(monkeypatch):
    X, y = load_iris(return_X_y=True)
    expected = SoftmaxRegression(C=1.0, tol=1e-9).fit(X, y)
    monkeypatch.setattr(handgrad.estimator, "fit_in_silence", None)
    swept = SoftmaxRegression(Cs=[1.0], tol=1e-9).fit(X, y)
    np.testing.assert_allclose(swept.coef_, expected.coef_, atol=1e-3)
    assert swept.gap_ <= 1e-9


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_rows_of_a_class_that_a_fold_lacks_are_left_out_and_said():
    X = np.arange(13.0)[:, None]
    y = np.array([0, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 1, 2])
    Cs = [0.01, 0.1, 1.0, 10.0, 100.0]
    scores = []
    for tol in (1e-3, 1e-6):
        estimator = SoftmaxRegression(Cs=Cs, cv=3, tol=tol)
        with pytest.warns(RuntimeWarning, match=r"1 rows are left out of the validation loss, being of classes \(2\)"):
            scores.append(estimator.fit(X, y).scores_)
    np.testing.assert_allclose(*scores, rtol=1e-2)
    expected = np.zeros(len(Cs))
    for train, test in StratifiedKFold(3).split(X, y):
        test = test[np.isin(y[test], y[train])]
        for i, C in enumerate(Cs):
            single = SoftmaxRegression(C=C, tol=1e-6).fit(X[train], y[train])
            columns = np.searchsorted(single.classes_, y[test])
            expected[i] -= single.predict_log_proba(X[test])[np.arange(test.size), columns].mean() / 3
    np.testing.assert_allclose(scores[1], expected, rtol=1e-3)


def test_a_fold_without_weight_is_left_out_and_said():
    X, y = load_iris(return_X_y=True)
    fold = np.arange(150) % 3
    weights = np.where(fold == 1, 0.0, 1.0)
    with pytest.warns(RuntimeWarning, match="folds 1 are left out of the validation, where no row has weight"):
        swept = SoftmaxRegression(Cs=[0.1, 1.0], cv=PredefinedSplit(fold), tol=1e-8).fit(X, y, weights)
    kept = [(np.flatnonzero((fold != i) & (fold != 1)), np.flatnonzero(fold == i)) for i in (0, 2)]
    expected = SoftmaxRegression(Cs=[0.1, 1.0], cv=kept, tol=1e-8).fit(X, y)
    np.testing.assert_allclose(swept.scores_, expected.scores_, rtol=1e-4)
    with pytest.raises(ValueError, match="the rows held out for validation must have weight"):
        SoftmaxRegression(Cs=[1.0], cv=[(np.flatnonzero(fold != 1), np.flatnonzero(fold == 1))]).fit(X, y, weights)


def test_groups_reach_the_splitter():
    X, y = load_iris(return_X_y=True)
    groups = np.arange(150) // 5 % 7
    swept = SoftmaxRegression(Cs=[0.1, 1.0], cv=GroupKFold(3)).fit(X, y, groups=groups)
    splits = list(GroupKFold(3).split(X, y, groups))
    np.testing.assert_allclose(swept.scores_, SoftmaxRegression(Cs=[0.1, 1.0], cv=splits).fit(X, y).scores_)
    with pytest.raises(TypeError, match="fit takes X, y and sample_weight, and groups with Cs; got groups"):
        SoftmaxRegression().fit(X, y, groups=groups)
    with pytest.raises(TypeError, match="got colour"):
        SoftmaxRegression(Cs=[1.0]).fit(X, y, colour=groups)


def test_metadata_are_routed_through_pipelines_and_searches():
    X, y = load_iris(return_X_y=True)
    groups, weights = np.arange(150) // 5 % 7, np.arange(150) % 3 + 1.0
    estimator = SoftmaxRegression(Cs=[0.1, 1.0], cv=GroupKFold(3))
    expected = clone(estimator).fit(X, y, weights, groups=groups).scores_
    with sklearn.config_context(enable_metadata_routing=True):
        inner = clone(estimator).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(FunctionTransformer(), inner)
        pipeline.fit(X, y, sample_weight=weights, groups=groups)
        np.testing.assert_allclose(pipeline[-1].scores_, expected)
        np.testing.assert_allclose(clone(inner).fit(X, y, sample_weight=weights, groups=groups).scores_, expected)


def test_float32_data_are_fitted_in_float32():
    X, y = load_iris(return_X_y=True)
    assert SoftmaxRegression().fit(X.astype(np.float32), y).coef_.dtype == np.float32
    assert SoftmaxRegression().fit(X, y).coef_.dtype == np.float64


SCORES = {
    "accuracy": "accuracy",
    "roc_auc_ovr": "roc_auc_ovr",
    "neg_log_loss": "neg_log_loss",
    "scorer": make_scorer(matthews_corrcoef),
}


def test_scoring_chooses_what_grid_search_chooses():
    X, y = load_iris(return_X_y=True)
    y = np.array(["a", "b", "c"])[y]
    settings = {"cv": StratifiedKFold(3, shuffle=True, random_state=0)}
    Cs = [1e-3, 1.0, 30.0]
    search = GridSearchCV(SoftmaxRegression(tol=1e-8), {"C": Cs}, scoring=SCORES, refit=False, **settings).fit(X, y)
    for name, scoring in SCORES.items():
        swept = SoftmaxRegression(Cs=Cs, scoring=scoring, tol=1e-8, **settings).fit(X, y)
        expected = search.cv_results_[f"mean_test_{name}"]
        np.testing.assert_allclose(swept.scores_, expected, rtol=1e-4, err_msg=name)
        assert Cs[np.argmax(expected)] == swept.C_, name
        assert swept.score(X, y) == np.mean(swept.predict(X) == y)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label was found")
def test_a_scorer_gets_the_weights_and_models_of_the_classes_trained_on():
    """The first fold is trained without class 2, the second holds class 0 alone out, the third has rows twice."""
    X, y = load_iris(return_X_y=True)
    weights = np.random.default_rng(0).uniform(0.5, 2, 150)
    rows = np.arange(150)
    cv = [(rows[y < 2], rows[::3]), (rows[20:], rows[:20]), (rows[::2].repeat(2), rows[1::2].repeat(2))]
    Cs, scorer = [1e-3, 1.0], get_scorer("balanced_accuracy")
    expected = np.zeros(2)
    for train, test in cv:
        for i, C in enumerate(Cs):
            single = SoftmaxRegression(C=C, tol=1e-8).fit(X[train], y[train], weights[train])
            expected[i] += scorer(single, X[test], y[test], sample_weight=weights[test]) / 3
    seen = []

    def scoring(model, X, y, sample_weight):
        seen.append((model.C, tuple(model.classes_)))
        return scorer(model, X, y, sample_weight=sample_weight)

    swept = SoftmaxRegression(Cs=Cs, cv=cv, scoring=scoring, tol=1e-8).fit(X, y, weights)
    np.testing.assert_allclose(swept.scores_, expected, rtol=1e-10)
    equal = [SoftmaxRegression(Cs=Cs, cv=cv, scoring="accuracy").fit(X, y, weight).scores_ for weight in (1.0, None)]
    np.testing.assert_allclose(*equal)
    classes = [(0, 1), (0, 1, 2), (0, 1, 2)]
    assert seen == [(C, present) for present in classes for C in Cs]


def test_a_score_that_a_fold_does_not_allow_is_an_error_with_its_fold():
    X, y = load_iris(return_X_y=True)
    rows = np.arange(150)

    def fit(train, scoring):
        # Three folds of two Cs, as above: compiled once.
        SoftmaxRegression(Cs=[1e-3, 1.0], cv=[(train, rows)] * 3, scoring=scoring).fit(X, y)

    with pytest.raises(ValueError, match="classes") as caught:
        fit(rows[y < 2], "roc_auc_ovr")
    assert caught.value.__notes__ == [
        "SoftmaxRegression: this is scoring='roc_auc_ovr' on fold 0, trained on the classes [0, 1], with [0, 1, 2] "
        "held out."
    ]
    with pytest.raises(ValueError, match=r"a score must be a number; got nan for C=0.001 from scoring=<function"):
        fit(rows, lambda *_: np.nan)
    with pytest.raises(ValueError, match=r"a score needs two classes; got .* trained on the classes \[0\], with"):
        fit(rows[y < 1], "accuracy")
    with pytest.raises(ValueError, match="scoring chooses among Cs; got scoring='accuracy' without Cs"):
        SoftmaxRegression(scoring="accuracy").fit(X, y)


def test_a_scorer_gets_the_metadata_that_it_requests():
    X, y = load_iris(return_X_y=True)
    weights = np.where(y == 1, 9.0, 1.0)
    settings = {"Cs": [1e-3, 1.0], "cv": StratifiedKFold(3)}
    weighted = SoftmaxRegression(scoring="accuracy", **settings).fit(X, y, weights).scores_
    with sklearn.config_context(enable_metadata_routing=True):
        scores = []
        for is_wanted in (True, False):
            scorer = get_scorer("accuracy").set_score_request(sample_weight=is_wanted)
            swept = SoftmaxRegression(scoring=scorer, **settings).set_fit_request(sample_weight=True)
            scores.append(swept.fit(X, y, sample_weight=weights).scores_)
        assert SoftmaxRegression(scoring="accuracy", **settings).fit(X, y).scores_[1] > 0.9
    np.testing.assert_array_equal(scores[0], weighted)
    assert scores[0][0] > scores[1][0] + 0.1


def test_without_a_penalty_the_optimum_is_that_of_logistic_regression():
    X, y = load_iris(return_X_y=True)
    X, y = X[y > 0], np.array(["a", "b", "c"])[y[y > 0]]
    fitted = SoftmaxRegression(C=np.inf, tol=1e-9).fit(X, y)
    expected = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(X, y)
    np.testing.assert_allclose(fitted.coef_, expected.coef_, rtol=1e-4)
    np.testing.assert_allclose(fitted.intercept_, expected.intercept_, rtol=1e-4)
    assert fitted.gap_ == np.inf


def test_without_a_penalty_classes_that_can_be_separated_are_said():
    X, y = load_iris(return_X_y=True)
    message = (
        r"classes can be separated, 0 from the others.* \(C=inf is l2=0, and classes are numbered as in classes_.\)"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        SoftmaxRegression(C=np.inf).fit(X, np.array(["a", "b", "c"])[y])
    with pytest.raises(ValueError, match=r"Cs must be .*, finite; got \[1.0, inf\]. For no penalty fit C=numpy.inf"):
        SoftmaxRegression(Cs=[1.0, np.inf]).fit(X, y)


def test_random_state_shuffles_a_number_of_folds():
    X, y = load_iris(return_X_y=True)
    Cs = [1e-3, 1.0, 30.0]

    def scores(**settings):
        return SoftmaxRegression(Cs=Cs, **settings).fit(X, y).scores_

    shuffled = scores(cv=3, random_state=7)
    np.testing.assert_array_equal(shuffled, scores(cv=StratifiedKFold(3, shuffle=True, random_state=7)))
    np.testing.assert_array_equal(scores(cv=3), scores(cv=StratifiedKFold(3)))
    assert not np.array_equal(shuffled, scores(cv=3))
    with pytest.raises(ValueError, match=r"random_state shuffles the folds .* got random_state=7 and cv=GroupKFold"):
        scores(cv=GroupKFold(3), random_state=7)
    np.testing.assert_array_equal(
        SoftmaxRegression(random_state=7).fit(X, y).coef_, SoftmaxRegression().fit(X, y).coef_
    )


@pytest.mark.parametrize(
    ("parameter", "value", "advice"),
    [
        ("penalty", "l1", "The penalty is"),
        ("penalty", None, "C=numpy.inf is none"),
        ("solver", "saga", "There is one solver"),
        ("multi_class", "ovr", "sklearn.multiclass.OneVsRestClassifier"),
        ("l1_ratio", 0.5, "The penalty is"),
        ("dual", True, "leave it out"),
        ("n_jobs", -1, "on the cores"),
        ("intercept_scaling", 2.0, "not penalised"),
        ("verbose", 1, "n_iter_ and gap_"),
        ("refit", False, "comes with the sweep"),
    ],
)
def test_a_parameter_of_logistic_regression_that_is_not_here_is_explained(parameter, value, advice):
    got = (
        f"SoftmaxRegression: {parameter} is a parameter of LogisticRegression, .* got {parameter}={value!r}. .*{advice}"
    )
    with pytest.raises(TypeError, match=got):
        SoftmaxRegression(**{parameter: value})


def test_every_parameter_of_logistic_regression_is_here_or_explained():
    theirs = {*LogisticRegression().get_params(), *LogisticRegressionCV().get_params()}
    ours = SoftmaxRegression().get_params().keys()
    assert theirs - ours <= scikit.NOT_HERE.keys()
    assert not ours & scikit.NOT_HERE.keys()


def test_parameters_stay_visible_and_copies_work():
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        SoftmaxRegression(colour=1)
    assert list(inspect.signature(SoftmaxRegression).parameters)[:2] == ["C", "Cs"]
    assert inspect.signature(SoftmaxRegression).parameters.keys() == SoftmaxRegression().get_params().keys()
    estimator = SoftmaxRegression(2.0, scoring="accuracy", random_state=3)
    for again in (pickle.loads(pickle.dumps(estimator)), clone(estimator), copy.deepcopy(estimator)):
        assert again.get_params() == estimator.get_params()


def test_a_subclass_may_have_a_parameter_that_is_not_here():
    class Named(SoftmaxRegression):
        def __init__(self, C=1.0, *, verbose=0):
            super().__init__(C)
            self.verbose = verbose

    assert Named(verbose=2).verbose == 2


@pytest.mark.parametrize("Cs", [[], [0.0], [-1.0, 1.0]])
def test_bad_cs_are_refused(Cs):
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="Cs must be one or more positive numbers"):
        SoftmaxRegression(Cs=Cs).fit(X, y)


def test_handgrad_itself_does_not_import_scikit_learn():
    import subprocess
    import sys

    code = "import sys, handgrad; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = handgrad.nothing
