r"""What `fit` and `fit_path` are given: looked at once on the host, as it was given, and brought to where it is summed.

Features are centred in float64, X − μ with μ the weighted mean. A shift of the features moves only the bias,
Z = XW + b = (X − μ)W + (b + μW), and about μ the two are nearly independent of each other. Where the features are far
from 1 in size they are also multiplied by a power of two s, one for all: X' = s(X − μ), W' = W/s, l2' = l2·s² is the
same problem, and nothing overflows in it. X itself stays as it is stored: centre and scale are applied block by block.
Without an intercept μ is 0.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad import arguments, launching, processes
from handgrad.formulas import Params
from handgrad.formulas.by_row import one_hot
from handgrad.frames import as_array, as_data, as_targets
from handgrad.processes import Share
from handgrad.rows import Parts, Rows, SparseStream, Stream, centre_as_summed, locate, open_source, place, to_csr
from handgrad.rows.blocks import Block
from handgrad.rows.sparse import SparseBlock
from handgrad.settings import as_float, check_flag, is_integer
from handgrad.shapes import Bool, Float

CENTRE_ROWS = 2**12
SMALL_SHIFT = 16  # of the logits
USUAL_SIZES = 2.0**-20, 2.0**20  # features whose largest entry is between these are not multiplied by a power of two
LEAST_SPARSE_SIZE = 2.0**-40  # of the largest entry


class Data(NamedTuple):
    """Checked arrays on the host, of this process's rows, and the rows for the sums of a solver."""

    parts: Parts
    targets: np.ndarray  # labels (N,), int64, or distributions (N, C), float64, whose rows sum to 1
    weights: Float[np.ndarray, " N"]  # the largest is between 1/2 and 1
    unit: float  # the power of two by which they are multiplied to be the weights that were given
    centre: Float[np.ndarray, " P"]  # μ
    scale: float  # s
    rows: Rows
    num_classes: int
    intercept: bool

    @property
    def num_features(self) -> int:
        """P."""
        return self.parts.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """The dtype in which the solver computes, and that of the parameters."""
        return self.rows.dtype

    def distributions(self, rows: slice = slice(None)) -> Float[np.ndarray, "C n"]:
        """Tᵀ of some rows of this process."""
        return one_hot(np, self.targets[rows], self.num_classes, np.float64)

    def blocks(self) -> Iterator[tuple[slice, Block]]:
        """s(X − μ) in float64, block by block of this process's rows."""
        return self.parts.blocks(self.centre, self.scale, float(self.intercept))


def prepare(
    function: str,
    X: Any,
    targets: Any,
    weights: Any,
    class_weights: Any,
    params: Params | None,
    num_classes: int | None,
    *,
    fit_intercept: bool = True,
    mesh: Any = None,
) -> Data:
    """Check the arrays, look at their values once, and bring them to where they are summed."""
    launching.require_joined(function)
    check_flag(function, "fit_intercept", fit_intercept)
    X, targets, weights = open_source(function, X, targets, weights)
    arguments.check_known(function, X, targets, weights, class_weights, params)
    X, targets, weights = as_data(function, X), as_targets(function, targets), as_array(function, weights, "weights")
    X = check_data(function, "X", X)
    if params is not None:
        # JAX's arrays of any dtype are at hand here, whatever it computes in now.
        arguments.check_params(function, jax.tree.map(_widened, params))
    parts = locate(function, X, mesh)
    seen, num_rows = _seen(parts, targets)
    if num_classes is None:
        with processes.together(is_needed=parts.num_processes > 1):
            if params is not None:
                num_classes = params[0].shape[1]
            else:
                num_classes = arguments.count_classes(function, seen) if num_rows else 1
        num_classes = int(parts.gather(np.array(num_classes)).max())
    arguments.check_positive_integer(function, "num_classes", num_classes)
    if params is not None:
        _check_start(function, params, X, num_classes)
    with processes.together(is_needed=parts.num_processes > 1):
        if num_rows:  # of a process that has some
            arguments.check_targets(function, seen, num_rows, num_classes)
            arguments.check_weights(function, *_seen(parts, weights))
    w = np.ones(parts.num_rows) if weights is None else parts.of_rows(weights).astype(np.float64)
    w, unit = _divided(parts, w)
    T = parts.of_rows(targets)
    T = T.astype(np.int64) if T.ndim == 1 else normalised(T.astype(np.float64))
    if class_weights is not None:
        T, w = weigh_classes(function, class_weights, T, w, num_classes)
        w, more = _divided(parts, w)
        unit *= more
    dtype = np.dtype(jax.dtypes.canonicalize_dtype(parts.dtype))
    dtype = dtype if dtype in (np.float32, np.float64) else np.dtype(np.float32)
    centre, scale = _centre_and_scale(function, parts, w, dtype, fit_intercept)
    rows = _placed(parts, num_classes, centre, scale, float(fit_intercept), dtype)
    return Data(parts, T, w, unit, centre, scale, rows, num_classes, fit_intercept)


