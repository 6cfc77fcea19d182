"""Findings about the model: what it is no better than, and what its numbers do not say by themselves."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtrc

from handgrad.app.findings.finding import Facts, Finding
from handgrad.formulas.network import layers_of

ONE_SIDED = 1.6448536269514722  # of the normal distribution, 95 %
LITTLE = 0.05  # of rows that are right, or a tenth of what is explained: a gain that a person calls none
GAP = 0.05  # between shares of rows that are right
GAP_DEVIATIONS = 3
CALIBRATED = 0.02  # an expected calibration error that nobody minds
CHANCE_DEVIATIONS = 3
UNEQUAL = 100  # times the deviation of another feature


def no_better_than_majority(facts: Facts) -> Finding | None:
    """Answers that are right no more often than the most frequent class is."""
    run, evaluation = facts.run, facts.evaluation
    labels = run.split.test.labels
    is_right, is_majority = run.Y.argmax(axis=1) == labels, labels == evaluation.majority
    gained, lost = int(np.sum(is_right & ~is_majority)), int(np.sum(~is_right & is_majority))
    explains = _is_less(_losses(facts), _baseline_losses(facts))
    if _is_more(gained, lost) or (explains and gained - lost > LITTLE * len(labels)):
        return None
    name = run.model.class_names[evaluation.majority]
    informs = evaluation.loss < evaluation.baseline_loss
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
        (
            "Its probabilities tell more than that: judge by the loss, or let rare classes count more by "
            "--class-weight balanced."
            if informs
            else "Nothing was learnt that holds on new rows: look for features that tell the classes apart."
        ),
    )


def no_better_than_one_feature(facts: Facts) -> Finding | None:
    """Features of which one tells as much as all of them."""
    if len(facts.features) < 2 or not np.isfinite(facts.evaluation.loss):
        return None
    best, losses = facts.features[0], _losses(facts)
    gain, explained = best.losses.mean() - losses.mean(), facts.evaluation.baseline_loss - losses.mean()
    if best.explained <= 0 or _is_less(losses, best.losses) or gain > 2 * LITTLE * explained > 0:
        return None
    return Finding(
        "no-better-than-best-feature",
        f"{best.name} alone predicts the test rows with a loss of {best.losses.mean():.4f} nats, the model with all "
        f"features with {losses.mean():.4f}, which is no better within chance.",
        {"feature": best.name, "feature_loss": float(best.losses.mean()), "loss": float(losses.mean())},
        "The other features add nothing that a straight line can use: try --hidden 64, or features made of several.",
    )


def not_converged(facts: Facts) -> Finding | None:
    """A fit that has not come to its certificate."""
    fitted = facts.run.fitted
    if fitted is None or fitted.converged:
        return None
    at_end = "float32" in fitted.message
    return Finding(
        "float32-at-its-end" if at_end else "not-converged",
        f"The fit has not come to its certificate: {fitted.message}",
        {"gap": fitted.gap if math.isfinite(fitted.gap) else None, "loss": fitted.loss},
        "What is left may not matter to the test; a larger l2 is reached sooner."
        if at_end
        else "Allow more iterations, or take a larger l2.",
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
    return Finding(
        "separated-classes",
        f"All {len(labels):,} rows trained on are predicted right: a straight line tells the classes apart there.",
        {"train_rows": len(labels), "least_probability": float(Y[np.arange(len(labels)), labels].min())},
        "Without a penalty the weights would grow without end; how sure the model is follows from l2, so choose that "
        "on rows held out.",
    )


def penalty_at_edge(facts: Facts) -> Finding | None:
    """A path whose best penalty is its first or its last."""
    choice = facts.run.choice
    if choice is None or choice.edge is None:
        return None
    l2, is_largest = float(choice.l2s[choice.best]), choice.edge == "largest"
    return Finding(
        "penalty-at-edge",
        f"The best penalty, l2 = {l2:.3g}, is the {'largest' if is_largest else 'smallest'} that was tried.",
        {"l2": l2, "least": float(choice.l2s.min()), "largest": float(choice.l2s.max())},
        "The features may tell nothing of the classes."
        if is_largest
        else "The rows held out ask for no penalty: more features, or --hidden 64, may be of use.",
    )


def unscaled_features(facts: Facts) -> Finding | None:
    """A penalty that weighs on features as their units have it."""
    run = facts.run
    l2 = run.fitted.l2 if run.fitted is not None else float(run.settings.get("l2") or 0)
    X = run.split.train.X
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
        "Divide the features by their standard deviations.",
    )


def train_test_gap(facts: Facts) -> Finding | None:
    """Rows trained on that are predicted much better than new ones."""
    train, evaluation = facts.run.split.train, facts.evaluation
    right = float(np.mean(facts.train_Y.argmax(axis=1) == train.labels)) if len(train.labels) else 0.0
    difference = right - evaluation.accuracy
    pooled = (right * len(train.labels) + evaluation.right) / (len(train.labels) + evaluation.rows)
    deviation = math.sqrt(pooled * (1 - pooled) * (1 / max(len(train.labels), 1) + 1 / evaluation.rows))
    is_worse_than_nothing = evaluation.loss > evaluation.baseline_loss > facts.run.train_loss
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
        "The model has learnt the rows by heart: take a larger l2, fewer features, or more rows.",
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
    advice = "Take a larger l2, or stop earlier." if is_over else "Take a smaller l2, or train longer."
    if facts.run.choice is not None:
        advice = "The penalty was chosen by few rows, or by another score: --folds 10, or --scoring log-loss."
    return Finding(
        "miscalibrated",
        f"The model is {'surer' if is_over else 'less sure'} than it is right: its answers have a probability of "
        f"{confidence:.1%} in the mean and are right in {accuracy:.1%}; the expected calibration error is "
        f"{calibration.error:.1%}.",
        {"error": calibration.error, "by_chance": by_chance, "confidence": confidence, "accuracy": accuracy},
        advice,
    )


def _losses(facts: Facts) -> np.ndarray:
    """Of each test row."""
    labels = facts.run.split.test.labels
    return -np.log(np.maximum(facts.run.Y[np.arange(len(labels)), labels].astype(np.float64), 1e-300))


def _baseline_losses(facts: Facts) -> np.ndarray:
    """Of each test row, by the classes' shares in the rows trained on."""
    train, labels = facts.run.split.train.labels, facts.run.split.test.labels
    shares = np.bincount(train, minlength=len(facts.run.model.class_names)) / max(len(train), 1)
    return -np.log(np.maximum(shares[labels], 1e-300))


def _is_less(losses: np.ndarray, others: np.ndarray) -> bool:
    """Whether the losses are less in the mean, beyond chance: the rows' differences, one-sided at 5 %."""
    less = others - losses
    return len(less) > 1 and bool(less.mean() > ONE_SIDED * less.std(ddof=1) / math.sqrt(len(less)))


def _is_more(gained: int, lost: int) -> bool:
    """Whether more were gained than lost, beyond chance: a sign test at 5 %."""
    return gained > 0 and float(bdtrc(gained - 1, gained + lost, 0.5)) <= 0.05
