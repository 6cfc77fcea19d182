"""The tests themselves: each mistake of `scripts/mistakes/` is caught by the test that it names."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutants.py"


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPT.exists(), reason="the tests run apart from the repository")
def test_every_deliberate_mistake_is_caught():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
