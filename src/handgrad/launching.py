"""How processes begin together, and end together: `jax.distributed`, begun as a launcher says, and watched.

JAX itself knows SLURM, Open MPI, Kubernetes and Cloud TPU. Elsewhere, such as on one machine, each process is told by

    JAX_COORDINATOR_ADDRESS   of process 0, such as localhost:1234
    JAX_NUM_PROCESSES         how many there are
    JAX_PROCESS_ID            the number of this one, from 0

of which JAX reads the first alone. Where nothing is said there is one process, which has all devices of the machine.
"""

import atexit
import contextlib
import json
import os
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import jax
import numpy as np

from handgrad import processes

COORDINATOR, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# Where launchers say how many processes they have started.
COUNTS = {COUNT: "JAX", "SLURM_NTASKS": "SLURM", "OMPI_COMM_WORLD_SIZE": "Open MPI", "PMI_SIZE": "MPI"}
IN_KUBERNETES = "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"
# A process that has died without a word is missed after so many seconds; where processes are connected directly, as
# CPUs are, at once.
HEARTBEAT = 30
UNTIL_THERE = 120  # seconds after which a process is no longer waited for that has not come
ENDED, DONE = "handgrad/ended", "done"  # under which it is known what has ended all, and what it is at a good end
ALIVE = "handgrad/alive"
LOOK = 2.0  # seconds in which what has ended all is waited for at a time
GRACE = 1.0  # seconds that process 0 outlives the others, since it is what they are connected to
UNTIL_SAID = 3.0  # seconds in which a process that has ended others may be heard to say why


def start(address: str | None = None, count: int | None = None, index: int | None = None) -> None:
    """Begin `jax.distributed`, before anything is computed, and watch over it: where one process ends, all do.

    Args:
      address, count, index: of process 0, how many processes there are, and the number of this one; found out if None.

    Raises:
      ValueError: something is missing, or the number of processes is not that of a launcher.
    """
    if not processes.is_shared():
        _start(*(_asked_for() if address is None else (address, count, index)))
    require_launched()


def require_launched() -> None:
    """Check that there are as many processes as each launcher says that it has started.

    Raises:
      ValueError: there are others.
    """
    for launcher, expected in _expected().items():
        if expected != processes.count():
            raise ValueError(
                f"{launcher} has started {expected} processes, and JAX knows of {processes.count()}: each would have "
                "an answer of its own. Start as many as there are, or clear what the environment says of others."
            )


def require_joined(function: str) -> None:
    """Check that a worker of Ray's is not one of several that know nothing of each other.

    Raises:
      ValueError: it is.
    """
    expected = _ray_count()
    if expected not in (None, processes.count()):
        raise ValueError(
            f"{function}: Ray has started {expected} workers, and JAX knows of {processes.count()}: each would have "
            "an answer of its own. Call handgrad.launching.start first in each, as examples/ray_fit.py does."
        )


# --- The beginning ----------------------------------------------------------------------------------------------------


def _asked_for() -> tuple[str | None, int | None, int | None]:
    """Address, count and number as the environment has them; None where JAX is to find them."""
    address, count, index = (os.environ.get(name) for name in (COORDINATOR, COUNT, INDEX))
    if count is None and index is None:
        return address, None, None
    if address is None or count is None or index is None:
        raise ValueError(
            f"--distributed needs {COORDINATOR}, {COUNT} and {INDEX} together; got {address}, {count} and {index}."
        )
    for name, value in ((COUNT, count), (INDEX, index)):
        if not value.isdecimal():
            raise ValueError(f"{name} must be a whole number; got {value!r}.")
    if int(index) >= int(count):
        raise ValueError(f"{INDEX} must be less than {COUNT}; got {index} and {count}.")
    for launcher, expected in _expected().items():
        if expected != int(count):
            raise ValueError(
                f"{launcher} has started {expected} processes, and {COUNT} says {count}. Leave one of them out."
            )
    return address, int(count), int(index)


