"""The form that every finding has, and what findings are made of."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from handgrad.app.findings.alone import Alone
from handgrad.shapes import Float

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


class Facts(NamedTuple):
    """What findings are made of.

    Attributes:
      run, evaluation: what was found, and what it comes to on the test rows.
      train_Y: probabilities of the rows trained on.
      features: what each feature tells alone, the most telling first.
      class_weights: of the training (C,); None where all count alike.
    """

    run: Run
    evaluation: Evaluation
    train_Y: Float[np.ndarray, "N C"]
    features: tuple[Alone, ...]
    class_weights: Float[np.ndarray, " C"] | None = None

    @property
    def is_probe(self) -> bool:
        """Whether the command is `probe`, which has no options for columns and for classes."""
        return self.run.command == "probe"

    @property
    def penalty(self) -> float:
        """The l2 of the parameters."""
        return self.run.fitted.l2 if self.run.fitted is not None else float(self.run.settings.get("l2") or 0)

    def leave_out(self, column: str | None = None) -> str:
        """How a column is left out, where it can be."""
        by_name = self.run.table.columns is not None and not self.is_probe
        return "" if not by_name else " by --drop" if column is None else f" by --drop {shlex.quote(column)}"


def count(number: int, one: str, many: str) -> str:
    """A number of things.

    Example:
      >>> count(1, "pair", "pairs"), count(2000, "pair", "pairs")
      ('1 pair', '2,000 pairs')
    """
    return f"{number:,} {one if number == 1 else many}"
