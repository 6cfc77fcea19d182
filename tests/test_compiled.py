"""What scripts/ compiles for accelerators that are not there: the programs of a fit, with the arguments it gives."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
    yield
    for name in ("compiled_fit", "compiled_scaling"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("P", [8, 300])  # with blocks of the curvature, and features too many for them
def test_every_program_of_a_fit_takes_its_arguments(scripts, P, count):
    import compiled_fit

    listed, resident = compiled_fit.programs(320, P, 3, np.dtype("float16"), jax.devices()[:count])
    assert resident > 0
    assert {"features", "sweep", "load", "move", "assess"} <= {name for name, *_ in listed}
    assert ("blocks of classes" in {name for name, *_ in listed}) == (P == 8)
    for _, function, arguments, _ in listed:
        function.lower(*arguments)


def test_a_pass_says_of_how_many_rows_its_block_is(scripts, monkeypatch):
    import compiled_scaling

    monkeypatch.setattr(compiled_scaling, "ROWS", 256)
    found = compiled_scaling.compile_pass(4, 3, jax.devices())
    assert found["rows_of_a_block"] == 256
    assert found["sends"]
