"""What gradient descent returns: its epochs, and where it has ended, from where it can go on."""

from typing import Any, NamedTuple

import jax

from handgrad.formulas import Params
from handgrad.formulas.network import Network
from handgrad.solvers.results import describe_sizes


class Epoch(NamedTuple):
    """What one epoch came to.

    Attributes:
      epoch: its number, from 1.
      loss: mean cross-entropy over the epoch's rows in nats, without the penalty, each batch before its step.
      validation_loss: mean cross-entropy of the validation rows after the epoch in nats, weighted as they are; None
        without validation.
      validation_accuracy: fraction of the validation rows predicted right after the epoch; None without validation.

    Example:
      >>> X, t = np.array([[-1.0], [1.0]], np.float32), np.array([0, 1])
      >>> last = handgrad.train(X, t, epochs=3, validation=(X, t)).history[-1]
      >>> last.epoch, last.validation_accuracy
      (3, 1.0)
    """

    epoch: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None


class Best(NamedTuple):
    """The epoch of the least validation loss so far, 0 being the start, and its parameters."""

    epoch: int
    loss: float
    params: Params | Network


class TrainState(NamedTuple):
    """Where a training is, for `train` to go on from: a pytree.

    Attributes:
      params: as they are after the last epoch.
      optimizer_state: of the optax transformation; None for the explicit update.
      key: the random key that the order of the rows of each epoch follows from.
      epoch, steps: how many there have been.
      best: the best epoch so far, None without patience, which ends so many epochs after it.

    Example:
      >>> X, t = np.array([[-1.0], [1.0]], np.float32), np.array([0, 1])
      >>> begun = handgrad.train(X, t, epochs=3)
      >>> ended = handgrad.train(X, t, epochs=3, state=begun.state)
      >>> [epoch.epoch for epoch in ended.history], ended.state.epoch
      ([4, 5, 6], 6)
    """

    params: Params | Network
    optimizer_state: Any
    key: jax.Array
    epoch: int
    steps: int
    best: Best | None


class TrainResult(NamedTuple):
    """What `train` returns.

    Attributes:
      params: the trained parameters, in the form of those it started from.
      history: an `Epoch` for each; after an earlier result's state, for each that is new.
      best: the number of the epoch after which these are the parameters: with `patience` that of the least validation
        loss, 0 where none was better than the start; else the last.
      state: where the training has ended, for another call to go on from.

    Example:
      >>> X, t = np.array([[-1.0], [1.0]], np.float32), np.array([0, 1])
      >>> result = handgrad.train(X, t, epochs=3)
      >>> result.params.W.shape, len(result.history), result.best
      ((1, 2), 3, 3)
    """

    params: Params | Network
    history: tuple[Epoch, ...]
    best: int
    state: TrainState

    def __repr__(self) -> str:
        """Two lines: what was trained, and the epoch that is kept."""
        kept = next((epoch for epoch in self.history if epoch.epoch == self.best), None)
        earlier = f"validation loss {self.state.best.loss:.4g}" if self.best and self.state.best else "the start"
        found = f"{earlier} was better than each of them" if kept is None else f"loss {kept.loss:.4g} nats"
        if kept is not None and kept.validation_loss is not None:
            found += f", validation loss {kept.validation_loss:.4g}, accuracy {kept.validation_accuracy:.2%}"
        return f"TrainResult: {describe_sizes(self.params)}\nepoch {self.best} of {self.state.epoch} is kept: {found}"
