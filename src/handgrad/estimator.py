"""Softmax regression with scikit-learn's interface, fitted by `handgrad.fit`."""

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.utils import compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import softmax
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from handgrad.formulas import Params
from handgrad.solvers.fit import fit_in_silence, prepare
from handgrad.solvers.lbfgs import CONVERGED
from handgrad.solvers.path import score, solve_folds


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    """Multinomial logistic regression, to a certified optimum.

    The optimum is that of scikit-learn's LogisticRegression: the mean cross-entropy + ‖W‖²/(2·C·Σ weights), the
    intercept not penalised. Two classes are the exception in form only: LogisticRegression gives them one coefficient
    vector, the difference of two, and penalises that; so does this estimator.

    Args:
      C: inverse of the penalty's strength; l2 = 1/(C·Σ weights).
      Cs: None, or the values of C to choose from by cross-validation; all folds and all values are then one program.
      cv: number of folds, or a scikit-learn splitter, for Cs.
      class_weight: None, "balanced", or a dictionary from class to weight.
      tol: relative gap at which a fit is done, see `handgrad.fit`.
      max_iter: iterations at most.
      warm_start: whether a fit starts where the last one ended.

    Attributes:
      classes_: the labels (n,).
      coef_, intercept_: (n, P) and (n,); (1, P) and (1,) for two classes.
      n_iter_: iterations, (1,).
      gap_: a bound on the loss's distance from its minimum, relative to the loss.
      C_, scores_: with Cs, the chosen C and the mean cross-entropy of each on the rows held out.
      n_features_in_, feature_names_in_: as in scikit-learn.

    Example:
      >>> from sklearn.datasets import load_iris
      >>> X, y = load_iris(return_X_y=True)
      >>> SoftmaxRegression(C=1.0).fit(X, y).score(X, y) > 0.97
      True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [Interval(Real, 0, None, closed="neither")],
        "Cs": ["array-like", None],
        "cv": ["cv_object"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
    }

    def __init__(
        self,
        C: float = 1.0,
        *,
        Cs: Any = None,
        cv: Any = 5,
        class_weight: Any = None,
        tol: float = 1e-5,
        max_iter: int = 2000,
        warm_start: bool = False,
    ):
        self.C = C
        self.Cs = Cs
        self.cv = cv
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model to data X (N, P) and labels y (N,), with sample weights (N,)."""
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        classes, labels = np.unique(y, return_inverse=True)
        if classes.size < 2:
            raise ValueError(f"SoftmaxRegression: y must have two classes or more; got one class, {classes[0]!r}.")
        start = self._start(X.shape[1], classes)
        self.classes_ = classes
        if self.class_weight is not None:
            each = compute_class_weight(self.class_weight, classes=classes, y=y, sample_weight=weights)
            weights = weights * each[labels]
        if weights.sum() == 0:
            raise ValueError("SoftmaxRegression: the weights must have a positive sum; every sample weight is 0.")
        # Float64 data are fitted in float64 whatever JAX's default is, as scikit-learn does.
        with jax.enable_x64(X.dtype == np.float64):
            if self.Cs is not None:
                self._choose(X, labels, weights)
            result = fit_in_silence(
                X,
                labels,
                l2=self._l2(self.C if self.Cs is None else self.C_, weights.sum()),
                weights=weights,
                params=start,
                num_classes=classes.size,
                tol=self.tol,
                max_iterations=self.max_iter,
            )
            W, b = (np.asarray(array) for array in result.params)
        if not result.converged:
            warnings.warn(f"SoftmaxRegression: {result.message}", ConvergenceWarning, stacklevel=2)
        coef, intercept = W.T, b[0]
        if classes.size == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = coef, intercept
        self.n_iter_ = np.array([result.iterations], dtype=np.int32)
        self.gap_ = result.gap / result.loss if result.loss > 0 else 0.0
        return self

    def _l2(self, C: Any, total: Any) -> Any:
        # ‖w₁ − w₀‖²/2 with w₁ = −w₀ is 2·(‖w₀‖² + ‖w₁‖²)/2: for two classes the same penalty is twice the l2.
        return (2 if self.classes_.size == 2 else 1) / (C * total)

    def _start(self, num_features: int, classes: np.ndarray) -> Params | None:
        """The parameters of the last fit, where they are wanted and fit."""
        if not (self.warm_start and hasattr(self, "coef_") and np.array_equal(self.classes_, classes)):
            return None
        if self.coef_.shape[1] != num_features:
            return None
        W, b = self.coef_.T, self.intercept_[None]
        if classes.size == 2:
            W, b = (np.concatenate([-array / 2, array / 2], axis=1) for array in (W, b))
        return Params(W=W, b=b)

    def _choose(self, X: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> None:
        """C_ and scores_: every fold and every C in one program."""
        Cs = np.asarray(self.Cs, dtype=np.float64)
        if Cs.ndim != 1 or Cs.size == 0 or not np.all((Cs > 0) & np.isfinite(Cs)):
            raise ValueError(f"SoftmaxRegression: Cs must be one or more positive numbers; got {self.Cs!r}.")
        folds = [test for _, test in check_cv(self.cv, labels, classifier=True).split(X, labels)]
        held_out = np.zeros((labels.size, len(folds)), bool)
        for fold, rows in enumerate(folds):
            held_out[rows, fold] = True
        totals = np.append(weights.sum(), weights @ ~held_out)
        data = prepare("SoftmaxRegression", X, labels, weights, None, None, self.classes_.size)
        solutions, params = solve_folds(data, self._l2(Cs[None], totals[:, None]), held_out, self.tol, self.max_iter)
        if (failed := np.sum(solutions.status != CONVERGED)) > 0:
            warnings.warn(
                f"SoftmaxRegression: {failed} of the {solutions.status.size} fits of the sweep have not converged. "
                "Allow a larger max_iter or tol, or leave out the largest Cs.",
                ConvergenceWarning,
                stacklevel=3,
            )
        losses = []
        for fold, rows in enumerate(held_out.T, start=1):
            part = slice(fold * Cs.size, (fold + 1) * Cs.size)
            single = Params(W=params.W[part], b=params.b[part])
            losses.append(score(single, data.X[rows], data.targets[rows], data.weights[rows])[0])
        self.scores_ = np.mean(losses, axis=0)
        self.C_ = float(Cs[np.argmin(self.scores_)])

    def decision_function(self, X: Any) -> np.ndarray:
        """The logits (N, n), or for two classes the log-odds of the second (N,)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
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
        return np.stack([np.zeros_like(Z), Z], axis=1) if Z.ndim == 1 else Z
