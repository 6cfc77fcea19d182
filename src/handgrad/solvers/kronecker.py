r"""The preconditioners: the Hessian of the mean loss simplified until it can be inverted, twice.

The Hessian is Σ_i w_i x_i x_iᵀ ⊗ (diag y_i − y_i y_iᵀ). Where what x is says little about how sure y is, that is near

    A ⊗ G        A = Σ w x xᵀ        G = Σ w (diag y − y yᵀ)

and with A = Q diag(a) Qᵀ, G = U diag(g) Uᵀ the inverse of A ⊗ G + l2·I divides by a_p g_c + l2 in the basis
(Q e_p) ⊗ (U e_c). Features of any scale and correlation then cost a solver no iterations. A is taken once, G renewed.
A solver that keeps its gradients in the basis of Q pays two products P×P×C an iteration for it. Where features are many
A's diagonal serves, and where classes are many G's. The eigenvectors are found on the host, in float64.

Where the penalty is weak, or a rare feature is large, how sure y is goes with x. Then each class's own block,

    H_c = Σ_i w_i x_i x_iᵀ y_ic (1 − y_ic) + l2·I

is far nearer than A ⊗ G, although the blocks leave the classes unrelated: 200 pixels multiplied by 10^U(−3, 3) take
120 iterations, and with A ⊗ G alone more than 1500. Blocks cost C products N×P×P, so that they are made only for a fit
that has gone on for about as long as they take.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad.rows import Rows, product
from handgrad.shapes import Bool, Float
from handgrad.solvers.sums import DIAGONAL, FULL, Sums

SMALL_BLOCKS = 2**20  # the elements that the blocks may have at any size of the data
MOST_CLASSES = 400  # whose G is taken whole


class Curvature(NamedTuple):
    """A = Q diag(a) Qᵀ, shared by K problems, and the G = U diag(g) Uᵀ of each, or the inverses of the blocks.

    Q is None where A's diagonal serves, U where G's does, and `blocks` until there are any.
    """

    a: Float[Array, " P+1"]
    Q: Float[Array, "P+1 P+1"] | None
    g: Float[Array, "K C"]
    U: Float[Array, "K C C"] | None
    blocks: Float[Array, "C P+1 P+1"] | None

    def rotate(self, V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
        """V in the eigenbasis of A: QᵀV."""
        return V if self.Q is None else product(self.Q.T, V)

    def rotate_back(self, V: Float[Array, "K P+1 C"]) -> Float[Array, "K P+1 C"]:
        """V from the eigenbasis of A: QV."""
        return V if self.Q is None else product(self.Q, V)


class Plan(NamedTuple):
    """Which of the preconditioners the size of the data allows."""

    features: bool  # A whole, not just its diagonal
    classes: str  # of G, `FULL` or `DIAGONAL`
    always: bool  # whether G costs so little that each sweep takes it, rather than another program some of them
    blocks: bool


def plan(rows: Rows, num_classes: int, num_problems: int) -> Plan:
    """What is worth its price.

    A's eigenvectors cost 10 P³ operations and a few P×P arrays. They may cost as much as thirty passes, 60 N·P·C, and
    may not outgrow the data. Of sparse data N is counted as if the entries filled that many rows.
    """
    P, C = rows.shape[1], num_classes
    N = rows.parts.num_entries / P
    features = P <= 64 or (P**2 <= 12 * N * C and 2 * P <= N)
    size = C * (P + 1) ** 2
    blocks = features and (size <= SMALL_BLOCKS or (1 if num_problems > 1 else 4) * size <= N * (P + 1))
    return Plan(features, FULL if C <= MOST_CLASSES else DIAGONAL, 4 * C <= P or C > MOST_CLASSES, blocks)


def factor_features(moment: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """A and Q of A, or of its diagonal; its last row is the bias's, to which centred features are orthogonal."""
    A = np.asarray(moment)
    if A.ndim == 1:
        return A, None
    values, vectors = np.linalg.eigh(A[:-1, :-1].astype(np.float64))
    a = np.append(np.maximum(values, 0), A[-1, -1]).astype(A.dtype)
    Q = np.zeros_like(A)
    Q[:-1, :-1], Q[-1, -1] = vectors, 1
    return a, Q


