r"""The sweep under `handgrad.fused`: blocks of rows, and all that is wanted of a block while its logits are there.

Row i has the logits z = xW + b (with a cap κ: κ tanh(z/κ)), y = softmax(z), lse = log Σ_j exp(z_j), and the target
masses q_j = k_j ((1 − s) T_j + s/C), with class weights k and label smoothing s. Where S = Σ_j q_j and ζ is `z_loss`,

    ℓ = −Σ_j q_j log y_j + ζ lse² = S lse − Σ_j q_j z_j + ζ lse²

    dℓ/dz = (S + 2ζ lse) y − q                      without k, s and ζ the one line, Y − T

The coefficients a of L = Σ_i a_i ℓ_i, a row's weight over the normaliser, are known before the sweep. A block that has
y therefore has D = dL/dZ, D_i = a_i dℓ_i/dz_i, and at once every gradient, with no array of N×C elements:

    dL/dX = DWᵀ        dL/dW = XᵀD        dL/db = 1ᵀD        dL/da = ℓ

What is wanted row by row, whose cotangents only a later sweep knows, has its gradient too, with H = −Σ_j y_j log y_j:

    d lse/dz = y        d(Σ_j T_j log y_j)/dz = T − (Σ_j T_j) y        dH/dz = −y ∘ (log y + H)
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from handgrad.head import Arrays, Settings, first_class, num_shards, sum_over_classes
from handgrad.precision import distribution_tolerance, wide_dtype, widen

Array = Any
ByName = dict[str, Any]
_sum = partial(jnp.sum, axis=1, keepdims=True)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def sweep(settings: Settings, arrays: Arrays) -> tuple[Array | None, ByName]:
    """Σ aℓ, or None, and what is wanted of each row. One product."""
    sums, rows = _over_blocks(settings, lambda block: _values(settings, _softmax(settings, block)), arrays)
    return sums.get("total"), {name: rows[name] for name in settings.rows}


@partial(sweep.defjvp, symbolic_zeros=True)
def _sweep_jvp(settings: Settings, primals: tuple[Arrays], tangents: tuple[Arrays]) -> Any:
    """The tangent of Σ aℓ is ⟨dL/dX, Ẋ⟩ + ⟨dL/dW, Ẇ⟩ + ⟨dL/db, ḃ⟩ + ⟨ℓ, ȧ⟩; reverse mode is this line transposed.

    A tangent that is a symbolic zero, of a side that is frozen, takes its product and its buffer with it.
    """
    (arrays,), (tangent,) = primals, tangents
    moving = {name: t for name, t in tangent._asdict().items() if t is not None and not isinstance(t, SymbolicZero)}
    for name, argument in (("targets", "targets"), ("k", "class_weights")):
        if name in moving:
            raise TypeError(
                f"linear_cross_entropy: {argument} must not depend on what is differentiated; got a tangent for it. "
                "Wrap it in jax.lax.stop_gradient."
            )
    a_tangent = moving.pop("a", None)
    scale = _scale(arrays)

    def values_and_gradients(block: Arrays) -> tuple[ByName, ByName]:
        softmax = _softmax(settings, block)
        sums, rows = _values(settings, softmax)
        if settings.total:
            D = _loss_gradient(settings, softmax, block.a[:, None] / scale)
            gradient_rows, gradient_sums = _linear_backward(block, D, moving)
            sums, rows = sums | gradient_sums, rows | gradient_rows
        return sums, rows

    sums, rows = _over_blocks(settings, values_and_gradients, arrays)
    total_tangent = None
    if settings.total:
        gradients = sums | rows
        if "WT" in gradients:
            gradients["W"] = lax.optimization_barrier(gradients.pop("WT")).T
        inner = [scale * jnp.sum(gradients[name] * widen(jnp, t)) for name, t in moving.items()]
        terms = [sum_over_classes(settings, sum(inner[1:], inner[0]))] if inner else []
        terms += [] if a_tangent is None else [jnp.sum(rows["loss"] * a_tangent)]
        total_tangent = sum(terms[1:], terms[0])
    rows = {name: rows[name] for name in settings.rows}
    return (sums.get("total"), rows), (total_tangent, _row_tangents(settings, arrays, moving, rows))


def _scale(arrays: Arrays) -> Any:
    """1; in float16, where a small D would be lost, the largest a, by which the gradients are multiplied afterwards."""
    if jnp.finfo(arrays.X.dtype).maxexp > 16:
        return 1.0
    largest = lax.stop_gradient(jnp.max(jnp.abs(arrays.a)))
    return jnp.where(largest == 0, 1.0, largest)


def _row_tangents(settings: Settings, arrays: Arrays, moving: ByName, rows: ByName) -> ByName:
    """⟨d row/dz, ż⟩ with ż = ẋW + xẆ + ḃ, for what is wanted row by row. It costs nothing where it is not used.

    Reverse mode transposes this sweep. So its products are between arrays of X's dtype, and Ẇ is widened outside the
    blocks: then its transpose, dL/dW, is summed over the blocks in float32.
    """
    tangents: ByName = {name: jnp.zeros_like(row) for name, row in rows.items()}
    names = [name for name in rows if name != "prediction"]
    whole = {name: widen(jnp, moving[name]) for name in ("W", "b") if name in moving}

    def block_tangents(block: Arrays, *dX: Array) -> tuple[ByName, ByName]:
        gradients = _row_gradients(settings, _softmax(settings, block))
        terms = [widen(jnp, dx @ block.W) for dx in dX]
        terms += [widen(jnp, block.X @ whole["W"].astype(block.X.dtype))] if "W" in whole else []
        terms += [jnp.broadcast_to(whole["b"], gradients["loss"].shape)] if "b" in whole else []
        dZ = sum(terms[1:], terms[0])
        return {}, {name: sum_over_classes(settings, jnp.sum(gradients[name] * dZ, axis=1)) for name in names}

    if moving and names:
        _, moved = _over_blocks(settings, block_tangents, arrays, *([moving["X"]] if "X" in moving else []))
        tangents |= moved
    return tangents


# --- Blocks of rows -----------------------------------------------------------------------------------------------


def _over_blocks(
    settings: Settings, function: Callable[..., tuple[ByName, ByName]], arrays: Arrays, *by_row: Array
) -> tuple[ByName, ByName]:
    """`function` gives, of a block, sums over its rows and values row by row: the same of all rows.

    The first block takes what the others, of `block_size` rows, leave: nothing is padded, and the sums begin as sums.
    """
    num_rows, size = arrays.X.shape[0], settings.block_size
    further = (num_rows - 1) // size
    first = num_rows - further * size

    # Only derivatives of the sweep itself, as a Hessian takes, see the checkpoint: they compute a block anew, and store
    # none.
    @partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
    def block(start: Array, length: int) -> tuple[ByName, ByName]:
        X, a, targets, *others = (
            lax.dynamic_slice_in_dim(array, start, length) for array in (arrays.X, arrays.a, arrays.targets, *by_row)
        )
        if settings.masked:
            X = jnp.where((a != 0)[:, None] | jnp.isfinite(X), X, 0)
        return function(arrays._replace(X=X, a=a, targets=targets), *others)

    sums, rows = block(jnp.int32(0), first)
    if not further:
        return sums, rows

    def step(sums: ByName, start: Array) -> tuple[ByName, ByName]:
        block_sums, block_rows = block(start, size)
        return jax.tree.map(jnp.add, sums, block_sums), block_rows

    sums, further_rows = lax.scan(step, sums, first + size * jnp.arange(further, dtype=jnp.int32))
    return sums, {
        name: jnp.concatenate([row, further_rows[name].reshape(-1, *row.shape[1:])]) for name, row in rows.items()
    }


# --- One block ----------------------------------------------------------------------------------------------------


class _Softmax(NamedTuple):
    """A block with its logits and what softmax makes of them: (rows, C), and (rows, 1) for what is of a whole row."""

    block: Arrays
    T: Array
    Z: Array
    m: Array  # the row's largest logit
    E: Array  # exp(Z − m)
    sums: ByName  # over all classes, with V = Z − m: of E, EV, T, TV, q, qV
    log_total: Array  # lse − m


def _softmax(settings: Settings, block: Arrays) -> _Softmax:
    Z = jnp.matmul(block.X, block.W, preferred_element_type=wide_dtype(block.X.dtype))
    if block.b is not None:
        Z += block.b.astype(Z.dtype)
    if settings.softcap is not None:
        Z = _cap(settings.softcap, Z, block.b)
    if settings.masked:
        counts = (block.a != 0)[:, None]
        Z = jnp.where(counts | jnp.isneginf(Z) | jnp.isfinite(Z), Z, 0)
    # Whatever is subtracted, the results are the same: the maximum has no derivative.
    m = lax.stop_gradient(jnp.max(Z, axis=1, keepdims=True))
    if settings.class_axis is not None:
        m = lax.pmax(m, settings.class_axis)
    if settings.masked:  # a row that does not count may have all its classes masked, those of one device any row
        counts |= jnp.isfinite(m)
        Z, m = jnp.where(counts, Z, 0), jnp.where(counts, m, 0)
    E = jnp.exp(Z - m)
    T, sums = _targets(settings, block, Z, m)
    sums["E"] = _sum(E)
    if "entropy" in settings.rows:
        sums["EV"] = _sum(_times(E, Z - m))
    sums = sum_over_classes(settings, sums)
    return _Softmax(block, T, Z, m, E, sums, jnp.log(sums["E"]))


def _cap(cap: float, Z: Array, b: Array | None) -> Array:
    """κ tanh(z/κ), and −∞ for a class that b masks. NaN for another infinite logit, of which tanh would make κ."""
    capped = jnp.where(jnp.isfinite(Z), cap * jnp.tanh(Z / cap), math.nan)
    return capped if b is None else jnp.where(jnp.isneginf(b) & ~jnp.isnan(Z), -math.inf, capped)


def _targets(settings: Settings, block: Arrays, Z: Array, m: Array) -> tuple[Array, ByName]:
    """T, and this device's share of its sums over the classes."""
    s, k = settings.label_smoothing, block.k
    if block.targets.ndim == 2:
        T = _distributions(settings, block, Z.dtype)
        q = _masses(settings, block, T)
        sums = {"T": T, "TV": _times(T, Z - m), "q": q, "qV": _times(q, Z - m)}
        return T, {name: _sum(array) for name, array in sums.items()}
    t = block.targets[:, None] - first_class(settings, Z.shape[1])
    # Compared with the classes rather than scattered: a comparison fuses into what reads T, which is never stored.
    T = (t == jnp.arange(Z.shape[1], dtype=t.dtype)[None, :]).astype(Z.dtype)
    here = (t >= 0) & (t < Z.shape[1])
    t = jnp.where(here, t, 0)
    V_t = jnp.where(here, jnp.take_along_axis(Z, t, axis=1) - m, 0)
    q_t = (1 - s) * here.astype(Z.dtype) if k is None else (1 - s) * jnp.where(here, k[0, t], 0)
    sums = {"T": here.astype(Z.dtype), "TV": V_t, "q": q_t, "qV": _times(q_t, V_t)}
    if s:
        others = _masses(settings, block, jnp.zeros_like(Z))
        sums["q"] += _sum(others)
        sums["qV"] += _sum(_times(others, Z - m))
    return T, sums


