"""Reading tables: .npz with X and y, and .csv with a column to predict.

Whatever is wrong with a file is a ValueError (FileNotFoundError where there is none) of one line that names the file,
the place in it, and what to do.
"""

import math
import pathlib
import warnings
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from handgrad.data.columns import read_columns, read_header, require_columns, to_classes, to_features
from handgrad.data.encoding import Encoding
from handgrad.data.naming import index_classes, join, list_columns, spell_alike
from handgrad.data.tables import Column, Table

Path = str | pathlib.Path


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
            raise ValueError(f"{path}: a .csv needs --target, the column to predict. {list_columns(read_header(path))}")
        columns = read_columns(path)
        require_columns(path, [target], list(columns))
        y = to_classes(path, target, columns.pop(target))
        if not columns:
            raise ValueError(f"{path}: has no column but {target!r}; there is nothing to predict it from.")
        X, image_shape = None, None
        features = _as_columns(path, columns)
    else:
        if target is not None:
            raise ValueError(
                f"{path}: --target names the column of a .csv; an .npz has its classes in y. Leave it out."
            )
        arrays = _read_npz(path, ("X", "y"))
        features = None
        X, image_shape = _features(path, arrays["X"])
        y = _classes(path, arrays["y"], len(X))
    class_names, labels = index_classes(y)
    if len(class_names) < 2:
        raise ValueError(f"{path}: all {len(y)} rows are of class {class_names[0]!r}; at least two classes are needed.")
    if len(class_names) > len(y) / 2:
        raise ValueError(
            f"{path}: {len(y)} rows have {len(class_names)} classes; a class needs two rows on average. Is "
            f"{target or 'y'} a quantity and not a class?"
        )
    return Table(X, features, labels, class_names, target, image_shape)


def _as_columns(path: pathlib.Path, columns: dict[str, Any]) -> dict[str, Column]:
    X = to_features(path, columns)
    return {name: Column("number", X[:, index]) for index, name in enumerate(columns)}


def read_features(path: Path, encoding: Encoding | None = None, *, target: str | None = None) -> Table:
    """Read features alone, to predict from.

    Args:
      path: as for `read_table`, with or without its classes.
      encoding: of the model, which tells the columns that are needed; None for all of them, as they stand.
      target: a column to leave out where it is there.

    Returns:
      Table, without labels.

    Raises:
      As `read_table`.
    """
    path = _find(path)
    if path.suffix == ".npz":
        X, image_shape = _features(path, _read_npz(path, ("X",))["X"])
        return Table(X, image_shape=image_shape)
    columns = read_columns(path)
    if target is not None:
        columns.pop(target, None)
    if encoding is not None and encoding.inputs is not None:
        names = [each.name for each in encoding.inputs]
        require_columns(path, names, list(columns))
        known = {*names, *encoding.left_out}
        unknown = [name for name in columns if name not in known]
        if unknown:
            raise ValueError(f"{path}: has columns that the model was not trained on: {join(unknown)}. Leave them out.")
        columns = {name: columns[name] for name in names}
    return Table(columns=_as_columns(path, columns))


def _find(path: Path) -> pathlib.Path:
    path = pathlib.Path(path)
    if path.suffix not in (".npz", ".csv"):
        raise ValueError(f"{path}: the ending must be .npz or .csv; got {path.suffix or 'none'}.")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; a file is needed.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file.")
    return path


def _require_exact(path: pathlib.Path, argument: str, integers: np.ndarray) -> None:
    """Refuse integers beyond 2⁵³, which float64 does not tell from their neighbours."""
    if integers.dtype.kind not in "iu" or integers.dtype.itemsize < 8:
        return
    beyond = integers > 2**53 if integers.dtype.kind == "u" else (integers > 2**53) | (integers < -(2**53))
    if beyond.any():
        row, column = np.argwhere(beyond)[0]
        raise ValueError(
            f"{path}: {argument} has the integer {integers[row, column]} in row {row + 1}; beyond 2**53 float64 does "
            "not tell neighbours apart. A number that names something? Leave it out. A quantity? Subtract an offset."
        )


# --- .npz -------------------------------------------------------------------------------------------------------------


def _read_npz(path: pathlib.Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    with open(path, "rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        try:
            with zipfile.ZipFile(file) as archive:
                found = [name.removesuffix(".npy") for name in archive.namelist()]
                missing = [key for key in keys if key not in found]
                arrays = {} if missing else {key: _read_npy(archive, key) for key in keys}
        # Damaged bytes make zipfile, its decompressors and NumPy's parser of headers raise almost anything.
        except Exception as error:
            if "Object arrays" in str(error):
                raise ValueError(
                    f"{path}: holds Python objects, which are not read, for they could run code. Save plain arrays: "
                    "numbers for X, integers or text for y."
                ) from None
            raise ValueError(f"{path}: is not an .npz archive, or is damaged or cut short.") from None
    if missing:
        raise ValueError(f"{path}: must hold the array {missing[0]}. Arrays there: {join(found) or 'none'}.")
    return arrays


def _read_npy(archive: zipfile.ZipFile, key: str) -> np.ndarray:
    with archive.open(f"{key}.npy") as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        while member.read(2**20):  # to the end, where the archive's checksum is compared
            pass
    return array


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
    _require_exact(path, "X", X)
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
    if y.dtype.kind in "iu":
        return y
    try:
        texts = np.strings.decode(y, "utf-8") if y.dtype.kind == "S" else y.astype(str)
        "".join(texts.tolist()).encode()
    except (UnicodeError, ValueError, SystemError):  # the last of a character beyond Unicode
        raise ValueError(f"{path}: y holds bytes that are no text in UTF-8.") from None
    return spell_alike(texts)
