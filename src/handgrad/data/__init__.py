"""Tables to learn from: reading, splitting, scaling, and the digits that come with the package."""

from handgrad.data.digits import load_digits
from handgrad.data.preprocessing import Scaling, Split, apply_scaling, fit_scaling, split_and_scale, split_rows
from handgrad.data.tables import Table, read_features, read_table

__all__ = [
    "Scaling",
    "Split",
    "Table",
    "apply_scaling",
    "fit_scaling",
    "load_digits",
    "read_features",
    "read_table",
    "split_and_scale",
    "split_rows",
]
