"""A hand-derived gradient, ours or the user's, against two other opinions: autograd, and differences of the loss.

A gradient is wrong in its formula or in its rounding, and the two are judged apart. The formula is judged in float64,
whatever dtypes are asked for: there even a small entry that is off by a percent lies far outside rounding. Each other
dtype is then held to the rounding that is its due, see `handgrad.reference`.

Where softmax is saturated, at the optimum, or with huge features, what is due may be as large as the gradient: there is
then nothing to be told at these parameters, and the row says "undecided". The gradient is judged a second time at tamer
ones: each layer's scaled down so that its largest logit is about 1, moved a little at random, which takes it away from
an optimum, and on at most eight rows.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad import arguments, formulas, reference
from handgrad.check import answers
from handgrad.check.diagnosis import explain
from handgrad.check.evidence import Evidence
from handgrad.check.points import FLOAT64, Point, problem_of, read_point, rounded_to, tamed
from handgrad.check.report import ERROR_EDGES, GradientCheck, GradientReport
from handgrad.formulas import Params
from handgrad.formulas.network import Network, is_network
from handgrad.settings import check_callback, check_dtype, show

# Entries of a parameter that are checked by differences: each costs four evaluations of the loss, which are held to
# this many multiplications in all.
MAX_DIFFERENCES, MIN_DIFFERENCES = 64, 4
MAX_MULTIPLICATIONS = 1e9

# The part of the gradient, in norm, that the tolerances may be where it is to be judged: in float64 so little that one
# entry off by a percent is seen.
RESOLVED_64, RESOLVED = 1e-4, 0.5


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
    check_callback("check_gradients", gradient, "gradient")
    arguments.check_known("check_gradients", params, X, targets, weights)
    point = read_point(params, X, targets, weights)
    # highest: the formula is on trial, not TF32 or bfloat16 passes that a device may put in a float32 product.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        trial = _Trial(gradient, jnp.zeros(0) if gradient is None else X)
        checks: list[GradientCheck] = []
        diagnosis = ""
        tame: Point | None = None
        for dtype in [FLOAT64, *(dtype for dtype in asked if dtype != FLOAT64)]:
            comparison = _compare(trial, point, dtype)
            new = _checks(comparison)
            is_undecided = any(check.verdict == "undecided" for check in new)
            if dtype == FLOAT64:
                new = _with_differences(comparison, new)
            failed = None if all(check.verdict != "FAILED" for check in new) else comparison
            if is_undecided:
                tame = tame or tamed(point)
                comparison = _compare(trial, tame, dtype)
                new += _checks(comparison, at_tame=True)
                if failed is None and any(check.verdict == "FAILED" for check in new):
                    failed = comparison
            checks += new
            if failed is not None and not diagnosis:
                diagnosis = _diagnosis(failed)
    return GradientReport(tuple(checks), _passed(checks), diagnosis)


# --- What comes in ---------------------------------------------------------------------------------------------------


def _dtypes(dtypes: Sequence[str]) -> list[np.dtype]:
    if not isinstance(dtypes, (list, tuple)) or not dtypes:
        got = show(dtypes)
        raise ValueError(f'check_gradients: dtypes must be a sequence such as ("float32", "float64"); got {got}.')
    return list(dict.fromkeys(check_dtype("check_gradients", "dtypes", dtype) for dtype in dtypes))


# --- The gradient on trial -------------------------------------------------------------------------------------------


class _Trial:
    """The gradient on trial: ours, whose sums are in float32 or wider, or the user's."""

    def __init__(self, gradient: Callable[..., Any] | None, like: Any) -> None:
        self.is_ours = gradient is None
        self.gradient = jax.jit(formulas.gradient) if gradient is None else gradient
        self.convert = answers.converter(like)

    def __call__(self, point: Point, dtype: np.dtype) -> list[Params]:
        return answers.read_gradient(answers.call(self.gradient, point, dtype, self.convert), point.params)


class _Comparison(NamedTuple):
    """A gradient and its reference, a Params for each layer; found is None where the dtype cannot hold the point."""

    dtype: np.dtype
    point: Point
    found: list[Params] | None
    expected: list[Params]
    tolerance: list[Params]
    loss_error: float


