"""The charts of a report, each of numbers that metrics.json has."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from handgrad.app.report import svg
from handgrad.app.report.svg import raised
from handgrad.check.report import ERROR_EDGES

Metrics = Mapping[str, Any]


def losses(metrics: Metrics) -> Markup:
    """The loss by epoch, of the rows trained on and of those watched, and the epoch where these have the least."""
    history = metrics["history"]
    trained = [(each["epoch"], _number(each["loss"])) for each in history]
    watched = [(each["epoch"], _number(each["validation_loss"])) for each in history]
    values = [value for _, value in trained + watched]
    frame = svg.Frame(_epochs(history), svg.from_zero("mean loss (nats)", values))
    return svg.draw(
        frame,
        *_curve(frame, trained, "trained"),
        *_curve(frame, watched, "watched"),
        _best(frame, watched, metrics.get("best_epoch")),
        title="The mean loss after each epoch, in nats",
    )


def accuracies(metrics: Metrics) -> Markup:
    """The accuracy on the rows watched, by epoch."""
    history = metrics["history"]
    watched = [(each["epoch"], _number(each["validation_accuracy"])) for each in history]
    values = [value for _, value in watched]
    frame = svg.Frame(_epochs(history), svg.spanning("accuracy", values, is_percent=True))
    return svg.draw(
        frame,
        *_curve(frame, watched, "watched"),
        _best(frame, watched, metrics.get("best_epoch")),
        title="The accuracy after each epoch",
    )


def penalties(metrics: Metrics) -> Markup:
    """The score held out, by penalty, and the one that was chosen."""
    path = metrics["path"]
    points = [(l2, _number(score)) for l2, score in zip(path["l2"], path["score"], strict=True)]
    unit = f"{path['scoring']} (nats)" if path["scoring"] == "log-loss" else path["scoring"]
    frame = svg.Frame(
        svg.spanning("penalty l2", [l2 for l2, _ in points], is_log=True),
        svg.spanning(f"{unit}, {path['held_out']}", [score for _, score in points]),
    )
    chosen = points[path["best"]]
    return svg.draw(
        frame,
        svg.line(frame, points, "watched"),
        svg.dots(frame, points, "watched"),
        svg.dots(frame, [chosen], "best", 6),
        title=f"{path['scoring']} on {path['held_out']} for each penalty tried; {chosen[0]:.3g} was chosen",
    )


def reliability(metrics: Metrics) -> Markup:
    """How often the model is right beside how sure it was, bin by bin."""
    found = metrics["calibration"]
    bins = list(zip(found["confidence"], found["accuracy"], found["low"], found["high"], strict=True))
    low = min(map(min, bins))
    low = math.floor(10 * low) / 10 if low > 0.1 else 0.0
    low = min(low, 0.9)
    frame = svg.Frame(
        svg.Axis("how sure it says it is", low, 1, is_percent=True),
        svg.Axis("how often it is right", low, 1, is_percent=True),
    )
    return svg.draw(
        frame,
        svg.line(frame, [(low, low), (1, 1)], "ideal"),
        svg.spans(frame, [(confidence, down, up) for confidence, _, down, up in bins], "interval"),
        svg.dots(frame, [(confidence, accuracy) for confidence, accuracy, *_ in bins], "trained", 4),
        title="How often the model is right, for predictions of which it is about equally sure",
    )


def errors(check: Metrics) -> Markup:
    """How many entries of the gradient are off by how much of their tolerance."""
    counted = [each["error_counts"] for each in check["checks"] if each["error_counts"]]
    counts = [sum(column) for column in zip(*counted, strict=True)] or [0] * (len(ERROR_EDGES) + 1)
    edges = ["0", *(raised(round(math.log10(edge))) for edge in ERROR_EDGES[1:-1]), "1", "> 1"]
    frame = svg.Frame(
        svg.Axis("error, up to this part of its tolerance", -0.5, len(counts) - 0.5),
        svg.from_zero("entries", [1.1 * max(counts)], is_whole=True),
    )
    marks = svg.bars(frame, counts, ["trained"] * (len(counts) - 1) + ["best"])
    title = "How many entries of the gradient are off by how much of what rounding allows"
    return svg.draw(frame, marks, title=title, labels=list(enumerate(edges)))


def whisker(metrics: Metrics) -> Markup:
    """The accuracy with its interval, and that of the majority class, on a line from 0 to 100 %."""
    low, high = metrics["test_accuracy_interval"]
    accuracy, majority = _along(metrics["test_accuracy"]), _along(metrics["majority_accuracy"])
    title = "The accuracy with its 95 % interval, and the accuracy of always saying the majority class"
    parts = [
        Markup('<svg class="whisker" viewBox="0 0 400 58" role="img"><title>{}</title>').format(title),
        Markup('<path class="axis" d="M{} 30H{}"/>').format(_along(0), _along(1)),
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(Markup('<path class="notch" d="M{} 30v5"/>').format(_along(share)))
        text = Markup('<text class="x tick" x="{}" y="50" data-at="{}" text-anchor="{}">{:.0f} %</text>')
        parts.append(text.format(_along(share), _along(share), _anchor(_along(share), 20), 100 * share))
    name = Markup('<text class="name" x="{:.2f}" y="13" text-anchor="{}">majority class</text>')
    return Markup("").join(
        [
            *parts,
            Markup('<path class="interval span" d="M{:.2f} 30H{:.2f}"/>').format(_along(low), _along(high)),
            Markup('<path class="majority" d="M{:.2f} 20v20"/>').format(majority),
            name.format(majority, _anchor(majority, 50)),
            Markup('<circle class="dot trained" cx="{:.2f}" cy="30" r="5"/></svg>').format(accuracy),
        ]
    )


def _along(share: float) -> float:
    return 10 + 380 * share


def _anchor(x: float, room: float) -> str:
    """Where a text at x is held, which needs that much room to either side."""
    return "start" if x < room else "end" if x > 400 - room else "middle"


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _epochs(history: Sequence[Metrics]) -> svg.Axis:
    last = history[-1]["epoch"]
    return svg.Axis("epoch", 1, last, is_whole=True) if last > 1 else svg.Axis("epoch", 0, 2, is_whole=True)


def _curve(frame: svg.Frame, points: Sequence[tuple[float, float]], name: str) -> list[Markup]:
    return [svg.line(frame, points, name)] if len(points) > 1 else [svg.dots(frame, points, name)]


def _best(frame: svg.Frame, points: Sequence[tuple[float, float]], epoch: int | None) -> Markup:
    return svg.dots(frame, [point for point in points if point[0] == epoch], "best", 5)
