"""The tests themselves: each mistake of `scripts/mistakes/` is caught by the test that it names."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SCRIPT = TESTS.parent / "scripts" / "mutants.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="the tests run apart from the repository")
def test_every_deliberate_mistake_can_be_made_and_names_a_test_that_there_is(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    source = TESTS.parent / "src" / "handgrad"
    for mutant in importlib.import_module("mutants").MUTANTS:
        assert (source / mutant.file).read_text().count(mutant.old) == 1, mutant.mistake
        assert mutant.new != mutant.old
        file, _, test = mutant.test.partition("::")
        name = re.escape(test.partition("[")[0])
        assert re.search(rf"^def {name}\(" if name else "^def test_", (TESTS / file).read_text(), re.M), mutant.mistake


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="the tests run apart from the repository")
def test_every_deliberate_mistake_is_caught():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
