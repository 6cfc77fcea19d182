"""Draws the pictures of docs/ from the numbers of `picture_data`, into docs/images, as SVG.

Run: python scripts/pictures.py [NAME …]      all of them, if none is named; needs matplotlib, of the extra dev

Each is drawn on nothing, in colours that are as far from white as from black and that the colour-blind tell apart. In
its description it has a fingerprint of the numbers that it shows and of the function that drew it: by these a test
knows whether a committed picture is that of today.
"""

import ast
import hashlib
import json
import pathlib
import sys

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

import picture_data
from picture_data import CLASSES, FRUIT, PICTURES, SHOWN_EPOCHS, SHOWN_STEPS, TEMPERATURES

IMAGES = pathlib.Path(__file__).parents[1] / "docs" / "images"
INK = "#7d7f83"
BLUE, ORANGE, GREEN, PURPLE = "#2f86d1", "#d9660a", "#1a9e77", "#b0689c"
OF_CLASS = (GREEN, ORANGE, PURPLE)  # apple, banana, cherry
MARKERS = ("s", "o", "D", "^")  # of the four pieces of fruit
FRACTIONS = {0.25: "¼", 0.5: "½", 0.75: "¾", 1 / 3: "⅓", 2 / 3: "⅔"}
STYLE = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "axes.titlecolor": INK,
    "font.family": "sans-serif",
    "font.size": 10.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 2,
    "savefig.transparent": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "handgrad",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def figure(width, height, *shape, **settings):
    """A figure of so many inches, and its axes."""
    drawing = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(drawing)
    return drawing, drawing.subplots(*(shape or (1, 1)), **settings)


def canvas(width, height, right, bottom, top):
    """Axes without axes, in which a unit is as wide as it is high."""
    drawing, axes = figure(width, height)
    axes.set(xlim=(0, right), ylim=(bottom, top), aspect="equal")
    axes.set_axis_off()
    return drawing, axes


def tint(values, largest):
    """Blue where a value is positive, orange where it is negative, the more of it the larger it is."""
    values = np.asarray(values)
    colors = np.where(values[..., None] >= 0, to_rgb(BLUE), to_rgb(ORANGE))
    return np.concatenate([colors, np.clip(np.abs(values) / largest, 0, 1)[..., None] ** 0.8], axis=-1)


def written(value):
    """A number as people write it by hand: a fraction where it is one, or a decimal."""
    whole, rest = divmod(abs(float(value)), 1)
    for fraction, sign in FRACTIONS.items():
        if abs(rest - fraction) < 1e-9:
            return ("−" if value < 0 else "") + (f"{whole:.0f}" if whole else "") + sign
    return f"{value:.1f}".removesuffix(".0").replace("-", "−")


def matrix(axes, values, corner, *, name="", below=""):
    """A matrix as a grid of numbers, its upper left corner there."""
    (x, y), (rows, columns) = corner, np.shape(values)
    for i, c in np.ndindex(rows, columns):
        value = values[i][c]
        color = INK if value == 0 else BLUE if value > 0 else ORANGE
        axes.add_patch(Rectangle((x + c, y - i - 1), 1, 1, facecolor=to_rgba(color, 0.12), edgecolor=INK, lw=0.7))
        axes.text(x + c + 0.5, y - i - 0.53, written(value), color=color, ha="center", va="center", weight="bold")
    axes.text(x + columns / 2, y + 0.2, name, ha="center", va="bottom", fontsize=12, weight="bold")
    axes.text(x + columns / 2, y - rows - 0.2, below, ha="center", va="top", fontsize=9.5)


def heat(axes, values, corner, size, largest, name):
    """A matrix as a picture, its upper left corner there and its cells so large."""
    (x, y), (rows, columns) = corner, np.shape(values)
    axes.imshow(tint(values, largest), extent=(x, x + size * columns, y - size * rows, y), interpolation="none")
    axes.add_patch(Rectangle((x, y - size * rows), size * columns, size * rows, fill=False, edgecolor=INK, lw=1))
    axes.text(x + size * columns / 2, y + 0.3, name, ha="center", va="bottom", fontsize=11.5, weight="bold")