def check_data(function: str, argument: str, X: Any) -> Any:
    """X (N, P), in CSR form where it is sparse: checked to be numbers that fit the solver's dtype as they are."""
    if arguments.is_sparse(X):
        if len(X.shape) != 2 or 0 in X.shape:
            raise ValueError(f"{function}: {argument} must have shape (N, P), none of them 0; got {tuple(X.shape)}.")
        X = to_csr(function, X)
    is_array = not (arguments.is_sparse(X) or isinstance(X, Stream | SparseStream | Share))
    looked_at = X if is_array else np.zeros((1, 1), X.dtype)
    arguments.check_array(function, argument, looked_at, "(N, P)", kind="number")
    kind = np.dtype(X.dtype)
    if kind.kind in "iu" and kind.itemsize > 2:
        raise TypeError(
            f"{function}: {argument} must be floating-point, or integers of 8 or 16 bits; got {kind}, whose values "
            "float32 may not hold. Convert it, for example with .astype."
        )
    return X


def _seen(parts: Parts, array: Any) -> tuple[Any, int]:
    """An array with an entry for each row as this process sees it, and for how many rows: all, if it has them all."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return parts.of_rows(array), parts.num_rows
    is_own = parts.is_streamed and np.shape(array)[:1] != parts.shape[:1]
    return array, parts.num_rows if is_own else parts.shape[0]


# --- Parameters for the data as they were given --------------------------------------------------------------------


def as_given(data: Data, W: np.ndarray, b: Float[np.ndarray, " C"], present: Bool[np.ndarray, " C"]) -> Params:
    """Params for the data as they were given, in the dtype of W; b is that about the centre."""
    if not data.intercept:
        return Params(W=W, b=np.zeros((1, len(present)), W.dtype))
    with np.errstate(over="ignore"):
        given = (b - times_centre(data.centre, W)).astype(W.dtype)
    return Params(W=W, b=np.where(present, given, W.dtype.type(-np.inf))[None])


def times_centre(centre: Float[np.ndarray, " P"], W: np.ndarray) -> np.ndarray:
    """μW, more exactly than in float64 where the rounding of that would show."""
    # As it does of features about 1e6 times their deviation from 0, which make μW large. Piece by piece, since a wider
    # W would not fit the cache.
    with np.errstate(over="ignore", invalid="ignore"):
        is_small = np.linalg.norm(centre) * np.linalg.norm(W) <= SMALL_SHIFT
    wide, total = np.float64 if is_small else np.longdouble, np.zeros(W.shape[1], np.longdouble)
    for start in range(0, len(centre), CENTRE_ROWS):
        rows = slice(start, start + CENTRE_ROWS)
        total += centre[rows].astype(wide) @ W[rows].astype(wide)
    return total


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


def weigh_classes(
    function: str, class_weights: Any, T: np.ndarray, weights: Float[np.ndarray, " N"], num_classes: int
) -> tuple[np.ndarray, Float[np.ndarray, " N"]]:
    """Targets and weights of the rows, multiplied by those of their classes: a distribution of several is tilted."""
    each = _class_weights(function, class_weights, num_classes)
    T = T if T.ndim == 1 else normalised(T)
    mass = each[T] if T.ndim == 1 else T @ each
    if T.ndim == 2:
        T = np.where(mass[:, None] > 0, normalised(T * each), T)
    return T, weights * mass


def _class_weights(function: str, class_weights: Any, num_classes: int) -> np.ndarray:
    if isinstance(class_weights, dict):
        for label in class_weights:
            if not (is_integer(label) and 0 <= label < num_classes):
                keys = f"class_weights' keys must be classes in [0, {num_classes})"
                raise ValueError(f"{function}: {keys}; got {label!r}.")
        each = numbers([class_weights.get(label, 1) for label in range(num_classes)])
    else:
        arguments.check_plain(function, "class_weights", class_weights)
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


def normalised(T: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Distributions over their sums, which may be a little off 1."""
    total = T.sum(axis=1, keepdims=True)
    return T / np.where(total > 0, total, 1)


