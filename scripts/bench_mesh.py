"""Times the head over eight virtual devices of this CPU: under a plain jit, within a shard_map, and the plain form.

    python scripts/bench_mesh.py [--repeats 9] [--output build/bench_mesh.json]

Ratios are medians of neighbours. Eight devices share the cores: the times say what is computed and sent, not how fast
eight chips would be.
"""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import argparse
import functools
import json
import statistics
from pathlib import Path

import jax
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from handgrad import linear_cross_entropy
from measure import collectives, interleaved, machine, median_ratio

SHAPE = (16384, 64, 4000)
LAYOUTS = {"data": ((8, 1), "data", None), "tensor": ((1, 8), None, "model"), "both": ((4, 2), "data", "model")}


def plain(X, W, t):
    return optax.softmax_cross_entropy_with_integer_labels(X @ W, t).mean()


def bench(layout, repeats):
    """The rows for one layout."""
    N, P, C = SHAPE
    sizes, of_rows, of_classes = LAYOUTS[layout]
    mesh = jax.make_mesh(sizes, ("data", "model"), axis_types=2 * (AxisType.Auto,))
    specs = PartitionSpec(of_rows), PartitionSpec(None, of_classes), PartitionSpec(of_rows)
    keys = jax.random.split(jax.random.key(0), 3)
    arrays = jax.random.normal(keys[0], (N, P)), jax.random.normal(keys[1], (P, C)) / 8
    arrays = *arrays, jax.random.randint(keys[2], (N,), 0, C)
    placed = [jax.device_put(array, NamedSharding(mesh, spec)) for array, spec in zip(arrays, specs, strict=True)]

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    def mapped(X, W, t):
        axis = "model" if of_classes else None
        total = linear_cross_entropy(X, W, t, reduction="sum", class_axis=axis) / N
        return jax.lax.psum(total, "data") if of_rows else total

    losses = {"plain jit": linear_cross_entropy, "shard_map": mapped, "plain form": plain}
    losses["plain jit, recompute"] = functools.partial(linear_cross_entropy, recompute=True)
    compiled = {
        name: jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*placed).compile()
        for name, loss in losses.items()
    }
    seconds = interleaved({name: functools.partial(program, *placed) for name, program in compiled.items()}, repeats)
    return [
        {
            "layout": layout,
            "shape": SHAPE,
            "form": name,
            "milliseconds": 1e3 * statistics.median(seconds[name]),
            "ratio": median_ratio(seconds[name], seconds["shard_map"]),
            "collectives": collectives(program.as_text()),
        }
        for name, program in compiled.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("build/bench_mesh.json"))
    arguments = parser.parse_args()
    rows = [row for layout in LAYOUTS for row in bench(layout, arguments.repeats)]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    print(machine())
    for row in rows:
        print(f"{row['layout']:8}{row['form']:24}{row['milliseconds']:8.0f} ms {row['ratio']:6.2f} x shard_map's")


if __name__ == "__main__":
    main()
