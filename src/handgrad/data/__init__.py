"""Tables to learn from: reading, splitting, scaling, and the digits that come with the package."""

from handgrad.data.digits import load_digits
from handgrad.data.preprocessing import Scaling, apply_scaling, fit_scaling, split_rows
from handgrad.data.tables import Table, read_features, read_table
