"""Files and the folders of runs, which appear whole or not at all, whatever ends the program.

Each is written under another name beside its own, `.NAME.xxxxxxxx.partial`, and renamed at the end. As long as the
process lives it holds a lock on that; the next one to write there removes what nobody holds. A run of hours is at work
in a folder within its own, `unfinished`, which is gone once the run has taken its place; see `handgrad.app.unfinished`.
"""

import contextlib
import ctypes
import os
import pathlib
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: nothing is known to be dead, and all is left where it is
    fcntl = None

MODEL_FILE = "model.safetensors"
# The names that a run has for its files. All else in its folder is the user's, and stays.
RUN_FILES = (MODEL_FILE, "metrics.json", "report.html", "loss.png", "confusion.png", "weights.png")
OLD_PARTIAL = ".partial-"  # what is left in the folder by a process that was killed, in version 0.1 by each
UNFINISHED, ARGUMENTS = "unfinished", "arguments.json"  # the folder of a run at work, and the file that makes it one


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path to write to: renamed to `path` at a good end, removed at any other.

    A link stays one, and what it points to is replaced.

    Raises:
      FileNotFoundError, ValueError: a folder that is not there; something that is no regular file in the way.
    """
    target = path.resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder.")
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "no regular file"
        raise ValueError(f"{path}: is {what}; a file is needed. Choose another name.")
    with _partial(target, lambda temporary: temporary.touch(exist_ok=False)) as temporary:
        yield temporary
        store(temporary)
        os.replace(temporary, target)
        store(target.parent)


@contextlib.contextmanager
def new_run(folder: pathlib.Path, *, overwrite: bool, goes_on: bool = False) -> Iterator[pathlib.Path]:
    """A temporary folder to write to: it becomes `folder` at a good end, and is removed at any other.

    Where a run is replaced, it is whole until the new one is in its place, by one exchange of two names. The user's
    own files beside it stay, and where it `goes_on` what is unfinished, which is else gone with the exchange.

    Raises:
      ValueError: `folder` is a file, is the current one, holds what is no run, or holds a run and `overwrite` is False.
    """
    require_room(folder, overwrite=overwrite)
    target = folder.resolve()
    missing = [parent for parent in target.parents if not parent.exists()]
    if target.parent.is_file():
        raise ValueError(f"{folder.parent}: is a file; a run needs a folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _partial(target, pathlib.Path.mkdir) as temporary:
            yield temporary
            for written in (*temporary.rglob("*"), temporary):
                store(written)
            _put(temporary, target, goes_on)
            store(target.parent)
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def settle(path: pathlib.Path) -> None:
    """Remove what dead processes have left of writing `path`; a run that one of them had put aside is put back."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.(partial|earlier)")
    try:
        beside = [entry for entry in path.parent.iterdir() if ours.fullmatch(entry.name)]
    except OSError:
        return
    are_dead = [_remove_if_dead(entry) for entry in beside if entry.suffix == ".partial"]
    if not all(are_dead):
        return  # the living one may be about to rename
    for earlier in (entry for entry in beside if entry.suffix == ".earlier"):
        with contextlib.suppress(OSError):
            if not path.exists():
                os.rename(earlier, path)
            _remove_if_dead(earlier)


def store(path: pathlib.Path) -> None:
    """Wait until a file or a folder is on the disk: a power cut after a rename may else leave a name for nothing."""
    if path.is_symlink() or not (path.is_file() or path.is_dir()):
        return
    with contextlib.suppress(OSError):  # of file systems and systems that cannot, as of folders Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# --- What goes on beside ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _partial(target: pathlib.Path, make: Callable[[pathlib.Path], Any]) -> Iterator[pathlib.Path]:
    settle(target)
    descriptor = None
    while descriptor is None:
        temporary = _name_beside(target, "partial")
        try:
            make(temporary)
        except OSError as error:
            error.filename = str(target.parent)  # the other name means nothing to a user
            raise
        descriptor = lock(temporary)
    try:
        yield temporary
    finally:
        remove(temporary)
        if descriptor >= 0:
            os.close(descriptor)


def _name_beside(target: pathlib.Path, kind: str) -> pathlib.Path:
    return target.with_name(f".{target.name}.{secrets.token_hex(4)}.{kind}")


