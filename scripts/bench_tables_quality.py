"""How good `handgrad fit` and `handgrad train` are by default on twelve real tables, beside LogisticRegressionCV.

    python scripts/bench_tables_quality.py            all of them
    python scripts/bench_tables_quality.py wine zoo   these

Prints the log-loss of the rows to test, in nats, as `tests/table_quality.py` says; "!" where it is worse than that of
LogisticRegressionCV by more than its standard error.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import known_tables
import table_quality


def main() -> int:
    """The table; exit status 1 if one is worse."""
    worse = 0
    print(f"{'':14}{'shares':>8}{'LogisticRegressionCV':>24}{'fit':>10}{'train':>10}  epoch")
    for name in sys.argv[1:] or known_tables.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            found = table_quality.measure(name, Path(folder))
        marks = ["!" if loss > found.reference + found.error else " " for loss in (found.fit, found.train)]
        worse += marks.count("!")
        print(
            f"{name:14}{found.shares:8.4f}{found.reference:15.4f} ±{found.error:7.4f}"
            f"{found.fit:9.4f}{marks[0]}{found.train:9.4f}{marks[1]}{found.epoch:7}",
            flush=True,
        )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
