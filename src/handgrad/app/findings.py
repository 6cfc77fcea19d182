"""What a person should know about a run and would not see in its headline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from handgrad.app.evaluation import Evaluation
    from handgrad.app.runs import Run


class Finding(NamedTuple):
    """Something found out about a run.

    Attributes:
      code: a name for it that stays, such as "rare-classes".
      says: what was found, in a sentence with its numbers.
      evidence: these numbers by name, of JSON's own types.
      advice: what to do, in a sentence.
    """

    code: str
    says: str
    evidence: dict[str, Any]
    advice: str


def find(run: Run, evaluation: Evaluation) -> tuple[Finding, ...]:
    """All that is found, what matters most first."""
    del run, evaluation
    return ()
