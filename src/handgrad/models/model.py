"""A trained model, and what it says of data in the form in which people have them."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad import formulas, processes
from handgrad.compiled import compiled
from handgrad.data import Encoding, Table, encode, read_features
from handgrad.data.naming import join
from handgrad.data.tables import ClassName
from handgrad.formulas import Params
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.formulas.network import Network, layers_of
from handgrad.processes import Share
from handgrad.sparse_streams import SparseStream, dense
from handgrad.streams import Stream

# Every number of rows would be a program of its own: rows are taken in blocks whose number is a power of two, the last
# one filled up. A block has no more entries than this, be the features many and sparse.
MAX_ROWS, MAX_ENTRIES = 2**16, 2**24

_predict_proba = compiled(formulas.predict_proba)


class Model(NamedTuple):
    """A trained model: its parameters, and what is done to data before they meet them.

    Attributes:
      params: W (P, C) and b (1, C), or a network.
      encoding: what becomes of columns or of an array; P features.
      class_names: C names, which differ: booleans, numbers or text.
      target: the column that it was trained to tell, which data to predict from may have too; None for arrays.

    Example:
      >>> import tempfile
      >>> from handgrad.data import load_digits, split_and_scale
      >>> table = load_digits()
      >>> digits = split_and_scale(table)
      >>> result = handgrad.fit(digits.train.X, digits.train.labels, l2=1e-2)
      >>> folder = tempfile.mkdtemp()
      >>> handgrad.save(result, folder, class_names=table.class_names, encoding=digits.encoding)
      >>> model = handgrad.load(folder)
      >>> model
      Model(64 features → 10 classes: 0, 1, 2, 3, 4 and 5 more)
      >>> model.predict(table)[:5], table.labels[:5]
      (array([0, 1, 2, 3, 4]), array([0, 1, 2, 3, 4], dtype=int32))
    """

    params: Params | Network
    encoding: Encoding
    class_names: tuple[ClassName, ...]
    target: str | None

    def __repr__(self) -> str:
        """What goes in and what comes out, in a line."""
        hidden = layers_of(self.params)[:-1]
        widths = [f"{layer.params.W.shape[1]} {layer.activation}" for layer in hidden]
        sizes = " → ".join([f"{len(self.encoding.offset)} features", *widths, f"{len(self.class_names)} classes"])
        return f"Model({sizes}: {join([str(name) for name in self.class_names], 5)})"

    def predict(self, data: Any) -> np.ndarray:
        """The most probable class of each row, by its name.

        Args:
          data: as in `predict_proba`.

        Returns:
          Array (N,) of the classes' names; of objects, None among them, where a row has no probabilities.

        Raises:
          ValueError: as `predict_proba`.
        """
        Y = self.predict_proba(data)
        names = _as_array(self.class_names)
        has_none = np.isnan(Y[:, 0])
        if not has_none.any():
            return names[Y.argmax(axis=1)]
        found = names.astype(object)[np.where(has_none, 0, Y.argmax(axis=1))]
        found[has_none] = None
        return found

    def predict_proba(self, data: Any) -> np.ndarray:
        """The probability of each class.

        Args:
          data: whatever `handgrad.data.read_features` reads: the path of a file, a data frame, a dictionary of columns,
            an array (N, P); or a `Table`. Columns are found by their names; any others are left out with a warning.

        Returns:
          Array (N, C); NaN in rows that lack a value, where the model was trained without such rows.

        Raises:
          ValueError: columns that are not there, values that are missing, or a row whose logits are not finite.
        """
        table = data if isinstance(data, Table) else read_features(data, self.encoding, target=self.target)
        answers = answer(self, table)
        for note in answers.notes:
            warnings.warn(note, stacklevel=2)
        return answers.Y


class Answers(NamedTuple):
    """What a model says of the rows of a table: probabilities Y (N, C), and notes on the data, a sentence each."""

    Y: np.ndarray
    notes: tuple[str, ...]


def answer(model: Model, table: Table) -> Answers:
    """The probabilities of a table's rows, as `Model.predict_proba` has them."""
    X, rows, notes = encode(model.encoding, table)
    found = probabilities(model.params, X)
    missing = np.isnan(found).any(axis=1)
    if missing.any():
        row = int(np.argmax(missing))
        row = row if rows is None else int(rows[row])
        raise ValueError(f"the model has no probabilities for row {row + 1}: its logits are not finite.")
    if rows is None:
        return Answers(found, (*table.notes, *notes))
    Y = np.full((table.num_rows, len(model.class_names)), np.nan, found.dtype)
    Y[rows] = found
    if len(rows) < table.num_rows:
        notes = (*notes, f"{table.num_rows - len(rows):,} rows lack a value, and nothing is said of them.")
    return Answers(Y, (*table.notes, *notes))


