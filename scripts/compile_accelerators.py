"""Compiles the programs of `fit` for accelerators that are not there, and runs none of them.

    python scripts/compile_accelerators.py [tpu] [h100] [--environments FOLDER]

Each compiler lives in an environment of its own, beside none of the project's: in FOLDER, or in the user's cache.
That for the H100 takes 5 GB. What is found goes to benchmarks/fit_compiled.json: bytes as the compilers count them,
seconds to compile on this machine's processor, and what travels between devices. It says nothing of how fast they run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import tomllib
import venv
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "fit_compiled.json"
EXTRAS = {"tpu": "tpu", "h100": "cuda12"}  # of jax
COMPILERS = {
    "tpu": ("jax", "jaxlib", "libtpu"),
    "h100": ("jax", "jaxlib", "jax-cuda12-plugin", "nvidia-cuda-nvcc-cu12"),
}
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "PYTHONPATH": str(ROOT / "src"),
}
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 85028896768
  shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


# --- In the environment of a compiler --------------------------------------------------------------------------------


def programs(N, P, C, X_dtype, devices):
    """The programs of a fit of labels, one problem: (name, function, its arguments as shapes, those not kept for long).

    X lies on the devices as it is stored. Also the bytes beside X that are alive all the time.
    """
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

    from handgrad.rows import dense
    from handgrad.solvers import kronecker, lanes, lbfgs, sums, sweeps

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
    features, blocks = kronecker.takes_features(rows, C), kronecker.takes_blocks(rows, C, 1)
    state = at_home(lbfgs.begin(1, width, C, sweeps._memory(width, C), float32))
    V = state.V
    curvature = at_home(kronecker.Curvature(shape((width,)), shape((width, width)) if features else None, None))
    targets, weights = shape((N,), np.int32, True), shape((N, 1), float32, True)
    own = shape((N, P), X_dtype, True), shape((len(devices),), np.int32, True), targets, weights
    about, at, fold = (shape((P,)), shape(()), shape(())), shape((1, width, C)), shape((1,), np.int32)
    block = dense._block_rows(N // len(devices), P, C, float32, on_cpu=False)

    def summed(of, static=None, where=at):
        return dense._sum_chunk, (of, static, block, mesh, about, own, (where, fold))

    listed = [
        ("features", *summed(sums.feature_moment, features), ()),
        ("sweep", *summed(sums.loss_and_gradient), ()),
    ]
    mask, number = at_home((np.ones(1, bool), np.ones(1, float32)))
    iteration = [
        (lbfgs.load, (state, V, mask, V, state.penalty, state.present)),
        *lbfgs.programs(state, curvature, one),
        (lbfgs.move, (state, number)),
    ]
    if blocks:
        listed.append(("blocks of classes", *summed(sums.class_moments, where=(at, shape((1,)))), ()))
        with_blocks = curvature._replace(blocks=shape((C, width, width)))
        iteration.append(lbfgs.programs(state, with_blocks, one)[-1])
    for function, arguments in iteration:
        # Beside the lanes and the curvature, which are there all the time, what one program hands to the next.
        passing = [argument for argument in arguments if not isinstance(argument, (lanes.Lanes, kronecker.Curvature))]
        listed.append((function.__name__.strip("_").replace("_", " "), function, arguments, passing))
    return listed, num_bytes((state, V, curvature, targets, weights, about))


def num_bytes(tree):
    import jax

    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def compile_all(title, sizes, X_dtype, devices):
    """What each program takes to compile, needs beside X, and sends between devices."""
    from measure import collectives

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
        **{name: round(sum(each[name] for each in found.values()), 1) for name in ("seconds", "processor_seconds")},
        "peak_bytes_beside_X": peak,
        "programs": found,
    }


def inside(target):
    """Compile for one of the targets; the compiler is that of this process's environment."""
    import jax.numpy as jnp
    from jax.experimental import topologies

    if target == "tpu":
        one, eight = (
            topologies.get_topology_desc(platform="tpu", topology_name=f"v5e:{name}") for name in ("2x2", "2x4")
        )
        small = 60000, 784, 10
        return {
            "TPU v5e": compile_all("TPU v5e", small, jnp.float32, one.devices[:1]),
            "8 × TPU v5e": compile_all("8 × TPU v5e", small, jnp.float32, eight.devices),
        }
    import jax._src.xla_bridge

    try:
        jax._src.xla_bridge.discover_pjrt_plugins()
    except Exception as complaint:  # that there is no driver; the compiler is registered all the same
        print(complaint, file=sys.stderr)
    options = {"target_config": H100, "topology": "1x1x1"}
    device = topologies.get_topology_desc(platform="cuda", topology_name="h100", **options).devices[0]
    return {"H100": compile_all("H100", (1281167, 2048, 1000), jnp.bfloat16, [device])}


# --- Outside ---------------------------------------------------------------------------------------------------------


def environment(folder, target):
    """The Python of an environment with the compiler, made if it is not there."""
    python = folder / target / "bin" / "python"
    if not python.exists():
        venv.create(folder / target, with_pip=True)
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    packages = [f"jax[{EXTRAS[target]}]=={version('jax')}", *needs]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def main():
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "handgrad" / "compilers"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="tpu|h100", help="both if none is named")
    parser.add_argument("--environments", type=Path, default=cache, metavar="FOLDER")
    parser.add_argument("--inside", choices=EXTRAS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        found = inside(arguments.inside)
        versions = {name: version(name) for name in COMPILERS[arguments.inside]}
        print(json.dumps({name: {"versions": versions, **result} for name, result in found.items()}))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results["note"] = "Compiled for devices that were not there, by scripts/compile_accelerators.py. Nothing was run."
    for target in arguments.targets or EXTRAS:
        python = environment(arguments.environments, target)
        command = [str(python), __file__, "--inside", target]
        run = subprocess.run(command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
        results |= json.loads(run.stdout.splitlines()[-1])
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    for name, result in results.items():
        if name != "note":
            travels = {each[0] for program in result["programs"].values() for each in program.get("collectives", ())}
            print(
                f"{name}, {tuple(result['sizes'])}, X in {result['dtype_of_X']}: compiled, not run. "
                f"{result['seconds']:.0f} s to compile, {result['processor_seconds']:.0f} of a processor; "
                f"{result['peak_bytes_beside_X'] / 1e9:.2f} GB beside X; travels: {', '.join(travels) or 'nothing'}"
            )


if __name__ == "__main__":
    main()
