"""Draws gradient problems, and compares what handgrad makes of each with a naive loss in float64.

A problem is false if a number is finite and wrong, or not finite where a finite one is right. Shapes and settings are
some forty, since each compiles, every second with sizes that coincide; values are free: `gradient_problems.py`.

    python scripts/draw_gradients.py [COUNT] [--seed SEED] [--only NUMBER]

Exit status 1, and the seed and number of each false problem, if there is one.
"""

import argparse
import collections
import os
import sys
import time
from functools import partial

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np

import handgrad
from gradient_problems import configurations, draw, expected

# --- handgrad -----------------------------------------------------------------------------------------------------


def answers(cfg, problem):
    """What handgrad makes of it: a list of (what, part of the opinion, array); more than one where it has more ways."""
    if cfg.kind in ("layer", "network"):
        return _formulas(cfg, problem)
    X, [(W, b)], t, w, k, direction, cotangents, *_ = problem
    moving = [X, W] + ([b] if cfg.bias else []) + ([w] if cfg.weights == cfg.dtype and cfg.around != "eager" else [])
    along = direction[: 3 if cfg.bias else 2] + ([np.zeros_like(w)] if len(moving) == 3 + cfg.bias else [])
    rest = {"targets": t, "weights": w, "class_weights": k, "cotangents": cotangents.astype(np.float32)}
    rest = {name: array for name, array in rest.items() if array is not None}
    if cfg.dtype == "float64":
        rest["cotangents"] = cotangents
    if cfg.around == "eager":
        value, grads = jax.value_and_grad(partial(_head, cfg), argnums=0)(tuple(moving), rest)
        return [("value", ("value",), value), *_parts(cfg, "gradient", grads)]
    value, grads, slope, hessian = _program(cfg, tuple(moving), tuple(along), rest)
    parts = [("value", ("value",), value), ("slope", ("slope",), slope)]
    parts += [*_parts(cfg, "gradient", grads), *_parts(cfg, "hessian", hessian[: 2 + cfg.bias])]
    if cfg.around not in ("vmap", "scan"):
        return parts
    return [(what, where, array[copy]) for copy in (0, -1) for what, where, array in parts]


def _parts(cfg, part, arrays):
    places = {"X": (0,), "W": (1, 0, 0)} | ({"b": (1, 0, 1)} if cfg.bias else {}) | {"w": (2,)}
    return [(f"{part} {name}", (part, *places[name]), array) for name, array in zip(places, arrays, strict=False)]


def _head(cfg, moving, rest):
    """The scalar that the oracle has too."""
    X, W, *others = moving
    bias = others[0] if cfg.bias else None
    weights = rest.get("weights") if len(moving) < 3 + cfg.bias else others[-1]
    names = ("label_smoothing", "z_loss", "softcap", "ignore_index", "reduction", "block_size")
    settings = {name: getattr(cfg, name) for name in names}
    loss = handgrad.linear_cross_entropy(
        X,
        W,
        rest["targets"],
        bias=bias,
        weights=weights,
        class_weights=rest.get("class_weights"),
        class_axis="classes" if cfg.kind == "devices" else None,
        with_stats=cfg.stats,
        **settings,
    )
    c = rest["cotangents"]
    loss, statistics = loss if cfg.stats else (loss, [])
    total = jnp.sum(c[0] * loss) if cfg.reduction == "none" else c[0, 0] * loss
    for cotangent, row in zip(c[1:], statistics[:3], strict=False):
        total += jnp.sum(cotangent * row)
    return total


def _on_devices(cfg, function):
    mesh = jax.make_mesh((cfg.rows, cfg.classes), ("rows", "classes"), axis_types=2 * (jax.sharding.AxisType.Auto,))
    by_row, by_class, none = jax.P("rows"), jax.P("classes"), jax.P()

    def call(moving, rest):
        specs = [by_row, jax.P(None, "classes")] + ([jax.P(None, "classes")] if cfg.bias else [])
        specs += [by_row] * (len(moving) - len(specs))
        spec = {
            "targets": jax.P("rows", "classes") if cfg.soft else by_row,
            "weights": by_row,
            "class_weights": by_class,
            "cotangents": jax.P(None, "rows"),
        }
        local = lambda moving, rest: jax.lax.psum(function(moving, rest), "rows")  # noqa: E731
        sharded = jax.shard_map(
            local, mesh=mesh, in_specs=(tuple(specs), {name: spec[name] for name in rest}), out_specs=none
        )
        return sharded(moving, rest)

    return call


@partial(jax.jit, static_argnums=0)
def _program(cfg, moving, along, rest):
    function = partial(_head, cfg)
    if cfg.kind == "devices":
        function = _on_devices(cfg, function)
    if cfg.around == "checkpoint":
        function = jax.checkpoint(function)

    def everything(moving, along, rest):
        gradient = jax.value_and_grad(lambda moving: function(moving, rest))
        _, slope = jax.jvp(lambda moving: function(moving, rest), (moving,), (along,))
        (value, grads), (_, hessian) = jax.jvp(gradient, (moving,), (along,))
        return value, grads, slope, hessian

    if cfg.around not in ("vmap", "scan"):
        return everything(moving, along, rest)
    stacked = jax.tree.map(lambda a: jnp.stack([a, a[::-1], a]), (moving, along, rest))
    if cfg.around == "vmap":
        return jax.vmap(everything)(*stacked)
    return jax.lax.scan(lambda carry, one: (carry, everything(*one)), 0, stacked)[1]


