"""The line search of a lane, on the host: which trials along a line are taken, and where the next one is.

With φ(α) = F(V + α·step), a trial is taken if the slope has shrunk to between −0.5 and 0.9 of φ′(0) and the loss has
not risen by more than rounding: the slope decides, since near the optimum the loss no longer shows a difference. The
whole step is tried first, or where steps have become short a short one; the next trial is where the secant of the
slopes crosses 0, held inside the bracket, φ being convex. Where that fails twice the slopes at many points of the line
are taken from one reading of X, and the trial is where they cross 0.

A first step from far away, of which a rough preconditioner does not say how long it should be, is such a line from the
beginning. It may be a hundred times too long and yet end where φ is lower and flat, each row being sure of some class:
from there counts of words took 467 passes, or never arrived, and 36 from where φ is least.

Reference: Hager and Zhang, *A new conjugate gradient method with guaranteed descent* (2005), section 4.
"""

import math

import numpy as np

from handgrad.shapes import Float

TRIALS = 20
REJECTED = 2  # trials before the slopes are taken at many points
POINTS = 12
SHORT = 0.6  # a step after which the next is not tried whole,
GROWTH = 2  # but this many times as long


class Line:
    """A line along which φ falls at first, and the bracket in which it has its minimum."""

    def __init__(self, loss: float, slope: float, alpha: float, *, is_unscaled: bool = False):
        self.is_unscaled = is_unscaled  # how long the whole step should be nobody knows
        self.loss, self.slope, self.alpha = loss, slope, alpha
        self.low, self.low_slope = 0.0, slope
        self.high, self.high_slope = math.inf, math.nan
        self.rejected = 0

    def accepts(self, loss: float, slope: float, eps: float) -> bool:
        """Whether the trial is taken; where it is not, `alpha` is the next one."""
        risen = not loss <= self.loss + noise(self.loss, eps)
        if 0.9 * self.slope <= slope <= -0.5 * self.slope and not risen:
            return True
        self.rejected += 1
        alpha, closed = self.alpha, math.isfinite(self.high)
        if risen or not slope <= 0:
            self.high, self.high_slope, closed = alpha, slope, True
        else:
            self.low, self.low_slope = alpha, slope
        if closed:
            secant = _crossing(self.low, self.low_slope, self.high, self.high_slope)
            tenth = 0.1 * (self.high - self.low)
            least, most = self.low + tenth, self.high - tenth
        else:  # nothing has risen yet: the secant is that from 0 to here
            secant = _crossing(0.0, self.slope, alpha, slope)
            least, most = 1.5 * alpha, 10 * alpha
        self.alpha = min(max(secant, least), most) if math.isfinite(secant) else (least + most) / 2
        if closed and self.high - self.low <= eps * self.high:  # as points of the dtype they are one
            self.rejected = TRIALS
        return False

    @property
    def is_lost(self) -> bool:
        """Whether there is no use in going on."""
        return not self.slope < 0 or self.rejected >= TRIALS

    @property
    def is_hard(self) -> bool:
        """Whether the slopes at many points are worth a reading of X."""
        return self.is_unscaled or self.rejected >= REJECTED

    def points(self) -> Float[np.ndarray, " M"]:
        """Points of the line: inside the bracket, however near to 0 the step may be, or ever further out, or both."""
        j = np.arange(1, POINTS + 1)
        if self.is_unscaled:
            return 10.0 ** (j / 2 - 5)
        if not math.isfinite(self.high):
            return max(self.low, 1.0) * 2.0**j
        if self.low > 0:
            return self.low * (self.high / self.low) ** (j / (POINTS + 1))
        return self.high * 10.0 ** (-j[::-1] / 2)

    def choose(self, points: Float[np.ndarray, " M"], slopes: Float[np.ndarray, " M"]) -> None:
        """The bracket and the trial that the slopes at these points leave."""
        self.is_unscaled = False
        for point, slope in zip(points.tolist(), slopes.tolist(), strict=True):
            if slope <= 0:
                self.low, self.low_slope = point, slope
            else:
                self.high, self.high_slope = point, slope
                break
        if not math.isfinite(self.high):
            self.alpha = 2 * self.low
            return
        secant = _crossing(self.low, self.low_slope, self.high, self.high_slope)
        self.alpha = secant if self.low < secant < self.high else (self.low + self.high) / 2

    def following(self) -> float:
        """The first trial of the line after this one, the trial here having been taken."""
        return 1.0 if self.alpha > SHORT else GROWTH * self.alpha


def noise(loss: float, eps: float) -> float:
    """By how much rounding may change a loss: each row's, log(1 + …), is known to a part of 1, however small it is."""
    return eps * (8 * abs(loss) + 1)


def _crossing(left: float, left_slope: float, right: float, right_slope: float) -> float:
    """Where the secant of the slopes is 0; NaN where it is nowhere."""
    rise = right_slope - left_slope
    return left - left_slope * (right - left) / rise if rise else math.nan
