"""The hand-derived gradient against two other opinions: autograd, and differences of the loss itself."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad import formulas, reference, validation
from handgrad.formulas import Layer, Params
from handgrad.formulas.network import Network, check_network, in_form_of, is_network, layers_of
from handgrad.reference import Problem

# Entries of a parameter that are checked by differences; each costs four evaluations of the loss.
MAX_DIFFERENCES = 64


class GradientCheck(NamedTuple):
    """One parameter's gradient in one dtype against one reference.

    Attributes:
      dtype: in which the gradient was computed by hand.
      parameter: "W" or "b"; of a network "W1", "b1" and so on, from its input to its output.
      reference: "autograd" or "differences", both in float64.
      entries: how many entries were compared.
      max_absolute_error: largest |by hand − reference|.
      max_relative_error: that, divided by the largest |reference|; 0 where both are 0.
      tolerance: the largest of the entries' tolerances; see `check_gradients`.
      passed: whether every entry's error is within the tolerance of that entry.
    """

    dtype: str
    parameter: str
    reference: str
    entries: int
    max_absolute_error: float
    max_relative_error: float
    tolerance: float
    passed: bool


class GradientReport(NamedTuple):
    """What `check_gradients` returns; prints as a table.

    Attributes:
      checks: one for each dtype, parameter and reference.
      passed: whether all of them passed.
    """

    checks: tuple[GradientCheck, ...]
    passed: bool

    def __str__(self) -> str:
        rows = [("dtype", "gradient of", "against", "entries", "max abs error", "max rel error", "tolerance", "")]
        for check in self.checks:
            errors = (check.max_absolute_error, check.max_relative_error, check.tolerance)
            absolute, relative, tolerance = (f"{error:.1e}" for error in errors)
            verdict = "passed" if check.passed else "FAILED"
            entries = str(check.entries)
            rows.append(
                (check.dtype, check.parameter, check.reference, entries, absolute, relative, tolerance, verdict)
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        numeric = range(3, 7)
        lines = [
            "  ".join(
                cell.rjust(width) if column in numeric else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)


def check_gradients(
    params: Params | Network,
    X: Any,
    targets: Any,
    *,
    weights: Any = None,
    dtypes: Sequence[str] = ("float32", "float64"),
) -> GradientReport:
    """Compare `gradient` with `jax.grad` and with central differences, both in float64.

    The loss that the two references see is written a second time, in the naive way, and shares no code with the
    formulas. Params and data are rounded to the dtype first, the rows of distributions scaled to sum 1, and the
    references see the same numbers, so the error is what the computation by hand adds. By autograd every entry is
    compared; by differences at most 64 of each parameter, spread evenly, without those whose every step, however
    small, carries a relu over its kink.

    The tolerances are derived from rounding errors, as `handgrad.reference` writes down. A difference is allowed more:
    the rounding error of the loss over the step, and by how much the difference changes as the step is doubled.

    Args:
      params: W (P, C) and b (1, C), or a network.
      X: data, shape (N, P), floating.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      weights: sample weights (N,).
      dtypes: floating dtypes to compute the gradient in, such as "bfloat16".

    Returns:
      GradientReport; `print` shows the table.

    Raises:
      TypeError, ValueError: as `gradient`.
    """
    function = "check_gradients"
    if isinstance(dtypes, str) or not dtypes:
        raise ValueError(f'{function}: dtypes must be a sequence such as ("float32", "float64"); got {dtypes!r}.')
    for layer in layers_of(params):
        validation.check_params(function, layer.params)
    num_classes = layers_of(params)[-1].params[0].shape[1]
    validation.check_array(function, "X", X, "(N, P)")
    validation.check_finite(function, "X", X)
    validation.check_targets(function, targets, X.shape[0], num_classes)
    validation.check_weights(function, weights, X.shape[0])
    checks: list[GradientCheck] = []
    # highest: the formula is on trial, not TF32 or bfloat16 passes that a device may put in a float32 product.
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        if targets.ndim == 2:
            T = jnp.asarray(targets, dtype=jnp.float64)
            targets = T = T / jnp.sum(T, axis=1, keepdims=True)
        else:
            T = jax.nn.one_hot(targets, num_classes, dtype=jnp.float64)
        w = jnp.ones(X.shape[0]) if weights is None else jnp.asarray(weights).astype(jnp.float64)
        share = w / jnp.where(jnp.sum(w) == 0, 1.0, jnp.sum(w))
        for dtype in map(jnp.dtype, dtypes):
            X_rounded = jnp.asarray(X).astype(dtype)
            rounded = [Params(*(jnp.asarray(array).astype(dtype) for array in own)) for own, _ in layers_of(params)]
            rounded_params = in_form_of(params, rounded)
            check_network(function, rounded_params, X_rounded)
            by_hand = jax.jit(formulas.gradient)(rounded_params, X_rounded, targets, weights)
            network = tuple(
                Layer(Params(*(array.astype(jnp.float64) for array in own)), layer.activation)
                for own, layer in zip(rounded, layers_of(params), strict=True)
            )
            checks += _compare(dtype, by_hand, network, Problem(X_rounded.astype(jnp.float64), T, share))
    return GradientReport(tuple(checks), all(check.passed for check in checks))


def _compare(dtype: np.dtype, by_hand: Any, network: Network, problem: Problem) -> list[GradientCheck]:
    autograd = jax.jit(jax.grad(reference.loss))(network, problem)
    errors, _ = jax.jit(reference.rounding_errors)(float(jnp.finfo(dtype).eps) / 2, network, problem)
    _, loss_error = jax.jit(reference.rounding_errors)(reference.ROUNDING_64, network, problem)
    steps = jax.jit(_steps)(network, problem)
    checks = []
    for number, layer in enumerate(layers_of(by_hand)):
        for parameter in Params._fields:
            hand, other, tolerance, step = (
                np.asarray(getattr(part, parameter), np.float64).ravel()
                for part in (layer.params, autograd[number].params, errors[number], steps[number])
            )
            name = f"{parameter}{number + 1}" if is_network(by_hand) else parameter
            checks.append(_check(dtype, name, "autograd", hand, other, tolerance))
            entries = np.unique(np.linspace(0, hand.size - 1, min(hand.size, MAX_DIFFERENCES)).astype(int))
            differences, more, found = _differences(
                network, problem, loss_error, entries, step[entries], number, parameter
            )
            if found.any():
                entries, tolerance = entries[found], tolerance[entries][found] + more[found]
                checks.append(_check(dtype, name, "differences", hand[entries], differences[found], tolerance))
    return checks


def _check(
    dtype: np.dtype, parameter: str, against: str, hand: np.ndarray, other: np.ndarray, tolerance: np.ndarray
) -> GradientCheck:
    error = np.abs(hand - other)
    passed = bool(hand.size > 0 and np.isfinite(tolerance).all() and (error <= tolerance).all())
    largest, size, allowed = (float(np.max(array, initial=0)) for array in (error, np.abs(other), tolerance))
    relative = largest / size if size else 0.0 if largest == 0 else float("inf")
    return GradientCheck(dtype.name, parameter, against, hand.size, largest, relative, allowed, passed)


def _steps(network: Network, problem: Problem) -> list[Params]:
    """The step for each entry by which it changes no logit by more than u^(1/3), u being float64's rounding error.

    That is near the best: the truncation error of a difference grows with its square, the rounding error as it shrinks.
    """
    h = reference.ROUNDING_64 ** (1 / 3)
    steps = []
    for layer, A in zip(network, reference.forward(network, problem.X)[0], strict=True):
        largest = jnp.max(jnp.abs(A), axis=0)
        per_input = h / jnp.where(largest == 0, 1.0, largest)
        W, b = layer.params
        steps.append(Params(W=jnp.broadcast_to(per_input[:, None], W.shape), b=jnp.full_like(b, h)))
    return steps


def _differences(
    network: Network, problem: Problem, loss_error: Any, entries: np.ndarray, steps: np.ndarray, layer: int, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Central differences, what they may be off, and where a step was found that carries no relu over its kink."""
    differences, errors = np.full((2, len(entries)), np.nan)
    found = np.zeros(len(entries), bool)
    for shrink in (1, 16, 256):  # a smaller step meets fewer kinks
        difference, doubled, stays = map(
            np.asarray, _central_differences(network, problem, entries, steps / shrink, layer=layer, name=name)
        )
        new = stays & ~found
        found |= stays
        differences[new] = difference[new]
        errors[new] = (float(loss_error) / steps * shrink + np.abs(doubled - difference))[new]
        if stays.all():
            break
    return differences, errors, found


