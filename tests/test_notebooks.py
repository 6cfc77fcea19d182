"""The notebooks: what is committed are the cells of their sources, with the outputs that these really have."""

import base64
import importlib
import json
import math
import re
import struct
import sys
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
if not (ROOT / "notebooks").exists():
    pytest.skip("the tests run apart from the repository", allow_module_level=True)
sys.path.insert(0, str(ROOT / "scripts"))

import notebooks  # noqa: E402

NUMBER = re.compile(r"[-−+]?\d+\.?\d*(?:e[-+]?\d+)?")
CLOSE = 2e-3  # of a number in an output; the last digits are another machine's
LARGEST = 1_000_000  # bytes
each = pytest.mark.parametrize("name", notebooks.NAMES)


def committed(name):
    return json.loads((notebooks.FOLDER / f"{name}.ipynb").read_text())


def source(name):
    return (notebooks.FOLDER / f"{name}.py").read_text()


def text_of(cell):
    return "".join(cell["source"])


@each
def test_the_cells_are_those_of_the_source(name):
    found = [(cell["cell_type"], text_of(cell)) for cell in committed(name)["cells"]]
    assert found == list(notebooks.cells_of(source(name))), f"run scripts/notebooks.py {name}"


def test_the_derivation_has_forty_cells():
    assert len(committed("derivation")["cells"]) == 40


@each
def test_a_notebook_is_whole_and_small(name):
    assert (notebooks.FOLDER / f"{name}.ipynb").stat().st_size <= LARGEST
    made = committed(name)
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in made["cells"]}) == len(made["cells"])
    code = [cell for cell in made["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    pictures = [picture for cell in code for picture in pictures_of(cell)]
    assert len(pictures) >= 5
    for picture in pictures:
        assert picture.startswith(b"\x89PNG")
        width, height = struct.unpack(">II", picture[16:24])
        assert 200 < width < 1000
        assert 100 < height < 600


def pictures_of(cell):
    found = (output.get("data", {}).get("image/png") for output in cell["outputs"])
    return [base64.b64decode(picture) for picture in found if picture]


def words_of(cell):
    """What a cell prints and ends in, its numbers apart."""
    parts = [output.get("text") or output["data"].get("text/plain", []) for output in cell["outputs"]]
    text = "".join("".join(part) for part in parts)
    return NUMBER.sub("#", " ".join(text.split())), [float(n.replace("−", "-")) for n in NUMBER.findall(text)]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "digits" else []) for name in notebooks.NAMES]
)
def test_the_outputs_are_those_of_the_code(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(importlib.import_module("handgrad").__file__).parents[1]))
    # As its reader has it, whose promotion is JAX's own.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = list(notebooks.run(source(name)))
    for cell, expected in zip(found, committed(name)["cells"], strict=True):
        if cell["cell_type"] == "code":
            (words, numbers), (shown, values) = words_of(cell), words_of(expected)
            assert words == shown, text_of(cell)
            assert all(math.isclose(*pair, rel_tol=CLOSE) for pair in zip(numbers, values, strict=True)), text_of(cell)
            assert len(pictures_of(cell)) == len(pictures_of(expected)), text_of(cell)


def test_a_cell_s_outputs_are_in_the_order_in_which_they_come():
    pytest.importorskip("matplotlib")
    code = (
        "# %%\nimport matplotlib.pyplot as plt\nprint('before')\nplt.plot([0, 1])\nplt.show()\nprint('after')\n1 + 1\n"
    )
    (cell,) = notebooks.run(code)
    kinds = [output["output_type"] for output in cell["outputs"]]
    assert kinds == ["stream", "display_data", "stream", "execute_result"]
    assert cell["outputs"][-1]["data"] == {"text/plain": ["2"]}


def test_a_wrong_output_would_be_seen():
    def cell(text):
        return {"outputs": [{"output_type": "stream", "name": "stdout", "text": [text]}]}

    assert words_of(cell("loss 0.5 nats")) == ("loss # nats", [0.5])
    assert words_of(cell("loss 0.5 nats")) != words_of(cell("loss 0.51 nats"))
    assert words_of(cell("loss 0.5 nats")) != words_of(cell("gain 0.5 nats"))
