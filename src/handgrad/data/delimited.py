"""Text with separators: how it is written is found out from its beginning, and pyarrow reads it.

Which columns are numbers is guessed from the first rows, since columns that are read as such are read fast, and put
right where a later row says otherwise. Texts are read as indices into the different ones.
"""

import csv
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from handgrad.data.arrow import Cut
from handgrad.data.dialect import (
    SEPARATORS,
    Format,
    decode,
    find_decimal,
    find_encoding,
    find_quote,
    find_separator,
    first_records,
    require_names,
    require_quotes,
    say_codes,
    say_format,
)
from handgrad.data.naming import printable
from handgrad.data.problems import Problem, say
from handgrad.data.ranges import ALL, STEP, Range, find_rows
from handgrad.data.sources import Source, arrow_file, arrow_stream, open_source, require_memory
from handgrad.data.words import EXACT, MISSING_WORDS, require_pyarrow

HEAD, LONGEST_HEAD = 2**20, 2**26  # bytes that are looked at first; where a line is longer, up to so many
SHORTEST_BLOCK, LONGEST_BLOCK, BLOCK_ROWS = 2**20, 2**25, 256
MOST_ATTEMPTS = 6  # columns that may turn out to be text, one reading for each; then all are read as text
SHOWN_ROWS = 5
MOST_WORDS = 2**20  # different texts in a column that is read in blocks
_WINDOWS = {"utf-8": "cp1252", "utf-8-sig": "cp1252", "cp1252": "latin-1"}  # what is tried next
_NULLS = sorted(
    {form for word in MISSING_WORDS for form in (word, word.upper(), word.title(), word.capitalize(), "NaN")}
)


class Delimited(NamedTuple):
    """A file that is known: how it is written, its columns' names as they stand, and the first rows."""

    source: Source
    format: Format
    names: list[str]
    rows: list[list[str]]
    has_quoted_lines: bool
    row_bytes: int
    is_encoding_given: bool
    has_empty_rows: bool  # an empty line is a value that is missing, and not nothing


def look_at(source: Source, given: Format) -> tuple[Delimited, list[str]]:
    """What kind of text a file is, and in sentences what had to be found out.

    Raises:
      ValueError: what is no such text, or names its columns in no way that can be used.
    """
    require_pyarrow()
    head, is_whole = _read_head(source)
    encoding = given.text_encoding or find_encoding(source, head)
    text = decode(source, head, encoding, is_whole=is_whole)
    quote = given.quote or find_quote(text)
    separator = given.separator or find_separator(text, quote, source)
    try:
        records = first_records(text, separator, quote)
    except csv.Error as error:
        raise ValueError(
            f"{source.name}: is no text with values between {SEPARATORS.get(separator, separator)}s ({error})."
        ) from None
    if not records:
        raise ValueError(f"{source.name}: is empty.")
    names, rows = records[0], records[1:]
    require_names(names, source)
    require_quotes(records, quote, source)
    decimal = given.decimal or find_decimal(rows, separator, source)
    format_ = Format(separator, decimal, quote, encoding)
    row_bytes = len(head) // max(text.count("\n"), 1)
    has_quoted_lines = len(names) == 1 or any("\n" in value or "\r" in value for row in rows for value in row)
    has_empty_rows = len(names) == 1 and text[0] not in "\r\n"
    is_given = bool(given.text_encoding)
    found = Delimited(source, format_, names, rows, has_quoted_lines, row_bytes, is_given, has_empty_rows)
    return found, say_format(given, format_)


def _read_head(source: Source) -> tuple[bytes, bool]:
    with open_source(source) as file:
        head = file.read(HEAD)
        while piece := file.read(len(head)) if head.count(b"\n") < 2 and len(head) < LONGEST_HEAD else b"":
            head += piece
        return head, not file.read(1)


def nameless_columns(found: Delimited) -> str:
    """A sentence about columns that have no name: an index that pandas or R wrote, or what a last separator makes.

    Raises:
      ValueError: such a column holds data.
    """
    nameless = [index for index, name in enumerate(found.names) if not name.strip()]
    for index in nameless:
        values = [row[index].strip() for row in found.rows if index < len(row)]
        if any(values) and (index or len(set(values)) < len(values)):
            what = f"column {index + 1} has no name"
            raise ValueError(say(found.source.name, [Problem(what, "", "Give it one in the first line.")]))
    if not nameless:
        return ""
    return f"columns without a name are left out: {', '.join(str(index + 1) for index in nameless[:SHOWN_ROWS])}."


# --- Reading ----------------------------------------------------------------------------------------------------------


