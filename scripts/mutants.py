"""Deliberate mistakes, each made in a copy of the source, and the test that must catch it.

    python scripts/mutants.py                 all of them; exit status 1 if one survives
    python scripts/mutants.py sweep gelu      those with such a word in their file or description

A test counts only if it passes on the unbroken code. To add a mistake, add a line to a file of `mistakes/`.
"""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mistakes import (
    formulas,
    head,
    head_compilers,
    meaning,
    models,
    others,
    preconditioner,
    processes,
    program,
    proofs,
    report,
    resuming,
    rows,
    solvers,
    streaming,
    tables,
    training,
)
from mistakes.mutant import Mutant

ROOT = Path(__file__).resolve().parents[1]

PARTS = (
    formulas,
    head,
    head_compilers,
    solvers,
    proofs,
    preconditioner,
    training,
    rows,
    streaming,
    models,
    tables,
    meaning,
    resuming,
    processes,
    program,
    report,
    others,
)
MUTANTS = [each for part in PARTS for each in part.MUTANTS]


def main() -> int:
    """Every mistake, or those asked for, two at a time on two cores."""
    words = sys.argv[1:]
    chosen = [m for m in MUTANTS if not words or any(word in m.mistake or word in m.file for word in words)]
    if not chosen:
        print(f"No mistake has one of these in its file or description: {' '.join(words)}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        unbroken = copy_source(Path(folder) / "unbroken")
        status, output = run_tests(unbroken, *sorted({mutant.test for mutant in chosen}))
        if status != 0:
            print(output, "The tests must pass on the unbroken code.", sep="\n")
            return 1
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            folders = [Path(folder) / str(number) for number in range(len(chosen))]
            verdicts = list(pool.map(verdict, chosen, folders))
    width = max(len(mutant.mistake) for mutant in chosen)
    for mutant, result in zip(chosen, verdicts, strict=True):
        print(f"{mutant.mistake:{width}}  {result}  {mutant.test}")
    survived = len(chosen) - verdicts.count("caught")
    print(f"{len(chosen)} mistakes, {survived} not caught")
    return 1 if survived else 0


def verdict(mutant: Mutant, folder: Path) -> str:
    """What became of the mistake."""
    source = copy_source(folder)
    path = source / "handgrad" / mutant.file
    text = path.read_text() if path.exists() else ""
    if text.count(mutant.old) != 1:
        return f"NOT FOUND ONCE but {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new))
    status, _ = run_tests(source, mutant.test)
    # 1: a test failed; anything above: pytest came to no verdict.
    return {0: "SURVIVED", 1: "caught"}.get(status, f"NO VERDICT, pytest's status {status}")


def copy_source(folder: Path) -> Path:
    """A copy of src/, to be broken."""
    return Path(shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__")))


def run_tests(source: Path, *tests: str) -> tuple[int, str]:
    """Pytest's exit status, and what it printed, with handgrad imported from `source`."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XLA_FLAGS", None)  # the default, with which all compiles quickly
    done = subprocess.run(
        [*command, *(f"tests/{test}" for test in tests)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main())
