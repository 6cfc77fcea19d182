"""The pictures of a run: how the loss fell, which classes are taken for which, and what the weights look like."""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

import handgrad
from handgrad.data.naming import printable
from handgrad.data.tables import ClassName

INK, FAINT, BLUE, RED = "#22272e", "#d0d5db", "#1f6fb4", "#c8452d"
SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", "#cfe1f2", "#6aaed6", BLUE, "#0b3c6f"])
DIVERGING = LinearSegmentedColormap.from_list("diverging", ["#0b3c6f", BLUE, "#f7f7f7", RED, "#7a1608"])

# More classes or features than this, and their names or numbers no longer fit beside each other.
MOST_NAMES = 30
MOST_PANELS = 100


def plot_history(path: pathlib.Path, history: Sequence[handgrad.Epoch]) -> None:
    """The loss of the rows trained on and of those watched, and the accuracy on these, by epoch."""
    figure, (loss_axes, accuracy_axes) = _figure(9.6, 3.8, columns=2)
    epochs = [epoch.epoch for epoch in history]
    marker = "o" if len(epochs) == 1 else ""
    losses, validation_losses, accuracies = np.array([epoch[1:] for epoch in history], dtype=float).T
    loss_axes.plot(epochs, losses, color=BLUE, marker=marker, label="training rows")
    loss_axes.plot(epochs, validation_losses, color=RED, marker=marker, label="validation rows")
    loss_axes.set(title="Mean cross-entropy (nats)", xlabel="epoch", ylim=(0, None))
    loss_axes.legend(frameon=False, labelcolor=INK)
    accuracy_axes.plot(epochs, accuracies, color=RED, marker=marker)
    accuracy_axes.set(title=f"Accuracy on validation rows: {accuracies[-1]:.1%} at the end", xlabel="epoch")
    accuracy_axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.6g}%")
    for axes in (loss_axes, accuracy_axes):
        axes.grid(color=FAINT, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path)


def plot_confusion(
    path: pathlib.Path, labels: np.ndarray, predictions: np.ndarray, class_names: Sequence[ClassName]
) -> None:
    """How many rows of each class, a row of the picture, are taken for each class, a column."""
    num_classes = len(class_names)
    counts = np.bincount(labels * num_classes + predictions, minlength=num_classes**2).reshape(num_classes, num_classes)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(max(0.5 * num_classes, 2.5), 12) + 1.5
    figure, (axes,) = _figure(size + 0.6, size)
    image = axes.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    if num_classes <= MOST_NAMES:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > 0.5 else INK
            axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=color, fontsize=9)
    wrong = int(counts.sum() - np.trace(counts))
    axes.set(
        title=f"{wrong} of {counts.sum():,} test rows taken for another class",
        xlabel="predicted class",
        ylabel="true class",
    )
    _name_ticks(axes.set_xticks, class_names, rotation="vertical" if _are_long(class_names) else "horizontal")
    _name_ticks(axes.set_yticks, class_names)
    _separate_cells(axes, num_classes, num_classes)
    _add_colorbar(figure, image, [axes], "share of the true class", format=PercentFormatter(1))
    figure.savefig(path)


def plot_weights(
    path: pathlib.Path,
    W: np.ndarray,
    class_names: Sequence[ClassName],
    feature_names: Sequence[str] | None,
    image_shape: tuple[int, ...] | None,
    *,
    unit: str = "class",
) -> None:
    """The weights of each class (or hidden unit): an image each where the features are one, else a column of one."""
    limit = float(np.abs(W).max()) or 1.0
    colors: dict[str, Any] = {"cmap": DIVERGING, "vmin": -limit, "vmax": limit, "interpolation": "nearest"}
    if image_shape is None:
        names = feature_names or [f"feature {index + 1}" for index in range(len(W))]
        height, width = (min(max(0.3 * count, 2), 12) + 1.6 for count in W.shape)
        figure, (axes,) = _figure(width + 2.6, height)
        image = axes.imshow(W, aspect="auto", **colors)
        axes.set(title="Weights, per standard deviation of the feature", xlabel=unit)
        _name_ticks(axes.set_xticks, class_names, rotation="vertical" if _are_long(class_names) else "horizontal")
        _name_ticks(axes.set_yticks, names)
        _separate_cells(axes, *W.shape)
        _add_colorbar(figure, image, [axes], "weight")
    else:
        shown = min(len(class_names), MOST_PANELS)
        columns = min(shown, math.ceil(math.sqrt(2.2 * shown)))
        rows = math.ceil(shown / columns)
        figure, panels = _figure(1.5 * columns + 1.1, 1.7 * rows + 0.7, rows=rows, columns=columns)
        for axes in panels:
            axes.set_axis_off()
        for axes, weights, name in zip(panels, W.T, class_names, strict=False):
            image = axes.imshow(weights.reshape(*image_shape[:2], -1).mean(axis=2), **colors)
            axes.set_title(_shorten(name, 14), fontsize=11)
        more = f" (the first {shown} of {len(class_names)})" if shown < len(class_names) else ""
        figure.suptitle(f"The weights of each {unit}{more}: red speaks for it, blue against", color=INK, fontsize=11)
        _add_colorbar(figure, image, panels, "weight")
    figure.savefig(path)


def _figure(width: float, height: float, *, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)  # inches
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(rows, columns, index + 1) for index in range(rows * columns)]
    for axes in panels:
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, length=0, labelsize=9)
        axes.spines[:].set_color(FAINT)
        axes.title.set(color=INK, fontsize=11)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(color=INK, fontsize=10)
    return figure, panels


def _add_colorbar(figure, image, panels: list[Axes], label: str, **options) -> None:
    aspect = figure.get_figheight() / 0.25  # a quarter of an inch wide
    colorbar = figure.colorbar(image, ax=panels, fraction=0.05, pad=0.02, aspect=aspect, **options)
    colorbar.outline.set_visible(False)
    colorbar.ax.tick_params(colors=INK, length=0, labelsize=8)
    colorbar.set_label(label, color=INK, fontsize=9)


def _separate_cells(axes: Axes, rows: int, columns: int) -> None:
    """Lines between cells, where cells are large enough to have them."""
    if max(rows, columns) <= MOST_NAMES:
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.set_axisbelow(False)
        axes.grid(which="minor", color=FAINT, linewidth=0.6)
        axes.tick_params(which="minor", length=0)


def _name_ticks(set_ticks: Callable, names: Sequence[ClassName], **style) -> None:
    step = math.ceil(len(names) / MOST_NAMES)
    set_ticks(range(0, len(names), step), [_shorten(name, 24) for name in names[::step]], **style)


def _are_long(names: Sequence[ClassName]) -> bool:
    return max(len(str(name)) for name in names) > 4


def _shorten(name: ClassName, length: int) -> str:
    """At most `length` characters, and `$` as itself, which matplotlib takes for mathematics."""
    text = printable(str(name))
    return (text if len(text) <= length else text[: length - 1] + "…").replace("$", r"\$")
