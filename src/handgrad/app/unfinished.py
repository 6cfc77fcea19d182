"""A run at work: from its first second its folder RUN has `unfinished`, with all that is needed to go on after a kill.

There are `arguments.json`, what was asked for, `data.json`, by which the data are known again, and checkpoints under
their numbers, each of which appears whole, by a rename. As long as the process lives it holds a lock on the folder.
What stood in RUN before is whole until the finished run takes its place, and `unfinished` is gone with the same step.
"""

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from handgrad.files import ARGUMENTS, OLD_PARTIAL, UNFINISHED, is_unfinished, lock, remove, require_room, settle, store

DATA = "data.json"


@contextlib.contextmanager
def begin(folder: pathlib.Path, arguments: Mapping[str, Any], *, overwrite: bool) -> Iterator[pathlib.Path]:
    """RUN/unfinished with these arguments, locked. Folders that were not there go again where it is gone at the end.

    Raises:
      ValueError: as `new_run`; another process is at work there.
    """
    target = folder.resolve()
    settle(target)
    require_room(folder, overwrite=overwrite)
    if target.parent.is_file():
        raise ValueError(f"{folder.parent}: is a file; a run needs a folder.")
    missing = [each for each in (target, *target.parents) if not each.exists()]
    target.mkdir(parents=True, exist_ok=True)
    try:
        with _made(folder, target, arguments) as place:
            yield place
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # there is something in it
                each.rmdir()


@contextlib.contextmanager
def _made(folder: pathlib.Path, target: pathlib.Path, arguments: Mapping[str, Any]) -> Iterator[pathlib.Path]:
    temporary, place = _name_in(target), target / UNFINISHED
    if place.exists() and not is_unfinished(target):
        raise ValueError(f"{folder / UNFINISHED}: stands where a run at work has a folder, and is none. Move it away.")
    temporary.mkdir()
    descriptor = lock(temporary)
    try:
        write(temporary / ARGUMENTS, arguments)
        if place.exists():
            with locked(folder):  # else one that is dead, of which nothing is kept
                os.rename(place, old := _name_in(target))
            remove(old)
        try:
            os.rename(temporary, place)
        except OSError:  # another process was faster
            raise _is_taken(folder) from None
        yield place
    finally:
        remove(temporary)
        if descriptor is not None and descriptor >= 0:
            os.close(descriptor)


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """While no other process is at work in the folder.

    Raises:
      ValueError: one is.
    """
    descriptor = lock(folder.resolve() / UNFINISHED)
    if descriptor is None:
        raise _is_taken(folder)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _is_taken(folder: pathlib.Path) -> ValueError:
    return ValueError(f"{folder}: another process is at work on this run. Wait for it, or choose another folder.")


def _name_in(target: pathlib.Path) -> pathlib.Path:
    return target / f"{OLD_PARTIAL}{secrets.token_hex(4)}"


def write(path: pathlib.Path, value: Any) -> None:
    """A file of JSON, which appears whole."""
    temporary = _name_in(path.parent)
    # A file's name may be no text, of which Python makes lone surrogates: JSON has these as escapes.
    temporary.write_text(json.dumps(value, indent=2), encoding="utf-8")
    store(temporary)
    os.replace(temporary, path)


def read(path: pathlib.Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """What `write` has written: values by names, as many and of the same types as in `like`.

    Raises:
      ValueError: something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if {name: type(own) for name, own in found.items()} == {name: type(own) for name, own in like.items()}:
            return found
    except (ValueError, RecursionError, AttributeError):
        pass
    raise ValueError(f"{path}: is damaged, or was not written by handgrad. Begin anew with --overwrite.")
