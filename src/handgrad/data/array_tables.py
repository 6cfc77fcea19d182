"""A table from arrays: features that are dense, sparse or images, and classes."""

import math
from typing import Any, NamedTuple

import numpy as np

from handgrad.data import classes
from handgrad.data.arrow import Columns
from handgrad.data.assembly import Roles, beside_of, keep_rows
from handgrad.data.columns import INEXACT, INFINITE
from handgrad.data.lacking import missing_problem
from handgrad.data.moments import BLOCK_VALUES
from handgrad.data.problems import Problem, say
from handgrad.data.tables import Missing, Table
from handgrad.data.words import chunked

COLOURS = (1, 3, 4)  # channels that an image may have, the last of them seldom
SMALLEST_IMAGE = 64  # pixels; fewer bytes in a row are no image


class Arrays(NamedTuple):
    """Arrays in their roles: the features, the classes if there are any, and others by their names."""

    name: str
    X: Any
    y: Any
    others: dict[str, np.ndarray]
    notes: tuple[str, ...]
    first_index: int | None = None  # as in `Table`


def assemble_arrays(data: Arrays, roles: Roles, missing: Missing | None, *, num_inputs: int | None = None) -> Table:
    """The table of arrays; for a model of so many inputs sparse rows may have fewer columns, and classes may be any.

    Raises:
      ValueError: with all that is wrong.
    """
    problems: list[Problem] = []
    X, image_shape = as_features(data.name, data.X, num_inputs)
    lacking = look_at_values(X, problems)
    found = None
    if data.y is not None:
        found = classes.from_array(_as_classes(data.name, data.y, X.shape[0]), "the labels", problems)
    for name, array in data.others.items():
        if np.shape(array) != (X.shape[0],):
            raise ValueError(
                f"{data.name}: {name} must have shape ({X.shape[0]},), an entry a row; got {np.shape(array)}."
            )
    others = {name: chunked(array) for name, array in data.others.items()}
    table = Table(
        X=X,
        labels=found and found.labels,
        class_names=found.names if found else (),
        image_shape=image_shape,
        first_index=data.first_index,
        missing=missing,
        notes=data.notes,
        **beside_of(roles, others, problems, Columns(data.name, (), lambda *_: ({}, []))),
    )
    if lacking is not None and found is not None:
        if missing is None:
            problems.append(missing_problem("the features", lacking))
        elif missing == "drop-rows":
            table = keep_rows(table, ~lacking, problems)
    if num_inputs is not None:
        classes.allow_any(problems)
    if problems:
        raise ValueError(say(data.name, problems))
    return table


def as_features(name: str, X: Any, num_inputs: int | None = None) -> tuple[Any, tuple[int, ...] | None]:
    """X (N, P), and the shape of an image where a row is one; sparse rows may have fewer columns than a model takes."""
    if np.dtype(X.dtype).kind not in "fiub":
        raise ValueError(f"{name}: the features must be real numbers; got {X.dtype}.")
    if X.ndim not in (2, 3, 4) or (X.ndim == 4 and not {X.shape[1], X.shape[3]} & {*COLOURS}):
        raise ValueError(
            f"{name}: the features must have shape (N, P), or (N, H, W) or (N, H, W, 3) for images; got {X.shape}."
        )
    if 0 in X.shape:
        raise ValueError(f"{name}: the features are empty; their shape is {X.shape}.")
    if X.dtype == bool:
        X = X.view(np.uint8) if isinstance(X, np.ndarray) else X.astype(np.uint8)
    if not isinstance(X, np.ndarray):
        X.resize(X.shape[0], max(X.shape[1], num_inputs or 0))
        return X, None
    if X.ndim == 4 and X.shape[1] in COLOURS and X.shape[3] not in COLOURS[:2]:
        X = np.moveaxis(X, 1, 3)  # channels first, as PyTorch has them
    image_shape = X.shape[1:] if X.ndim > 2 else None
    if image_shape is not None and image_shape[2:] == (1,):
        image_shape = image_shape[:2]
    X = X.reshape(len(X), -1)
    side = math.isqrt(X.shape[1])
    if image_shape is None and X.dtype == np.uint8 and side * side == X.shape[1] >= SMALLEST_IMAGE:
        image_shape = (side, side)
    return X, image_shape


def look_at_values(X: Any, problems: list[Problem]) -> np.ndarray | None:
    """Add what is infinite or inexact; which rows lack a value, (N,), None where none does."""
    values = X if isinstance(X, np.ndarray) else X.data[:, None]
    if values.dtype.kind in "iu":
        beyond = _first(
            values, lambda block: (block > 2**53) | (block < -(2**53)) if block.dtype.kind == "i" else block > 2**53
        )
        if values.dtype.itemsize == 8 and beyond:
            where = f"the features ({values[beyond]} in row {beyond[0] + 1})"
            problems.append(Problem(INEXACT[0], where, INEXACT[1]))
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype.kind != "f" or np.isfinite(np.add.reduce(values, axis=None, dtype=np.float64)):
            return None
    infinite = _first(values, np.isinf)
    if infinite:
        where = f"the features (row {infinite[0] + 1}, column {infinite[1] + 1})"
        problems.append(Problem(INFINITE[0], where, INFINITE[1]))
    lacking = np.asarray(np.isnan(values).any(axis=1))
    if not isinstance(X, np.ndarray) and lacking.any():
        problems.append(Problem("sparse features have missing values", "", "Leave such rows out, or fill them in."))
        return None
    return lacking if lacking.any() else None


def _first(values: np.ndarray, is_wrong: Any) -> tuple[int, int] | None:
    """Row and column of the first such entry, looked for block by block."""
    step = max(BLOCK_VALUES // values.shape[1], 1)
    for start in range(0, len(values), step):
        wrong = is_wrong(values[start : start + step])
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            return start + int(row), int(column)
    return None


def _as_classes(name: str, y: np.ndarray, num_rows: int) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        advice = " One-hot? Take its argmax(axis=1)." if y.ndim == 2 else ""
        raise ValueError(f"{name}: the labels must have shape (N,), a class for each row; got {y.shape}.{advice}")
    if len(y) != num_rows:
        raise ValueError(
            f"{name}: the features have {num_rows} rows and the labels {len(y)}; each row needs its class."
        )
    if y.dtype.kind not in "iubfUS":
        raise ValueError(f"{name}: the labels must be numbers or text, the classes; got {y.dtype}.")
    if y.dtype.kind not in "US":
        return y
    try:
        texts = np.strings.decode(y, "utf-8") if y.dtype.kind == "S" else y
        "".join(texts.tolist()).encode()
    except (UnicodeError, ValueError, SystemError):  # the last of a character beyond Unicode
        raise ValueError(f"{name}: the labels hold bytes that are no text in UTF-8.") from None
    return texts
