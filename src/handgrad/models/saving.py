"""A model as a file, model.safetensors: all that is needed to predict, nothing that could run, and no date or place.

What is not as `save` writes it is refused in one line. Version 0.1 wrote format 1, which is read.
"""

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

import handgrad
from handgrad.data import Encoding
from handgrad.data.description import from_description, to_description
from handgrad.data.encoding import Input
from handgrad.data.naming import printable
from handgrad.data.tables import ClassName
from handgrad.data.tensors import parse, read_tensors, write_tensors
from handgrad.files import MODEL_FILE, new_run, require_finished, settle
from handgrad.formulas import Layer, Params
from handgrad.formulas.network import is_network, layers_of
from handgrad.models.forms import FORMS, require_form
from handgrad.models.model import Model, find_fault
from handgrad.settings import show
from handgrad.solvers.epochs import TrainResult
from handgrad.solvers.results import FitResult, PathResult

FORMAT_VERSION = 2


def save(
    result: Any,
    folder: str | os.PathLike[str],
    *,
    class_names: Sequence[ClassName] | None = None,
    feature_names: Sequence[str] | None = None,
    encoding: Encoding | None = None,
    target: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write what was found to a folder, as `handgrad train --out` does, for `handgrad.load` and `handgrad predict`.

    Args:
      result: what `fit`, `fit_path` (the best of the path) or `train` returned, parameters, a `Model`, or a
        `SoftmaxRegression` that is fitted, which knows its classes and, of a data frame, its features by name.
      folder: one that is new or empty, or the folder of an earlier run.
      class_names: the C names by which to predict; 0, 1, … if None.
      feature_names: the P columns to predict from; if None the data to predict from are arrays.
      encoding: what was done to a table before, as `handgrad.data.split_and_scale` has it, or `fit_encoding`. It has
        names of its own. If None the features are taken as they are.
      target: a column that data to predict from may have, and that is left out.
      overwrite: whether to replace a run that is in the folder, which is whole until then.

    Raises:
      TypeError: a result that is none of those.
      ValueError: names, an encoding or parameters that do not fit each other, or parameters that are not finite; a
        folder that holds something else, or a run and overwrite=False.

    Example:
      >>> import pathlib, tempfile
      >>> X, t = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1])
      >>> run = pathlib.Path(tempfile.mkdtemp()) / "run"
      >>> handgrad.save(handgrad.fit(X, t, l2=0.1), run, class_names=["low", "high"], feature_names=["depth"])
      >>> print(handgrad.load(run).predict({"depth": [0.2, 2.9]}))
      ['low' 'high']
    """
    if _is_estimator(result):
        result, classes, features = _of_estimator(result)
        class_names = classes if class_names is None else class_names
        feature_names = features if feature_names is None and encoding is None else feature_names
    params = _params_of(result)
    if isinstance(result, Model):
        model = result
    else:
        num_features, num_classes = layers_of(params)[0].params.W.shape[0], layers_of(params)[-1].params.W.shape[1]
        if encoding is None:
            encoding = plain_encoding(num_features, feature_names)
        elif feature_names is not None:
            raise ValueError("save: an encoding has names of its own; leave out feature_names.")
        names = range(num_classes) if class_names is None else class_names
        model = Model(params, encoding, tuple(_as_plain(name) for name in names), target)
    fault = find_fault(model)
    if fault is not None:
        raise ValueError(f"save: {fault}.")
    with new_run(pathlib.Path(folder), overwrite=overwrite) as temporary:
        write_model(temporary / MODEL_FILE, model)


def load(run: str | os.PathLike[str]) -> Model:
    """Read a model.

    Args:
      run: the folder that `handgrad train --out` or `handgrad.save` wrote, or the file model.safetensors in it. It may
        come from anyone: nothing in it is run, and it is looked at before it is believed.

    Returns:
      Model, with `predict` and `predict_proba` for files, data frames, dictionaries of columns and arrays.

    Raises:
      FileNotFoundError, ValueError: no such file; one that is damaged, cut short or of another program; one whose
        parts do not fit each other; one of a newer handgrad.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp()
      >>> handgrad.save(handgrad.Params(W=np.eye(2), b=np.zeros((1, 2))), folder, class_names=["left", "right"])
      >>> print(handgrad.load(folder).predict(np.array([[3.0, 1.0], [1.0, 3.0]])))
      ['left' 'right']
    """
    path = pathlib.Path(run)
    if not path.exists():
        settle(path.absolute())
    if path.is_dir():
        path = path / MODEL_FILE
    if not path.exists():
        require_finished(path.parent)
        raise FileNotFoundError(f"{path}: there is no such model. `handgrad train --out RUN` writes one.")
    try:
        metadata, tensors = read_tensors(path)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not a model, or is damaged or cut short ({_in_words(error)}).") from None
    if "handgrad" not in metadata:
        raise ValueError(f"{path}: was not written by handgrad; `handgrad train --out RUN` writes models.")
    version, description = _describe(path, metadata["handgrad"], tensors)
    try:
        model = _rebuild(version, description, tensors)
        fault = find_fault(model)
    except ValueError as error:
        fault = str(error)
    if fault is not None:
        raise ValueError(f"{path}: is no model that handgrad wrote: {printable(fault)}. Train it anew.")
    return model


def write_model(path: pathlib.Path, model: Model) -> None:
    """Write the file of a model."""
    encoding, tensors = to_description(model.encoding)
    for number, layer in enumerate(layers_of(model.params), 1):
        tensors |= {f"W{number}": np.asarray(layer.params.W), f"b{number}": np.asarray(layer.params.b)}
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "activations": [layer.activation for layer in layers_of(model.params)],
        "class_names": list(model.class_names),
        "target": model.target,
        "encoding": encoding,
        "versions": {"handgrad": handgrad.__version__, "jax": jax.__version__},
    }
    description["sha256"] = _digest(description, tensors)
    text = json.dumps(description, allow_nan=False)
    require_form(parse(text), FORMS[FORMAT_VERSION], "the model")
    write_tensors(path, tensors, {"handgrad": text})


# --- From what was found ----------------------------------------------------------------------------------------------


def _is_estimator(result: Any) -> bool:
    """Whether it is a SoftmaxRegression, which nobody has who has not imported it."""
    module = sys.modules.get("handgrad.estimator")
    return module is not None and isinstance(result, module.SoftmaxRegression)


def _of_estimator(model: Any) -> tuple[Params, list[Any], list[str] | None]:
    """Its parameters, and the names of its classes and of its features."""
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(model)
    coef, intercept = model.coef_, model.intercept_
    if len(coef) == 1:  # the log-odds of the second of two classes, which is split between them
        coef, intercept = (np.concatenate([-half, half]) for half in (coef / 2, intercept / 2))
    features = getattr(model, "feature_names_in_", None)
    return Params(coef.T, intercept[None]), list(model.classes_), None if features is None else list(features)


def _params_of(result: Any) -> Params | tuple[Layer, ...]:
    found: Any = result
    if isinstance(result, PathResult):
        if result.best is None:
            raise ValueError(
                "save: a path must have a best penalty, which fit_path finds with validation=; without it pass one of "
                "the path's parameters, Params(path.params.W[i], path.params.b[i])."
            )
        found = result.best_params
    elif isinstance(result, FitResult | TrainResult | Model):
        found = result.params
    if is_network(found) and found:
        return tuple(Layer(_on_host(layer.params), layer.activation) for layer in found)
    if isinstance(found, tuple) and len(found) == 2 and all(hasattr(array, "shape") for array in found):
        return _on_host(found)
    raise TypeError(
        "save: result must be what fit, fit_path or train returned, Params(W, b), a tuple of Layers, a Model or a "
        f"SoftmaxRegression; got {show(result)}."
    )


def _on_host(params: Any) -> Params:
    return Params(*(np.asarray(array) for array in params))


def plain_encoding(num_features: int, names: Sequence[str] | None) -> Encoding:
    """Features as they are: a column, or an entry of an array, for each."""
    if names is not None and not (len(names) == num_features == len(set(names)) and all(type(n) is str for n in names)):
        raise ValueError(f"save: feature_names must be {num_features} texts that differ; got {show(list(names))}.")
    return Encoding(
        inputs=None if names is None else tuple(Input(name, "number") for name in names),
        missing=None,
        left_out=(),
        image_shape=None,
        first_index=None,
        fill=np.full(num_features, np.nan),
        has_indicator=np.zeros(num_features, bool),
        offset=np.zeros(num_features),
        scale=np.ones(num_features),
    )


def _as_plain(name: Any) -> ClassName:
    """A name as Python's own type, which JSON can say."""
    plain = name.item() if isinstance(name, np.generic) else name
    if type(plain) not in (bool, int, float, str):
        raise TypeError(f"save: class_names must be booleans, numbers or text; got {show(name)}.")
    return plain


