r"""The preconditioners: the Hessian of the mean loss simplified until it can be inverted, twice.

The Hessian is Σ_i w_i x_i x_iᵀ ⊗ (diag y_i − y_i y_iᵀ). Where what x is says little about how sure y is, that is near

    A ⊗ G        A = Σ w x xᵀ        G = Σ w (diag y − y yᵀ)

and with A = Q diag(a) Qᵀ, G = U diag(g) Uᵀ the inverse of A ⊗ G + l2·I divides by a_p g_c + l2 in the basis
(Q e_p) ⊗ (U e_c). Features of any scale and correlation then cost a solver no iterations. A is taken once, G renewed.
A solver that keeps its gradients in the basis of Q pays two products P×P×C an iteration for it.

Where the penalty is weak, or a rare feature is large, how sure y is goes with x. Then each class's own block,

    H_c = Σ_i w_i x_i x_iᵀ y_ic (1 − y_ic) + l2·I

is far nearer than A ⊗ G, although the blocks leave the classes unrelated: 200 pixels multiplied by 10^U(−3, 3) take
120 iterations, and with A ⊗ G alone more than 1500. Blocks cost C products N×P×P, so that they are made only for a fit
that has gone on for about as long as they take.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from handgrad import objective
from handgrad.objective import Rows, product
from handgrad.shapes import Bool, Float, Int

# The elements that the blocks may have at any size of the data.
SMALL = 2**20


class Curvature(NamedTuple):
    """A = Q diag(a) Qᵀ and the inverses of the blocks, shared by the lanes, and the G = U diag(g) Uᵀ of each.

    Q is None where A's diagonal serves, `blocks` where they would be too large; they serve once `has_blocks` says so.
    `age` is the number of iterations since they were renewed.
    """

    a: Float[Array, " P+1"]
    Q: Float[Array, "P+1 P+1"] | None
    g: Float[Array, "K C"]
    U: Float[Array, "K C C"]
    blocks: Float[Array, "C P+1 P+1"] | None
    has_blocks: Bool[Array, ""]
    age: Int[Array, ""]

    def rotate(self, V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
        """V in the eigenbasis of A: QᵀV."""
        return V if self.Q is None else product(self.Q.T, V)

    def rotate_back(self, V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
        """V from the eigenbasis of A: QV."""
        return V if self.Q is None else product(self.Q, V)


def precondition(
    curvature: Curvature, l2: Float[Array, " K"], present: Bool[Array, "K C"], V: Float[Array, "K P+1 C"]
) -> Float[Array, "K P+1 C"]:
    """(A ⊗ G + l2·I)⁻¹ V, or H_c⁻¹ V_c for each class, for V in the eigenbasis of A.

    Where an eigenvalue is 0 the inverse is the pseudo-inverse. Adding a constant to all logits of a row changes
    nothing: the mean over the classes that are present, which would only collect rounding, is taken off.
    """

    def by_factors(V: Array) -> Array:
        a, g, U = curvature.a, curvature.g, curvature.U
        eigenvalues = a[None, :, None] * g[:, None] + l2[:, None, None] * _penalised(a)[None, :, None]
        return product(reciprocal(eigenvalues) * product(V, U), U.mT)

    def by_blocks(V: Array, blocks: Array) -> Array:
        columns = curvature.rotate_back(V).transpose(2, 1, 0)
        return curvature.rotate(product(blocks, columns).transpose(2, 1, 0))

    if curvature.blocks is None:
        V = by_factors(V)
    else:
        V = jax.lax.cond(curvature.has_blocks, by_blocks, lambda V, _: by_factors(V), V, curvature.blocks)
    mask = present[:, None].astype(V.dtype)
    V = V * mask
    return V - mask * (jnp.sum(V, axis=2, keepdims=True) / jnp.sum(mask, axis=2, keepdims=True))


def factor_features(rows: Rows, weights: Float[Array, " N"], lanes: int, C: int, *, dense: bool) -> Curvature:
    """The curvature with A's part in place and the rest still empty."""
    N, width = rows.X.shape
    g, U = jnp.zeros((lanes, C), weights.dtype), jnp.zeros((lanes, C, C), weights.dtype)
    size = C * width * width
    affordable = dense and (size <= SMALL or (1 if lanes > 1 else 4) * size <= N * width)
    blocks = jnp.zeros((C, width, width), weights.dtype) if affordable else None
    new = jnp.zeros((), bool), jnp.zeros((), jnp.int32)
    if not dense:
        return Curvature(product(weights[None], rows.X**2)[0], None, g, U, blocks, *new)
    # The column of ones is orthogonal to the features, which are centred, and stays the last.
    a, Q = jnp.linalg.eigh(objective.feature_curvature(rows, weights)[:-1, :-1])
    one = jnp.ones((1, 1), a.dtype)
    a, Q = jnp.append(jnp.maximum(a, 0), one[0]), jax.scipy.linalg.block_diag(Q, one)
    return Curvature(a, Q, g, U, blocks, *new)


def factor_classes(
    weights: Float[Array, "N K"], Y: Float[Array, "N K C"]
) -> tuple[Float[Array, "K C"], Float[Array, "K C C"]]:
    """Eigenvalues and eigenvectors of each lane's G; the eigenvalue that is 0 but for rounding is 0."""
    g, U = jnp.linalg.eigh(objective.class_curvature(weights, Y))
    floor = g.shape[1] * jnp.finfo(g.dtype).eps * g[:, -1:]
    return jnp.where(g > floor, g, 0), U


def invert_blocks(
    rows: Rows, weights: Float[Array, "N K"], Y: Float[Array, "N K C"], l2: Float[Array, " K"]
) -> Float[Array, "C P+1 P+1"]:
    """H_c⁻¹ of each class, of the lanes' mean H_c; neighbours on a path differ little."""
    H = objective.class_blocks(rows, weights, Y)
    return jax.lax.map(functools.partial(_inverse, jnp.exp(jnp.mean(jnp.log(l2)))), H)


def _inverse(l2: Float[Array, ""], H: Float[Array, "P+1 P+1"]) -> Float[Array, "P+1 P+1"]:
    """(H + l2·I)⁻¹, the bias not penalised."""
    H += l2 * jnp.diag(_penalised(H[0]))
    # In units that make the diagonal 1 the inverse loses least to rounding; the ridge is what rounding can hide.
    scale = jnp.sqrt(reciprocal(jnp.diagonal(H)))
    scale = scale[:, None] * scale[None]
    eye = jnp.eye(H.shape[0], dtype=H.dtype)
    ridge = 8 * H.shape[0] * jnp.finfo(H.dtype).eps
    root = jnp.linalg.cholesky(H * scale + ridge * eye, symmetrize_input=False)
    inverse_root = jax.lax.linalg.triangular_solve(root, eye, left_side=True, lower=True)
    return product(inverse_root.T, inverse_root) * scale


def reciprocal(values: Array) -> Array:
    """1/x, and 0 for 0."""
    return jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)


def _penalised(row: Float[Array, " P+1"]) -> Float[Array, " P+1"]:
    """1 for the features, 0 for the bias."""
    return (jnp.arange(row.shape[0]) < row.shape[0] - 1).astype(row.dtype)
