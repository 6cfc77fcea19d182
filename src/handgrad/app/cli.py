"""The entry point: what a person reads, and the exit status, when something is wrong.

    0  done                              2    the user's mistake: one line, no traceback
    1  the gradient check failed, or     130  interrupted
       the loss became infinite

Any other exception is a mistake of ours and keeps its traceback.
"""

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
      arguments: of the command line; `sys.argv[1:]` if None.

    Returns:
      The exit status.
    """
    try:
        import typer

        from handgrad.app.commands import app
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "handgrad":
            raise
        return _fail(f"the program needs {error.name}: pip install 'handgrad[app]'", 2)
    try:
        arguments = sys.argv[1:] if arguments is None else arguments
        status = app(arguments or ["--help"], prog_name="handgrad", standalone_mode=False)
        sys.stdout.flush()
        return status or 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
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
