"""`--resume RUN`: the command that began a run, once more, from where it was when it ended."""

import contextlib
import json
import pathlib
from typing import Any

from handgrad import processes
from handgrad.app.checkpoints import describe, versions
from handgrad.app.screen import Screen
from handgrad.app.unfinished import locked, read
from handgrad.app.words import one_line
from handgrad.files import ARGUMENTS, MODEL_FILE, UNFINISHED, is_unfinished, settle

BEGUN = "handgrad.begun"  # under which a command's context has the folder of what it goes on with


def is_distributed(folder: pathlib.Path) -> bool:
    """Whether the run in the folder, finished or not, was begun with --distributed."""
    for path in (folder / UNFINISHED / ARGUMENTS, folder / "metrics.json"):
        with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
            return "--distributed" in json.loads(path.read_text(encoding="utf-8"))["arguments"]
    return False


def resume(context: Any, screen: Screen, folder: pathlib.Path) -> Any:
    """Run the command of the context with the arguments that the run in the folder was begun with.

    Raises:
      FileNotFoundError, ValueError: no run; one of another command or version; another process is at work on it.
    """
    if processes.index() == 0:
        settle(folder.absolute())
    processes.of_first(None)  # the others look after that
    name = context.command.name
    if not is_unfinished(folder):
        if (folder / MODEL_FILE).exists():
            screen.say(f"{one_line(str(folder))}: is finished; there is nothing to go on with")
            screen.answer(lambda: {"run": str(folder), "finished": True})
            return 0
        if folder.exists():
            raise ValueError(f"{folder}: holds no run. `handgrad {name} --out RUN` begins one.")
        raise FileNotFoundError(f"{folder}: there is no such run. `handgrad {name} --out RUN` begins one.")
    begun = read(folder / UNFINISHED / ARGUMENTS, describe(()))
    arguments = tuple(map(str, begun["arguments"]))
    if arguments[:1] != (name,):
        raise ValueError(
            f"{folder}: was begun by `handgrad {' '.join(arguments[:1])}`, which has a --resume of its own."
        )
    if begun["versions"] != versions():
        then, now = (", ".join(f"{what} {of}" for what, of in own.items()) for own in (begun["versions"], versions()))
        raise ValueError(
            f"{folder}: was begun with {then}; this is {now}. Go on with those, or begin anew with --overwrite."
        )
    flags = [flag for flag, is_set in (("--json", screen.as_json), ("--quiet", screen.console.quiet)) if is_set]
    folder, home = folder.absolute(), pathlib.Path(begun["folder"])
    # Names of files are those of the folder that the command was given in.
    is_first = processes.index() == 0
    with (
        locked(folder) if is_first else contextlib.nullcontext(),
        contextlib.chdir(home) if home.is_dir() else contextlib.nullcontext(),
    ):
        given = [*arguments[1:], *flags]
        with context.command.make_context(name, given, parent=context.parent, obj=arguments) as again:
            again.meta[BEGUN] = folder
            return context.command.invoke(again)
