"""What the sweep of the head is given, and the classes that lie over devices."""

from typing import Any, NamedTuple

from jax import lax

Array = Any


class Settings(NamedTuple):
    """What is known when the sweep is compiled."""

    label_smoothing: float
    z_loss: float
    softcap: float | None
    class_axis: str | None  # an axis of the enclosing shard_map, each device holding its classes of W, b, k and T
    masked: bool  # whether rows with a = 0 may hold anything
    block_size: int
    total: bool  # whether Σ aℓ is wanted
    rows: tuple[str, ...]  # which of loss, log_sum_exp, log_probability, entropy and prediction are wanted by row


class Arrays(NamedTuple):
    """What the sweep reads: X (N, P), W (P, C), b (1, C) or None, a (N,), targets, k (1, C) or None."""

    X: Array
    W: Array
    b: Array | None
    a: Array
    targets: Array
    k: Array | None


# --- Classes over devices -----------------------------------------------------------------------------------------


def num_shards(settings: Settings) -> int:
    """How many devices share the classes."""
    return 1 if settings.class_axis is None else lax.axis_size(settings.class_axis)


def first_class(settings: Settings, num_classes: int) -> Any:
    """The first of this device's classes."""
    return 0 if settings.class_axis is None else lax.axis_index(settings.class_axis) * num_classes


def sum_over_classes(settings: Settings, sums: Any) -> Any:
    """The sum over the devices that share the classes."""
    return sums if settings.class_axis is None else lax.psum(sums, settings.class_axis)
