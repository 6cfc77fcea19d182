"""The softmax output layer for JAX, its gradients derived by hand and proved against autograd.

The functions of `handgrad.formulas` stand here under the same names, compiled by `jax.jit`. What NumPy holds in 64
bits is looked at before JAX cuts it to 32: what it would turn into another number is refused.
"""

from handgrad import formulas, network
from handgrad.check import GradientCheck, GradientReport, check_gradients
from handgrad.compiled import compiled as _compiled
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

linear = _compiled(formulas.linear)
softmax = _compiled(formulas.softmax)
log_softmax = _compiled(formulas.log_softmax)
one_hot = _compiled(formulas.one_hot, ("num_classes", "dtype"))
cross_entropy = _compiled(formulas.cross_entropy, ["base"])
entropy = _compiled(formulas.entropy, ["base"])
kl_divergence = _compiled(formulas.kl_divergence, ["base"])
logit_gradient = _compiled(formulas.logit_gradient)
loss = _compiled(formulas.loss)
forward = _compiled(formulas.forward)
gradient = _compiled(formulas.gradient, ["recompute"])
value_and_gradient = _compiled(formulas.value_and_gradient, ["recompute"])
hessian_vector_product = _compiled(formulas.hessian_vector_product)
sgd_step = _compiled(formulas.sgd_step)
predict = _compiled(formulas.predict)
predict_proba = _compiled(formulas.predict_proba)


def __getattr__(name: str) -> object:
    """The estimator, imported only when it is asked for: it needs scikit-learn, the rest does not."""
    if name == "SoftmaxRegression":
        from handgrad.estimator import SoftmaxRegression

        return SoftmaxRegression
    raise AttributeError(f"module 'handgrad' has no attribute {name!r}")
