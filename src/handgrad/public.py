"""The public names, which `handgrad` hands out; those of `handgrad.formulas` compiled, with a look at what they get."""

from handgrad import formulas as _formulas
from handgrad.check import GradientCheck as GradientCheck
from handgrad.check import GradientReport as GradientReport
from handgrad.check import check_gradients as check_gradients
from handgrad.compiled import compiled as _compiled
from handgrad.formulas import Layer as Layer
from handgrad.formulas import Params as Params
from handgrad.fused import RowStatistics as RowStatistics
from handgrad.fused import linear_cross_entropy as linear_cross_entropy
from handgrad.fused import linear_distillation as linear_distillation
from handgrad.initialization import init_params as init_params
from handgrad.layer_sweep import value_and_gradient as _value_and_gradient
from handgrad.network import dense as dense
from handgrad.network import init_network as init_network
from handgrad.solvers.epochs import Epoch as Epoch
from handgrad.solvers.epochs import TrainResult as TrainResult
from handgrad.solvers.epochs import TrainState as TrainState
from handgrad.solvers.fit import fit as fit
from handgrad.solvers.inference import Coefficients as Coefficients
from handgrad.solvers.path import fit_path as fit_path
from handgrad.solvers.results import FitResult as FitResult
from handgrad.solvers.results import PathResult as PathResult
from handgrad.solvers.state import FitState as FitState

linear = _compiled(_formulas.linear)
softmax = _compiled(_formulas.softmax)
log_softmax = _compiled(_formulas.log_softmax)
one_hot = _compiled(_formulas.one_hot, ("num_classes", "dtype"))
cross_entropy = _compiled(_formulas.cross_entropy, ["base"])
entropy = _compiled(_formulas.entropy, ["base"])
kl_divergence = _compiled(_formulas.kl_divergence, ["base"])
logit_gradient = _compiled(_formulas.logit_gradient)
loss = _compiled(_formulas.loss)
forward = _compiled(_formulas.forward)
gradient = _compiled(_formulas.gradient, ["recompute"])
value_and_gradient = _compiled(_value_and_gradient, ["recompute"])
hessian_vector_product = _compiled(_formulas.hessian_vector_product)
sgd_step = _compiled(_formulas.sgd_step)
predict = _compiled(_formulas.predict)
predict_proba = _compiled(_formulas.predict_proba)