@functools.partial(jax.jit, static_argnames=("layer", "name"))
def _central_differences(
    network: Network, problem: Problem, entries: jax.Array, steps: jax.Array, *, layer: int, name: str
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The difference by each step, that by the step doubled, and whether every relu stays on its side of the kink."""
    own = network[layer].params
    values = getattr(own, name)

    def sides(network):
        pairs = zip(network, reference.forward(network, problem.X)[1], strict=True)
        kinked = [Z.ravel() > 0 for layer, Z in pairs if layer.activation in reference.KINKED]
        return jnp.concatenate([*kinked, jnp.zeros(0, bool)])

    def moved(entry, change):
        array = values.ravel().at[entry].add(change).reshape(values.shape)
        changed = network[layer]._replace(params=own._replace(**{name: array}))
        return (*network[:layer], changed, *network[layer + 1 :])

    def difference(entry, step):
        up, down = moved(entry, step), moved(entry, -step)
        slope = (reference.loss(up, problem) - reference.loss(down, problem)) / (2 * step)
        return slope, jnp.all((sides(up) == sides(network)) & (sides(down) == sides(network)))

    def differences(pair):
        entry, step = pair
        slope, stays = difference(entry, step)
        doubled, doubled_stays = difference(entry, 2 * step)
        return slope, doubled, stays & doubled_stays

    return jax.lax.map(differences, (entries, steps))
