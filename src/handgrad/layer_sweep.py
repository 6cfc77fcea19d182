r"""`handgrad.value_and_gradient`: that of `formulas`, with one read of X where the cache is what counts.

On one CPU the rows of a softmax regression are taken in blocks. A block of X that has given its logits is still in the
cache when it is multiplied by their gradient, and no array of N×C elements is held:

    L = (1/n) Σ_blocks Σ_i w_i l_i        dL/dW = (1/n) Σ_blocks XᵀD        dL/db = (1/n) Σ_blocks 1ᵀD

with D = w(Y − T), and n the sum of the weights, or N. Elsewhere it is the formula: a GPU or TPU has nothing from small
blocks, and rows that are sharded over devices stay where they are only in whole products, each with one sum over the
devices. So does autograd: it differentiates the formula.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from handgrad import arguments, formulas
from handgrad.formulas import Params
from handgrad.formulas.losses import check_relative, normaliser, target_distributions, times_weights
from handgrad.formulas.network import check_loss, in_form_of, layers_of
from handgrad.formulas.softmax import shifted_exponentials
from handgrad.lowering import explicit_mesh, if_on_one_cpu, in_auto_axes
from handgrad.precision import wide_dtype, without_uncounted

Array = Any

# Of a block's rows of X and Z. (60000, 784, 10) in float32 takes 2 cores 21 ms in blocks of 1,000 rows one after the
# other: 6 to read X, 7 and 6 for the two products. In blocks of a quarter of that, or of four times, it is 27.
BLOCK_BYTES = 3 * 2**20
MOST_ROWS = 2**12  # of few features: (20000, 16, 26) takes 1.9 ms in such blocks, and 3.3 in one and a rest
ROW_MULTIPLE = 64
# So that what one core does alone goes on beside a product: of 16 to 300 features two blocks at once take a fifth less
# time than one, of 784 a twentieth, and three no less.
BLOCKS_AT_ONCE = 2


@functools.wraps(formulas.value_and_gradient)
def value_and_gradient(  # noqa: D103
    params: Any, X: Array, targets: Array, weights: Array | None = None, *, recompute: bool = False
) -> tuple[Array, Any]:
    arguments.check_flag("value_and_gradient", "recompute", recompute)
    check_loss("value_and_gradient", params, X, targets, weights)
    given = (params, X, targets, weights)
    if (mesh := explicit_mesh(given)) is not None:
        # XᵀD cannot say in its type how it is sharded: the gradient is as the params are.
        gradient = jax.tree.map(lambda leaf: jax.typeof(leaf).sharding.spec, params)
        formula = functools.partial(formulas.value_and_gradient, recompute=recompute)
        return in_auto_axes(mesh, formula, given, (PartitionSpec(), gradient))
    layers = layers_of(params)
    if len(layers) > 1:
        return formulas.value_and_gradient(*given, recompute=recompute)
    L, gradient = _of_layer(Params(*layers[0].params), X, targets, weights)
    return L, in_form_of(params, [gradient])


@jax.custom_jvp
def _of_layer(params: Params, X: Array, targets: Array, weights: Array | None) -> tuple[Array, Params]:
    return if_on_one_cpu(_sweep, formulas.value_and_gradient, params, X, targets, weights)


@functools.partial(_of_layer.defjvp, symbolic_zeros=True)
def _of_layer_jvp(primals: Any, tangents: Any) -> Any:
    leaves, structure = jax.tree.flatten(primals)
    directions = jax.tree.leaves(tangents)
    moving = [i for i, direction in enumerate(directions) if not isinstance(direction, SymbolicZero)]

    def formula(*moved: Array) -> Any:
        at = dict(zip(moving, moved, strict=True))
        return formulas.value_and_gradient(
            *jax.tree.unflatten(structure, [at.get(i, leaf) for i, leaf in enumerate(leaves)])
        )

    return jax.jvp(formula, [leaves[i] for i in moving], [directions[i] for i in moving])


# --- The sweep ----------------------------------------------------------------------------------------------------
#
# Logits and their gradient stand transposed, Zᵀ = WᵀXᵀ + bᵀ (C, rows). Where C is small, at 10 say, XLA's CPU takes
# three quarters of the time for WᵀXᵀ that it takes for XW, and a quarter for DᵀX of that for XᵀD; and what is done to
# the logits runs along the rows.


def _sweep(params: Params, X: Array, targets: Array, weights: Array | None) -> tuple[Array, Params]:
    W, b = params
    P, C = W.shape
    weights = check_relative("value_and_gradient", X, weights)
    dtype = wide_dtype(X.dtype)
    product = functools.partial(lax.dot_general, preferred_element_type=dtype)
    # The barrier keeps WᵀXᵀ from being turned back into (XW)ᵀ.
    WT, bT = lax.optimization_barrier(W.T), b.T.astype(dtype)

    def block(start: Any, length: int) -> tuple[Array, Array, Array]:
        rows, target_rows, row_weights = jax.tree.map(
            lambda array: lax.dynamic_slice_in_dim(array, start, length), (X, targets, weights)
        )
        rows = without_uncounted(jnp, rows, row_weights)
        ZT = product(WT, rows, (((1,), (1,)), ((), ()))) + bT
        maximum, exponentials, total = shifted_exponentials(jnp, ZT, axis=0)
        TT = target_distributions(jnp, target_rows, C, dtype).T
        # −Σ_j T_j log Y_j, with 0 · log 0 = 0
        losses = -jnp.sum(jnp.where(TT == 0, 0.0, TT * ((ZT - maximum) - jnp.log(total))), axis=0)
        DT = times_weights(jnp, (exponentials / total - TT).T, row_weights).T
        dWT = product(DT.astype(X.dtype), rows, (((1,), (0,)), ((), ())))
        return jnp.sum(times_weights(jnp, losses, row_weights)), dWT, jnp.sum(DT, axis=1)

    # The first block takes what the others leave.
    size = _block_rows(P, C, X.dtype.itemsize)
    further = (len(X) - 1) // size
    first = len(X) - further * size

    def add(index: Any, sums: Any) -> Any:
        return jax.tree.map(jnp.add, sums, block(first + index * size, size))

    sums = block(0, first)
    loss, dWT, db = lax.fori_loop(0, further, add, sums, unroll=BLOCKS_AT_ONCE) if further else sums
    n = len(X) if weights is None else normaliser(jnp, weights, weights)
    return loss / n, Params(W=(dWT / n).T.astype(X.dtype), b=(db / n)[None].astype(X.dtype))


def _block_rows(num_features: int, num_classes: int, itemsize: int) -> int:
    # From C rows on, a block of X is no smaller than W and dL/dW, which are read again for each. XLA's CPU takes 1,000
    # rows of 8192 features and 1000 classes a third longer than 1,024.
    rows = max(num_classes, min(MOST_ROWS, BLOCK_BYTES // ((num_features + num_classes) * itemsize)))
    return -(-rows // ROW_MULTIPLE) * ROW_MULTIPLE
