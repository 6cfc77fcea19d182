"""Tables to learn from: reading, splitting, scaling, and the digits that come with the package."""

from handgrad.data.digits import load_digits
from handgrad.data.preprocessing import Scaling, Split, apply_scaling, fit_scaling, split_and_scale
from handgrad.data.splitting import Parts, describe_gaps, hash_rows, split_rows
from handgrad.data.tables import Table, read_features, read_table

__all__ = [
    "Parts",
    "Scaling",
    "Split",
    "Table",
    "apply_scaling",
    "describe_gaps",
    "fit_scaling",
    "hash_rows",
    "load_digits",
    "read_features",
    "read_table",
    "split_and_scale",
    "split_rows",
]
