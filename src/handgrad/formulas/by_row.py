"""The loss of each row and Y − T, for targets that are known to be right: what a solver sums.

Arrays are (C, n), with the classes before the rows, so that all operations run along the rows.
"""

from typing import Any

from handgrad.shapes import Float


def losses(xp: Any, Z: Float[Any, "C n"], targets: Any) -> tuple[Float[Any, " n"], Float[Any, "C n"]]:
    """Each row's cross-entropy, and Y.

    Args:
      xp: the array library.
      Z: logits (C, n).
      targets: labels (n,), or distributions (n, C) whose rows sum to 1.
    """
    maximum = xp.max(Z, axis=0, keepdims=True)
    exponentials = xp.exp(Z - maximum)
    total = xp.sum(exponentials, axis=0, keepdims=True)
    # Σ T (m − Z) + log Σ exp(Z − m): no difference of large numbers where the target's logit is the largest.
    below = xp.sum(one_hot(xp, targets, len(Z), Z.dtype) * (maximum - Z), axis=0)
    return below + xp.log(total[0]), exponentials / total


def residual(xp: Any, Y: Float[Any, "C n"], targets: Any) -> Float[Any, "C n"]:
    """Y − T."""
    return Y - one_hot(xp, targets, len(Y), Y.dtype)


def one_hot(xp: Any, targets: Any, num_classes: int, dtype: Any) -> Float[Any, "C n"]:
    """T, of labels or of distributions."""
    if targets.ndim == 2:
        return targets.T
    classes = xp.arange(num_classes, dtype=targets.dtype)
    return (targets[None, :] == classes[:, None]).astype(dtype)
