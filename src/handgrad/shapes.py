"""The shapes in signatures: jaxtyping's where something has imported it, as its hook and type checkers do.

Elsewhere stand-ins show the same text and check nothing: importing jaxtyping takes a tenth of the time of importing jax
and optax together, and nothing at run time needs it.
"""

import sys
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING or "jaxtyping" in sys.modules:
    from jaxtyping import Bool, Float, Int, Integer, Shaped
else:

    class Float:
        """`Float[Array, "N C"]`: floating, of shape (N, C)."""

        def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
            array_type, shape = item
            return Annotated[array_type, f"{cls.__name__} ({', '.join(shape.split())})"]

    class Bool(Float):
        """`Bool[Array, "N"]`: true or false."""

    class Int(Float):
        """`Int[Array, "N"]`: of a signed integer dtype."""

    class Integer(Float):
        """`Integer[Array, "N"]`: of any integer dtype."""

    class Shaped(Float):
        """`Shaped[Array, "N"]`: of any dtype."""


__all__ = ["Bool", "Float", "Int", "Integer", "Shaped"]