def lock(path: pathlib.Path) -> int | None:
    """A descriptor that holds the lock; −1 where there are no locks, None where another has it or has removed it.

    Not by the number of a process, which another machine or container that shares the folder may have too.
    """
    if fcntl is None:
        return -1
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():
            return descriptor
    except BlockingIOError:
        pass
    except OSError:  # a file system without locks
        os.close(descriptor)
        return -1
    os.close(descriptor)
    return None


def _remove_if_dead(path: pathlib.Path) -> bool:
    """Remove what no process holds. Returns whether it did."""
    try:
        descriptor = lock(path)
    except OSError:
        return False
    if descriptor is None or descriptor < 0:
        return not path.exists()
    remove(path)
    os.close(descriptor)
    return True


def remove(path: pathlib.Path) -> None:
    """Remove a file or a folder, or what can be removed of it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- The folder of a run ----------------------------------------------------------------------------------------------


def is_unfinished(folder: pathlib.Path) -> bool:
    """Whether a run is, or was, at work in the folder."""
    return (folder / UNFINISHED / ARGUMENTS).is_file()


def require_finished(folder: pathlib.Path) -> None:
    """Check that a run of which something is missing is not at work still.

    Raises:
      FileNotFoundError: it is.
    """
    if is_unfinished(folder):
        raise FileNotFoundError(f"{folder}: is not finished; `--resume` goes on with it.")


def checkpoints(folder: pathlib.Path) -> list[pathlib.Path]:
    """What an unfinished run in the folder can go on from, the newest last."""
    if not is_unfinished(folder):
        return []
    found = [entry for entry in (folder / UNFINISHED).iterdir() if entry.name.isdecimal()]
    return sorted(found, key=lambda entry: int(entry.name))


def require_room(folder: pathlib.Path, *, overwrite: bool) -> None:
    """Check that there may be a run in the folder. Raises as `new_run`."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder}: is a file; a run needs a folder.")
    if folder.samefile(os.curdir):
        raise ValueError(f"{folder}: is the current folder, which a run cannot replace. Name a folder in it.")
    if os.path.ismount(folder):
        raise ValueError(f"{folder}: is where a file system begins, which a run cannot replace. Name a folder in it.")
    if (folder / MODEL_FILE).exists():
        if not overwrite:
            raise ValueError(
                f"{folder}: holds a run already. Choose another folder, or pass --overwrite (in Python overwrite=True)."
            )
    elif checkpoints(folder):
        if not overwrite:
            raise ValueError(
                f"{folder}: holds an unfinished run, which --resume goes on with. Choose another folder, or pass "
                "--overwrite (in Python overwrite=True)."
            )
    elif not is_unfinished(folder) and not all(entry.name.startswith(OLD_PARTIAL) for entry in folder.iterdir()):
        raise ValueError(f"{folder}: holds files and no run. Choose a folder that is new or empty.")
    for name in RUN_FILES:
        if (folder / name).exists() and not stat.S_ISREG((folder / name).lstat().st_mode):
            raise ValueError(f"{folder / name}: stands where a run has a file, and is none. Move it away.")


def _put(temporary: pathlib.Path, target: pathlib.Path, goes_on: bool) -> None:
    at_work = UNFINISHED if is_unfinished(target) and not goes_on else None
    if not target.exists() or not any(target.iterdir()):
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()  # only where it is empty
        os.rename(temporary, target)
        return
    for entry in target.iterdir():
        if entry.name not in (*RUN_FILES, at_work) and not entry.name.startswith(OLD_PARTIAL):
            _link(entry, temporary / entry.name)
    shutil.copymode(target, temporary)
    try:
        _exchange(temporary, target)
    except (OSError, AttributeError, TypeError):  # of a system, or of a file system, that cannot
        earlier = _name_beside(target, "earlier")
        try:
            os.rename(target, earlier)
            os.rename(temporary, target)
        except BaseException:
            if earlier.exists() and not target.exists():
                os.rename(earlier, target)
            raise
        remove(earlier)


def _link(source: pathlib.Path, target: pathlib.Path) -> None:
    """The same file under a second name, so that it is there before and after the exchange; of a folder, its files."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=lambda *pair: _link(*map(pathlib.Path, pair)))
        return
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _exchange(a: pathlib.Path, b: pathlib.Path) -> None:
    """Give each of two folders the name of the other, at once."""
    library = ctypes.CDLL(None, use_errno=True)
    here, names = -100, (os.fsencode(a), os.fsencode(b))
    if sys.platform == "darwin":
        failed = library.renamex_np(*names, 2)
    else:
        failed = library.renameat2(here, names[0], here, names[1], 2)
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(b))
