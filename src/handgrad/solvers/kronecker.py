r"""The preconditioners: the Hessian of the mean loss simplified until it can be inverted, twice.

The Hessian is Σ_i w_i x_i x_iᵀ ⊗ (diag y_i − y_i y_iᵀ). Where what x is says little about how sure y is, that is near

    A ⊗ G        A = Σ w x xᵀ        G = Σ w (diag y − y yᵀ)

Of G its diagonal g serves as well as all of it: as many iterations on digits, MNIST, a hundred classes, and classes
that are rare. With A = Q diag(a) Qᵀ the inverse of A ⊗ diag g + l2·I divides by a_p g_c + l2 in the basis of Q.
Features of any scale and correlation then cost a solver no iterations. A is taken once, its eigenvectors on the host in
float64; g is new at each point. A solver that keeps its gradients in the basis of Q pays two products P×P×C an
iteration for it. Where features are many A's diagonal serves.

Where the penalty is weak, or a rare feature is large, how sure y is goes with x. Then each class's own block,

    H_c = Σ_i w_i x_i x_iᵀ y_ic (1 − y_ic) + l2·I

is far nearer, although the blocks leave the classes unrelated; to relate them saves no iteration. Most of what it gains
is in the leading eigenvectors of A: H_c is taken there and A ⊗ diag g elsewhere. MNIST-10k at C = 1 takes 90 iterations
without blocks, 45 with blocks of 16 vectors, 33 of 64, 25 of all 784. So the first are of 64, which cost what a few
sweeps do, and a fit that goes on has blocks of more and more each time that it has paid for the last: 784 pixels
multiplied by 10^U(−2, 2) take some 100 iterations, and without blocks float32 does not arrive.

Nearly all of Σ w y(1 − y) is in few of the rows, others for each class: with a quarter of them 32 penalties on
MNIST-10k take as many iterations as with all, and with an eighth 1 % more; a quarter that serves all classes takes
three times the iterations on the scaled pixels. Compiled programs take eight of each 32 rows, which saves the sorting
and costs the scaled pixels a twentieth more iterations. The other rows count with their mean: 60 categories, most of
them rare, take 25 iterations at C = 1000, 27 without blocks, and 228 where the quarter stands for all rows. Yet 200
pixels multiplied by 10^U(−3, 3) take 139 passes, and not 2,000, only since the last blocks are of all rows.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from handgrad.rows import Array, Rows, library, product
from handgrad.shapes import Bool, Float
from handgrad.solvers.sums import ClassMoments

LEADING = 64  # vectors of the first blocks
CHOOSING, THIN = 2, 10  # sweeps that it takes to choose the rows; columns
SMALL_BLOCKS, LARGE_BLOCKS = 2**20, 2**26  # elements that the blocks may have at any size of the data, and at most
PART, MANY_ROWS = 4, 2**10  # one row in how many, of so many at least
WORTH = 1.5  # times what a quarter of the rows costs: all of them are taken up to that
ALONE = 96  # columns of a block, for more of which LAPACK's threads are worth waking


class Curvature(NamedTuple):
    """A = Q diag(a) Qᵀ, a rising but for its last, the bias's, and the inverses of the blocks; shared by all problems.

    Q is None where A's diagonal serves, and `blocks` until there are any. They are of the last columns of Q.
    """

    a: Float[Any, " P1"]
    Q: Float[Any, "P1 P1"] | None
    blocks: Float[Array, "C k1 k1"] | None


def rotate(Q: Array | None, V: Float[Array, "K P1 C"]) -> Float[Array, "K P1 C"]:
    """V in the eigenbasis of A: QᵀV."""
    if Q is None or library(V) is np:
        return V if Q is None else product(Q.T, V)
    # As (VᵀQ)ᵀ: of 785 features and 10 classes XLA's CPU takes a quarter of the time for it. The barrier keeps it so.
    K, width, C = V.shape
    VT = jax.lax.optimization_barrier(V.transpose(0, 2, 1).reshape(K * C, width))
    return product(VT, Q).reshape(K, C, width).transpose(0, 2, 1)


def rotate_back(Q: Array | None, V: Float[Array, "K P1 C"]) -> Float[Array, "K P1 C"]:
    """V from the eigenbasis of A: QV."""
    return V if Q is None else product(Q, V)


def takes_features(rows: Rows, num_classes: int) -> bool:
    """Whether A is taken whole, not just its diagonal.

    Its eigenvectors cost 10 P³ operations and a few P×P arrays. They may cost as much as thirty passes, 60 N·P·C, and
    may not outgrow the data. Of sparse data N is counted as if the entries filled that many rows.
    """
    P, C = rows.shape[1], num_classes
    N = rows.parts.num_entries / P
    return P <= 64 or (P**2 <= 12 * N * C and 2 * P <= N)


class BlockSize(NamedTuple):
    """Of how many eigenvectors the blocks are made, one row in how many, and what that costs in sweeps of all lanes."""

    vectors: int
    part: int
    sweeps: float


def sizes_of_blocks(rows: Rows, num_classes: int, num_lanes: int) -> list[BlockSize]:
    """The sizes that blocks have one after the other, within the memory that they may take: the first of them thrice,
    since each is compiled, then of twice as many vectors each.
    """
    P, N, C = rows.shape[1], rows.parts.num_entries / rows.shape[1], num_classes
    elements = min(LARGE_BLOCKS, max(SMALL_BLOCKS, N * P / (1 if num_lanes > 1 else 4)))
    room = math.isqrt(int(elements / C)) - 1
    most = P if room >= P else room // LEADING * LEADING  # a multiple: each size is compiled, and N decides the room
    if not takes_features(rows, C) or not most:
        return []

    def size(k: int, part: int) -> BlockSize:
        # Of a row; products as thin as a sweep's take as long as if they were wider.
        products = (P * k + C * k * (k + THIN) / part) / (2 * P * (num_lanes * C + THIN))
        return BlockSize(k, part, products + (CHOOSING / num_lanes if part > 1 else 0))

    sizes = []
    for k in [*(k for k in (LEADING * 2**i for i in range(P.bit_length())) if k < most), most]:
        whole, quarter = size(k, 1), size(k, PART)
        # A quarter is twice as many rows at least as the columns, and all of them are taken in the end.
        is_enough = max(MANY_ROWS, 2 * PART * (k + 1)) <= N and WORTH * quarter.sweeps < whole.sweeps
        sizes += [quarter] if is_enough else [whole]
    return [sizes[0], sizes[0], *sizes, *([size(most, 1)] if num_lanes == 1 and sizes[-1].part > 1 else [])]


def next_size(sizes: list[BlockSize], last: int, num_problems: int) -> int:
    """Which size the next blocks have: the one after the last, or as large as so many problems will pay for."""
    paid = [number for number, size in enumerate(sizes) if num_problems > 1 and size.sweeps <= num_problems]
    return max([min(last + 1, len(sizes) - 1), *paid])


def factor_features(moment: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """A and Q of A, or of its diagonal; its last row is the bias's, to which centred features are orthogonal."""
    A = np.asarray(moment)
    if A.ndim == 1:
        return A, None
    from scipy.linalg import eigh

    # NumPy's wakes BLAS's threads, which wait for each other: where another program has a core, 160 ms for 64 features.
    values, vectors = eigh(A[:-1, :-1].astype(np.float64), driver="evd", check_finite=False, overwrite_a=True)
    a = np.append(np.maximum(values, 0), A[-1, -1]).astype(A.dtype)
    Q = np.zeros_like(A)
    Q[:-1, :-1], Q[-1, -1] = vectors, 1
    return a, Q


