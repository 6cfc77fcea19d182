"""scripts/draw_gradients.py: gradient problems drawn from a seed, none of which may be false."""

import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="the tests run apart from the repository")


@pytest.fixture
def draw(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import draw_gradients

    yield draw_gradients
    sys.modules.pop("draw_gradients")


def test_of_a_few_drawn_gradient_problems_none_is_false(draw):
    counts, false, _ = draw.run(60)
    assert dict(counts) == dict.fromkeys(("layer", "head", "network", "devices"), 15)
    assert not false


def test_a_wrong_gradient_is_called_false(draw, monkeypatch):
    right = draw.handgrad.gradient
    monkeypatch.setattr(draw.handgrad, "gradient", lambda *args: draw.jax.tree.map(lambda a: -a, right(*args)))
    monkeypatch.setattr(draw.handgrad.formulas, "gradient", draw.handgrad.gradient)
    _, false, _ = draw.run(1)
    assert false == [0]


@pytest.mark.slow
def test_of_ten_thousand_drawn_gradient_problems_none_is_false(draw):
    _, false, _ = draw.run(10_000)
    assert not false
