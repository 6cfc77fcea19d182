"""Tables to learn from: reading, encoding, splitting, and the digits that come with the package."""

from handgrad.data.digits import load_digits
from handgrad.data.encoding import Encoded, Encoding, encode
from handgrad.data.measuring import fit_encoding
from handgrad.data.preparing import Part, Split, split_and_scale
from handgrad.data.reading import read_features, read_table
from handgrad.data.splitting import Parts, describe_gaps, hash_rows, split_rows, table_keys
from handgrad.data.streaming import stream_table
from handgrad.data.tables import Column, Table
from handgrad.data.writing import write_table

__all__ = [
    "Column",
    "Encoded",
    "Encoding",
    "Part",
    "Parts",
    "Split",
    "Table",
    "describe_gaps",
    "encode",
    "fit_encoding",
    "hash_rows",
    "load_digits",
    "read_features",
    "read_table",
    "split_and_scale",
    "split_rows",
    "stream_table",
    "table_keys",
    "write_table",
]
