"""scikit-learn's callbacks on the estimator, and the estimator where scikit-learn has none yet."""

import importlib.util
import pickle
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from handgrad import SoftmaxRegression, estimator, scikit

X, y = load_iris(return_X_y=True)
needs_callbacks = pytest.mark.skipif(
    importlib.util.find_spec("sklearn.callback") is None, reason="this scikit-learn has no callbacks, which 1.9 brought"
)


class Recorder:
    """Takes down what it is told, and ends a fit after so many tasks."""

    def __init__(self, last=None):
        self.last, self.log, self.fitted, self.metadata = last, [], [], []

    def setup(self, estimator, context):
        self.log.append("setup")

    def teardown(self, estimator, context):
        self.log.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X, y):
        assert X.shape[0] == len(y) == 150
        self.log.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, fitted_estimator, metadata):
        self.log.append(("end", context.task_name, context.task_id))
        self.metadata.append(metadata)
        if fitted_estimator is not None:
            self.fitted.append(fitted_estimator.predict_proba(X))
        return context.task_id == self.last

    def ended(self, name):
        return sum(entry[:2] == ("end", name) for entry in self.log)


@needs_callbacks
def test_callbacks_are_told_of_every_iteration_and_get_the_fitted_estimator():
    recorder = Recorder()
    model = SoftmaxRegression().set_callbacks(recorder).fit(X, y, sample_weight=np.ones(150))
    plain = SoftmaxRegression().fit(X, y)
    np.testing.assert_array_equal(model.coef_, plain.coef_)
    assert recorder.log[0] == "setup"
    assert recorder.log[1:4] == [("begin", "fit", 0), ("begin", "iteration", 0), ("end", "iteration", 0)]
    assert recorder.log[-2:] == [("end", "fit", 0), "teardown"]
    assert recorder.ended("iteration") == model.n_iter_[0] + 1  # the last, empty one was begun in vain
    np.testing.assert_array_equal(recorder.fitted, [plain.predict_proba(X)])
    assert recorder.metadata[0]["sample_weight"].shape == (150,)
    again = pickle.loads(pickle.dumps(clone(plain).fit(X, y)))
    np.testing.assert_array_equal(again.coef_, plain.coef_)


@needs_callbacks
def test_a_callback_may_end_a_fit():
    with pytest.warns(ConvergenceWarning, match="was ended before its time"):
        model = SoftmaxRegression().set_callbacks(Recorder(last=1)).fit(X, y)
    assert model.n_iter_ == 2


@needs_callbacks
def test_of_several_penalties_every_fit_is_a_task():
    recorder = Recorder()
    model = SoftmaxRegression(Cs=[0.1, 1.0], cv=3).set_callbacks(recorder).fit(X, y)
    assert 1 < recorder.ended("candidate") <= (1 + 3) * 2 + 1
    np.testing.assert_array_equal(recorder.fitted, [model.predict_proba(X)])


@needs_callbacks
def test_a_fit_that_fails_leaves_no_callback_behind():
    recorder = Recorder()
    model = SoftmaxRegression(C=-1).set_callbacks(recorder)
    with pytest.raises(ValueError, match="'C' parameter"):
        model.fit(X, y)
    model.set_params(C=1.0).fit(X, y)
    assert recorder.log.count("setup") == recorder.log.count("teardown") == 1


@needs_callbacks
def test_the_bars_of_a_search_go_down_to_the_estimator(capsys):
    from sklearn.callback import ProgressBar

    pipeline = make_pipeline(StandardScaler(), SoftmaxRegression())
    search = GridSearchCV(pipeline, {"softmaxregression__C": [0.1, 1.0]}, cv=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    output = capsys.readouterr().out
    assert output.count("SoftmaxRegression - fit") >= 5
    assert output.count("100%") >= 5


@needs_callbacks
def test_a_scoring_monitor_scores_the_fit():
    from sklearn.callback import ScoringMonitor

    monitor = ScoringMonitor(scoring="neg_log_loss")
    model = SoftmaxRegression().set_callbacks(monitor).fit(X, y)
    (row,) = monitor.get_logs().data
    loss = -np.log(model.predict_proba(X)[np.arange(150), y]).mean()
    assert row["neg_log_loss"] == pytest.approx(-loss)


def load_again(module, name):
    """A second copy of a module, made as the modules are now."""
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    copy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def test_before_scikit_learn_1_9_the_estimator_is_the_same_without_callbacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    monkeypatch.setitem(sys.modules, "handgrad.scikit", load_again(scikit, "older_scikit"))
    older = load_again(estimator, "older_estimator").SoftmaxRegression
    assert not hasattr(older, "set_callbacks")
    np.testing.assert_array_equal(older().fit(X, y).coef_, SoftmaxRegression().fit(X, y).coef_)
    assert older(Cs=[0.1, 1.0]).fit(X, y).C_ == 1.0
