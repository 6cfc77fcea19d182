"""Fits data whose rows lie on two processes; run by `test_rows` as `python processes.py PORT NUMBER OUT`."""

import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

port, number, out = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=int(number))

import handgrad  # noqa: E402
from kinds import Blocks  # noqa: E402


def problem():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(64, 5)).astype(np.float32) * [1, 10, 0.1, 1, 3] + np.float32(2)
    return X.astype(np.float32), rng.integers(0, 3, 64), rng.uniform(0, 2, 64).astype(np.float32)


if __name__ == "__main__":
    sharding = NamedSharding(jax.make_mesh((4,), ("rows",)), PartitionSpec("rows"))
    arrays = [jax.make_array_from_callback(array.shape, sharding, array.__getitem__) for array in problem()]
    assert not arrays[0].is_fully_addressable
    result = handgrad.fit(*arrays[:2], l2=1e-2, weights=arrays[2])
    whole = handgrad.fit(arrays[0], problem()[1], l2=1e-2, weights=problem()[2], class_weights=[1, 2, 1])
    path = handgrad.fit_path(*arrays[:2], l2s=[1e-2, 1.0], weights=arrays[2])
    rows = slice(0, 41) if number == "0" else slice(41, 64)  # each process has its own
    source = Blocks(*(array[rows] for array in problem()))
    streamed = handgrad.fit(source, None, l2=1e-2, mesh=jax.make_mesh((4,), ("rows",)))
    np.savez(
        out,
        streamed=streamed.loss,
        streamed_gap=streamed.gap,
        W=result.params.W,
        b=result.params.b,
        loss=result.loss,
        gap=result.gap,
        converged=result.converged,
        whole=whole.loss,
        path=path.loss,
    )
