"""A model as an ONNX graph: what is done to a table, and the network, as operators that any runtime has.

A model of arrays has one input X, double (N, inputs). A model of columns has an input (N, 1) for each column under its
name: text as string, "" where it is missing; numbers, true and false as 1 and 0, and dates as days since 1970-01-01, as
double, NaN where they are missing. The outputs are `class` (N,), int64 or string, and `probabilities` (N, C).

Scaling is done in double and rounded once, as `handgrad.data.encode` does it.
"""

import math
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import handgrad
from handgrad.data import Encoding
from handgrad.data.encoding import Input
from handgrad.formulas.activations import LEAKY_SLOPE
from handgrad.formulas.network import layers_of
from handgrad.models import Model

OPSETS = {"": 17, "ai.onnx.ml": 3}
IR_VERSION = 8
SIMPLE = {"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus"}


class _Graph:
    """Nodes and constants as they are added; each value has a name that no column can have."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, domain: str = "", output: str | None = None, **attributes: Any) -> str:
        """The name of what the operator makes of its inputs."""
        output = output or f"/{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], domain=domain, **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """The name of an array that the graph holds."""
        name = f"/constant.{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def texts(self, words: list[str]) -> str:
        """The name of texts that the graph holds."""
        name = f"/constant.{len(self.constants)}"
        encoded: Any = [word.encode() for word in words]
        self.constants.append(helper.make_tensor(name, TensorProto.STRING, [len(words)], encoded))
        return name


def to_onnx(model: Model) -> onnx.ModelProto:
    """The graph of a model, checked."""
    graph, encoding = _Graph(), model.encoding
    if encoding.inputs is None:
        inputs = [("X", TensorProto.DOUBLE, len(encoding.fill))]
        numbers, indicated = _filled(graph, "X", encoding.fill, encoding.has_indicator)
        parts = [numbers, *indicated]
    else:
        kinds = {"text": TensorProto.STRING}
        inputs = [(each.name, kinds.get(each.kind, TensorProto.DOUBLE), 1) for each in encoding.inputs]
        parts = _columns(graph, encoding)
    X = graph.add("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
    X = graph.add("Mul", graph.add("Sub", X, graph.constant(encoding.offset)), graph.constant(encoding.scale))
    X = graph.add("Cast", X, to=TensorProto.FLOAT)
    dtype = np.result_type(np.asarray(layers_of(model.params)[0].params.W).dtype, np.float32)
    if dtype == np.float64:
        X = graph.add("Cast", X, to=TensorProto.DOUBLE)
    for layer in layers_of(model.params):
        W, b = (np.asarray(array, dtype) for array in layer.params)
        Z = graph.add("Add", graph.add("MatMul", X, graph.constant(W)), graph.constant(b))
        X = _activated(graph, Z, layer.activation, dtype)
    graph.add("Identity", X, output="probabilities")
    kind = _add_classes(graph, model, X)
    probabilities = TensorProto.DOUBLE if dtype == np.float64 else TensorProto.FLOAT
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "handgrad",
            [helper.make_tensor_value_info(name, kind, ["N", width]) for name, kind, width in inputs],
            [
                helper.make_tensor_value_info("class", kind, ["N"]),
                helper.make_tensor_value_info("probabilities", probabilities, ["N", len(model.class_names)]),
            ],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid(*each) for each in OPSETS.items()],
        ir_version=IR_VERSION,
        producer_name="handgrad",
        producer_version=handgrad.__version__,
        doc_string=__doc__,
    )
    helper.set_model_props(proto, {"class_names": "\n".join(map(str, model.class_names))})
    onnx.checker.check_model(proto)
    return proto


def _filled(graph: _Graph, X: str, fill: np.ndarray, has_indicator: np.ndarray) -> tuple[str, list[str]]:
    """Numbers (N, n) with what stands for a missing one, and the indicators of those that have one."""
    if np.isnan(fill).all() and not has_indicator.any():
        return X, []
    missing = graph.add("IsNaN", X)
    filled = graph.add("Where", missing, graph.constant(fill[None]), X)
    if not has_indicator.any():
        return filled, []
    chosen = graph.add("Gather", missing, graph.constant(np.flatnonzero(has_indicator)), axis=1)
    return filled, [graph.add("Cast", chosen, to=TensorProto.DOUBLE)]


def _columns(graph: _Graph, encoding: Encoding) -> list[str]:
    """The features of each column in their order, then all indicators."""
    assert encoding.inputs is not None
    features, indicators = [], []
    for each, fill, has in zip(encoding.inputs, encoding.fill, encoding.has_indicator, strict=True):
        if each.kind == "text":
            features.append(_words(graph, each, fill))
            if has:
                is_missing = graph.add(
                    "LabelEncoder", each.name, domain="ai.onnx.ml", keys_strings=[""], values_floats=[1.0],
                    default_float=0.0,
                )  # fmt: skip
                indicators.append(graph.add("Cast", is_missing, to=TensorProto.DOUBLE))
        else:
            numbers, own = _filled(graph, each.name, np.array([fill]), np.array([has]))
            features.append(numbers)
            indicators += own
    return features + indicators


def _words(graph: _Graph, column: Input, fill: float) -> str:
    """A feature for each word; a text that is none of them has none."""
    keys, values = list(column.words), list(range(len(column.words)))
    if not math.isnan(fill):
        keys, values = [*keys, ""], [*values, int(fill)]
    places = graph.add(
        "LabelEncoder", column.name, domain="ai.onnx.ml", keys_strings=keys, values_int64s=values, default_int64=-1
    )
    is_word = graph.add("Equal", places, graph.constant(np.arange(len(column.words))[None]))
    return graph.add("Cast", is_word, to=TensorProto.DOUBLE)


def _activated(graph: _Graph, Z: str, name: str, dtype: np.dtype) -> str:
    def number(value: float) -> str:
        return graph.constant(np.array(value, dtype))

    if name == "identity":
        return Z
    if name in SIMPLE:
        return graph.add(SIMPLE[name], Z)
    if name == "leaky_relu":
        return graph.add("LeakyRelu", Z, alpha=LEAKY_SLOPE)
    if name == "softmax":
        return graph.add("Softmax", Z, axis=1)
    if name == "silu":
        return graph.add("Mul", Z, graph.add("Sigmoid", Z))
    if name == "gelu":
        bent = graph.add("Erf", graph.add("Mul", Z, number(math.sqrt(0.5))))
    else:  # gelu_tanh
        cube = graph.add("Mul", graph.add("Mul", graph.add("Mul", Z, Z), Z), number(0.044715))
        bent = graph.add("Tanh", graph.add("Mul", graph.add("Add", Z, cube), number(math.sqrt(2 / math.pi))))
    half = graph.add("Mul", Z, number(0.5))
    return graph.add("Mul", half, graph.add("Add", bent, number(1.0)))


def _add_classes(graph: _Graph, model: Model, Y: str) -> int:
    """The name of the most probable class, as an integer where all names are integers of 64 bits."""
    place = graph.add("ArgMax", Y, axis=1, keepdims=0)
    if all(type(name) is int and -(2**63) <= name < 2**63 for name in model.class_names):
        graph.add("Gather", graph.constant(np.array(model.class_names, np.int64)), place, output="class")
        return TensorProto.INT64
    graph.add("Gather", graph.texts([str(name) for name in model.class_names]), place, output="class")
    return TensorProto.STRING
