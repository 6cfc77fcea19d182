"""What a mistake is."""

from typing import NamedTuple


class Mutant(NamedTuple):
    """A mistake, and what catches it."""

    mistake: str
    file: str  # below src/handgrad
    old: str  # found there exactly once
    new: str
    test: str  # pytest's node id below tests/, narrow enough to take seconds
