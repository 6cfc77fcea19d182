"""What every test runs under: eight devices on the CPU, strict dtype promotion, no broadcast of ranks."""

import contextlib
import gc
import itertools
import os

import compiling

if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = compiling.flags(devices=8)

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# JAX holds so many objects that looking for garbage every 700 takes a tenth of the time, and there is little of it.
gc.set_threshold(200_000, 50, 100)

# Files in which each case of a test compiles programs of its own: of four and more every other one runs by default.
COMPILING = (
    "test_check.py",
    "test_check_mistakes.py",
    "test_descent.py",
    "test_distillation.py",
    "test_estimator.py",
    "test_fit.py",
    "test_fused.py",
    "test_fused_refusals.py",
    "test_fused_values.py",
    "test_head_compilers.py",
    "test_head_meshes.py",
    "test_layer.py",
    "test_libraries.py",
    "test_network.py",
    "test_processes.py",
    "test_rows.py",
    "test_streamed_training.py",
    "test_streaming_tables.py",
    "test_streams.py",
    "test_train.py",
    "test_value_and_gradient.py",
    "test_values.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the other cases slow; one that is asked for by its name runs whatever it is marked with."""
    quick = [item for item in items if item.path.name in COMPILING and not item.get_closest_marker("slow")]
    for _, cases in itertools.groupby(quick, key=lambda item: (item.path, item.originalname)):
        cases = list(cases)
        if len(cases) >= 4:
            for case in cases[1::2]:
                case.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_go_with_their_module():
    """Else a process would hold all of them, which comes to 5 GB."""
    yield
    jax.clear_caches()


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Each dtype, with JAX really computing in it."""
    with jax.enable_x64(True) if request.param == "float64" else contextlib.nullcontext():
        yield request.param


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def compiled_rows(monkeypatch):
    """Few rows are summed, and few lanes turned, by compiled programs too, as many are."""
    from handgrad.rows import host
    from handgrad.solvers import placed

    monkeypatch.setattr(host, "FEW", 0)
    monkeypatch.setattr(placed, "FEW", 0)


@pytest.fixture
def standard_promotion():
    """For optax's Adam, which raises a float to an integer power."""
    with jax.numpy_dtype_promotion("standard"):
        yield
