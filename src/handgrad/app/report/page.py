"""The page: templates filled with metrics.json's numbers, each of which says in the page which one it is."""

from __future__ import annotations

import functools
import itertools
import pathlib
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from markupsafe import Markup

from handgrad.app.report import images, pictures
from handgrad.app.report.svg import raised

if TYPE_CHECKING:
    from handgrad.app.runs import Run

MOST_SHOWN = 24  # classes whose row stands in the table of classes at once
MOST_LISTED = 2000  # classes whose row stands there at all
MOST_OF_LIST = 10  # of what stands in a list, as the evidence of a finding
MINUS, NARROW = "−", "\N{NARROW NO-BREAK SPACE}"


def write_report(path: pathlib.Path, run: Run, metrics: Mapping[str, Any]) -> None:
    """Write the page of a run with these metrics."""
    # What is no text, as a file's name may be, stands there as in metrics.json.
    path.write_text(render(run, metrics), encoding="utf-8", errors="backslashreplace")


def render(run: Run, metrics: Mapping[str, Any]) -> str:
    """The page as text."""
    mistakes = metrics["mistakes"]
    return (
        _environment()
        .get_template("page.html")
        .render(
            metrics=metrics,
            number=functools.partial(number, metrics),
            show=functools.partial(show, metrics),
            pictures=pictures,
            settings=[name for name, value in run.settings.items() if value not in (None, [], ())],
            notes=(*run.table.notes, *run.split.notes),
            left_out=run.model.encoding.left_out,
            encoding=_describe_encoding(run),
            split=_describe_split(run),
            scaling=_describe_scaling(run),
            classes=_order_classes(metrics),
            most_shown=MOST_SHOWN,
            weight_images=images.weight_images(run, metrics["weights"]["largest"]),
            mistake_images=images.row_images(run, _places(run, [each["row"] - 1 for each in mistakes])),
            command=shlex.join(["handgrad", *metrics["arguments"]]) if metrics["arguments"] else None,
            target=run.model.target,
        )
    )


