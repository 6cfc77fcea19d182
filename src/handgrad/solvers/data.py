r"""What `fit` and `fit_path` are given: looked at once on the host, as it was given, and brought to the device.

Features are centred in float64, X − μ with μ the weighted mean, before they are rounded to the dtype of the solver. A
shift of the features moves only the bias, Z = XW + b = (X − μ)W + (b + μW), and about μ the two are nearly independent
of each other. Where the features are far from 1 in size they are also multiplied by a power of two s, one for all:
X' = s(X − μ), W' = W/s, l2' = l2·s² is the same problem, and nothing overflows in it.

A class without weight has no optimum: its bias would fall for ever. It is left out, which is what that comes to in the
end: W_c = 0, b_c = −∞, and probability 0.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad import validation
from handgrad.formulas import Params
from handgrad.objective import Rows
from handgrad.settings import as_float
from handgrad.shapes import Bool, Float

# Of a block of rows in float64, which stays in the cache. Small data are taken in blocks whose products are too small
# for BLAS to wake its threads, which would wait for those of XLA: a fit of digits takes 26 ms where it took 32.
BLOCK_BYTES = 2**22
SMALL_BLOCK_BYTES = 3 * 2**16
SMALL = 2**18  # numbers in X
# Small data are padded: to four sizes from each power of two to the next, and no fewer rows than these, or these bytes.
PADDED_BYTES = 2**24
LEAST_ROWS = 2**11
LEAST_BYTES = 2**22
USUAL_SIZES = 2.0**-20, 2.0**20  # features whose largest entry is between these are not multiplied by a power of two


class Data(NamedTuple):
    """Checked arrays on the host, and the rows of the solver on the device."""

    X: np.ndarray  # (N, P), as given
    targets: np.ndarray  # labels (N,), int64, or distributions (N, C), float64, whose rows sum to 1
    weights: Float[np.ndarray, " N"]  # the largest is between 1/2 and 1
    unit: float  # the power of two by which they are multiplied to be the weights that were given
    centre: Float[np.ndarray, " P"]  # μ
    scale: float  # s
    rows: Rows
    num_classes: int

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which the solver computes, and that of the parameters."""
        return np.dtype(self.rows.X.dtype)

    def blocks(self) -> Iterator[tuple[slice, Float[np.ndarray, "n P"]]]:
        """s(X − μ) in float64, block by block of rows."""
        for part in _slices(self.X):
            yield part, _centred(self.X[part], self.centre, self.scale)


def prepare(
    function: str,
    X: Any,
    targets: Any,
    weights: Any,
    class_weights: Any,
    params: Params | None,
    num_classes: int | None,
) -> Data:
    """Check the arrays, look at their values once, and bring them to the device."""
    if any(isinstance(array, jax.core.Tracer) for array in jax.tree.leaves((X, targets, weights, params))):
        raise TypeError(
            f"{function}: data must be known, which they are not under jax.jit, vmap or grad. Call it outside of these."
        )
    validation.check_array(function, "X", X, "(N, P)")
    if params is not None:
        # JAX's arrays of any dtype are at hand here, whatever it computes in now.
        validation.check_params(function, jax.tree.map(_widened, params))
    if num_classes is None:
        num_classes = validation.count_classes(function, targets) if params is None else params[0].shape[1]
    validation.check_positive_integer(function, "num_classes", num_classes)
    if params is not None:
        _check_start(function, params, X, num_classes)
    validation.check_targets(function, targets, X.shape[0], num_classes)
    validation.check_weights(function, weights, X.shape[0])
    w, unit = _divided(np.ones(X.shape[0]) if weights is None else np.asarray(weights, dtype=np.float64))
    T = np.asarray(targets)
    T = T.astype(np.int64) if T.ndim == 1 else _normalised(T.astype(np.float64))
    if class_weights is not None:
        each = _class_weights(function, class_weights, num_classes)
        mass = each[T] if T.ndim == 1 else T @ each
        w, more = _divided(w * mass)
        unit *= more
        if T.ndim == 2:
            T = np.where(mass[:, None] > 0, _normalised(T * each), T)
    host = np.asarray(X)
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(host.dtype))
    dtype = dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)
    centre, scale = _centre_and_scale(function, host, w, dtype)
    rows = _on_device(X, host, T, centre, scale, dtype)
    return Data(host, T, w, unit, centre, scale, rows, num_classes)


# --- Folds, and the classes that they have -------------------------------------------------------------------------


