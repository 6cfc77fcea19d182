"""What the commands ask of the data and of the layers."""

import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from handgrad import processes
from handgrad.app.options import flag_of
from handgrad.app.progress import Passes
from handgrad.app.sampling import MOST_SAMPLED
from handgrad.app.screen import Screen
from handgrad.data import Part, Table, load_digits, read_table, stream_table
from handgrad.data.sources import require_memory
from handgrad.data.streaming import needs_streaming
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.shapes import Float
from handgrad.sparse_streams import SparseStream
from handgrad.sparse_streams import dense as dense_stream
from handgrad.streams import Stream


def read(data: pathlib.Path | None, reading: dict[str, Any]) -> Table:
    """The table that a command is to learn from, the digits where none is named."""
    if data is not None:
        return read_table(data, **reading)
    if reading:
        raise ValueError(f"{flag_of(next(iter(reading)))} needs DATA, a table to read.")
    return load_digits()


def read_or_stream(
    screen: Screen, data: pathlib.Path | None, reading: dict[str, Any], *, in_file: bool | None
) -> Table:
    """As `read`, or a table that stays in its file, as that is asked; if None where it is too large for the memory."""
    is_shared = processes.is_shared()
    if data is None and (in_file or is_shared):
        raise ValueError(f"{'--distributed' if is_shared else '--stream'} needs DATA, a table to read.")
    stays = in_file if data is None or in_file is not None else _is_too_large(data)
    if is_shared and not stays:
        table = stream_table(data, **reading, callback=Passes(screen))
        assert table.file is not None
        return table._replace(file=table.file._replace(is_held=True))
    if not stays:
        return read(data, reading)
    if in_file is None:
        screen.note([f"{data} would take more than half of the free memory, and stays in its file, as with --stream"])
    table = stream_table(data, **reading, callback=Passes(screen))
    said = (
        f"the table is read anew for each pass. Of more than {MOST_SAMPLED:,} rows trained on or tested so many are "
        "looked at for findings about features, and constant features and rows that are all told apart are not found."
    )
    return table._replace(notes=(*table.notes, said))


def _is_too_large(data: pathlib.Path) -> bool:
    """Whether a table is to stay in its file: of processes where it is for one of them, each having its share of it."""
    own = needs_streaming(data, 1 / processes.count())
    return any(processes.gather_values(own))


def read_again(
    screen: Screen, data: pathlib.Path | None, reading: dict[str, Any], known: Mapping[str, Any] | None, *, stream: bool
) -> Table:
    """The table of a run, which goes on as it was begun, in memory or in its file, where that is `known`."""
    # However much memory is free now.
    in_file = (stream or None) if known is None else known["in_file"]
    return read_or_stream(screen, data, reading, in_file=in_file)


def dense(part: Part) -> Part:
    """The part with all its zeros: gradient descent takes them so."""
    if isinstance(part.X, Stream | SparseStream):
        return part._replace(X=dense_stream(part.X))
    if isinstance(part.X, (np.ndarray, processes.Share)):
        return part
    require_memory("the dense features", 4 * part.X.shape[0] * part.X.shape[1])
    return part._replace(X=part.X.toarray())


def as_class_weights(text: str | None, part: Part, class_names: Sequence[Any]) -> Float[np.ndarray, " C"] | None:
    """The weight of each class that --class-weight gives, or balances on the rows to train on: all then weigh alike.

    Example:
      >>> as_class_weights("b=2.5", Part(np.zeros((3, 1)), np.array([0, 0, 1]), None), ("a", "b")).tolist()
      [1.0, 2.5]
    """
    if text is None:
        return None
    if text == "balanced":
        counts = np.bincount(part.labels, part.weights, len(class_names))
        return np.divide(counts.sum() / np.count_nonzero(counts), counts, out=np.ones(len(counts)), where=counts > 0)
    places = {str(name): place for place, name in enumerate(class_names)}
    each = np.ones(len(class_names))
    rest = text
    while True:
        # A name may have a comma or = in it; a number has none.
        found = re.match(r"(.+?)=([^=,]+)(?:,|$)", rest)
        if found is None or found[1] not in places:
            known = ", ".join(map(str, class_names[:10])) + (", …" if len(class_names) > 10 else "")
            raise ValueError(
                f"--class-weight must be balanced, or CLASS=WEIGHT with commas between them; got {text!r}, with "
                f"{rest if found is None else found[1]!r} for a class of {known}."
            )
        try:
            weight = float(found[2])
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise ValueError(f"--class-weight must have finite weights, 0 or more; got {found[2]!r} for {found[1]!r}.")
        each[places[found[1]]] = weight
        rest = rest[found.end() :]
        if not rest:
            break
    if not each[part.labels].any():
        raise ValueError(f"--class-weight must leave weight to a row; got {text!r}, by which each weighs 0.")
    return each


def as_widths(text: str) -> tuple[int, ...]:
    """The widths of hidden layers that --hidden names."""
    widths = tuple(int(width) if width.strip().isdecimal() else 0 for width in text.split(",")) if text else ()
    if 0 in widths:
        raise ValueError(f"--hidden must be widths of layers with commas between them, as in 128,64; got {text!r}.")
    return widths


def as_activation(name: str | None, hidden: str) -> str | None:
    """The activation of the hidden layers, None without any."""
    if not hidden:
        if name is not None:
            raise ValueError(f"--activation is that of hidden layers; got {name!r} without --hidden. Add --hidden 64.")
        return None
    if name is None:
        return "relu"
    if name not in ACTIVATIONS:
        raise ValueError(f"--activation must be one of {', '.join(ACTIVATIONS)}; got {name!r}.")
    return name
