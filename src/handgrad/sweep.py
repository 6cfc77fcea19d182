r"""The sweep under the fused head: Σ_i a_i ℓ_i and values by row, with all derivatives.

The coefficients a of L = Σ_i a_i ℓ_i, a row's weight over the normaliser, are known before the sweep. A block that has
y therefore has D = dL/dZ, D_i = a_i dℓ_i/dz_i, and at once every gradient:

    dL/dX = DWᵀ        dL/dW = XᵀD        dL/db = 1ᵀD        dL/da = ℓ

What is wanted row by row, whose cotangents only a later sweep knows, has its tangents from a sweep of its own, and the
transpose of that is the first again, with the cotangents in the place of a.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from handgrad.head import Array, Arrays, ByName, Settings, sum_over_classes
from handgrad.precision import widen
from handgrad.spread import gradients, row_tangents


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def sweep(settings: Settings, arrays: Arrays) -> tuple[Array | None, ByName]:
    """Σ aℓ, or None, and what is wanted of each row. One product."""
    rows, _ = gradients(settings, (), arrays, {})
    return _total(settings, arrays.a, rows), {name: rows[name] for name in settings.rows}


@partial(sweep.defjvp, symbolic_zeros=True)
def _sweep_jvp(settings: Settings, primals: tuple[Arrays], tangents: tuple[Arrays]) -> Any:
    """The tangent of Σ aℓ is ⟨dL/dX, Ẋ⟩ + ⟨dL/dW, Ẇ⟩ + ⟨dL/db, ḃ⟩ + ⟨ℓ, ȧ⟩; reverse mode is this line transposed.

    A tangent that is a symbolic zero, of a side that is frozen, takes its product and its buffer with it.
    """
    (arrays,), (tangent,) = primals, tangents
    moving = {name: t for name, t in tangent._asdict().items() if t is not None and not isinstance(t, SymbolicZero)}
    a_tangent = moving.pop("a", None)
    for name in moving.keys() - {"X", "W", "b"}:
        argument = {"k": "class_weights", "teacher_b": "teacher_bias"}.get(name, name)
        raise TypeError(
            f"linear_{'distillation' if name.startswith('teacher') else 'cross_entropy'}: {argument} must not depend "
            "on what is differentiated; got a tangent for it. Wrap it in jax.lax.stop_gradient."
        )
    coefficients = {name: factor * arrays.a for name, factor in settings.total}
    rows, found = gradients(settings, tuple(moving) if coefficients else (), arrays, coefficients)
    total, total_tangent = _total(settings, arrays.a, rows), None
    if total is not None:
        inner = [jnp.sum(widen(jnp, found[name]) * widen(jnp, t)) for name, t in moving.items()]
        terms = [sum_over_classes(settings, sum(inner[1:], inner[0]))] if inner else []
        terms += [] if a_tangent is None else [jnp.sum(sum_of(settings.total, rows) * a_tangent)]
        total_tangent = sum(terms[1:], terms[0])
    rows = {name: rows[name] for name in settings.rows}
    tangents_of_rows = {name: jnp.zeros_like(row) for name, row in rows.items()}
    names = tuple(name for name in rows if name != "prediction")
    if moving and names:
        tangents_of_rows |= row_tangents(settings, names, arrays, moving)
    return (total, rows), (total_tangent, tangents_of_rows)


def _total(settings: Settings, a: Array, rows: ByName) -> Array | None:
    return jnp.sum(weigh(a, sum_of(settings.total, rows))) if settings.total else None


def sum_of(total: tuple[tuple[str, float], ...], rows: ByName) -> Array:
    """The loss of each row: values by row times their factors."""
    terms = [rows[name] if factor == 1 else factor * rows[name] for name, factor in total]
    return sum(terms[1:], terms[0])


def weigh(a: Array, losses: Array) -> Array:
    """aℓ, 0 where a is 0 though ℓ be infinite; a finite ℓ stays the derivative there."""
    return a * jnp.where((a == 0) & ~jnp.isfinite(losses), 0, losses)
