"""What the processes of `jax.distributed` know of each other: small arrays and values of the host, of all of them.

Each process has rows of its own, and the sums over its rows are added to those of the others. What is known row by row,
such as labels, each may have of all rows.
"""

import contextlib
import dataclasses
import pickle
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Share:
    """Rows that lie on all devices of all processes, of which this process has some.

    Attributes:
      X: the rows of this process: an array of NumPy's, or a `Stream`; there may be none.
      start: how many rows the processes before it have.
      num_rows: of all processes.
    """

    X: Any
    start: int
    num_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, P), of all processes."""
        return self.num_rows, self.X.shape[1]

    @property
    def dtype(self) -> np.dtype:
        """Of the rows."""
        return self.X.dtype


def is_shared() -> bool:
    """Whether this is one of the processes of `jax.distributed`, and be it the only one."""
    return jax.distributed.is_initialized()


def count() -> int:
    """How many processes there are."""
    return jax.process_count() if is_shared() else 1


def index() -> int:
    """The number of this one, from 0."""
    return jax.process_index() if is_shared() else 0


def share(num_rows: int) -> slice:
    """Which of so many rows are those of this process: as many as others have, or one more."""
    place, of_all = index(), count()
    return slice(num_rows * place // of_all, num_rows * (place + 1) // of_all)


def dealt(num_rows: int, period: int) -> np.ndarray:
    """Which process has each of so many rows, where of every `period` that follow one another each has its share."""
    owners = np.empty(num_rows, np.int32)
    for start in range(0, num_rows, period):
        some = owners[start : start + period]
        ends = [len(some) * (place + 1) // count() for place in range(count())]
        some[:] = np.searchsorted(ends, np.arange(len(some)), side="right")
    return owners


def gather(tree: Any) -> Any:
    """The arrays of every process, of the same shapes and dtypes in each, along a new first axis of NumPy's arrays."""
    tree = jax.tree.map(np.asarray, tree)
    if count() == 1:
        return jax.tree.map(lambda array: array[None], tree)
    from jax.experimental import multihost_utils

    # All at once, and as bytes, since JAX would cut float64 to float32.
    leaves, structure = jax.tree.flatten(tree)
    content = b"".join(leaf.tobytes() for leaf in leaves)
    every = np.asarray(multihost_utils.process_allgather(np.frombuffer(content, np.uint8)))
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    found = [
        np.frombuffer(every[:, end - leaf.nbytes : end].tobytes(), leaf.dtype).reshape(-1, *leaf.shape)
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(structure, found)


def gather_values(value: Any) -> list[Any]:
    """The values of every process, whatever can be pickled."""
    if count() == 1:
        return [value]
    content = pickle.dumps(value)
    sizes = gather(np.array(len(content)))
    # Each size is a program of its own: of these there are few.
    padded = np.zeros(2 ** max(10, int(sizes.max() - 1).bit_length()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return [pickle.loads(own[:size].tobytes()) for own, size in zip(gather(padded), sizes, strict=True)]


def of_first(value: Any) -> Any:
    """The value that process 0 has; that of the others is of no account."""
    return gather_values(value if index() == 0 else None)[0]


@contextlib.contextmanager
def together(*, is_needed: bool = True) -> Iterator[None]:
    """Of what each process does by itself: where it fails on one of them it fails on all.

    Raises:
      ValueError: on the processes where it has not failed itself.
    """
    if not is_needed or count() == 1:
        yield
        return
    error = None
    try:
        yield
    except Exception as raised:
        error = raised
    found = gather_values(None if error is None else str(error))
    if error is not None:
        raise error
    for number, message in enumerate(found):
        if message is not None:
            raise ValueError(f"process {number}: {message}")


def require_alike(function: str, what: dict[str, Any]) -> None:
    """Check that values are the same on every process: of one that has no rows they are None.

    Raises:
      ValueError: they are not.
    """
    for name in what:
        found = {number: own[name] for number, own in enumerate(gather_values(what)) if own[name] is not None}
        for number, own in found.items():
            first, of_first = next(iter(found.items()))
            if own != of_first:
                raise ValueError(
                    f"{function}: {name} must be the same on every process; got {of_first} on process {first} and "
                    f"{own} on process {number}."
                )
