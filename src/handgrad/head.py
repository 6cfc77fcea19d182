"""What the sweep of the head is given, and the classes that lie over devices."""

from typing import Any, NamedTuple

from jax import lax

Array = Any
Maybe = Any  # an array, or None
ByName = dict[str, Any]


class Settings(NamedTuple):
    """What is known when the sweep is compiled."""

    num_classes: int  # C, those of all devices
    total: tuple[tuple[str, float], ...]  # L = Σ a Σ factor · value, of which values by row and by which factors
    rows: tuple[str, ...]  # which of loss, log_sum_exp, log_probability, entropy, prediction, divergence are wanted
    masked: bool  # whether rows with a = 0 may hold anything
    transposed: bool  # whether W, and a teacher's, is (C, P)
    recompute: bool | None  # blocks of classes, whose logits are computed twice; None chooses
    block_size: int | None  # rows, or classes, in a block; None chooses
    class_axis: str | tuple[str, ...] | None  # axes of a mesh over which devices have each their classes
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    temperature: float = 1.0
    layout: Any = None  # a mesh and how X and W lie over it, where their types say so
    parts: int | None = None  # where a compiler spreads the sweep: in how many the classes lie, each with its own
    apart: bool = False  # whether each part's share of dL/dX is a sum of its own, added up when it is rounded


class Arrays(NamedTuple):
    """What the sweep reads; the leading axes of X, a and targets are the rows."""

    X: Array  # (..., P)
    W: Array  # (P, C), or (C, P) where it is transposed
    b: Maybe  # (1, C)
    a: Array  # (...)
    targets: Maybe  # labels (...) or distributions (..., C)
    k: Maybe = None  # (1, C)
    teacher_X: Maybe = None  # (..., P of its own)
    teacher_W: Maybe = None
    teacher_b: Maybe = None


# By row, X and what is as long as it; by class, W and what goes with its columns.
BY_ROW = ("X", "a", "targets", "teacher_X")
BY_CLASS = ("W", "b", "k", "teacher_W", "teacher_b")


def class_dimension(settings: Settings, name: str) -> int:
    """Along which of its axes an array lies by class."""
    return 0 if settings.transposed and name in ("W", "teacher_W") else 1


# --- Classes over devices -----------------------------------------------------------------------------------------


def first_class(settings: Settings, classes: int) -> Any:
    """The first of this device's classes."""
    return 0 if settings.class_axis is None else lax.axis_index(settings.class_axis) * classes


def sum_over_classes(settings: Settings, sums: Any) -> Any:
    """The sum over the devices that share the classes."""
    return sums if settings.class_axis is None else lax.psum(sums, settings.class_axis)


def largest_over_classes(settings: Settings, array: Array) -> Array:
    """The largest over the devices that share the classes."""
    return array if settings.class_axis is None else lax.pmax(array, settings.class_axis)


def within_parts(settings: Settings, name: str) -> int:
    """Along which of its axes an array `in_parts` has the classes of a part."""
    return class_dimension(settings, name) + (settings.parts is not None)


def in_parts(settings: Settings, name: str, array: Array) -> Array:
    """Classes along two axes, parts and those of each. Devices that have each their classes have whole parts."""
    if settings.parts is None:
        return array
    axis = class_dimension(settings, name)
    return array.reshape(*array.shape[:axis], settings.parts, -1, *array.shape[axis + 1 :])


def joined(settings: Settings, name: str, array: Array) -> Array:
    """And back."""
    if settings.parts is None:
        return array
    axis = class_dimension(settings, name)
    return array.reshape(*array.shape[:axis], -1, *array.shape[axis + 2 :])
