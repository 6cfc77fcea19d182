"""scripts/draw_fits.py: fits drawn from a seed, none of which may claim more than is true."""

import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="the tests run apart from the repository")


@pytest.fixture
def draw(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import draw_fits

    yield draw_fits
    sys.modules.pop("draw_fits")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_claim_that_is_not_true_is_found(draw):
    X, t = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32), np.arange(50) % 3
    arguments = {"l2": 0.1, "num_classes": 3}
    result = draw.handgrad.fit(X, t, tol=1e-3, **arguments)
    assert draw.judge(result, X, t, arguments) == ("converged", None)
    assert "but F − min F is" in draw.false_claim(result._replace(gap=0.0), X, t, arguments)
    assert "but F is" in draw.false_claim(result._replace(loss=result.loss * 1.001), X, t, arguments)
    assert draw.separable(X, np.eye(2)[(X[:, 0] > 0).astype(int)])
    assert not draw.separable(X, np.eye(3)[t])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_of_a_thousand_drawn_fits_none_claims_too_much(draw):
    assert draw.run(1000, 4) == 0
