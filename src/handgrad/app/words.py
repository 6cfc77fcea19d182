"""What the program says on a terminal."""

import math
import re
from collections.abc import Sequence
from typing import Any


def one_line(text: str) -> str:
    r"""The text on one line, what moves a cursor or changes a colour written out.

    Names of files, of columns and of classes come from anyone.

    Example:
      >>> print(one_line("no column '\x1b[31mred'\n"))
      no column '\x1b[31mred'
    """
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in " ".join(text.split()))


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
      >>> duration(0.4), duration(8.2), duration(200), duration(9000)
      ('1 s', '9 s', '4 min', '2.5 h')
    """
    if seconds < 90:
        return f"{max(1, math.ceil(seconds))} s"
    return f"{math.ceil(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def in_own_words(message: str, class_names: Sequence[Any]) -> str:
    """What the library says, with the names of classes, and without the advice, which is of arguments in Python.

    Example:
      >>> in_own_words("the classes can be separated, 0, 1 from the others. Take l2 > 0.", ("no", "yes"))
      'the classes can be separated, no, yes from the others.'
    """

    def name(numbers: re.Match[str]) -> str:
        return ", ".join(str(class_names[int(number)]) for number in numbers[0].split(", "))

    said = re.sub(r"^1 rows are", "1 row is", message.partition(". ")[0].rstrip("."))
    return re.sub(r"(?<=separated, )[0-9, ]+(?= from)|(?<=classes \()[0-9, ]+(?=\))", name, said) + "."
