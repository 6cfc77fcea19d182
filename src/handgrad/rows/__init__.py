"""Where X lies: dense or sparse, on one device or on many. The only code that touches a row of X."""

from typing import Any

from handgrad.rows.blocks import Block as Block
from handgrad.rows.blocks import inner as inner
from handgrad.rows.blocks import product as product
from handgrad.rows.dense import DenseRows
from handgrad.rows.parts import Parts as Parts
from handgrad.rows.parts import is_sparse as is_sparse
from handgrad.rows.parts import locate as locate
from handgrad.rows.parts import to_csr as to_csr
from handgrad.rows.sparse import SparseRows

Rows = DenseRows | SparseRows


def place(parts: Parts, *about: Any) -> Rows:
    """The rows about a centre and at a scale, for the sums of a solver."""
    return (SparseRows if parts.is_sparse else DenseRows)(parts, *about)
