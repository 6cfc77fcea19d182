"""The fused head: softmax cross-entropy of XW + b, with all gradients, without its N×C logits."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import AxisType

from handgrad import arguments
from handgrad.head_loss import head_loss
from handgrad.lowering import explicit_mesh, in_auto_axes
from handgrad.shapes import Float, Integer, Shaped

Array = Any

# Of τ² KL at τ = 100 float32 keeps three digits, since KL is Σ_j u_j (v_j − z_j)²/2τ² there, beside numbers about 1.
LEAST_TEMPERATURE, LARGEST_TEMPERATURE = 1e-3, 1e2


class RowStatistics(NamedTuple):
    """What the sweep knows of each row, in nats; each of the shape of the labels.

    Example:
      >>> X, W, t = np.ones((2, 3), np.float32), np.zeros((3, 4), np.float32), np.array([0, 3])
      >>> _, rows = linear_cross_entropy(X, W, t, with_stats=True)
      >>> print(rows.prediction, rows.entropy == np.log(np.float32(4)))
      [0 0] [ True  True]
    """

    log_sum_exp: Float[Array, "..."]
    log_probability: Float[Array, "..."]  # of the target, Σ_j T_j log y_j; 0 for an ignored label
    entropy: Float[Array, "..."]  # of the prediction, −Σ_j y_j log y_j
    prediction: Integer[Array, "..."]  # the class of the largest logit, the first where several share it


def linear_cross_entropy(
    X: Float[Array, "... P"],
    W: Float[Array, "P C"],
    targets: Array,
    *,
    bias: Float[Array, "..."] | None = None,
    weights: Shaped[Array, "..."] | None = None,
    class_weights: Shaped[Array, " C"] | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    ignore_index: int | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    recompute: bool | None = None,
    transposed: bool = False,
    block_size: int | None = None,
    class_axis: str | None = None,
    with_stats: bool = False,
) -> Any:
    r"""Softmax cross-entropy of the logits XW + b, which are never stored: a language model's head and its loss.

    A row with target masses T, softmax y and log-sum-exp lse of its logits has the loss

        ℓ = −Σ_j T'_j k_j log y_j + z_loss · lse²        T' = (1 − s) T + s/C

    for class weights k and label smoothing s, and with sample weights w the mean is Σ wℓ / Σ w Σ_j T_j k_j.

    There are two schedules. By rows (recompute=False): blocks of rows, whose value and all gradients take three
    products of N·P·C. By classes (True): blocks of classes, whose logits are computed twice, four products, in hardly
    any memory: N×P of dL/dX in float32 and a block of logits. The value alone takes one product in either.

    It is differentiable in X, W, bias and weights, in reverse and forward mode and again, and under `jit`, `vmap`,
    `jax.checkpoint`, `scan` and `shard_map`. What is not differentiated costs nothing. Under `jit` with arrays that
    lie over a mesh, its axes auto or explicit, each device takes its rows and its classes, and gradients lie as what
    they belong to, as autodiff's do where types say it; but the derivative of a derivative, and what is under `vmap`,
    is left to the compiler.

    Args:
      X: data, shape (..., P), floating. The leading axes together are the N rows.
      W: weights (P, C) of X's dtype, or float32 where that is narrower: its products are then taken in X's.
      targets: labels (...) of integer dtype in [0, C), or distributions (..., C), whose rows are divided by their sums.
      bias: (C,) or (1, C), floating. −inf masks a class, under a softcap too.
      weights: sample weights (...), finite, non-negative. A row of weight 0 does not count, whatever is in its X.
      class_weights: k, (C,), finite, non-negative.
      label_smoothing: s, in [0, 1].
      z_loss: factor of lse², 0 or more.
      softcap: κ, from 1e-30 to 1e30; logits z become κ tanh(z/κ).
      ignore_index: a label whose rows do not count, whatever is in their X.
      reduction: "mean", "sum" (Σ wℓ), or "none" (wℓ by row, whose gradients take a product more).
      recompute: the schedule; True goes by classes where that takes far less memory than a few rows at a time, as with
        large C; None goes by rows.
        By rows the gradient of a W narrower than float32, summed over blocks in float32, takes 4·P·C bytes; in bfloat16
        dL/dZ of all rows, 2·N·C, is kept in place of that where it is less. Where what is held is more than 4 GiB, None
        goes by classes.
      transposed: W is (C, P), as the embeddings that a head shares are; so is its gradient, and neither is ever copied.
      block_size: rows in a block, or classes where recompute=True. None chooses.
      class_axis: an axis of an enclosing `jax.shard_map` along which W, bias, class_weights, and targets if they are
        distributions, are sharded by class; X, labels and weights are the same along it, and so is the result.
      with_stats: return also what the sweep knows of each row; its gradients take two more products.

    Returns:
      The loss, in X's dtype, or float32 where that is narrower: a scalar, or (...) with reduction="none". 0 if no row
      counts. With with_stats, the pair (loss, RowStatistics). The gradients are summed in float32 where X is narrower,
      over devices in the dtype of what they belong to, and returned in that.

    Raises:
      TypeError: X and W of dtypes that do not go together, targets that are neither labels nor distributions; a
        derivative with respect to targets or class_weights.
      ValueError: shapes that disagree; settings out of range; a number too large for the dtype that JAX has for it; a
        label outside [0, C), a row that is no distribution, a weight that is negative, or that would become 0 or
        infinite in the dtype of the loss. Under `jit` the last three give NaN instead.

    Example:
      >>> X, W, t = np.ones((2, 3), np.float32), np.zeros((3, 4), np.float32), np.array([0, 3])
      >>> print(f"{linear_cross_entropy(X, W, t):.4f}")
      1.3863
      >>> print(jax.grad(linear_cross_entropy, argnums=1)(X, W, t)[0])
      [-0.25  0.25  0.25 -0.25]
    """
    arguments.check_flag("linear_cross_entropy", "with_stats", with_stats)
    arrays = {"bias": bias, "targets": targets, "weights": weights, "class_weights": class_weights}

    def of(layout: Any, X: Array, W: Array, arrays: dict[str, Array]) -> Any:
        loss, rows = head_loss(
            "linear_cross_entropy",
            X,
            W,
            **arrays,
            statistics=RowStatistics._fields if with_stats else (),
            ignore_index=ignore_index,
            reduction=reduction,
            recompute=recompute,
            transposed=transposed,
            block_size=block_size,
            class_axis=class_axis,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            softcap=softcap,
            layout=layout,
        )
        return (loss, RowStatistics(*(rows[name] for name in RowStatistics._fields))) if with_stats else loss

    return _anywhere(of, reduction, with_stats, X, W, arrays)


def linear_distillation(
    X: Float[Array, "... P"],
    W: Float[Array, "P C"],
    teacher_X: Float[Array, "... Q"],
    teacher_W: Float[Array, "Q C"],
    *,
    targets: Any = None,
    label_share: float = 0.0,
    temperature: float = 1.0,
    bias: Float[Array, "..."] | None = None,
    teacher_bias: Float[Array, "..."] | None = None,
    weights: Shaped[Array, "..."] | None = None,
    softcap: float | None = None,
    ignore_index: int | None = None,
    reduction: Literal["mean", "sum", "none"] = "mean",
    recompute: bool | None = None,
    transposed: bool = False,
    block_size: int | None = None,
    class_axis: str | None = None,
) -> Array:
    r"""The divergence of a student's head from a teacher's, of whose logits neither is stored.

    The teacher is given as its own hidden states and head. With u = softmax of its logits over the temperature τ, and
    y_τ the student's, a row has the loss

        ℓ = (1 − α) τ² KL(u ‖ y_τ) + α (−log y_t)        dℓ/dz = (1 − α) τ (y_τ − u) + α (y − T)

    where α is the share of the labels t, whose loss is at temperature 1. KL has the gradient (y_τ − u)/τ; τ² keeps its
    size, as it is usually scaled, whatever the temperature. Everything else is as in `linear_cross_entropy`: the
    schedules, which have a product more for the teacher each time that they have one for the student's logits, and the
    meshes. The teacher is not differentiated.

    Args:
      X: data, shape (..., P), floating. The leading axes together are the N rows.
      W: weights (P, C) of X's dtype, or float32 where that is narrower.
      teacher_X: the teacher's data (..., Q), floating, with the leading axes of X.
      teacher_W: its weights (Q, C), of the same classes; dtypes as X and W among themselves.
      targets: labels (...) of integer dtype in [0, C); for label_share, or to say which rows are ignored.
      label_share: α, in [0, 1].
      temperature: τ, from 0.001 to 100. Above some 10 the divergence is a small difference of large numbers: in float32
        the loss is right to about τ²·10⁻⁷ of it, gradients to τ·10⁻⁷.
      bias: (C,) or (1, C), floating. −inf masks a class; one that has a share of the teacher's makes the loss infinite.
      teacher_bias: the same of the teacher.
      weights: sample weights (...), finite, non-negative. A row of weight 0 does not count, whatever is in it.
      softcap: κ, from 1e-30 to 1e30; logits z of both become κ tanh(z/κ).
      ignore_index: a label whose rows do not count.
      reduction: "mean" (Σ wℓ / Σ w), "sum" (Σ wℓ), or "none" (wℓ by row).
      recompute: the schedule. None chooses, as in `linear_cross_entropy`.
      transposed: W is (C, P), and teacher_W (C, Q).
      block_size: rows in a block, or classes where recompute=True. None chooses.
      class_axis: as in `linear_cross_entropy`; teacher_W and teacher_bias are sharded along it too.

    Returns:
      The loss, in X's dtype, or float32 where that is narrower: a scalar, or (...) with reduction="none".

    Raises:
      TypeError: dtypes that do not go together; a derivative with respect to the teacher.
      ValueError: shapes that disagree; settings out of range; targets without a use, or a share without targets;
        labels and weights as in `linear_cross_entropy`.

    Example:
      >>> X, W = np.ones((2, 3), np.float32), np.zeros((3, 4), np.float32)
      >>> teacher_X, teacher_W = np.eye(2, 5, dtype=np.float32), np.ones((5, 4), np.float32)
      >>> print(f"{linear_distillation(X, W, teacher_X, teacher_W, temperature=2.0):.4f}")
      0.0000

    Reference: Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network* (2015).
    """
    function = "linear_distillation"
    label_share = arguments.check_number(function, "label_share", label_share, most=1)
    temperature = arguments.check_number(function, "temperature", temperature, positive=True)
    if not LEAST_TEMPERATURE <= temperature <= LARGEST_TEMPERATURE:
        raise ValueError(
            f"{function}: temperature must be from {LEAST_TEMPERATURE:g} to {LARGEST_TEMPERATURE:g}; got "
            f"{temperature!r}. Take one between."
        )
    if targets is None and (label_share or ignore_index is not None):
        given = "label_share" if label_share else "ignore_index"
        raise ValueError(f"{function}: {given} needs targets, labels (...); got None. Pass them, or leave it out.")
    if targets is not None and not label_share and ignore_index is None:
        raise ValueError(
            f"{function}: targets need a label_share above 0, or an ignore_index; got neither, and they would do "
            "nothing. Leave them out."
        )
    if getattr(targets, "ndim", 0) == getattr(X, "ndim", 0) > 0:
        raise ValueError(
            f"{function}: targets must be labels with the leading axes of X; got shape {tuple(targets.shape)}."
        )
    factors = {"divergence": (1 - label_share) * temperature**2, "loss": float(label_share)}
    arrays = {"bias": bias, "targets": targets, "weights": weights}

    def of(layout: Any, X: Array, W: Array, arrays: dict[str, Array], *teacher: Array) -> Any:
        return head_loss(
            function,
            X,
            W,
            **arrays,
            teacher=teacher,
            total=tuple((name, float(factor)) for name, factor in factors.items() if factor),
            ignore_index=ignore_index,
            reduction=reduction,
            recompute=recompute,
            transposed=transposed,
            block_size=block_size,
            class_axis=class_axis,
            softcap=softcap,
            temperature=temperature,
            layout=layout,
        )[0]

    return _anywhere(of, reduction, False, X, W, arrays, teacher_X, teacher_W, teacher_bias)


def _anywhere(of: Callable[..., Any], reduction: str, with_stats: bool, *arguments: Any) -> Any:
    """The loss where types say how arrays lie, too: there it is computed as where they do not, and told how."""
    mesh = explicit_mesh(arguments)
    if mesh is None:
        return of(None, *arguments)
    of_X, of_W = (
        jax.typeof(array).sharding.spec if isinstance(array, jax.Array) else jax.P() for array in arguments[:2]
    )
    by_row = jax.P(*of_X[:-1])
    loss = by_row if reduction == "none" else jax.P()
    result = (loss, RowStatistics(*[by_row] * 4)) if with_stats else loss
    # Along axes that are auto, types do not say it.
    auto = mesh.update_axis_types(dict.fromkeys(mesh.explicit_axes, AxisType.Auto))
    layout = (auto, of_X, of_W) if set(mesh.explicit_axes) == set(mesh.axis_names) else None
    return in_auto_axes(mesh, partial(of, layout), arguments, result)
