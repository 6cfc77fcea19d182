r"""How far a fit is from the optimum, and the exact bias that makes it a certificate.

    F(W, b) − min F ≤ ‖∇_W‖² / (2·l2)        where ∇_b = 0

F is l2-strongly convex in W once b is minimised out, and a strongly convex function exceeds its minimum by at most
that. It is also the duality gap: the dual point Y = softmax(Z), feasible where Σ w(Y − T) = 0, which is ∇_b = 0, has
the value Σ w H(y_i) − ‖∇_W − l2·W‖²/(2·l2), and F less that is the right side.
"""

import jax
import jax.numpy as jnp
from jax import Array

from handgrad import objective
from handgrad.objective import Rows, product
from handgrad.shapes import Float
from handgrad.solvers.kronecker import factor_classes, reciprocal

BIAS_STEPS = 30


def gap(gradient: Float[Array, "K P+1 C"], l2: Float[Array, " K"]) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """‖∇_W‖²/(2·l2), infinite where l2 is 0, and ‖∇‖."""
    square = jnp.sum(gradient[:, :-1] ** 2, axis=(1, 2))
    bound = jnp.where(l2 > 0, square / (2 * jnp.where(l2 > 0, l2, 1)), jnp.inf)
    return bound, jnp.sqrt(square + jnp.sum(gradient[:, -1] ** 2, axis=1))


def rounding(rows: Rows, weights: Float[Array, "N K"], Z: Float[Array, "N K C"]) -> Float[Array, " K"]:
    """‖δ∇_W‖², about: what rounding makes of the gradient.

    A logit is known to u|Z|, u being half the spacing of numbers about 1, hence y to u·y(1 − y)|Z|, and to u·y by its
    own rounding; errors of different rows are independent:

        ‖δ∇_W‖² ≈ u² Σ_i w_i² ‖x_i‖² Σ_c (y + y(1 − y)|Z|)²_ic
    """
    _, Y = objective.losses(rows, Z)
    errors = jnp.sum((Y + Y * (1 - Y) * jnp.abs(Z)) ** 2, axis=2)
    sizes = jnp.sum(rows.X**2, axis=1)
    return (jnp.finfo(Z.dtype).eps / 2) ** 2 * jnp.sum(weights**2 * sizes[:, None] * errors, axis=0)


def minimise_bias(
    rows: Rows, weights: Float[Array, "N K"], V: Float[Array, "K P+1 C"], Z: Float[Array, "N K C"]
) -> tuple[Float[Array, "K P+1 C"], Float[Array, "N K C"]]:
    """V and its logits Z with b minimised exactly, by Newton's method on C numbers.

    The gradient in b is Σ w(Y − T), and its Hessian is G = Σ w (diag y − y yᵀ). It is factored once: the bias is near
    its minimum already, so that an old G only slows the convergence. A step that does not help is not taken.
    """
    g, U = factor_classes(weights, objective.losses(rows, Z)[1])

    def gradient(b):
        _, Y = objective.losses(rows, Z + b[None])
        return jnp.sum(objective.residual(rows, weights, Y), axis=0)

    def step(carry):
        b, db, size, _, count = carry
        new = b - product(U, (reciprocal(g) * product(db[:, None], U)[:, 0])[..., None])[..., 0]
        new = new - jnp.mean(new, axis=1, keepdims=True)  # G's eigenvalue 0, which would only collect rounding
        new_db = gradient(new)
        new_size = jnp.max(jnp.abs(new_db), axis=1)
        better = new_size < 0.9 * size
        b, db = (jnp.where(better[:, None], x, y) for x, y in ((new, b), (new_db, db)))
        return b, db, jnp.where(better, new_size, size), better, count + 1

    def moving(carry):
        return jnp.any(carry[3]) & (carry[4] < BIAS_STEPS)

    b = jnp.zeros_like(V[:, -1])
    db = gradient(b)
    size = jnp.max(jnp.abs(db), axis=1)
    b = jax.lax.while_loop(moving, step, (b, db, size, size > 0, jnp.zeros((), jnp.int32)))[0]
    return V.at[:, -1].add(b), Z + b[None]
