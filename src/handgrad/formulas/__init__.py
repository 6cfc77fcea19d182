r"""The mathematics of the softmax output layer, a function per formula, for any array library.

    N samples, P features, C classes.

    X (N, P)  data                        Z (N, C)  logits, Z = XW + b
    W (P, C)  weights                     Y (N, C)  probabilities, Y = softmax(Z)
    b (1, C)  bias                        T (N, C)  one-hot or soft targets
    L scalar  loss, in nats               t (N,)    integer labels

These letters stand for these arrays and for nothing else. Everything follows from one line:

    dL/dZ = (Y − T) / N

`targets` is either labels t of integer dtype or distributions T of floating dtype. `weights` are sample weights (N,);
with them the mean over the rows, sum(l)/N, becomes sum(w·l)/sum(w), and 1/N in each formula becomes w/sum(w).

The source is written against the Python array API standard: the arrays that come in decide the library, be it JAX,
NumPy, PyTorch, CuPy or array-api-strict. Under the names `handgrad.*` stand the same functions compiled by `jax.jit`;
`handgrad.value_and_gradient` on one CPU as a sweep over blocks of rows, which gives the same but for rounding.

Precision: softmax, log-sum-exp and Y − T are computed in float32 where the input is narrower (float16, bfloat16), and
only then rounded; the matrix products are computed in the dtype of the input, at the library's default precision.

Values are checked where they can be seen: outside `jit`, a label outside [0, C) raises ValueError. Compiled code cannot
look without making the device wait; there a bad label, a negative weight, or a row of T that is no distribution
gives NaN, never a finite wrong number. Only the ratios of weights matter, and no size of theirs overflows; a row of
weight 0 does not count, whatever is in it. A row of T that is a distribution but for rounding is divided by its sum.

`handgrad.*` look at NumPy's arguments before JAX narrows them: labels and features that 32 bits cannot hold, and
weights that are negative, not finite, or lost beside the largest, raise there too.

Example:
  >>> from handgrad import formulas
  >>> formulas.softmax(np.array([[0.0, 0.0]]))  # NumPy's in, NumPy's out
  array([[0.5, 0.5]])

References: Bishop, *Pattern Recognition and Machine Learning* (2006), sections 4.3.4 and 5.4.5; Cover and Thomas,
*Elements of Information Theory* (2006), chapter 2.
"""

from handgrad.formulas.curvature import hessian_vector_product
from handgrad.formulas.descent import sgd_step
from handgrad.formulas.layer import Params, linear
from handgrad.formulas.losses import cross_entropy, entropy, kl_divergence, logit_gradient, one_hot
from handgrad.formulas.network import (
    Layer,
    forward,
    gradient,
    loss,
    predict,
    predict_proba,
    value_and_gradient,
)
from handgrad.formulas.softmax import log_softmax, softmax

__all__ = [
    "Layer",
    "Params",
    "cross_entropy",
    "entropy",
    "forward",
    "gradient",
    "hessian_vector_product",
    "kl_divergence",
    "linear",
    "log_softmax",
    "logit_gradient",
    "loss",
    "one_hot",
    "predict",
    "predict_proba",
    "sgd_step",
    "softmax",
    "value_and_gradient",
]
