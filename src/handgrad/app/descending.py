"""The epochs of `handgrad train`, by `handgrad.train` from checkpoint to checkpoint."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import handgrad
from handgrad.app.checkpoints import Work, as_state
from handgrad.app.progress import Watch
from handgrad.data import Part
from handgrad.solvers.epochs import Best

COOLED = 0.1


class Place(NamedTuple):
    """Where a training is, for it to go on from.

    Attributes:
      before: how many epochs there were before the plateau was left; 0 until then.
      best: which of these is the best; 0 for the start.
      losses: of all epochs, as `Epoch` has them (E, 3).
      state: of the training since then, without its key; None where it begins.
    """

    before: int
    best: int
    losses: np.ndarray
    state: Any


def descend(
    settings: dict[str, Any],
    params: Any,
    data: tuple[Part, Part, np.ndarray | None],
    callback: Callable[[handgrad.Epoch], bool],
    work: Work,
    watch: Watch,
) -> tuple[Any, tuple[handgrad.Epoch, ...], int]:
    """Train, until the callback answers True; on a plateau from the best epoch on once more, at a tenth of the rate.

    Where labels are noisy, the noise of the batches keeps a constant rate from coming nearer than that.

    Args:
      settings: of the run.
      params: where to start.
      data: the rows to train on and to watch, and the weights of the classes.
      callback: called after each epoch.
      work: to which checkpoints go, and which may have one to go on from.
      watch: of the training.

    Returns:
      The parameters, the epochs, and the number of the one whose parameters these are.
    """
    (trained, watched, class_weights), epochs = data, settings["epochs"]
    before, best, losses, begun = _begun(work, settings, params)
    state: Any = begun
    history = [handgrad.Epoch(number, *row) for number, row in enumerate(losses.tolist(), 1)]
    ended = False

    def add(_: Any, epoch: handgrad.Epoch) -> bool:
        nonlocal ended
        history.append(epoch._replace(epoch=len(history) + 1))
        ended = callback(history[-1])
        return ended

    for is_cooled in (False, True) if settings["schedule"] == "plateau" else (False,):
        if before > 0 and not is_cooled:
            continue
        how = _update(settings, len(trained.labels), is_cooled)
        while len(history) < epochs:
            seen, left = len(history), epochs - len(history)
            key = jax.random.fold_in(jax.random.key(settings["seed"]), before)
            start: dict[str, Any] = {"params": params, "key": key}
            if state is not None:
                start = {"state": state._replace(key=key)}
            result = handgrad.train(
                trained.X,
                trained.labels,
                **how,
                batch_size=settings["batch_size"],
                epochs=min(work.every or left, left),
                l2=settings["l2"],
                weights=trained.weights,
                class_weights=class_weights,
                validation=watched,
                patience=settings["patience"] or epochs,
                callback=add,
                **start,
            )
            state = result.state
            if len(result.history) > len(history) - seen:  # it has diverged, and the callback was not called
                history.append(result.history[-1]._replace(epoch=len(history) + 1))
                return params, tuple(history), best
            if len(history) == seen:
                break
            losses = np.array([epoch[1:] for epoch in history])
            take = functools.partial(Place, before, best, losses, state._replace(key=None))
            work.count(take, watch, len(history) - seen)
            if ended:
                break
        params, best = state.best.params, before + state.best.epoch if state.best.epoch else best
        if ended or len(history) == epochs:
            break
        before, state = len(history), None
    return params, tuple(history), best


def _begun(work: Work, settings: dict[str, Any], params: Any) -> Place:
    """Where a run goes on; the start where it has not begun."""
    saved = work.take_saved()
    if saved is None:
        return Place(0, 0, np.zeros((0, 3)), None)
    optimizer = _update(settings, 1, False)["optimizer"]
    of_optimizer = None if optimizer is None else optimizer.init(params)
    state = handgrad.TrainState(params, of_optimizer, None, 0, 0, Best(0, 0.0, params))  # type: ignore[arg-type]
    place = as_state(Place(0, 0, np.zeros((0, 3)), state), saved)
    return place._replace(before=int(place.before), best=int(place.best))


def _update(settings: dict[str, Any], num_rows: int, is_cooled: bool) -> dict[str, Any]:
    """The optimizer, or the learning rate of the explicit update."""
    rate: Any = settings["learning_rate"] * (COOLED if is_cooled else 1.0)
    num_steps = settings["epochs"] * math.ceil(num_rows / min(settings["batch_size"] or num_rows, num_rows))
    if settings["schedule"] == "cosine":
        rate = optax.cosine_decay_schedule(rate, num_steps)
    elif settings["schedule"] == "linear":
        rate = optax.linear_schedule(rate, 0.0, num_steps)
    if settings["optimizer"] == "sgd":
        return {"optimizer": None, "learning_rate": rate}
    return {"optimizer": getattr(optax, settings["optimizer"])(rate), "learning_rate": None}