def arrow(axes, start, end, color=INK, words="", **settings):
    """An arrow between points, with words above its middle."""
    style = {"arrowstyle": "-|>", "mutation_scale": 12, "lw": 1.6, "shrinkA": 0, "shrinkB": 0} | settings
    axes.add_patch(FancyArrowPatch(start, end, color=color, **style))
    middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.25
    axes.text(*middle, words, ha="center", va="bottom", fontsize=9.5, color=color)


def contours(axes, x, y, F, least):
    """Lines of equal F, closer together near the minimum."""
    levels = least + np.array([0.002, 0.01, 0.03, 0.07, 0.13, 0.22, 0.35, 0.55, 0.85, 1.3, 2.0])
    axes.contour(x, y, F, levels, colors=INK, linewidths=0.9, alpha=0.75)
    axes.set(xlim=x[[0, -1]], ylim=y[[0, -1]])


# --- The pictures -------------------------------------------------------------------------------------------------


def shapes(data):
    drawing, axes = canvas(7.2, 2.8, 17.4, -5.6, 1.0)
    matrix(axes, data["X"], (2.7, 0), name="X", below="N × P = 4 × 2")
    for i, name in enumerate(FRUIT):
        axes.text(2.5, -i - 0.53, name, ha="right", va="center", fontsize=10)
    matrix(axes, data["W"], (5.7, -1), name="W", below="P × C = 2 × 3")
    matrix(axes, data["b"], (9.8, -1.5), name="b", below="1 × C = 1 × 3")
    matrix(axes, data["Z"], (13.9, 0), name="Z", below="N × C = 4 × 3")
    for x, sign in ((5.2, "·"), (9.25, "+"), (13.35, "=")):
        axes.text(x, -2, sign, ha="center", va="center", fontsize=16)
    axes.text(8.7, -5.4, "W, b and Z in bits, which are units of log 2", ha="center", fontsize=9.5)
    return drawing


def softmax(data):
    drawing, (left, right) = figure(7.2, 2.9, 1, 2)
    for c, (name, dash) in enumerate((("of z", "-"), ("of 1", "--"), ("of 0", ":"))):
        left.plot(data["z"], data["Y"][:, c], dash, color=(BLUE, ORANGE, GREEN)[c], label=name)
    left.set(xlabel="logit z, nats", ylabel="probability", title="softmax of (z, 1, 0)", ylim=(0, 1.02))
    left.legend()
    for c, name in enumerate(CLASSES):
        right.bar(np.arange(3) + 0.27 * (c - 1), data["of_banana"][:, c], 0.25, color=OF_CLASS[c], label=name)
    names = [f"{T:g}" for T in TEMPERATURES]
    right.set(xticks=range(3), xticklabels=names, xlabel="temperature", title="the banana's row", ylim=(0, 1.02))
    right.legend()
    return drawing


def cross_entropy(data):
    drawing, axes = figure(6.4, 3.2)
    axes.plot(data["p"], data["cost"], color=BLUE)
    axes.plot(data["p_of_fruit"], data["cost_of_fruit"], "o", color=ORANGE, markersize=9)
    for place, words in (((0.27, 2.12), "green apple, red apple"), ((0.52, 1.12), "banana, cherry")):
        axes.text(*place, words, fontsize=11)
    axes.set(xlabel="probability that the model gave to what came true", xlim=(0, 1.02), ylim=(0, 5.8))
    axes.set_ylabel("cost, bits")
    nats = axes.secondary_yaxis("right", functions=(lambda y: y * picture_data.BIT, lambda y: y / picture_data.BIT))
    nats.set_ylabel("cost, nats")
    nats.spines["right"].set_visible(True)
    return drawing


