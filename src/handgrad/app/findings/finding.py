"""The form that every finding has, and what findings are made of."""

from __future__ import annotations

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
    """

    run: Run
    evaluation: Evaluation
    train_Y: Float[np.ndarray, "N C"]
    features: tuple[Alone, ...]
