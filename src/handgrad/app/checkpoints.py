"""What a run at work leaves to go on from: checkpoints, by orbax, and what its data are known by."""

import contextlib
import hashlib
import importlib.util
import math
import os
import pathlib
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import handgrad
from handgrad import launching, processes
from handgrad.app import cli
from handgrad.app.progress import Watch, interrupt
from handgrad.app.screen import Screen
from handgrad.app.unfinished import DATA, begin, read, write
from handgrad.app.words import one_line
from handgrad.data import Table
from handgrad.files import UNFINISHED, checkpoints, new_run, remove
from handgrad.solvers.certificate import Certified
from handgrad.solvers.driver import Answers
from handgrad.solvers.lanes import Lanes, Solutions
from handgrad.solvers.penalty import L2
from handgrad.solvers.state import FitState, SolverState

Arrays = dict[str, np.ndarray]


class Work:
    """A run at work in a folder, which is None where nothing is to be kept: of processes the first has it.

    Attributes:
      out: the folder.
      every: after so many iterations, or epochs, there is a checkpoint; None for none but at a signal.
      saved: the newest checkpoint there was; None without any.
    """

    def __init__(self, out: pathlib.Path | None = None, every: int | None = None):
        self.out, self.every, self.since = out, every, 0
        self.can_save = processes.of_first(out is not None and has_orbax())
        self.place = None if out is None else out.resolve() / UNFINISHED
        found = [] if out is None else checkpoints(out)
        self.number = int(found[-1].name) if found else 0
        if found and not self.can_save:
            raise ValueError(f"{out}: has a checkpoint, which is read with orbax: pip install 'handgrad[resume]'")
        self.saved = processes.of_first(_restore(found[-1]) if found else None)
        self.goes_on = False  # after what is written as its end
        self._remove_others()

    def count(self, take: Callable[[], Any], watch: Watch, iterations: int = 1) -> None:
        """After an iteration or some: a checkpoint of what `take` gives where one is due or a signal asks for the end.

        Ctrl-C has what is done become a run nevertheless, which goes on from there; other signals end the program here.
        """
        if not self.goes_on:
            self.since += iterations
            if self.since >= (self.every or math.inf) or (watch.asked and self.can_save):
                self.save(take())
            self.goes_on = watch.asked and watch.number == signal.SIGINT and self.can_save
        if watch.asked and watch.number != signal.SIGINT:
            interrupt()

    def save(self, state: Any) -> None:
        """A checkpoint, in place of those before."""
        self.since = 0
        if self.place is None:  # of another process
            return
        self.number += 1
        with _checkpointer() as checkpointer:
            checkpointer.save(self.place / str(self.number), as_arrays(state))
        self._remove_others()

    def _remove_others(self) -> None:
        """Remove earlier checkpoints, and what was being written when a process was killed."""
        for entry in () if self.place is None or not self.place.exists() else self.place.iterdir():
            if entry.is_dir() and entry.name != str(self.number):
                remove(entry)

    @contextlib.contextmanager
    def written(self) -> Iterator[pathlib.Path | None]:
        """A folder to write the run to, which takes its place at a good end; None where nothing is to be kept."""
        if self.out is None:
            yield None
            return
        with new_run(self.out, overwrite=True, goes_on=self.goes_on) as folder:
            yield folder

    @property
    def signals(self) -> Sequence[int]:
        """Those that ask for an end, instead of being one."""
        return cli.SIGNALS if self.can_save else [signal.SIGINT]

    def known(self) -> dict[str, Any] | None:
        """What is known of the data of a run that goes on: `rows`, `fingerprint`, and whether they stay `in_file`."""
        known = None
        if self.place is not None and (self.place / DATA).exists():
            known = read(self.place / DATA, {"rows": 0, "fingerprint": "", "in_file": False})
        return processes.of_first(known)

    def require_same(self, table: Table) -> None:
        """Check that the data are those that the run was begun with.

        Raises:
          ValueError: they are not.
        """
        begun = self.known()
        if self.place is None:
            return
        found = _describe(table)
        if begun is None:
            write(self.place / DATA, found)
        elif begun != found:
            before, now = begun["rows"], found["rows"]
            what = f"{before:,} rows, now {now:,}" if before != now else f"{now:,} rows as before, but others"
            raise ValueError(
                f"{self.out}: was begun with data that have changed: {what}. Put them back, or begin anew with "
                "--overwrite."
            )

    def take_saved(self) -> Arrays | None:
        """What was saved, which is then no longer held."""
        saved, self.saved = self.saved, None
        return saved


