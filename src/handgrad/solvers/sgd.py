"""Gradient descent as it is written down, or any optax transformation fed with the hand-derived gradient."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from handgrad import arguments as checks
from handgrad.compiled import as_jax
from handgrad.formulas import Params
from handgrad.formulas.network import Network, check_network, in_form_of, layers_of
from handgrad.frames import as_array, as_data, as_held_out, as_targets
from handgrad.initialization import init_params
from handgrad.precision import wide_dtype
from handgrad.progress import shown
from handgrad.rows import SparseStream, Stream, open_source
from handgrad.settings import is_true, show
from handgrad.solvers.batches import evaluate, run_epoch
from handgrad.solvers.data import weigh_classes
from handgrad.solvers.epochs import Best, Epoch, TrainResult, TrainState
from handgrad.solvers.step import rates, suitable_rate
from handgrad.solvers.streamed_epochs import Streamed, evaluate_streamed, how_sorted, run_streamed


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
    state: TrainState | None = None,
    callback: Callable[[Params | Network, Epoch], bool | None] | None = None,
    progress: bool = False,
) -> TrainResult:
    """Gradient descent on the mean cross-entropy + (l2/2)‖W‖²: W ← W − η(dL/dW + l2·W), b ← b − η dL/db.

    An epoch goes over the rows once, in batches that are drawn anew each time, the last one shorter where the batch
    size does not divide N. It is one compiled program, which a second call with the same shapes, batch size and
    optimizer object finds compiled, whatever the learning rate.

    Rows may be streamed, as `fit` takes them: an epoch is then one reading, of which 64 MB at a time are in memory and
    are mixed with each other. Of a memory map these are drawn from all its rows, in short runs; of another source they
    lie together, so that it must not be sorted by class. A stream of up to 64 MB is gone over as an array is.

    Args:
      X: data, shape (N, P), floating; kept on the device whole. Of float64, where JAX has it not enabled, float32 is
        kept, so a mean that is large beside the deviation is to be taken off before. Lists and data frames of pandas
        or polars are taken too, here as for targets, weights and validation. Or a source of dense blocks, as for `fit`.
      targets: labels (N,) of integer dtype in [0, C), or distributions (N, C); None where they come with the blocks of
        a source.
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
      state: the `state` of an earlier result, to go on where that ended, with params and key of its own: 3 epochs and 3
        more are 6 in every bit, with the same other arguments. It stays as it is.
      callback: called after each epoch with the parameters and its `Epoch`; True, and nothing else, ends the training.
      progress: whether to show a bar with the time that is left, as in `fit`.

    Returns:
      TrainResult(params, history, best, state), params in X's dtype (float32 where X is float64 and JAX has it not
        enabled).

    Raises:
      TypeError, ValueError: arguments that do not fit, labels outside [0, C) or data that are not finite, before
        anything is computed.

    Warns:
      RuntimeWarning: the loss has become infinite or NaN; the training ends there and the history shows it. With
        `patience` the best epoch before is returned, else the parameters as they have become.

    Example:
      >>> X, t = np.array([[-1.0], [1.0]], np.float32), np.array([0, 1])
      >>> result = handgrad.train(X, t, learning_rate=1.0, batch_size=None, epochs=1)
      >>> print(result.params.W)  # 0 − η XᵀD with D = (Y − T)/N, each row of it ±(1/4, −1/4)
      [[-0.5  0.5]]
    """
    X, targets, weights = open_source("train", X, targets, weights)
    if state is not None:
        state = _check_state(state, params, key)
        params = state.params
    X, targets, weights, params, validation = _check(
        X, targets, weights, class_weights, params, num_classes, validation
    )
    if batch_size is not None:
        checks.check_positive_integer("train", "batch_size", batch_size)
    checks.check_positive_integer("train", "epochs", epochs)
    dtype = jax.dtypes.canonicalize_dtype(X.dtype)
    checks.check_number("train", "l2", l2, dtype=dtype)
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
            checks.check_number("train", "learning_rate", learning_rate, dtype=dtype)
        fresh = None
    elif learning_rate is not None:
        raise ValueError(
            "train: an optimizer has its own learning rate; got both an optimizer and "
            f"learning_rate={learning_rate!r}. Leave one of them out."
        )
    elif not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(f"train: optimizer must be an optax.GradientTransformation; got {optimizer!r}.")
    else:
        learning_rate, fresh = 0.0, optimizer.init(params)
    if state is None:
        state = TrainState(params, _copy(fresh), jax.random.key(0) if key is None else key, 0, 0, None)
    else:
        state = state._replace(params=params, optimizer_state=_like(fresh, state.optimizer_state))
    checks.check_key("train", state.key)
    if patience is None:
        state = state._replace(best=None)
    elif state.best is None:
        state = state._replace(best=Best(state.epoch, float(_judge(params, validation)[0]), _copy(params)))
    num_steps = -(-X.shape[0] // min(batch_size or X.shape[0], X.shape[0]))
    if isinstance(X, Stream):
        data: Any = Streamed(X, dtype, targets, weights)
        run_rows, inside = run_streamed, None
        if said := how_sorted(data, layers_of(params)[-1].params.W.shape[1], batch_size):
            warnings.warn(f"train: {said}", RuntimeWarning, stacklevel=2)
    else:  # validated in the same program, where that is in memory too
        data, run_rows, inside = (X, targets, weights), run_epoch, validation
        inside = None if isinstance(validation, Streamed) else validation

    def run(state):
        params, optimizer_state, metrics = run_rows(
            state.params,
            state.optimizer_state,
            jax.random.fold_in(state.key, state.epoch + 1),
            data,
            inside,
            rates(learning_rate, state.steps, num_steps, wide_dtype(dtype)),
            float(l2),
            optimizer=optimizer,
            batch_size=batch_size,
        )
        if inside is None:
            metrics = metrics[0], *_judge(params, validation)
        counts = {"epoch": state.epoch + 1, "steps": state.steps + num_steps}
        return state._replace(params=params, optimizer_state=optimizer_state, **counts), metrics

    begun = state.epoch
    share = lambda _, epoch: ((epoch.epoch - begun) / epochs, _in_words(epoch))  # noqa: E731
    with shown("train", progress, callback, share) as watch:
        return _descend(run, state, begun + epochs, patience, watch)


def _in_words(epoch: Epoch) -> str:
    validation = "" if epoch.validation_loss is None else f", validation loss {epoch.validation_loss:.4g}"
    return f"epoch {epoch.epoch:,}, loss {epoch.loss:.4g}{validation}"


def _descend(run, state, last, patience, callback):
    """Run the epochs until their number, patience, divergence or the callback ends them."""
    history = []
    while state.epoch < last and not (state.best is not None and state.epoch - state.best.epoch >= patience):
        state, metrics = run(state)
        now = Epoch(state.epoch, *jax.tree.map(float, metrics))
        history.append(now)
        if not (math.isfinite(now.loss) and _is_finite(state.params)):
            warnings.warn(
                f"train: the loss became {now.loss} in epoch {now.epoch}, or the parameters after it are not "
                "finite, and training ended there. Try a smaller "
                "learning rate, or features scaled to about 1.",
                RuntimeWarning,
                stacklevel=3,
            )
            break
        # The next epoch takes the buffers of params for its own: what is kept, here or by the callback, is a copy.
        if state.best is not None and now.validation_loss < state.best.loss:
            state = state._replace(best=Best(now.epoch, now.validation_loss, _copy(state.params)))
        if callback is not None and is_true(callback(_copy(state.params), now)):
            break
    kept = Best(state.epoch, math.nan, state.params) if state.best is None else state.best
    return TrainResult(kept.params, tuple(history), kept.epoch, state)


def _is_finite(params):
    return all(bool(jnp.all(jnp.isfinite(array))) for array in jax.tree.leaves(params))


def _check_state(state, params, key):
    """Check a state to go on from, which has come from `train`, perhaps by way of a file."""
    if not isinstance(state, TrainState):
        raise TypeError(f"train: state must be the state of a TrainResult; got {show(state)}.")
    if params is not None or key is not None:
        raise ValueError("train: a state has its own params and key; leave these out.")
    if not _is_finite(state.params):
        raise ValueError("train: a state must have finite params; that training has diverged. Take an earlier state.")
    best = state.best and Best(
        int(state.best.epoch), float(state.best.loss), jax.tree.map(jnp.asarray, state.best.params)
    )
    return state._replace(epoch=int(state.epoch), steps=int(state.steps), best=best)


def _like(fresh, optimizer_state):
    """A copy of an optimizer's state, which is one of the optimizer that is given."""
    required, found = (
        jax.tree.map(lambda array: (jnp.shape(array), jnp.result_type(array)), tree)
        for tree in (fresh, optimizer_state)
    )
    if required != found:
        raise ValueError(
            "train: state must come from a training with the same optimizer; got another one's. Pass the optimizer "
            "of that training, or start anew with params=state.params."
        )
    return _copy(optimizer_state)


