"""Values as Arrow holds them, as NumPy's numbers and as texts, and what texts may stand for: numbers and dates."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from handgrad.data.naming import printable
from handgrad.data.problems import Problem

# What stands for a missing value, in any case. In the column of the classes these are names like any other.
MISSING_WORDS = ("", "na", "n/a", "#na", "#n/a", "<na>", "nan", "+nan", "-nan", "null", "none")
EXACT = 2.0**53  # integers below it are in float64 what they are
DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%Y-%m-%d %H:%M", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S")
SECONDS_A_DAY = 86400.0
AMBIGUOUS = ("dates may be day/month or month/day", "Write them as 2026-11-26.")
_NUMBER = r"^[+-]?([0-9]+(POINT)?[0-9]*|(POINT)[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?inf(inity)?$"
GROUPING = ",. \u00a0\u202f'\u2019"  # what may stand between thousands, where it is not the decimal mark


def require_pyarrow() -> None:
    """Say what is missing where it is."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ImportError("reading tables needs pyarrow: pip install 'handgrad[app]'") from None


@contextlib.contextmanager
def returning_memory() -> Iterator[None]:
    """Let Arrow take its memory from the one of its allocators that gives back what is freed."""
    require_pyarrow()
    import pyarrow

    usual = pyarrow.default_memory_pool()
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    try:
        yield
    finally:
        pyarrow.set_memory_pool(usual)


def release() -> int:
    """Give back what Arrow has freed; returns 0."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()
    return 0


def is_text(dtype: Any) -> bool:
    """Whether values of the type are texts."""
    import pyarrow.types as kinds

    return kinds.is_string(dtype) or kinds.is_large_string(dtype) or kinds.is_string_view(dtype)


def to_numpy(values: Any) -> np.ndarray:
    """Numbers in a dtype that they have, or in float64 where one is missing."""
    if values.null_count:
        values = values.cast("float64")
    chunks = getattr(values, "chunks", [values])
    if len(chunks) == 1:
        return chunks[0].to_numpy(zero_copy_only=False)
    # What ChunkedArray.to_numpy gives keeps all the chunks alive that it has copied.
    return np.concatenate(
        [np.empty(0, values.type.to_pandas_dtype()), *(chunk.to_numpy(zero_copy_only=False) for chunk in chunks)]
    )


def to_words(values: Any) -> tuple[np.ndarray, Any]:
    """Texts as indices (N,), int32, −1 where there is none, and the different texts, an array of Arrow's."""
    import pyarrow
    import pyarrow.types as kinds

    if not kinds.is_dictionary(values.type):
        values = values.dictionary_encode()
    if isinstance(values, pyarrow.ChunkedArray):
        values = values.unify_dictionaries().combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):  # of no chunks, or too many texts for one
        values = pyarrow.concat_arrays(values.chunks) if values.num_chunks else pyarrow.array([], values.type)
    codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
    return codes, values.dictionary.cast("string")


def spell(values: Any) -> Any:
    """Numbers, booleans and dates as a file of text would have them."""
    import pyarrow
    import pyarrow.types as kinds

    if kinds.is_floating(values.type):
        numbers = to_numpy(values)
        different, codes = np.unique(numbers, return_inverse=True)
        words = [None if np.isnan(number) else _short(number) for number in different.tolist()]
        return pyarrow.chunked_array([pyarrow.array(words, "string").take(pyarrow.array(codes))])
    try:
        return values.cast("string")
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
        return pyarrow.chunked_array(
            [pyarrow.array([None if each is None else str(each) for each in values.to_pylist()])]
        )


def _short(number: float) -> str:
    return str(int(number)) if number == int(number) and abs(number) < EXACT else repr(number)