# --- From a file ------------------------------------------------------------------------------------------------------


def _describe(path: pathlib.Path, text: str, tensors: Mapping[str, np.ndarray]) -> tuple[int, dict[str, Any]]:
    """The version of a description, which is one that is read, and the description, which is whole."""
    try:
        description = parse(text)
        version, digest = description.get("format_version"), description.pop("sha256", None)
        is_whole = type(version) is int and (version not in FORMS or digest == _digest(description, tensors))
    except (ValueError, RecursionError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{path}: is damaged; its content does not match its checksum. Train it anew.")
    if version not in FORMS:
        versions = description.get("versions")
        writer = versions.get("handgrad") if isinstance(versions, dict) else None
        by = f", written by handgrad {printable(writer)}" if isinstance(writer, str) else ""
        raise ValueError(
            f"{path}: has format {show(version)}{by}; this is handgrad {handgrad.__version__}, which reads format "
            f"{' and '.join(map(str, FORMS))}."
        )
    return version, description


def _rebuild(version: int, description: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> Model:
    form = {name: own for name, own in FORMS[version].items() if name != "sha256"}
    require_form(description, form, "the description")
    layers = []
    for number, name in enumerate(description["activations"], 1):
        if not {f"W{number}", f"b{number}"} <= tensors.keys():
            raise ValueError(f"layer {number} has no W or no b")
        layers.append(Layer(Params(tensors[f"W{number}"], tensors[f"b{number}"]), name))
    if not layers:
        raise ValueError("it has no layer")
    others = {name: array for name, array in tensors.items() if not name.startswith(("W", "b"))}
    if len(others) + 2 * len(layers) != len(tensors):
        raise ValueError("it has arrays that belong to no layer")
    return Model(
        params=tuple(layers) if len(layers) > 1 or layers[0].activation != "softmax" else layers[0].params,
        encoding=_encoding_of(version, description, others),
        class_names=tuple(description["class_names"]),
        target=description["target"],
    )


def _encoding_of(version: int, description: dict[str, Any], arrays: dict[str, np.ndarray]) -> Encoding:
    encoding = description.get("encoding")
    if version == 1:
        if set(arrays) != {"offset", "scale"}:
            raise ValueError("it must have the arrays offset and scale, and no others")
        names, size = description["feature_names"], arrays["offset"].size
        encoding = {
            "inputs": None if names is None else [(name, "number", []) for name in names],
            "missing": None,
            "left_out": [],
            "image_shape": description["image_shape"],
            "first_index": None,
        }
        arrays = arrays | {"fill": np.full(size, np.nan), "has_indicator": np.zeros(size, np.uint8)}
    elif set(arrays) != {"fill", "has_indicator", "offset", "scale"}:
        raise ValueError("it must have the arrays of an encoding, and no others")
    return from_description(encoding, arrays)


def _digest(description: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode(errors="surrogatepass"))
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _in_words(error: Exception) -> str:
    return printable(str(error).partition("\n")[0])
