"""What a person should know about a run and would not see in its headline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handgrad.app.findings import of_data, of_results
from handgrad.app.findings.alone import judge_features
from handgrad.app.findings.finding import Facts, Finding
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


def find(run: Run, evaluation: Evaluation) -> tuple[Finding, ...]:
    """All that is found of a run and of its evaluation on the test rows."""
    facts = Facts(run, evaluation, probabilities(run.model.params, run.split.train.X), judge_features(run))
    return tuple(finding for look in LOOKS if (finding := look(facts)) is not None)
