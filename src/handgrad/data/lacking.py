"""Values that are missing where none may be, and what can be done."""

import numpy as np

from handgrad.data.naming import printable
from handgrad.data.problems import Problem
from handgrad.data.tables import MISSING

# Before a training, and with a model of one that had none.
OF_TRAINING = (
    f"Fill them by --missing {'|'.join(MISSING[:-1])}, leave such rows out by --missing drop-rows, or columns by "
    "--drop."
)
OF_MODEL = (
    "No row that the model was trained on lacks one: fill them in, leave such rows out, or train anew with --missing."
)


def missing_problem(name: str, is_missing: np.ndarray, advice: str = OF_TRAINING) -> Problem:
    """That values are missing where none may be, and what can be done."""
    return say_missing(name, int(is_missing.sum()), len(is_missing), int(np.argmax(is_missing)), advice)


def say_missing(name: str, count: int, num_rows: int, first: int, advice: str = OF_TRAINING) -> Problem:
    """That so many of the rows lack a value, the first of them being this one."""
    where = f"{printable(name)} ({count:,} of {num_rows:,}, the first in row {first + 1})"
    return Problem("values are missing", where, advice)
