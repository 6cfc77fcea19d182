"""A hand-derived gradient, ours or the user's, against two other opinions: autograd, and differences of the loss.

A gradient is wrong in its formula or in its rounding, and the two are judged apart. The formula is judged in float64,
whatever dtypes are asked for: there even a small entry that is off by a percent lies far outside rounding. Each other
dtype is then held to the rounding that is its due, see `handgrad.reference`.

Where softmax is saturated, at the optimum, or with huge features, what is due may be as large as the gradient: there is
then nothing to be told at these parameters, and the row says "undecided". The gradient is judged a second time at tamer
ones: each layer's divided by what brings its largest logit to 2, on at most sixteen rows and at most half of them, so
that rows do not cancel.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad import foreign, formulas, reference, validation
from handgrad.diagnosis import Evidence, explain
from handgrad.foreign import Point
from handgrad.formulas import Layer, Params
from handgrad.formulas.network import Network, check_network, in_form_of, is_network, layers_of
from handgrad.reference import Problem

# Entries of a parameter that are checked by differences: each costs four evaluations of the loss, which are held to
# this many multiplications in all.
MAX_DIFFERENCES, MIN_DIFFERENCES = 64, 4
MAX_MULTIPLICATIONS = 1e9

# The part of the gradient, in norm, that the tolerances may be where it is to be judged: in float64 so little that one
# entry off by a percent is seen.
RESOLVED_64, RESOLVED = 1e-4, 0.25

TAME_LOGIT, TAME_ROWS = 2.0, 16
FLOAT64 = np.dtype(np.float64)


class GradientCheck(NamedTuple):
    """One parameter's gradient in one dtype against one reference.

    Attributes:
      dtype: in which the gradient was computed by hand.
      parameter: "W" or "b"; of a network "W1", "b1" and so on, from its input to its output.
      reference: "autograd" or "differences", both in float64; "autograd, tamed" at tamer parameters.
      entries: how many entries were compared.
      max_absolute_error: largest |by hand − reference|.
      max_relative_error: that, divided by the largest |reference|; 0 where both are 0.
      error_over_tolerance: the largest of the entries' errors, each divided by the tolerance of that entry.
      verdict: "FAILED" where error_over_tolerance is above 1; "passed"; or "undecided", where the tolerances are so
        large beside the gradient that a wrong one could hide in them.
    """

    dtype: str
    parameter: str
    reference: str
    entries: int
    max_absolute_error: float
    max_relative_error: float
    error_over_tolerance: float
    verdict: str

    @property
    def passed(self) -> bool:
        """Whether the verdict is "passed"."""
        return self.verdict == "passed"


class GradientReport(NamedTuple):
    """What `check_gradients` returns; prints as a table, and the diagnosis below it.

    Attributes:
      checks: one for each dtype, parameter and reference.
      passed: whether none failed, and each parameter passed in each dtype, if only at tamer parameters.
      diagnosis: what is wrong and what to do, where something is; else "".
    """

    checks: tuple[GradientCheck, ...]
    passed: bool
    diagnosis: str = ""

    def __str__(self) -> str:
        header = ("dtype", "gradient of", "against", "entries", "max abs error", "max rel error", "error/tolerance", "")
        rows = [header]
        for check in self.checks:
            numbers = (f"{check.max_absolute_error:.1e}", f"{check.max_relative_error:.1e}", f"{check.error_over_tolerance:.2g}")
            rows.append((check.dtype, check.parameter, check.reference, str(check.entries), *numbers, check.verdict))
        widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
        numeric = range(3, 7)
        lines = [
            "  ".join(
                cell.rjust(width) if column in numeric else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        if any(check.verdict == "undecided" for check in self.checks):
            lines.append(UNDECIDED)
        return "\n".join([*lines, *self.diagnosis.splitlines()])


UNDECIDED = (
    "undecided: rounding may be as large as the gradient there. tamed: a few rows, parameters scaled down to logits "
    f"of {TAME_LOGIT:g}."
)


def check_gradients(
    params: Params | Network,
    X: Any,
    targets: Any,
    *,
    gradient: Callable[..., Any] | None = None,
    weights: Any = None,
    dtypes: Sequence[str] = ("float32", "float64"),
) -> GradientReport:
    """Compare a gradient with `jax.grad` and with central differences, both in float64.

    The loss that the two references see is written a second time, in the naive way, and shares no code with the
    formulas. Params and data are rounded to the dtype first, the rows of distributions scaled to sum 1, and the
    references see the same numbers, so the error is what the computation by hand adds. By autograd every entry is
    compared; by differences at most 64 of each parameter, spread evenly, without those whose every step, however
    small, carries a relu over its kink.

    In float64 the formula is judged, even where `dtypes` do not name it. In each other dtype the gradient is held to
    the rounding that is its due. Where that is as large as the gradient, nothing can be told, and it is judged at
    tamer parameters too.

    A function of yours is called as gradient(params, X, targets), or with weights as a fourth argument where they are
    given, once or twice for each dtype. It gets arrays of X's own library, NumPy, JAX or PyTorch (NumPy for any other),
    in the dtype on trial, labels in int64; W is (P, C), b (1, C). In NumPy, bfloat16 is that of ml_dtypes. It returns
    dL/dW and dL/db of the mean loss, in the dtype that it got or a wider one: as a pair, a `Params`, a dict with W and
    b or dW and db, an object with these attributes; db as (1, C) or (C,); the loss may stand before them. For a network
    it returns these for each layer, or one dict with W1, b1, W2 and so on. If it is wrong in a way that is known, the
    report's `diagnosis` says which.

    Args:
      params: W (P, C) and b (1, C), or a network; finite, but for a class that a bias of −inf masks.
      X: data, shape (N, P), floating.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      gradient: a function of yours; `handgrad.gradient` if None.
      weights: sample weights (N,).
      dtypes: floating dtypes to compute the gradient in, such as "bfloat16".

    Returns:
      GradientReport; `print` shows the table.

    Raises:
      TypeError, ValueError: as `gradient`; params or a loss that are not finite; what a function of yours returns is
        no gradient. What it raises itself passes through.

    Example:
      >>> def mine(params, X, targets):
      ...     Z = X @ params.W + params.b
      ...     Y = np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
      ...     D = np.eye(3)[targets] - Y
      ...     return X.T @ D / len(X), D.mean(axis=0)
      >>> X, t = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 3.0]]), np.array([0, 2, 1])
      >>> params = handgrad.Params(W=np.eye(2, 3), b=np.zeros((1, 3)))
      >>> print(handgrad.check_gradients(params, X, t, gradient=mine).diagnosis)
      dW and db: the sign is wrong, T − Y where the derivative is Y − T.
    """
    asked = _dtypes(dtypes)
    point = _point(params, X, targets, weights)
    # highest: the formula is on trial, not TF32 or bfloat16 passes that a device may put in a float32 product.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        trial = _Trial(gradient, jnp.zeros(0) if gradient is None else X)
        _check_loss(point)
        checks: list[GradientCheck] = []
        diagnosis = ""
        tame: Point | None = None
        for dtype in [FLOAT64, *(dtype for dtype in asked if dtype != FLOAT64)]:
            comparison = _compare(trial, point, dtype)
            new = _checks(comparison)
            if dtype == FLOAT64:
                new = _with_differences(comparison, new)
            failed = None if all(check.verdict != "FAILED" for check in new) else comparison
            if any(check.verdict == "undecided" for check in new):
                tame = tame or _tamed(point)
                comparison = _compare(trial, tame, dtype)
                new += _checks(comparison, tamed=True)
                if failed is None and any(check.verdict == "FAILED" for check in new):
                    failed = comparison
            checks += new
            if failed is not None and not diagnosis:
                diagnosis = _diagnosis(failed)
    return GradientReport(tuple(checks), _passed(checks), diagnosis)


# --- What comes in ---------------------------------------------------------------------------------------------------


def _dtypes(dtypes: Sequence[str]) -> list[np.dtype]:
    if isinstance(dtypes, str) or not dtypes:
        raise ValueError(f'check_gradients: dtypes must be a sequence such as ("float32", "float64"); got {dtypes!r}.')
    asked = list(dict.fromkeys(map(jnp.dtype, dtypes)))
    for dtype in asked:
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"check_gradients: dtypes must be floating-point; got {dtype}.")
    return asked


def _point(params: Any, X: Any, targets: Any, weights: Any) -> Point:
    """The arguments, checked, as NumPy arrays in float64."""
    function = "check_gradients"
    for layer in layers_of(params):
        validation.check_params(function, layer.params)
    num_classes = layers_of(params)[-1].params[0].shape[1]
    validation.check_array(function, "X", X, "(N, P)")
    validation.check_finite(function, "X", X)
    validation.check_targets(function, targets, X.shape[0], num_classes)
    validation.check_weights(function, weights, X.shape[0])
    layers = []
    for number, layer in enumerate(layers_of(params), 1):
        W, b = (foreign.as_numpy(f"params.{name}", array) for name, array in zip("Wb", layer.params, strict=True))
        own = Params(W.astype(FLOAT64), b.astype(FLOAT64))
        if not np.isfinite(own.W).all() or not (np.isfinite(own.b) | np.isneginf(own.b)).all():
            raise ValueError(
                f"{function}: params must be finite, but for biases of −inf, which mask a class; layer {number} has "
                "a NaN or an infinity."
            )
        layers.append(own)
    if targets.ndim == 2:
        targets = foreign.as_numpy("targets", targets).astype(FLOAT64)
        targets /= targets.sum(axis=1, keepdims=True)
    else:
        targets = np.asarray(targets).astype(np.int64)
    if weights is not None:
        weights = np.asarray(weights).astype(FLOAT64)
    own_params = in_form_of(params, layers)
    point = Point(own_params, foreign.as_numpy("X", X).astype(FLOAT64), targets, weights)
    check_network(function, own_params, point.X)
    return point


def _problem(point: Point) -> tuple[Network, Problem]:
    """The point as the references take it."""
    if point.targets.ndim == 1:
        T = np.eye(layers_of(point.params)[-1].params.W.shape[1])[point.targets]
    else:
        T = point.targets
    w = np.ones(len(point.X)) if point.weights is None else point.weights
    total = w.sum()
    return layers_of(point.params), Problem(point.X, T, w / (total or 1.0), total)


def _check_loss(point: Point) -> None:
    network, problem = _problem(point)
    loss = float(reference.measure(network, problem, reference.arithmetic(FLOAT64, wide_sums=True)).loss)
    if not np.isfinite(loss):
        raise ValueError(
            f"check_gradients: the loss must be finite at params; got {loss}. Has a row a class that is masked for "
            "target, or all its classes masked? Are the logits beyond the range of float64?"
        )


def _tamed(point: Point) -> Point:
    """Few rows, and each layer's params divided by what brings its largest logit to TAME_LOGIT."""
    num_rows = len(point.X)
    counted = np.arange(num_rows) if point.weights is None or not point.weights.any() else np.flatnonzero(point.weights)
    rows = counted[np.linspace(0, len(counted) - 1, min(TAME_ROWS, (num_rows + 1) // 2)).astype(int)]
    A, layers = point.X[rows], []
    for layer in layers_of(point.params):
        Z = A @ layer.params.W + layer.params.b
        largest = np.abs(Z[np.isfinite(Z)]).max(initial=0.0)
        scale = min(1.0, TAME_LOGIT / largest) if largest else 1.0
        layers.append(Params(*(scale * array for array in layer.params)))
        A = np.asarray(reference.FUNCTIONS[layer.activation](Z * scale))
    weights = None if point.weights is None else point.weights[rows]
    return Point(in_form_of(point.params, layers), point.X[rows], point.targets[rows], weights)


# --- The gradient on trial ---------------------------------------------------------------------------------------------


class _Trial:
    """The gradient on trial: ours, whose sums are in float32 or wider, or the user's."""

    def __init__(self, gradient: Callable[..., Any] | None, like: Any) -> None:
        self.is_ours = gradient is None
        self.gradient = jax.jit(formulas.gradient) if gradient is None else gradient
        self.convert = foreign.converter(like)

    def __call__(self, point: Point, dtype: np.dtype) -> foreign.Found:
        return foreign.read_gradient(foreign.call(self.gradient, point, dtype, self.convert), point.params)


class _Comparison(NamedTuple):
    """A gradient and its reference at a point, a Params for each layer; found is None where the dtype cannot hold it."""

    dtype: np.dtype
    point: Point
    found: foreign.Found | None
    expected: list[Params]
    tolerance: list[Params]
    loss_error: float
    is_zero: list[Params]


def _compare(trial: _Trial, point: Point, dtype: np.dtype) -> _Comparison:
    rounded = foreign.rounded(point, dtype)
    network, problem = _problem(rounded or point)
    how = reference.arithmetic(dtype, wide_sums=trial.is_ours)
    measured = reference.measure(network, problem, how)
    exact = reference.measure(network, problem, reference.arithmetic(FLOAT64, wide_sums=True))
    expected, tolerance, rounding_64 = (
        [Params(*map(np.asarray, layer)) for layer in every] for every in (measured.gradient, measured.errors, exact.errors)
    )
    tolerance = [Params(*(np.where(np.isnan(array), np.inf, array) for array in layer)) for layer in tolerance]
    is_zero = [
        Params(*(bool((np.abs(value) <= 8 * bound).all()) for value, bound in zip(*layers, strict=True)))
        for layers in zip(expected, rounding_64, strict=True)
    ]
    found = None if rounded is None else trial(rounded, dtype)
    return _Comparison(dtype, rounded or point, found, expected, tolerance, float(exact.loss_error), is_zero)


def _names(params: Any) -> list[Params]:
    """ "W" and "b", or "W1", "b1" and so on."""
    if not is_network(params):
        return [Params("W", "b")]
    return [Params(f"W{number}", f"b{number}") for number in range(1, len(params) + 1)]


def _checks(comparison: _Comparison, *, tamed: bool = False) -> list[GradientCheck]:
    checks = []
    for layer, names in enumerate(_names(comparison.point.params)):
        for part, name in enumerate(names):
            expected, tolerance = comparison.expected[layer][part], comparison.tolerance[layer][part]
            found = None if comparison.found is None else comparison.found.layers[layer][part]
            against = "autograd, tamed" if tamed else "autograd"
            check = _check(comparison.dtype, name, against, found, expected, tolerance)
            if tamed and check.verdict == "undecided" and comparison.is_zero[layer][part] and found is not None:
                check = check._replace(verdict="passed")  # there is no gradient, here or there, and none was found
            checks.append(check)
    return checks


def _check(
    dtype: np.dtype, name: str, against: str, found: np.ndarray | None, expected: np.ndarray, tolerance: np.ndarray
) -> GradientCheck:
    if found is None:
        return GradientCheck(dtype.name, name, against, 0, np.nan, np.nan, np.nan, "undecided")
    if found.shape != expected.shape:
        return GradientCheck(dtype.name, name, against, found.size, np.nan, np.nan, np.inf, "FAILED")
    error = np.abs(found - expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        # inf/inf is an entry beyond the range of the dtype, of which nothing is asked.
        ratio = np.where(np.isinf(tolerance) | (error == 0), 0.0, error / tolerance)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    largest, size, worst = (float(np.max(array, initial=0)) for array in (error, np.abs(expected), ratio))
    relative = largest / size if size else 0.0 if largest == 0 else float("inf")
    visible = RESOLVED_64 if dtype == FLOAT64 and against != "differences" else RESOLVED
    resolved = np.linalg.norm(tolerance) <= visible * np.linalg.norm(expected)
    verdict = "FAILED" if worst > 1 else "passed" if resolved else "undecided"
    return GradientCheck(dtype.name, name, against, found.size, largest, relative, worst, verdict)


def _with_differences(comparison: _Comparison, checks: list[GradientCheck]) -> list[GradientCheck]:
    """The checks of float64, each followed by that against differences."""
    network, problem = _problem(comparison.point)
    cost = 4.0 * len(problem.X) * sum(layer.params.W.size for layer in network)
    most = int(np.clip(MAX_MULTIPLICATIONS / cost, MIN_DIFFERENCES, MAX_DIFFERENCES))
    result = []
    for check, (layer, part) in zip(checks, np.ndindex(len(network), 2), strict=True):
        result.append(check)
        assert comparison.found is not None  # float64 holds every point
        found, tolerance = comparison.found.layers[layer][part], comparison.tolerance[layer][part].ravel()
        if found.shape != comparison.expected[layer][part].shape:
            continue
        entries = np.unique(np.linspace(0, found.size - 1, min(found.size, most)).astype(int))
        name = Params._fields[part]
        differences = reference.differences(network, problem, comparison.loss_error, entries, layer, name)
        kept = entries[differences.found]
        if len(kept):
            errors = tolerance[kept] + differences.errors[differences.found]
            values = differences.values[differences.found]
            result.append(_check(FLOAT64, check.parameter, "differences", found.ravel()[kept], values, errors))
    return result


def _passed(checks: list[GradientCheck]) -> bool:
    asked = {(check.dtype, check.parameter) for check in checks}
    proved = {(check.dtype, check.parameter) for check in checks if check.passed and check.reference != "differences"}
    return proved == asked and all(check.verdict != "FAILED" for check in checks)


def _diagnosis(comparison: _Comparison) -> str:
    """What is wrong with a comparison that failed, float64's first."""
    network, problem = _problem(comparison.point)
    names = _names(comparison.point.params)
    assert comparison.found is not None  # else there is nothing that could fail
    said = explain(
        Evidence(network, problem, comparison.point.weights, comparison.found.layers, comparison.expected, comparison.tolerance, names)
    )
    return said or ""