def _divided(parts: Parts, weights: Float[np.ndarray, " N"]) -> tuple[Float[np.ndarray, " N"], float]:
    """Weights divided by a power of two, exactly, so that no sum of them overflows, and that power."""
    exponent = int(np.frexp(parts.gather(weights.max(initial=0)).max())[1])
    return np.ldexp(weights, -exponent), float(np.ldexp(1.0, exponent - 1)) * 2


def _centre_and_scale(
    function: str, parts: Parts, weights: np.ndarray, dtype: np.dtype, fit_intercept: bool
) -> tuple[np.ndarray, float]:
    """μ, in the dtype where X is no wider than that, and s."""
    P = parts.shape[1]
    total, sums = 0.0, np.zeros(P)
    low, high = np.full(P, np.inf), np.full(P, -np.inf)
    if not parts.sum(weights.sum()) > 0:
        weights = np.ones_like(weights)
    for rows, block in parts.blocks():
        least, most = block.limits()
        low, high = np.minimum(low, least), np.maximum(high, most)
        if isinstance(block, SparseBlock):
            sums += block.transposed_times(weights[None, None, rows])[0, :-1, 0]
        else:  # not by BLAS, whose threads would wait for those of XLA and of other programs
            sums += np.einsum("n,np->p", weights[rows], block.dense())
        total += weights[rows].sum()
    total, sums = parts.sum((np.array(total), sums))
    low, high = parts.gather(low).min(axis=0), parts.gather(high).max(axis=0)
    centre = np.where(low == high, low, sums / total) if fit_intercept else np.zeros(P)
    largest = np.maximum(np.abs(low), np.abs(high))
    if not np.all(largest < np.inf):
        check_finite(function, "X", parts)
        raise ValueError(f"{function}: X must be finite; another process has a NaN or an infinity in its rows.")
    if largest.max() > np.finfo(dtype).max:
        raise ValueError(
            f"{function}: X must be within {np.finfo(dtype).max:.3g}, the range of {dtype}, in which the fit computes; "
            f"got {largest.max():.3g}. Divide the features, or use float64 (jax.enable_x64)."
        )
    is_dense_stream = parts.is_streamed and not parts.is_sparse
    if is_dense_stream and fit_intercept:  # without one 0 is no centre, which might be another number
        centre = centre_as_summed(parts.parts[0].X, centre, dtype)
    elif _fits(parts.dtype, dtype):
        centre = centre.astype(dtype).astype(np.float64)
    size = float(np.maximum(high / 2 - centre / 2, centre / 2 - low / 2).max()) * 2
    if parts.is_sparse:  # summed about 0: what is large and constant beside small deviations must stay finite, squared
        size = max(size, float(largest.max()) * LEAST_SPARSE_SIZE)
    usual = size == 0 or USUAL_SIZES[0] <= size <= USUAL_SIZES[1]
    return centre, 1.0 if usual else float(np.ldexp(1.0, -int(np.frexp(min(size, 2.0**1000))[1])))


def check_finite(function: str, argument: str, parts: Parts) -> None:
    """Check that this process's rows have no NaN and no infinity."""
    of_rows = np.zeros((parts.shape[0], 1))
    if parts.is_streamed or parts.is_sparse:
        for rows, block in parts.blocks():
            of_rows[rows, 0] = np.where(block.are_finite(), 0, np.nan)
        return arguments.check_finite(function, argument, of_rows)
    for part in parts.parts:
        of_rows[part.rows, 0] = np.where(np.isfinite(np.asarray(part.X)).all(axis=1), 0, np.nan)
    return arguments.check_finite(function, argument, of_rows)


def _placed(parts: Parts, num_classes: int, centre: np.ndarray, scale: float, one: float, dtype: np.dtype) -> Rows:
    """The rows for the sums. Dense data wider than the dtype are centred here, in float64, before they are narrowed."""
    if parts.is_sparse or parts.is_streamed or _fits(parts.dtype, dtype):
        return place(parts, num_classes, centre, scale, one, dtype)
    narrow = []
    for part in parts.parts:
        X = np.empty(part.X.shape, dtype)
        for rows, block in parts._replace(parts=(part,)).blocks(centre, scale):
            X[rows] = block.dense()
        narrow.append(part._replace(X=X))
    narrowed = parts._replace(parts=tuple(narrow), dtype=dtype)
    return place(narrowed, num_classes, np.zeros_like(centre), 1.0, one, dtype)


def _fits(given: np.dtype, dtype: np.dtype) -> bool:
    return given.kind in "iu" or jnp.finfo(given).bits <= jnp.finfo(dtype).bits
