"""All that is wrong with a table, said at once and on one line."""

from collections.abc import Sequence
from typing import NamedTuple

from handgrad.data.naming import SHOWN

DROP = "--drop leaves columns out."
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Problem(NamedTuple):
    """Something that must be mended before a table can be used.

    Attributes:
      what: the kind of it, as a clause that a list of places follows.
      where: the column, and what stands there; "" where `what` says all.
      advice: what to do.
      can_drop: whether leaving the column out is another way.
    """

    what: str
    where: str
    advice: str
    can_drop: bool = False


def say(name: str, problems: Sequence[Problem], *, can_drop: bool = True) -> str:
    """The problems on one line, those of one kind together; of a table for a model no column can be left out."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        advice = f"{problem.advice} {DROP}".strip() if problem.can_drop and can_drop else problem.advice
        kinds.setdefault((problem.what, advice), []).append(problem.where)
    sentences = [
        f"{what}{': ' if any(places) else ''}{_list([place for place in places if place])}. {advice}".strip()
        for (what, advice), places in kinds.items()
    ]
    if len(sentences) == 1:
        return f"{name}: {sentences[0]}"
    count = _NUMBERS[len(sentences)] if len(sentences) < len(_NUMBERS) else str(len(sentences))
    listed = " ".join(f"({number}) {sentence}" for number, sentence in enumerate(sentences, 1))
    return f"{name}: {count} things to mend. {listed}"


def _list(places: Sequence[str]) -> str:
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(places[:SHOWN]) + more