def _distributions(settings: Settings, block: Arrays, dtype: Any) -> Array:
    """Rows of T divided by their sums, which may be a little off 1: the loss and its gradient are of the same T.

    As in `formulas`, a row that counts and is no distribution is NaN.
    """
    T = block.targets.astype(dtype)
    total, negative = sum_over_classes(settings, (_sum(T), _sum((T < 0).astype(dtype))))
    valid = (negative == 0) & (jnp.abs(total - 1) <= distribution_tolerance(jnp.finfo(block.targets.dtype)))
    return jnp.where(valid, T / total, jnp.where((block.a == 0)[:, None], 0, math.nan))


def _masses(settings: Settings, block: Arrays, T: Array) -> Array:
    """Q = k ∘ ((1 − s) T + s/C)."""
    s = settings.label_smoothing
    if s:
        T = (1 - s) * T + s / (T.shape[1] * num_shards(settings))
    return T if block.k is None else T * block.k


def _values(settings: Settings, softmax: _Softmax) -> tuple[ByName, ByName]:
    """Σ aℓ, and ℓ and what is wanted besides, row by row."""
    sums, log_total = softmax.sums, softmax.log_total
    lse = softmax.m + log_total
    rows = {"loss": sums["q"] * log_total - sums["qV"] + settings.z_loss * lse**2, "log_sum_exp": lse}
    rows["log_probability"] = sums["TV"] - sums["T"] * log_total
    if "entropy" in settings.rows:
        rows["entropy"] = log_total - sums["EV"] / sums["E"]
    rows = {name: row[:, 0] for name, row in rows.items()}
    if "prediction" in settings.rows:
        # As a floating number, exact up to 2²⁴ classes: the tangent of an integer has no place in a shard_map.
        rows["prediction"] = _prediction(settings, softmax).astype(softmax.Z.dtype)
    return {"total": jnp.sum(weigh(softmax.block.a, rows["loss"]))} if settings.total else {}, rows