def factor_classes(sums: Sums) -> tuple[np.ndarray, np.ndarray | None]:
    """G and U of each problem's G, or of its diagonal; the eigenvalue that is 0 but for rounding is 0."""
    shares, second = np.asarray(sums.shares), np.asarray(sums.second)
    if second.ndim == 2:
        return np.maximum(shares - second, 0), None
    G = np.eye(shares.shape[1]) * shares[:, :, None].astype(np.float64) - second
    if not np.isfinite(G).all():
        G = np.broadcast_to(np.eye(shares.shape[1]), G.shape)
    g, U = np.linalg.eigh(G)
    floor = g.shape[1] * np.finfo(second.dtype).eps * g[:, -1:]
    return np.where(g > floor, g, 0).astype(second.dtype), U.astype(second.dtype)


def invert_blocks(moments: Any, l2: Float[np.ndarray, " K"]) -> Float[np.ndarray, "C P+1 P+1"] | None:
    """H_c⁻¹ of each class, the bias not penalised, for the geometric mean of the penalties: neighbours on a path differ
    little. None where rounding has made one of them indefinite.
    """
    blocks = np.array(moments)
    with np.errstate(divide="ignore"):
        mean = np.exp(np.mean(np.log(l2)))
    ridge = 8 * blocks.shape[1] * np.finfo(blocks.dtype).eps  # what rounding can hide, in units of the diagonal
    for c, moment in enumerate(blocks):
        H = moment.astype(np.float64)
        H[np.arange(len(H) - 1), np.arange(len(H) - 1)] += mean
        diagonal = H.diagonal()
        scale = np.where(diagonal > 0, 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1)), 0)
        H = scale[:, None] * H * scale + ridge * np.eye(len(H))
        try:
            np.linalg.cholesky(H)
        except np.linalg.LinAlgError:
            return None
        blocks[c] = scale[:, None] * np.linalg.inv(H) * scale
    return blocks


def precondition(
    curvature: Curvature, l2: Float[Array, " K"], present: Bool[Array, "K C"], V: Float[Array, "K P+1 C"]
) -> Float[Array, "K P+1 C"]:
    """(A ⊗ G + l2·I)⁻¹ V, or H_c⁻¹ V_c for each class, for V in the eigenbasis of A.

    Where an eigenvalue is 0 the inverse is the pseudo-inverse. Adding a constant to all logits of a row changes
    nothing: the mean over the classes that are present, which would only collect rounding, is taken off.
    """
    if curvature.blocks is not None:
        columns = curvature.rotate_back(V).transpose(2, 1, 0)
        V = curvature.rotate(product(curvature.blocks, columns).transpose(2, 1, 0))
    else:
        a, g, U = curvature.a, curvature.g, curvature.U
        eigenvalues = a[None, :, None] * g[:, None] + l2[:, None, None] * _penalised(a)[None, :, None]
        inverse = reciprocal(eigenvalues)
        V = inverse * V if U is None else product(inverse * product(V, U), U.mT)
    mask = present[:, None].astype(V.dtype)
    V = V * mask
    return V - mask * (jnp.sum(V, axis=2, keepdims=True) / jnp.sum(mask, axis=2, keepdims=True))


def of_bias(curvature: Curvature, db: Float[Array, "K C"]) -> Float[Array, " K"]:
    """½ ∇_b G⁺ ∇_b: what b is off its minimum, about."""
    if curvature.U is not None:
        db = product(db[:, None], curvature.U)[:, 0]
    return jnp.sum(db**2 * reciprocal(curvature.g), axis=1) / 2


def reciprocal(values: Array) -> Array:
    """1/x, and 0 for 0."""
    return jnp.where(values > 0, 1 / jnp.where(values > 0, values, 1), 0)


def _penalised(row: Float[Array, " P+1"]) -> Float[Array, " P+1"]:
    """1 for the features, 0 for the bias."""
    return (jnp.arange(row.shape[0]) < row.shape[0] - 1).astype(row.dtype)
