"""Names of columns and of classes: how they are listed, sorted, and told apart."""

import decimal
import difflib
import re
from collections.abc import Sequence

from handgrad.data.tables import ClassName

_DECIMAL = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.[0-9]*)?")
_DIGITS = re.compile(r"([0-9]+)")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
SHOWN = 20
_LONGEST = 60


def join(names: Sequence[str], most: int = SHOWN) -> str:
    """The names, the first of them where there are many, on one line: what cannot be printed is escaped."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def printable(text: str) -> str:
    """The text on one line, without anything that moves a cursor, and not too long."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 1]}…"
    return text if text.isprintable() else repr(text)[1:-1]


def list_columns(columns: Sequence[str]) -> str:
    """A sentence with the names."""
    return f"Columns there: {join(columns)}."


def say_absent(absent: Sequence[str], columns: Sequence[str]) -> str:
    """That there are no such columns, and which may have been meant."""
    close = [each for name in absent[:SHOWN] for each in difflib.get_close_matches(name, columns, n=1)]
    guess = f" Did you mean {join([repr(printable(name)) for name in close])}?" if close else ""
    names = join([repr(printable(name)) for name in absent])
    return f"has no column{'s' if len(absent) > 1 else ''} {names}.{guess} {list_columns(columns)}"


def natural_key(name: ClassName) -> tuple:
    """Sorts names as a person would: numbers by their value and before texts, and 'class 2' before 'class 10'."""
    text = str(name)
    if not isinstance(name, str) or _NUMBER.fullmatch(text):
        return (0, decimal.Decimal(name), (), text)
    pieces = _DIGITS.split(text.casefold())  # digits in its odd places
    runs = tuple((len(piece.lstrip("0")), piece.lstrip("0")) if i % 2 else piece for i, piece in enumerate(pieces))
    return (1, decimal.Decimal(0), runs, text)


def spell_alike(names: Sequence[str]) -> list[str]:
    """Names of classes; where a number is written in two ways, 1 and 1.0, all without zeros at the end of a fraction.

    A number that begins with a zero, as 01, is a code and stays apart from 1.
    """
    different = dict.fromkeys(names)
    numbers = {name: decimal.Decimal(name) for name in different if _DECIMAL.fullmatch(name)}
    if len(set(numbers.values())) == len(numbers):
        return list(names)
    return [_spell(numbers[name]) if name in numbers else name for name in names]


def alike(name: str) -> str:
    """The name; of a number that one of its spellings which all the others have too.

    Example:
      >>> alike("1.0"), alike("1"), alike("01"), alike("a")
      ('1', '1', '01', 'a')
    """
    return _spell(decimal.Decimal(name)) if _DECIMAL.fullmatch(name) else name


def _spell(number: decimal.Decimal) -> str:
    text = f"{abs(number) if number == 0 else number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
