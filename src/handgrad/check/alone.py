"""Mistakes that are seen in dW or db of one layer alone."""

from collections.abc import Iterator

import numpy as np

from handgrad.check.evidence import Evidence, Part, either, fit, inputs_and_logits, right_residual, said_of_factor


def alone(evidence: Evidence, part: Part) -> str:
    """What is wrong with one part: its kind, or else where the largest error is."""
    said = [f"{part.name}: {meaning}." for meaning in _mistakes(evidence, part)]
    if explained := either(said):
        return explained
    if part.found.shape != part.expected.shape:
        return f"{part.name} must have shape {part.expected.shape}; got {part.found.shape}."
    factor = fit(part, part.expected)
    if factor is not None:
        return f"{part.name}: each entry is {factor:.6g} times what is right."
    index = np.unravel_index(np.abs(part.found - part.expected).argmax(), part.found.shape)
    place = ", ".join(str(int(number)) for number in index)
    return (
        f"{part.name}: no simple mistake explains it; the largest error is at [{place}], {part.found[index]:.6g} where "
        f"{part.expected[index]:.6g} is right."
    )


def _mistakes(evidence: Evidence, part: Part) -> Iterator[str]:
    """What explains one part, each with what to do."""
    if part.found.shape != part.expected.shape:
        yield from _shapes(evidence, part)
    elif not part.found.any():
        also = " or summed over the classes, where Y − T has sum 0" if _could_be_by_row(evidence, part) else ""
        yield f"0 throughout: it is forgotten{also and ','}{also}"
    elif _could_be_by_row(evidence, part) and np.abs(part.found).max() <= part.rounding:
        yield "summed over the classes, axis 1, where Y − T has sum 0; sum over the rows, axis 0"
    else:
        named = _named(evidence, part)
        if named is not None:
            yield named
        if not part.is_bias:
            yield from _layouts(evidence, part)
        yield from _places(evidence, part)
        yield from _l2(evidence, part)


def _could_be_by_row(evidence: Evidence, part: Part) -> bool:
    return part.is_bias and len(evidence.problem.X) == part.found.size and part.layer == len(evidence.network) - 1


def _shapes(evidence: Evidence, part: Part) -> Iterator[str]:
    found, N, C = part.found, len(evidence.problem.X), part.expected.shape[1]
    if not part.is_bias:
        said = _named(evidence, part._replace(found=found.T))
        if said is not None:
            yield "transposed; XᵀD has W's shape (P, C)" + (said and f"; besides, {said}")
    elif found.shape in ((N,), (N, 1)):
        yield f"of shape {found.shape}, summed over the classes, axis 1; sum over the rows, axis 0"
    elif found.shape == (N, C):
        yield f"of shape {found.shape}, a row for each row of X: sum over them, axis 0"
    elif found.size == 1:
        yield "one number, summed over the rows and the classes; sum over the rows alone, axis 0"


def _layouts(evidence: Evidence, part: Part) -> Iterator[str]:
    P, C = part.expected.shape
    if P == C > 1 and (said := _named(evidence, part, part.expected.T)) is not None:
        yield "transposed; it is XᵀD, not DᵀX" + (said and f"; besides, {said}")
    if 1 < P != C > 1 and fit(part, part.expected.T.reshape(P, C), 1.0):
        yield "DᵀX reshaped where it should be transposed"
    if part.layer == len(evidence.network) - 1 and len(evidence.problem.X) == P:
        A, _ = inputs_and_logits(evidence)
        if (said := _named(evidence, part, A @ right_residual(evidence))) is not None:
            yield "XD where it should be XᵀD" + (said and f"; besides, {said}")


def _l2(evidence: Evidence, part: Part) -> Iterator[str]:
    values = evidence.network[part.layer].params[part.is_bias]
    error = part.found - part.expected
    added = part._replace(found=error, expected=np.zeros_like(error))
    # Two numbers of sum 0 are a multiple of any other two.
    factor = fit(added, np.where(np.isfinite(values), values, 0.0)) if error.size > 2 else None
    if factor:
        yield f"{factor:.6g}·{'b' if part.is_bias else 'W'} is added: an l2 term, which the loss has not"


def _named(evidence: Evidence, part: Part, predicted: np.ndarray | None = None) -> str | None:
    """What the factor means by which the prediction is what came."""
    factor = fit(part, part.expected if predicted is None else predicted)
    return None if factor is None else said_of_factor(evidence, factor)


def _places(evidence: Evidence, part: Part) -> Iterator[str]:
    """An error in one entry, one class or one feature alone."""
    error = part.found - part.expected
    size = np.linalg.norm(error)
    is_output = part.layer == len(evidence.network) - 1
    columns, rows = ("class" if is_output else "unit"), ("feature" if part.layer == 0 else "unit of the layer before")
    limit = 1e-5 * size + part.rounding
    by_row, by_column = np.linalg.norm(error, axis=1), np.linalg.norm(error, axis=0)
    row, column = int(by_row.argmax()), int(by_column.argmax())
    one_row = len(by_row) > 1 and np.linalg.norm(np.delete(by_row, row)) <= limit
    one_column = len(by_column) > 1 and np.linalg.norm(np.delete(by_column, column)) <= limit
    if one_column and (one_row or len(by_row) == 1):
        found, expected = part.found[row, column], part.expected[row, column]
        yield f"one entry alone is wrong, [{row}, {column}]: {found:.6g} where {expected:.6g} is right"
    elif one_column:
        yield f"{columns} {column} alone is wrong, column {column} of {part.name}"
    elif one_row and len(by_column) > 1:
        yield f"{rows} {row} alone is wrong, row {row} of {part.name}"
