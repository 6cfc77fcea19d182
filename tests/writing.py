"""Writes a run again and again, or once; run by `test_files` as `python writing.py FOLDER HOW [NUMBER WHEN]`.

HOW is "exchange", or "renames" as where the system cannot exchange two names. With NUMBER and WHEN the process kills
itself "before" or "after" the rename of that number; else it goes on until it is killed.
"""

import itertools
import os
import pathlib
import signal
import sys

from handgrad import files


def write(folder, number):
    with files.new_run(folder, overwrite=True) as temporary:
        for name in ("model.safetensors", "metrics.json", "loss.png"):
            (temporary / name).write_text(f"{number}\n" * 20_000)
            if number == 0:
                (temporary / "notes.txt").write_text("mine")


def dying(function, counter, number, when):
    def call(*arguments, **kwargs):
        is_it = next(counter) == number
        if is_it and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **kwargs)
        if is_it:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def cannot(*_):
    raise OSError(22, "Invalid argument")


if __name__ == "__main__":
    folder, how, *rest = sys.argv[1:]
    if how == "renames":
        files._exchange = cannot
    if rest:
        counter = itertools.count()
        for module, name in ((os, "rename"), (os, "replace"), (files, "_exchange")):
            if not (how == "renames" and name == "_exchange"):
                setattr(module, name, dying(getattr(module, name), counter, int(rest[0]), rest[1]))
        write(pathlib.Path(folder), 1)
        print("done")
    else:
        for number in itertools.count(1):
            write(pathlib.Path(folder), number)
            print(number, flush=True)
