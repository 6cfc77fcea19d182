"""Parameters to start from."""

import math

import jax
import jax.numpy as jnp

from handgrad import arguments
from handgrad.formulas import Params


def init_params(
    num_features: int,
    num_classes: int,
    *,
    key: jax.Array | None = None,
    scale: float | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> Params:
    """Parameters of a layer: zeros, or random weights where a key is given; the bias is 0.

    The loss of a single layer is convex, and zeros are as good a start as any. Random weights are normal with
    standard deviation `scale`.

    Args:
      num_features: P.
      num_classes: C.
      key: a JAX random key, or None for zeros.
      scale: standard deviation of the weights; 1/√P if None, which gives logits of variance 1 for features of
        variance 1 (LeCun, Bottou, Orr and Müller, *Efficient BackProp*, 1998). Needs a key.
      dtype: floating; JAX's default (float32, or float64 under `jax.enable_x64`) if None.

    Returns:
      Params with W (P, C) and b (1, C).

    Raises:
      ValueError: counts that are not positive, or a scale without a key.
      TypeError: a dtype that is not floating, or a key that is not JAX's.

    Example:
      >>> init_params(2, 3).W.shape
      (2, 3)
    """
    arguments.check_positive_integer("init_params", "num_features", num_features)
    arguments.check_positive_integer("init_params", "num_classes", num_classes)
    if scale is not None:
        scale = arguments.check_number("init_params", "scale", scale)
        if key is None:
            raise ValueError("init_params: scale belongs to random weights, which need a key; got key=None.")
    if key is not None:
        arguments.check_key("init_params", key)
    if dtype is not None:
        dtype = arguments.check_dtype("init_params", "dtype", dtype)
    dtype = jnp.zeros((), dtype).dtype
    b = jnp.zeros((1, num_classes), dtype)
    if key is None:
        return Params(W=jnp.zeros((num_features, num_classes), dtype), b=b)
    standard_deviation = 1 / math.sqrt(num_features) if scale is None else scale
    return Params(W=standard_deviation * jax.random.normal(key, (num_features, num_classes), dtype), b=b)
