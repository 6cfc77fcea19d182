"""The loss of each row and Y − T, for K problems at once and targets that are known to be right: what a solver sums.

Arrays are (K, C, n), with the classes before the rows, so that all operations run along the rows.
"""

from typing import Any

from handgrad.shapes import Float


def losses(xp: Any, Z: Float[Any, "K C n"], targets: Any) -> tuple[Float[Any, "K n"], Float[Any, "K C n"]]:
    """Each row's cross-entropy in each of K problems, and Y.

    Args:
      xp: the array library.
      Z: logits (K, C, n).
      targets: labels (n,), or distributions (n, C) whose rows sum to 1.
    """
    maximum = xp.max(Z, axis=1, keepdims=True)
    exponentials = xp.exp(Z - maximum)
    total = xp.sum(exponentials, axis=1, keepdims=True)
    # Σ T (m − Z) + log Σ exp(Z − m): no difference of large numbers where the target's logit is the largest.
    below = xp.sum(one_hot(xp, targets, Z.shape[1], Z.dtype)[None] * (maximum - Z), axis=1)
    return below + xp.log(total[:, 0]), exponentials / total


def residual(xp: Any, Y: Float[Any, "K C n"], targets: Any) -> Float[Any, "K C n"]:
    """Y − T."""
    return Y - one_hot(xp, targets, Y.shape[1], Y.dtype)[None]


def one_hot(xp: Any, targets: Any, num_classes: int, dtype: Any) -> Float[Any, "C n"]:
    """Tᵀ, of labels or of distributions."""
    if targets.ndim == 2:
        return targets.T
    classes = xp.arange(num_classes, dtype=targets.dtype)
    return xp.astype(targets[None, :] == classes[:, None], dtype)
