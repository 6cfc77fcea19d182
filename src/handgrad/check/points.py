"""Where a gradient is taken: the arguments as NumPy arrays, rounded to a dtype, or moved to where rounding is small."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from array_api_compat import is_torch_array

from handgrad import arguments, reference
from handgrad.formulas import Params
from handgrad.formulas.network import Network, check_network, in_form_of, layers_of
from handgrad.frames import torch_as_numpy
from handgrad.reference import Problem

FLOAT64 = np.dtype(np.float64)

# Of the tamed point: what its largest logit comes from, the given params and chance, and how many rows it has.
TAME_LOGIT, TAME_MOVE, TAME_ROWS = 1.0, 0.5, 8


class Point(NamedTuple):
    """Where a gradient is taken, as NumPy arrays in float64.

    Attributes:
      params: Params, or a network.
      X: data (N, P).
      targets: labels (N,) in int64, or distributions (N, C).
      weights: of the rows (N,), or None.
    """

    params: Any
    X: np.ndarray
    targets: np.ndarray
    weights: np.ndarray | None


def rounded_to(point: Point, dtype: np.dtype) -> Point | None:
    """The point rounded to a dtype, still as float64; None where the dtype cannot hold it."""

    def of(array: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore", under="ignore"):
            return array.astype(dtype).astype(np.float64)

    layers = [Params(*map(of, layer.params)) for layer in layers_of(point.params)]
    weights = None if point.weights is None else of(point.weights)
    result = Point(in_form_of(point.params, layers), of(point.X), point.targets, weights)
    holds = np.isfinite(result.X).all()
    for layer, own in zip(layers_of(point.params), layers, strict=True):
        holds &= all(
            (np.isfinite(after) == np.isfinite(before)).all() for before, after in zip(layer.params, own, strict=True)
        )
    if point.weights is not None and weights is not None:
        holds &= (np.isfinite(weights) & ((weights == 0) == (point.weights == 0))).all()
    return result if holds else None


def read_point(params: Any, X: Any, targets: Any, weights: Any) -> Point:
    """The arguments, checked, as NumPy arrays in float64."""
    function = "check_gradients"
    for layer in layers_of(params):
        arguments.check_params(function, layer.params)
    num_classes = layers_of(params)[-1].params[0].shape[1]
    arguments.check_array(function, "X", X, "(N, P)")
    arguments.check_finite(function, "X", X)
    arguments.check_targets(function, targets, X.shape[0], num_classes)
    arguments.check_weights(function, weights, X.shape[0])
    layers = []
    for number, layer in enumerate(layers_of(params), 1):
        W, b = (as_numpy(f"params.{name} must be", array) for name, array in zip("Wb", layer.params, strict=True))
        own = Params(W.astype(FLOAT64), b.astype(FLOAT64))
        if not np.isfinite(own.W).all() or not (np.isfinite(own.b) | np.isneginf(own.b)).all():
            raise ValueError(
                f"{function}: params must be finite, but for biases of −inf, which mask a class; layer {number} has "
                "a NaN or an infinity."
            )
        layers.append(own)
    if targets.ndim == 2:
        targets = as_numpy("targets must be", targets).astype(FLOAT64)
        targets /= targets.sum(axis=1, keepdims=True)
    else:
        targets = np.asarray(targets).astype(np.int64)
    if weights is not None:
        weights = np.asarray(weights).astype(FLOAT64)
    own_params = in_form_of(params, layers)
    point = Point(own_params, as_numpy("X must be", X).astype(FLOAT64), targets, weights)
    check_network(function, own_params, point.X)
    return point


def problem_of(point: Point) -> tuple[Network, Problem]:
    """The point as the references take it."""
    if point.targets.ndim == 1:
        T = np.zeros((len(point.targets), layers_of(point.params)[-1].params.W.shape[1]))
        T[np.arange(len(T)), point.targets] = 1
    else:
        T = point.targets
    w = np.ones(len(point.X)) if point.weights is None else point.weights
    largest = w.max() or 1.0  # the sum of the weights may be beyond float64 where their shares are not
    share = w / largest / ((w / largest).sum() or 1.0)
    with np.errstate(over="ignore"):
        return layers_of(point.params), Problem(point.X, T, share, w.sum())


def tamed(point: Point) -> Point:
    """A few rows, and params in general position: scaled down, and moved, to logits of about TAME_LOGIT."""
    counted = (
        np.arange(len(point.X)) if point.weights is None or not point.weights.any() else np.flatnonzero(point.weights)
    )
    rows = counted[np.linspace(0, len(counted) - 1, min(TAME_ROWS, len(point.X))).astype(int)]
    random = np.random.default_rng(0)
    A, layers = point.X[rows], []
    for layer in layers_of(point.params):
        masked = np.isneginf(layer.params.b)
        own = Params(layer.params.W, np.where(masked, 0.0, layer.params.b))
        move = Params(*(random.normal(size=array.shape) for array in own))
        own, move = (_with_largest_logit(params, A, most) for params, most in ((own, TAME_LOGIT), (move, TAME_MOVE)))
        layers.append(Params(own.W + move.W, np.where(masked, -np.inf, own.b + move.b)))
        A = np.asarray(reference.FUNCTIONS[layer.activation](A @ layers[-1].W + layers[-1].b))
    weights = None if point.weights is None else point.weights[rows]
    return Point(in_form_of(point.params, layers), point.X[rows], point.targets[rows], weights)


def _with_largest_logit(params: Params, A: np.ndarray, most: float) -> Params:
    largest = np.abs(A @ params.W + params.b).max()
    scale = min(1.0, most / largest) if largest else 1.0
    return Params(*(scale * array for array in params))


def as_numpy(requirement: str, array: Any) -> np.ndarray:
    """A floating-point array of any library as NumPy's; the requirement is as in "X must be"."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"check_gradients: {requirement} an array without a mask; got a masked one. Drop the masked rows, or fill "
            "them in with .filled."
        )
    if is_torch_array(array):
        array = torch_as_numpy(array)
    try:
        result = np.asarray(array)
    except (TypeError, ValueError) as error:
        raise TypeError(f"check_gradients: {requirement} an array; got {type(array).__name__}: {error}") from None
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(
            f"check_gradients: {requirement} a floating-point array; got {type(array).__name__} of {result.dtype}."
        )
    return result
