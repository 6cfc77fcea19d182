"""Dates that stand in texts, as a person would read them: what may be two dates is none of them, and is said."""

from typing import Any, NamedTuple

import numpy as np

from handgrad.data.naming import printable
from handgrad.data.problems import Problem
from handgrad.data.tables import Kind
from handgrad.data.words import SECONDS_A_DAY, days_of

_WRITE = "Write them as 2026-11-26."
AMBIGUOUS = ("dates may be day/month or month/day", _WRITE)
SHORT_YEARS = ("dates have years of two digits", _WRITE)
SOME_ZONES = ("some dates have a time zone and others have none", _WRITE)
LOOKED_AT = 100  # texts, of which one at least must look like a date
_DATE = (
    r"^(?P<first>[0-9]{1,4})(?P<mark>[-./])(?P<middle>[0-9]{1,2})(?P<mark_again>[-./])(?P<last>[0-9]{1,4})"
    r"(?:[T ](?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2}(?:\.[0-9]+)?))?"
    r"(?: ?(?P<half>[AaPp])[Mm])? ?(?P<zone>Z|(?P<sign>[+-])(?P<zone_hour>[0-9]{2}):?(?P<zone_minute>[0-9]{2}))?)?$"
)


class Dates(NamedTuple):
    """For each of some texts its days since 1970-01-01, and whether it is a date; what kind of dates they are."""

    days: np.ndarray
    is_date: np.ndarray
    kind: Kind = "date"


def parse_dates(name: str, words: Any, problems: list[Problem], wanted: Kind | None = None) -> Dates | None:
    """The dates among texts; None where there are none.

    2026-11-26, 26.11.2026, 26/11/2026 or 11/26/2026, with - for / too, and a time after them: 17:30, 5:30:01.5 PM, with
    a zone. Which of the two slashes mean says the kind that is wanted, or else follows from all texts together.
    """
    import pyarrow
    import pyarrow.compute as compute

    looks = compute.match_substring_regex(words.slice(0, LOOKED_AT), r"^[0-9]+[-./][0-9]+[-./][0-9]")
    if not compute.any(looks).as_py():
        return None
    if compute.all(looks).as_py():  # most are written as Arrow itself reads them
        for zone in (None, "UTC"):
            try:
                return Dates(days_of(words.cast(pyarrow.timestamp("us", tz=zone))), np.ones(len(words), bool))
            except pyarrow.ArrowInvalid:
                pass
    parts = compute.extract_regex(words, _DATE)
    rows = np.flatnonzero(parts.is_valid().to_numpy(zero_copy_only=False))
    if not len(rows):
        return None
    chosen = parts.take(pyarrow.array(rows))
    texts = {field.name: compute.struct_field(chosen, field.name) for field in chosen.type}
    found, is_short, has_zone = _of_parts(name, words.take(pyarrow.array(rows)), texts, problems, wanted)
    for where, (what, advice) in ((is_short, SHORT_YEARS), (has_zone & found.is_date, SOME_ZONES)):
        if where.any() and (what == SHORT_YEARS[0] or not has_zone[found.is_date].all()):
            example = words[int(rows[np.argmax(where)])].as_py()
            problems.append(Problem(what, f"{printable(name)} ({printable(example)!r})", advice))
    days, is_date = np.zeros(len(words)), np.zeros(len(words), bool)
    days[rows], is_date[rows] = found.days, found.is_date | is_short
    return Dates(days, is_date, found.kind) if is_date.any() else None


def _of_parts(
    name: str, words: Any, texts: dict[str, Any], problems: list[Problem], wanted: Kind | None
) -> tuple[Dates, np.ndarray, np.ndarray]:
    """The dates of texts in their parts; which have a year of two digits; which have a zone."""
    import pyarrow.compute as compute

    def number(part: str) -> np.ndarray:
        filled = compute.if_else(compute.equal(texts[part], ""), "0", texts[part])
        return filled.cast("float64").to_numpy(zero_copy_only=False)

    def is_any(part: str, *values: Any) -> np.ndarray:
        return np.logical_or.reduce(
            [compute.equal(texts[part], value).to_numpy(zero_copy_only=False) for value in values]
        )

    first, middle, last = number("first"), number("middle"), number("last")
    digits = {part: compute.utf8_length(texts[part]).to_numpy() for part in ("first", "middle", "last")}
    hour, minute, second = number("hour"), number("minute"), number("second")
    of_twelve = ~is_any("half", "")
    is_time = (minute < 60) & (second < 60) & np.where(of_twelve, (hour >= 1) & (hour <= 12), hour < 24)
    hour = np.where(of_twelve, hour % 12 + 12 * is_any("half", "p", "P"), hour)
    away = np.where(is_any("sign", "-"), -1, 1) * (60 * number("zone_hour") + number("zone_minute"))
    time = (60 * (60 * hour + minute - away) + second) / SECONDS_A_DAY
    is_alike = is_time & is_any("mark", texts["mark_again"])
    of_points = is_any("mark", ".")

    year_first = is_alike & (digits["first"] == 4) & (digits["last"] <= 2)
    year_last = is_alike & (digits["last"] == 4) & (digits["first"] <= 2)
    turns = year_last & ~of_points
    day_first, month_first = _days(last, middle, first), _days(last, first, middle)
    kind = wanted if wanted in ("day-first date", "month-first date") else _turned(day_first, month_first, turns)
    differ = turns & (day_first.is_date | month_first.is_date) & (day_first.days != month_first.days)
    if kind == "date" and differ.any():
        example = words[int(np.argmax(differ))].as_py()
        problems.append(Problem(AMBIGUOUS[0], f"{printable(name)} ({printable(example)!r})", AMBIGUOUS[1]))
    days, is_date, _ = _days(first, middle, last)
    for where, order in (
        (~year_first, Dates(days, np.zeros(len(days), bool))),
        (year_last, month_first if kind == "month-first date" else day_first),
        (year_last & of_points, day_first),
    ):
        days, is_date = np.where(where, order.days, days), np.where(where, order.is_date, is_date)

    is_short = is_alike & (digits["last"] == 2) & (digits["first"] <= 2)
    is_short &= ((digits["first"] == 2) & (digits["middle"] == 2)) | is_any("mark", "/")
    orders = ((middle, first), (first, middle), (middle, last))
    is_short &= np.logical_or.reduce([_days(2000.0, *order).is_date for order in orders])
    return Dates(days + time, is_date, kind), is_short, ~is_any("zone", "")


def _turned(day_first: Dates, month_first: Dates, turns: np.ndarray) -> Kind:
    """Which part is the day where more texts are dates so; "date" where as many are."""
    days, months = (np.count_nonzero(order.is_date & turns) for order in (day_first, month_first))
    return "day-first date" if days > months else "month-first date" if months > days else "date"


def _days(year: Any, month: np.ndarray, day: np.ndarray) -> Dates:
    is_month = (month >= 1) & (month <= 12)
    begin = (12 * (year - 1970) + np.where(is_month, month, 1) - 1).astype("int64").astype("M8[M]")
    length = ((begin + np.timedelta64(1, "M")).astype("M8[D]") - begin.astype("M8[D]")).astype(np.int64)
    is_day = is_month & (day >= 1) & (day <= length) & (np.asarray(year) >= 1)
    return Dates(begin.astype("M8[D]").astype(np.float64) + day - 1, is_day)
