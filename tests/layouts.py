"""How the head's arrays lie over eight devices, and what travels between these."""

import re

import jax
import numpy as np

import oracles_head

# Where the rows lie and where W: (axes of the mesh, X, W), the axes of X with the middle one of (B, S, P).
LAYOUTS = {
    "data": ({"data": 8}, jax.P("data", None, None), jax.P()),
    "fully sharded along P": ({"data": 8}, jax.P("data", None, None), jax.P("data", None)),
    "fully sharded along C": ({"data": 8}, jax.P("data", None, None), jax.P(None, "data")),
    "tensor": ({"model": 8}, jax.P(None, None, None), jax.P(None, "model")),
    "data and tensor": ({"data": 4, "model": 2}, jax.P("data", None, None), jax.P(None, "model")),
    "fully sharded and tensor": ({"data": 2, "model": 4}, jax.P("data", None, None), jax.P("data", "model")),
    "C over both": ({"data": 2, "model": 4}, jax.P("data", None, None), jax.P(None, ("model", "data"))),
    "rows and sequence": ({"data": 2, "model": 4}, jax.P("data", "model", None), jax.P("model", None)),
    "features of both": ({"data": 2, "model": 4}, jax.P("data", None, "model"), jax.P("model", None)),
    "features of X alone": ({"data": 2, "model": 4}, jax.P("data", None, "model"), jax.P()),
    "sequence and tensor": ({"data": 2, "model": 4}, jax.P("data", "model", None), jax.P(None, "model")),
}
B, S, P, C = 8, 4, 8, 16  # on four devices as many classes as features of two; on two as many rows as features
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\(")


def laid_out(layout, kind, sequences, transposed=False):
    """A mesh, and where arrays by row, X, W and what is by class lie."""
    axes, X, W = LAYOUTS[layout]
    mesh = jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes))
    if not sequences:
        X = jax.P(X[0], X[2])
    W = jax.P(*(*W, None, None)[:2])
    by_class = jax.P() if W[1] is None or "data" in W[1] else jax.P(W[1])
    specs = jax.P(*X[:-1]), X, jax.P(*W[::-1]) if transposed else W, by_class
    return [jax.NamedSharding(mesh, spec) for spec in specs]


def problem(sequences, targets="labels", seed=0):
    X, W, t, bias, w, k = oracles_head.problem(B * S, P, C, targets=targets, seed=seed)
    batch = (B, S) if sequences else (B * S,)
    return X.reshape(*batch, P), W, t.reshape(*batch, *t.shape[1:]), bias, w.reshape(batch), k


def collectives(function, *arguments):
    return [(kind, shape) for shape, kind in COLLECTIVE.findall(function.lower(*arguments).compile().as_text())]


def elements(shape):
    """How many numbers a shape of the program has; of a tuple of them, the largest."""
    return max(
        int(np.prod([int(n) for n in found.split(",") if n] or [1])) for found in re.findall(r"\[([\d,]*)\]", shape)
    )
