"""The options by which the program reads tables, the same for every command that reads one."""

import functools
import inspect
import pathlib
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from handgrad.data.tables import MISSING

Command = TypeVar("Command", bound=Callable[..., Any])
FORMATS = (
    ".csv, .tsv, .txt (packed too: .gz, .bz2, .zst), .parquet, .arrow, .feather; arrays: .npz, .npy, .safetensors, "
    "IDX, .svmlight; - is standard input"
)

Data = Annotated[
    pathlib.Path | None,
    typer.Argument(
        help=f"A table: {FORMATS}. The 1,797 handwritten digits that come with handgrad if left out.",
        show_default=False,
    ),
]


def flag_of(name: str) -> str:
    """The option for an argument of `read_table`."""
    return {"ids": "--id", "text_encoding": "--encoding"}.get(name, f"--{name}")


def _option(flag: str, text: str, metavar: str) -> Any:
    return typer.Option(flag, help=text, metavar=metavar, show_default=False, rich_help_panel="Reading the data")


_Options = dict[str, tuple[Any, str, str]]  # by the argument's name: its type, the help, what stands for a value
_FOR_BOTH: _Options = {
    "ids": (list[str], "A column that is no feature, and that predict passes through.", "COLUMN"),
    "features": (str | None, "Of a file of arrays, the one with the features.", "NAME"),
    "separator": (str | None, "Between values in a text. This and what follows are found out.", "CHARACTER"),
    "decimal": (str | None, "The decimal mark, a point or a comma.", "CHARACTER"),
    "quote": (str | None, "What a value may stand in.", "CHARACTER"),
    "text_encoding": (str | None, "Such as utf-8, utf-16, cp1252.", "NAME"),
}
_TO_LEARN: _Options = {
    "target": (str | None, "The column with the classes.", "COLUMN"),
    "labels": (str | None, "The classes of arrays: one of them, or a file.", "NAME|FILE"),
    "missing": (str | None, f"What is done where a value is missing: {', '.join(MISSING)}; else refused.", "HOW"),
    "drop": (list[str], "A column to leave out; each needs a --drop.", "COLUMN"),
    "keep": (list[str], "A column to learn from, and from no others.", "COLUMN"),
    "weight": (str | None, "The column with the rows' weights.", "COLUMN"),
    "group": (str | None, "The column of which equal values stay together.", "COLUMN"),
    "time": (str | None, "The column by which the latest rows test.", "COLUMN"),
}


def reads_table(command: Command) -> Command:
    """The command with all options of `handgrad.data.read_table`, those given going to its argument `reading`."""
    return _with_options(command, _TO_LEARN | _FOR_BOTH)


def reads_features(command: Command) -> Command:
    """The command with all options of `handgrad.data.read_features`, those given going to its argument `reading`."""
    return _with_options(command, _FOR_BOTH)


def _with_options(command: Command, options: _Options) -> Command:
    @functools.wraps(command)
    def with_reading(**arguments: Any) -> Any:
        given = {name: arguments.pop(name) for name in options}
        return command(**arguments, reading={name: value for name, value in given.items() if value})

    own = [each for name, each in inspect.signature(command).parameters.items() if name != "reading"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(
            name,
            keyword,
            default=[] if kind == list[str] else None,
            annotation=Annotated[kind, _option(flag_of(name), text, metavar)],
        )
        for name, (kind, text, metavar) in options.items()
    ]
    parameters = [*(each.replace(kind=keyword) for each in own), *added]
    with_reading.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_reading.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_reading  # type: ignore[return-value]
