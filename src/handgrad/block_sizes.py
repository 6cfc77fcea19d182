"""How many rows, or classes, the head takes at once, and in which of its two orders: from shapes and dtypes alone."""

import math
from typing import Any

import jax.numpy as jnp

from handgrad.head import Arrays, Settings, class_dimension
from handgrad.precision import wide_dtype

# A block by rows has as many as fill BLOCK_BYTES with float32 logits, and no fewer than LEAST_ROWS. In float32 on 2
# cores, at (N, P, C) = (2048, 512, 32768), (4096, 256, 8192) and (8192, 512, 1024), from 256 to 1024 rows take the same
# time to within 10 %; 128 rows take a sixth more, since each block reads and writes dL/dW once, and all rows at once a
# third more, since the logits leave the caches. Without dL/dW 256 rows take up to 6 % longer than 512. Where
# memory is to be saved, half of it.
BLOCK_BYTES = 2**22
LEAST_ROWS = 512
# By classes each block reads and writes dL/dX once: with twice the bytes it takes 3 % less time, with four times 4 %.
CLASS_BYTES = 2**23
# By classes, in half precision: on accelerators products are faster, and reading dL/dX for each block is not.
LEAST_CLASSES = 2048
# By classes is a product more, up to half as much time again, for less than so much of what blocks of rows take. On
# accelerators, where W is narrow, any less will do: (4096, 256, 8192) in float32 takes 17.1 MB by 256 rows, and by 512
# classes 13.2 without dL/dX, in 1.43 times the time, and 17.4 with it.
WORTH_A_PRODUCT = 0.75
# What has to be held beside a narrow W, of more than which None goes by classes.
MOST_BYTES = 2**32


def goes_by_classes(settings: Settings, moving: tuple[str, ...], arrays: Arrays) -> bool:
    """Where it is asked for, or where it is not said and what would be held is too much: if it takes less memory."""
    N, P, C = sizes(settings, arrays)
    if not moving and settings.parts is None:
        return False  # the value alone takes one product, and as little memory as one likes
    if settings.recompute is False or settings.block_size is not None:
        return bool(settings.recompute)
    rows = rows_in_block(settings, arrays)
    adds, keeps = rows < N and "W" in moving, keeps_logit_gradient(moving, arrays, rows)
    held = 2 * N * C if keeps else 4 * P * C if adds and _is_narrow(arrays.W) else 0
    if settings.recompute is None and (held <= MOST_BYTES or not _is_narrow(arrays.W)):
        return False
    # Of a block logits and D, of which a device has those of its part; and what is added to a sum.
    element = (jnp.dtype(wide_dtype(arrays.X.dtype)).itemsize + arrays.X.dtype.itemsize) / (settings.parts or 1)
    by_rows = element * rows * C + held + (4 * P * C if adds and not keeps else 0)
    by_classes = element * N * classes_in_block(settings, arrays) + 4 * N * P * (2 * ("X" in moving) + ("W" in moving))
    return by_classes < by_rows * (1 if _is_narrow(arrays.W) else WORTH_A_PRODUCT)


def keeps_logit_gradient(moving: tuple[str, ...], arrays: Arrays, rows: int) -> bool:
    """Whether D of all rows is held, rounded, and multiplied at once: where that is less than dL/dW in float32."""
    N, P = arrays.X.shape
    # Of float16 dL/dW is in float32 either way.
    rounded = _is_narrow(arrays.W) and bool(jnp.finfo(arrays.W.dtype).maxexp > 16)
    return "W" in moving and rounded and rows < N <= 2 * P


def rows_in_block(settings: Settings, arrays: Arrays) -> int:
    """As few blocks as the bytes of their logits allow, all of about one size."""
    N, P, C = sizes(settings, arrays)
    if settings.parts is not None:
        return N  # a compiler would gather what rows are cut from
    if settings.block_size is not None and not settings.recompute:
        return min(settings.block_size, N)
    heads = 1 if arrays.teacher_X is None else 2
    least = LEAST_ROWS // 2 if settings.recompute else LEAST_ROWS
    rows = max(BLOCK_BYTES // (4 * C), least) // heads
    if _is_narrow(arrays.W):
        # On accelerators products are faster, and reading and writing dL/dW for each block is not. Up to a quarter of
        # P, float32 logits still find room where the rounded dL/dW will be: (16384, 4096, 128256) compiled for an H100
        # takes 2.24 GB beside 512 rows a block, 2.37 beside 1024 and 4.75 beside 2048; for a TPU v5e 2.11, 2.12, 3.17.
        rows = max(rows, P // 4)
    return math.ceil(N / _blocks(N, rows))


def classes_in_block(settings: Settings, arrays: Arrays) -> int:
    """As few blocks as are allowed, of about one size; of a multiple of 128, as accelerators lay out what is narrow.

    As many of each part, if there are parts: these lie on devices of their own.
    """
    N, _, C = sizes(settings, arrays)
    parts = settings.parts or 1
    C //= parts
    if settings.block_size is not None:
        return parts * min(-(-settings.block_size // parts), C)
    classes = max(CLASS_BYTES // (4 * N), LEAST_CLASSES if _is_narrow(arrays.X) else LEAST_ROWS)
    size = math.ceil(C / _blocks(C, classes))
    return parts * min(C, -(-size // 128) * 128)


def sizes(settings: Settings, arrays: Arrays) -> tuple[int, int, int]:
    """N, P, C, those of this device."""
    return *arrays.X.shape, arrays.W.shape[class_dimension(settings, "W")]


def _blocks(length: int, most: int) -> int:
    """How many blocks; not two, for a loop of one step XLA takes out, and holds both at once."""
    blocks = math.ceil(length / most)
    return 3 if blocks == 2 else blocks


def _is_narrow(array: Any) -> bool:
    return bool(jnp.finfo(array.dtype).bits < 32)
