"""Findings about the model: what it is no better than, and what its numbers do not say by themselves."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtrc

from handgrad.app.evaluation import weighted_mean
from handgrad.app.findings.finding import Facts, Finding
from handgrad.formulas.network import layers_of

ONE_SIDED = 1.6448536269514722  # of the normal distribution, 95 %
LITTLE = 0.05  # of rows that are right, or a tenth of what is explained: a gain that a person calls none
GAP = 0.05  # between shares of rows that are right
GAP_DEVIATIONS = 3
CALIBRATED = 0.02  # an expected calibration error that nobody minds
CHANCE_DEVIATIONS = 3
UNEQUAL = 100  # times the deviation of another feature

_HIDDEN = " by `handgrad train --hidden 64`"
_AFTERWARDS = "calibrate on other rows, as scikit-learn's CalibratedClassifierCV does."
_WITH_CHOSEN = "the penalty was chosen on rows held out, so that fewer features, or more rows, are what is left to try."


def no_better_than_majority(facts: Facts) -> Finding | None:
    """Answers that are right no more often than the most frequent class is."""
    run, evaluation = facts.run, facts.evaluation
    labels = run.split.test.labels
    is_right, is_majority = run.Y.argmax(axis=1) == labels, labels == evaluation.majority
    gained, lost = int(np.sum(is_right & ~is_majority)), int(np.sum(~is_right & is_majority))
    explains = _is_less(facts, _losses(facts), _baseline_losses(facts))
    if _is_more(gained, lost) or (explains and gained - lost > LITTLE * len(labels)):
        return None
    name = run.model.class_names[evaluation.majority]
    weights = facts.class_weights
    if not explains and (weights is None or weights.all()):
        advice = f"Nothing was learnt that the test rows show: {_learn(facts)}"
    elif weights is not None:
        advice = "That is the price of --class-weight: what it is paid for stands in the recall of each class."
    else:
        advice = "Its probabilities tell more than that: judge by the loss" + (
            "." if facts.is_probe else ", or let rare classes count more by --class-weight balanced."
        )
    return Finding(
        "no-better-than-majority",
        f"The model is right in {evaluation.right:,} of {evaluation.rows:,} test rows; to answer always with the "
        f"majority class, {str(name)!r}, is right in {int(is_majority.sum()):,}, which is no worse within chance.",
        {
            "right": evaluation.right,
            "majority_right": int(is_majority.sum()),
            "rows": evaluation.rows,
            "loss": evaluation.loss,
            "baseline_loss": evaluation.baseline_loss,
        },
        advice,
    )


def no_better_than_one_feature(facts: Facts) -> Finding | None:
    """Features of which one tells as much as all of them."""
    if len(facts.features) < 2 or not np.isfinite(facts.evaluation.loss):
        return None
    best, losses, baseline = facts.features[0], _losses(facts), _baseline_losses(facts)
    # A feature that is the answer is a leak, and one that tells nothing is no better than the majority.
    if best.is_nearly_the_answer or not _is_less(facts, best.losses, baseline):
        return None
    own, of_best, without = (_mean(facts, each) for each in (losses, best.losses, baseline))
    if _is_less(facts, losses, best.losses) or of_best - own > 2 * LITTLE * (without - own) > 0:
        return None
    weighed = "" if facts.class_weights is None else ", its class weights taken back,"
    advice = "Try a smaller l2: this one was not chosen. Or the" if _is_given(facts) else "The"
    if facts.run.command == "train" and not _is_less(facts, losses, baseline):
        advice = f"The training has not come to what one feature tells: {_learn(facts)}"
    elif len(layers_of(facts.run.model.params)) > 1:
        advice += f" other features add nothing here: leave them out{facts.leave_out()}, or train longer."
    else:
        advice += f" other features add nothing that a straight line can use: try hidden layers{_HIDDEN}."
    return Finding(
        "no-better-than-best-feature",
        f"{best.name} alone predicts the test rows with a loss of {of_best:.4f} nats, the model with all "
        f"features{weighed} with {own:.4f}, which is no better within chance.",
        {"feature": best.name, "feature_loss": of_best, "loss": own},
        advice,
    )


def not_converged(facts: Facts) -> Finding | None:
    """A fit that has not come to its certificate."""
    fitted = facts.run.fitted
    if fitted is None or fitted.converged:
        return None
    at_end = "float32" in fitted.message
    if facts.penalty == 0:
        advice = "Leave --l2 out, and one is chosen, or take one above 0, however small."
    elif at_end:
        advice = "What is left may not matter to the test; a larger l2 is reached sooner."
    else:
        advice = "A larger l2 is reached sooner; so are features of like size."
    return Finding(
        "float32-at-its-end" if at_end else "not-converged",
        f"The fit has not come to its certificate: {fitted.message}",
        {"gap": fitted.gap if math.isfinite(fitted.gap) else None, "loss": fitted.loss},
        advice,
    )


def separated_classes(facts: Facts) -> Finding | None:
    """Rows trained on that are all told apart, so that only the penalty keeps the weights small."""
    run = facts.run
    if len(layers_of(run.model.params)) > 1:
        return None
    counted = (
        np.ones(len(run.split.train.labels), bool) if run.split.train.weights is None else run.split.train.weights > 0
    )
    labels, Y = run.split.train.labels[counted], facts.train_Y[counted]
    if not (len(labels) and (Y.argmax(axis=1) == labels).all()):
        return None
    chosen = "which was chosen on rows held out" if run.choice is not None else "so choose that on rows held out"
    if run.command == "train":
        chosen += ", as `handgrad fit` does"
    return Finding(
        "separated-classes",
        f"All {len(labels):,} rows trained on are predicted right: a straight line tells the classes apart there.",
        {"train_rows": len(labels), "least_probability": float(Y[np.arange(len(labels)), labels].min())},
        f"Without a penalty the weights would grow without end; how sure the model is follows from l2, {chosen}.",
    )


def penalty_at_edge(facts: Facts) -> Finding | None:
    """A path whose best penalty is its first or its last."""
    choice = facts.run.choice
    if choice is None or choice.edge is None:
        return None
    l2, is_largest = float(choice.l2s[choice.best]), choice.edge == "largest"
    if is_largest:
        advice = "The features may tell nothing of the classes."
    elif len(facts.train_Y) and separated_classes(facts) is not None:
        advice = (
            "The rows trained on are all told apart, so that less of a penalty makes the model surer and no better."
        )
    else:
        advice = f"The rows held out ask for no penalty: more features, or hidden layers{_HIDDEN}, may be of use."
    return Finding(
        "penalty-at-edge",
        f"The best penalty, l2 = {l2:.3g}, is the {'largest' if is_largest else 'smallest'} that was tried.",
        {"l2": l2, "least": float(choice.l2s.min()), "largest": float(choice.l2s.max())},
        advice,
    )


def unscaled_features(facts: Facts) -> Finding | None:
    """A penalty that weighs on features as their units have it."""
    l2, X = facts.penalty, facts.run.split.train.X
    if l2 == 0 or X.shape[0] < 2:
        return None
    if isinstance(X, np.ndarray):
        deviations = X.std(axis=0, dtype=np.float64)
    else:
        mean = np.asarray(X.mean(axis=0, dtype=np.float64))
        squares = X.astype(np.float64).power(2).mean(axis=0)
        deviations = np.sqrt(np.maximum(np.asarray(squares) - mean**2, 0))
    used = deviations[deviations > 0]
    # Rare words, and pixels at a picture's edge, are small by right: what is asked is whether the bulk is unequal.
    low, high = np.quantile(used, [0.1, 0.9]) if used.size else (1.0, 1.0)
    if high < UNEQUAL * low:
        return None
    return Finding(
        "unscaled-l2",
        f"The features' standard deviations go from {low:.2g} to {high:.2g}, and the penalty weighs most on the "
        "weights of those that are small.",
        {"low_deviation": float(low), "high_deviation": float(high), "l2": l2},
        "Divide the features by their standard deviations" + (", as --standardize does." if facts.is_probe else "."),
    )


def train_test_gap(facts: Facts) -> Finding | None:
    """Rows trained on that are predicted much better than new ones."""
    train, evaluation = facts.run.split.train, facts.evaluation
    right = float(np.mean(facts.train_Y.argmax(axis=1) == train.labels)) if len(train.labels) else 0.0
    difference = right - evaluation.accuracy
    pooled = (right * len(train.labels) + evaluation.right) / (len(train.labels) + evaluation.rows)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / max(len(train.labels), 1) + 1 / evaluation.rows))
    is_worse = evaluation.loss > (1 + LITTLE) * evaluation.baseline_loss > facts.run.train_loss
    is_worse_than_nothing = is_worse and _is_less(facts, _baseline_losses(facts), _losses(facts))
    if not is_worse_than_nothing and (difference < GAP or difference < GAP_DEVIATIONS * deviation):
        return None
    return Finding(
        "train-test-gap",
        f"{right:.1%} of the rows trained on are predicted right, and {evaluation.accuracy:.1%} of the test rows; the "
        f"losses are {facts.run.train_loss:.4f} and {evaluation.loss:.4f} nats.",
        {
            "train_accuracy": right,
            "test_accuracy": evaluation.accuracy,
            "train_loss": facts.run.train_loss,
            "test_loss": evaluation.loss if math.isfinite(evaluation.loss) else None,
        },
        "The model has learnt the rows by heart: "
        + ("take a larger l2, fewer features, or more rows." if facts.run.choice is None else _WITH_CHOSEN),
    )


def miscalibrated(facts: Facts) -> Finding | None:
    """Probabilities that are not how often the answers are right, by more than chance."""
    calibration = facts.evaluation.calibration
    share = calibration.rows / calibration.rows.sum()
    deviations = np.sqrt(calibration.confidence * (1 - calibration.confidence) / calibration.rows)
    by_chance = float(share @ deviations) * math.sqrt(2 / math.pi)
    spread = math.sqrt(float(share**2 @ deviations**2) * (1 - 2 / math.pi))
    if calibration.error < CALIBRATED or calibration.error < by_chance + CHANCE_DEVIATIONS * spread:
        return None
    confidence, accuracy = float(share @ calibration.confidence), float(share @ calibration.accuracy)
    is_over = confidence > accuracy
    return Finding(
        "miscalibrated",
        f"The model is {'surer' if is_over else 'less sure'} than it is right: its answers have a probability of "
        f"{confidence:.1%} in the mean and are right in {accuracy:.1%}; the expected calibration error is "
        f"{calibration.error:.1%}.",
        {"error": calibration.error, "by_chance": by_chance, "confidence": confidence, "accuracy": accuracy},
        _calibrate(facts, is_over),
    )


def _calibrate(facts: Facts, is_over: bool) -> str:
    """What may bring probabilities nearer to how often they are right."""
    run, choice = facts.run, facts.run.choice
    if facts.class_weights is not None:
        return "--class-weight does that: leave it out where the probabilities are to be believed."
    if choice is not None and choice.scoring != "log-loss":
        how = "--preset path" if facts.is_probe else "--scoring log-loss"
        return f"The penalty was chosen by {choice.scoring}, which does not ask how sure the model is: {how} does."
    if choice is not None and not facts.is_probe and run.settings.get("folds") == 0:
        return "The penalty was chosen by few rows: --folds 5 chooses by all that are trained on."
    if choice is not None:
        return f"No penalty mends it: {_AFTERWARDS}"
    if is_over:
        return "Take a larger l2, or stop earlier." if run.command == "train" else "Take a larger l2."
    if facts.penalty > 0:
        return "Take a smaller l2, or train longer." if run.command == "train" else "Take a smaller l2."
    return "Train longer." if run.command == "train" else f"No penalty mends it: {_AFTERWARDS}"


def _is_given(facts: Facts) -> bool:
    """Whether there is a penalty that was not chosen."""
    return facts.run.choice is None and facts.penalty > 0


def _learn(facts: Facts) -> str:
    """What to try where nothing was learnt."""
    if not facts.features or not _is_less(facts, facts.features[0].losses, _baseline_losses(facts)):
        return "look for features that tell the classes apart."
    if _is_given(facts):
        return "try a smaller l2, since this one was not chosen."
    if facts.run.command == "train":
        return "try another --learning-rate, or more --epochs; `handgrad fit` needs neither."
    return f"{facts.features[0].name} alone tells something, but on no straight line: try hidden layers{_HIDDEN}."


def _losses(facts: Facts) -> np.ndarray:
    """Of each test row. Weights of classes are taken back: they multiply the odds that the model was asked for."""
    labels = facts.run.split.test.labels
    Y = facts.run.Y.astype(np.float64)
    if facts.class_weights is not None:
        Y = Y / np.where(facts.class_weights > 0, facts.class_weights, 1)
        Y /= Y.sum(axis=1, keepdims=True)
    return -np.log(np.maximum(Y[np.arange(len(labels)), labels], 1e-300))


def _baseline_losses(facts: Facts) -> np.ndarray:
    """Of each test row, by the classes' shares in the rows trained on."""
    train, labels = facts.run.split.train, facts.run.split.test.labels
    counts = np.bincount(train.labels, train.weights, len(facts.run.model.class_names))
    return -np.log(np.maximum((counts / (counts.sum() or 1))[labels], 1e-300))


def _mean(facts: Facts, losses: np.ndarray) -> float:
    return weighted_mean(losses, _weights(facts))[0]


def _weights(facts: Facts) -> np.ndarray:
    """Of the test rows."""
    test = facts.run.split.test
    return np.ones(len(test.labels)) if test.weights is None else np.asarray(test.weights, np.float64)


def _is_less(facts: Facts, losses: np.ndarray, others: np.ndarray) -> bool:
    """Whether the losses are less in the mean, beyond chance: the rows' differences, one-sided at 5 %."""
    mean, error = weighted_mean(others - losses, _weights(facts))
    return len(losses) > 1 and mean > ONE_SIDED * error


def _is_more(gained: int, lost: int) -> bool:
    """Whether more were gained than lost, beyond chance: a sign test at 5 %."""
    return gained > 0 and float(bdtrc(gained - 1, gained + lost, 0.5)) <= 0.05
