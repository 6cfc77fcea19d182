r"""What is wrong with a gradient, where that can be seen: each kind of mistake is a formula, compared with what came.

A mistake in dL/dZ, which is (Y − T)/N, passes into every layer's gradient; each of `_residuals` is such a formula, and
`reference.pull_back` says what it makes of dW and db. The others are seen in dW or db alone. A formula explains what
came if it leaves a hundred-thousandth of the error, or what is due to rounding. Where several do, all are named; where
none does, only the place of the largest error.
"""

from collections.abc import Iterator

import numpy as np

from handgrad import reference
from handgrad.check.alone import alone
from handgrad.check.evidence import (
    Evidence,
    Part,
    either,
    fit,
    inputs_and_logits,
    parts_of,
    right_residual,
    said_of_factor,
    softmax,
)


def explain(evidence: Evidence) -> str | None:
    """One sentence or more on what is wrong and what to do, or None where nothing can be said."""
    with np.errstate(all="ignore"):
        parts = list(parts_of(evidence))
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
        return " ".join(alone(evidence, part) for part in parts if part in misshapen or part.is_wrong)


# --- Mistakes in dL/dZ ---------------------------------------------------------------------------------------------


def _residuals(evidence: Evidence) -> Iterator[tuple[str, np.ndarray]]:
    """Each mistake in dL/dZ, and what dL/dZ is then."""
    problem, layer = evidence.problem, evidence.network[-1]
    A, Z = inputs_and_logits(evidence)
    Y, T, share = softmax(Z), problem.T, problem.share[:, None]
    yield "", share * (Y - T)
    yield "T is not subtracted: Y − T", share * Y
    yield "Y is left out of Y − T", -share * T
    yield "the labels are shifted, t + 1 stands for t", share * (Y - np.roll(T, 1, axis=1))
    yield "the labels are shifted, t − 1 stands for t", share * (Y - np.roll(T, -1, axis=1))
    yield "the softmax goes over the rows: take it over axis 1, the classes", share * (softmax(Z, axis=0) - T)
    yield "the logits stand where the probabilities should: take their softmax", share * (Z - T)
    yield "each class has a sigmoid where the softmax should be", share * (1 / (1 + np.exp(-Z)) - T)
    yield "the softmax is taken twice, of the probabilities too", share * (softmax(Y) - T)
    if Z.shape[1] > 2:
        yield "the classes stand in reverse order", share * (Y - T)[:, ::-1]
    yield "exp(Z) is not divided by its sum over the classes", share * (np.exp(Z) - T)
    yield "the bias is not in the logits: Z = XW + b", share * (softmax(A @ layer.params.W) - T)
    if A.shape[1] == Z.shape[1]:
        yield (
            "the logits are those of the transposed W: Z = XW + b",
            share * (softmax(A @ layer.params.W.T + layer.params.b) - T),
        )
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
    besides: list[str] = []  # two mistakes at once explain less well than one
    for meaning, D in _residuals(evidence):
        predicted = _pull_back(evidence, D)
        factors = [
            factor for part, array in zip(parts, predicted, strict=True) if (factor := fit(part, array)) is not None
        ]
        if len(factors) < len(parts) or not any(factors):
            continue
        if not meaning:
            if all(said_of_factor(evidence, factor) is not None for factor in factors):
                said.append(_of_factors(evidence, parts, factors))
            elif np.ptp(factors) <= 1e-6 * abs(factors[0]):
                return f"{_list(parts)}: each entry is {factors[0]:.6g} times what is right."
            continue
        scaled = said_of_factor(evidence, factors[0]) if np.ptp(factors) <= 1e-6 * abs(factors[0]) else None
        if scaled is not None:
            (besides if scaled else said).append(f"{_list(parts)}: {meaning}{scaled and '; besides, '}{scaled}.")
    said += [f"{_list(parts)}: {meaning}." for meaning in (*_one_row(evidence, parts), *_no_slope(evidence, parts))]
    return either(said or besides)