def invert_blocks(
    of_classes: ClassMoments, a: Float[np.ndarray, " k1"], l2: Float[np.ndarray, " K"]
) -> Float[np.ndarray, "C k1 k1"] | None:
    """H_c⁻¹ of each class, the bias not penalised, for the geometric mean of the penalties: neighbours on a path differ
    little. None where rounding has made one of them indefinite, or a trial's logits have left the dtype's range: of
    numbers that are none LAPACK says nothing.

    Args:
      of_classes: what `sums.class_moments` gives.
      a: of the vectors of the blocks, (k+1,).
      l2: the penalties of the lanes.
    """
    from scipy.linalg import lapack

    blocks = np.array(of_classes.moments)
    places = np.arange(blocks.shape[1])
    diagonals = blocks[:, places, places].astype(np.float64) + np.outer(of_classes.level, a)
    if not (np.isfinite(blocks).all() and np.isfinite(diagonals).all()):
        return None
    with np.errstate(divide="ignore"):
        mean = np.exp(np.mean(np.log(l2)))
    ridge = 8 * blocks.shape[1] * np.finfo(blocks.dtype).eps  # what rounding can hide, in units of the diagonal
    diagonals[:, :-1] += mean
    scales = reciprocal(np.maximum(diagonals, 0)) ** 0.5
    diagonals = diagonals * scales**2 + ridge
    for c, scale in enumerate(scales):
        H = blocks[c] * scale[:, None]
        H *= scale
        H[places, places] = diagonals[c]
        root, failed = lapack.dpotrf(H.T, lower=True, overwrite_a=True)
        if failed:
            return None
        if len(H) <= ALONE:
            root = lapack.dtrtri(root, lower=True, overwrite_c=True)[0] * scale
            blocks[c] = product(root.T, root)
            continue
        triangle = lapack.dpotri(root, lower=True, overwrite_c=True)[0] * scale[:, None] * scale
        blocks[c] = triangle + triangle.T
        blocks[c, places, places] /= 2
    return blocks


