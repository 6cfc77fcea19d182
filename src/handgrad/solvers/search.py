r"""The line search on cached logits.

Logits are linear in the step, X(V + αd) = Z + αŻ, so a trial costs O(NC) and no product:

    φ(α) = F(V + αd)        φ′(α) = ⟨D, Ż⟩ + l2·⟨W + αẆ, Ẇ⟩        D = w (softmax(Z + αŻ) − T)

φ is convex. A step is taken if the slope there has shrunk to between −0.9 and 0.5 of what it was and the loss has not
risen by more than rounding: the slope decides, since near the optimum the loss no longer shows a difference. The next
trial is where the secant of the slopes crosses 0, held inside the bracket.

Reference: Hager and Zhang, *A new conjugate gradient method with guaranteed descent* (2005), section 4.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from handgrad import objective
from handgrad.objective import Rows
from handgrad.shapes import Bool, Float, Int

TRIALS = 20


class Step(NamedTuple):
    """What the search found in each lane: α, F and D there, and whether it is a step at all."""

    alpha: Float[Array, " K"]
    loss: Float[Array, " K"]
    D: Float[Array, "N K C"]
    found: Bool[Array, " K"]


class _Bracket(NamedTuple):
    step: Step
    following: Float[Array, " K"]
    low: Float[Array, " K"]
    low_slope: Float[Array, " K"]
    high: Float[Array, " K"]
    high_slope: Float[Array, " K"]
    trials: Int[Array, ""]


def search(
    rows: Rows,
    weights: Float[Array, "N K"],
    l2: Float[Array, " K"],
    at: tuple[Float[Array, "K P+1 C"], Float[Array, "N K C"], Float[Array, " K"]],
    along: tuple[Float[Array, "K P+1 C"], Float[Array, "N K C"], Float[Array, " K"]],
) -> Step:
    """The step of each lane from V, its logits Z and its loss, along d, its Ż and the slope."""
    (V, Z, start_loss), (d, dZ, slope) = at, along
    W, dW = V[:, :-1], d[:, :-1]
    square, linear, constant = (l2 * jnp.sum(a * b, axis=(1, 2)) for a, b in ((dW, dW), (W, dW), (W, W)))
    slack = 8 * jnp.finfo(slope.dtype).eps * jnp.abs(start_loss)
    zero = jnp.zeros_like(slope)
    downhill = slope < 0

    def trial(bracket):
        alpha = jnp.where(bracket.step.found, bracket.step.alpha, bracket.following)
        rows_loss, Y = objective.losses(rows, Z + alpha[None, :, None] * dZ)
        D = objective.residual(rows, weights, Y)
        loss = jnp.sum(weights * rows_loss, axis=0) + constant / 2 + alpha * (linear + alpha / 2 * square)
        first = jnp.sum(D * dZ, axis=(0, 2)) + linear + alpha * square
        risen = ~(loss <= start_loss + slack)
        found = bracket.step.found | ((first >= 0.9 * slope) & (first <= -0.5 * slope) & ~risen)
        return _narrow(bracket, Step(alpha, loss, D, found), first, risen | (first > 0), slope)

    def searching(bracket):
        return ~jnp.all(bracket.step.found | ~downhill) & (bracket.trials < TRIALS)

    nothing = Step(zero, start_loss, jnp.zeros_like(dZ), ~downhill)
    bracket = _Bracket(nothing, zero + 1, zero, slope, zero + jnp.inf, zero, jnp.zeros((), jnp.int32))
    step = jax.lax.while_loop(searching, trial, bracket).step
    return step._replace(found=step.found & downhill)


def _narrow(bracket: _Bracket, step: Step, first: Array, rising: Array, slope: Array) -> _Bracket:
    """The bracket after a trial, and the next one."""
    low, low_slope = jnp.where(rising, bracket.low, step.alpha), jnp.where(rising, bracket.low_slope, first)
    high, high_slope = jnp.where(rising, step.alpha, bracket.high), jnp.where(rising, first, bracket.high_slope)
    closed = jnp.isfinite(high)
    # Where nothing has risen yet the secant is that from 0 to here.
    left, left_slope = jnp.where(closed, low, 0), jnp.where(closed, low_slope, slope)
    right, right_slope = jnp.where(closed, high, step.alpha), jnp.where(closed, high_slope, first)
    secant = left - left_slope * (right - left) / (right_slope - left_slope)
    least = jnp.where(closed, low + 0.1 * (high - low), 1.5 * step.alpha)
    most = jnp.where(closed, high - 0.1 * (high - low), 10 * step.alpha)
    following = jnp.where(jnp.isfinite(secant), jnp.clip(secant, least, most), (least + most) / 2)
    return _Bracket(step, following, low, low_slope, high, high_slope, bracket.trials + 1)
