"""Some rows of X and the five operations on them that everything else is made of; of sparse ones see `sparse`.

A block stands for x' = s(x − μ), the rows about a centre and at a scale, with a column of ones at the end, or of zeros
where there is no intercept. V (K, P+1, C) holds the parameters of K problems, the bias as last row. What has a number
for each row, class and problem is (K, C, n): of 60,000 rows of 784 features VᵀXᵀ takes 7.4 ms where XV takes 9.9, and
DᵀX 6 where XᵀD takes 23, and a softmax runs along the rows.

Blocks are of JAX's arrays, inside a compiled program, or of NumPy's.
"""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from handgrad.shapes import Float

# What `library` tells apart: NumPy's where few rows are summed on the host.
Array = jax.Array | np.ndarray

ALONE = 2**18  # multiplications, for more of which OpenBLAS wakes its threads
ALONE_VECTOR = 9000  # those of a matrix and a vector
LARGE = 2**24  # for more of which its threads are worth what they cost others
THIN = 16


@runtime_checkable
class Block(Protocol):
    """Rows of X, n of them."""

    def times(self, V: Any) -> Any:
        """(X'V)ᵀ, the logits of K problems, (K, C, n)."""

    def transposed_times(self, D: Any) -> Any:
        """(DX')ᵀ (K, P+1, C) for D (K, C, n)."""

    def second_moment(self, s: Any) -> Any:
        """Σ s x' x'ᵀ (P+1, P+1), for s (n,)."""

    def column_squares(self, s: Any) -> Any:
        """Σ s x'² (P+1,), the diagonal of the second moment."""

    def row_squares(self) -> Any:
        """‖x'‖² of each row's features (n,)."""

    def limits(self) -> tuple[Any, Any]:
        """The least and the largest of each feature of x (P,), where it is about 0."""

    def are_finite(self) -> Any:
        """Whether each row's features are (n,)."""

    def dense(self) -> Any:
        """X' (n, P) as it is when every number of it is written down."""


def library(array: Any) -> Any:
    """The library of an array, NumPy or jax.numpy."""
    return np if isinstance(array, np.ndarray) else jnp


def product(a: Any, b: Any) -> Any:
    """The product in full precision: TensorFloat-32 products stop a solver short of the optimum."""
    if not isinstance(a, np.ndarray):
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    if a.ndim == b.ndim == 2:
        return _in_pieces(a, b)
    if (a.ndim, b.ndim) == (2, 1):
        return _in_pieces(a, b[:, None])[:, 0]
    if a.shape[-2] * a.shape[-1] * b.shape[-1] <= _alone(a.shape[-2], b.shape[-1]):
        return a @ b
    a, b = (array if array.ndim == 3 else array[None] for array in (a, b))
    products = [_in_pieces(a[i % len(a)], b[i % len(b)]) for i in range(max(len(a), len(b)))]
    return products[0][None] if len(products) == 1 else np.stack(products)


