"""A pass of `fit` over 8 to 1,024 devices that are not there, as a compiler has it; see compile_accelerators.py.

python scripts/compiled_scaling.py        prints the table of docs/scaling.md from benchmarks/scaling_compiled.json
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from handgrad.rows import dense
from handgrad.solvers import sums
from measure import collectives

TOPOLOGIES = {8: "v5e:2x4", 16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16", 1024: "v5e:16x16"}
SLICE = 256  # devices that the links between chips reach; slices are joined by the data centre's network
PROBLEMS = {"MNIST": (784, 10), "letters": (16, 26), "ImageNet features": (2048, 1000), "many classes": (1024, 32768)}
ROWS = 2**17  # of a device
# Of a TPU v5e, as its maker says: operations a second in bfloat16, bytes a second of its memory, of its links to other
# chips in all directions together, and of its part of its host's network (8 chips, 200 Gbit/s). Assumed is that a
# message over D of them takes 1 µs for each of the 2(√D − 1) hops of a ring in either direction of the torus, and 20 µs
# from slice to slice.
MULTIPLY, MEMORY, LINKS, NETWORK = 197e12, 819e9, 200e9, 200e9 / 8 / 8
HOP, FAR = 1e-6, 20e-6


def compiled(_, topology):
    """By device: what a pass of each problem computes, reads and sends."""
    found = {}
    for count, name in TOPOLOGIES.items():
        devices = topology(name, **({"num_slices": count // SLICE} if count > SLICE else {}))
        passes = {title: compile_pass(*sizes, devices) for title, sizes in PROBLEMS.items()}
        found[f"{count} × TPU v5e"] = {"devices": count, "rows_of_a_device": ROWS, "passes": passes}
    return found


def compile_pass(P, C, devices):
    """Loss and gradient of one problem; what a block of rows costs is counted once by the compiler, and multiplied."""
    mesh, float32 = Mesh(np.array(devices), ("rows",)), np.dtype(np.float32)

    def shape(dims, dtype=float32, by_row=False):
        sharding = NamedSharding(mesh, PartitionSpec("rows") if by_row else PartitionSpec())
        return jax.ShapeDtypeStruct((dims[0] * len(devices), *dims[1:]) if by_row else dims, dtype, sharding=sharding)

    own = (
        shape((ROWS, P), float32, True),
        shape((1,), np.int32, True),
        shape((ROWS,), np.int32, True),
        shape((ROWS, 1), float32, True),
    )
    about, where = (shape((P,)), shape(()), shape(())), (shape((1, P + 1, C)), shape((1,), np.int32))
    cut = dense.Cut(C, on_cpu=False)
    arguments = sums.loss_and_gradient, None, cut, mesh, about, own, where
    program = dense.sum_chunk.lower(*arguments).compile()
    cost = program.cost_analysis()
    print(f"{len(devices)} devices, P = {P}, C = {C}: compiled", file=sys.stderr, flush=True)
    return {
        "sizes": [P, C],
        "rows_of_a_block": dense.blocks_of(ROWS, P, (P + 1) * C, cut, float32).rows,
        "operations_of_a_block": cost["flops"],
        "bytes_of_a_block": cost["bytes accessed"],
        "sends": collectives(program.as_text()),
        "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
    }


# --- What follows from it ---------------------------------------------------------------------------------------------


def seconds_to_send(num_bytes, count):
    """An all-reduce over so many devices: within a slice by its links, of each chip a part from slice to slice."""
    within = min(count, SLICE)
    seconds = 2 * num_bytes * (within - 1) / within / LINKS + 2 * HOP * 2 * (np.sqrt(within) - 1)
    if count > SLICE:
        slices = count // SLICE
        seconds += 2 * num_bytes / SLICE * (slices - 1) / slices / NETWORK + 2 * FAR
    return seconds


def seconds_of_a_row(found):
    """As fast as the device multiplies and its memory gives: sending then has the largest share that it can have."""
    rows = found["rows_of_a_block"]
    return max(found["operations_of_a_block"] / MULTIPLY, found["bytes_of_a_block"] / MEMORY) / rows


def table(results):
    """In Markdown: a line for each problem and number of devices."""
    lines = [
        "| problem (P, C) | devices | operations a row | bytes a row | sent a pass | sending | half at, rows a device |"
        " rows in all |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for title, (P, C) in PROBLEMS.items():
        for own in results.values():
            if not isinstance(own, dict):
                continue
            found, count = own["passes"][title], own["devices"]
            sent = 4 * sum(number for kind, number in found["sends"] if kind == "all-reduce")
            sending = seconds_to_send(sent, count)
            rows = found["rows_of_a_block"]
            half = sending / seconds_of_a_row(found)
            lines.append(
                f"| {title} ({P:,}, {C:,}) | {count:,} | {found['operations_of_a_block'] / rows:,.0f} | "
                f"{found['bytes_of_a_block'] / rows:,.0f} | {_bytes(sent)} | {1e6 * sending:,.0f} µs | {half:,.0f} | "
                f"{half * count:,.0f} |"
            )
    return "\n".join(lines)


def _bytes(number):
    return f"{number / 1e6:,.1f} MB" if number >= 1e6 else f"{number / 1e3:,.1f} kB"


def show(name, result):
    """A line of what was found."""
    travels = {title: found["sends"] for title, found in result["passes"].items()}
    print(f"{name}: compiled, not run. Sends {travels}")


if __name__ == "__main__":
    print(table(json.loads((Path(__file__).parents[1] / "benchmarks" / "scaling_compiled.json").read_text())))
