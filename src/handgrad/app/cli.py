"""The entry point: what a person reads, and the exit status, when something is wrong.

    0  done                              2    the user's mistake: one line, no traceback
    1  the gradient check failed, or     130  interrupted
       the loss became infinite

Any other exception is a mistake of ours and keeps its traceback.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

INTERRUPTED = 130  # what shells give for a program that SIGINT has ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
      arguments: of the command line; if None `sys.argv[1:]`, of a process that is this program and nothing else.

    Returns:
      The exit status.
    """
    is_program = arguments is None
    # In the background, where SIGINT is ignored, it stays so.
    is_interruptible = is_program and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    try:
        if is_interruptible:
            signal.signal(signal.SIGINT, _end)
        status = _run(sys.argv[1:] if arguments is None else arguments, is_interruptible)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status != INTERRUPTED:
        return status
    if is_program:
        _end()
    return _fail("interrupted", INTERRUPTED)


def _end(*_: Any) -> None:
    """End the process at once: JAX, torn down amid what it was doing, may crash.

    Also amid imports, where an exception was lost or came out as another in four of some fifteen trials.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    _fail("interrupted", INTERRUPTED)
    os._exit(INTERRUPTED)


def _interrupt_again(unraisable: Any) -> None:
    """JAX has Python called whenever garbage is collected; a KeyboardInterrupt raised there is dropped."""
    if unraisable.exc_type is KeyboardInterrupt:
        threading.Timer(0.01, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)


def _run(arguments: Sequence[str], is_interruptible: bool) -> int:
    try:
        import typer

        from handgrad.app.commands import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "handgrad":
            raise
        return _fail(f"the program needs {error.name}: pip install 'handgrad[app]'", 2)
    if is_interruptible:  # from here on there may be files to remove
        sys.unraisablehook = _interrupt_again
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status = app(arguments or ["--help"], prog_name="handgrad", standalone_mode=False)
        sys.stdout.flush()
        return status or 0
    except typer.Abort:
        return INTERRUPTED
    except FloatingPointError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:  # as in `handgrad predict … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except (ValueError, ImportError) as error:
        return _fail(str(error), 2)
    except Exception as error:
        # A usage error of click, of which recent typers carry a copy of their own: there is no one class to name.
        if not hasattr(error, "format_message"):
            raise
        return _fail(error.format_message(), 2)


def _fail(message: str, status: int) -> int:
    print(f"handgrad: {' '.join(message.split())}", file=sys.stderr)
    return status
