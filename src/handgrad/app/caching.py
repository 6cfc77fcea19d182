"""Compiled programs are kept in the user's cache folder, so that a command compiles once what it needs.

JAX's own environment variables have the last word: JAX_COMPILATION_CACHE_DIR names another folder, and
JAX_ENABLE_COMPILATION_CACHE=0 turns it off.
"""

import contextlib
import functools
import glob
import hashlib
import os
import pathlib
import platform
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

MOST_BYTES = 256 * 2**20
# What JAX is told by its environment: to keep the small programs too, of which there are many.
SETTINGS = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def keep_compiled() -> None:
    """Have JAX, which must not be imported yet, keep what it compiles; nothing where no folder can be written to."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder() / "programs" / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK | os.X_OK):
        _bound(folder.parent)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        warnings.showwarning = functools.partial(_forget_damaged, folder, warnings.showwarning)


def cache_folder() -> pathlib.Path:
    """Where this platform has its users' caches."""
    if os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(os.environ["XDG_CACHE_HOME"]) / "handgrad"
    home = pathlib.Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "handgrad"
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "handgrad" / "Cache"
    return home / ".cache" / "handgrad"


def _machine() -> str:
    """A name for what programs are compiled for: a home folder may be shared by processors that differ."""
    about = [platform.machine(), platform.system()]
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        about += [
            line for line in file.read(2**14).splitlines() if line.startswith(("flags", "Features", "model name"))
        ][:2]
    return hashlib.blake2b("\n".join(about).encode(), digest_size=8).hexdigest()


def _forget_damaged(
    folder: pathlib.Path, show: Callable[..., None], message: Warning | str, *where: Any, **more: Any
) -> None:
    """Show a warning; but what a process left that was killed as it wrote is removed, of which JAX warns for ever."""
    found = re.match(r"Error (?:reading|writing) persistent compilation cache entry for '([\w.<>-]+)'", str(message))
    if found is None:
        show(message, *where, **more)
        return
    for path in folder.glob(f"{glob.escape(found[1])}-*"):
        with contextlib.suppress(OSError):
            path.unlink()


def _bound(folder: pathlib.Path) -> None:
    """Remove what was not used for the longest time, until what is left is half of what there may be."""
    files = []
    with contextlib.suppress(OSError):
        for path in folder.glob("*/*"):
            with contextlib.suppress(OSError):  # another process may remove it too
                status = path.stat()
                files.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    size = sum(each[1] for each in files)
    if size <= MOST_BYTES:
        return
    for _, own, path in sorted(files, key=lambda each: each[0]):
        with contextlib.suppress(OSError):
            path.unlink()
        size -= own
        if size <= MOST_BYTES / 2:
            return