def probabilities(params: Any, X: Any) -> np.ndarray:
    """The probabilities (N, C) of encoded rows X (N, P), as `encode` gives them, block by block."""
    dtype = np.result_type(layers_of(params)[0].params.W.dtype, np.float32)
    wide = jax.tree.map(lambda array: np.asarray(array, dtype), params)
    size = max(1, min(MAX_ROWS, MAX_ENTRIES // max(array.shape[0] for array, _ in _pairs(wide))))
    size = 2 ** (size.bit_length() - 1)
    if isinstance(X, Share):
        return np.concatenate(processes.gather_values(probabilities(params, X.X)))
    num_rows = X.shape[0]
    Y = np.empty((num_rows, layers_of(params)[-1].params.W.shape[1]), dtype)
    with jax.enable_x64(dtype == np.float64):
        wide = jax.tree.map(jnp.asarray, wide)
        start = 0
        is_streamed = isinstance(X, Stream | SparseStream)
        for block in dense(X).blocks(size) if is_streamed else (X[i : i + size] for i in range(0, num_rows, size)):
            block = np.asarray(block if isinstance(block, np.ndarray) else block.toarray(), dtype)
            full = np.zeros((min(size, 2 ** (num_rows - start - 1).bit_length()), block.shape[1]), dtype)
            full[: len(block)] = block
            Y[start : start + len(block)] = np.asarray(_predict_proba(wide, full))[: len(block)]
            start += len(block)
    return Y


def _pairs(params: Any) -> list[Params]:
    return [layer.params for layer in layers_of(params)]


def _as_array(names: Sequence[ClassName]) -> np.ndarray:
    """Names in the dtype that is theirs, of objects where they are of several types."""
    is_alike = len({type(name) for name in names}) == 1
    array = np.array(names) if is_alike else np.empty(0, object)
    if array.tolist() != list(names):
        array = np.empty(len(names), object)
        array[:] = names
    return array


def find_fault(model: Model) -> str | None:
    """What is wrong with a model, however it came about; None if nothing is."""
    layers = layers_of(model.params)
    width = len(model.encoding.offset)
    for number, (params, activation) in enumerate(layers, 1):
        W, b = params
        is_last = number == len(layers)
        if W.ndim != 2 or 0 in W.shape or b.shape != (1, W.shape[1]) or W.shape[0] != width:
            return f"layer {number} must have W ({width}, C) and b (1, C); got {W.shape} and {b.shape}"
        if not (jnp.issubdtype(W.dtype, jnp.floating) and W.dtype == b.dtype == layers[0].params.W.dtype):
            return f"layer {number} must be of one floating dtype, that of the first; got {W.dtype} and {b.dtype}"
        # A bias of −∞ leaves a class out.
        if not (np.isfinite(W).all() and (np.isfinite(b) | (is_last & np.isneginf(b))).all() and np.isfinite(b).any()):
            return f"layer {number} has a weight or a bias that is no finite number"
        if activation not in ACTIVATIONS or (is_last and activation != "softmax"):
            return f"layer {number} has the activation {activation!r}, which it must not"
        width = W.shape[1]
    if len(model.class_names) != width:
        return f"{width} classes must have as many names; got {len(model.class_names)}"
    written = [str(name) for name in model.class_names]
    numbers = [name for name in model.class_names if isinstance(name, float)]
    if len(set(written)) < len(written) or not all(map(math.isfinite, numbers)):
        return "two classes have names that are written alike, or one is a number that is not finite"
    return None
