"""Compiles the programs of `fit`, and the head beside its peers, for accelerators that are not there; runs none.

    python scripts/compile_accelerators.py [fit] [head] [scaling] [--targets tpu h100] [--environments FOLDER]

Each compiler lives in an environment of its own, beside none of the project's: in FOLDER, or in the user's cache.
That for the H100 takes 5 GB. What is found goes to benchmarks/fit_compiled.json, head_compiled.json and
scaling_compiled.json: bytes as the compilers count them, seconds to compile on this machine's processor, and what
travels between devices. Of how fast the programs run it says nothing, but for the TPUs' compiler, which has an
estimate.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = {"fit": (), "head": ("tokamax", "jax-cce"), "scaling": ()}  # and the peers that are compiled beside
ONLY = {"scaling": ["tpu"]}  # of topologies that only its compiler knows
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


def topology(name, **more):
    """The devices of a topology; the compiler is that of this process's environment."""
    from jax.experimental import topologies

    if name != "h100":
        return topologies.get_topology_desc(platform="tpu", topology_name=name, **more).devices
    import jax._src.xla_bridge

    try:
        jax._src.xla_bridge.discover_pjrt_plugins()
    except Exception as complaint:  # that there is no driver; the compiler is registered all the same
        print(complaint, file=sys.stderr)
    options = {"target_config": H100, "topology": "1x1x1"}
    return topologies.get_topology_desc(platform="cuda", topology_name="h100", **options).devices


def environment(folder, target, peers):
    """The Python of an environment with the compiler, made if it is not there."""
    python = folder / target / "bin" / "python"
    if not python.exists():
        venv.create(folder / target, with_pip=True)
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    packages = [f"jax[{EXTRAS[target]}]=={version('jax')}", *needs, *peers]
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def installed(names):
    """The versions of those that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main():
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "handgrad" / "compilers"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="fit|head|scaling", help="all if none is named")
    parser.add_argument("--targets", nargs="*", choices=EXTRAS, default=list(EXTRAS), help="both if none is named")
    parser.add_argument("--environments", type=Path, default=cache, metavar="FOLDER")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        module = f"compiled_{part}"
        if arguments.inside:
            (target,) = arguments.targets
            found = importlib.import_module(module).compiled(target, topology)
            versions = installed((*COMPILERS[target], *PARTS[part]))
            print(json.dumps({name: {"versions": versions, **result} for name, result in found.items()}))
            continue
        path = ROOT / "benchmarks" / f"{part}_compiled.json"
        results = json.loads(path.read_text()) if path.exists() else {}
        results["note"] = (
            "Compiled for devices that were not there, by scripts/compile_accelerators.py. Nothing was run."
        )
        for target in ONLY.get(part, arguments.targets):
            python = environment(arguments.environments, target, PARTS[part])
            command = [str(python), __file__, part, "--targets", target, "--inside"]
            run = subprocess.run(command, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
            results |= json.loads(run.stdout.splitlines()[-1])
            path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        show = importlib.import_module(module).show
        for name, result in results.items():
            if name != "note":
                show(name, result)


if __name__ == "__main__":
    main()
