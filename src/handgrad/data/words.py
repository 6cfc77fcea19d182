"""Values as Arrow holds them, as NumPy's numbers and as texts, and the numbers that texts may stand for."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from handgrad.data.naming import printable
from handgrad.data.problems import Problem

# What stands for a missing value, in any case. In the column of the classes these are names like any other.
MISSING_WORDS = ("", "na", "n/a", "#na", "#n/a", "<na>", "nan", "+nan", "-nan", "null", "none")
EXACT = 2.0**53  # integers below it are in float64 what they are
SECONDS_A_DAY = 86400.0
_NUMBER = r"^[+-]?([0-9]+(POINT)?[0-9]*|(POINT)[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?inf(inity)?$"
SIGNS = "%‰€$£¥"
_SPACE = "[ \u00a0\u202f]*"
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
        values = values.cast("float64", safe=False)  # who asks has looked at integers beyond 2**53
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
    return codes_of(values), values.dictionary.cast("string")


def codes_of(values: Any) -> np.ndarray:
    """Where the values of a dictionary array are in its dictionary, (N,), int32, −1 where there is none."""
    import pyarrow.types as kinds

    indices = values.indices
    if kinds.is_unsigned_integer(indices.type):
        indices = indices.cast("int64")
    return indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)


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
    return str(int(number)) if abs(number) < EXACT and number == int(number) else repr(number)


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


class Numbers(NamedTuple):
    """For each of some texts its number, and whether it is one; an infinite one is one.

    Attributes:
      values: the numbers.
      is_number: which texts are such.
      grouping: what stands between thousands.
      sign: what stands before or after all of them, such as %.
    """

    values: np.ndarray
    is_number: np.ndarray
    grouping: str = ""
    sign: str = ""


def parse_numbers(words: Any, decimal: str) -> Numbers:
    """The numbers that texts stand for: all with one sign of a unit, or all without."""
    import pyarrow
    import pyarrow.compute as compute

    if decimal == ".":
        with contextlib.suppress(pyarrow.ArrowInvalid):
            return Numbers(words.cast("float64").to_numpy(zero_copy_only=False), np.ones(len(words), bool))
    words, sign, has_unit = _without_sign(compute.replace_substring(words, "\u2212", "-"))
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
    is_number = compute.and_(is_number, has_unit)
    numbers = compute.if_else(is_number, compute.replace_substring(words, decimal, "."), pyarrow.scalar(None, "string"))
    values = numbers.cast("float64").to_numpy(zero_copy_only=False)
    return Numbers(values, is_number.to_numpy(zero_copy_only=False), found, sign)


def _without_sign(words: Any) -> tuple[Any, str, Any]:
    """The texts without the sign of a unit where most have one, the sign, and which of them are in that unit."""
    import pyarrow
    import pyarrow.compute as compute

    for sign in SIGNS:
        has_sign = compute.match_substring(words, sign)
        if 2 * compute.sum(has_sign).as_py() >= len(words):
            mark = re.escape(sign)
            bare = compute.replace_substring_regex(words, rf"^([+-]?){mark}{_SPACE}([0-9+-].*)$", r"\1\2")
            bare = compute.replace_substring_regex(bare, rf"^(.*[0-9.,]){_SPACE}{mark}$", r"\1")
            return bare, sign, has_sign
    return words, "", pyarrow.array(np.ones(len(words), bool))


def as_codes(name: str, values: Any, problems: list[Problem]) -> np.ndarray:
    """A column whose equal values belong together, as indices (N,), int32."""
    texts = texts_of(values)
    if (texts == "").any():
        row = int(np.argmax(texts == "")) + 1
        what = "groups are missing"
        problems.append(Problem(what, f"{printable(name)} (row {row})", "Fill them in, or leave such rows out."))
    return np.unique(texts.astype(str), return_inverse=True)[1].astype(np.int32)
