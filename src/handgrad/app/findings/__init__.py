"""What a person should know about a run and would not see in its headline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handgrad.app.findings import of_data, of_results
from handgrad.app.findings.alone import judge_features
from handgrad.app.findings.finding import Facts, Finding
from handgrad.app.tables import as_class_weights
from handgrad.models import probabilities

if TYPE_CHECKING:
    from handgrad.app.evaluation import Evaluation
    from handgrad.app.runs import Run

__all__ = ["Finding", "find"]

# What matters most stands first.
LOOKS = (
    of_data.leakage,
    of_results.no_better_than_majority,
    of_results.no_better_than_one_feature,
    of_data.group_overlap,
    of_data.time_overlap,
    of_data.few_test_rows,
    of_data.rare_classes,
    of_results.not_converged,
    of_results.separated_classes,
    of_results.penalty_at_edge,
    of_results.unscaled_features,
    of_results.train_test_gap,
    of_results.miscalibrated,
    of_data.duplicated_features,
    of_data.constant_features,
)


# Of which a sample of the rows would say what is not so, or less than is known of all.
OF_ALL_ROWS = (
    of_results.no_better_than_majority,
    of_data.group_overlap,
    of_data.few_test_rows,
    of_data.rare_classes,
    of_results.miscalibrated,
)
# What only features of all rows tell.
OF_ALL_FEATURES = (of_results.separated_classes, of_data.constant_features)


def find(run: Run, evaluation: Evaluation, seen: tuple[Run, Evaluation] | None = None) -> tuple[Finding, ...]:
    """All that is found of a run and of its evaluation on the test rows.

    `seen` are both on rows that are in memory: where these are a sample, what features tell is of them, and what only
    all rows would tell is left out.
    """
    looked_at, of_them = seen or (run, evaluation)
    train_Y = probabilities(looked_at.model.params, looked_at.split.train.X)
    weights = as_class_weights(run.settings.get("class_weight"), run.split.train, run.model.class_names)
    facts = Facts(looked_at, of_them, train_Y, judge_features(looked_at), weights)
    if looked_at.sampled is None:
        return tuple(finding for look in LOOKS if (finding := look(facts)) is not None)
    of_all = Facts(run, evaluation, train_Y[:0], (), weights)
    looks = [(look, of_all if look in OF_ALL_ROWS else facts) for look in LOOKS if look not in OF_ALL_FEATURES]
    return tuple(finding for look, own in looks if (finding := look(own)) is not None)
