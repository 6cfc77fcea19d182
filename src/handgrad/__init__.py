"""The softmax output layer for JAX, its gradients derived by hand and proved against autograd.

The functions of `handgrad.formulas` stand here under the same names, compiled by `jax.jit`.
"""

import jax as _jax

from handgrad import formulas, network
from handgrad.check import GradientCheck, GradientReport, check_gradients
from handgrad.formulas import Layer, Params
from handgrad.fused import RowStatistics, linear_cross_entropy
from handgrad.initialization import init_params
from handgrad.network import dense, init_network
from handgrad.solvers.fit import fit
from handgrad.solvers.inference import Coefficients
from handgrad.solvers.path import fit_path
from handgrad.solvers.results import FitResult, PathResult
from handgrad.solvers.sgd import Epoch, TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "Coefficients",
    "Epoch",
    "FitResult",
    "GradientCheck",
    "GradientReport",
    "Layer",
    "Params",
    "PathResult",
    "RowStatistics",
    "SoftmaxRegression",
    "TrainResult",
    "check_gradients",
    "cross_entropy",
    "dense",
    "entropy",
    "fit",
    "fit_path",
    "formulas",
    "forward",
    "gradient",
    "hessian_vector_product",
    "init_network",
    "init_params",
    "kl_divergence",
    "linear",
    "linear_cross_entropy",
    "log_softmax",
    "logit_gradient",
    "loss",
    "network",
    "one_hot",
    "predict",
    "predict_proba",
    "sgd_step",
    "softmax",
    "train",
    "value_and_gradient",
]

linear = _jax.jit(formulas.linear)
softmax = _jax.jit(formulas.softmax)
log_softmax = _jax.jit(formulas.log_softmax)
one_hot = _jax.jit(formulas.one_hot, static_argnames=("num_classes", "dtype"))
cross_entropy = _jax.jit(formulas.cross_entropy, static_argnames="base")
entropy = _jax.jit(formulas.entropy, static_argnames="base")
kl_divergence = _jax.jit(formulas.kl_divergence, static_argnames="base")
logit_gradient = _jax.jit(formulas.logit_gradient)
loss = _jax.jit(formulas.loss)
forward = _jax.jit(formulas.forward)
gradient = _jax.jit(formulas.gradient, static_argnames="recompute")
value_and_gradient = _jax.jit(formulas.value_and_gradient, static_argnames="recompute")
hessian_vector_product = _jax.jit(formulas.hessian_vector_product)
sgd_step = _jax.jit(formulas.sgd_step)
predict = _jax.jit(formulas.predict)
predict_proba = _jax.jit(formulas.predict_proba)


def __getattr__(name: str) -> object:
    """The estimator, imported only when it is asked for: it needs scikit-learn, the rest does not."""
    if name == "SoftmaxRegression":
        from handgrad.estimator import SoftmaxRegression

        return SoftmaxRegression
    raise AttributeError(f"module 'handgrad' has no attribute {name!r}")
