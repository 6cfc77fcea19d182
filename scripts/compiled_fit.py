"""The programs of `fit`, compiled for devices that are not there; see compile_accelerators.py."""

import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from handgrad.rows import dense
from handgrad.solvers import kronecker, lanes, lbfgs, placed, sums
from measure import collectives


def compiled(target, topology):
    """By device: what each program takes to compile, needs beside X, and sends."""
    if target == "h100":
        return {"H100": compile_all("H100", (1281167, 2048, 1000), jnp.bfloat16, topology("h100")[:1])}
    small = 60000, 784, 10
    return {
        "TPU v5e": compile_all("TPU v5e", small, jnp.float32, topology("v5e:2x2")[:1]),
        "8 × TPU v5e": compile_all("8 × TPU v5e", small, jnp.float32, topology("v5e:2x4")),
    }


def show(name, result):
    """A line of what was found."""
    travels = {each[0] for program in result["programs"].values() for each in program.get("collectives", ())}
    print(
        f"{name}, {tuple(result['sizes'])}, X in {result['dtype_of_X']}: compiled, not run. "
        f"{result['seconds']:.0f} s to compile, {result['processor_seconds']:.0f} of a processor, and with blocks of "
        f"classes {result['processor_seconds_with_blocks']:.0f}; "
        f"{result['peak_bytes_beside_X'] / 1e9:.2f} GB beside X; travels: {', '.join(travels) or 'nothing'}"
    )


def programs(N, P, C, X_dtype, devices):
    """The programs of a fit of labels, one problem: (name, function, its arguments as shapes, those not kept for long).

    X lies on the devices as it is stored. Also the bytes beside X that are alive all the time.
    """
    one, many, width, float32 = devices[0], len(devices) > 1, P + 1, np.dtype(np.float32)
    mesh = Mesh(np.array(devices), ("rows",)) if many else None

    def shape(dims, dtype=float32, by_row=False):
        sharding = SingleDeviceSharding(one)
        if many:
            sharding = NamedSharding(mesh, PartitionSpec("rows") if by_row else PartitionSpec())
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    def at_home(tree):
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(one)), tree
        )

    rows = SimpleNamespace(shape=(N, P), parts=SimpleNamespace(num_entries=N * P))
    features, sizes = kronecker.takes_features(rows, C), kronecker.sizes_of_blocks(rows, C, 1)
    state = at_home(lbfgs.begin(1, width, C, placed.num_pairs(width, C), float32))
    V = state.V
    curvature = at_home(kronecker.Curvature(shape((width,)), shape((width, width)) if features else None, None))
    targets, weights = shape((N,), np.int32, True), shape((N, 1), float32, True)
    own = shape((N, P), X_dtype, True), shape((len(devices),), np.int32, True), targets, weights
    about, at, fold = (shape((P,)), shape(()), shape(())), shape((1, width, C)), shape((1,), np.int32)
    cut = dense.Cut(C, on_cpu=False)

    def summed(of, static=None, where=at):
        return dense.sum_chunk, (of, static, cut, mesh, about, own, (where, fold))

    listed = [
        ("features", *summed(sums.feature_moment, features), ()),
        ("sweep", *summed(sums.loss_and_gradient), ()),
    ]
    mask, number = at_home((np.ones(1, bool), np.ones(1, float32)))
    iteration = [
        (lbfgs.load, (state, V, mask, V, state.penalty, state.present)),
        *lbfgs.programs(state, curvature, one),
        (lbfgs.move, (state, V, mask, number)),
    ]
    if sizes:
        largest = sizes[-1].vectors + 1
        where = at, shape((1,)), shape((width, largest))
        listed.append(("blocks of classes", *summed(sums.class_moments, sizes[-1].part, where=where), ()))
        with_blocks = curvature._replace(blocks=shape((C, largest, largest)))
        iteration.append(lbfgs.programs(state, with_blocks, one)[-1])
    for function, arguments in iteration:
        # Beside the lanes and the curvature, which are there all the time, what one program hands to the next.
        passing = [argument for argument in arguments if not isinstance(argument, (lanes.Lanes, kronecker.Curvature))]
        listed.append((function.__name__.strip("_").replace("_", " "), function, arguments, passing))
    return listed, num_bytes((state, V, curvature, targets, weights, about))


def num_bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compile_all(title, sizes, X_dtype, devices):
    """What each program takes to compile, needs beside X, and sends between devices."""
    listed, resident = programs(*sizes, X_dtype, devices)
    found, peak = {}, 0
    for name, function, arguments, passing in listed:
        start, busy = time.perf_counter(), time.process_time()
        compiled = function.lower(*arguments).compile()
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        memory = compiled.memory_analysis()
        new = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        peak = max(peak, resident + num_bytes(passing) + new)
        while name in found:
            name += " by blocks"
        found[name] = {
            "seconds": round(seconds, 2),
            "processor_seconds": round(busy, 2),
            "temporary_bytes": memory.temp_size_in_bytes,
        }
        if len(devices) > 1:
            found[name]["collectives"] = collectives(compiled.as_text())
        print(f"{title}, {name}: {found[name]}", file=sys.stderr, flush=True)
    return {
        "sizes": sizes,
        "dtype_of_X": str(X_dtype.__name__),
        **{
            # Blocks come only where a fit has gone on for long.
            key: round(sum(each[key] for name, each in found.items() if "blocks" not in name), 1)
            for key in ("seconds", "processor_seconds")
        },
        "processor_seconds_with_blocks": round(sum(each["processor_seconds"] for each in found.values()), 1),
        "peak_bytes_beside_X": peak,
        "programs": found,
    }