def _compare(trial: _Trial, point: Point, dtype: np.dtype) -> _Comparison:
    rounded = rounded_to(point, dtype)
    loss, expected, tolerance, loss_error = _measure(rounded or point, dtype, wide_sums=trial.is_ours)
    if not np.isfinite(loss):
        raise ValueError(
            f"check_gradients: the loss must be finite at params; got {loss}. Is a row's target masked by a bias of "
            "−inf, or are all its classes? Are its logits beyond the range of float64?"
        )
    found = None if rounded is None else trial(rounded, dtype)
    return _Comparison(dtype, rounded or point, found, expected, tolerance, loss_error)


def _measure(point: Point, dtype: np.dtype, *, wide_sums: bool) -> tuple[float, list[Params], list[Params], float]:
    """`reference.measure` in NumPy: where nothing is known of a tolerance, it is infinite."""
    measured = reference.measure(*problem_of(point), reference.arithmetic(dtype, wide_sums=wide_sums))
    expected = [Params(*map(np.asarray, layer)) for layer in measured.gradient]
    tolerance = [
        Params(*(np.nan_to_num(array, nan=np.inf, posinf=np.inf) for array in layer)) for layer in measured.errors
    ]
    return float(measured.loss), expected, tolerance, float(measured.loss_error)


def _vanishes(point: Point, layer: int, part: int) -> bool:
    """Whether a gradient is 0 but for rounding even in float64."""
    _, expected, tolerance, _ = _measure(point, FLOAT64, wide_sums=True)
    return bool((np.abs(expected[layer][part]) <= 8 * tolerance[layer][part]).all())


def _names(params: Any) -> list[Params]:
    """The names W and b, or W1, b1 and so on."""
    if not is_network(params):
        return [Params("W", "b")]
    return [Params(f"W{number}", f"b{number}") for number in range(1, len(params) + 1)]


def _checks(comparison: _Comparison, *, at_tame: bool = False) -> list[GradientCheck]:
    checks = []
    for layer, names in enumerate(_names(comparison.point.params)):
        for part, name in enumerate(names):
            expected, tolerance = comparison.expected[layer][part], comparison.tolerance[layer][part]
            found = None if comparison.found is None else comparison.found[layer][part]
            against = "autograd, tamed" if at_tame else "autograd"
            check = _check(comparison.dtype, name, against, found, expected, tolerance)
            if (
                at_tame
                and check.verdict == "undecided"
                and found is not None
                and _vanishes(comparison.point, layer, part)
            ):
                check = check._replace(verdict="passed")  # of one class, or rows without weight: it is 0, as was found
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
    bins = np.searchsorted(ERROR_EDGES, ratio.ravel())  # a bin has its upper end
    counts = tuple(np.bincount(bins, minlength=len(ERROR_EDGES) + 1).tolist())
    return GradientCheck(dtype.name, name, against, found.size, largest, relative, worst, verdict, counts)


def _with_differences(comparison: _Comparison, checks: list[GradientCheck]) -> list[GradientCheck]:
    """The checks of float64, each followed by that against differences."""
    network, problem = problem_of(comparison.point)
    cost = 4.0 * len(problem.X) * sum(layer.params.W.size for layer in network)
    most = int(np.clip(MAX_MULTIPLICATIONS / cost, MIN_DIFFERENCES, MAX_DIFFERENCES))
    result = []
    for check, (layer, part) in zip(checks, np.ndindex(len(network), 2), strict=True):
        result.append(check)
        assert comparison.found is not None  # float64 holds every point
        found, tolerance = comparison.found[layer][part], comparison.tolerance[layer][part].ravel()
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
    """What is wrong with a comparison that failed; in another dtype than float64, only where float64 is right."""
    point, found = comparison.point, comparison.found
    assert found is not None  # else there is nothing that could fail
    if comparison.dtype != FLOAT64:
        return f"In {comparison.dtype}, not in float64: {_explained(comparison) or 'off by more than its rounding.'}"
    single = comparison._replace(
        dtype=np.dtype(np.float32), tolerance=_measure(point, np.dtype(np.float32), wide_sums=True)[2]
    )
    if all(check.verdict == "passed" and check.max_relative_error < 1e-4 for check in _checks(single)):
        return (
            "It is right to float32's rounding, not to float64's: something in it is float32 where X is float64. "
            "Compute in X's dtype."
        )
    return _explained(comparison)


def _explained(comparison: _Comparison) -> str:
    network, problem = problem_of(comparison.point)
    assert comparison.found is not None
    evidence = Evidence(
        network,
        problem,
        comparison.point.weights,
        comparison.found,
        comparison.expected,
        comparison.tolerance,
        _names(comparison.point.params),
    )
    return explain(evidence) or ""
