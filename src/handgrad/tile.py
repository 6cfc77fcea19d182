r"""A tile of the head: the logits of some rows and some classes, and all that is wanted of them while they are there.

Row i has the logits z = xW + b (with a cap κ: κ tanh(z/κ)), y = softmax(z), lse = log Σ_j exp(z_j), and the target
masses q_j = k_j ((1 − s) T_j + s/C), with class weights k and label smoothing s. Where S = Σ_j q_j and ζ is `z_loss`,

    ℓ = −Σ_j q_j log y_j + ζ lse² = S lse − Σ_j q_j z_j + ζ lse²

    dℓ/dz = (S + 2ζ lse) y − q                      without k, s and ζ the one line, Y − T

and the other values of a row have gradients too, with H = −Σ_j y_j log y_j:

    d lse/dz = y        d(Σ_j T_j log y_j)/dz = T − (Σ_j T_j) y        dH/dz = −y ∘ (log y + H)

A teacher has logits of its own, v. With y_τ = softmax(z/τ) and u = softmax(v/τ), its divergence has the gradient

    KL(u ‖ y_τ) = Σ_j u_j (log u_j − log y_τj)                                    dKL/dz = (y_τ − u)/τ

Every value comes from sums over the classes, relative to the largest logit: so tiles can be added up, and devices.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from handgrad.head import (
    Array,
    Arrays,
    ByName,
    Maybe,
    Settings,
    largest_over_classes,
    sum_over_classes,
)
from handgrad.precision import distribution_tolerance, wide_dtype

_sum = partial(jnp.sum, axis=1, keepdims=True)


class Tile(NamedTuple):
    """Logits (rows, classes) in float32 or wider, the teacher's beside them, and the target masses T."""

    arrays: Arrays
    Z: Array
    teacher: Maybe
    T: Maybe
    here: Maybe  # (rows, 1): a label's place in the tile; None where targets are no labels


class Largest(NamedTuple):
    """The largest logit of each row (rows, 1); −∞ where a mask leaves none."""

    Z: Array
    teacher: Maybe


class Whole(NamedTuple):
    """What is known of whole rows: sums over all classes, with V = z − m, of E = exp(V), EV, T, TV, q, qV.

    And beside a teacher, of S = exp(V/τ), U = exp((v − m)/τ), and U times the difference of these exponents, "UV".
    """

    m: Largest  # what the sums are relative to: finite, for a row whose classes are all masked too
    sums: ByName
    log_total: Array  # lse − m


def tile(settings: Settings, arrays: Arrays, divisor: Array | None, first: Any = 0) -> Tile:
    """The tile of some rows and some classes, of which `first` is the place among this device's."""
    Z = _logits(settings, arrays.X, arrays.W, arrays.b)
    teacher = None
    if arrays.teacher_X is not None:
        # In the student's dtype from here on: τ² KL is off by τ² times the rounding of u's sum.
        teacher = _logits(settings, arrays.teacher_X, arrays.teacher_W, arrays.teacher_b).astype(Z.dtype)
    if settings.masked:
        counts = (arrays.a != 0)[:, None]
        Z, teacher = (
            None if z is None else jnp.where(counts | jnp.isneginf(z) | jnp.isfinite(z), z, 0) for z in (Z, teacher)
        )
    T = here = None
    if divisor is not None:
        T = arrays.targets.astype(Z.dtype)
        T = jnp.where(jnp.isposinf(divisor), 0, T / divisor)
    elif arrays.targets is not None:
        # Compared with the classes rather than scattered: a comparison fuses into what reads T, which is never stored.
        here = _place(settings, arrays.targets[:, None] - first, Z.shape[1])
        T = (here == jnp.arange(Z.shape[1], dtype=here.dtype)[None, :]).astype(Z.dtype)
    return Tile(arrays, Z, teacher, T, here)


