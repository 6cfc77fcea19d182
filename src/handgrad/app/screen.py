"""What a person sees while a command runs, and the one JSON object that a program reads instead."""

import codecs
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from handgrad import processes
from handgrad.app.words import one_line


class Screen(NamedTuple):
    """Where to print: text for a person, silent with --quiet and --json, or an object for a program with --json.

    `arguments` are those of the command line, for a report to repeat.
    """

    console: Console
    as_json: bool
    arguments: tuple[str, ...] = ()

    def say(self, text: str, style: str = "") -> None:
        """A line, or several, for a person."""
        self.console.print(text, style=style)

    def note(self, notes: Iterable[str]) -> None:
        """A line for each note."""
        for note in notes:
            self.say(f"note: {one_line(note)}")

    def show(self, rows: Iterable[tuple[str, str, str]]) -> None:
        """A line for each (name, value, style)."""
        for name, value, style in rows:
            self.say(f"{name:17}{value}", style=style)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A line for each row, in columns as wide as what stands in them, the first to the left."""
        cells = [list(map(one_line, row)) for row in (header, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for number, (first, *others) in enumerate(cells):
            right = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
            self.say("  ".join([first.ljust(widths[0]), *right]).rstrip(), style="" if number else "bold")

    def answer(self, value: Callable[[], Mapping[str, Any]]) -> None:
        """The object for a program, which is made only where it is asked for."""
        if self.as_json:
            print(to_json(value(), is_ascii=not _is_utf8(sys.stdout.encoding)), flush=True)


class _Console(Console):
    """A console that falls silent where nobody reads it any more, as after `| head`: a run goes on, and is kept."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_screen(*, quiet: bool = False, as_json: bool = False, arguments: Iterable[str] = ()) -> Screen:
    """A screen that prints text as it is: no markup, no guessed colours, no line breaks. One process has it."""
    if processes.index() > 0:
        quiet, as_json = True, False
    console = _Console(markup=False, highlight=False, soft_wrap=True, quiet=quiet or as_json)
    return Screen(console, as_json, tuple(arguments))


def to_json(value: Mapping[str, Any], *, is_ascii: bool = False) -> str:
    """JSON that every reader takes: no NaN and no infinity, which must be None before they come here."""
    return json.dumps(value, indent=2, allow_nan=False, ensure_ascii=is_ascii)


def _is_utf8(encoding: str | None) -> bool:
    return encoding is not None and codecs.lookup(encoding).name == "utf-8"
