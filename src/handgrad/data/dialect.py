"""How a text with separators is written, found out from its beginning."""

import csv
import io
import re
from collections.abc import Sequence
from typing import NamedTuple

from handgrad.data.sources import Source

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
SAMPLE_ROWS, SAMPLE_CELLS = 100, 200_000
_MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class Format(NamedTuple):
    """How the text is written; "" stands for what is to be found out.

    Attributes:
      separator: between values, one character.
      decimal: "." or ",".
      quote: what a value may stand in, one character.
      text_encoding: as Python names it.
    """

    separator: str = ""
    decimal: str = ""
    quote: str = ""
    text_encoding: str = ""


def find_encoding(source: Source, head: bytes) -> str:
    """By its mark, else UTF-8 where it is that, else what Windows had."""
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    if b"\0" in head:
        raise ValueError(f"{source.name}: is no text, for it holds NUL bytes. Text in UTF-16? --encoding utf-16.")
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:
            return "cp1252" if _is(head, "cp1252") else "latin-1"
    return "utf-8"


def _is(head: bytes, encoding: str) -> bool:
    try:
        head.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def decode(source: Source, head: bytes, encoding: str, *, is_whole: bool) -> str:
    """The beginning as text, to the end of its last whole line."""
    try:
        text = io.TextIOWrapper(
            io.BytesIO(head), encoding, errors="strict" if is_whole else "ignore", newline=""
        ).read()
    except (LookupError, UnicodeError) as error:
        raise ValueError(f"{source.name}: is no text in {encoding} ({error}). --encoding names another.") from None
    text = text.removeprefix("\ufeff")
    end = max(text.rfind("\n"), text.rfind("\r"))
    return text if is_whole or end < 0 else text[: end + 1]


def first_records(text: str, separator: str, quote: str) -> list[list[str]]:
    """The names and the first rows."""
    records: list[list[str]] = []
    for record in csv.reader(io.StringIO(text, newline=""), delimiter=separator, quotechar=quote):
        if record:
            records.append(record)
        if len(records) > SAMPLE_ROWS or (len(records) > 5 and len(records) * len(records[0]) > SAMPLE_CELLS):
            break
    return records


def find_quote(text: str) -> str:
    """The apostrophe where values stand in such and nothing in double quotes."""
    single = re.findall(r"(?:^|[,;\t|])'[^'\n]*'(?=$|[,;\t|\r\n])", text[: 2**16], flags=re.MULTILINE)
    return "'" if len(single) > 1 and '"' not in text[: 2**16] else '"'


def find_separator(text: str, quote: str, source: Source) -> str:
    """The separator by which most rows have as many values as there are names, and of several that with most."""
    best, chosen = (0.0, 0), ","
    candidates = sorted(SEPARATORS, key=lambda each: each != "\t") if ".tsv" in source.name.lower() else SEPARATORS
    for separator in candidates:
        try:
            counts = [len(record) for record in first_records(text[: 2**18], separator, quote)]
        except csv.Error:
            continue
        if not counts or counts[0] < 2 or (separator == " " and best[0] > 0):
            continue
        agreeing = sum(count == counts[0] for count in counts) / len(counts)
        score = (round(agreeing, 1), counts[0])
        if agreeing > 0.5 and score > best:
            best, chosen = score, separator
    return chosen


def find_decimal(rows: Sequence[Sequence[str]], separator: str) -> str:
    """The comma where more numbers have one than a point."""
    if separator == ",":
        return "."
    values = [value.strip() for row in rows for value in row]
    with_comma = sum(bool(re.fullmatch(r"[+-]?\d+,\d+([eE][+-]?\d+)?", value)) for value in values)
    with_point = sum(bool(re.fullmatch(r"[+-]?\d+\.\d+([eE][+-]?\d+)?", value)) for value in values)
    return "," if with_comma > with_point else "."


def say_format(given: Format, found: Format) -> list[str]:
    """What was found out, where it is not what everybody expects."""
    said = []
    if not given.separator and found.separator != ",":
        said.append(f"separated by {SEPARATORS[found.separator]}s")
    if not given.decimal and found.decimal != ".":
        said.append("with decimal commas")
    if not given.quote and found.quote != '"':
        said.append("quoted by '")
    if not given.text_encoding and found.text_encoding not in ("utf-8", "utf-8-sig"):
        said.append(f"in {found.text_encoding}")
    return [f"read as text {', '.join(said)}."] if said else []