@contextlib.contextmanager
def at_work(
    screen: Screen, out: pathlib.Path | None, *, overwrite: bool, every: int | None, begun: pathlib.Path | None
) -> Iterator[Work]:
    """A run at work; one that was `begun`, and is locked already, goes on. What is of no use goes at a bad end."""
    if every is not None:
        if out is None:
            raise ValueError("--checkpoint-every needs --out, the folder of the run that the checkpoints are kept in.")
        if not has_orbax():
            raise ValueError("--checkpoint-every needs orbax: pip install 'handgrad[resume]'")
    if out is None or processes.index() > 0:
        yield Work(None, every)
        return
    with contextlib.ExitStack() as stack:
        if begun is None:
            stack.enter_context(begin(out, describe(screen.arguments), overwrite=overwrite))
        work = Work(begun or out, every)
        try:
            yield work
        except BaseException as error:
            assert work.place is not None
            is_killed = isinstance(error, KeyboardInterrupt) and cli.received[-1:] not in ([], [signal.SIGINT])
            is_killed |= launching.is_lost(error)
            work.goes_on = begun is not None or work.number > 0 or is_killed
            if not work.goes_on or isinstance(error, FloatingPointError):
                remove(work.place)
            raise
        finally:
            if work.goes_on and isinstance(sys.exception(), KeyboardInterrupt | None):
                command = shlex.join(["handgrad", screen.arguments[0], "--resume", one_line(str(work.out))])
                screen.say(f"`{command}` goes on with it", style="yellow")


def describe(arguments: Sequence[str]) -> dict[str, Any]:
    """What is kept of how a run was begun."""
    return {"arguments": list(arguments), "folder": os.getcwd(), "versions": versions()}


def has_orbax() -> bool:
    """Whether checkpoints can be written."""
    try:
        return importlib.util.find_spec("orbax.checkpoint") is not None
    except ModuleNotFoundError:
        return False


def versions() -> dict[str, str]:
    """Of what has a say in the bits of a result."""
    own = {"handgrad": handgrad.__version__, "jax": jax.__version__, "numpy": np.__version__}
    if processes.is_shared():
        own["processes"] = f"{processes.count()} of {jax.local_device_count()} devices"
    return own


# --- States as arrays -------------------------------------------------------------------------------------------------


def as_arrays(state: Any) -> Arrays:
    """The leaves of a pytree by the names of their places, without those that have no entries, which orbax refuses."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    arrays = {jax.tree_util.keystr(path): np.array(leaf, order="C") for path, leaf in leaves}
    return {name: array for name, array in arrays.items() if array.size}


def as_state(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The pytree of which these are the leaves, made as `like`, whose own stand for those that are missing."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    found = [arrays.get(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
    return jax.tree.unflatten(structure, found)


# What the state of a fit is made of; where it has no such part there is None, and no leaf.
_SOLVER = SolverState(Lanes(L2(0), *[0] * 10), 0, ..., 0, 0, 0, 0, 0, Solutions(0, 0, 0, 0))  # type: ignore[arg-type]
FIT_STATE = FitState(0, 0, 0, Answers(Certified(*[0] * 8), 0, 0, 0, ...), _SOLVER)  # type: ignore[arg-type]


def as_fit_state(found: FitState) -> FitState:
    """The state of a fit that `as_state` found to be made as FIT_STATE, with None for what it has not."""
    answers, solver = found.answers, found.solver
    return found._replace(
        answers=None if answers.status is ... else answers,
        solver=solver._replace(blocks=None if solver.blocks is ... else solver.blocks),
    )


def _checkpointer() -> Any:
    """Of this process alone, whatever others there are."""
    import orbax.checkpoint as ocp

    index = processes.index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix="handgrad"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _restore(path: pathlib.Path) -> Arrays:
    with _checkpointer() as checkpointer:
        return {name: np.asarray(array) for name, array in checkpointer.restore(path).items()}


# --- What data are known by -------------------------------------------------------------------------------------------


def _describe(table: Table) -> dict[str, Any]:
    in_file = table.file is not None and not table.file.is_held
    return {"rows": table.num_rows, "fingerprint": fingerprint(table), "in_file": in_file}


def fingerprint(table: Table) -> str:
    """What is the same where every row is, in the same order."""
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, table._replace(notes=()))
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, np.ndarray) and value.dtype != object:
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
    elif hasattr(value, "indptr"):
        _feed(digest, (value.shape, value.data, value.indices, value.indptr))
    elif isinstance(value, Mapping):
        _feed(digest, tuple(value.items()))
    elif isinstance(value, tuple | list | np.ndarray):
        for own in value:
            _feed(digest, own)
    elif not callable(value):
        digest.update(f"{value!r};".encode(sys.getdefaultencoding(), "surrogatepass"))