class Folds(NamedTuple):
    """F selections of the rows: weights whose columns have sum 1 (0 where all are 0), the classes that have weight, and
    where a fit begins, in the solver's coordinates.
    """

    weights: Float[np.ndarray, "N F"]
    present: Bool[np.ndarray, "F C"]
    starts: Float[np.ndarray, "F P+1 C"]


def make_folds(function: str, data: Data, weights: Float[np.ndarray, "N F"]) -> Folds:
    """The folds of these weights. They start at W = 0 and the best bias for it, log π, π being the classes' shares."""
    total = weights.sum(axis=0)
    shares = weights / np.where(total > 0, total, 1)
    lost = (weights > 0) & (shares < np.finfo(data.dtype).tiny)
    if lost.any():
        row, fold = np.argwhere(lost)[0]
        raise ValueError(
            f"{function}: weights must not become 0 in {data.dtype}; that of row {row} is {shares[row, fold]:.2g} of "
            "their sum. Give such rows weight 0, or use float64 (jax.enable_x64)."
        )
    if data.targets.ndim == 2:
        of_classes = shares.T @ data.targets
    else:
        of_classes = np.stack([np.bincount(data.targets, column, data.num_classes) for column in shares.T])
    present = of_classes > 0
    present |= ~present.any(axis=1, keepdims=True)  # all rows weigh 0: any parameters will do
    logs = np.log(np.where(of_classes > 0, of_classes, 1))
    starts = np.zeros((shares.shape[1], data.X.shape[1] + 1, data.num_classes))
    starts[:, -1] = np.where(
        present, logs - np.sum(logs, axis=1, keepdims=True) / present.sum(axis=1, keepdims=True), 0
    )
    return Folds(shares, present, starts)


def start_at(data: Data, params: Params, folds: Folds) -> Folds:
    """Folds of which the first starts at the params. A class that they leave out and that has weight starts as ever."""
    W, b = (np.asarray(array, dtype=np.float64) for array in params)
    known = folds.present[0] & np.isfinite(b[0])
    V = np.concatenate([W / data.scale, b + times_centre(data.centre, W).astype(np.float64)])
    V = np.where(known, V - np.sum(V, axis=1, keepdims=True, where=known) / max(known.sum(), 1), folds.starts[0])
    return folds._replace(starts=np.concatenate([V[None], folds.starts[1:]]))


def as_given(data: Data, W: np.ndarray, b: Float[np.ndarray, " C"], present: Bool[np.ndarray, " C"]) -> Params:
    """Params for the data as they were given, in the dtype of W; b is that about the centre."""
    with np.errstate(over="ignore"):
        given = (b - times_centre(data.centre, W)).astype(W.dtype)
    return Params(W=W, b=np.where(present, given, W.dtype.type(-np.inf))[None])


def times_centre(centre: Float[np.ndarray, " P"], W: np.ndarray) -> np.ndarray:
    """μW, more exactly than in float64."""
    # Features about 1e6 times their deviation from 0 make μW so large that in float64 its rounding would show.
    return centre.astype(np.longdouble) @ W.astype(np.longdouble)


# --- Checks and arithmetic on the host ------------------------------------------------------------------------------


def _check_start(function: str, params: Params, X: Any, num_classes: int) -> None:
    if tuple(params[0].shape) != (X.shape[1], num_classes):
        raise ValueError(
            f"{function}: params.W must have shape (P, C) = {(X.shape[1], num_classes)} for X {tuple(X.shape)}; "
            f"got {tuple(params[0].shape)}."
        )
    W, b = (np.asarray(array, dtype=np.float64) for array in params)
    if not (np.all(np.isfinite(W)) and np.all(np.isfinite(b) | (b == -np.inf)) and np.isfinite(b).any()):
        raise ValueError(
            f"{function}: params must be finite, but for a bias of −inf, which leaves a class out; got a NaN or an "
            "infinity. Leave params out to start anew."
        )


def _widened(array: Any) -> Any:
    return np.asarray(array).astype(np.float64) if isinstance(array, jax.Array) else array


def _class_weights(function: str, class_weights: Any, num_classes: int) -> np.ndarray:
    if isinstance(class_weights, dict):
        for label in class_weights:
            if not (isinstance(label, (int, np.integer)) and 0 <= label < num_classes):
                keys = f"class_weights' keys must be classes in [0, {num_classes})"
                raise ValueError(f"{function}: {keys}; got {label!r}.")
        each = numbers([class_weights.get(label, 1) for label in range(num_classes)])
    else:
        validation.check_plain(function, "class_weights", class_weights)
        each = numbers(class_weights)
    if each.shape != (num_classes,) or not np.all(np.isfinite(each) & (each >= 0)):
        raise ValueError(
            f"{function}: class_weights must be {num_classes} finite non-negative numbers, or a dictionary from class "
            f"to weight; got {class_weights!r}."
        )
    return each


