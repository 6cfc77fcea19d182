"""The penalty of a fit, as a value: all that a solver and a proof need to know of it."""

from typing import Any, NamedTuple

from handgrad.rows import inner
from handgrad.shapes import Float


class L2(NamedTuple):
    """(l2/2)‖W‖² for each of K problems, in JAX's arrays or NumPy's. The bias is not penalised."""

    strength: Float[Any, " K"]

    def value(self, W: Float[Any, "K P C"]) -> Float[Any, " K"]:
        """(l2/2)‖W‖²."""
        return self.strength / 2 * inner(W, W)

    def gradient(self, W: Float[Any, "K P C"]) -> Float[Any, "K P C"]:
        """l2·W."""
        return self.strength[:, None, None] * W

    def along(self, W: Float[Any, "K P C"], dW: Float[Any, "K P C"]) -> tuple[Float[Any, " K"], Float[Any, " K"]]:
        """The slope of (l2/2)‖W + α·dW‖² at α = 0, and by how much it grows with α."""
        return self.strength * inner(W, dW), self.strength * inner(dW, dW)

    def curvature(self) -> Float[Any, " K"]:
        """l2, the second derivative in every entry of W."""
        return self.strength

    def distance(self, gradient: Float[Any, "K P C"]) -> Float[Any, " K"]:
        """How far the gradient of F, dW + l2·W with dW that of the loss, is from 0: its norm."""
        return inner(gradient, gradient) ** 0.5

    def gap(self, distance: Float[Any, " K"]) -> Float[Any, " K"]:
        """A bound on F − min F at that distance, F being l2-strongly convex in W: distance²/(2·l2); NaN or ∞ at 0."""
        return distance**2 / (2 * self.strength)