def entropy(data):
    drawing, axes = figure(7.2, 3.2)
    least = float(data["entropy"])
    axes.bar(range(5), least, 0.55, color=BLUE, label="entropy H(T): the least there is")
    axes.bar(range(5), data["divergence"], 0.55, bottom=least, color=ORANGE, label="divergence KL(T‖Y): what is wasted")
    for i, divergence in enumerate(data["divergence"]):
        axes.text(i, least + divergence + 0.05, f"{least + divergence:.2f}", ha="center", va="bottom")
    names = ("the truth itself", "nearly", "no idea", "the guess", "sure and wrong")
    labels = [f"{name}\n{', '.join(map(written, Y))}" for name, Y in zip(names, data["Y"], strict=True)]
    axes.set(xticks=range(5), xticklabels=labels, ylabel="cross-entropy, bits", ylim=(0, 3.4))
    axes.tick_params(axis="x", labelsize=9.5, length=0)
    axes.legend(loc="upper left")
    return drawing


CORNERS = np.array([[0.5, np.sqrt(3) / 2], [0.0, 0.0], [1.0, 0.0]])  # of apple, banana, cherry
NAMES = ((0.25, 0.035), (0.13, 0.53), (0.85, 0.53), (0.75, 0.035))  # where those of the fruit stand


def simplex(data):
    drawing, axes = canvas(5.8, 4.9, 1, -0.19, 0.97)
    axes.set_xlim(-0.16, 1.16)
    axes.fill(*CORNERS.T, facecolor=to_rgba(INK, 0.08), edgecolor=INK, lw=1)
    for c, offset in enumerate(((0, 0.045), (-0.02, -0.055), (0.02, -0.055))):
        words = {"ha": "center", "va": "center", "fontsize": 11.5, "color": OF_CLASS[c]}
        axes.text(*(CORNERS[c] + offset), f"certainly {CLASSES[c]}", **words)
    for i, (Y, down) in enumerate(zip(data["Y"], data["down"], strict=True)):
        color, start = OF_CLASS[picture_data.t[i]], Y @ CORNERS
        axes.plot(*(data["trail"][:, i] @ CORNERS).T, ":", color=color, lw=1.7)
        arrow(axes, start, (Y + down) @ CORNERS, color, mutation_scale=15, shrinkB=2)
        axes.plot(*start, "o", color=INK, markersize=6, zorder=5)
        axes.text(*NAMES[i], FRUIT[i], color=color, ha="center", fontsize=10.5)
    axes.text(0.5, -0.16, "arrows: T − Y; dotted: the way that gradient descent takes", ha="center", fontsize=9.5)
    return drawing


def descent(data):
    drawing, axes = figure(7.2, 4.3)
    contours(axes, data["v_1"], data["v_2"], data["F"], float(data["least"]))
    way, short = data["gradient_descent"], data["lbfgs"]
    axes.plot(*data["optimum"], "*", color=GREEN, markersize=17, zorder=4, label="the optimum, certified")
    axes.plot(*way.T, "-o", color=ORANGE, lw=1.3, markersize=3.4, label=f"gradient descent, {len(way) - 1} steps")
    axes.plot(*short.T, "-s", color=BLUE, lw=1.8, markersize=5, label=f"L-BFGS, preconditioned, {len(short) - 1} steps")
    axes.set(xlabel="log-odds for each unit of the first feature, nats", ylabel="of the second feature, nats")
    axes.legend(loc="lower left")
    return drawing


def regions(data):
    drawing, all_axes = figure(7.2, 2.2, 1, 4, sharey=True)
    colors = np.array([to_rgba(color, 0.5) for color in OF_CLASS])
    for axes, step, classes, loss in zip(all_axes, SHOWN_STEPS, data["classes"].astype(int), data["loss"], strict=True):
        axes.imshow(colors[classes], origin="lower", extent=(-0.5, 2.5, -0.5, 1.5), interpolation="none", aspect="auto")
        for i, place in enumerate(picture_data.X):
            axes.plot(*place, MARKERS[i], color=OF_CLASS[picture_data.t[i]], markeredgecolor="white", markersize=9)
        axes.set(title=f"step {step}\nloss {loss:.2f} nats", xlabel="size, dm", xticks=(0, 1, 2), yticks=(0, 1))
    all_axes[0].set_ylabel("redness")
    handles = [Rectangle((0, 0), 1, 1, color=color) for color in OF_CLASS]
    drawing.legend(handles, [f"says {name}" for name in CLASSES], loc="outside lower center", ncols=3)
    return drawing