def _check(X, targets, weights, class_weights, params, num_classes, validation):
    """Check the arrays, look at their values once, and bring them to the device; params are a copy."""
    checks.check_known("train", X, targets, weights, class_weights, params, validation)
    held_weights = None
    if validation is not None:
        if isinstance(validation, (tuple, list)) and len(validation) == 3:
            *validation, held_weights = validation
        required = "a pair (X, targets), or (X, targets, weights)"
        validation = as_held_out("train", validation, X, required)
    given, X = _stand_in(as_data("train", X))
    targets, weights = as_targets("train", targets), as_array("train", weights, "weights")
    checks.check_array("train", "X", X, "(N, P)")
    if given is None:
        checks.check_finite("train", "X", X)
        X = as_jax("train", "X", X)
    if params is None:
        if num_classes is None:
            num_classes = checks.count_classes("train", targets)
        checks.check_positive_integer("train", "num_classes", num_classes)
        params = init_params(X.shape[1], num_classes, dtype=X.dtype)
    else:
        for layer in layers_of(params):
            checks.check_params("train", layer.params)
        given_params = jax.tree.map(functools.partial(as_jax, "train", "params"), params)
        params = in_form_of(params, [Params(*layer.params) for layer in layers_of(_copy(given_params))])
    *_, (output, _) = check_network("train", params, X)
    if num_classes not in (None, output.W.shape[1]):
        raise ValueError(f"train: num_classes must be that of params, {output.W.shape[1]}, or None; got {num_classes}.")
    about = {"class_weights": class_weights, "num_classes": output.W.shape[1], "dtype": wide_dtype(X.dtype)}
    targets, weights = _weigh("train", targets, weights, X.shape[0], **about)
    if validation is not None:
        held_out, held_targets, held_weights = open_source("train", *validation, held_weights)
        stream, held_out = _stand_in(held_out)
        checks.check_array("train", "validation X", held_out, "(N, P)")
        if stream is None:
            checks.check_finite("train", "validation X", held_out)
            held_out = as_jax("train", "validation X", held_out)
        check_network("train (validation)", params, held_out)
        held_weights = as_array("train", held_weights, "validation weights")
        of_rows = _weigh("train (validation)", held_targets, held_weights, held_out.shape[0], **about)
        if of_rows[1] is not None and not of_rows[1].any():
            raise ValueError("train: validation must have rows of a positive weight; all of them weigh 0.")
        validation = _placed(held_out, stream, *of_rows)
        if stream is not None:
            validation = Streamed(stream, held_out.dtype, *validation[1:])
    return *_placed(X, given, targets, weights), params, validation


def _placed(X, stream, targets, weights):
    """The arrays on the device; of a stream what is known row by row on the host."""
    if stream is None:
        return X, as_jax("train", "targets", targets), None if weights is None else jnp.asarray(weights)
    return stream, np.asarray(targets), weights


def _judge(params, validation):
    return (evaluate_streamed if isinstance(validation, Streamed) else evaluate)(params, validation)


def _stand_in(X):
    """A stream, and in its place an array of its shape and dtype, which takes no memory; None and X for an array."""
    if isinstance(X, SparseStream):
        raise TypeError(
            f"train: X must be dense; got a source of sparse blocks, of {X.shape[1]:,} columns. Give each block's "
            ".toarray(); handgrad.fit, fit_path and SoftmaxRegression take sparse blocks as they are."
        )
    if not isinstance(X, Stream):
        return None, X
    return X, np.broadcast_to(np.zeros((), jax.dtypes.canonicalize_dtype(X.dtype)), X.shape)


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