def read(found: Delimited, texts: Sequence[str], wanted: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The columns wanted, by their names as they stand: chunked arrays of Arrow's, numbers or texts.

    Args:
      found: the file.
      texts: columns that are to be read as text.
      wanted: the columns.

    Returns:
      The columns, and in sentences what the file's beginning did not tell.
    """
    if not wanted:  # of which Arrow makes all
        return {}, []
    require_memory(found.source.name, found.source.size * len(wanted) // max(len(found.names), 1))

    def attempt(found: Delimited, as_text: set[str]) -> dict[str, Any]:
        columns = _read(found, as_text, wanted)
        large = [name for name in wanted if name not in as_text and _is_large(columns[name])]
        if large:  # whether they are integers that float64 merges, only their digits tell
            columns |= _read(found, set(large), large)
        return columns

    return _settled(found, texts, wanted, attempt)


def cut(found: Delimited, texts: Sequence[str], wanted: Sequence[str]) -> Cut:
    """As `read`, in blocks. What the columns are is found out in a pass over all of them.

    Raises:
      ValueError: text in another encoding than UTF-8, or columns with too many different texts.
    """
    words: dict[str, dict[str, int]] = {}
    settled, num_rows = (found, set[str]()), 0

    def attempt(found: Delimited, as_text: set[str]) -> None:
        nonlocal settled, num_rows
        words.clear()
        words.update({name: {} for name in wanted if name in as_text})
        num_rows = 0
        for block in _blocks(found, as_text, wanted, BLOCK_ROWS):
            num_rows += len(next(iter(block.values())))
            for name in [name for name in wanted if name not in as_text and _is_large(block[name])]:
                raise pyarrow.ArrowInvalid(f"In CSV column #{found.names.index(name)}: a large number")
            for name, counts in words.items():
                _count(found.source.name, name, block[name], counts)
        settled = found, as_text

    import pyarrow

    _, notes = _settled(found, texts, wanted, attempt)
    found, as_text = settled

    @functools.cache
    def places() -> np.ndarray | None:
        are_lines = not (found.source.packing or found.has_quoted_lines)
        return find_rows(found.source, num_rows) if are_lines else None

    def begin(rows: int, first: int, last: int | None) -> Iterator[dict[str, Any]]:
        is_whole = first == 0 and last in (None, num_rows)
        return _blocks(found, as_text, wanted, rows, Range(first, last), None if is_whole else places())

    return Cut(begin, words, tuple(notes))


def _count(source: str, name: str, values: Any, counts: dict[str, int]) -> None:
    """Count the texts of a block."""
    for own in values.value_counts().to_pylist():
        if own["values"] is not None:
            counts[own["values"]] = counts.get(own["values"], 0) + own["counts"]
    if len(counts) > MOST_WORDS:
        raise ValueError(
            f"{source}: column {printable(name)!r} has more than {MOST_WORDS:,} different texts, which are too many to "
            "be read in blocks. Leave it out by --drop, or write the table as .parquet."
        )


def _settled(
    found: Delimited, texts: Sequence[str], wanted: Sequence[str], attempt: Callable[[Delimited, set[str]], Any]
) -> tuple[Any, list[str]]:
    """What an attempt comes to that reads some columns as text, once these are enough; and notes."""
    import pyarrow

    if not found.rows:
        raise ValueError(f"{found.source.name}: has names of columns and no rows.")
    as_text = {*texts, *(name for i, name in enumerate(found.names) if not _looks_numeric(found, i))}
    notes = list[str]()
    for number in range(MOST_ATTEMPTS + 3):
        if number == MOST_ATTEMPTS:
            as_text = set(wanted)
        try:
            settled = attempt(found, as_text)
            return settled, [*notes, *say_codes(found.names, found.rows, {*wanted} - as_text)]
        except (pyarrow.ArrowInvalid, UnicodeError) as error:
            message, is_text = " ".join(str(error).split()), not isinstance(error, UnicodeError)
        column = re.search(r"In CSV column #(\d+)", message)
        if not is_text or "invalid UTF8" in message:
            encoding = found.format.text_encoding
            other = "" if found.is_encoding_given else _WINDOWS.get(encoding, "")
            if not other:
                raise ValueError(f"{found.source.name}: is no text in {encoding}; --encoding names another.")
            found = found._replace(format=found.format._replace(text_encoding=other))
            notes.append(f"read as text in {other}, for it is none in {encoding}.")
        elif column and found.names[int(column[1])] not in as_text:
            as_text.add(found.names[int(column[1])])
        elif not found.has_quoted_lines and not column:
            found = found._replace(has_quoted_lines=True)
        else:
            break
    raise ValueError(_explain(found, message))


def _is_large(values: Any) -> bool:
    import pyarrow.compute as compute

    extremes = compute.min_max(values)
    low, high = extremes["min"].as_py(), extremes["max"].as_py()
    return low is not None and not -EXACT < low <= high < EXACT


def _looks_numeric(found: Delimited, index: int) -> bool:
    values = [row[index].strip() for row in found.rows if index < len(row)]
    values = [value for value in values if value.lower() not in MISSING_WORDS]
    mark = re.escape(found.format.decimal)
    return all(re.fullmatch(rf"[+-]?(\d+{mark}?\d*|{mark}\d+)([eE][+-]?\d+)?", value, re.ASCII) for value in values)


def _read(found: Delimited, as_text: set[str], wanted: Sequence[str]) -> dict[str, Any]:
    import pyarrow.csv

    with arrow_file(found.source, found.format.text_encoding) as file:
        table = pyarrow.csv.read_csv(file, **_options(found, as_text, wanted))
    return dict(zip(wanted, table.columns, strict=True))


def _blocks(
    found: Delimited,
    as_text: set[str],
    wanted: Sequence[str],
    rows: int,
    wished: Range = ALL,
    places: np.ndarray | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of a range, read from near its beginning on where the places of rows are known."""
    import pyarrow.csv

    with arrow_stream(found.source, found.format.text_encoding) as file:
        at, text, names = 0, file, None
        if places is not None:
            steps = len(places) - 1
            begin, end = wished.first // STEP, steps if wished.last is None else min(steps, -(-wished.last // STEP))
            if begin >= end:
                return
            at, names = begin * STEP, found.names
            text = file.get_stream(int(places[begin]), int(places[end] - places[begin]))
        for batch in pyarrow.csv.open_csv(text, **_options(found, as_text, wanted, names)):
            own, at = batch.slice(*wished.of(at, len(batch))), at + len(batch)
            columns = dict(zip(wanted, own.columns, strict=True))
            for start in range(0, len(own), rows):
                yield {name: column.slice(start, rows) for name, column in columns.items()}


def _options(
    found: Delimited, as_text: set[str], wanted: Sequence[str], names: list[str] | None = None
) -> dict[str, Any]:
    import pyarrow
    import pyarrow.csv

    text, number = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.float64()
    block = min(max(SHORTEST_BLOCK, BLOCK_ROWS * found.row_bytes), LONGEST_BLOCK)
    return {
        "read_options": pyarrow.csv.ReadOptions(block_size=block, column_names=names),
        "parse_options": _parse_options(found),
        "convert_options": pyarrow.csv.ConvertOptions(
            column_types={name: text if name in as_text else number for name in wanted},
            include_columns=list(wanted),
            null_values=_NULLS,
            strings_can_be_null=False,
            decimal_point=found.format.decimal,
        ),
    }


def _parse_options(found: Delimited, on_wrong_row: Any = None) -> Any:
    import pyarrow.csv

    return pyarrow.csv.ParseOptions(
        delimiter=found.format.separator,
        quote_char=found.format.quote,
        newlines_in_values=found.has_quoted_lines,
        ignore_empty_lines=not found.has_empty_rows,
        invalid_row_handler=on_wrong_row,
    )


def _explain(found: Delimited, message: str) -> str:
    """The error, and where rows have more or fewer values than there are names, all of these rows."""
    import pyarrow
    import pyarrow.csv

    wrong: list[tuple[int | None, int]] = []

    def keep(row: Any) -> str:
        wrong.append((row.number, row.actual_columns))
        return "skip"

    name, separator = found.source.name, SEPARATORS.get(found.format.separator, repr(found.format.separator))
    if "Expected" in message:
        try:
            with arrow_file(found.source, found.format.text_encoding) as file:
                pyarrow.csv.read_csv(
                    file,
                    # One thread, so that rows have numbers.
                    read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=LONGEST_BLOCK),
                    parse_options=_parse_options(found, keep),
                    convert_options=pyarrow.csv.ConvertOptions(
                        column_types=dict.fromkeys(found.names, pyarrow.string()), check_utf8=False
                    ),
                )
        except pyarrow.ArrowInvalid:
            pass
    if not wrong:
        return f"{name}: is no text with values between {separator}s and rows of one length ({printable(message)})."
    rows = ", ".join(f"{'' if row is None else row - 1} ({count})" for row, count in wrong[:SHOWN_ROWS])
    more = f" and {len(wrong) - SHOWN_ROWS:,} more" if len(wrong) > SHOWN_ROWS else ""
    return (
        f"{name}: has {len(found.names)} names, separated by {separator}s, and rows with another number of values: "
        f"{rows}{more}. Correct these rows, or name the separator by --separator, the quotes by --quote."
    )
