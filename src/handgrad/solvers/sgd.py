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


class Epoch(NamedTuple):
    """What one epoch came to.

    Attributes:
      epoch: its number, from 1.
      loss: mean cross-entropy over the epoch's rows in nats, without the penalty, each batch before its step.
      validation_loss: mean cross-entropy of the validation rows after the epoch in nats; None without validation.
      validation_accuracy: fraction of the validation rows predicted right after the epoch; None without validation.
    """

    epoch: int
    loss: float
    validation_loss: float | None
    validation_accuracy: float | None


class TrainResult(NamedTuple):
    """What `train` returns: the trained parameters, in the form of those it started from, and an `Epoch` for each."""

    params: Params | Network
    history: tuple[Epoch, ...]


def train(
    X: Any,
    targets: Any,
    *,
    optimizer: optax.GradientTransformation | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = 128,
    epochs: int = 20,
    l2: float = 0.0,
    weights: Any = None,
    validation: tuple[Any, Any] | None = None,
    params: Params | Network | None = None,
    num_classes: int | None = None,
    key: jax.Array | None = None,
    callback: Callable[[Params | Network, Epoch], bool | None] | None = None,
) -> TrainResult:
    """Gradient descent on the mean cross-entropy + (l2/2)‖W‖²: W ← W − η(dL/dW + l2·W), b ← b − η dL/db.

    An epoch goes over the rows once, in batches that are drawn anew each time, the last one shorter where the batch
    size does not divide N. It is one compiled program, which a second call with the same shapes, batch size and
    optimizer object finds compiled.

    Args:
      X: data, shape (N, P), floating; kept on the device whole. Of float64, where JAX has it not enabled, float32 is
        kept, so a mean that is large beside the deviation is to be taken off before. Lists and data frames of pandas
        or polars are taken too, here as for targets, weights and validation.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C).
      optimizer: an optax transformation, which carries its own learning rate; the update above if None.
      learning_rate: η of the update above; 0.5 if None. Not allowed with an optimizer.
      batch_size: rows a step; None for all of them, which is gradient descent without chance.
      epochs: how often the rows are gone over.
      l2: penalty on the weights of every layer, not on the biases.
      weights: sample weights (N,); a batch's loss is its rows' mean of (w/w̄)·l, w̄ being the mean weight of all N rows,
        so that batches of any size have the optimum of all rows together.
      validation: data and targets not trained on, whose loss and accuracy the history then has.
      params: where to start: a network, as of `init_network`, or Params; those of a softmax regression, zeros, if None.
        They are copied, not changed.
      num_classes: C; if None that of params, of distributions, or the largest label + 1.
      key: a JAX random key for the order of the rows; the same key gives the same result. `jax.random.key(0)` if None.
      callback: called after each epoch with the parameters and its `Epoch`; True, and nothing else, ends the training.

    Returns:
      TrainResult(params, history), params in X's dtype (float32 where X is float64 and JAX has it not enabled).

    Raises:
      TypeError, ValueError: arguments that do not fit, labels outside [0, C) or data that are not finite, before
        anything is computed.

    Warns:
      RuntimeWarning: the loss has become infinite or NaN; the training ends there and the history shows it.
    """
    X, targets, weights, params, validation = _check(X, targets, weights, params, num_classes, validation)
    if batch_size is not None:
        checks.check_positive_integer("train", "batch_size", batch_size)
    checks.check_positive_integer("train", "epochs", epochs)
    checks.check_number("train", "l2", l2, dtype=X.dtype)
    if optimizer is None:
        learning_rate = 0.5 if learning_rate is None else learning_rate
        checks.check_number("train", "learning_rate", learning_rate, dtype=X.dtype)
        learning_rate, state = float(learning_rate), None
    elif learning_rate is not None:
        raise ValueError(
            "train: an optimizer has its own learning rate; got both an optimizer and "
            f"learning_rate={learning_rate!r}. Leave one of them out."
        )
    elif not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"train: optimizer must be an optax.GradientTransformation; got {optimizer!r}.")
    else:
        state = _copy(optimizer.init(params))
    key = jax.random.key(0) if key is None else key
    checks.check_key("train", key)
    if callback is not None and not callable(callback):
        raise TypeError(f"train: callback must be a function of the parameters and an Epoch; got {callback!r}.")
    history: list[Epoch] = []
    for epoch in range(1, epochs + 1):
        params, state, metrics = _run_epoch(
            params,
            state,
            jax.random.fold_in(key, epoch),
            (X, targets, weights),
            validation,
            learning_rate,
            float(l2),
            optimizer=optimizer,
            batch_size=batch_size,
        )
        history.append(Epoch(epoch, *jax.tree.map(float, metrics)))
        if not math.isfinite(history[-1].loss) or not all(
            bool(jnp.all(jnp.isfinite(a))) for a in jax.tree.leaves(params)
        ):
            warnings.warn(
                f"train: the loss became {history[-1].loss} in epoch {epoch}, or the parameters after it are not "
                "finite, and training ended there. Try a smaller "
                "learning rate, or features scaled to about 1.",
                RuntimeWarning,
                stacklevel=2,
            )
            break
        # The next epoch takes the buffers of params for its own, so the callback, which may keep them, gets a copy.
        if callback is not None:
            answer = np.asarray(callback(_copy(params), history[-1]))
            # True of Python, NumPy or JAX. Whatever else a callback happens to return is no answer.
            if answer.dtype == bool and answer.shape == () and answer:
                break
    return TrainResult(params, tuple(history))


