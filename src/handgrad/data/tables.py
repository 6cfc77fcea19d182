"""Reading tables: .npz with X and y, and .csv with a column to predict.

Whatever is wrong with a file is a ValueError (FileNotFoundError where there is none) of one line that names the file,
the place in it, and what to do.
"""

import csv
import difflib
import math
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

ClassName = int | str
Path = str | pathlib.Path


class Table(NamedTuple):
    """Rows to learn from, and what their numbers stand for.

    Attributes:
      X: features (N, P), numbers as they were read, all finite.
      labels: (N,), int32: indices into class_names.
      class_names: the classes as the file names them, integers or text, in ascending order; at least two.
      feature_names: the P columns' names; None for arrays, whose columns have none.
      image_shape: (height, width) where a row is an image; else None.
      target: the name of the column with the classes; None for arrays.
    """

    X: np.ndarray
    labels: np.ndarray
    class_names: tuple[ClassName, ...]
    feature_names: tuple[str, ...] | None
    image_shape: tuple[int, int] | None
    target: str | None


def read_table(path: Path, *, target: str | None = None) -> Table:
    """Read features and classes.

    Args:
      path: an .npz with X, numbers (N, P) or images (N, H, W), and y, integers or text (N,); or a .csv with a header,
        its classes in the column `target` and numbers in all others. Unsigned bytes (N, P) with P a square of 64 or
        more are taken for square images.
      target: the column of a .csv with the classes; for an .npz None.

    Returns:
      Table.

    Raises:
      FileNotFoundError, ValueError: a file that is missing or damaged, or whose content is not as above.
      ImportError: a .csv is read without pyarrow.
    """
    path = _find(path)
    if path.suffix == ".csv":
        if target is None:
            raise ValueError(f"{path}: a .csv needs --target, the column to predict. {_list_columns(_header(path))}")
        columns = _read_csv(path)
        _require_columns(path, [target], list(columns))
        y = _class_column(path, target, columns.pop(target))
        if not columns:
            raise ValueError(f"{path}: has no column but {target!r}; there is nothing to predict it from.")
        feature_names, image_shape = tuple(columns), None
        X = _feature_columns(path, columns)
    else:
        if target is not None:
            raise ValueError(
                f"{path}: --target names the column of a .csv; an .npz has its classes in y. Leave it out."
            )
        arrays = _read_npz(path, ("X", "y"))
        feature_names = None
        X, image_shape = _features(path, arrays["X"])
        y = _classes(path, arrays["y"], len(X))
    class_names, labels = _index_classes(y)
    if len(class_names) < 2:
        raise ValueError(f"{path}: all {len(X)} rows are of class {class_names[0]!r}; at least two classes are needed.")
    if len(class_names) > len(X) / 2:
        raise ValueError(
            f"{path}: {len(X)} rows have {len(class_names)} classes; a class needs two rows on average. Is "
            f"{target or 'y'} a quantity and not a class?"
        )
    return Table(X, labels, class_names, feature_names, image_shape, target)


def read_features(path: Path, *, feature_names: Sequence[str] | None = None, target: str | None = None) -> np.ndarray:
    """Read features alone, to predict from.

    Args:
      path: an .npz or .csv as for `read_table`, with or without its classes.
      feature_names: the columns that a .csv must have, in the order wanted; None for all of them, as they stand.
      target: a column of a .csv to leave out where it is there.

    Returns:
      X (N, P).

    Raises:
      As `read_table`.
    """
    path = _find(path)
    if path.suffix == ".npz":
        return _features(path, _read_npz(path, ("X",))["X"])[0]
    columns = _read_csv(path)
    if target is not None:
        columns.pop(target, None)
    if feature_names is not None:
        _require_columns(path, feature_names, list(columns))
        unknown = [name for name in columns if name not in set(feature_names)]
        if unknown:
            raise ValueError(
                f"{path}: has columns that the model was not trained on: {_join(unknown)}. Leave them out."
            )
        columns = {name: columns[name] for name in feature_names}
    return _feature_columns(path, columns)


def _find(path: Path) -> pathlib.Path:
    path = pathlib.Path(path)
    if path.suffix not in (".npz", ".csv"):
        raise ValueError(f"{path}: the ending must be .npz or .csv; got {path.suffix or 'none'}.")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; a file is needed.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    return path


def _index_classes(y: np.ndarray) -> tuple[tuple[ClassName, ...], np.ndarray]:
    names, labels = np.unique(y, return_inverse=True)
    return tuple(names.tolist()), labels.astype(np.int32)


# --- .npz -------------------------------------------------------------------------------------------------------------


def _read_npz(path: pathlib.Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            missing = [key for key in keys if key not in archive.files]
            if not missing:
                return {key: archive[key] for key in keys}
            found = list(archive.files)
    # What NumPy raises for bytes that are no archive, one cut short, one with a byte changed, or Python objects.
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, tokenize.TokenError) as error:
        if "Object arrays" in str(error):
            raise ValueError(
                f"{path}: holds Python objects, which are not read, for they could run code. Save plain arrays: "
                "numbers for X, integers or text for y."
            ) from None
        raise ValueError(f"{path}: is not an .npz archive, or is damaged or cut short.") from None
    raise ValueError(f"{path}: must hold the array {missing[0]}. Arrays there: {_join(found) or 'none'}.")


