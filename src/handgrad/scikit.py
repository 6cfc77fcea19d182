"""What scikit-learn's users bring to the estimator: parameters that it has not, folds by a seed, scorers, callbacks."""

import functools
from collections.abc import Callable
from numbers import Integral
from typing import Any, ParamSpec

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.model_selection import StratifiedKFold, check_cv
from sklearn.utils import compute_class_weight
from sklearn.utils.validation import _check_method_params

from handgrad.arguments import check_plain
from handgrad.settings import as_float, show

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """No `set_callbacks`."""

    def with_callbacks(method: Any) -> Any:
        """The method as it is."""
        return method


P = ParamSpec("P")
PENALTY = "The penalty is ‖W‖², of which C=numpy.inf is none; for ‖W‖₁ take LogisticRegression."
NOT_HERE = {
    "dual": "The data may have any shape; leave it out.",
    "intercept_scaling": "The intercept is not penalised, so that its scale means nothing; leave it out.",
    "l1_ratio": PENALTY,
    "l1_ratios": PENALTY,
    "multi_class": "All classes are fitted together; one against the rest is sklearn.multiclass.OneVsRestClassifier.",
    "n_jobs": "All folds and all Cs are fitted side by side, on the cores that JAX has; leave it out.",
    "penalty": PENALTY,
    "refit": "The model of all rows at C_ comes with the sweep; leave it out.",
    "solver": "There is one solver, to a proved optimum, see gap_; leave it out.",
    "use_legacy_attributes": "C_ is a number, and scores_ has one for each of the Cs; leave it out.",
    "verbose": "n_iter_ and gap_ say how the fit went, and a warning where it did not converge; leave it out.",
}


def explains_what_is_not_here(init: Callable[P, None]) -> Callable[P, None]:
    """`__init__`, with a word on what LogisticRegression and LogisticRegressionCV have besides its parameters."""

    # Not in __new__, which would refuse a subclass's own parameter of such a name. The signature stays __init__'s.
    @functools.wraps(init)
    def explaining(*args: P.args, **kwargs: P.kwargs) -> None:
        for name in NOT_HERE.keys() & kwargs.keys():
            raise TypeError(
                f"SoftmaxRegression: {name} is a parameter of LogisticRegression, not of this estimator; got "
                f"{name}={show(kwargs[name])}. {NOT_HERE[name]}"
            )
        init(*args, **kwargs)

    return explaining


class Tasks:
    """The tasks of a fit, one after another, of which scikit-learn's callbacks are told; before 1.9 nobody is.

    A task is begun when the one before it ends, so that the last one stays empty.
    """

    def __init__(self, estimator: Any, name: str, most: int, X: Any, y: Any, sample_weight: Any) -> None:
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.about = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self.name, self.ended = name, 0
        self.whole: Any = None
        self.task: Any = None
        if hasattr(estimator, "_init_callback_context"):
            self.whole = estimator._init_callback_context(max_subtasks=most + 1)
            self.whole.call_on_fit_task_begin(**self.about)
            self.task = self._begin()

    def tell(self, ended: int) -> bool:
        """Tell how many tasks have ended. Whether a callback wants the fit to end."""
        stop = False
        while self.whole is not None and self.ended < ended:
            stop |= bool(self.task.call_on_fit_task_end(**self.about))
            self.task, self.ended = self._begin(), self.ended + 1
        return stop

    def end(self) -> None:
        """Tell that the estimator is fitted."""
        if self.whole is not None:
            self.task.call_on_fit_task_end(estimator=self.about["estimator"])
            self.whole.call_on_fit_task_end(**self.about, reconstruction_attributes={})

    def _begin(self) -> Any:
        return self.whole.subcontext(task_name=self.name).call_on_fit_task_begin(**self.about)


def choose_splitter(cv: Any, y: np.ndarray, random_state: Any) -> Any:
    """The splitter that `cv` is or means: a number of folds, shuffled by the seed if there is one."""
    if random_state is None:
        return check_cv(cv, y, classifier=True)
    if cv is not None and not isinstance(cv, Integral):
        raise ValueError(
            "SoftmaxRegression: random_state shuffles the folds where cv is their number; got "
            f"random_state={show(random_state)} and cv={show(cv)}. Give it to the splitter instead."
        )
    return StratifiedKFold(5 if cv is None else cv, shuffle=True, random_state=random_state)