def _formulas(cfg, problem):
    X, layers, t, w, _, direction, *_ = problem
    eager = cfg.around == "eager"
    module = handgrad.formulas if eager else handgrad
    if cfg.kind == "layer":
        (params,) = [handgrad.Params(*layer) for layer in layers]
        along = handgrad.Params(*direction[1:])
        of = lambda tree: [tree]  # noqa: E731
        targets = None
    else:
        names = [cfg.activation] * (len(layers) - 1) + ["softmax"]
        params, along = (
            tuple(handgrad.Layer(handgrad.Params(*pair), name) for pair, name in zip(pairs, names, strict=True))
            for pairs in (layers, [direction[i : i + 2] for i in range(1, len(direction), 2)])
        )
        of = lambda tree: [layer.params for layer in tree]  # noqa: E731
        targets = t
    value, both = module.value_and_gradient(params, X, t, w)
    ways = {
        "gradient": module.gradient(params, X, t, w),
        "value_and_gradient": both,
        "hessian_vector_product": module.hessian_vector_product(params, X, along, w, targets=targets),
    }
    found = [("loss", ("value",), module.loss(params, X, t, w)), ("value", ("value",), value)]
    for name, tree in ways.items():
        part = "hessian" if name.startswith("hessian") else "gradient"
        for index, (W, b) in enumerate(of(tree)):
            found += [(f"{name} W{index}", (part, 1, index, 0), W), (f"{name} b{index}", (part, 1, index, 1), b)]
    D = np.asarray(module.logit_gradient(module.forward(params, X), t, w), np.float64)
    found.append(("1ᵀ logit_gradient", ("gradient", 1, len(layers) - 1, 1), D.sum(axis=0)[None]))
    if cfg.kind == "layer":
        found.append(("Xᵀ logit_gradient", ("gradient", 1, 0, 0), X.astype(np.float64).T @ D))
    return found


# --- Problem by problem -----------------------------------------------------------------------------------------------


def pick(tree, where):
    for index in where:
        tree = tree[index]
    return np.asarray(tree, np.float64)


def false_claims(cfg, rng):
    """What is false of one drawn problem, and the largest error over its tolerance."""
    problem = draw(rng, cfg)
    exact, tolerance = expected(cfg, rng, problem)
    # NumPy warns of −∞ · 0, and of what overflows on the way.
    with jax.enable_x64(cfg.dtype == "float64"), np.errstate(all="ignore"):
        try:
            found = answers(cfg, problem)
        except (TypeError, ValueError) as error:
            return [f"refused: {error}"], np.inf
    if np.isnan(exact["value"]):
        found = [one for one in found if one[1] == ("value",)]
    false, worst = [], 0.0
    for what, where, array in found:
        right, limit = pick(exact, where), pick(tolerance, where)
        array = np.asarray(array, np.float64)
        if array.shape != right.shape:
            false.append(f"{what} has shape {array.shape}, not {right.shape}")
            continue
        beyond = np.abs(right) > float(jnp.finfo(cfg.dtype).max) * 0.4
        with np.errstate(invalid="ignore"):
            error = np.where(beyond, 0, np.abs(array - right) / limit)
        error = np.where(np.isnan(right), np.where(np.isfinite(array), np.inf, 0), error)
        if not np.all(error <= 1):
            at = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
            false.append(f"{what}{list(map(int, at))} = {array[at]:.9g}, not {right[at]:.9g} ± {limit[at]:.2g}")
        worst = max(worst, float(np.nanmax(error, initial=0)))
    return false, worst


def run(count, seed=0, only=None, number=40):
    """Draws so many problems. Returns how many there were of each kind, and the false ones."""
    pool = configurations(np.random.default_rng(seed), min(number, max(4, count // 25)))
    counts, false, worst = collections.Counter(), [], collections.defaultdict(float)
    for index in range(count) if only is None else [only]:
        cfg = pool[index % len(pool)]
        claims, error = false_claims(cfg, np.random.default_rng([seed, index]))
        counts[cfg.kind] += 1
        worst[cfg.kind] = max(worst[cfg.kind], error)
        if claims:
            false.append(index)
            print(f"{count} --seed {seed} --only {index}: {'; '.join(claims)}\n    {cfg}", flush=True)
    return counts, false, dict(worst)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER")
    arguments = parser.parse_args()
    start = time.perf_counter()
    counts, false, worst = run(arguments.count, arguments.seed, arguments.only)
    for kind, total in counts.items():
        print(f"{kind}: {total} problems, the largest error {worst[kind]:.2f} of its tolerance")
    print(f"{sum(counts.values())} problems, {len(false)} false, {time.perf_counter() - start:.0f} s")
    return 1 if false else 0


if __name__ == "__main__":
    sys.exit(main())