def _features(path: pathlib.Path, X: np.ndarray) -> tuple[np.ndarray, tuple[int, int] | None]:
    if X.dtype.kind not in "fiub":
        raise ValueError(f"{path}: X must be real numbers; got {X.dtype}.")
    if X.ndim not in (2, 3):
        raise ValueError(f"{path}: X must have shape (N, P), or (N, H, W) for images; got {X.shape}.")
    if 0 in X.shape:
        raise ValueError(f"{path}: X is empty; its shape is {X.shape}.")
    image_shape = X.shape[1:] if X.ndim == 3 else None
    X = X.reshape(len(X), -1)
    side = math.isqrt(X.shape[1])
    if image_shape is None and X.dtype == np.uint8 and side * side == X.shape[1] >= 64:
        image_shape = (side, side)
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        raise ValueError(
            f"{path}: row {row + 1}, column {column + 1} of X is {X[row, column]}. Leave such rows out or fill them in."
        )
    return X, image_shape


def _classes(path: pathlib.Path, y: np.ndarray, num_rows: int) -> np.ndarray:
    if y.ndim != 1:
        advice = " One-hot? Take y.argmax(axis=1)." if y.ndim == 2 else ""
        raise ValueError(f"{path}: y must have shape (N,), a class for each row; got {y.shape}.{advice}")
    if len(y) != num_rows:
        raise ValueError(f"{path}: X has {num_rows} rows and y has {len(y)}; each row needs its class.")
    if y.dtype.kind not in "iubUS":
        advice = " Whole numbers? Take y.astype(int)." if y.dtype.kind == "f" else ""
        raise ValueError(f"{path}: y must be integers or text, the classes; got {y.dtype}.{advice}")
    return y.astype(str) if y.dtype.kind in "bS" else y


# --- .csv -------------------------------------------------------------------------------------------------------------


def _header(path: pathlib.Path) -> list[str]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            names = next((row for row in csv.reader(file) if row), [])
    except (UnicodeDecodeError, csv.Error):
        raise ValueError(f"{path}: is not text in UTF-8 with values separated by commas.") from None
    if not names:
        raise ValueError(f"{path}: is empty.")
    if "" in names:
        raise ValueError(
            f"{path}: column {names.index('') + 1} has no name. An index that pandas wrote? Write with index=False."
        )
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{path}: has more than one column {repeated[0]!r}. Give each its own name.")
    return names


def _read_csv(path: pathlib.Path) -> dict[str, Any]:
    """The columns as text without the space around it, null where a value is missing."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
    except ImportError:
        raise ImportError("reading .csv needs pyarrow: pip install 'handgrad[app]'") from None
    names = _header(path)
    try:
        # Types are not guessed, for pyarrow guesses from the first block. One thread, so that errors name the row.
        table = pyarrow.csv.read_csv(
            path,
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pyarrow.string()), strings_can_be_null=True
            ),
        )
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None
    if table.num_rows == 0:
        raise ValueError(f"{path}: has a header and no rows.")
    return {
        name: pyarrow.compute.utf8_trim_whitespace(column)
        for name, column in zip(names, table.itercolumns(), strict=True)
    }


def _feature_columns(path: pathlib.Path, columns: dict[str, Any]) -> np.ndarray:
    X = np.empty((len(next(iter(columns.values()))), len(columns)))
    for index, (name, column) in enumerate(columns.items()):
        X[:, index] = _to_numbers(path, name, column)
    return X


def _to_numbers(path: pathlib.Path, name: str, column: Any) -> np.ndarray:
    import pyarrow

    _require_values(path, name, column)
    for dtype in (pyarrow.float64(), pyarrow.bool_()):
        try:
            numbers = column.cast(dtype).to_numpy().astype(np.float64)
        except pyarrow.ArrowInvalid:
            continue
        infinite = np.flatnonzero(np.isinf(numbers))
        if infinite.size:
            raise ValueError(
                f"{path}: column {name!r} is infinite in row {infinite[0] + 1}. Leave such rows out or fill them in."
            )
        return numbers
    row, text = next((row, text) for row, text in enumerate(column.to_pylist(), 1) if not _is_number(text))
    raise ValueError(
        f"{path}: column {name!r} must be numbers; got {text!r} in row {row}. Leave the column out, or encode it as "
        "numbers."
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _class_column(path: pathlib.Path, name: str, column: Any) -> np.ndarray:
    _require_values(path, name, column)
    texts = np.array(column.to_pylist())
    # Integers that are written as integers are, become integers: sorted as such, and as an .npz has them.
    try:
        integers = texts.astype(np.int64)
    except (ValueError, OverflowError):
        return texts
    return integers if (integers.astype(str) == texts).all() else texts


def _require_values(path: pathlib.Path, name: str, column: Any) -> None:
    if column.null_count:
        row = column.is_null().to_pylist().index(True) + 1
        raise ValueError(f"{path}: column {name!r} has no value in row {row}. Leave such rows out or fill them in.")


def _require_columns(path: pathlib.Path, names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in names if name not in set(columns)]
    if missing:
        close = difflib.get_close_matches(missing[0], columns, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"{path}: has no column {missing[0]!r}{more}.{guess} {_list_columns(columns)}")


def _list_columns(columns: Sequence[str]) -> str:
    return f"Columns there: {_join(columns)}."


def _join(names: Sequence[str]) -> str:
    """The names, the first 20 of them where there are many."""
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more
