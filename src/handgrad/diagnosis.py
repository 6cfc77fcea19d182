r"""What is wrong with a gradient, where that can be seen: each kind of mistake is a formula, compared with what came.

A mistake in dL/dZ, which is (Y − T)/N, passes into every layer's gradient; each of `_RESIDUALS` is such a formula, and
`reference.pull_back` says what it makes of dW and db. The others are seen in dW or db alone. A formula explains what
came if it leaves a hundred-thousandth of the error, or what is due to rounding. Where several do, all are named; where
none does, only the place of the largest error.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from handgrad import reference
from handgrad.formulas import Params
from handgrad.reference import Network, Problem


class Evidence(NamedTuple):
    """A gradient that is wrong, and what it should be, in float64.

    Attributes:
      network: the layers; Params alone are one.
      problem: the data.
      weights: of the rows, as they were given.
      found, expected, tolerance: a Params for each layer.
      names: of each layer's W and b, as "W2" and "b2".
    """

    network: Network
    problem: Problem
    weights: np.ndarray | None
    found: list[Params]
    expected: list[Params]
    tolerance: list[Params]
    names: list[Params]


class Part(NamedTuple):
    """dW or db of one layer; `rounding` is the norm of its tolerances."""

    name: str
    layer: int
    is_bias: bool
    found: np.ndarray
    expected: np.ndarray
    rounding: float

    @property
    def error(self) -> float:
        return float(np.linalg.norm(self.found - self.expected))

    @property
    def is_wrong(self) -> bool:
        return self.error > 30 * self.rounding


def explain(evidence: Evidence) -> str | None:
    """One sentence or more on what is wrong and what to do, or None where nothing can be said."""
    with np.errstate(all="ignore"):
        parts = list(_parts(evidence))
        for part in parts:
            bad = ~np.isfinite(part.found)
            if bad.any():
                first = tuple(map(int, np.argwhere(bad)[0]))
                return (
                    f"{part.name} is NaN or infinite in {bad.sum()} of {bad.size} entries, the first at {list(first)}. "
                    "Does exp overflow? Subtract each row's largest logit before it."
                )
        misshapen = [part for part in parts if part.found.shape != part.expected.shape]
        if not misshapen:
            wrong = [part for part in parts if part.is_wrong]
            if not wrong:
                return None
            said = _whole(evidence, parts)
            if said:
                return said
        return " ".join(_alone(evidence, part) for part in parts if part in misshapen or part.is_wrong)


def _parts(evidence: Evidence) -> Iterator[Part]:
    for layer, names in enumerate(evidence.names):
        for name, of in zip(names, Params._fields, strict=True):
            found, expected, tolerance = (
                np.asarray(getattr(every[layer], of)) for every in (evidence.found, evidence.expected, evidence.tolerance)
            )
            yield Part(f"d{name}", layer, of == "b", found, expected, float(np.linalg.norm(tolerance)))


def _fit(part: Part, predicted: np.ndarray, factor: float | None = None) -> float | None:
    """The factor by which the prediction is what came, if it is."""
    size = float(np.vdot(predicted, predicted))
    if not 0 < size < np.inf or part.found.shape != predicted.shape:
        return None
    factor = float(np.vdot(predicted, part.found)) / size if factor is None else factor
    left = float(np.linalg.norm(part.found - factor * predicted))
    return factor if left <= 1e-5 * part.error + part.rounding * max(1.0, abs(factor)) else None


def _sizes(evidence: Evidence) -> list[tuple[float, str, str]]:
    """Factors that have a meaning: their value, their name, and what was done."""
    (N, P), C = evidence.problem.X.shape, evidence.network[-1].params.W.shape[1]
    total = float(evidence.problem.total)
    sizes = [
        (2.0, "2", "a factor 2 is left over, as from a square"),
        (0.5, "1/2", "a factor 1/2 is left over, as of a square"),
        (float(C), "C", "it is multiplied by the number of classes"),
        (1 / C, "1/C", "the mean is taken over the classes too; divide by N alone"),
        (float(P), "P", "it is multiplied by the number of features"),
        (1 / P, "1/P", "it is divided by the number of features"),
    ]
    if evidence.weights is None:
        sizes.insert(0, (float(N), "N", "a sum over the rows where it should be their mean; divide by N"))
        sizes.insert(1, (1 / N, "1/N", "it is divided by N twice"))
    else:
        sizes.insert(0, (total, "sum(w)", "the weights are not normalised; divide by sum(w)"))
        sizes.insert(1, (total / N, "sum(w)/N", "it is divided by N; divide by sum(w)"))
        sizes.insert(2, (1 / total, "1/sum(w)", "it is divided by sum(w) twice"))
    return [size for size in sizes if size[0] != 1]


def _said_of_factor(evidence: Evidence, factor: float) -> str | None:
    """What a factor means; "" for 1, None where it means nothing."""
    sign = "the sign is wrong, T − Y where the derivative is Y − T" if factor < 0 else ""
    if np.isclose(abs(factor), 1, rtol=1e-6):
        return sign
    meanings: dict[str, str] = {}
    for value, name, meaning in _sizes(evidence):
        if np.isclose(abs(factor), value, rtol=1e-6):
            meanings[name] = meaning
    if not meanings:
        return None
    size = f"it is {abs(factor):.6g} = {' = '.join(meanings)} times what it should be: {', or '.join(meanings.values())}"
    return f"{sign}, and {size}" if sign else size


# --- Mistakes in dL/dZ ---------------------------------------------------------------------------------------------


def _softmax(Z: np.ndarray, axis: int = 1) -> np.ndarray:
    exponentials = np.exp(Z - Z.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def _residuals(evidence: Evidence) -> Iterator[tuple[str, np.ndarray]]:
    """Each mistake in dL/dZ, and what dL/dZ is then."""
    problem, layer = evidence.problem, evidence.network[-1]
    inputs, logits = reference.forward(evidence.network, problem.X)
    A, Z, T, share = np.asarray(inputs[-1]), np.asarray(logits[-1]), np.asarray(problem.T), problem.share[:, None]
    Y = _softmax(Z)
    yield "", share * (Y - T)
    yield "it is that of Y alone: subtract T", share * Y
    yield "it is that of −T alone: add Y", -share * T
    yield "the labels are one too large: let them start at 0", share * (Y - np.roll(T, 1, axis=1))
    yield "the labels are one too small, the first class taken for the last", share * (Y - np.roll(T, -1, axis=1))
    yield "the softmax goes over the rows: take it over axis 1, the classes", share * (_softmax(Z, axis=0) - T)
    yield "the logits stand where the probabilities should: take their softmax", share * (Z - T)
    yield "each class has a sigmoid where the softmax should be", share * (1 / (1 + np.exp(-Z)) - T)
    yield "exp(Z) is not divided by its sum over the classes", share * (np.exp(Z) - T)
    yield "the bias is not in the logits: Z = XW + b", share * (_softmax(A @ layer.params.W) - T)
    if A.shape[1] == Z.shape[1]:
        yield "the logits are those of the transposed W: Z = XW + b", share * (_softmax(A @ layer.params.W.T + layer.params.b) - T)
    D = Y - T
    yield (
        "Y − T is multiplied by the softmax's derivative once more, which is in it already",
        share * Y * (D - (Y * D).sum(axis=1, keepdims=True)),
    )
    yield "Y − T is multiplied by Y(1 − Y), which does not belong there", share * D * Y * (1 - Y)
    if evidence.weights is not None:
        yield "the weights are left out", D / len(D)
        yield "the weights are applied twice", share * evidence.weights[:, None] * D


def _whole(evidence: Evidence, parts: list[Part]) -> str | None:
    """What explains all parts at once."""
    said: list[str] = []
    for meaning, D in _residuals(evidence):
        predicted = _pull_back(evidence, D)
        factors = [_fit(part, array) for part, array in zip(parts, predicted, strict=True)]
        if None in factors:
            continue
        if not meaning:
            if all(_said_of_factor(evidence, factor) is not None for factor in factors):
                said.append(_of_factors(evidence, parts, factors))
            elif np.ptp(factors) <= 1e-6 * abs(factors[0]):
                return f"{_list(parts)}: each entry is {factors[0]:.6g} times what it should be."
            continue
        factor = _said_of_factor(evidence, factors[0]) if np.ptp(factors) <= 1e-6 * abs(factors[0]) else None
        if factor is not None and any(np.linalg.norm(a - p.expected) > 30 * p.rounding for a, p in zip(predicted, parts, strict=True)):
            said.append(f"{_list(parts)}: {meaning}{factor and '; besides, '}{factor}.")
    said += [f"{_list(parts)}: {meaning}." for meaning in (*_one_row(evidence, parts), *_no_slope(evidence, parts))]
    return _either(said)


def _pull_back(evidence: Evidence, D: np.ndarray) -> list[np.ndarray]:
    if not np.isfinite(D).all():
        return [np.zeros(0)] * 2 * len(evidence.network)
    layers = reference.pull_back(evidence.network, evidence.problem.X, D)
    return [np.asarray(array) for layer in layers for array in layer]


def _of_factors(evidence: Evidence, parts: list[Part], factors: list[Any]) -> str:
    groups: dict[str, list[Part]] = {}
    for part, factor in zip(parts, factors, strict=True):
        if part.is_wrong:
            groups.setdefault(_said_of_factor(evidence, factor) or "it is right", []).append(part)
    return " ".join(f"{_list(own)}: {meaning}." for meaning, own in groups.items())


def _one_row(evidence: Evidence, parts: list[Part]) -> Iterator[str]:
    """A row i that is wrong adds x_i δᵀ to dW and δ to db."""
    A = np.asarray(reference.forward(evidence.network, evidence.problem.X)[0][-1])
    D = _share_of_residual(evidence)
    N = len(A)
    for scale, how in ((1.0, ""), (1 - 1 / N, ", and the others are divided by N − 1")):
        last_W, last_b = (scale * part.found - part.expected for part in parts[-2:])
        delta = last_b[0]
        if not np.linalg.norm(delta) > 30 * parts[-1].rounding:
            continue
        x = last_W @ delta / (delta @ delta)
        rows = np.flatnonzero(np.abs(A - x).max(axis=1) <= 1e-6 * max(np.abs(x).max(), 1e-300) + 1e-6 * np.abs(A).max() * 1e-3)
        if len(rows) != 1:
            continue
        row = int(rows[0])
        change = np.zeros_like(D)
        change[row] = delta
        predicted = [array / scale for array in _pull_back(evidence, D + change)]
        if any(_fit(part, array, 1.0) is None for part, array in zip(parts, predicted, strict=True)):
            continue
        size = np.linalg.norm(D[row])
        if np.linalg.norm(delta + D[row]) <= 1e-5 * size:
            yield f"row {row} is left out{how}"
        elif scale == 1 and np.linalg.norm(delta - D[row]) <= 1e-5 * size:
            yield f"row {row} is counted twice"
        elif scale == 1 and A.shape[1] >= 2 and D.shape[1] >= 3:
            yield f"row {row} alone is wrong"


def _share_of_residual(evidence: Evidence) -> np.ndarray:
    return next(_residuals(evidence))[1]


def _no_slope(evidence: Evidence, parts: list[Part]) -> Iterator[str]:
    """δ_l = (δ_{l+1} W_{l+1}ᵀ) ∘ f′(Z_l), without its last factor."""
    if len(evidence.network) == 1:
        return
    G = _share_of_residual(evidence)
    inputs = reference.forward(evidence.network, evidence.problem.X)[0]
    predicted: list[np.ndarray] = []
    for layer, A in zip(reversed(evidence.network), reversed(inputs), strict=True):
        predicted = [np.asarray(A).T @ G, G.sum(axis=0, keepdims=True), *predicted]
        G = G @ layer.params.W.T
    if all(_fit(part, array, 1.0) is not None for part, array in zip(parts, predicted, strict=True)):
        yield "the non-linearities' derivatives are left out: δ_l = (δ_{l+1} W_{l+1}ᵀ) ∘ f′(Z_l)"


# --- Mistakes in dW or db alone ------------------------------------------------------------------------------------


def _alone(evidence: Evidence, part: Part) -> str:
    said = [f"{part.name}: {meaning}." for meaning in _mistakes(evidence, part)]
    either = _either(said)
    if either:
        return either
    if part.found.shape != part.expected.shape:
        return f"{part.name} must have shape {part.expected.shape}; got {part.found.shape}."
    index = np.unravel_index(np.abs(part.found - part.expected).argmax(), part.found.shape)
    place = ", ".join(str(int(number)) for number in index)
    return (
        f"{part.name}: no simple mistake explains it; the largest error is at [{place}], {part.found[index]:.6g} where "
        f"{part.expected[index]:.6g} is right."
    )


def _mistakes(evidence: Evidence, part: Part) -> Iterator[str]:
    """What explains one part, each with what to do."""
    A = np.asarray(reference.forward(evidence.network, evidence.problem.X)[0][part.layer])
    parameter = evidence.network[part.layer].params[part.is_bias]
    is_output = part.layer == len(evidence.network) - 1
    D = _share_of_residual(evidence) if is_output else np.zeros((len(A), 0))
    letter = "b" if part.is_bias else "W"
    if part.found.shape != part.expected.shape:
        if not part.is_bias and _named(evidence, part._replace(found=part.found.T)) == "":
            yield "it is transposed; Xᵀ(Y − T) has W's shape (P, C)"
        elif part.is_bias and part.found.shape in ((len(A),), (len(A), 1)):
            yield f"it has shape {part.found.shape}: summed over the classes, axis 1; sum over the rows, axis 0"
        elif part.is_bias and part.found.shape == (len(A), part.expected.shape[1]):
            yield f"it has shape {part.found.shape}, a row for each row of X: sum over them, axis 0"
        elif part.is_bias and part.found.size == 1:
            yield "it is one number, summed over the rows and the classes; sum over the rows alone, axis 0"
        return
    if not part.found.any():
        also = ", or summed over the classes, where Y − T has sum 0" if part.is_bias and len(A) == part.found.size else ""
        yield f"it is 0 throughout: d{letter} is forgotten{also}"
        return
    if part.is_bias and len(A) == part.found.size and np.abs(part.found).max() < 1e-3 * part.rounding + 1e-12 * np.abs(D).max(initial=0):
        yield "it is summed over the classes, axis 1, where Y − T has sum 0; sum over the rows, axis 0"
        return
    named = _named(evidence, part)
    if named is not None:
        yield named
    error = part.found - part.expected
    if not part.is_bias:
        P, C = part.expected.shape
        if P == C and P > 1 and (said := _named(evidence, part, part.expected.T)) is not None:
            yield "it is transposed; return XᵀD, not DᵀX" + (said and f"; besides, {said}")
        reshaped = part.expected.T.reshape(P, C)
        if 1 < P != C > 1 and _fit(part, reshaped, 1.0):
            yield "it is DᵀX reshaped where it should be transposed"
        if is_output and len(A) == P and (said := _named(evidence, part, A @ D)) is not None:
            yield "it is XD where it should be XᵀD" + (said and f"; besides, {said}")
    yield from _places(evidence, part, error)
    shifted = part._replace(found=error, expected=np.zeros_like(error))
    l2 = _fit(shifted, np.where(np.isfinite(parameter), parameter, 0.0)) if error.size > 2 else None
    if l2:
        yield f"it has an l2 term that the loss has not: {l2:.6g}·{letter} is added"


def _named(evidence: Evidence, part: Part, predicted: np.ndarray | None = None) -> str | None:
    """What the factor means by which the prediction is what came."""
    factor = _fit(part, part.expected if predicted is None else predicted)
    return None if factor is None else _said_of_factor(evidence, factor)


def _places(evidence: Evidence, part: Part, error: np.ndarray) -> Iterator[str]:
    """An error in one entry, one class or one feature alone."""
    size = np.linalg.norm(error)
    is_output = part.layer == len(evidence.network) - 1
    columns, rows = ("class" if is_output else "unit"), ("feature" if part.layer == 0 else "unit of the layer before")
    limit = 1e-5 * size + part.rounding
    by_row, by_column = np.linalg.norm(error, axis=1), np.linalg.norm(error, axis=0)
    row, column = int(by_row.argmax()), int(by_column.argmax())
    one_row = len(by_row) > 1 and np.linalg.norm(np.delete(by_row, row)) <= limit
    one_column = len(by_column) > 1 and np.linalg.norm(np.delete(by_column, column)) <= limit
    if one_column and (one_row or len(by_row) == 1):
        where = f"[{row}, {column}]"
        yield f"one entry alone is wrong, {where}: {part.found[row, column]:.6g} where {part.expected[row, column]:.6g} is right"
    elif one_column:
        yield f"{columns} {column} alone is wrong, column {column} of {part.name}"
    elif one_row and len(by_column) > 1:
        yield f"{rows} {row} alone is wrong, row {row} of {part.name}"


# --- Words ---------------------------------------------------------------------------------------------------------


def _list(parts: list[Part]) -> str:
    names = [part.name for part in parts]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _either(said: list[str]) -> str | None:
    """All that explain it, which these data cannot tell apart; more than three explain nothing."""
    said = list(dict.fromkeys(said))
    if not 0 < len(said) <= 3:
        return None
    return " Or else, which these data cannot tell apart: ".join(said)