def _place(settings: Settings, here: Array, columns: int) -> Array:
    """A class's place in a tile, from what it is beyond the tile's first class; outside of it where it has no place."""
    if settings.parts is None:
        return here
    step, length = settings.num_classes // settings.parts, columns // settings.parts
    return jnp.where(here % step < length, here // step * length + here % step, -1)


def _beyond_first(settings: Settings, place: Array, columns: int) -> Array:
    """And back."""
    if settings.parts is None:
        return place
    step, length = settings.num_classes // settings.parts, columns // settings.parts
    return place // length * step + place % length


def _logits(settings: Settings, X: Array, W: Array, b: Array | None) -> Array:
    contracted = (((1,), (1 if settings.transposed else 0,)), ((), ()))
    W = W.astype(X.dtype)
    Z = lax.dot_general(X, W, contracted, preferred_element_type=wide_dtype(X.dtype))
    if b is not None:
        Z += b.astype(Z.dtype)
    if settings.softcap is None:
        return Z
    # κ tanh(z/κ), and −∞ for a class that b masks. NaN for another infinite logit, of which tanh would make κ.
    cap = settings.softcap
    capped = jnp.where(jnp.isfinite(Z), cap * jnp.tanh(Z / cap), math.nan)
    return capped if b is None else jnp.where(jnp.isneginf(b) & ~jnp.isnan(Z), -math.inf, capped)


def divisors(settings: Settings, arrays: Arrays, dtype: Any) -> Array | None:
    """What rows of distributions are divided by, (rows, 1): their sums, which may be a little off 1; None for labels.

    The loss and its gradient are of the same T. As in `formulas`, a row that counts and is no distribution is NaN; one
    that does not count has no mass, ∞.
    """
    if arrays.targets is None or arrays.targets.ndim == 1:
        return None
    T = arrays.targets.astype(dtype)
    total, negative = sum_over_classes(settings, (_sum(T), _sum((T < 0).astype(dtype))))
    valid = (negative == 0) & (jnp.abs(total - 1) <= distribution_tolerance(jnp.finfo(arrays.targets.dtype)))
    return jnp.where(valid, total, jnp.where((arrays.a == 0)[:, None], math.inf, math.nan))


def _masses(settings: Settings, tile: Tile) -> Array:
    """Q = k ∘ ((1 − s) T + s/C)."""
    s, T = settings.label_smoothing, tile.T
    if s:
        T = (1 - s) * T + s / settings.num_classes
    return T if tile.arrays.k is None else T * tile.arrays.k


# --- Sums over classes --------------------------------------------------------------------------------------------


def largest(tile: Tile) -> Largest:
    """Whatever is subtracted, the results are the same: the maximum has no derivative."""
    return Largest(*(None if z is None else lax.stop_gradient(jnp.max(z, 1, keepdims=True)) for z in tile[1:3]))


def finite(m: Largest) -> Largest:
    """To be subtracted: 0 where all classes are masked."""
    return Largest(*(None if z is None else jnp.where(jnp.isneginf(z), 0, z) for z in m))


def sums(settings: Settings, tile: Tile, m: Largest) -> ByName:
    """The tile's share of the sums of `Whole`."""
    V, wanted = tile.Z - m.Z, {*settings.rows, *dict(settings.total)}
    E = jnp.exp(V)
    found = {"E": _sum(E)}
    if tile.T is not None and wanted & {"loss", "log_probability"}:
        found |= _target_sums(settings, tile, m.Z)
    if "entropy" in wanted:
        found["EV"] = _sum(_times(E, V))
    if "divergence" in wanted:
        V /= settings.temperature
        V_teacher = (tile.teacher - m.teacher) / settings.temperature
        U = jnp.exp(V_teacher)
        found |= {"S": _sum(jnp.exp(V)), "U": _sum(U), "UV": _sum(_times(U, V_teacher - V))}
    return found


def _target_sums(settings: Settings, tile: Tile, m: Array) -> ByName:
    s, k, V = settings.label_smoothing, tile.arrays.k, tile.Z - m
    if tile.here is None:
        q = _masses(settings, tile)
        return {"T": _sum(tile.T), "TV": _sum(_times(tile.T, V)), "q": _sum(q), "qV": _sum(_times(q, V))}
    inside = (tile.here >= 0) & (tile.here < V.shape[1])
    t = jnp.where(inside, tile.here, 0)
    # From Z, which is stored, and not from V, which then would be.
    V_t = jnp.where(inside, jnp.take_along_axis(tile.Z, t, axis=1) - m, 0)
    q_t = (1 - s) * inside.astype(V.dtype) if k is None else (1 - s) * jnp.where(inside, k[0, t], 0)
    found = {"T": inside.astype(V.dtype), "TV": V_t, "q": q_t, "qV": _times(q_t, V_t)}
    if s:
        others = _masses(settings, tile._replace(T=jnp.zeros_like(V)))
        found["q"] += _sum(others)
        found["qV"] += _sum(_times(others, V))
    return found


def moved(settings: Settings, sums: ByName, m: Largest, to: Largest) -> ByName:
    """Sums relative to other largest logits: exp(z − m') = exp(z − m) exp(m − m'), and V' = V + (m − m')."""
    by, factor = _shift(m.Z, to.Z)
    found = dict(sums, E=factor * sums["E"])
    if "EV" in sums:
        found["EV"] = factor * (sums["EV"] + sums["E"] * by)
    if "q" in sums:
        found |= {"TV": sums["TV"] + sums["T"] * by, "qV": sums["qV"] + sums["q"] * by}
    if "U" in sums:
        by, factor = _shift(m.Z, to.Z, settings.temperature)
        by_teacher, of_teacher = _shift(m.teacher, to.teacher, settings.temperature)
        found |= {"S": factor * sums["S"], "U": of_teacher * sums["U"]}
        found["UV"] = of_teacher * (sums["UV"] + sums["U"] * (by_teacher - by))
    return found


def _shift(m: Array, to: Array, temperature: float = 1.0) -> tuple[Array, Array]:
    by = (jnp.where(jnp.isneginf(m), 0, m) - to) / temperature
    return by, jnp.where(jnp.isneginf(m), 0, jnp.exp(by))


def whole(settings: Settings, arrays: Arrays, m: Largest, sums: ByName) -> Whole:
    """What is known of whole rows, once m is that of all classes and the sums are those of a device's."""
    labels = arrays.targets is not None and arrays.targets.ndim == 1
    if labels and arrays.k is None and "q" in sums:
        # What every device knows is not sent.
        T = ((arrays.targets >= 0) & (arrays.targets < settings.num_classes))[:, None].astype(m.Z.dtype)
        s = settings.label_smoothing
        known = {"T": T, "q": (1 - s) * T + s if s else T}
        sums = {name: array for name, array in sums.items() if name not in known}
        sums = sum_over_classes(settings, sums) | known
    else:
        sums = sum_over_classes(settings, sums)
    if settings.masked:  # a row that does not count may have all its classes masked
        empty = (arrays.a == 0)[:, None] & (jnp.isneginf(m.Z) if m.teacher is None else jnp.isneginf(m.Z + m.teacher))
        sums = {name: jnp.where(empty, float(name in "ESU"), array) for name, array in sums.items()}
    return Whole(finite(m), sums, jnp.log(sums["E"]))


def over_devices(settings: Settings, m: Largest) -> Largest:
    """The largest logits of all classes."""
    return Largest(*(None if z is None else largest_over_classes(settings, z) for z in m))


def _times(p: Array, V: Array) -> Array:
    """PV, 0 where p is 0 though V be −∞. The inner `where` keeps NaN out of a derivative taken through it."""
    return p * jnp.where(p == 0, 0, V)


# --- Values by row, and their gradients -------------------------------------------------------------------------------


def values(settings: Settings, whole: Whole) -> ByName:
    """What is wanted of each row, and what the total is made of, (rows,); the prediction apart."""
    sums, log_total = whole.sums, whole.log_total
    lse = whole.m.Z + log_total
    rows = {"log_sum_exp": lse}
    if "q" in sums:
        rows["loss"] = sums["q"] * log_total - sums["qV"]
        if settings.z_loss:  # lse² is infinite where lse is 1e20
            rows["loss"] += settings.z_loss * lse**2
        rows["log_probability"] = sums["TV"] - sums["T"] * log_total
    if "EV" in sums:
        rows["entropy"] = log_total - sums["EV"] / sums["E"]
    if "U" in sums:
        # Σ u (log u − log y_τ), with the logits' difference over τ, less log ΣU and log ΣS
        rows["divergence"] = sums["UV"] / sums["U"] + jnp.log(sums["S"]) - jnp.log(sums["U"])
    return {name: row[:, 0] for name, row in rows.items()}


def place_of_largest(settings: Settings, tile: Tile, m: Largest, first: Any) -> Array:
    """The class (rows, 1) of the largest logit, the first where several share it, or of the first that is NaN."""
    # No argmax: within a partition of float64 JAX gives it a float32 to begin with.
    classes = jnp.arange(tile.Z.shape[1], dtype=jnp.int32)[None, :]
    is_largest = (tile.Z == m.Z) | jnp.isnan(tile.Z)
    place = jnp.min(jnp.where(is_largest, classes, tile.Z.shape[1] - 1), axis=1, keepdims=True)
    return _beyond_first(settings, place, tile.Z.shape[1]) + first


def prediction(settings: Settings, own: Array, m: Largest, m_all: Largest) -> Array:
    """The first class of the largest logit (rows,), from the first (rows, 1) among this device's."""
    if settings.class_axis is not None:
        C = settings.num_classes
        own = jnp.where(jnp.isnan(m.Z), own - C, jnp.where(m.Z == m_all.Z, own, C))  # one that is NaN before others
        own = lax.pmin(own, settings.class_axis) % C
    # As a floating number, exact up to 2²⁴ classes: the tangent of an integer has no place in a shard_map.
    return own[:, 0].astype(m.Z.dtype)


def logit_gradient(settings: Settings, tile: Tile, whole: Whole, coefficients: ByName) -> Array:
    """D = Σ_values c dvalue/dz for coefficients c (rows,), taken through the cap to the logits xW + b."""
    sums, V = whole.sums, tile.Z - whole.m.Z
    c = {name: coefficient[:, None] for name, coefficient in coefficients.items()}
    E, of_Y = jnp.exp(V), 0.0
    terms = []
    if "loss" in c:
        lse = whole.m.Z + whole.log_total
        of_Y += c["loss"] * (sums["q"] + 2 * settings.z_loss * lse)
        terms.append(-c["loss"] * _masses(settings, tile))
    if "log_sum_exp" in c:
        of_Y += c["log_sum_exp"]
    if "log_probability" in c:
        of_Y -= c["log_probability"] * sums["T"]
        terms.append(c["log_probability"] * tile.T)
    D = (of_Y / sums["E"]) * E
    for term in terms:
        D += term
    if "entropy" in c:
        H = whole.log_total - sums["EV"] / sums["E"]
        D -= (c["entropy"] / sums["E"]) * _times(E, V - whole.log_total + H)
    if "divergence" in c:
        c_divergence, tau = c["divergence"] / settings.temperature, settings.temperature
        U = jnp.exp((tile.teacher - whole.m.teacher) / tau)
        D += (c_divergence / sums["S"]) * jnp.exp(V / tau) - (c_divergence / sums["U"]) * U
    if settings.softcap is None:
        return D
    # d κ tanh(z/κ)/dz = 1 − tanh²(z/κ)
    return (1 - jnp.where(jnp.isneginf(tile.Z), 1, tile.Z / settings.softcap) ** 2) * D
