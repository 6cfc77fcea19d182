"""A gradient that is wrong, what it should be, and when a formula explains it."""

from collections.abc import Iterator
from typing import NamedTuple

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
        """The norm of what is wrong."""
        return float(np.linalg.norm(self.found - self.expected))

    @property
    def is_wrong(self) -> bool:
        """Whether the error lies so far outside rounding that formulas can be told apart."""
        return self.error > 30 * self.rounding


def parts_of(evidence: Evidence) -> Iterator[Part]:
    """The parts dW and db, layer by layer."""
    for layer, names in enumerate(evidence.names):
        for name, of in zip(names, Params._fields, strict=True):
            found, expected, tolerance = (
                np.asarray(getattr(every[layer], of))
                for every in (evidence.found, evidence.expected, evidence.tolerance)
            )
            yield Part(f"d{name}", layer, of == "b", found, expected, float(np.linalg.norm(tolerance)))


def fit(part: Part, predicted: np.ndarray, factor: float | None = None) -> float | None:
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
        (float(C), "C", "multiplied by the number of classes"),
        (1 / C, "1/C", "the mean is taken over the classes too; divide by N alone"),
        (float(P), "P", "multiplied by the number of features"),
        (1 / P, "1/P", "divided by the number of features"),
    ]
    if evidence.weights is None:
        sizes.insert(0, (float(N), "N", "a sum over the rows where it should be their mean; divide by N"))
        sizes.insert(1, (1 / N, "1/N", "divided by N twice"))
    else:
        sizes.insert(0, (total, "sum(w)", "the weights are not normalised; divide by sum(w)"))
        sizes.insert(1, (total / N, "sum(w)/N", "divided by N; divide by sum(w)"))
        sizes.append((float(N), "N", "multiplied by N"))
        sizes.insert(2, (1 / total, "1/sum(w)", "divided by sum(w) twice"))
    return [size for size in sizes if size[0] != 1]


def said_of_factor(evidence: Evidence, factor: float) -> str | None:
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
    names = " = ".join(dict.fromkeys([f"{abs(factor):.6g}", *meanings]))
    size = f"{names} times what is right: {', or '.join(meanings.values())}"
    return f"{sign}, and {size}" if sign else size


def softmax(Z: np.ndarray, axis: int = 1) -> np.ndarray:
    """Y, or with axis 0 what it becomes by mistake."""
    exponentials = np.exp(Z - Z.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def right_residual(evidence: Evidence) -> np.ndarray:
    """D = dL/dZ of the last layer."""
    problem = evidence.problem
    return problem.share[:, None] * (softmax(inputs_and_logits(evidence)[1]) - problem.T)


def inputs_and_logits(evidence: Evidence, layer: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """What a layer gets, the last if none is named, and its Z."""
    inputs, logits = reference.forward(evidence.network, evidence.problem.X)
    return np.asarray(inputs[layer]), np.asarray(logits[layer])


def either(said: list[str]) -> str | None:
    """All that explain it, which these data cannot tell apart; more than three explain nothing."""
    said = list(dict.fromkeys(said))
    if not 0 < len(said) <= 3:
        return None
    return " Or else, which these data cannot tell apart: ".join(said)