def _in_pieces(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product, in pieces for which BLAS wakes no threads, unless it is large or they would be thin.

    Threads of BLAS that have been woken go on spinning for some milliseconds: a sweep by XLA over 50,000 rows of 384
    features and 100 classes, 50 ms, takes 100 beside them. And of 1,797 rows, 64 features and 10 classes the product
    takes 26 µs where BLAS takes 35 to 60, and 30 where another program has a core of the two and BLAS, whose threads
    wait for each other, takes 600.
    """
    (m, k), n = a.shape, b.shape[1]
    if m * k * n <= _alone(m, n) or m * k * n > LARGE:
        return a @ b
    thick = _alone(m, n) // (m * n)
    if k > max(m, n) and thick >= THIN:
        count = k // thick
        whole = count * thick
        pieces = a[:, :whole].reshape(m, count, thick).transpose(1, 0, 2) @ b[:whole].reshape(count, thick, n)
        return pieces.sum(axis=0) + a[:, whole:] @ b[whole:]
    area = _alone(m, n) // k
    if area < THIN:
        return a @ b
    # Some rows of a times some columns of b; the last of them reach back, so that all are as many.
    fewer = _evenly(min(m, n), math.isqrt(area))
    rows, columns = (_evenly(m, area // fewer), fewer) if m >= n else (fewer, _evenly(n, area // fewer))
    out = np.empty((m, n), a.dtype)
    i, j = m // rows * rows, n // columns * columns
    blocks = a[:i].reshape(-1, 1, rows, k), b[:, :j].reshape(k, -1, columns).transpose(1, 0, 2)
    np.matmul(*blocks, out=out[:i, :j].reshape(-1, rows, n // columns, columns).transpose(0, 2, 1, 3))
    if i < m:
        out[m - rows :] = _in_pieces(a[m - rows :], b)
    if j < n:
        out[:, n - columns :] = _in_pieces(a, b[:, n - columns :])
    return out


def _evenly(number: int, most: int) -> int:
    """How many are together, at most so many, where each time about as many are."""
    return -(-number // -(-number // most))


def _alone(m: int, n: int) -> int:
    """Multiplications up to which BLAS wakes no threads for a product (m, n)."""
    return ALONE if min(m, n) > 1 else ALONE_VECTOR


def inner(a: Any, b: Any) -> Any:
    """⟨a, b⟩ for each of the K along the first axis.

    By a product: XLA's CPU adds up the sum of a·b one number after another, 35 ms for 2.6 million instead of 1. And of
    many numbers NumPy's own wakes BLAS's threads.
    """
    K = len(a)
    if isinstance(a, np.ndarray) and a.size <= K * ALONE_VECTOR:
        return np.vecdot(a.reshape(K, -1), b.reshape(K, -1))
    return product(a.reshape(K, 1, -1), b.reshape(K, -1, 1))[:, 0, 0]


class DenseBlock(NamedTuple):
    """Rows that are centred and scaled already."""

    X: Float[Any, "n P"]
    one: Any  # what the last column is full of

    def times(self, V: Any) -> Any:
        K, width, C = V.shape
        flat = V.transpose(0, 2, 1).reshape(K * C, width)
        weights, bias = flat[:, :-1], self.one * flat[:, -1:]
        if isinstance(flat, np.ndarray):
            Z = product(weights, self.X.T)
        elif K == 1:  # the barriers keep XLA from turning each form into the other
            Z = product(jax.lax.optimization_barrier(weights), self.X.T)
        else:  # 8 problems of 10 classes take two thirds of the time so, and fewer no more
            Z = jax.lax.optimization_barrier(product(self.X, weights.T)).T
        return (Z + bias).reshape(K, C, -1)

    def transposed_times(self, D: Any) -> Any:
        K, C, n = D.shape
        xp = library(D)
        G = product(D.reshape(K * C, n), self.X).reshape(K, C, -1)
        return xp.concatenate([G, self.one * xp.sum(D, axis=2, keepdims=True)], axis=2).transpose(0, 2, 1)

    def second_moment(self, s: Any) -> Any:
        xp = library(self.X)
        last = self.one * product(s[None], self.X)
        total = xp.sum(s)[None, None] * self.one
        if xp is np:
            weighted = self.X.T * s
        else:
            weighted = (self.X * s[:, None]).T
        # Not of [X, 1], which would be a copy of X.
        features = xp.concatenate([product(weighted, self.X), last], axis=0)
        return xp.concatenate([features, xp.concatenate([last, total], axis=1).T], axis=1)

    def column_squares(self, s: Any) -> Any:
        xp = library(self.X)
        return xp.append(product(s[None], self.X**2)[0], self.one * xp.sum(s))

    def row_squares(self) -> Any:
        if isinstance(self.X, np.ndarray):
            return np.einsum("np,np->n", self.X, self.X)
        return jnp.sum(self.X**2, axis=1)

    def limits(self) -> tuple[Any, Any]:
        return self.X.min(axis=0), self.X.max(axis=0)

    def are_finite(self) -> Any:
        return library(self.X).isfinite(self.X).all(axis=1)

    def dense(self) -> Any:
        return self.X
