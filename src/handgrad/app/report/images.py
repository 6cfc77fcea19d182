"""Images as PNG in the page itself: those that a model reads, and its weights."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from handgrad.app.details import MOST_IMAGES, shown_weights

if TYPE_CHECKING:
    from handgrad.app.runs import Run

# What speaks for a class and what against it: told apart by people who see no red or no green, on paper of any colour.
FOR, AGAINST = (31, 111, 180), (217, 109, 20)


def png(pixels: np.ndarray) -> str:
    """A data URI of pixels (H, W, channels) of bytes: 1 grey, 2 grey with alpha, 3 RGB, 4 with alpha."""
    height, width, channels = pixels.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # a line begins with its filter, 0 for none
    lines[:, 1:] = pixels.reshape(height, -1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines.tobytes())),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()


def signed(values: np.ndarray, largest: float) -> str:
    """Values (H, W) as an image: blue above 0, orange below, the paper itself at 0."""
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3] = np.where((values >= 0)[..., None], FOR, AGAINST)
    pixels[..., 3] = np.rint(255 * np.minimum(np.abs(values) / (largest or 1.0), 1))
    return png(pixels)


def picture(values: np.ndarray, low: float, high: float) -> str:
    """Values (H, W, channels) as they are, from black to white; of two or more than four channels the mean."""
    values = np.nan_to_num((values - low) / ((high - low) or 1.0), nan=0.0)
    if values.shape[2] not in (1, 3, 4):
        values = values.mean(axis=2, keepdims=True)
    return png(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8))


def weight_images(run: Run, largest: float) -> list[dict[str, Any]]:
    """The weights of each class or unit as an image; of several channels their mean."""
    shape = run.model.encoding.image_shape
    if shape is None:
        return []
    W, outputs, _ = shown_weights(run.model)
    pixels = shape[0] * shape[1] * (shape[2] if len(shape) == 3 else 1)
    return [
        {"output": output, "image": signed(column[:pixels].reshape(*shape[:2], -1).mean(axis=2), largest)}
        for output, column in zip(outputs[:MOST_IMAGES], np.asarray(W, np.float64).T, strict=False)
    ]


def row_images(run: Run, rows: list[int]) -> list[str]:
    """Rows of the table as images, in the range of values that they have together."""
    shape = run.model.encoding.image_shape
    if shape is None or not rows:
        return []
    X = run.table.X[rows]
    X = np.asarray(X if isinstance(X, np.ndarray) else X.toarray(), np.float64)
    low, high = float(np.nanmin(X)), float(np.nanmax(X))
    return [picture(row.reshape(*shape[:2], -1), low, high) for row in X]