def preconditioner(
    curvature: Curvature, g: Float[Any, "K C"], l2: Float[Any, " K"], present: Bool[Any, "K C"]
) -> Callable[[Float[Any, "K P1 C"]], Float[Any, "K P1 C"]]:
    """V ↦ (A ⊗ diag g + l2·I)⁻¹ V, with H_c⁻¹ V_c of each class where there are blocks, for V in the eigenbasis of A.

    Where an eigenvalue is 0 the inverse is the pseudo-inverse. Adding a constant to all logits of a row changes
    nothing: the mean over the classes that are present, which would only collect rounding, is taken off. An array of
    NumPy's is written to.
    """
    (a, _, blocks), mask, xp = curvature, present[:, None].astype(g.dtype), library(g)
    rest = len(a) - (0 if blocks is None else blocks.shape[1])
    if rest:
        # a ⊗ g + l2 as one product: NumPy takes four times as long for it in rows as short as these.
        columns = xp.stack([a, xp.asarray(_penalised(a))], axis=1)[:rest]
        rows = xp.stack([g, xp.broadcast_to(l2[:, None], g.shape)], axis=1)
        curvatures = _or_infinity(product(columns[None], rows))

    def precondition(V: Any) -> Any:
        if blocks is None:
            V /= curvatures
        else:
            leading = product(blocks, V[:, rest:].transpose(2, 1, 0)).transpose(2, 1, 0)
            V = xp.concatenate([V[:, :rest] / curvatures, leading], axis=1) if rest else leading
        if xp is np and present.all():  # a product with 1 of short rows takes as long as the rest
            V -= product(V, mask.mT) / V.shape[2]
            return V
        V = V * mask
        return V - mask * (product(V, mask.mT) / product(mask, mask.mT))

    return precondition


def reciprocal(values: Array) -> Array:
    """1/x, and 0 for 0."""
    return 1 / _or_infinity(values)


def _or_infinity(values: Array) -> Array:
    """What to divide by, so that 0 becomes of what is divided by 0."""
    xp = library(values)
    # NumPy takes four times as long to divide only where it is.
    return values if xp is np and values.min() > 0 else xp.where(values > 0, values, xp.inf)


def _penalised(row: Float[Any, " P1"]) -> Float[np.ndarray, " P1"]:
    """1 for the features, 0 for the bias."""
    return (np.arange(row.shape[0]) < row.shape[0] - 1).astype(row.dtype)
