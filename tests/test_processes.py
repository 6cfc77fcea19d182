"""Several processes on this machine: one answer, whoever has which rows, and one end."""

import numpy as np
import pytest

import handgrad
import oracles_fit
import processes as of_processes
import together
from handgrad import launching, processes
from handgrad.data.moments import blocks_of, measure

SPARSE = "sparse share", "sparse stream", "sparse stream without weight", "sparse stream of one"
KINDS = "sharded", "share", "stream", "stream without weight", "stream of one", *SPARSE


# --- Rows in memory and streamed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "devices"),
    [
        (2, 2),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(1, 1), (1, 2), (1, 8), (2, 1), (4, 1), (4, 2)]),
    ],
)
def test_processes_have_one_answer_and_its_certificate_is_true_of_all_rows(count, devices, tmp_path):
    ended = together.run("processes.py", count, [tmp_path], devices=devices)
    assert [status for status, *_ in ended] == [0] * count, ended
    found = [dict(np.load(tmp_path / f"{number}.npz")) for number in range(count)]
    for name in found[0]:
        if not name.startswith("refused/"):
            for other in found[1:]:
                np.testing.assert_array_equal(found[0][name], other[name], err_msg=name)
    X, labels, _ = of_processes.problem()
    for name in KINDS:
        W, b, loss, gap = (found[0][f"{name}/{field}"] for field in ("W", "b", "loss", "gap"))
        weights = of_processes.weights_of(name).astype(np.float64)
        true_loss = oracles_fit.objective(W, b, X, np.eye(of_processes.C)[labels], of_processes.L2, weights)[0]
        true_gap = oracles_fit.relative_gap(W, b, X, labels, of_processes.L2, weights) * true_loss
        assert found[0][f"{name}/converged"], name
        np.testing.assert_allclose(loss, true_loss, rtol=1e-9, err_msg=name)
        assert true_gap <= 1e-6 * true_loss, name
        assert true_gap <= 1.05 * gap, name
    np.testing.assert_allclose(found[0]["path"].min(), found[0]["share/loss"], rtol=2e-5)
    if count > 1:
        assert_all_refuse(found)


def assert_all_refuse(found):
    """What is wrong on process 1 is refused on each, in words that say where."""
    for number, own in enumerate(found):
        said = {name.removeprefix("refused/"): str(words) for name, words in own.items() if name.startswith("refused/")}
        assert said.keys() == {
            "features",
            "dtypes",
            "weights",
            "labels",
            "not finite",
            "nothing",
            "sparse ones",
            "sparse, not finite",
        }
        for name in ("features", "dtypes", "weights", "sparse ones"):
            assert "must be the same on every process" in said[name]
            assert "on process 0 and " in said[name]
            assert said[name].endswith("on process 1.")
        assert "labels must be integers in [0, " in said["labels"]
        assert said["labels"].startswith("process 1: ") == (number != 1)
        for name in ("not finite", "sparse, not finite"):
            assert ("another process has a NaN" in said[name]) == (number != 1)
        assert "got a source without" in said["nothing"]


def test_moments_are_those_of_all_values_however_they_are_shared(dtype):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 6)) * [1, 1e-3, 1e200, 1e9, 0, 1e-300] + [0, 1e9, 1, 1, 7, 0]
    X[::7, 0], X[:300, 3], X[200:, 5] = np.nan, np.nan, np.nan
    expected = measure(blocks_of(X, None), 6)
    found = measure(blocks_of(X[:0], None), 6)
    for start, stop in ((0, 200), (200, 200), (200, 203), (203, 500)):
        found = found.joined(measure(blocks_of(X[start:stop], None), 6))
    for name in ("count", "missing", "low", "high"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.deviation[4] == 0
    np.testing.assert_allclose(found.deviation, expected.deviation, rtol=1e-14)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 200])
def test_shares_have_each_row_once_and_none_has_two_more_than_another(monkeypatch, count):
    monkeypatch.setattr(processes, "count", lambda: count)
    for num_rows in (0, 1, 6, 7, 103):
        rows = []
        for number in range(count):
            monkeypatch.setattr(processes, "index", lambda number=number: number)
            rows.append(range(num_rows)[processes.share(num_rows)])
        assert [row for own in rows for row in own] == list(range(num_rows))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


# --- How they begin ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "needs JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID together"),
        (
            {"JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "localhost:1"},
            "JAX_NUM_PROCESSES must be a whole number; got 'two'",
        ),
        (
            {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2", "JAX_COORDINATOR_ADDRESS": "localhost:1"},
            "JAX_PROCESS_ID must be less than JAX_NUM_PROCESSES; got 2 and 2",
        ),
        *(
            (
                {
                    "JAX_NUM_PROCESSES": "2",
                    "JAX_PROCESS_ID": "1",
                    "JAX_COORDINATOR_ADDRESS": "localhost:1",
                    variable: "4",
                },
                f"{name} has started 4 processes, and JAX_NUM_PROCESSES says 2",
            )
            for variable, name in [("SLURM_NTASKS", "SLURM"), ("OMPI_COMM_WORLD_SIZE", "Open MPI"), ("PMI_SIZE", "MPI")]
        ),
    ],
)
def test_what_does_not_fit_in_the_environment_is_named(monkeypatch, environment, message):
    for name in (*launching.COUNTS, launching.COORDINATOR, launching.INDEX):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        launching.start()


@pytest.mark.parametrize("variable", ["SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "JAX_NUM_PROCESSES"])
def test_a_process_that_others_know_nothing_of_is_refused(monkeypatch, variable):
    monkeypatch.setenv(variable, "3")
    with pytest.raises(ValueError, match=r"has started 3 processes, and JAX knows of 1: each would have"):
        launching.require_launched()


def test_workers_of_ray_that_know_nothing_of_each_other_are_refused(monkeypatch):
    class Context:
        def get_world_size(self):
            return 2

    class Train:
        get_context = Context

    monkeypatch.setitem(launching.sys.modules, "ray.train", Train)
    with pytest.raises(ValueError, match="fit: Ray has started 2 workers, and JAX knows of 1"):
        handgrad.fit(np.eye(3), np.arange(3), l2=0.1)
