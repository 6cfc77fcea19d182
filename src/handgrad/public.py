"""The public names, which `handgrad` hands out; the functions of `handgrad.formulas` compiled by `jax.jit`."""

import jax as _jax

from handgrad import formulas as _formulas
from handgrad.check import GradientCheck as GradientCheck
from handgrad.check import GradientReport as GradientReport
from handgrad.check import check_gradients as check_gradients
from handgrad.formulas import Layer as Layer
from handgrad.formulas import Params as Params
from handgrad.fused import RowStatistics as RowStatistics
from handgrad.fused import linear_cross_entropy as linear_cross_entropy
from handgrad.initialization import init_params as init_params
from handgrad.network import dense as dense
from handgrad.network import init_network as init_network
from handgrad.solvers.fit import fit as fit
from handgrad.solvers.inference import Coefficients as Coefficients
from handgrad.solvers.path import fit_path as fit_path
from handgrad.solvers.results import FitResult as FitResult
from handgrad.solvers.results import PathResult as PathResult
from handgrad.solvers.sgd import Epoch as Epoch
from handgrad.solvers.sgd import TrainResult as TrainResult
from handgrad.solvers.sgd import train as train

linear = _jax.jit(_formulas.linear)
softmax = _jax.jit(_formulas.softmax)
log_softmax = _jax.jit(_formulas.log_softmax)
one_hot = _jax.jit(_formulas.one_hot, static_argnames=("num_classes", "dtype"))
cross_entropy = _jax.jit(_formulas.cross_entropy, static_argnames="base")
entropy = _jax.jit(_formulas.entropy, static_argnames="base")
kl_divergence = _jax.jit(_formulas.kl_divergence, static_argnames="base")
logit_gradient = _jax.jit(_formulas.logit_gradient)
loss = _jax.jit(_formulas.loss)
forward = _jax.jit(_formulas.forward)
gradient = _jax.jit(_formulas.gradient, static_argnames="recompute")
value_and_gradient = _jax.jit(_formulas.value_and_gradient, static_argnames="recompute")
hessian_vector_product = _jax.jit(_formulas.hessian_vector_product)
sgd_step = _jax.jit(_formulas.sgd_step)
predict = _jax.jit(_formulas.predict)
predict_proba = _jax.jit(_formulas.predict_proba)
