"""A bar that shows how far a fit is, for who asks for it by `progress=True`: in a terminal rich, in a notebook HTML."""

import contextlib
import html
import importlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from handgrad.settings import check_callback, check_flag

SECONDS = 0.1  # between two pictures of a notebook's bar

Move = Callable[[float, str], None]


@contextlib.contextmanager
def shown(
    function: str, progress: bool, callback: Callable[..., Any] | None, share: Callable[..., tuple[float, str]]
) -> Iterator[Callable[..., Any] | None]:
    """The callback, and where `progress` asks for it a bar that it moves.

    Args:
      function: the public function that was called.
      progress: whether there is a bar.
      callback: that of the user.
      share: of what the callback gets, the part that is done, from 0 to 1, and a few words.
    """
    check_callback(function, callback)
    check_flag(function, "progress", progress)
    if not progress:
        yield callback
        return
    with _in_notebook(function) if _is_notebook() else _in_terminal(function) as move:

        def watched(*arguments: Any) -> Any:
            move(*share(*arguments))
            return None if callback is None else callback(*arguments)

        yield watched


def share_of_gap(tol: float) -> Callable[[int, float, float], tuple[float, str]]:
    """What is done of a fit that goes to a gap of tol times the loss: the gap falls by about as much each time."""
    first: list[float] = []

    def share(iteration: int, loss: float, gap: float) -> tuple[float, str]:
        first.append(gap)
        wanted, done = tol * loss, 0.0
        if 0 < wanted < first[0] < math.inf and gap > 0:
            done = math.log(first[0] / gap) / math.log(first[0] / wanted)
        return min(max(done, 0.0), 1.0), f"iteration {iteration:,}, within {gap:.1g} nats of the optimum"

    return share


@contextlib.contextmanager
def _in_terminal(function: str) -> Iterator[Move]:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{function}: progress=True needs rich: pip install 'handgrad[app]'. Or pass a callback of your own.",
            name=error.name,
        ) from None
    columns = BarColumn(), TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[words]}")
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(function, total=1.0, words="")
        yield lambda share, words: bar.update(task, completed=share, words=words)
        bar.update(task, completed=1.0)


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextlib.contextmanager
def _in_notebook(function: str) -> Iterator[Move]:
    # Not by rich, which needs ipywidgets there.
    ipython = importlib.import_module("IPython.display")
    start = time.monotonic()
    drawn, last = -math.inf, (0.0, "")

    def picture(share: float, words: str) -> Any:
        spent = time.monotonic() - start
        when = f"{spent:.1f} s" if share in (0, 1) else f"{spent * (1 - share) / share:.0f} s left"
        text = html.escape(", ".join(filter(None, (f"{function}: {words}" if words else function, when))))
        return ipython.HTML(f'<progress value="{share:.3f}" max="1"></progress> {text}')

    handle = ipython.display(picture(*last), display_id=True)

    def move(share: float, words: str) -> None:
        nonlocal drawn, last
        last = share, words
        if time.monotonic() - drawn >= SECONDS:
            drawn = time.monotonic()
            handle.update(picture(share, words))

    yield move
    handle.update(picture(1.0, last[1]))
