"""Draws what 0, 1 and 2 hidden layers make of three spirals: docs/images/spirals.png.

Run: python scripts/draw_spirals.py [FILE]
"""

import sys

import jax
import numpy as np
import optax
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import handgrad

COLORS = np.array([to_rgb(color) for color in ("#1f6fb4", "#c8452d", "#e3a72f")])
NETWORKS = {"no hidden layer": (), "one, of 12 units": (12,), "two, of 12 units each": (12, 12)}


def spirals(rows_each=200, turns=1.25, noise=0.03):
    """Three arms (N, 2) in the unit disc, and whose row is whose."""
    rng = np.random.default_rng(0)
    t = np.repeat(np.arange(3, dtype=np.int32), rows_each)
    radius = np.sqrt(rng.uniform(0.01, 1, t.size))
    angle = 2 * np.pi * (turns * radius + t / 3)
    X = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (X + noise * rng.normal(size=X.shape)).astype(np.float32), t


def main(path):
    X, t = spirals()
    side = np.linspace(-1.2, 1.2, 400, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    figure = Figure(figsize=(10.5, 3.9), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (name, hidden) in zip(figure.subplots(1, 3), NETWORKS.items(), strict=True):
        params = handgrad.init_network(jax.random.key(1), (2, *hidden, 3), "tanh")
        params = handgrad.train(X, t, params=params, optimizer=optax.adam(0.02), batch_size=64, epochs=400).params
        accuracy = np.mean(handgrad.predict(params, X) == t)
        Y = np.asarray(handgrad.predict_proba(params, grid))
        # A class's colour where the network is sure of it, and a mixture where it is not.
        picture = 1 - 0.6 * (1 - Y @ COLORS)
        axes.imshow(picture.reshape(400, 400, 3), origin="lower", extent=(-1.2, 1.2, -1.2, 1.2))
        axes.scatter(*X.T, c=COLORS[t], s=9, edgecolors="white", linewidths=0.4)
        axes.set_title(f"{name}: {accuracy:.0%} right", fontsize=11)
        axes.set_axis_off()
    figure.savefig(path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "spirals.png")
