"""Several processes on this machine that work together, for the tests: begun, killed, and waited for."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import compiling

PATIENCE = 120  # seconds, for a machine that has much else to do


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def started(script, count, arguments, *, devices=1, folder=None, environment=None):
    """The processes, each told of the others by its environment; none is left."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_NUM", "JAX_PROC"))}
    own |= {
        "XLA_FLAGS": compiling.flags(devices),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
        "PYTHONUNBUFFERED": "1",
        **(environment or {}),
    }
    running = [
        subprocess.Popen(
            [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
            env={**own, "JAX_PROCESS_ID": str(number)},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def outcomes(running):
    """The exit status of each, and what it has said on standard output and standard error."""
    end = time.monotonic() + PATIENCE
    found = [process.communicate(timeout=max(1, end - time.monotonic())) for process in running]
    return [(process.returncode, *said) for process, said in zip(running, found, strict=True)]


def run(script, count, arguments, **how):
    """As `outcomes`, of processes that are left alone."""
    with started(script, count, arguments, **how) as running:
        return outcomes(running)