def _check(X, targets, weights, params, num_classes, validation):
    """Check the arrays, look at their values once, and bring them to the device; params are a copy."""
    if validation is not None:
        validation = as_held_out("train", validation, X)
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
    checks.check_targets("train", targets, X.shape[0], output.W.shape[1])
    if weights is not None:
        weights = checks.host_weights("train", weights, X.shape[0], dtype=wide_dtype(X.dtype))
        weights = (weights / (weights.mean() or 1)).astype(wide_dtype(X.dtype))
    if validation is not None:
        checks.check_array("train", "validation X", validation[0], "(N, P)")
        checks.check_finite("train", "validation X", validation[0])
        validation = (jnp.asarray(narrow("train", "validation X", validation[0])), validation[1])
        check_network("train (validation)", params, validation[0])
        checks.check_targets("train (validation)", validation[1], validation[0].shape[0], output.W.shape[1])
    return *jax.tree.map(jnp.asarray, (X, targets, weights)), params, jax.tree.map(jnp.asarray, validation)


def _copy(tree):
    return jax.tree.map(lambda array: jnp.array(array, copy=True), tree)


@functools.partial(jax.jit, static_argnames=("optimizer", "batch_size"), donate_argnames=("params", "state"))
def _run_epoch(params, state, key, data, validation, learning_rate, l2, *, optimizer, batch_size):
    X = data[0]

    def step(carry, batch):
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
            return (formulas.sgd_step(params, dL, learning_rate), state), L
        # Some transformations, such as optax.lbfgs, also ask for the objective.
        updates, state = optax.with_extra_args_support(optimizer).update(
            dL, state, params, value=objective(params, L), grad=dL, value_fn=lambda params: objective(params, None)
        )
        return (optax.apply_updates(params, updates), state), L

    def step_rows(carry, rows):
        return step(carry, jax.tree.map(lambda array: jnp.take(array, rows, axis=0, mode="clip"), data))

    carry = (params, state)
    num_rows = X.shape[0]
    if batch_size is None or batch_size >= num_rows:
        carry, mean_loss = step(carry, data)
    else:
        order = jax.random.permutation(key, num_rows)
        whole = num_rows - num_rows % batch_size
        batches = order[:whole].reshape(-1, batch_size)
        carry, losses = jax.lax.scan(step_rows, carry, batches)
        mean_loss = jnp.sum(losses) * (batch_size / num_rows)
        if whole < num_rows:
            carry, last = step_rows(carry, order[whole:])
            mean_loss += last * ((num_rows - whole) / num_rows)
    params, state = carry
    return params, state, (mean_loss, *_evaluate(params, validation))


def _add_penalty(dL, params, l2):
    """The gradient of L + (l2/2)‖W‖²: l2·W is added to dL/dW."""
    pairs = zip(layers_of(dL), layers_of(params), strict=True)
    return in_form_of(params, [Params(own.params.W + l2 * layer.params.W, own.params.b) for own, layer in pairs])


def _evaluate(params, validation):
    if validation is None:
        return None, None
    X, targets = validation
    Z = formulas.forward(params, X)
    labels = targets if targets.ndim == 1 else jnp.argmax(targets, axis=1)
    predictions = most_probable(jnp, Z)
    hits = predictions == labels.astype(predictions.dtype)
    return formulas.cross_entropy(Z, targets), jnp.mean(hits, dtype=jnp.float32)
