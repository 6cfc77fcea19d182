"""What the commands ask of the data and of the layers."""

import pathlib
from typing import Any

import numpy as np

from handgrad.app.options import flag_of
from handgrad.data import Part, Table, load_digits, read_table
from handgrad.data.sources import require_memory
from handgrad.formulas.activations import ACTIVATIONS


def read(data: pathlib.Path | None, reading: dict[str, Any]) -> Table:
    """The table that a command is to learn from, the digits where none is named."""
    if data is not None:
        return read_table(data, **reading)
    if reading:
        raise ValueError(f"{flag_of(next(iter(reading)))} needs DATA, a table to read.")
    return load_digits()


def dense(part: Part) -> Part:
    """The part with all its zeros: gradient descent takes them so."""
    if isinstance(part.X, np.ndarray):
        return part
    require_memory("the dense features", 4 * part.X.shape[0] * part.X.shape[1])
    return part._replace(X=part.X.toarray())


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
