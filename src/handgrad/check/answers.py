"""A gradient of the user's own: what it is given, and how what it returns is read, in any array library."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from array_api_compat import array_namespace, device, is_jax_array, is_torch_array

from handgrad.check.points import Point, as_numpy
from handgrad.formulas import Layer, Params
from handgrad.formulas.network import in_form_of, is_network, layers_of

NAMES = (("W", "b"), ("dW", "db"))


def converter(like: Any) -> Callable[[np.ndarray, np.dtype], Any]:
    """How a NumPy array becomes one of the library of `like`: PyTorch, JAX, or for any other NumPy, always a copy."""
    if is_torch_array(like):
        xp = array_namespace(like)

        def convert(array: np.ndarray, dtype: np.dtype) -> Any:
            # By way of the widest dtypes: PyTorch does not know the bfloat16 that NumPy has from ml_dtypes.
            return xp.astype(xp.asarray(np.array(array), device=device(like)), getattr(xp, dtype.name))

        return convert
    if is_jax_array(like):
        return lambda array, dtype: jnp.asarray(array.astype(dtype))
    return lambda array, dtype: np.array(array, dtype)


def call(gradient: Callable[..., Any], point: Point, dtype: np.dtype, convert: Callable[..., Any]) -> Any:
    """What the function returns at a point, given in a dtype: called with weights where there are any."""
    layers = [Params(*(convert(array, dtype) for array in layer.params)) for layer in layers_of(point.params)]
    targets = convert(point.targets, np.dtype(np.int64) if point.targets.ndim == 1 else dtype)
    arguments = [in_form_of(point.params, layers), convert(point.X, dtype), targets]
    if point.weights is not None:
        arguments.append(convert(point.weights, dtype))
    try:
        return gradient(*arguments)
    except Exception as error:
        kind = type(arguments[1])
        called = "params, X, targets" + (", weights" if len(arguments) == 4 else "")
        error.add_note(
            f"check_gradients: raised by gradient({called}), X {point.X.shape} and targets {point.targets.shape} as "
            f"{kind.__module__}.{kind.__qualname__}, X in {dtype.name}."
        )
        raise


def read_gradient(answer: Any, params: Any) -> list[Params]:
    """Read dW and db, or those of each layer, from what the function returned, as float64 in their own shapes."""
    answer = _without_loss(answer)
    if is_network(params):
        answers = _by_layer(answer, len(params))
        pairs = [_pair(own, f" of layer {number}") for number, own in enumerate(answers, 1)]
        suffixes = [str(number) for number in range(1, len(params) + 1)]
    else:
        pairs, suffixes = [_pair(answer, "")], [""]
    arrays = [
        [as_numpy(f"gradient must return d{name}{suffix} as", array) for name, array in zip("Wb", pair, strict=True)]
        for pair, suffix in zip(pairs, suffixes, strict=True)
    ]
    layers = []
    for (dW, db), layer in zip(arrays, layers_of(params), strict=True):
        if db.shape == layer.params.b.shape[1:]:
            db = db[None, :]
        layers.append(Params(W=dW.astype(np.float64), b=db.astype(np.float64)))
    return layers


def _without_loss(answer: Any) -> Any:
    """The gradient of (loss, gradient) or (loss, dW, db): no gradient begins with a scalar."""
    if isinstance(answer, (tuple, list)) and len(answer) > 1 and _is_scalar(answer[0]):
        return answer[1] if len(answer) == 2 else answer[1:]
    return answer


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (int, float)) or getattr(value, "shape", None) == ()


def _by_layer(answer: Any, num_layers: int) -> list[Any]:
    if isinstance(answer, Mapping):
        for names in NAMES:
            if all(f"{name}{number}" in answer for name in names for number in range(1, num_layers + 1)):
                return [tuple(answer[f"{name}{number}"] for name in names) for number in range(1, num_layers + 1)]
    if isinstance(answer, (tuple, list)) and len(answer) == num_layers:
        return list(answer)
    raise TypeError(
        f"check_gradients: gradient must return a sequence of one (dW, db) for each of the {num_layers} layers, from "
        f"the input to the output, or a dict with W1, b1 and so on; got {_described(answer)}."
    )


def _pair(answer: Any, where: str) -> tuple[Any, Any]:
    if isinstance(answer, Layer):
        answer = answer.params
    for W, b in NAMES:
        if isinstance(answer, Mapping) and W in answer and b in answer:
            return answer[W], answer[b]
        if hasattr(answer, W) and hasattr(answer, b):
            return getattr(answer, W), getattr(answer, b)
    if isinstance(answer, (tuple, list)) and len(answer) == 2:
        return answer[0], answer[1]
    raise TypeError(
        f"check_gradients: gradient must return dW and db{where}: a pair (dW, db), handgrad.Params, a dict with W and "
        f"b or dW and db, or an object with .W and .b; got {_described(answer)}."
    )


def _described(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return f"a dict with {', '.join(map(repr, answer)) or 'nothing'}"
    if isinstance(answer, (tuple, list)):
        return f"a {type(answer).__name__} of {len(answer)}"
    shape = getattr(answer, "shape", None)
    return type(answer).__name__ + ("" if shape is None else f" of shape {tuple(shape)}")
