"""Grids of cases of which a few run by default and the rest with `scripts/test.sh --all`."""

import itertools

import pytest


def product(*values, quick):
    """Every combination of the values, slow unless `quick` says otherwise of it."""
    marks = {True: (), False: pytest.mark.slow}
    return [pytest.param(*case, marks=marks[bool(quick(*case))]) for case in itertools.product(*values)]
