"""Gradient descent as it is written down, or any optax transformation fed with the hand-derived gradient."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from handgrad import arguments as checks
from handgrad import formulas
from handgrad.compiled import narrow
from handgrad.formulas import Params
from handgrad.formulas.network import Network, check_network, in_form_of, layers_of
from handgrad.formulas.softmax import most_probable
from handgrad.frames import as_array, as_data, as_held_out, as_targets
from handgrad.initialization import init_params
from handgrad.precision import wide_dtype
from handgrad.progress import shown
from handgrad.rows import refuse_source
from handgrad.settings import is_true
from handgrad.solvers.data import weigh_classes
from handgrad.solvers.results import describe_sizes
from handgrad.solvers.step import rates, suitable_rate


class Epoch(NamedTuple):
    """What one epoch came to.

    Attributes:
      epoch: its number, from 1.
      loss: mean cross-entropy over the epoch's rows in nats, without the penalty, each batch before its step.
      validation_loss: mean cross-entropy of the validation rows after the epoch in nats, weighted as they are; None
        without validation.
      validation_accuracy: fraction of the validation rows predicted right after the epoch; None without validation.
    """

    epoch: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None


class TrainResult(NamedTuple):
    """What `train` returns.

    Attributes:
      params: the trained parameters, in the form of those it started from.
      history: an `Epoch` for each.
      best: the number of the epoch after which these are the parameters: with `patience` that of the least validation
        loss, 0 where none was better than the start; else the last.
    """

    params: Params | Network
    history: tuple[Epoch, ...]
    best: int

    def __repr__(self) -> str:
        """Two lines: what was trained, and the epoch that is kept."""
        kept = self.history[self.best - 1] if self.best else None
        found = "the start was better than each of them" if kept is None else f"loss {kept.loss:.4g} nats"
        if kept is not None and kept.validation_loss is not None:
            found += f", validation loss {kept.validation_loss:.4g}, accuracy {kept.validation_accuracy:.2%}"
        return f"TrainResult: {describe_sizes(self.params)}\nepoch {self.best} of {len(self.history)} is kept: {found}"


def train(
    X: Any,
    targets: Any,
    *,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | Callable[[Any], Any] | None = None,
    batch_size: int | None = 128,
    epochs: int = 20,
    l2: float = 0.0,
    weights: Any = None,
    class_weights: Any = None,
    validation: tuple[Any, ...] | None = None,
    patience: int | None = None,
    params: Params | Network | None = None,
    num_classes: int | None = None,
    key: jax.Array | None = None,
    callback: Callable[[Params | Network, Epoch], bool | None] | None = None,
    progress: bool = False,
) -> TrainResult:
    """Gradient descent on the mean cross-entropy + (l2/2)‖W‖²: W ← W − η(dL/dW + l2·W), b ← b − η dL/db.

    An epoch goes over the rows once, in batches that are drawn anew each time, the last one shorter where the batch
    size does not divide N. It is one compiled program, which a second call with the same shapes, batch size and
    optimizer object finds compiled, whatever the learning rate.

    Args:
      X: data, shape (N, P), floating; kept on the device whole. Of float64, where JAX has it not enabled, float32 is
        kept, so a mean that is large beside the deviation is to be taken off before. Lists and data frames of pandas
        or polars are taken too, here as for targets, weights and validation.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      optimizer: an optax transformation, which carries its own learning rate; the update above if None.
      learning_rate: η of the update above, or a schedule of optax's: a function of the number of steps taken, which JAX
        can trace. If None one that suits the data: 1/(λ/2 + l2) with λ the largest eigenvalue of XᵀX/N, the bias's ones
        and the weights counted, and the smaller, the longer single rows and the fewer of them make a batch; 0.1 with
        hidden layers, whose curvature has no bound. Not allowed with an optimizer.
      batch_size: rows a step; None for all of them, which is gradient descent without chance.
      epochs: how often the rows are gone over.
      l2: penalty on the weights of every layer, not on the biases.
      weights: sample weights (N,); a batch's loss is its rows' mean of (w/w̄)·l, w̄ being the mean weight of all N rows,
        so that batches of any size have the optimum of all rows together.
      class_weights: (C,) or {class: weight}, 1 where it has none; the weight of a row is multiplied by its class's, in
        the validation too.
      validation: data and targets not trained on, whose loss and accuracy the history then has; or these and weights.
      patience: of what is trained the epoch with the least validation loss is returned, and the training ends after so
        many epochs that are no better. If None it goes on to its end, and that is returned.
      params: where to start: a network, as of `init_network`, or Params; those of a softmax regression, zeros, if None.
        They are copied, not changed.
      num_classes: C; if None that of params, of distributions, or the largest label + 1.
      key: a JAX random key for the order of the rows; the same key gives the same result. `jax.random.key(0)` if None.
      callback: called after each epoch with the parameters and its `Epoch`; True, and nothing else, ends the training.
      progress: whether to show a bar with the time that is left, as in `fit`.

    Returns:
      TrainResult(params, history, best), params in X's dtype (float32 where X is float64 and JAX has it not enabled).

    Raises:
      TypeError, ValueError: arguments that do not fit, labels outside [0, C) or data that are not finite, before
        anything is computed.

    Warns:
      RuntimeWarning: the loss has become infinite or NaN; the training ends there and the history shows it. With
        `patience` the best epoch before is returned, else the parameters as they have become.
    """
    X, targets, weights, params, validation = _check(
        X, targets, weights, class_weights, params, num_classes, validation
    )
    if batch_size is not None:
        checks.check_positive_integer("train", "batch_size", batch_size)
    checks.check_positive_integer("train", "epochs", epochs)
    checks.check_number("train", "l2", l2, dtype=X.dtype)
    if patience is not None:
        checks.check_positive_integer("train", "patience", patience)
        if validation is None:
            raise ValueError(
                "train: patience needs rows to tell the best epoch by; got none. Pass validation=(X, targets)."
            )
    if optimizer is None:
        if learning_rate is None:
            learning_rate = suitable_rate(params, X, weights, batch_size=batch_size, l2=float(l2))
        if not callable(learning_rate):
            checks.check_number("train", "learning_rate", learning_rate, dtype=X.dtype)
        state = None
    elif learning_rate is not None:
        raise ValueError(
            "train: an optimizer has its own learning rate; got both an optimizer and "
            f"learning_rate={learning_rate!r}. Leave one of them out."
        )
    elif not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"train: optimizer must be an optax.GradientTransformation; got {optimizer!r}.")
    else:
        learning_rate, state = 0.0, _copy(optimizer.init(params))
    key = jax.random.key(0) if key is None else key
    checks.check_key("train", key)
    num_steps = -(-X.shape[0] // min(batch_size or X.shape[0], X.shape[0]))

    def run(params, state, epoch):
        return _run_epoch(
            params,
            state,
            jax.random.fold_in(key, epoch),
            (X, targets, weights),
            validation,
            rates(learning_rate, (epoch - 1) * num_steps, num_steps, wide_dtype(X.dtype)),
            float(l2),
            optimizer=optimizer,
            batch_size=batch_size,
        )

    best = None if patience is None else _Best(0, float(_evaluate(params, validation)[0]), _copy(params))
    with shown("train", progress, callback, lambda _, epoch: (epoch.epoch / epochs, _in_words(epoch))) as watch:
        return _descend(run, params, state, epochs, best, patience, watch)


def _in_words(epoch: Epoch) -> str:
    validation = "" if epoch.validation_loss is None else f", validation loss {epoch.validation_loss:.4g}"
    return f"epoch {epoch.epoch:,}, loss {epoch.loss:.4g}{validation}"


def _descend(run, params, state, epochs, best, patience, callback):
    """Run the epochs until their number, patience, divergence or the callback ends them."""
    history = []
    for epoch in range(1, epochs + 1):
        params, state, metrics = run(params, state, epoch)
        now = Epoch(epoch, *jax.tree.map(float, metrics))
        history.append(now)
        if not math.isfinite(now.loss) or not all(bool(jnp.all(jnp.isfinite(a))) for a in jax.tree.leaves(params)):
            warnings.warn(
                f"train: the loss became {now.loss} in epoch {epoch}, or the parameters after it are not "
                "finite, and training ended there. Try a smaller "
                "learning rate, or features scaled to about 1.",
                RuntimeWarning,
                stacklevel=3,
            )
            break
        # The next epoch takes the buffers of params for its own: what is kept, here or by the callback, is a copy.
        if best is not None and now.validation_loss < best.loss:
            best = _Best(epoch, now.validation_loss, _copy(params))
        if callback is not None and is_true(callback(_copy(params), now)):
            break
        if best is not None and epoch - best.epoch >= patience:
            break
    best = _Best(len(history), math.nan, params) if best is None else best
    return TrainResult(best.params, tuple(history), best.epoch)


class _Best(NamedTuple):
    """The epoch of the least validation loss so far, 0 being the start, and its parameters."""

    epoch: int
    loss: float
    params: Params | Network


def _check(X, targets, weights, class_weights, params, num_classes, validation):
    """Check the arrays, look at their values once, and bring them to the device; params are a copy."""
    held_weights = None
    if validation is not None:
        if isinstance(validation, (tuple, list)) and len(validation) == 3:
            *validation, held_weights = validation
        required = "a pair (X, targets), or (X, targets, weights)"
        validation = as_held_out("train", validation, X, required)
    refuse_source("train", X)
    X, targets, weights = as_data("train", X), as_targets("train", targets), as_array("train", weights, "weights")
    checks.check_array("train", "X", X, "(N, P)")
    checks.check_finite("train", "X", X)
    X = jnp.asarray(narrow("train", "X", X))
    if params is None:
        if num_classes is None:
            num_classes = checks.count_classes("train", targets)
        params = init_params(X.shape[1], num_classes, dtype=X.dtype)
    else:
        params = in_form_of(params, [Params(*layer.params) for layer in layers_of(_copy(params))])
    *_, (output, _) = check_network("train", params, X)
    if num_classes not in (None, output.W.shape[1]):
        raise ValueError(f"train: num_classes must be that of params, {output.W.shape[1]}, or None; got {num_classes}.")
    about = {"class_weights": class_weights, "num_classes": output.W.shape[1], "dtype": wide_dtype(X.dtype)}
    targets, weights = _weigh("train", targets, weights, X.shape[0], **about)
    if validation is not None:
        checks.check_array("train", "validation X", validation[0], "(N, P)")
        checks.check_finite("train", "validation X", validation[0])
        held_out = jnp.asarray(narrow("train", "validation X", validation[0]))
        check_network("train (validation)", params, held_out)
        held_weights = as_array("train", held_weights, "validation weights")
        of_rows = _weigh("train (validation)", validation[1], held_weights, held_out.shape[0], **about)
        validation = (held_out, *of_rows)
    return *jax.tree.map(jnp.asarray, (X, targets, weights)), params, jax.tree.map(jnp.asarray, validation)


def _weigh(function, targets, weights, num_rows, *, class_weights, num_classes, dtype):
    """Targets, checked, and the weights of their rows with mean 1; None where all rows count as one."""
    checks.check_targets(function, targets, num_rows, num_classes)
    if weights is None and class_weights is None:
        return targets, None
    weights = checks.host_weights(function, weights, num_rows, dtype=dtype)
    if class_weights is not None:
        host = np.asarray(targets)
        T, weights = weigh_classes(
            function, class_weights, host.astype(np.float64 if host.ndim == 2 else np.int64), weights, num_classes
        )
        targets = T.astype(host.dtype)
        weights = checks.host_weights(function, weights, num_rows, dtype=dtype)
    return targets, (weights / (weights.mean() or 1)).astype(dtype)


def _copy(tree):
    return jax.tree.map(lambda array: jnp.array(array, copy=True), tree)


@functools.partial(jax.jit, static_argnames=("optimizer", "batch_size"), donate_argnames=("params", "state"))
def _run_epoch(params, state, key, data, validation, rates, l2, *, optimizer, batch_size):
    X = data[0]

    def step(carry, batch, rate):
        params, state = carry
        L, dL = formulas.value_and_gradient(params, *batch)
        weights = batch[2]
        # The formulas divide by the batch's own weights, which would make a heavy row as light as a light one where
        # it is alone. Over all rows the mean weight is 1, so the batch's mean weight puts back what it counts for.
        share = 1 if weights is None else jnp.mean(weights)
        L = share * L
        dL = _add_penalty(jax.tree.map(lambda a: jnp.asarray(share, a.dtype) * a, dL), params, l2)

        def objective(params, L):
            L = share * formulas.loss(params, *batch) if L is None else L
            return L + 0.5 * l2 * sum(jnp.vdot(layer.params.W, layer.params.W) for layer in layers_of(params))

        if optimizer is None:
            return (formulas.sgd_step(params, dL, rate), state), L
        # Some transformations, such as optax.lbfgs, also ask for the objective.
        updates, state = optax.with_extra_args_support(optimizer).update(
            dL, state, params, value=objective(params, L), grad=dL, value_fn=lambda params: objective(params, None)
        )
        return (optax.apply_updates(params, updates), state), L

    def step_rows(carry, of_step):
        rows, rate = of_step
        return step(carry, jax.tree.map(lambda array: jnp.take(array, rows, axis=0, mode="clip"), data), rate)

    carry = (params, state)
    num_rows = X.shape[0]
    if batch_size is None or batch_size >= num_rows:
        carry, mean_loss = step(carry, data, rates[0])
    else:
        order = jax.random.permutation(key, num_rows)
        whole = num_rows - num_rows % batch_size
        batches = order[:whole].reshape(-1, batch_size)
        carry, losses = jax.lax.scan(step_rows, carry, (batches, rates[: len(batches)]))
        mean_loss = jnp.sum(losses) * (batch_size / num_rows)
        if whole < num_rows:
            carry, last = step_rows(carry, (order[whole:], rates[-1]))
            mean_loss += last * ((num_rows - whole) / num_rows)
    params, state = carry
    return params, state, (mean_loss, *_evaluate(params, validation))


def _add_penalty(dL, params, l2):
    """The gradient of L + (l2/2)‖W‖²: l2·W is added to dL/dW."""
    pairs = zip(layers_of(dL), layers_of(params), strict=True)
    return in_form_of(params, [Params(own.params.W + l2 * layer.params.W, own.params.b) for own, layer in pairs])


@jax.jit
def _evaluate(params, validation):
    if validation is None:
        return None, None
    X, targets, weights = validation
    Z = formulas.forward(params, X)
    labels = targets if targets.ndim == 1 else jnp.argmax(targets, axis=1)
    predictions = most_probable(jnp, Z)
    hits = predictions == labels.astype(predictions.dtype)
    return formulas.cross_entropy(Z, targets, weights), jnp.mean(hits, dtype=jnp.float32)
