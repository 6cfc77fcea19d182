"""What a solver has before it begins: rows, targets, weights and features where they are, and its programs compiled."""

import functools
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from handgrad.formulas.by_row import one_hot
from handgrad.rows import Rows
from handgrad.shapes import Float
from handgrad.solvers.kronecker import Curvature, factor_features, takes_features
from handgrad.solvers.lbfgs import begin, programs
from handgrad.solvers.sums import feature_moment

# Multiplications that take the lanes into the eigenbasis of A, up to which NumPy turns them on a CPU: an iteration of
# one lane of 784 features and 10 classes takes as long as compiled, and seven programs of nine are not compiled.
FEW = 2**24
MEMORY = 8
LARGE = 2**20  # parameters of a lane, beyond which what is remembered costs more than the sweep does
MEMORY_OF_LARGE = 4


class Placed(NamedTuple):
    """The rows, their targets and weights of F folds where the rows are, where the lanes are, and a and Q of A."""

    rows: Rows
    targets: Any
    weights: Any
    num_classes: int
    home: Any  # the device of the lanes, None for the host
    features: tuple[Any, Any] = (None, None)

    def sum(self, of: Callable[..., Any], V: Any, fold: np.ndarray, static: Any = None, columns: int = 0) -> Any:
        """Σ over all rows of a function of `sums`, where the lanes are; which has so many columns beside the logits."""
        by_row, columns = (self.targets, self.weights), max(columns, len(fold) * self.num_classes)
        sums = self.rows.sum(of, by_row, (V, fold), columns=columns, static=static)
        return jax.tree.map(np.asarray, sums) if self.home is not self.rows.home else sums


def home_of_lanes(rows: Rows, num_classes: int, num_lanes: int) -> Any:
    """The device on which so many lanes are, None for the host."""
    is_few = num_lanes * (rows.shape[1] + 1) ** 2 * num_classes <= FEW
    return None if rows.home is None or (rows.home.platform == "cpu" and is_few) else rows.home


def place(
    rows: Rows, targets: np.ndarray, weights: Float[np.ndarray, "N F"], num_classes: int, num_lanes: int
) -> Placed:
    """Targets and weights where the rows are, in the dtype of the solver."""
    if rows.home is None:  # NumPy would make distributions of labels, each time
        targets = np.ascontiguousarray(one_hot(np, targets, num_classes, rows.dtype)).T
    targets = targets.astype(np.int32 if targets.ndim == 1 else rows.dtype)
    home = home_of_lanes(rows, num_classes, num_lanes)
    placed = Placed(rows, rows.place(targets), rows.place(weights.astype(rows.dtype)), num_classes, home)
    nothing = np.zeros((1, rows.shape[1] + 1, num_classes), rows.dtype)
    moment = placed.sum(feature_moment, nothing, np.zeros(1, np.int32), takes_features(rows, num_classes))
    return placed._replace(features=put(factor_features(moment), home))


def put(tree: Any, home: Any) -> Any:
    """NumPy's arrays where the lanes are."""
    return tree if home is None else jax.device_put(tree, home)


def compile_ahead(rows: Rows, num_classes: int, num_lanes: int) -> list[Future[Any]]:
    """Compile the programs of an iteration in threads, while this one looks at the rows and compiles the sweep."""
    home = home_of_lanes(rows, num_classes, num_lanes)
    if home is None:
        return []
    features = takes_features(rows, num_classes)
    return _compile_ahead(rows.shape[1] + 1, num_classes, num_lanes, rows.dtype, features, home)


@functools.lru_cache(maxsize=64)
def _compile_ahead(
    width: int, num_classes: int, num_lanes: int, dtype: np.dtype, features: bool, device: Any
) -> list[Future[Any]]:
    shapes: Callable[..., Any] = functools.partial(jax.ShapeDtypeStruct, dtype=dtype)
    curvature = Curvature(shapes((width,)), shapes((width, width)) if features else None, None)
    state = jax.eval_shape(lambda: begin(num_lanes, width, num_classes, num_pairs(width, num_classes), dtype))
    # Lowered in this thread, since what is compiled is found again by this thread's settings.
    lowered = [function.lower(*arguments) for function, arguments in programs(state, curvature, device)]
    pool = ThreadPoolExecutor()
    futures = [pool.submit(program.compile) for program in lowered]
    pool.shutdown(wait=False)
    return futures


def num_pairs(width: int, num_classes: int) -> int:
    """How many pairs a lane remembers."""
    return MEMORY if width * num_classes <= LARGE else MEMORY_OF_LARGE