def weigh(a: Array, losses: Array) -> Array:
    """aℓ, 0 where a is 0 though ℓ be infinite; a finite ℓ stays the derivative there."""
    return a * jnp.where((a == 0) & ~jnp.isfinite(losses), 0, losses)


def _prediction(settings: Settings, softmax: _Softmax) -> Array:
    """The first class of the largest logit."""
    prediction = jnp.argmax(softmax.Z, axis=1).astype(jnp.int32)
    if settings.class_axis is None:
        return prediction
    num_classes = softmax.Z.shape[1]
    largest = jnp.max(softmax.Z, axis=1) == softmax.m[:, 0]
    prediction += first_class(settings, num_classes)
    return lax.pmin(jnp.where(largest, prediction, num_classes * num_shards(settings)), settings.class_axis)


def _loss_gradient(settings: Settings, softmax: _Softmax, a: Any) -> Array:
    """D = a ((S + 2ζ lse) y − q), taken through the cap to the logits xW + b."""
    sums = softmax.sums
    lse = softmax.m + softmax.log_total
    D = (a * (sums["q"] + 2 * settings.z_loss * lse) / sums["E"]) * softmax.E
    return _slope(settings, softmax) * (D - a * _masses(settings, softmax.block, softmax.T))


def _row_gradients(settings: Settings, softmax: _Softmax) -> ByName:
    """The gradient of each row's values with respect to its logits xW + b."""
    Y = softmax.E / softmax.sums["E"]
    log_Y = softmax.Z - softmax.m - softmax.log_total
    gradients = {"log_sum_exp": Y, "log_probability": softmax.T - softmax.sums["T"] * Y}
    if "entropy" in settings.rows:
        H = softmax.log_total - softmax.sums["EV"] / softmax.sums["E"]
        gradients["entropy"] = -_times(Y, log_Y + H)
    gradients = {name: _slope(settings, softmax) * gradient for name, gradient in gradients.items()}
    return gradients | {"loss": _loss_gradient(settings, softmax, 1.0)}