def backpropagation(data):
    drawing, axes = canvas(7.2, 5.0, 17.0, -11.3, 1.0)
    for x, key, name in ((1.2, "X", "X"), (5.2, "Z_1", "Z₁"), (9.2, "A_1", "A₁"), (13.2, "Y", "Y")):
        matrix(axes, data[key], (x, 0), name=name)
    for x, words in ((3.3, "· W₁ + b₁"), (7.3, "relu"), (11.3, "· W₂ + b₂,\nsoftmax")):
        arrow(axes, (x, -2), (x + 1.8, -2), BLUE, words)
    matrix(axes, data["D_2"], (13.2, -6.3), name="4 δ₂", below="A₁ᵀδ₂ is dW₂")
    matrix(axes, data["G"], (9.2, -6.3), name="4 δ₂W₂ᵀ", below="in units of log 2")
    matrix(axes, data["D_1"], (5.2, -6.3), name="4 δ₁", below="in units of log 2,\nXᵀδ₁ is dW₁")
    arrow(axes, (14.7, -4.25), (14.7, -5.25), ORANGE)
    axes.text(14.95, -4.75, "− T", va="center", fontsize=9.5, color=ORANGE)
    for x, words in ((11.3, "· W₂ᵀ"), (7.3, "∘ relu′(Z₁)")):
        arrow(axes, (x + 1.8, -8.3), (x, -8.3), ORANGE, words)
    axes.text(0.3, -2, "forward", rotation=90, ha="center", va="center", color=BLUE, fontsize=11.5)
    axes.text(0.3, -8.3, "backward", rotation=90, ha="center", va="center", color=ORANGE, fontsize=11.5)
    return drawing


def preconditioner(data):
    drawing, (left, right) = figure(7.2, 3.8, 1, 2)
    least = float(data["least"])
    for axes, kind in ((left, "v"), (right, "u")):
        contours(axes, data[f"{kind}_1"], data[f"{kind}_2"], data[f"F_of_{kind}"], least)
        optimum, down = data[f"optimum_{kind}"], data[f"down_{kind}"]
        axes.plot(*optimum, "*", color=GREEN, markersize=15)
        axes.plot(0, 0, "o", color=INK)
        arrow(axes, (0, 0), down / np.linalg.norm(down) * 0.6 * np.linalg.norm(optimum), ORANGE, lw=2.2)
        axes.set_aspect("equal")
    left.set(
        title="the weights as they are", xlabel="log-odds of the first feature, nats", ylabel="of the second, nats"
    )
    right.set(title="as the preconditioner sees them", xlabel="the same, times √(A g + l2)")
    return drawing


def certificate(data):
    drawing, axes = figure(6.6, 3.4)
    iterations = np.arange(1, len(data["log_gap"]) + 1)
    axes.semilogy(iterations, 10 ** data["log_gap"], "-o", color=BLUE, markersize=4.5, label="gap: what is proved")
    axes.semilogy(iterations, 10 ** data["log_distance"], "--s", color=ORANGE, markersize=4, label="true distance")
    axes.axhline(1e-5, color=INK, lw=1, ls=":")
    axes.text(1, 1.3e-5, "tol = 1e-5", va="bottom", fontsize=10)
    axes.set(xlabel="iteration", ylabel="F − min F, over min F", xticks=iterations[::2])
    axes.legend()
    return drawing


