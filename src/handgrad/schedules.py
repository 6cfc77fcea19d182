r"""The two orders in which the head's tiles are taken, with no N×C logits in either.

*By rows*: a block of rows with all its classes. What is known of a block's rows is known at once, and so is
D = dL/dZ while its logits are there. Three products; dL/dW is summed over the blocks, in float32 or wider.

    dL/dX = DWᵀ        dL/dW = XᵀD        dL/db = 1ᵀD

But where W is narrow and N ≤ 2P, D rounded takes less than that sum: it is kept, and dL/dW is one product at the end.

*By classes*: all rows with a block of classes. First log-sum-exp and its like, block after block; then the logits
again, D, and the block's dL/dW, which is complete and rounded at once, while dL/dX is summed. Four products, and hardly
any memory: neither dL/dW in float32 nor D of all rows beside a narrow W.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from handgrad import tile as tiles
from handgrad.block_sizes import classes_in_block, goes_by_classes, keeps_logit_gradient, rows_in_block, sizes
from handgrad.head import (
    BY_CLASS,
    BY_ROW,
    Array,
    Arrays,
    ByName,
    Settings,
    class_dimension,
    first_class,
    in_parts,
    joined,
    sum_over_classes,
    within_parts,
)
from handgrad.precision import wide_dtype, widen
from handgrad.tile import Largest, Tile, Whole


def gradients(
    settings: Settings, moving: tuple[str, ...], arrays: Arrays, coefficients: ByName
) -> tuple[ByName, ByName]:
    """What is wanted of each row, and the gradients of Σ_values ⟨c, value⟩ in what is moving, of X, W and b.

    The rows are one axis. dL/dX is the share of this device, to be summed over those that share the classes.
    """
    run = _by_classes if goes_by_classes(settings, moving, arrays) else _by_rows
    if not moving:
        return run(settings, moving, arrays, coefficients)
    scale: Any = 1.0
    if jnp.finfo(arrays.X.dtype).maxexp <= 16:
        # In float16 a small D would be lost: the gradients are multiplied by the largest coefficient afterwards. Of a
        # divergence with 1/τ², which is how its gradient falls as τ grows.
        size = {"divergence": max(settings.temperature, 1.0) * settings.temperature}
        sizes = [jnp.max(jnp.abs(c)) / size.get(name, 1.0) for name, c in coefficients.items()]
        scale = lax.stop_gradient(jnp.max(jnp.stack(sizes)))
        scale = jnp.where(scale == 0, 1.0, scale)
        coefficients = {name: c / scale for name, c in coefficients.items()}
    rows, found = run(settings, moving, arrays, coefficients)
    return rows, {name: scale * gradient for name, gradient in found.items()}


def row_tangents(settings: Settings, names: tuple[str, ...], arrays: Arrays, tangents: ByName) -> ByName:
    """⟨d value/dz, ż⟩ with ż = ẋW + xẆ + ḃ of each row, for the values named: linear in the tangents.

    Products are between arrays of X's dtype, and Ẇ is widened outside the blocks: its transpose is summed in float32.
    """
    whole = {name: widen(jnp, tangents[name]) for name in ("W", "b") if name in tangents}

    def block_tangents(block: Arrays, moving: ByName) -> tuple[ByName, ByName]:
        tile, of_rows, _ = _block(settings, block)
        terms = [widen(jnp, _product(settings, dx, block.W)) for dx in moving.values()]
        if "W" in whole:
            terms.append(widen(jnp, _product(settings, block.X, whole["W"].astype(block.X.dtype))))
        dZ = sum(terms[1:], terms[0]) if terms else 0
        dZ = dZ + whole["b"] if "b" in whole else dZ
        ones = jnp.ones(len(block.X), tile.Z.dtype)
        slopes = {name: tiles.logit_gradient(settings, tile, of_rows, {name: ones}) for name in names}
        return {}, {name: sum_over_classes(settings, jnp.sum(slope * dZ, axis=1)) for name, slope in slopes.items()}

    size = rows_in_block(settings, arrays)
    by_row = {name: tangents[name] for name in ("X",) if name in tangents}
    return _over_rows(settings, size, block_tangents, arrays, by_row)[1]


def _product(settings: Settings, X: Array, W: Array) -> Array:
    return lax.dot_general(X, W, (((1,), (class_dimension(settings, "W") ^ 1,)), ((), ())))


# --- By rows ----------------------------------------------------------------------------------------------------------


def _by_rows(
    settings: Settings, moving: tuple[str, ...], arrays: Arrays, coefficients: ByName
) -> tuple[ByName, ByName]:
    size = rows_in_block(settings, arrays)
    keeps = keeps_logit_gradient(moving, arrays, size)
    # Rounded at once, where there is nothing to be added.
    adds = size < len(arrays.X) and not keeps
    dtype = wide_dtype(arrays.X.dtype) if adds else _gradient_dtype(arrays.W.dtype)

    def block_gradients(block: Arrays, coefficients: ByName) -> tuple[ByName, ByName]:
        tile, whole, rows = _block(settings, block)
        if not moving:
            return {}, rows
        D = tiles.logit_gradient(settings, tile, whole, coefficients)
        sums: ByName = {}
        by_row: ByName = {}
        if "X" in moving:
            by_row["dX"] = _rounded(settings, _row_gradient(settings, D, block), block.X.dtype)
        if keeps:
            by_row["D"] = D.astype(block.X.dtype)
        elif "W" in moving:
            sums |= _weight_gradient(settings, D, block, dtype, turned=adds)
        if "b" in moving:
            sums["b"] = jnp.sum(D, axis=0, keepdims=True)
        return sums, rows | by_row

    sums, rows = _over_rows(settings, size, block_gradients, arrays, coefficients)
    if keeps:
        sums |= _weight_gradient(settings, rows.pop("D"), _without_uncounted(settings, arrays), dtype)
    if "WT" in sums:
        sums["W"] = lax.optimization_barrier(sums.pop("WT")).T
    if "W" in sums:
        sums["W"] = sums["W"].astype(_gradient_dtype(arrays.W.dtype))
    return rows, sums | ({"X": rows.pop("dX")} if "X" in moving else {})


def _block(settings: Settings, block: Arrays) -> tuple[Tile, Whole, ByName]:
    """Some rows and all their classes: the tile, what is known of them, and what is wanted."""
    first = first_class(settings, block.W.shape[class_dimension(settings, "W")])
    tile = tiles.tile(settings, block, tiles.divisors(settings, block, wide_dtype(block.X.dtype)), first)
    own = tiles.largest(tile)
    m = tiles.over_devices(settings, own)
    whole = tiles.whole(settings, block, m, tiles.sums(settings, tile, tiles.finite(m)))
    place = tiles.place_of_largest(settings, tile, own, first) if "prediction" in settings.rows else None
    return tile, whole, _wanted(settings, whole, place, own, m)


def _wanted(settings: Settings, whole: Whole, place: Array | None, own: Largest, m: Largest) -> ByName:
    rows = tiles.values(settings, whole)
    if place is not None:
        rows["prediction"] = tiles.prediction(settings, place, own, m)
    return {name: rows[name] for name in dict.fromkeys((*dict(settings.total), *settings.rows))}


def _row_gradient(settings: Settings, D: Array, block: Arrays) -> Array:
    """DWᵀ, D rounded to the dtype of X only now; apart, that of each of the parts in which the classes lie."""
    # Contractions and no `.T`: of a Wᵀ in a loop XLA makes a copy of W.
    rounded, W = D.astype(block.X.dtype), block.W.astype(block.X.dtype)
    axis = class_dimension(settings, "W")
    dimensions: Any = ((1,), (axis,)), ((), ())
    if settings.apart:
        rounded, W = in_parts(settings, "b", rounded), in_parts(settings, "W", W)
        dimensions = ((2,), (axis + 1,)), ((1,), (axis,))
    return lax.dot_general(rounded, W, dimensions, preferred_element_type=D.dtype)


def _rounded(settings: Settings, dX: Array, dtype: Any) -> Array:
    """In the dtype in which it is handed on, and between devices added up."""
    dX = dX.astype(_gradient_dtype(dtype))
    return lax.reduce(dX, jnp.zeros((), dX.dtype), lax.add, (0,)) if settings.apart else dX


def _weight_gradient(
    settings: Settings, D: Array, block: Arrays, dtype: Any, *, turned: bool = False, XT: Array | None = None
) -> ByName:
    """XᵀD, laid out as W is, "W"; or as the transpose of that, "WT". The name alone tells, since P may be C.

    A copy of Xᵀ makes the product 4 to 12 % faster on a CPU: XT, of many blocks of classes, or `turned`, of a block
    among many where there are classes enough.
    """
    product = partial(lax.dot_general, preferred_element_type=dtype)
    X, rounded = block.X, D.astype(block.X.dtype)
    P, C = X.shape[1], D.shape[1]
    if XT is not None:
        return {"W": product(XT, rounded, (((1,), (0,)), ((), ())))}
    if settings.transposed:
        return {"W": product(rounded, X, (((0,), (0,)), ((), ())))}
    # Each the fastest on a CPU, but for P near C, where DᵀX is by 7 %: turned round at the end, it would take a second
    # buffer of dL/dW's size, on jax 0.12 at least, and so twice the memory of the plain form.
    if P >= 2 * C:
        return {"WT": product(rounded, X, (((0,), (0,)), ((), ())))}
    if turned and C >= 2 * P:
        return {"W": product(lax.optimization_barrier(X.T), rounded, (((1,), (0,)), ((), ())))}
    return {"W": product(X, rounded, (((0,), (0,)), ((), ())))}


def _gradient_dtype(dtype: Any) -> Any:
    """In which a gradient is handed on: float16 does not hold what is multiplied by the largest coefficient later."""
    return wide_dtype(dtype) if jnp.finfo(dtype).maxexp <= 16 else dtype


def _over_rows(
    settings: Settings,
    size: int,
    function: Callable[[Arrays, ByName], tuple[ByName, ByName]],
    arrays: Arrays,
    by_row: ByName,
) -> tuple[ByName, ByName]:
    """`function` gives, of a block, sums over its rows and values row by row: the same of all rows.

    The first block takes what the others leave: nothing is padded, and the sums begin as sums.
    """
    arrays = arrays._replace(W=arrays.W.astype(arrays.X.dtype))
    num_rows = len(arrays.X)
    further = (num_rows - 1) // size
    first = num_rows - further * size
    own = {name: array for name in BY_ROW if (array := getattr(arrays, name)) is not None}

    # Only derivatives of the sweep itself, as a Hessian takes, see the checkpoint: they compute a block anew, and store
    # none.
    @partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
    def block(start: Array, length: int) -> tuple[ByName, ByName]:
        cut, others = jax.tree.map(lambda array: lax.dynamic_slice_in_dim(array, start, length), (own, by_row))
        return function(_without_uncounted(settings, arrays._replace(**cut)), others)

    sums, rows = block(jnp.int32(0), first)
    if not further:
        return sums, rows

    # Into one buffer, and not put together at the end: that would be another, and the first block's rows, computed
    # when they are asked for, would keep its logits until then.
    def place(whole: ByName, part: ByName, start: Any) -> ByName:
        return {name: lax.dynamic_update_slice_in_dim(whole[name], part[name], start, 0) for name in part}

    def step(found: tuple[ByName, ByName], start: Array) -> tuple[tuple[ByName, ByName], None]:
        (sums, rows), (block_sums, block_rows) = found, block(start, size)
        return (jax.tree.map(jnp.add, sums, block_sums), place(rows, block_rows, start)), None

    empty = {name: jnp.zeros((num_rows, *row.shape[1:]), row.dtype) for name, row in rows.items()}
    starts = first + size * jnp.arange(further, dtype=jnp.int32)
    found, _ = lax.scan(step, (sums, place(empty, rows, 0)), starts)
    return found


def _without_uncounted(settings: Settings, block: Arrays) -> Arrays:
    """Rows of weight 0 may hold anything: what is not finite in them is 0."""
    if not settings.masked:
        return block
    counts = (block.a != 0)[:, None]
    return block._replace(
        **{
            name: jnp.where(counts | jnp.isfinite(X), X, 0)
            for name in ("X", "teacher_X")
            if (X := getattr(block, name)) is not None
        }
    )


# --- By classes -------------------------------------------------------------------------------------------------------


def _by_classes(
    settings: Settings, moving: tuple[str, ...], arrays: Arrays, coefficients: ByName
) -> tuple[ByName, ByName]:
    arrays = _without_uncounted(settings, arrays)
    C, parts = sizes(settings, arrays)[2], settings.parts or 1
    size, length = classes_in_block(settings, arrays) // parts, C // parts  # of each part
    further = (length - 1) // size
    first, starts = length - further * size, length - size * jnp.arange(further, 0, -1, dtype=jnp.int32)
    divisor = tiles.divisors(settings, arrays, wide_dtype(arrays.X.dtype))
    offset = first_class(settings, C)

    by_class = {name: array for name in BY_CLASS if (array := getattr(arrays, name)) is not None}
    if divisor is not None:
        by_class["targets"] = arrays.targets
    divided = {name: in_parts(settings, name, array) for name, array in by_class.items()}

    def cut(start: Any, length: int) -> Tile:
        pieces = {
            name: lax.dynamic_slice_in_dim(array, start, length, within_parts(settings, name))
            for name, array in divided.items()
        }
        columns = {name: joined(settings, name, piece) for name, piece in pieces.items()}
        return tiles.tile(settings, arrays._replace(**columns), divisor, start + offset)

    # Log-sum-exp and its like, block after block, relative to the largest logit so far.
    @partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
    def of_block(start: Any, length: int) -> tuple[Largest, ByName, Array]:
        tile = cut(start, length)
        m = tiles.largest(tile)
        return m, tiles.sums(settings, tile, tiles.finite(m)), tiles.place_of_largest(settings, tile, m, start + offset)

    def add(known: Any, start: Any) -> tuple[Any, None]:
        (m, sums, place), (m_block, block_sums, block_place) = known, of_block(start, size)
        both = Largest(*(None if z is None else jnp.maximum(z, other) for z, other in zip(m, m_block, strict=True)))
        to = tiles.finite(both)
        sums = jax.tree.map(jnp.add, tiles.moved(settings, sums, m, to), tiles.moved(settings, block_sums, m_block, to))
        better = (m_block.Z > m.Z) | (jnp.isnan(m_block.Z) & ~jnp.isnan(m.Z))
        if settings.parts is not None:  # a later block may have an earlier class
            alike = (m_block.Z == m.Z) | (jnp.isnan(m_block.Z) & jnp.isnan(m.Z))
            better |= alike & (block_place < place)
        return (both, sums, jnp.where(better, block_place, place)), None

    known = of_block(jnp.int32(0), first)
    own, sums, place = lax.scan(add, known, starts)[0] if further else known
    m = tiles.over_devices(settings, own)
    whole = tiles.whole(settings, arrays, m, tiles.moved(settings, sums, own, tiles.finite(m)))
    rows = _wanted(settings, whole, place if "prediction" in settings.rows else None, own, m)
    if not moving:
        return rows, {}

    XT = lax.optimization_barrier(arrays.X.T) if further and "W" in moving and not settings.transposed else None

    # The logits again, and with D of a block all of its dL/dW and dL/db.
    @partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
    def gradients_of_block(start: Any, length: int) -> tuple[ByName, ByName]:
        tile = cut(start, length)
        D = tiles.logit_gradient(settings, tile, whole, coefficients)
        sums, by_class = {}, {}
        if "X" in moving:
            sums["X"] = _row_gradient(settings, D, tile.arrays)
        if "W" in moving:
            dW = _weight_gradient(settings, D, tile.arrays, _gradient_dtype(arrays.W.dtype), XT=XT)
            by_class["W"] = dW["W"] if "W" in dW else dW["WT"].T
        if "b" in moving:
            by_class["b"] = jnp.sum(D, axis=0, keepdims=True)
        return sums, by_class

    def place_in(whole: ByName, found: ByName, start: Any) -> ByName:
        pieces = {name: in_parts(settings, name, array) for name, array in found.items()}
        return {
            name: lax.dynamic_update_slice_in_dim(whole[name], piece, start, within_parts(settings, name))
            for name, piece in pieces.items()
        }

    def step(found: tuple[ByName, ByName], start: Any) -> tuple[tuple[ByName, ByName], None]:
        (sums, by_class), (block_sums, parts) = found, gradients_of_block(start, size)
        return (jax.tree.map(jnp.add, sums, block_sums), place_in(by_class, parts, start)), None

    sums, found = gradients_of_block(jnp.int32(0), first)
    if further:
        empty = {name: jnp.zeros(divided[name].shape, part.dtype) for name, part in found.items()}
        sums, found = lax.scan(step, (sums, place_in(empty, found, 0)), starts)[0]
        found = {name: joined(settings, name, array) for name, array in found.items()}
    if "X" in sums:
        sums["X"] = _rounded(settings, sums["X"], arrays.X.dtype)
    return rows, sums | found
