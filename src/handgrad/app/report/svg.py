"""Small charts as SVG: axes that end where the data do, and lines, points and bars in their units.

Written here rather than drawn by matplotlib, which takes 0.5 s to import and 0.2 s for each figure where these take a
millisecond, and whose text and colours do not follow the page into the dark, onto a phone or to a printer. What is
drawn has classes, and the page's style has the colours.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 54, 22, 26, 44  # room for the numbers and names of the axes
TICKS = 5
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Axis(NamedTuple):
    """What an axis shows, from where to where; whole: only whole numbers are named on it."""

    label: str
    low: float
    high: float
    is_log: bool = False
    is_percent: bool = False
    is_whole: bool = False


class Frame(NamedTuple):
    """Two axes that marks are drawn between."""

    x: Axis
    y: Axis

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point is, in the picture's units."""
        across, up = _part(self.x, x), _part(self.y, y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def spanning(label: str, values: Iterable[float], **options: bool) -> Axis:
    """An axis for values, which need not be finite, with some room at both ends where it is logarithmic."""
    is_log = options.get("is_log", False)
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not is_log)] or [1.0]
    low, high = min(finite), max(finite)
    if is_log:
        room = max((high / low) ** 0.04, 1.05)
        return Axis(label, low / room, high * room, **options)
    # Numbers of six digits are told apart; of shares, a percent is little.
    least = 0.01 if options.get("is_percent") else 1e-4 * max(abs(low), abs(high)) or 1.0
    if high - low < least:
        low, high = low - least / 2, high + least / 2
    if options.get("is_percent"):
        low, high = max(low, 0.0), min(high, 1.0)
    return Axis(label, low, high, **options)


def from_zero(label: str, values: Iterable[float], **options: bool) -> Axis:
    """An axis that begins at 0."""
    return spanning(label, [0.0, *values], **options)


def draw(frame: Frame, *marks: Markup, title: str, labels: Sequence[tuple[float, str]] = ()) -> Markup:
    """The chart; `labels` stand below the x axis in place of its numbers."""
    left, bottom, right = LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [Markup('<svg viewBox="0 0 {} {}" role="img"><title>{}</title>').format(WIDTH, HEIGHT, title)]
    for value in ticks(frame.y):
        y = frame.place(frame.x.low, value)[1]
        parts.append(Markup('<path class="grid" d="M{} {:.2f}H{}"/>').format(left, y, right))
        text = Markup('<text class="y tick" x="{}" y="{:.2f}" data-at="{:.2f}" text-anchor="end">{}</text>')
        parts.append(text.format(left - 7, y + 4, y, tick_text(frame.y, value)))
    for value, name in labels or [(value, tick_text(frame.x, value)) for value in ticks(frame.x)]:
        x = frame.place(value, frame.y.low)[0]
        if not labels:
            parts.append(Markup('<path class="notch" d="M{:.2f} {}v4"/>').format(x, bottom))
        text = Markup('<text class="x tick" x="{:.2f}" y="{}" data-at="{:.2f}" text-anchor="middle">{}</text>')
        parts.append(text.format(x, bottom + 17, x, name))
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(left, bottom, right))
    parts.append(Markup('<text class="name" x="{}" y="14">{}</text>').format(4, frame.y.label))
    text = Markup('<text class="name" x="{}" y="{}" text-anchor="end">{}</text>')
    parts.append(text.format(right, HEIGHT - 6, frame.x.label))
    return Markup("").join([*parts, *marks, Markup("</svg>")])


def line(frame: Frame, points: Iterable[tuple[float, float]], name: str) -> Markup:
    """A line through points, broken where one is not finite."""
    path, pen = [], "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = "M"
            continue
        path.append("{}{:.2f} {:.2f}".format(pen, *frame.place(x, y)))
        pen = "L"
    return Markup('<path class="line {}" d="{}"/>').format(name, "".join(path))


def dots(frame: Frame, points: Iterable[tuple[float, float]], name: str, radius: float = 3.2) -> Markup:
    """A dot for each point that is finite."""
    circle = Markup('<circle class="dot {}" cx="{:.2f}" cy="{:.2f}" r="{}"/>')
    finite = [point for point in points if all(map(math.isfinite, point))]
    return Markup("").join(circle.format(name, *frame.place(x, y), radius) for x, y in finite)


def spans(frame: Frame, triples: Iterable[tuple[float, float, float]], name: str) -> Markup:
    """A vertical line for each (x, low, high)."""
    path = Markup('<path class="span {}" d="M{:.2f} {:.2f}V{:.2f}"/>')
    return Markup("").join(path.format(name, *frame.place(x, low), frame.place(x, high)[1]) for x, low, high in triples)


def bars(frame: Frame, heights: Sequence[float], names: Sequence[str]) -> Markup:
    """A bar at 0, 1, 2 and so on, from the axis up, its number above it."""
    bar = Markup('<rect class="bar {}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>')
    number = Markup('<text class="number" x="{:.2f}" y="{:.2f}" text-anchor="middle">{}</text>')
    parts = []
    for index, (height, name) in enumerate(zip(heights, names, strict=True)):
        (x, y), (end, bottom) = frame.place(index - 0.4, height), frame.place(index + 0.4, 0)
        parts.append(bar.format(name, x, y, end - x, bottom - y))
        parts.append(number.format((x + end) / 2, y - 4, f"{height:,}"))
    return Markup("").join(parts)


# --- Axes -------------------------------------------------------------------------------------------------------------


def _part(axis: Axis, value: float) -> float:
    """How far along the axis a value is, from 0 to 1; beyond an end, at the end."""
    low, high = axis.low, axis.high
    if axis.is_log:
        low, high, value = math.log(low), math.log(high), math.log(max(value, axis.low))
    return min(max((value - low) / (high - low), 0.0), 1.0)


def ticks(axis: Axis) -> list[float]:
    """Round numbers on the axis, about five."""
    if axis.is_log:
        first, last = math.ceil(math.log10(axis.low) - 1e-9), math.floor(math.log10(axis.high) + 1e-9)
        every = max(1, math.ceil((last - first + 1) / (TICKS + 1)))
        decades = [10.0**power for power in range(first, last + 1, every)]
        if len(decades) > 1:
            return decades
    span = axis.high - axis.low
    unit = 10.0 ** math.floor(math.log10(span / TICKS))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= TICKS + 1e-9)
    if axis.is_whole:
        step = max(1.0, round(step))
    first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
    return [count * step for count in range(first, last + 1)]


def tick_text(axis: Axis, value: float) -> str:
    """A number on an axis, as people write it."""
    if axis.is_percent:
        return f"{100 * value:.6g} %"
    if value and not 1e-3 <= abs(value) < 1e5:
        mantissa, power = f"{value:.5e}".split("e")
        text = raised(int(power)) if float(mantissa) == 1 else f"{float(mantissa):g}·{raised(int(power))}"
    else:
        text = f"{value:.6g}"
    return text.replace("-", "−")


def raised(power: int) -> str:
    """A power of ten.

    Example:
      >>> raised(-12)
      '10⁻¹²'
    """
    return "10" + str(power).translate(_SUPERSCRIPTS)
