"""What the benchmarks share: interleaved timing, the machine's name, what travels in a compiled program."""

import math
import os
import platform
import random
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def interleaved(functions: dict[str, Callable[[], Any]], repeats: int, *, warm: bool = False) -> dict[str, list[float]]:
    """Seconds of each call, the functions taking turns, so that what disturbs the machine disturbs all of them.

    Their order is drawn anew for each turn: what one leaves behind, spinning threads for one, is not always met by the
    same other.
    Each is called once before, to compile. Results that are JAX arrays are waited for. With `warm` each is called once
    more just before it is timed, so that none pays for the caches and the spinning threads of the one before it.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    draw = random.Random(0)
    for _ in range(repeats):
        for name, function in draw.sample(list(functions.items()), len(functions)):
            if warm:
                jax.block_until_ready(function())
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median of the ratios of calls that were made one after the other."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def machine() -> str:
    """The device, and the versions that matter."""
    device = jax.devices()[0]
    name = device.device_kind if device.platform != "cpu" else f"{_processor()}, {os.cpu_count()} cores"
    return f"{name}; Python {platform.python_version()}, jax {jax.__version__}"


def collectives(program: str) -> list[tuple[str, int]]:
    """The collectives in the text of a compiled program: the kind of each, and how many elements it gives."""
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast|ragged-all-to-all"
    found = re.findall(rf"= (\S+|\([^=]*?\)) ({kinds})(?:-start)?\(", program)
    return [(kind, sum(map(_elements, re.findall(r"\w+\[([\d,]*)\]", shapes)))) for shapes, kind in found]


def _elements(shape: str) -> int:
    return math.prod(int(size) for size in shape.split(",") if size)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
