"""What the commands have in common: how data are read, and what goes to the screen."""

import functools
import importlib
import inspect
import pathlib
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from handgrad.app import cli

FORMATS = (
    ".csv, .tsv, .txt (packed too: .gz, .bz2, .zst), .parquet, .arrow, .feather; arrays: .npz, .npy, .safetensors, "
    "IDX, .svmlight; - is standard input"
)
MISSING = "mean, median, most-frequent, indicator, drop-rows"  # as `handgrad.data.tables` has them

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


def one_of(names: Iterable[str]) -> Callable[[str], list[str]]:
    """What a shell completes the beginning of a name to."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


def _option(flag: str, text: str, metavar: str) -> Any:
    complete = one_of(MISSING.split(", ")) if flag == "--missing" else None
    panel = "Reading the data"
    return typer.Option(
        flag, help=text, metavar=metavar, show_default=False, rich_help_panel=panel, autocompletion=complete
    )


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
    "missing": (str | None, f"What is done where a value is missing: {MISSING}; else refused.", "HOW"),
    "drop": (list[str], "A column to leave out; each needs a --drop.", "COLUMN"),
    "keep": (list[str], "A column to learn from, and from no others.", "COLUMN"),
    "weight": (str | None, "The column with the rows' weights.", "COLUMN"),
    "group": (str | None, "The column of which equal values stay together.", "COLUMN"),
    "time": (str | None, "The column by which the latest rows test.", "COLUMN"),
}
_TO_JUDGE: _Options = {
    "target": (str | None, "The column with the classes; that of the training if left out.", "COLUMN"),
    **{name: _TO_LEARN[name] for name in ("labels", "weight")},
}
# What a command reads: a table to learn from, one to predict from, one to judge a model by, or nothing.
READS = {
    "table": _TO_LEARN | _FOR_BOTH,
    "features": _FOR_BOTH,
    "classes": _TO_JUDGE | _FOR_BOTH,
    None: _Options(),
}

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but what is asked for, and mistakes.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")]


def command(
    app: typer.Typer, module: str, *, example: str, reads: str | None = None
) -> Callable[[Callable[..., None]], Any]:
    """A command whose options and help are those of the function, and whose work is done elsewhere.

    That is the function of the same name in `handgrad.app`'s `module`, imported when the command runs, so that help
    comes at once. It gets the options as arguments, with `reading`, those given of how to read, and with a `screen`.
    The example stands at the end of the help.
    """

    def declare(declaration: Callable[..., None]) -> Any:
        options = READS[reads]

        @functools.wraps(declaration)
        def run(context: typer.Context, **arguments: Any) -> Any:
            folder, is_distributed = arguments.pop("resume", None), arguments.pop("distributed", False)
            if folder is not None or is_distributed:
                cli.begin_work()
            if folder is not None:
                _require_nothing_else(context)
                resuming = importlib.import_module("handgrad.app.resuming")
                is_distributed = resuming.is_distributed(folder)
            if is_distributed:
                importlib.import_module("handgrad.app.together").begin()
            if folder is not None:
                return resuming.resume(context, _make_screen(context, arguments), folder)
            if "checkpoint_every" in arguments:
                arguments["begun"] = context.meta.get("handgrad.begun")
            given = {name: arguments.pop(name) for name in options}
            if reads is not None:
                arguments["reading"] = {name: value for name, value in given.items() if value}
            arguments["screen"] = _make_screen(context, arguments)
            work = importlib.import_module(f"handgrad.app.{module}")
            cli.begin_work()
            return getattr(work, declaration.__name__)(**arguments)

        parameters = [
            inspect.Parameter("context", _KEYWORD, annotation=typer.Context),
            *(each.replace(kind=_KEYWORD) for each in inspect.signature(declaration).parameters.values()),
            *(
                _parameter(
                    name, Annotated[kind, _option(flag_of(name), text, metavar)], [] if kind == list[str] else None
                )
                for name, (kind, text, metavar) in options.items()
            ),
            _parameter("as_json", Json, False),
            _parameter("quiet", Quiet, False),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        return app.command(epilog=f"Example: {example}")(run)

    return declare


def _make_screen(context: typer.Context, arguments: dict[str, Any]) -> Any:
    screen = importlib.import_module("handgrad.app.screen")
    return screen.make_screen(
        quiet=arguments.pop("quiet"), as_json=arguments.pop("as_json"), arguments=context.obj or ()
    )


def _require_nothing_else(context: typer.Context) -> None:
    """Check that --resume stands alone: a run goes on with the arguments that it was begun with."""
    for each in context.command.params:
        source = context.get_parameter_source(each.name or "")
        if source is not None and source.name == "COMMANDLINE" and each.name not in ("resume", "as_json", "quiet"):
            option = each.opts[0] if each.opts[0].startswith("-") else each.name.upper()
            raise ValueError(f"--resume goes on with the arguments that the run was begun with; got {option} too.")


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation)
