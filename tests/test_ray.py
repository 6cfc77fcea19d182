"""examples/ray_fit.py, run by two workers of Ray on this machine."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from handgrad.data import read_table, split_and_scale
from oracles_fit import relative_gap

if importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None:
    pytest.skip("Ray is not installed: pip install 'handgrad[ray]'", allow_module_level=True)
EXAMPLE = Path(__file__).parents[1] / "examples" / "ray_fit.py"
CODE = """
import sys
import ray_fit

def alone(config):
    import numpy as np
    import handgrad
    handgrad.fit(np.eye(3), np.arange(3), l2=0.1)

if __name__ == "__main__":
    result = ray_fit.fit(sys.argv[1], "kind")
    print("found", {**result.metrics, "path": result.checkpoint.path})
    ray_fit.work = alone
    try:
        ray_fit.fit(sys.argv[1], "kind")
    except Exception as error:
        print("refused" if "fit: Ray has started 2 workers, and JAX knows of 1" in str(error) else error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not EXAMPLE.exists(), reason="the tests run apart from the repository")
def test_workers_of_ray_find_one_answer_and_are_refused_where_each_works_alone(tmp_path):
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(101, 3)), np.arange(101) % 3
    rows = "\n".join(",".join([*map(str, x + label), "abc"[label]]) for x, label in zip(X, labels, strict=True))
    (tmp_path / "t.csv").write_text(f"p,q,r,kind\n{rows}\n")
    (tmp_path / "two.py").write_text(CODE)
    paths = [str(EXAMPLE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    run = subprocess.run(
        [sys.executable, tmp_path / "two.py", tmp_path / "t.csv"],
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = [line for line in run.stdout.splitlines() if line.startswith(("found", "refused"))]
    assert len(said) == 2, run.stdout + run.stderr
    found = eval(said[0].removeprefix("found "))
    assert found["converged"]
    train = split_and_scale(read_table(tmp_path / "t.csv", target="kind")).train
    assert found["gap"] <= 1e-5 * found["loss"]
    params = np.load(Path(found["path"]) / "params.npz")
    W, b = params["W"], params["b"]
    gap = relative_gap(W, b, train.X.astype(float), train.labels, 1 / len(train.labels), None) * found["loss"]
    assert gap <= 1.05 * found["gap"]
    assert said[1] == "refused"