def _slope(settings: Settings, softmax: _Softmax) -> Any:
    """Of the cap: d κ tanh(z/κ)/dz = 1 − tanh²(z/κ)."""
    if settings.softcap is None:
        return 1.0
    return 1 - jnp.where(jnp.isneginf(softmax.Z), 1, softmax.Z / settings.softcap) ** 2


def _linear_backward(block: Arrays, D: Array, moving: ByName) -> tuple[ByName, ByName]:
    """Of a block, dL/dX = DWᵀ row by row, and the sums dL/dW = XᵀD and dL/db = 1ᵀD, as far as they are wanted.

    dL/dW is "W", or as DᵀX its transpose, "WT": the name alone tells, since P may be C. D is rounded to the dtype of X
    only now; what it is multiplied to stays wide.
    """
    # Contractions and no `.T`: of a Wᵀ in a loop XLA makes a copy of W.
    product = partial(lax.dot_general, preferred_element_type=D.dtype)
    rounded = D.astype(block.X.dtype)
    rows, sums = {}, {}
    if "X" in moving:
        rows["X"] = product(rounded, block.W, (((1,), (1,)), ((), ())))
    if "W" in moving:
        P, C = block.W.shape
        # Each the fastest on a CPU, but for P near C, where DᵀX is by 7 %: turned round at the end, it would take a
        # second buffer of dL/dW's size, on jax 0.12 at least, and so twice the memory of the plain form.
        if P >= 2 * C:
            sums["WT"] = product(rounded, block.X, (((0,), (0,)), ((), ())))
        elif C >= 2 * P:
            sums["W"] = product(lax.optimization_barrier(block.X.T), rounded, (((1,), (0,)), ((), ())))
        else:
            sums["W"] = product(block.X, rounded, (((0,), (0,)), ((), ())))
    if "b" in moving:
        sums["b"] = jnp.sum(D, axis=0, keepdims=True)
    return rows, sums


def _times(p: Array, V: Array) -> Array:
    """PV, 0 where p is 0 though V be −∞. The inner `where` keeps NaN out of a derivative taken through it."""
    return p * jnp.where(p == 0, 0, V)
