r"""The preconditioner: the Hessian with its two factors taken as independent, inverted in their eigenbases.

The Hessian of the mean loss is Σ_i w_i x_i x_iᵀ ⊗ (diag y_i − y_i y_iᵀ). Where what x is says little about how sure y
is, that is near

    A ⊗ G        A = Σ w x xᵀ        G = Σ w (diag y − y yᵀ)

and with A = Q diag(a) Qᵀ, G = U diag(g) Uᵀ the inverse of A ⊗ G + l2·I divides by a_p g_c + l2 in the basis
(Q e_p) ⊗ (U e_c). Features of any scale and correlation then cost a solver no iterations. A is taken once, G renewed.
A solver that keeps its gradients in the basis of Q pays two products P×P×C an iteration for it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from handgrad import objective
from handgrad.objective import Rows, product
from handgrad.shapes import Float


class Curvature(NamedTuple):
    """A = Q diag(a) Qᵀ, shared by the lanes, and each lane's G = U diag(g) Uᵀ. Q is None where A's diagonal serves."""

    a: Float[Array, " P+1"]
    Q: Float[Array, "P+1 P+1"] | None
    g: Float[Array, "K C"]
    U: Float[Array, "K C C"]

    def rotate(self, V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
        """V in the eigenbasis of A: QᵀV."""
        return V if self.Q is None else product(self.Q.T, V)

    def rotate_back(self, V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
        """V from the eigenbasis of A: QV."""
        return V if self.Q is None else product(self.Q, V)


def precondition(curvature: Curvature, l2: Float[Array, " K"], V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
    """(A ⊗ G + l2·I)⁻¹ V, for V in the eigenbasis of A.

    Where an eigenvalue is 0 the inverse is the pseudo-inverse. Adding a constant to all logits of a row changes
    nothing: the mean over the classes, which would only collect rounding, is taken off.
    """
    a, _, g, U = curvature
    penalised = (jnp.arange(a.shape[0]) < a.shape[0] - 1).astype(a.dtype)  # all but the bias
    eigenvalues = a[None, :, None] * g[:, None] + l2[:, None, None] * penalised[None, :, None]
    V = product(reciprocal(eigenvalues) * product(V, U), U.mT)
    return V - jnp.mean(V, axis=2, keepdims=True)


def factor_features(rows: Rows, weights: Float[Array, " N"], lanes: int, C: int, *, dense: bool) -> Curvature:
    """The curvature with A's part in place and G's still empty."""
    g, U = jnp.zeros((lanes, C), weights.dtype), jnp.zeros((lanes, C, C), weights.dtype)
    if not dense:
        return Curvature(product(weights[None], rows.X**2)[0], None, g, U)
    # The column of ones is orthogonal to the features, which are centred, and stays the last.
    a, Q = jnp.linalg.eigh(objective.feature_curvature(rows, weights)[:-1, :-1])
    one = jnp.ones((1, 1), a.dtype)
    return Curvature(jnp.append(jnp.maximum(a, 0), one[0]), jax.scipy.linalg.block_diag(Q, one), g, U)


def factor_classes(
    rows: Rows, weights: Float[Array, "N K"], Z: Float[Array, "N K C"]
) -> tuple[Float[Array, "K C"], Float[Array, "K C C"]]:
    """Eigenvalues and eigenvectors of each lane's G; the eigenvalue that is 0 but for rounding is 0."""
    _, Y = objective.losses(rows, Z)
    g, U = jnp.linalg.eigh(objective.class_curvature(weights, Y))
    floor = g.shape[1] * jnp.finfo(g.dtype).eps * g[:, -1:]
    return jnp.where(g > floor, g, 0), U


def reciprocal(values: Array) -> Array:
    """1/x, and 0 for 0."""
    return jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)
