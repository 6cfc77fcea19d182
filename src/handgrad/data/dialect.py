"""How a text with separators is written, found out from its beginning."""

import csv
import io
import re
from collections.abc import Container, Sequence
from typing import NamedTuple

from handgrad.data.naming import join, list_columns
from handgrad.data.problems import Problem, say
from handgrad.data.sources import Source
from handgrad.data.words import SIGNS

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar", " ": "space"}
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}[.,][0-9]{3}")  # which may as well be whole
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


def require_names(names: Sequence[str], source: Source) -> None:
    """Refuse a first line of numbers.

    Raises:
      ValueError: it is such a one.
    """
    numbers = [name for name in names if re.fullmatch(r"[+-]?\d*\.\d+([eE][+-]?\d+)?", name.strip())]
    if numbers and len(numbers) >= len(names) / 2:
        there = list_columns([name.strip() for name in names])
        advice = f"The first line must have the columns' names; add such a line. {there}"
        raise ValueError(say(source.name, [Problem("the first line looks like a row of numbers", "", advice)]))


def require_quotes(rows: Sequence[Sequence[str]], quote: str, source: Source) -> None:
    """Refuse values in quotes that do not begin with them: they would be read with quotes, and cut at separators.

    Raises:
      ValueError: there are such.
    """
    mark = re.escape(quote)
    for number, row in enumerate(rows):
        if any(re.match(rf"\s+{mark}.*{mark}\s*$|\s+{mark}[^{mark}]*$", value) for value in row):
            where = f"row {number}" if number else "the first line"
            raise ValueError(
                f"{source.name}: in {where} a space stands before a quotation mark, which then quotes nothing. Remove "
                "such spaces."
            )


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


def find_decimal(rows: Sequence[Sequence[str]], separator: str, source: Source) -> str:
    """The comma where more numbers have one than a point, without those in which it may stand between thousands.

    Raises:
      ValueError: it stands in such alone, and commas are not what separates values.
    """
    values = [value.strip(f" \u00a0\u202f{SIGNS}") for row in rows for value in row]
    points, commas = ([value for value in values if _is_decimal(value, *marks)] for marks in (".,", ",."))
    clear_points, clear_commas = (
        [value for value in each if not _GROUPED.fullmatch(value)] for each in (points, commas)
    )
    if separator == ",":  # such as have a comma are quoted, and may be texts
        return "," if 2 * len(clear_commas) > len(commas) + len(points) else "."
    if clear_commas or clear_points or not commas:
        return "," if len(clear_commas) > len(clear_points) else "."
    raise ValueError(
        f"{source.name}: {commas[0]} may be a number with thousands or one with decimals. Say which is the decimal "
        "mark, by --decimal . or --decimal ,"
    )


def _is_decimal(value: str, mark: str, other: str) -> bool:
    """Whether it is a number if the mark is the decimal one, and the other may stand between thousands."""
    mark, other = re.escape(mark), re.escape(other)
    whole = rf"[0-9]*|[1-9][0-9]{{0,2}}({other}[0-9]{{3}})+"
    return bool(re.fullmatch(rf"[+-]?({whole}){mark}[0-9]+([eE][+-]?[0-9]+)?", value))


def say_codes(names: Sequence[str], rows: Sequence[Sequence[str]], numbers: Container[str]) -> list[str]:
    """That columns which are taken for numbers have such as begin with a zero, which is lost."""
    codes = [
        name.strip()
        for index, name in enumerate(names)
        if name in numbers and any(re.fullmatch("0[0-9]+", row[index].strip()) for row in rows if index < len(row))
    ]
    return [f"numbers that begin with 0, as codes do, are taken as quantities: {join(codes)}."] if codes else []


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
