"""Where X lies: dense or sparse, on one device, on many or on disk. The only code that touches a row of X."""

from typing import Any

from handgrad.rows.blocks import Array as Array
from handgrad.rows.blocks import Block as Block
from handgrad.rows.blocks import inner as inner
from handgrad.rows.blocks import library as library
from handgrad.rows.blocks import product as product
from handgrad.rows.dense import DenseRows
from handgrad.rows.host import HostRows, are_few
from handgrad.rows.parts import Parts as Parts
from handgrad.rows.parts import locate as locate
from handgrad.rows.parts import to_csr as to_csr
from handgrad.rows.streamed import StreamedRows
from handgrad.rows.streamed import centre_as_summed as centre_as_summed
from handgrad.rows.streams import blocks_of_source as blocks_of_source
from handgrad.rows.streams import is_source as is_source
from handgrad.rows.streams import open_source as open_source
from handgrad.sparse_streams import SparseStream as SparseStream
from handgrad.streams import Stream as Stream

Rows = DenseRows | HostRows | StreamedRows


def place(parts: Parts, num_classes: int, *about: Any) -> Rows:
    """The rows about a centre and at a scale, for the sums of a solver."""
    if parts.is_streamed and not parts.is_sparse:
        return StreamedRows(parts, *about)
    return (HostRows if parts.is_sparse or are_few(parts, num_classes) else DenseRows)(parts, *about)