def spread(of_words: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """For each row what belongs to its word; NaN where it has none."""
    return np.append(of_words, np.nan)[codes]


def texts_of(values: Any) -> np.ndarray:
    """A column that is passed through as text, "" where there is none."""
    import pyarrow.types as kinds

    values = values if is_text(values.type) or kinds.is_dictionary(values.type) else spell(values)
    codes, words = to_words(values)
    return np.array([*words.to_pylist(), ""], dtype=object)[codes]


def chunked(array: np.ndarray) -> Any:
    """An array (N,) as a column of Arrow's."""
    import pyarrow

    values = np.strings.decode(array, "utf-8", "replace") if array.dtype.kind == "S" else array
    return pyarrow.chunked_array([pyarrow.array(values)])


def days_of(values: Any) -> np.ndarray:
    """Days since 1970-01-01."""
    import pyarrow.types as kinds

    if kinds.is_date(values.type):
        return to_numpy(values.cast("date32").cast("int32")).astype(np.float64)
    per_second = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[values.type.unit]
    return to_numpy(values.cast("int64")) / (per_second * SECONDS_A_DAY)


def parse_numbers(words: Any, decimal: str) -> tuple[np.ndarray, np.ndarray, str]:
    """The numbers that texts stand for, which do, and what groups their digits; an infinite one is one."""
    import pyarrow
    import pyarrow.compute as compute

    if decimal == ".":
        with contextlib.suppress(pyarrow.ArrowInvalid):
            return words.cast("float64").to_numpy(zero_copy_only=False), np.ones(len(words), bool), ""
    point = re.escape(decimal)
    is_number = compute.match_substring_regex(words, _NUMBER.replace("POINT", point))
    found = ""
    for mark in GROUPING.replace(decimal, ""):
        grouped = compute.match_substring_regex(
            words, rf"^[+-]?[1-9][0-9]{{0,2}}({re.escape(mark)}[0-9]{{3}})+({point}[0-9]*)?$"
        )
        if compute.any(grouped).as_py():
            words = compute.if_else(grouped, compute.replace_substring(words, mark, ""), words)
            is_number, found = compute.or_(is_number, grouped), mark
            break
    numbers = compute.if_else(is_number, compute.replace_substring(words, decimal, "."), pyarrow.scalar(None, "string"))
    values = numbers.cast("float64").to_numpy(zero_copy_only=False)
    return values, is_number.to_numpy(zero_copy_only=False), found


def parse_dates(name: str, words: Any, problems: list[Problem]) -> np.ndarray | None:
    """Days since 1970-01-01 where all texts are dates of one form."""
    import pyarrow
    import pyarrow.compute as compute

    if (
        not len(words)
        or not compute.all(compute.match_substring_regex(words.slice(0, 100), r"^\d+[-./]\d+[-./]\d")).as_py()
    ):
        return None
    for dtype in ("timestamp[us]", "timestamp[us, tz=UTC]"):
        try:
            return days_of(words.cast(_timestamp(dtype)))
        except pyarrow.ArrowInvalid:
            pass
    for form in DATE_FORMATS:
        try:
            return days_of(compute.strptime(words, format=form, unit="us"))
        except pyarrow.ArrowInvalid:
            pass
    return _parse_slashes(name, words, problems)


def _timestamp(dtype: str) -> Any:
    import pyarrow

    return pyarrow.timestamp("us", tz="UTC" if "tz" in dtype else None)


def _parse_slashes(name: str, words: Any, problems: list[Problem]) -> np.ndarray | None:
    import pyarrow
    import pyarrow.compute as compute

    read = {}
    for form in ("%d/%m/%Y", "%m/%d/%Y"):
        with contextlib.suppress(pyarrow.ArrowInvalid):
            read[form] = days_of(compute.strptime(words, format=form, unit="us"))
    if len(read) == 2:
        problems.append(Problem(AMBIGUOUS[0], f"{printable(name)} ({printable(words[0].as_py())!r})", AMBIGUOUS[1]))
    return next(iter(read.values()), None)


def as_codes(name: str, values: Any, problems: list[Problem]) -> np.ndarray:
    """A column whose equal values belong together, as indices (N,), int32."""
    texts = texts_of(values)
    if (texts == "").any():
        row = int(np.argmax(texts == "")) + 1
        what = "groups are missing"
        problems.append(Problem(what, f"{printable(name)} (row {row})", "Fill them in, or leave such rows out."))
    return np.unique(texts.astype(str), return_inverse=True)[1].astype(np.int32)
