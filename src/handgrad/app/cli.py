"""The entry point: what a person reads, and the exit status, when something is wrong.

    0  done, also where a fit is done that has not converged, which is said
    1  the gradient check failed, or the loss became infinite
    2  the user's mistake: one line, no traceback
    128 + n  ended by signal n: 130 is Ctrl-C, 143 is kill; what Ctrl-C has ended is kept all the same, and
             `--resume` goes on with either; 141 where nobody reads on what was printed for a program, as after `| head`

Any other exception is a mistake of ours and keeps its traceback.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from handgrad.app.words import one_line

# More is imported where it is used: a signal that comes before `main` is not answered.

# What asks a program to end: Ctrl-C, kill, a terminal that is closed. All are answered alike: what is half written is
# removed, and the status is what shells give for a program that the signal has ended.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
INTERRUPTED, BROKEN_PIPE = 128 + signal.SIGINT, 141
received: list[int] = []  # typer keeps the fact of a KeyboardInterrupt, and not what it is of
postponed: list[int] = []  # what came amid an import, whose end it waits for


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
      arguments: of the command line; if None `sys.argv[1:]`, of a process that is this program and nothing else.

    Returns:
      The exit status.
    """
    is_program = arguments is None
    if is_program:
        _open_streams()
    # In the background, where SIGINT is ignored, and under nohup, where SIGHUP is, it stays so.
    defaults = (signal.default_int_handler, signal.SIG_DFL)
    signals = [number for number in SIGNALS if signal.getsignal(number) in defaults] if is_program else []
    try:
        for number in signals:
            signal.signal(number, _end)
        if is_program:
            from handgrad.app.caching import keep_compiled

            keep_compiled()
        status = _run(sys.argv[1:] if arguments is None else arguments, is_program=is_program)
    except KeyboardInterrupt:
        status = INTERRUPTED
    if status != INTERRUPTED:
        return status
    number = received[0] if received else signal.SIGINT
    if is_program:
        _end(number)
    return _fail_by(number)


def _end(number: int, _: Any = None) -> None:
    """End the process at once: JAX, torn down amid what it was doing, may crash.

    Also amid imports, where an exception was lost or came out as another in four of some fifteen trials.
    """
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(_fail_by(number))


def begin_work() -> None:
    """From here on there may be files to remove: of the signals that `main` answers, each raises."""
    for number in SIGNALS:
        if signal.getsignal(number) is _end:
            signal.signal(number, raise_interrupt)


def raise_interrupt(number: int, frame: Any) -> None:
    """What a signal does while there may be files to remove.

    Amid an import it waits for the end of that, unless it comes once more: a module in C that is half initialized makes
    an ImportError of a KeyboardInterrupt, or ends the process with a crash.
    """
    if number in postponed:
        _end(number)
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            postponed.append(number)
            return _soon(_come_again, number)
        frame = frame.f_back
    received.append(number)
    raise KeyboardInterrupt


def _come_again(number: int) -> None:
    import _thread

    postponed.remove(number)
    _thread.interrupt_main(signal.Signals(number))


def _soon(do: Callable[[int], None], number: int) -> None:
    import threading

    threading.Timer(0.01, do, [number]).start()


def _interrupt_again(unraisable: Any) -> None:
    """JAX has Python called whenever garbage is collected; a KeyboardInterrupt raised there is dropped."""
    if unraisable.exc_type is not KeyboardInterrupt:
        return sys.__unraisablehook__(unraisable)
    import _thread

    while True:  # on a busy machine it may come while this is still at work, where it is dropped too
        try:
            return _soon(lambda _: _thread.interrupt_main(), signal.SIGINT)
        except KeyboardInterrupt:
            pass


def _open_streams() -> None:
    """Streams that there are, and that take every letter, written out where an encoding lacks it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 for as long as the process lives
        getattr(sys, name).reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str], *, is_program: bool) -> int:
    try:
        import typer

        from handgrad.app.program import app
    except ModuleNotFoundError as error:
        return _fail_for_want(error)
    if is_program:
        sys.unraisablehook = _interrupt_again
    try:
        try:
            status = app(arguments or ["--help"], prog_name="handgrad", standalone_mode=False, obj=arguments)
            sys.stdout.flush()
            if status != INTERRUPTED:  # which a process may be that the others know nothing of
                _together(lambda launching: launching.finish())
        except Exception as error:
            _together(_end_if_lost, error)
            raise
        return status or 0
    except typer.Abort:
        return INTERRUPTED
    except FloatingPointError as error:
        return _fail(str(error), 1)
    except (BrokenPipeError, SystemExit) as error:  # as in `handgrad predict … | head`, of which click makes an exit
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except ModuleNotFoundError as error:  # a command is imported when it runs
        return _fail_for_want(error)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2)
    except (ValueError, ImportError) as error:
        return _fail(str(error), 2)
    except Exception as error:
        # A usage error of click, of which recent typers carry a copy of their own: there is no one class to name.
        if not hasattr(error, "format_message"):
            _together(_end_by_mistake)
            raise
        return _fail(error.format_message(), 2)


def _fail_for_want(error: ModuleNotFoundError) -> int:
    if error.name is None or error.name.partition(".")[0] == "handgrad":
        raise error
    return _fail(f"the program needs {error.name}: pip install 'handgrad[app]'", 2)


def _fail_by(number: int) -> int:
    return _fail("interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}", 128 + number)


def _together(do: Callable[..., Any], *arguments: Any) -> None:
    """What processes do that were begun together, if this is one of several."""
    launching: Any = sys.modules.get("handgrad.launching")
    if launching is not None and launching.is_watched():
        do(launching, *arguments)


def _end_if_lost(launching: Any, error: Exception) -> None:
    if launching.is_lost(error):
        launching.end("another process has ended, and this one with it", 1, after=launching.UNTIL_SAID)


def _end_by_mistake(launching: Any) -> None:
    import traceback

    traceback.print_exc()
    launching.end("a mistake of handgrad's own, of which there is more above", 1)


def _fail(message: str, status: int) -> int:
    _together(lambda launching: launching.end(one_line(message), status))
    print(f"handgrad: {one_line(message)}", file=sys.stderr)
    return status
