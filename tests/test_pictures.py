"""The pictures of docs/: the numbers that they show are right, and those committed are of today's numbers and lines."""

import functools
import importlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import handgrad
import oracles
from handgrad import Params

ROOT = Path(__file__).parents[1]
if not (ROOT / "docs").exists():
    pytest.skip("the tests run apart from the repository", allow_module_level=True)
sys.path.insert(0, str(ROOT / "scripts"))

import picture_data  # noqa: E402

NAMES = tuple(picture_data.PICTURES)
SMALL = 60_000  # bytes
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"


@pytest.fixture(scope="module")
def numbers():
    """The numbers of each picture, computed once."""
    return functools.cache(picture_data.numbers)


def committed(name):
    return ROOT / "docs" / "images" / f"{name}.svg"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "digits" else []) for name in NAMES]
)
def test_what_is_committed_shows_the_numbers_of_today(name, numbers):
    shown = json.loads(next(ElementTree.parse(committed(name)).iter(DESCRIPTION)).text)["shows"]
    found = numbers(name)
    assert shown.keys() == found.keys()
    for key, array in found.items():
        expected = picture_data.fingerprint(array)
        # Training in float32 and the last iterations of a fit differ a little from one JAX to the next.
        np.testing.assert_allclose(shown[key], expected, rtol=5e-3, atol=5e-3 * np.abs(array).sum(), err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_small_and_ask_for_nothing(name):
    text = committed(name).read_text()
    assert len(text.encode()) <= SMALL
    root = ElementTree.fromstring(text)
    addresses = [value for each in root.iter() for key, value in each.items() if key.endswith("href")]
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert not any(each.tag.endswith("script") for each in root.iter())


def test_every_picture_has_its_place():
    assert {path.stem for path in committed("any").parent.glob("*.svg")} >= set(NAMES)
    pages = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    assert [name for name in NAMES if f'picture("images/{name}.svg"' not in pages] == []


def test_every_picture_was_drawn_by_the_lines_of_today():
    pictures = pytest.importorskip("matplotlib") and importlib.import_module("pictures")
    for name in NAMES:
        shown = json.loads(next(ElementTree.parse(committed(name)).iter(DESCRIPTION)).text)
        assert shown["drawn by"] == pictures.drawn_by(name), f"run scripts/pictures.py {name}"


def test_drawing_twice_gives_the_same_bytes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pictures = importlib.import_module("pictures")
    twice = []
    for folder in ("first", "second"):
        monkeypatch.setattr(pictures, "IMAGES", tmp_path / folder)
        (tmp_path / folder).mkdir()
        pictures.draw("simplex")
        twice.append((tmp_path / folder / "simplex.svg").read_bytes())
    assert twice[0] == twice[1]
    assert b"<dc:date>" not in twice[0]


# --- The numbers ------------------------------------------------------------------------------------------------------


def test_arrows_are_target_less_prediction_and_trails_lead_to_the_corners(numbers):
    found = numbers("simplex")
    np.testing.assert_allclose(found["down"], found["T"] - found["Y"], atol=1e-15)
    W, b = picture_data.GUESS
    np.testing.assert_allclose(found["Y"], oracles.softmax(picture_data.X @ W + b), rtol=1e-12)
    np.testing.assert_array_equal(found["trail"][-1].argmax(axis=1), picture_data.t)


def test_the_paths_go_down_to_the_certified_optimum(numbers):
    found, result = numbers("descent"), picture_data.fitted(200)
    assert result.converged
    assert result.gap <= 1e-12 * result.loss
    F = [[picture_data.objective(v)[0] for v in found[path]] for path in ("gradient_descent", "lbfgs")]
    assert np.all(np.diff(F[0][2:]) < 0)
    np.testing.assert_allclose(F[1][-1], found["least"], rtol=1e-5)
    assert F[0][-1] > F[1][-1]
    assert found["F"].min() >= found["least"] - result.gap
    X, t = picture_data.valley()
    params = picture_data.both_classes(found["gradient_descent"][7])
    naive = oracles.loss(*params, X, t) + picture_data.VALLEY_L2 / 2 * np.sum(params.W**2)
    np.testing.assert_allclose(F[0][7], naive, rtol=1e-12)


def test_the_preconditioner_turns_the_way_down_towards_the_optimum(numbers):
    found = numbers("preconditioner")

    def angle(kind):
        down, optimum = found[f"down_{kind}"], found[f"optimum_{kind}"]
        return np.degrees(np.arccos(down @ optimum / np.linalg.norm(down) / np.linalg.norm(optimum)))

    assert angle("u") < 5 < 30 < angle("v")


def test_the_gap_is_above_the_true_distance_at_every_iteration(numbers):
    found = numbers("certificate")
    ratio = 10 ** (found["log_gap"] - found["log_distance"])
    assert np.all(ratio > 2)
    assert np.all(ratio < 12)  # "a third to a tenth", says the page
    assert found["log_gap"][-1] < -7


def test_what_the_blocks_add_up_to_is_the_gradient(numbers):
    found = numbers("sweep")
    second = slice(3, 6)
    np.testing.assert_allclose(found["Z"], found["X"][second] @ found["W"], rtol=1e-12)
    first = Params(found["W"], np.zeros((1, 10)))
    labels = found["labels"].astype(int)
    of_first = 3 * handgrad.formulas.gradient(first, found["X"][:3], labels[:3]).W
    np.testing.assert_allclose(of_first + found["X"][second].T @ found["D"], found["dW"], atol=1e-12)


def test_the_losses_and_regions_are_those_of_the_steps(numbers):
    found = numbers("regions")
    for step, loss in zip(picture_data.SHOWN_STEPS, found["loss"], strict=True):
        naive = oracles.loss(*picture_data.descended()[step], picture_data.X, picture_data.t)
        np.testing.assert_allclose(loss, naive, rtol=1e-12)
    assert set(np.unique(found["classes"][0])) == {1, 2}  # the guess knows no apples
    assert set(np.unique(found["classes"][-1])) == {0, 1, 2}


def test_entropy_and_divergence_add_up_to_the_cross_entropy(numbers):
    found = numbers("entropy")
    T, Y = found["T"][0, :2], found["Y"][:, :2]
    np.testing.assert_allclose(found["entropy"] + found["divergence"], -(np.log2(Y) @ T), rtol=1e-12)
    np.testing.assert_allclose(numbers("cross-entropy")["cost_of_fruit"], [1, 2, 2, 1], rtol=1e-12)


def test_the_way_back_gives_the_gradient(numbers):
    found = numbers("backpropagation")
    first, last = handgrad.formulas.gradient(picture_data.NETWORK, picture_data.X, picture_data.t)
    np.testing.assert_allclose(found["X"].T @ found["D_1"] * picture_data.BIT / 4, first.params.W, atol=1e-15)
    np.testing.assert_allclose(found["A_1"].T @ found["D_2"] / 4, last.params.W, atol=1e-15)