def _start(address: str | None, count: int | None, index: int | None) -> None:
    failed: list[BaseException] = []

    def initialize(**how: Any) -> None:
        try:
            with contextlib.suppress(AttributeError):  # it answers SIGTERM itself, and nobody else hears of it
                jax.config.update("jax_enable_preemption_service", False)
            jax.distributed.initialize(**how, heartbeat_timeout_seconds=HEARTBEAT, initialization_timeout=UNTIL_THERE)
        except BaseException as error:
            failed.append(error)

    def attempt(**how: Any) -> None:
        # In a thread, since the main one hears of Ctrl-C only where it is in Python.
        thread = threading.Thread(target=initialize, kwargs=how, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.1)

    attempt(coordinator_address=address, num_processes=count, process_id=index)
    if failed and address is None and "coordinator_address should be defined" in str(failed[0]):
        if all(name in os.environ for name in IN_KUBERNETES):
            raise ValueError(
                "--distributed: Kubernetes is told of by the package `kubernetes`, which is not there, or may not ask "
                f"for the job. Install it, or set {COORDINATOR}, {COUNT} and {INDEX}."
            )
        failed.clear()
        attempt(coordinator_address=f"localhost:{_free_port()}", num_processes=1, process_id=0)
    if failed:
        raise ValueError(f"--distributed: the processes do not find each other ({' '.join(str(failed[0]).split())}).")
    from jax._src.distributed import global_state  # of which there is nothing public: a store that all processes share

    _Watched.client, _Watched.index = global_state.client, global_state.process_id
    if global_state.num_processes > 1:
        _Watched.thread = threading.Thread(target=_watch, daemon=True)
        _Watched.thread.start()
        atexit.register(_stop_watching)  # before what JAX does at the end


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return free.getsockname()[1]


def _expected() -> dict[str, int]:
    """How many processes each launcher that there is has started."""
    found = {name: int(os.environ[key]) for key, name in COUNTS.items() if os.environ.get(key, "").isdecimal()}
    ray = _ray_count()
    return found if ray is None else {**found, "Ray": ray}


def _ray_count() -> int | None:
    train: Any = sys.modules.get("ray.train")
    if train is None:
        return None
    try:
        return train.get_context().get_world_size()
    except Exception:  # outside of a worker
        return None


# --- The end ----------------------------------------------------------------------------------------------------------


class _Watched:
    """What is known of the end: `lock` is taken by who brings it about, and never given back."""

    client: Any = None  # to what all processes are connected to
    thread: Any = None  # that watches
    index = 0
    is_over = False  # whether all have come to a good end, and are no longer watched
    lock = threading.Lock()


def is_watched() -> bool:
    """Whether the end of this process is that of others."""
    return _Watched.client is not None and processes.count() > 1


def end(message: str, status: int, *, after: float = 0.0) -> NoReturn:
    """End this process, and the others with it; process 0 says why.

    `after` is how long another process may take to say why it has ended, where this one fails for want of it.
    """
    time.sleep(after)
    _Watched.lock.acquire()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    if not _Watched.is_over:
        _set(json.dumps({"process": _Watched.index, "message": message, "status": status}))
    if _Watched.index == 0:
        _leave(message, status)
    if not _Watched.is_over and _read(seconds=2) is None:  # nobody else will say it
        _leave(message, status)
    os._exit(status)


def finish() -> None:
    """Wait for all processes, and no longer watch over them: a good end."""
    if not is_watched() or _Watched.is_over:
        return
    processes.gather(np.zeros(1))
    _Watched.is_over = True
    if _Watched.index == 0:
        _set(DONE)
    _stop_watching()


def _stop_watching() -> None:
    """Wait for the thread: one that is in C++ as Python ends would end it with a crash."""
    _Watched.is_over = True
    _Watched.thread.join(2 * LOOK)


def is_lost(error: BaseException) -> bool:
    """Whether this is what an error says of a process that others have lost."""
    return is_watched() and any(word in str(error) for word in ("Gloo", "gloo", "NCCL", "CoordinationService"))


def _watch() -> None:
    """End this process where another one has ended."""
    while (text := _read(seconds=LOOK)) is None and not _Watched.is_over:
        if not _is_connected():
            time.sleep(UNTIL_SAID)
            end("process 0 has ended, and this one with it", 1)
    if text in (None, DONE):
        return
    found = json.loads(text)
    _Watched.lock.acquire()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    if _Watched.index == 0:
        _leave(f"process {found['process']}: {found['message']}", found["status"])
    os._exit(found["status"])


def _leave(message: str, status: int) -> NoReturn:
    """Say it, and go; process 0 after the others, since it is what they are connected to."""
    print(f"handgrad: {message}", file=sys.stderr, flush=True)
    if _Watched.index == 0:
        time.sleep(GRACE)
    os._exit(status)


def _set(value: str) -> None:
    """What is set first is what all read."""
    with contextlib.suppress(Exception):  # it is set, or nobody is there who would read it
        _Watched.client.key_value_set(ENDED, value)


def _read(seconds: float) -> str | None:
    """What is set, as soon as it is; None where nothing is in this time."""
    try:
        return _Watched.client.blocking_key_value_get(ENDED, int(1000 * seconds))
    except Exception:
        return None


def _is_connected() -> bool:
    try:
        _Watched.client.key_value_set(ALIVE, "", allow_overwrite=True)
    except Exception:
        return False
    return True
