"""What XLA is told by default in the tests, where a program runs a few times: compile it with little effort."""

import functools
import importlib.util
import mmap
from pathlib import Path

LITTLE_EFFORT = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
# Kernels made by LLVM alone, not by MLIR first, compile in a third of the time.
MLIR = "xla_cpu_use_fusion_emitters"


@functools.cache
def quickly() -> str:
    """The flags that this jaxlib has: one that it does not know aborts the process."""
    folder = Path(importlib.util.find_spec("jaxlib").origin).parent
    name = b"\0" + MLIR.encode() + b"\0"  # a string of its own: what is gone from the flags is still listed elsewhere
    known = any(contains(library, name) for library in folder.glob("*jax_common*"))
    return f"{LITTLE_EFFORT} --{MLIR}=false" if known else LITTLE_EFFORT


def contains(path: Path, what: bytes) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(what) >= 0


def flags(devices: int) -> str:
    """For XLA_FLAGS, which JAX reads when it is first asked for a device."""
    return f"--xla_force_host_platform_device_count={devices} {quickly()}"
