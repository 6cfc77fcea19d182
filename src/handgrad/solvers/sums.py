r"""What a solver asks of the rows: sums over them of a function of a block, given to `rows.sum`.

With Z = X'V the logits of K problems and w the weights of each, of sum 1,

    loss Σ w l        gradient X'ᵀD, D = w(Y − T)        g = Σ w y(1 − y)        A = Σ w x' x'ᵀ

Loss, gradient and g come from one reading of X, block by block, and nothing of size N×C is kept. The Hessian of the
mean loss is Σ_i w_i x_i x_iᵀ ⊗ (diag y_i − y_i y_iᵀ), near A ⊗ diag g where the two factors vary independently.

Each function takes a block, the block's targets and weights (n, F), what is `shared` (V and which column of the weights
each problem has) and a static argument.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from handgrad.formulas.by_row import losses, residual
from handgrad.rows import Block, library, product
from handgrad.shapes import Float

GROUP = 32  # rows, of which those with the largest scales are taken
PIECE = 2**18  # logits that NumPy makes a softmax of at once: in the cache it takes 16 ms, else 42


class Sums(NamedTuple):
    """Of K problems."""

    loss: Float[Any, " K"]
    gradient: Float[Any, "K P1 C"]
    g: Float[Any, "K C"]


def pieces(num_classes: int, num_rows: int) -> list[slice]:
    """Rows, so few at a time that their logits stay in the cache."""
    size = max(1, PIECE // num_classes)
    return [slice(start, start + size) for start in range(0, max(1, num_rows), size)]


def loss_and_gradient(block: Block, targets: Any, weights: Any, shared: Any, _: None) -> Sums:
    """The loss, its gradient, and the diagonal of G = Σ w (diag y − y yᵀ)."""
    xp, w = _weights(weights, shared[1])

    def of_rows(Z: Any, targets: Any, w: Any) -> tuple[Any, ...]:
        rows_loss, Y = losses(xp, Z, targets)
        return xp.sum(w * rows_loss), w[None] * residual(xp, Y, targets), product(Y * (1 - Y), w)

    def of_problem(Z: Any, w: Any) -> tuple[Any, ...]:
        if xp is not np or Z.size <= PIECE:
            return of_rows(Z, targets, w)
        loss, D, g = zip(*(of_rows(Z[:, rows], targets[rows], w[rows]) for rows in pieces(*Z.shape)), strict=True)
        return sum(loss), np.concatenate(D, axis=1), sum(g)

    loss, D, g = _each(of_problem, xp, block.times(shared[0]), w)
    return Sums(loss, block.transposed_times(D), g)


def feature_moment(block: Block, _targets: Any, weights: Any, _shared: Any, dense: bool) -> Any:
    """A with weights in the mean over the folds, or its diagonal."""
    w = weights.mean(axis=1)
    return block.second_moment(w) if dense else block.column_squares(w)


class ClassMoments(NamedTuple):
    """Of the block of the Hessian of each class, what single rows add and how much of A the others do."""

    moments: Float[Any, "C k1 k1"]
    level: Float[Any, " C"]


def class_moments(block: Block, targets: Any, weights: Any, shared: Any, part: int) -> ClassMoments:
    """Σ w y_c (1 − y_c) q qᵀ, q = Qᵀx', the block of the Hessian of each class, in a mean over the problems.

    A class takes one row in `part`, those with the largest w y_c (1 − y_c). Of the others each is taken to have their
    mean y_c (1 − y_c), and all rows together add that much of A, which is diagonal here: the rows of a rare category
    may all be among them, and would else seem to bend nothing. `shared` has for V a triple: V, how much each problem
    counts, and Q (P+1, k+1), the vectors of the blocks.
    """
    (V, shares, Q), fold = shared
    xp, w = _weights(weights, fold)

    def of_problem(Z: Any, w: Any, share: Any) -> Any:
        Y = losses(xp, Z, targets)[1]
        return share * w[None] * Y * (1 - Y)

    def of_class(scale: Any, rows: Any = None) -> Any:
        taken = q if rows is None else xp.take(q, rows, axis=0)
        return product(scale[None] * taken.T, taken)

    q = block.times(Q[None])[0].T.copy()  # whose rows are chosen, in one piece
    scales = xp.sum(_each(of_problem, xp, block.times(V), w, shares), axis=0)
    level, of_classes = xp.zeros_like(scales[:, 0]), (scales,)  # type: Any, tuple[Any, ...]
    if part > 1:
        total = product(shares[None], w)[0]
        rows, others = _largest(xp, scales, part)
        weight = product(others, total)
        mean = xp.sum(others * scales, axis=1) / xp.where(weight > 0, weight, 1)
        beyond = xp.take_along_axis(scales, rows, axis=1) - mean[:, None] * total[rows]
        level, of_classes = mean * xp.sum(total), (xp.maximum(beyond, 0), rows)
    if xp is np:
        return ClassMoments(np.stack([*map(of_class, *of_classes)]), level)
    return ClassMoments(jax.lax.map(lambda each: of_class(*each), of_classes), level)


def _largest(xp: Any, scales: Float[Any, "C n"], part: int) -> tuple[Any, Any]:
    """Of each class one row in `part`, those with the largest scales; and 1 for the others, 0 for these (C, n).

    In compiled programs those of each group of rows, which takes XLA's CPU a tenth of the time. Together they have 97 %
    of what the largest have.
    """
    C, n = scales.shape
    if xp is np:
        count, others = -(-n // part), np.ones_like(scales)
        rows = np.argpartition(scales, -count, axis=1)[:, -count:]
        np.put_along_axis(others, rows, 0, axis=1)
        return rows, others
    groups = -(-n // GROUP)
    size = -(-n // groups)
    places = np.arange(size, dtype=np.int32)[None, :, None]
    padded = jnp.pad(scales, ((0, 0), (0, groups * size - n)), constant_values=-1)

    def take(left: Any, _: None) -> tuple[Any, Any]:
        largest = jnp.max(left, axis=1, keepdims=True)
        place = jnp.min(jnp.where(left == largest, places, size - 1), axis=1, keepdims=True)
        rows = place[:, 0] * np.int32(groups) + np.arange(groups, dtype=np.int32)[None]
        return jnp.where(places == place, -1, left), rows

    left, rows = jax.lax.scan(take, padded.reshape(C, size, groups), length=-(-size // part))
    return rows.transpose(1, 0, 2).reshape(C, -1), (left.reshape(C, -1)[:, :n] >= 0).astype(scales.dtype)


def slopes(block: Block, targets: Any, weights: Any, shared: Any, _: None) -> Float[Any, "K M"]:
    """Σ w ⟨Y − T, Ż⟩, the slope of the mean loss along a line, at M points of it from one reading of X.

    `shared` has for V a triple: V, the direction and the points α. Logits are linear in the step, X'(V + αd) = Z + αŻ.
    """
    (V, direction, points), fold = shared
    xp, w = _weights(weights, fold)

    def of_problem(Z: Any, dZ: Any, w: Any, points: Any) -> Any:
        def slope(alpha: Any) -> Any:
            Y = losses(xp, Z + alpha * dZ, targets)[1]
            return xp.sum(w * xp.sum(residual(xp, Y, targets) * dZ, axis=0))

        return np.stack([slope(alpha) for alpha in points]) if xp is np else jax.lax.map(slope, points)

    return _each(of_problem, xp, block.times(V), block.times(direction), w, points)


def rounding(block: Block, targets: Any, weights: Any, shared: Any, _: None) -> Float[Any, " K"]:
    """‖δ∇_W‖², about: what rounding makes of the gradient.

    A logit is known to u|Z|, u being half the spacing of numbers about 1, hence y to u·y(1 − y)|Z|, and to u·y by its
    own rounding; errors of different rows are independent:

        ‖δ∇_W‖² ≈ u² Σ_i w_i² ‖x_i‖² Σ_c (y + y(1 − y)|Z|)²_ic
    """
    xp, w = _weights(weights, shared[1])
    sizes = block.row_squares()

    def of_problem(Z: Any, w: Any) -> Any:
        Y = losses(xp, Z, targets)[1]
        errors = xp.sum((Y + Y * (1 - Y) * abs(Z)) ** 2, axis=0)
        return (xp.finfo(Z.dtype).eps / 2) ** 2 * xp.sum(w**2 * sizes * errors)

    return _each(of_problem, xp, block.times(shared[0]), w)


def _weights(weights: Any, fold: Any) -> tuple[Any, Float[Any, "K n"]]:
    """The array library, and the weights of each problem."""
    xp = library(weights)
    if xp is np:
        # Without a copy of the weights of one problem.
        return xp, weights.T if weights.shape[1] == len(fold) == 1 else weights.T[fold]
    # Not gathered, which takes XLA's CPU as long as a softmax.
    chosen = (fold[:, None] == np.arange(weights.shape[1], dtype=fold.dtype)[None]).astype(weights.dtype)
    return xp, product(chosen, weights.T)


def _each(function: Any, xp: Any, *arrays: Any) -> Any:
    """The function of each problem's arrays, one after another in NumPy.

    One problem's are (C, n), and not (1, C, n), for which XLA's CPU takes a quarter more time.
    """
    if len(arrays[0]) == 1:
        return jax.tree.map(lambda result: result[None], function(*(array[0] for array in arrays)))
    if xp is np:
        return jax.tree.map(
            lambda *results: np.stack(results), *(function(*each) for each in zip(*arrays, strict=True))
        )
    return jax.vmap(function)(*arrays)