def _pull_back(evidence: Evidence, D: np.ndarray) -> list[np.ndarray]:
    if not np.isfinite(D).all():
        return [np.zeros(0)] * 2 * len(evidence.network)
    layers = reference.pull_back(evidence.network, evidence.problem.X, D)
    return [np.asarray(array) for layer in layers for array in layer]


def _of_factors(evidence: Evidence, parts: list[Part], factors: list[float]) -> str:
    groups: dict[str, list[Part]] = {}
    for part, factor in zip(parts, factors, strict=True):
        if part.is_wrong:
            groups.setdefault(said_of_factor(evidence, factor) or "it is right", []).append(part)
    return " ".join(f"{_list(own)}: {meaning}." for meaning, own in groups.items())


def _one_row(evidence: Evidence, parts: list[Part]) -> Iterator[str]:
    """Row i of dL/dZ left out adds −D_i to db and −x_i D_iᵀ to dW; counted twice, the opposite."""
    D, db = right_residual(evidence), parts[-1]
    own = evidence.problem.share[:, None] * np.ones_like(D)
    none = np.zeros_like(own)
    kinds = {
        "row {} is left out": (none, -1.0),
        "row {} is left out, and the others' sum divided by what remains of N or sum(w)": (-own, -1.0),
        "row {} is counted twice": (none, 1.0),
        "row {} is counted twice, and the sum divided by as much more": (own, 1.0),
    }
    for meaning, (change, sign) in kinds.items():
        left = np.linalg.norm((1 + change) * db.found - db.expected - sign * D, axis=1)
        size = np.linalg.norm(D, axis=1)
        # A row of D = 0 changes nothing.
        near = np.flatnonzero((left <= 1e-5 * size + 2 * db.rounding) & (size > 30 * db.rounding))[:8].tolist()
        rows = [row for row in near if _explains(evidence, parts, D, row, sign * D[row], 1 + change[row, 0])]
        if len(rows) == 1:
            yield meaning.format(rows[0])
            return
    delta = (db.found - db.expected)[0]
    A, _ = inputs_and_logits(evidence)
    if min(A.shape[1], D.shape[1] - 1) >= 2 and np.linalg.norm(delta) > 30 * db.rounding:
        x = (parts[-2].found - parts[-2].expected) @ delta / (delta @ delta)
        row = int(np.abs(A - x).max(axis=1).argmin())
        if _explains(evidence, parts, D, row, delta, 1.0):
            yield f"row {row} alone is wrong"


def _explains(evidence: Evidence, parts: list[Part], D: np.ndarray, row: int, delta: np.ndarray, scale: float) -> bool:
    changed = D.copy()
    changed[row] += delta
    predicted = _pull_back(evidence, changed)
    return all(fit(part, array / scale, 1.0) is not None for part, array in zip(parts, predicted, strict=True))


def _no_slope(evidence: Evidence, parts: list[Part]) -> Iterator[str]:
    """δ_l = (δ_{l+1} W_{l+1}ᵀ) ∘ f′(Z_l), without its last factor."""
    if len(evidence.network) == 1:
        return
    G = right_residual(evidence)
    predicted: list[np.ndarray] = []
    for number in reversed(range(len(evidence.network))):
        A, _ = inputs_and_logits(evidence, number)
        predicted = [A.T @ G, G.sum(axis=0, keepdims=True), *predicted]
        G = G @ evidence.network[number].params.W.T
    if all(fit(part, array, 1.0) is not None for part, array in zip(parts, predicted, strict=True)):
        yield "the non-linearities' derivatives are left out: δ_l = (δ_{l+1} W_{l+1}ᵀ) ∘ f′(Z_l)"


# --- Words ---------------------------------------------------------------------------------------------------------


def _list(parts: list[Part]) -> str:
    names = [part.name for part in parts]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
