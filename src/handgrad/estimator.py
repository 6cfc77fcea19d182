"""Softmax regression with scikit-learn's interface, fitted by `handgrad.fit`."""

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import jax
import numpy as np
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring, get_scorer_names
from sklearn.utils import Tags
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import softmax
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from handgrad.formulas import Params
from handgrad.frames import check_integers
from handgrad.rows import blocks_of_source, is_source, open_source
from handgrad.scikit import (
    CallbackSupportMixin,
    Tasks,
    check_no_mask,
    choose_splitter,
    explains_what_is_not_here,
    penalties,
    scorer_means,
    split,
    weighted,
    with_callbacks,
)
from handgrad.settings import show
from handgrad.solvers.data import numbers, prepare
from handgrad.solvers.driver import begin_at
from handgrad.solvers.fit import as_result, fit_in_silence
from handgrad.solvers.folds import make_folds
from handgrad.solvers.held_out import mean_scores, prepare_scores
from handgrad.solvers.path import solve_folds
from handgrad.solvers.results import FitResult


class SoftmaxRegression(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression, to a certified optimum.

    The optimum is that of scikit-learn's LogisticRegression: the mean cross-entropy + ‖W‖²/(2·C·Σ weights), the
    intercept not penalised. Two classes are the exception in form only: LogisticRegression gives them one coefficient
    vector, the difference of two, and penalises that; so does this estimator.

    Args:
      C: inverse of the penalty's strength; l2 = 1/(C·Σ weights). numpy.inf is no penalty; the fit then warns where the
        classes can be separated, so that no optimum exists.
      Cs: None, or the values of C, finite, to choose from by cross-validation; all folds and all values are then one
        program, and the model is the one that it has fitted to all rows at the C that is chosen.
      cv: for Cs, what scikit-learn takes: a number of folds, a splitter, or pairs of training and test rows.
      scoring: for Cs, by what C is chosen: the least mean cross-entropy, weighted, if None; or the largest mean of a
        score of scikit-learn, by its name or as a scorer, which is given the sample weights as LogisticRegressionCV
        gives them: all that there are, or with metadata routing those that it requests.
      fit_intercept: whether there is an intercept; without one the features are not centred either.
      class_weight: None, "balanced", or a dictionary from class to weight.
      tol: relative gap at which a fit is done, see `handgrad.fit`.
      max_iter: iterations at most.
      warm_start: whether a fit starts where the last one ended.
      random_state: for Cs, a seed by which a number of folds is shuffled; if None they are taken in the rows' order. A
        splitter has its own, so that none is allowed with it. There is no chance in anything else.

    Attributes:
      classes_: the labels (n,).
      coef_, intercept_: (n, P) and (n,); (1, P) and (1,) for two classes.
      n_iter_: iterations, (1,).
      gap_: a bound on the loss's distance from its minimum, relative to the loss; infinite without a penalty.
      C_, scores_: with Cs, the chosen C and the mean cross-entropy of each on the rows held out, the mean over folds. A
        row of a class that its fold is not trained on is left out, with a warning, as is a fold without weight. With
        scoring the mean of that score over the folds, of models whose classes_ are those that the fold is trained on;
        `score` is the accuracy all the same.
      n_features_in_, feature_names_in_: as in scikit-learn.

    From scikit-learn 1.9 on `set_callbacks` takes its callbacks, such as `sklearn.callback.ProgressBar`: each
    iteration, or with Cs each fit of a fold, is a task, after which a callback that answers True ends all. They get the
    fitted estimator at the end.

    Example:
      >>> from sklearn.datasets import load_iris
      >>> X, y = load_iris(return_X_y=True)
      >>> SoftmaxRegression(C=1.0).fit(X, y).score(X, y) > 0.97
      True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [Interval(Real, 0, None, closed="right")],
        "Cs": ["array-like", None],
        "cv": ["cv_object"],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
    }

    @explains_what_is_not_here
    def __init__(
        self,
        C: float = 1.0,
        *,
        Cs: Any = None,
        cv: Any = 5,
        scoring: Any = None,
        fit_intercept: bool = True,
        class_weight: Any = None,
        tol: float = 1e-5,
        max_iter: int = 2000,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.cv = cv
        self.scoring = scoring
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.random_state = random_state

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None, **params: Any) -> "SoftmaxRegression":
        """Fit the model to data X (N, P) and labels y (N,), with sample weights (N,).

        X may be a source, as for `handgrad.fit`, with y None where labels come with the blocks, as numbers. With Cs,
        further arguments are the splitter's: `groups`, or what its metadata routing, and the scorer's, asks for.
        """
        self._validate_params()
        if self.scoring is not None and self.Cs is None:
            raise ValueError(
                f"SoftmaxRegression: scoring chooses among Cs; got scoring={show(self.scoring)} without Cs. "
                "Give Cs, or score the fit with sklearn.model_selection.cross_val_score."
            )
        X, y, sample_weight, like = self._opened(X, y, sample_weight)
        check_classification_targets(y)
        weights = _check_sample_weight(sample_weight, like, dtype=np.float64, ensure_non_negative=True)
        classes, labels = np.unique(y, return_inverse=True)
        if classes.size < 2:
            raise ValueError(f"SoftmaxRegression: y must have two classes or more; got one class, {classes[0]!r}.")
        start = self._start(X.shape[1], classes)
        self.classes_ = classes
        for_splitter, for_scorer = self._routed(None if sample_weight is None else weights, params)
        # Float64 data are fitted in float64 whatever JAX's default is, as scikit-learn does.
        with jax.enable_x64(X.dtype == np.float64):
            if self.Cs is not None:
                folds = split(choose_splitter(self.cv, y, self.random_state), like, y, for_splitter)
                tasks = Tasks(self, "candidate", (1 + len(folds)) * np.size(self.Cs), X, y, sample_weight)
                result = self._choose(X, labels, weights, folds, start, for_scorer, tasks)
            else:
                tasks = Tasks(self, "iteration", self.max_iter, X, y, sample_weight)
                weights = weighted(self.class_weight, classes, weights, labels)
                result = fit_in_silence(
                    X,
                    labels,
                    l2=float(penalties(self.C, weights.sum(), classes.size)),
                    weights=weights,
                    params=start,
                    num_classes=classes.size,
                    tol=self.tol,
                    max_iterations=self.max_iter,
                    fit_intercept=self.fit_intercept,
                    callback=lambda iteration, *_: tasks.tell(iteration),
                )
            W, b = (np.asarray(array) for array in result.params)
        if not result.converged:
            names = " (C=inf is l2=0, and classes are numbered as in classes_.)" if result.l2 == 0 else ""
            warnings.warn(f"SoftmaxRegression: {result.message}{names}", ConvergenceWarning, stacklevel=2)
        self._set_coefficients(W, b)
        self.n_iter_ = np.array([result.iterations], dtype=np.int32)
        self.gap_ = result.gap / result.loss if result.loss > 0 else result.gap
        tasks.end()
        return self

    def _opened(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any, Any]:
        """X, labels and weights, checked, and X, or for a source an array of its shape that takes no memory."""
        if not is_source(X):
            check_no_mask(X=X, y=y, sample_weight=sample_weight)
            given = X
            X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
            check_integers("SoftmaxRegression", "X", given, X)
            return X, y, sample_weight, X
        if self.scoring is not None:
            got = f"{show(self.scoring)} and a {type(X).__name__}. Leave it out: log-loss then chooses."
            raise ValueError(f"SoftmaxRegression: scoring needs all rows at once; got {got}")
        X, y, sample_weight = open_source("SoftmaxRegression", X, y, sample_weight)
        like = np.broadcast_to(np.zeros((), np.float64 if X.dtype == np.float64 else np.float32), X.shape)
        _, y = validate_data(self, like, y, ensure_all_finite=False)
        return X, y, sample_weight, like

    def _set_coefficients(self, W: np.ndarray, b: np.ndarray) -> None:
        coef, intercept = W.T, b[0]
        if self.classes_.size == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = coef, intercept

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def get_metadata_routing(self) -> MetadataRouter:
        """Who takes which metadata: this estimator sample weights, its splitter and scorer what they ask for."""
        to_splitter = MethodMapping().add(caller="fit", callee="split")
        router = MetadataRouter(owner=self).add_self_request(self).add(splitter=self.cv, method_mapping=to_splitter)
        if self.scoring is not None:
            to_scorer = MethodMapping().add(caller="fit", callee="score")
            router.add(scorer=check_scoring(self, self.scoring), method_mapping=to_scorer)
        return router

    def _routed(self, sample_weight: Any, params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the splitter and the scorer are given besides X and y."""
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        if sklearn.get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", **params, **weights)
            return routed.splitter.split, {} if self.scoring is None else routed.scorer.score
        if unknown := params.keys() - {"groups"} or (params.keys() if self.Cs is None else ()):
            raise TypeError(
                f"SoftmaxRegression: fit takes X, y and sample_weight, and groups with Cs; got {', '.join(unknown)}. "
                "Other arguments of a splitter need sklearn.set_config(enable_metadata_routing=True)."
            )
        return params, weights

    def _start(self, num_features: int, classes: np.ndarray) -> Params | None:
        """The parameters of the last fit, where they are wanted and fit."""
        if not (self.warm_start and hasattr(self, "coef_") and np.array_equal(self.classes_, classes)):
            return None
        if self.coef_.shape[1] != num_features:
            return None
        W, b = self.coef_.T, self.intercept_[None]
        if classes.size == 2:
            W = np.concatenate([-W / 2, W / 2], axis=1)
            b = np.concatenate([np.minimum(-b, 0), np.minimum(b, 0)], axis=1)  # of a class without weight −inf
        return Params(W=W, b=b)

    def _choose(
        self,
        X: np.ndarray,
        labels: np.ndarray,
        weights: np.ndarray,
        folds: list[Any],
        start: Params | None,
        for_scorer: dict[str, Any],
        tasks: Tasks,
    ) -> FitResult:
        """C_ and scores_, and the fit of all rows at C_: every fold and every C side by side."""
        Cs = numbers(self.Cs)
        if Cs.ndim != 1 or Cs.size == 0 or not np.all((Cs > 0) & np.isfinite(Cs)):
            inf = " For no penalty fit C=numpy.inf on its own." if np.isposinf(Cs).any() else ""
            raise ValueError(
                f"SoftmaxRegression: Cs must be one or more positive numbers, finite; got {self.Cs!r}.{inf}"
            )
        everything = np.arange(labels.size)
        # How often each fold has each row: a bootstrap's training rows may be there twice.
        trained, held_out = (
            np.stack([np.bincount(rows, minlength=labels.size) for rows in part], axis=1)
            for part in ([everything, *(train for train, _ in folds)], [test for _, test in folds])
        )
        by_fold = np.stack(
            [weighted(self.class_weight, self.classes_, weights * count, labels) for count in trained.T], axis=1
        )
        num_classes = self.classes_.size
        data = prepare(
            "SoftmaxRegression", X, labels, weights, None, None, num_classes, fit_intercept=self.fit_intercept
        )
        selections = make_folds("SoftmaxRegression", data, by_fold)
        scored = None
        if self.scoring is None:
            held_out = weights[:, None] * held_out
            scored = prepare_scores("SoftmaxRegression", data.parts, labels, held_out, selections.present[1:])
        l2s = penalties(Cs[None], by_fold.sum(axis=0)[:, None], selections.present.sum(axis=1)[:, None])
        if start is not None:
            selections = begin_at(data, start, selections, float(l2s[0].max()))
        answers = solve_folds(data, selections, l2s, self.tol, self.max_iter, lambda ended, _: tasks.tell(ended))
        if (failed := int(np.sum(~answers.converged))) > 0:
            warnings.warn(
                f"SoftmaxRegression: {failed} of the {answers.status.size} fits of the sweep have not converged. "
                "Allow a larger max_iter or tol, or leave out the largest Cs.",
                ConvergenceWarning,
                stacklevel=3,
            )
        W, b = (array[Cs.size :].reshape(len(folds), Cs.size, *array.shape[1:]) for array in answers.certified[:2])
        fitted = [Params(*pair) for pair in zip(W, b, strict=True)]
        if scored is not None:
            self.scores_ = mean_scores(scored, fitted)[0]
            best = int(np.argmin(self.scores_))
        else:
            models = [
                self._models(params, present, Cs, X.shape[1])
                for params, present in zip(fitted, selections.present[1:], strict=True)
            ]
            tests = [test for _, test in folds]
            self.scores_ = scorer_means(self.scoring, models, tests, X, self.classes_[labels], for_scorer)
            best = int(np.argmax(self.scores_))
        self.C_ = float(Cs[best])
        return as_result(data, answers, best, float(l2s[0, best]), tol=self.tol, max_iterations=self.max_iter)

    def _models(self, params: Params, present: np.ndarray, Cs: np.ndarray, num_features: int) -> list[Any]:
        """What fits at each of the Cs would have come to; `params` has all of theirs, with the classes present."""
        models = []
        for C, W, b in zip(Cs, *params, strict=True):
            model = clone(self).set_params(C=float(C), Cs=None, scoring=None)
            model.classes_, model.n_features_in_ = self.classes_[present], num_features
            model._set_coefficients(W[:, present], b[:, present])
            models.append(model)
        return models

    def decision_function(self, X: Any) -> np.ndarray:
        """The logits (N, n), or for two classes the log-odds of the second (N,); X may be a source, as in `fit`."""
        check_is_fitted(self)
        if is_source(X):
            return np.concatenate([self.decision_function(block) for block in blocks_of_source("SoftmaxRegression", X)])
        check_no_mask(X=X)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        Z = X @ self.coef_.T + self.intercept_
        return Z[:, 0] if Z.shape[1] == 1 else Z

    def predict(self, X: Any) -> np.ndarray:
        """The most probable label of each row."""
        Z = self.decision_function(X)
        return self.classes_[(Z > 0).astype(int) if Z.ndim == 1 else np.argmax(Z, axis=1)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, (N, n)."""
        return softmax(self._logits(X))

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of the probabilities, exact where they underflow."""
        Z = self._logits(X)
        Z = Z - Z.max(axis=1, keepdims=True)
        return Z - np.log(np.sum(np.exp(Z), axis=1, keepdims=True))

    def _logits(self, X: Any) -> np.ndarray:
        Z = self.decision_function(X)
        # The log-odds of a class without weight are infinite, and their difference from the other's would be NaN.
        return np.stack([np.minimum(-Z, 0), np.minimum(Z, 0)], axis=1) if Z.ndim == 1 else Z
