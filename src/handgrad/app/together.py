"""What `--distributed` begins: processes that all do the same, of which the first alone prints and writes."""

import os
import sys
import warnings

from handgrad import launching, processes


def begin() -> None:
    """Begin `jax.distributed`, if that is not done, as the launcher of the processes says.

    Raises:
      ValueError: as `handgrad.launching.start`.
    """
    if processes.is_shared():
        return
    _leave_output_to_python()
    launching.start()
    if processes.index() > 0:
        warnings.simplefilter("ignore")


def _leave_output_to_python() -> None:
    """Nothing is printed but by Python: Gloo, for one, says to whom it is connected."""
    sys.stdout.flush()
    own, encoding, errors = os.dup(1), sys.stdout.encoding, sys.stdout.errors
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)
    sys.stdout = os.fdopen(own, "w", 1 if os.isatty(own) else -1, encoding=encoding, errors=errors)
