"""One softmax regression of a table, fitted by the workers of a Ray cluster together: python ray_fit.py TABLE TARGET.

Ray's JaxTrainer starts the workers, and begins `jax.distributed` on TPUs and GPUs alone: on CPUs each worker would have
an answer of its own, which handgrad refuses. So they are begun here, whatever they compute on. All workers must see
TABLE under the same name; each reads its share of the rows.
"""

import socket
import sys
import tempfile
from pathlib import Path


def address_of_worker_0():
    """Where the workers meet, told to all of them by the first."""
    import ray
    from ray.train.collective import broadcast_from_rank_zero

    address = None
    if ray.train.get_context().get_world_rank() == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            address = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    return broadcast_from_rank_zero(address)


def work(config):
    import ray.train

    from handgrad import launching

    context = ray.train.get_context()
    launching.start(address_of_worker_0(), context.get_world_size(), context.get_world_rank())

    import numpy as np

    import handgrad
    from handgrad.data import split_and_scale, stream_table

    table = stream_table(config["table"], target=config["target"])
    split = split_and_scale(table)
    result = handgrad.fit(split.train.X, split.train.labels, l2=1 / len(split.train.labels))
    found = {"loss": result.loss, "gap": result.gap, "converged": result.converged}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/params.npz", W=result.params.W, b=result.params.b)
        is_first = context.get_world_rank() == 0
        ray.train.report(found, checkpoint=ray.train.Checkpoint.from_directory(folder) if is_first else None)


def fit(table, target, num_workers=2):
    """What the workers have found, and a checkpoint with `params.npz`."""
    from ray.train import ScalingConfig
    from ray.train.v2.jax import JaxTrainer

    config = {"table": str(Path(table).resolve()), "target": target}
    trainer = JaxTrainer(work, train_loop_config=config, scaling_config=ScalingConfig(num_workers=num_workers))
    return trainer.fit()


if __name__ == "__main__":
    result = fit(*sys.argv[1:])
    print(result.metrics, result.checkpoint.path)
