"""What the program says on a terminal."""

import math


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
