"""Steps of gradient descent, compiled: those of an epoch over rows in memory, or of some rows in their order."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from handgrad import formulas
from handgrad.formulas import Params
from handgrad.formulas.network import in_form_of, layers_of
from handgrad.formulas.softmax import most_probable


@functools.partial(jax.jit, static_argnames=("optimizer", "batch_size"), donate_argnames=("params", "state"))
def run_epoch(params, state, key, data, validation, rates, l2, *, optimizer, batch_size):
    """An epoch over rows in memory. Returns params, state, and the epoch's losses and accuracy."""
    step = _stepping(l2, optimizer)

    def step_rows(carry, of_step):
        rows, rate = of_step
        return step(carry, jax.tree.map(lambda array: jnp.take(array, rows, axis=0, mode="clip"), data), rate)

    carry = (params, state)
    num_rows = data[0].shape[0]
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
    return params, state, (mean_loss, *evaluate(params, validation))


@functools.partial(jax.jit, static_argnames=("optimizer", "batch_size"), donate_argnames=("params", "state"))
def run_batches(params, state, data, rates, l2, *, optimizer, batch_size):
    """Steps over rows in the order in which they are. Returns params, state, and the sum of the rows' losses."""
    step = _stepping(l2, optimizer)
    num_rows = data[0].shape[0]
    count, rest = divmod(num_rows, batch_size)
    whole = num_rows - rest
    batches = jax.tree.map(lambda array: array[:whole].reshape(count, batch_size, *array.shape[1:]), data)
    carry, total = (params, state), jnp.zeros(())
    if count:
        carry, losses = jax.lax.scan(lambda carry, each: step(carry, *each), carry, (batches, rates[:count]))
        total = jnp.sum(losses) * batch_size
    if rest:
        carry, last = step(carry, jax.tree.map(lambda array: array[whole:], data), rates[count])
        total += last * rest
    return *carry, total


@functools.partial(jax.jit, static_argnames=("optimizer", "mesh"))
def run_shared(params, state, data, num_rows, rates, l2, *, optimizer, mesh):
    """As `run_batches`, of batches (steps, rows, …) of which each device of a mesh has some rows.

    `num_rows` says how many there are of each in all, not counting those of weight 0 that make them as many on each.
    """

    def of_device(params, state, data, num_rows, rates, l2):
        step = _stepping(l2, optimizer, lambda tree: jax.lax.psum(tree, mesh.axis_names))
        carry, losses = jax.lax.scan(lambda carry, each: step(carry, *each), (params, state), (data, rates, num_rows))
        return *carry, jnp.dot(losses, num_rows)

    specs = P(), P(), P(None, *mesh.axis_names), P(), P(), P()
    sharded = jax.shard_map(of_device, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
    return sharded(params, state, data, num_rows, rates, l2)


@jax.jit
def sum_gradient(params, data, total):
    """What some rows add to the gradient of all, without the penalty, and to the sum of their losses."""
    L, dL = formulas.value_and_gradient(params, *data)
    share = _mean_weight(data[2]) * data[0].shape[0]
    return jax.tree.map(jnp.add, total, (share * L, jax.tree.map(lambda a: jnp.asarray(share, a.dtype) * a, dL)))


@functools.partial(jax.jit, static_argnames="optimizer")
def step_with(params, state, total, num_rows, rate, l2, *, optimizer):
    """A step with the gradient of all rows, of which `sum_gradient` has the sum."""
    L, dL = jax.tree.map(lambda a: a / num_rows, total)
    return _update(params, state, L, _add_penalty(dL, params, l2), rate, l2, optimizer, _without_objective(optimizer))


def _without_objective(optimizer):
    def objective(_):
        raise ValueError(
            f"train: over a stream an optimizer gets no function of the parameters; got {optimizer!r}, which calls one "
            "in each step. Give another optimizer, or X as an array."
        )

    return objective


def _stepping(l2, optimizer, total=None):
    """The step of a batch: from params and state to the next, and the batch's loss.

    Where others have rows of it too, `total` sums over all.
    """

    def step(carry, batch, rate, num_rows=None):
        params, state = carry
        L, dL = formulas.value_and_gradient(params, *batch)
        # The formulas divide by the batch's own weights, which would make a heavy row as light as a light one where
        # it is alone. Over all rows the mean weight is 1, so the batch's mean weight puts back what it counts for.
        share = _mean_weight(batch[2]) if num_rows is None else jnp.sum(batch[2]) / num_rows
        L, dL = share * L, jax.tree.map(lambda a: jnp.asarray(share, a.dtype) * a, dL)
        objective = lambda params: share * formulas.loss(params, *batch) + _penalty(params, l2)  # noqa: E731
        if total is not None:
            (L, dL), objective = total((L, dL)), _without_objective(optimizer)
        dL = _add_penalty(dL, params, l2)
        return _update(params, state, L, dL, rate, l2, optimizer, objective), L

    return step


def _mean_weight(weights):
    return 1 if weights is None else jnp.mean(weights)


def _update(params, state, L, dL, rate, l2, optimizer, objective):
    if optimizer is None:
        return formulas.sgd_step(params, dL, rate), state
    # Some transformations, such as optax.lbfgs, also ask for the objective.
    updates, state = optax.with_extra_args_support(optimizer).update(
        dL, state, params, value=L + _penalty(params, l2), grad=dL, value_fn=objective
    )
    return optax.apply_updates(params, updates), state


def _penalty(params, l2):
    return 0.5 * l2 * sum(jnp.vdot(layer.params.W, layer.params.W) for layer in layers_of(params))


def _add_penalty(dL, params, l2):
    """The gradient of L + (l2/2)‖W‖²: l2·W is added to dL/dW."""
    pairs = zip(layers_of(dL), layers_of(params), strict=True)
    return in_form_of(params, [Params(own.params.W + l2 * layer.params.W, own.params.b) for own, layer in pairs])


@jax.jit
def evaluate(params: Any, validation: Any) -> Any:
    """Mean loss and accuracy of rows in memory; None for none."""
    if validation is None:
        return None, None
    X, targets, weights = validation
    Z = formulas.forward(params, X)
    return formulas.cross_entropy(Z, targets, weights), jnp.mean(_hits(Z, targets), dtype=jnp.float32)


@jax.jit
def evaluate_block(params: Any, data: Any) -> Any:
    """Of some rows the loss, times what they weigh, and how many are predicted right."""
    X, targets, weights = data
    Z = formulas.forward(params, X)
    share = _mean_weight(weights) * X.shape[0]
    return share * formulas.cross_entropy(Z, targets, weights), jnp.sum(_hits(Z, targets), dtype=jnp.int32)


def _hits(Z, targets):
    labels = targets if targets.ndim == 1 else jnp.argmax(targets, axis=1)
    predictions = most_probable(jnp, Z)
    return predictions == labels.astype(predictions.dtype)