def weighted(class_weight: Any, classes: np.ndarray, weights: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights of the rows times those of their classes, which have numbers as labels here."""
    rows = weights > 0
    if not rows.any():
        raise ValueError("SoftmaxRegression: the weights must have a positive sum; every sample weight is 0.")
    if class_weight is None:
        return weights
    present = np.unique(labels[rows])
    y = classes[labels[rows]]
    each = np.zeros(classes.size)
    each[present] = compute_class_weight(class_weight, classes=classes[present], y=y, sample_weight=weights[rows])
    if not (np.isfinite(each).all() and (each >= 0).all() and each.any()):
        raise ValueError(
            "SoftmaxRegression: class_weight must have finite non-negative numbers, not 0 for every class that has "
            f"rows; got {show(class_weight)}."
        )
    return weights * each[labels]


def penalties(C: Any, total: Any, num_classes: Any) -> Any:
    """l2 for C and the sum of the weights."""
    # ‖w₁ − w₀‖²/2 with w₁ = −w₀ is 2·(‖w₀‖² + ‖w₁‖²)/2: for two classes the same penalty is twice the l2.
    with np.errstate(over="ignore"):
        l2 = np.where(num_classes == 2, 2, 1) / C / total
    if not np.all(np.isfinite(l2) & ((l2 > 0) | np.isinf(C))):
        raise ValueError(
            "SoftmaxRegression: C times the sum of the weights must be in the range of float64, for l2 is one over it; "
            f"got C from {np.min(C):g} to {np.max(C):g} and sums from {np.min(total):g} to {np.max(total):g}. Scale "
            "the weights; for no penalty take C=numpy.inf."
        )
    return l2


def split(splitter: Any, X: Any, y: np.ndarray, metadata: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The training and test rows of each fold, as numbers of rows."""
    everything = np.arange(len(y))
    folds = []
    for fold, pair in enumerate(splitter.split(X, y, **metadata)):
        try:
            train, test = (everything[rows] for rows in pair)
        except (IndexError, TypeError, ValueError):
            raise ValueError(
                f"SoftmaxRegression: cv must give pairs of training and test rows, numbers of rows below {len(y)} or "
                f"masks of {len(y)}; got {show(pair)} as fold {fold}."
            ) from None
        folds.append((train, test))
    if not folds:
        raise ValueError(f"SoftmaxRegression: cv must give one fold or more; got none of {show(splitter)}.")
    return folds


def check_no_mask(**given: Any) -> None:
    """Check that no array is masked: scikit-learn takes what is under the mask for data."""
    for argument, array in given.items():
        if isinstance(array, np.ma.MaskedArray):
            check_plain("SoftmaxRegression", argument, array)


def scorer_means(
    scoring: Any, models: list[list[Any]], tests: list[np.ndarray], X: Any, y: np.ndarray, metadata: dict[str, Any]
) -> np.ndarray:
    """What a scorer says of each C's models on the rows that their fold holds out, in the mean over the folds.

    Args:
      scoring: a score's name, or a scorer.
      models: of each fold, the fitted model of each C.
      tests: of each fold, the rows held out.
      X, y: all rows.
      metadata: what the scorer is given besides, by its name; of arrays with a row for each of X's, those held out.
    """
    scores = np.empty((len(models), len(models[0])))
    for fold, (of_fold, test) in enumerate(zip(models, tests, strict=True)):
        trained, held_out = (show(classes.tolist()) for classes in (of_fold[0].classes_, np.unique(y[test])))
        where = f"scoring={show(scoring)} on fold {fold}, trained on the classes {trained}, with {held_out} held out"
        if of_fold[0].classes_.size < 2:
            raise ValueError(f"SoftmaxRegression: a score needs two classes; got {where}. Stratify the folds.")
        for i, model in enumerate(of_fold):
            try:
                given = _check_method_params(X, metadata, indices=test)
                score = check_scoring(model, scoring)(model, X[test], y[test], **given)
            except Exception as error:
                error.add_note(f"SoftmaxRegression: this is {where}.")
                raise
            scores[fold, i] = as_float(score)
            if np.isnan(scores[fold, i]):
                raise ValueError(
                    f"SoftmaxRegression: a score must be a number; got {show(score)} for C={model.C:g} from {where}. "
                    "Stratify the folds, use fewer, or take a score that is defined there."
                )
    return scores.mean(axis=0)
