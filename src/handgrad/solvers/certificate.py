r"""How far a fit is from the optimum, and the exact bias that makes it a certificate.

    F(W, b) − min F ≤ ‖∇_W‖² / (2·l2)        where ∇_b = 0

F is l2-strongly convex in W once b is minimised out, and a strongly convex function exceeds its minimum by at most
that. It is also the duality gap: the dual point Y = softmax(Z), feasible where Σ w(Y − T) = 0, which is ∇_b = 0, has
the value Σ w H(y_i) − ‖∇_W − l2·W‖²/(2·l2), and F less that is the right side.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from handgrad import objective
from handgrad.objective import Rows

BIAS_STEPS = 30


def gap(gradient: Float[Array, "K P+1 C"], l2: Float[Array, " K"]) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """‖∇_W‖²/(2·l2), infinite where l2 is 0, and ‖∇‖."""
    square = jnp.sum(gradient[:, :-1] ** 2, axis=(1, 2))
    bound = jnp.where(l2 > 0, square / (2 * jnp.where(l2 > 0, l2, 1)), jnp.inf)
    return bound, jnp.sqrt(square + jnp.sum(gradient[:, -1] ** 2, axis=1))


def minimise_bias(
    rows: Rows, weights: Float[Array, "N K"], V: Float[Array, "K P+1 C"], Z: Float[Array, "N K C"], chosen: Bool[Array, " K"]
) -> tuple[Float[Array, "K P+1 C"], Float[Array, "N K C"]]:
    """V and its logits Z with b minimised exactly in the chosen lanes, by Newton's method on C numbers.

    The gradient in b is Σ w(Y − T), and its Hessian is G = Σ w (diag y − y yᵀ). It is factored once: the bias is near
    its minimum already, so the error of G does no more than slow the convergence.
    """
    _, Y = objective.losses(rows, Z)
    g, U = jnp.linalg.eigh(objective.class_curvature(weights, Y))
    floor = g.shape[1] * jnp.finfo(g.dtype).eps * g[:, -1:]
    inverse = jnp.where(g > floor, 1 / jnp.where(g > floor, g, 1), 0)

    def gradient(b):
        _, Y = objective.losses(rows, Z + b[None])
        return jnp.sum(objective.residual(rows, weights, Y), axis=0)

    def step(carry):
        b, db, size, _, count = carry
        new = b - jnp.einsum("kcd,kd->kc", U, inverse * jnp.einsum("kcd,kc->kd", U, db))
        new_db = gradient(new)
        new_size = jnp.max(jnp.abs(new_db), axis=1)
        better = chosen & (new_size < 0.9 * size)
        b, db = (jnp.where(better[:, None], x, y) for x, y in ((new, b), (new_db, db)))
        return b, db, jnp.where(better, new_size, size), better, count + 1

    def moving(carry):
        return jnp.any(carry[3]) & (carry[4] < BIAS_STEPS)

    b = jnp.zeros_like(V[:, -1])
    db = gradient(b)
    b = jax.lax.while_loop(moving, step, (b, db, jnp.max(jnp.abs(db), axis=1), chosen, jnp.zeros((), jnp.int32)))[0]
    return V.at[:, -1].add(b), Z + b[None]
