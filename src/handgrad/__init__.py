"""The softmax output layer for JAX, its gradients derived by hand and proved against autograd.

The functions of `handgrad.formulas` stand here under the same names, compiled by `jax.jit`. What NumPy holds in 64
bits is looked at before JAX cuts it to 32: what it would turn into another number is refused.
"""

import importlib as _importlib
import typing as _typing

if _typing.TYPE_CHECKING:
    from handgrad import formulas, network
    from handgrad.estimator import SoftmaxRegression
    from handgrad.models import Model, load, save
    from handgrad.public import *
    from handgrad.solvers.sgd import train

__version__ = "0.1.0"

__all__ = [
    "Coefficients",
    "Epoch",
    "FitResult",
    "FitState",
    "GradientCheck",
    "GradientReport",
    "Layer",
    "Model",
    "Params",
    "PathResult",
    "RowStatistics",
    "SoftmaxRegression",
    "TrainResult",
    "TrainState",
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
    "linear_distillation",
    "load",
    "log_softmax",
    "logit_gradient",
    "loss",
    "network",
    "one_hot",
    "predict",
    "predict_proba",
    "save",
    "sgd_step",
    "softmax",
    "train",
    "value_and_gradient",
]


# Where a name is that `handgrad.public` has not: the estimator needs scikit-learn, train optax, and models what reads
# tables.
_HOMES = {
    "SoftmaxRegression": "estimator",
    "Model": "models",
    "load": "models",
    "save": "models",
    "train": "solvers.sgd",
}


def __getattr__(name: str) -> object:
    """A public name, imported when it is first asked for.

    So the program is there to answer Ctrl-C before JAX is, which takes a second or two to import.
    """
    if name not in __all__:
        raise AttributeError(f"module 'handgrad' has no attribute {name!r}")
    if name in ("formulas", "network"):
        return _importlib.import_module(f"handgrad.{name}")
    home = _importlib.import_module(f"handgrad.{_HOMES.get(name, 'public')}")
    globals()[name] = getattr(home, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