def numbers(values: Any) -> np.ndarray:
    """Real numbers as float64, NaN for what is none, such as text."""
    return np.vectorize(as_float, otypes=[np.float64])(np.asarray(values, dtype=object))


def _normalised(T: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    total = T.sum(axis=1, keepdims=True)
    return T / np.where(total > 0, total, 1)


def _divided(weights: Float[np.ndarray, " N"]) -> tuple[Float[np.ndarray, " N"], float]:
    """Weights divided by a power of two, exactly, so that no sum of them overflows, and that power."""
    exponent = int(np.frexp(weights.max())[1])
    return np.ldexp(weights, -exponent), float(np.ldexp(1.0, exponent - 1)) * 2


def _slices(X: np.ndarray) -> Iterator[slice]:
    size = max(1, (SMALL_BLOCK_BYTES if X.size <= SMALL else BLOCK_BYTES) // (8 * X.shape[1]))
    return (slice(start, min(start + size, len(X))) for start in range(0, len(X), size))


def _centred(X: np.ndarray, centre: np.ndarray, scale: float) -> np.ndarray:
    X = X.astype(np.float64)
    if scale != 1:
        X, centre = X * scale, centre * scale
    return np.subtract(X, centre, out=X)


def _centre_and_scale(function: str, X: np.ndarray, weights: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, float]:
    """μ, in the dtype where X is no wider than that, and s."""
    total = weights.sum()
    weights = weights / total if total > 0 else np.full(len(weights), 1 / len(weights))
    centre = np.zeros(X.shape[1])
    low, high = np.full(X.shape[1], np.inf), np.full(X.shape[1], -np.inf)
    for part in _slices(X):
        block = X[part].astype(np.float64, copy=False)
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        centre += weights[part] @ block
    largest = np.maximum(np.abs(low), np.abs(high))
    if not np.all(largest < np.inf):
        validation.check_finite(function, "X", X)
    if largest.max() > np.finfo(dtype).max:
        raise ValueError(
            f"{function}: X must be within {np.finfo(dtype).max:.3g}, the range of {dtype}, in which the fit computes; "
            f"got {largest.max():.3g}. Divide the features, or use float64 (jax.enable_x64)."
        )
    if _fits(X, dtype):
        centre = centre.astype(dtype).astype(np.float64)
    size = float(np.maximum(high / 2 - centre / 2, centre / 2 - low / 2).max()) * 2
    usual = size == 0 or USUAL_SIZES[0] <= size <= USUAL_SIZES[1]
    return centre, 1.0 if usual else float(np.ldexp(1.0, -int(np.frexp(min(size, 2.0**1000))[1])))


def _on_device(X: Any, host: np.ndarray, T: np.ndarray, centre: np.ndarray, scale: float, dtype: np.dtype) -> Rows:
    """The rows of the solver, padded. Where X is wider than the dtype it is centred on the host, in float64."""
    num_rows, P = host.shape
    added = _padded(num_rows, (P + 1) * dtype.itemsize) - num_rows
    T = np.pad(T, [(0, added), (0, 0)][: T.ndim]).astype(np.int32 if T.ndim == 1 else dtype)
    if _fits(host, dtype) and scale == 1 and not added:
        return Rows(_centre(jnp.asarray(X), jnp.asarray(centre, dtype)), jnp.asarray(T))
    columns = np.ones((num_rows + added, P + 1), dtype)
    columns[num_rows:] = 0
    for part in _slices(host):
        columns[part, :-1] = _centred(host[part], centre, scale)
    return Rows(jnp.asarray(columns), jnp.asarray(T))


def _padded(num_rows: int, row_bytes: int) -> int:
    """The number of rows that the solver is given: one of few, since each is compiled anew. The rest have weight 0."""
    least = min(LEAST_ROWS, LEAST_BYTES // row_bytes)
    octave = 2 ** max(0, (max(num_rows, least) - 1).bit_length() - 3)
    rows = -(-max(num_rows, least) // octave) * octave
    return rows if rows * row_bytes <= PADDED_BYTES else num_rows


def _fits(X: np.ndarray, dtype: np.dtype) -> bool:
    return jnp.finfo(X.dtype).bits <= jnp.finfo(dtype).bits


@jax.jit
def _centre(X: Float[Array, "N P"], centre: Float[Array, " P"]) -> Float[Array, "N P+1"]:
    X = X.astype(centre.dtype)
    return jnp.concatenate([X - centre[None], jnp.ones_like(X[:, :1])], axis=1)