def _places(run: Run, rows: list[int]) -> list[int]:
    """Where rows of the data are in the run's table."""
    return rows if run.sampled is None else np.searchsorted(run.sampled, rows).tolist()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("handgrad.app.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["coded"] = _coded
    return environment


def _coded(text: str) -> Markup:
    """A text in which commands and options are set as such."""
    escaped = str(Markup.escape(_visible(text)))
    return Markup(re.sub(r"`([^`]+)`|((?<!\S)--[a-z0-9-]+)", r"<code>\1\2</code>", escaped))


def _visible(value: Any) -> Any:
    """A name with what would be invisible, or no HTML at all, written out: names come from anyone."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(
        repr(letter)[1:-1] if unicodedata.category(letter) == "Cc" and letter not in "\n\t" else letter
        for letter in value
    )


# --- Numbers ----------------------------------------------------------------------------------------------------------


def number(metrics: Mapping[str, Any], *path: str | int, form: str = "plain", none: str = "–") -> Markup:
    """A number of the metrics as people read it, with its place there and its full value beside it."""
    value = find(metrics, path)
    text = none if value is None else FORMS[form](value)
    place = "/".join(map(str, path))
    exact = "" if value is None else repr(value)
    return Markup('<data value="{}" data-metric="{}">{}</data>').format(exact, place, text)


def show(metrics: Mapping[str, Any], *path: str | int) -> Any:
    """Whatever stands in the metrics: numbers as `number` has them, texts as they are, and lists of such."""
    value = find(metrics, path)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(metrics, *path)
    if isinstance(value, Mapping):
        return _list(
            [Markup("{}: {}").format(_visible(name), show(metrics, *path, name)) for name in _some(value)], value
        )
    if isinstance(value, list | tuple):
        return _list([Markup("{}").format(show(metrics, *path, index)) for index in _some(range(len(value)))], value)
    return "none" if value is None else Markup("<bdi>{}</bdi>").format(_visible(value))


def _some(names: Iterable[Any]) -> list[Any]:
    return list(itertools.islice(names, MOST_OF_LIST))


def _list(shown: list[Markup], of: Sized) -> Markup | str:
    more = f" and {len(of) - len(shown):,} more, in metrics.json" if len(of) > len(shown) else ""
    return Markup(", ").join(shown) + more if shown else "none"


def find(metrics: Any, path: tuple[str | int, ...]) -> Any:
    """What stands at a place of the metrics."""
    return functools.reduce(lambda inner, name: inner[name], path, metrics)


def _count(value: int) -> str:
    return f"{value:,}"


def _plain(value: float) -> str:
    """Three digits that matter, or a whole number as it is."""
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e6):
        text = f"{value:,.0f}"
    elif 1e-3 <= abs(value) < 1e6:
        text = f"{float(f'{value:.3g}'):,}".removesuffix(".0")
    else:
        mantissa, power = f"{value:.2e}".split("e")
        text = f"{float(mantissa):g}·{raised(int(power))}"
    return text.replace("-", MINUS)


def _percent(value: float) -> str:
    """With a decimal, or two where one would call 100 % what is less, or 0 % what is more."""
    text = f"{100 * value:.1f}"
    if float(text) in (0, 100) and abs(value - round(value)) > 1e-9:
        text = f"{100 * value:.2f}"
        text = {"100.00": "> 99.99", "0.00": "< 0.01"}.get(text, text)
    return f"{text}{NARROW}%"


def _nats(value: float) -> str:
    return f"{value:.4f}" if value == 0 or value >= 1e-3 else _plain(value)


def _signed(value: float) -> str:
    sign = "+" if value > 0 else ""
    return sign + (f"{value:.3f}".replace("-", MINUS) if 1e-3 <= abs(value) < 1e6 else _plain(value))


FORMS = {"count": _count, "plain": _plain, "percent": _percent, "nats": _nats, "signed": _signed}


# --- Words ------------------------------------------------------------------------------------------------------------


def _order_classes(metrics: Mapping[str, Any]) -> list[int]:
    """The classes as they are, or where they are many the least well told first; those that no row tests last."""
    classes = metrics["per_class"]
    if len(classes) <= MOST_SHOWN:
        return list(range(len(classes)))

    def key(index: int) -> tuple:
        f1 = classes[index]["f1"]
        return (not classes[index]["rows"], f1 is None, f1, -classes[index]["rows"])

    return sorted(range(len(classes)), key=key)[:MOST_LISTED]


def _describe_split(run: Run) -> str:
    if run.settings.get("test_data"):
        return "as the files have them"
    if run.table.times is not None:
        return "by time: the latest rows test, the earliest are trained on"
    if run.table.groups is not None:
        return "by group: rows of one group stay together"
    return "at random, each class in the same proportion; copies of a row stay together"


def _describe_encoding(run: Run) -> list[str]:
    """What was done to the data before the model saw them."""
    encoding, said = run.model.encoding, []
    if not _is_scaled(run):
        return ["The features are as they were given: nothing was shifted or scaled.", *_describe_weights(run)]
    if encoding.image_shape is not None:
        size = " × ".join(map(str, encoding.image_shape))
        said.append(f"Each row is an image of {size}; its pixels were brought to the range 0 to 1, all alike.")
    elif encoding.inputs is None and hasattr(run.table.X, "indptr"):
        said.append("The features are mostly zeros and stayed so: each was divided by its largest magnitude.")
    elif encoding.inputs is None or any(each.kind != "text" for each in encoding.inputs):
        said.append("Each number was shifted and scaled to mean 0 and standard deviation 1.")
    if any(each.kind == "text" for each in encoding.inputs or ()):
        said.append("Each text became one feature for each of its words: 1 where the row has that word, else 0.")
    if encoding.missing == "drop-rows":
        said.append("Rows that lack a value were left out.")
    elif encoding.missing == "indicator":
        said.append("Missing values were filled in by the mean, and a feature says where.")
    elif encoding.missing is not None:
        how = {"mean": "the mean", "median": "the median", "most-frequent": "the most frequent value"}
        said.append(f"Missing values were filled in by {how[encoding.missing]} of the rows trained on.")
    said.append("All of this was measured on the rows trained on, and none on the rows that test.")
    return [*said, *_describe_weights(run)]


def _is_scaled(run: Run) -> bool:
    encoding = run.model.encoding
    return encoding.inputs is not None or bool(np.any(encoding.offset != 0) or np.any(encoding.scale != 1))


def _describe_scaling(run: Run) -> str:
    """Whether weights can be compared."""
    if not _is_scaled(run):
        return "Each weight is for a feature in its own unit: those of features of unlike size cannot be compared."
    if any(each.kind == "text" for each in run.model.encoding.inputs or ()):
        return "Numbers were scaled alike, and a word is 1 or 0, so that their weights can be compared."
    return "The features are scaled alike, so that their weights can be compared."


def _describe_weights(run: Run) -> list[str]:
    """What counts more than other things."""
    said, by_class = [], run.settings.get("class_weight")
    if run.split.train.weights is not None:
        said.append(
            "Rows count by their weights in the fit and in every loss. In what is counted, as in the accuracy, each "
            "row is one."
        )
    if by_class:
        said.append(f"In the fit, and nowhere else, classes count by --class-weight {by_class}.")
    return said