def sweep(data):
    drawing, axes = canvas(7.2, 4.9, 33, -21.8, 1.6)
    heat(axes, data["X"], (4.2, 0), 0.9, 3, "X, N × P")
    for i, words in enumerate(("read", "being read", "to come", "to come")):
        axes.text(3.8, -2.7 * i - 1.35, words, ha="right", va="center", color=BLUE if i == 1 else INK)
        axes.plot([4.2, 15], [-2.7 * i] * 2, color=INK, lw=1)
    axes.add_patch(Rectangle((4.05, -5.5), 11.1, 2.9, fill=False, edgecolor=BLUE, lw=2.5))
    axes.add_patch(Rectangle((18.4, -10.8), 9, 10.8, fill=False, edgecolor=INK, lw=1.2, ls=(0, (3, 3))))
    axes.text(22.9, 0.3, "Z, N × C", ha="center", va="bottom", fontsize=11.5, weight="bold")
    axes.text(22.9, -8.1, "never there\nas a whole", ha="center", va="center")
    heat(axes, data["Z"], (18.4, -2.7), 0.9, 3, "")
    arrow(axes, (15.5, -4.05), (18.1, -4.05), BLUE, "· W")
    arrow(axes, (27.7, -4.05), (29.0, -4.05), BLUE)
    axes.text(29.3, -3.3, "its loss", va="center", color=BLUE)
    axes.text(29.3, -4.8, "its Y − T", va="center", color=ORANGE)
    heat(axes, data["dW"], (4.2, -13.4), 0.6, 4, "dW so far")
    heat(axes, data["whole"], (25.4, -14.4), 0.6, 4, "dW in the end")
    arrow(axes, (30.8, -5.5), (10.5, -16.4), ORANGE, connectionstyle="arc3,rad=-0.33")
    axes.text(16.0, -17.2, "its Xᵀ(Y − T)\nis added", ha="center", va="top", color=ORANGE)
    return drawing


def digits(data):
    weights = data["W"]
    drawing, all_axes = figure(7.2, 4.3, len(weights), 1)
    names = [f"{epoch} epoch{'s' * (epoch > 1)}" for epoch in SHOWN_EPOCHS] + ["optimum"]
    for axes, name, own in zip(all_axes, names, weights, strict=True):
        strip = np.zeros((8, 89))
        for digit in range(10):
            strip[:, 9 * digit : 9 * digit + 8] = own[digit]
        axes.imshow(tint(strip, np.abs(own).max()), interpolation="none")
        axes.set(xticks=[], yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
    all_axes[-1].set(xticks=9 * np.arange(10) + 3.5, xticklabels=range(10))
    all_axes[-1].set_xlabel("weights for each digit: blue speaks for it where there is ink, orange against")
    all_axes[-1].tick_params(length=0)
    return drawing


# --- What is written ----------------------------------------------------------------------------------------------


def drawn_by(name):
    """A digest of the lines that draw a picture."""
    own = name.replace("-", "_")
    source = pathlib.Path(__file__).read_text()
    node = next(each for each in ast.parse(source).body if isinstance(each, ast.FunctionDef) and each.name == own)
    return hashlib.sha256(ast.get_source_segment(source, node).encode()).hexdigest()[:16]


def description(name):
    """What a picture says of itself: of which numbers it is, and drawn by which lines."""
    data = {key: picture_data.fingerprint(array) for key, array in picture_data.numbers(name).items()}
    return json.dumps({"drawn by": drawn_by(name), "shows": data})


def draw(name):
    """Draw a picture into its file."""
    with matplotlib.rc_context(STYLE):
        drawing = globals()[name.replace("-", "_")](picture_data.numbers(name))
        metadata = {"Date": None, "Creator": None, "Description": description(name)}
        drawing.savefig(IMAGES / f"{name}.svg", metadata=metadata)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    for chosen in sys.argv[1:] or PICTURES:
        draw(chosen)
        print(f"{chosen}.svg: {(IMAGES / f'{chosen}.svg').stat().st_size / 1000:.1f} kB")
