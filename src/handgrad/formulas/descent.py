r"""Gradient descent on a layer, or on a network of them."""

from typing import Any

from handgrad import arguments
from handgrad.formulas.layer import Params
from handgrad.formulas.network import in_form_of, same_layers
from handgrad.shapes import Float

Array = Any


def sgd_step(params: Any, gradient: Any, learning_rate: float | Float[Array, ""]) -> Any:
    """One step of gradient descent: W ← W − η dL/dW, b ← b − η dL/db.

    Args:
      params: W (P, C) and b (1, C), or a network.
      gradient: dL/dW and dL/db, of the shapes and dtype of params, or a network of them.
      learning_rate: η, a scalar, taken in the dtype of params.

    Returns:
      The new Params, or network, of params' dtype.

    Raises:
      TypeError, ValueError: shapes or dtypes that disagree.

    Example:
      >>> one = Params(W=np.ones((1, 2)), b=np.ones((1, 2)))
      >>> sgd_step(one, one, 0.25).W
      array([[0.75, 0.75]])
    """
    stepped = []
    for (W, b), (dW, db) in same_layers("sgd_step", params, "gradient", gradient):
        rate = arguments.check_scalar("sgd_step", "learning_rate", learning_rate, W)
        stepped.append(Params(W=W - rate * dW, b=b - rate * db))
    return in_form_of(params, stepped)
