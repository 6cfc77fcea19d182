"""How far a command is, with the time that is left, and what Ctrl-C means while there is something to keep."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NoReturn

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn

from handgrad import launching, processes
from handgrad.app import cli
from handgrad.app.screen import Screen
from handgrad.app.words import duration
from handgrad.progress import share_of_gap

PATIENCE = 1.0  # seconds before anything is said
BAR = 20  # characters
RARER = 3  # without a terminal each line comes after so many times the seconds of the one before


class Watch:
    """Called as watch(share, words), it shows how much is done, and answers whether the user has asked to end it.

    `asked` is whether that is so, and `number` the signal that did. Processes are asked all at once, if one is.
    """

    current: "ClassVar[Watch | None]" = None  # which `watching` shows

    def __init__(self, screen: Screen, what: str):
        self.screen, self.what, self.start = screen, what, time.monotonic()
        self.share, self.next = 0.0, PATIENCE
        self.asked, self.number, self.words = False, 0, ""
        self.pending = 0  # the signal that has come to this process
        bar = (TextColumn("{task.description}"), BarColumn(BAR), TextColumn("{task.fields[words]}"))
        self.bar = Progress(*bar, console=screen.console, transient=True) if screen.console.is_terminal else None

    def __call__(self, share: float, words: str = "") -> bool:
        """Whether to end it."""
        self.words = words
        self.show(share, words)
        return self.agree()

    def agree(self) -> bool:
        """Whether to end it, as all processes have it that call this at the same point of what they do."""
        if not self.asked:
            self.number = int(processes.gather(np.array(self.pending)).max())
            self.asked = self.number > 0
            if self.asked and not self.pending:  # it has come to another process
                cli.received.append(self.number)
        return self.asked

    def step(self, words: str) -> None:
        """Show what is done towards the next share."""
        self.show(self.share, ", ".join(filter(None, (self.words, words))))

    def close(self) -> None:
        """Take away the bar."""
        if self.bar is not None and self.bar.task_ids:
            self.bar.stop()

    def show(self, share: float, words: str) -> None:
        """Show how much is done, and nothing else."""
        self.share = min(max(self.share, share), 1.0)
        spent = time.monotonic() - self.start
        if spent >= self.next:
            left = f"{duration(spent * (1 - self.share) / self.share)} left" if self.share > 0 else ""
            self._show(words, left, spent)

    def _show(self, words: str, left: str, spent: float) -> None:
        if self.bar is None:
            self.next = spent * RARER
            self.screen.say(f"{self.what}: {', '.join(filter(None, (words, left)))}")
            return
        said = ", ".join(filter(None, (left, words)))  # of which a narrow terminal cuts off the end
        if not self.bar.task_ids:
            self.bar.add_task(self.what, total=1.0, words=said)
            self.bar.start()
        self.bar.update(self.bar.task_ids[0], completed=self.share, words=said)

    def of_gap(self, tol: float) -> Callable[[int, float, float], bool]:
        """The callback of a fit that goes to a gap of tol times the loss."""
        share = share_of_gap(tol)
        return lambda iteration, loss, gap: self(*share(iteration, loss, gap))


class Passes:
    """Called by a table in its file with how far a pass over it is, it shows that, or what it is a step towards."""

    def __init__(self, screen: Screen):
        self.screen = screen
        self.watch: Watch | None = None

    def __call__(self, done: int, rows: int) -> None:
        """So many of the rows have been read."""
        if Watch.current is not None:
            Watch.current.step(f"{done / rows:.0%} of a pass")
            return
        self.watch = self.watch or Watch(self.screen, "reading")
        self.watch.show(done / rows, f"{done:,} of {rows:,} rows")
        if done >= rows:
            self.watch.close()
            self.watch = None


@contextlib.contextmanager
def watching(screen: Screen, what: str, signals: Sequence[int] = (signal.SIGINT,)) -> Iterator[Watch]:
    """A watch, shown from a second on. Ctrl-C asks it to end; a second Ctrl-C ends the program at once. So does each of
    the signals.

    Where another thread than the main one runs this, or something else answers a signal, that stays so.
    """
    watch = Watch(screen, what)

    def ask(number: int, _: Any) -> None:
        cli.received.append(number)
        watch.pending = number
        if processes.count() == 1:
            watch.agree()
        put_back()
        screen.say("interrupted: what is done is kept; once more ends it at once", style="yellow")

    def put_back() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in signals if is_main}
    before = {n: own for n, own in before.items() if own in (signal.default_int_handler, cli.raise_interrupt)}
    for number in before:
        signal.signal(number, ask)
    outer, Watch.current = Watch.current, watch
    try:
        yield watch
        watch.agree()
    finally:
        Watch.current = outer
        put_back()
        watch.close()


def interrupt() -> NoReturn:
    """End what all processes have agreed to end."""
    launching.finish()
    raise KeyboardInterrupt
