"""Files that appear whole or not at all, whatever interrupts the program."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from handgrad.app.model import FILE_NAME


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary path to write to: renamed to `path` at a good end, removed at any other."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: there is no such folder.")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_run(folder: pathlib.Path, *, overwrite: bool) -> Iterator[pathlib.Path]:
    """A temporary folder to write to: its files are moved to `folder` at a good end, removed at any other.

    Raises:
      ValueError: `folder` is a file, or holds a run and `overwrite` is False.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; --out needs a folder.")
    if (folder / FILE_NAME).exists() and not overwrite:
        raise ValueError(f"{folder}: holds a run already. Choose another --out, or pass --overwrite.")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as temporary:
            yield pathlib.Path(temporary)
            for file in pathlib.Path(temporary).iterdir():
                os.replace(file, folder / file.name)
    except BaseException:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
