"""A trained model as a file, model.safetensors: all that is needed to predict from raw features."""

import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

import handgrad
from handgrad.data.description import from_description, to_description
from handgrad.data.encoding import Encoding, encode
from handgrad.data.tables import ClassName, Table
from handgrad.formulas.network import Network, layers_of

FILE_NAME = "model.safetensors"
FORMAT_VERSION = 2


class Model(NamedTuple):
    """Parameters, and how raw features become what they were trained on.

    Attributes:
      params: W (P, C) and b (1, C), or a network.
      encoding: what is done to a table.
      class_names: C names.
      target: as in `handgrad.data.Table`.
    """

    params: handgrad.Params | Network
    encoding: Encoding
    class_names: tuple[ClassName, ...]
    target: str | None


def predict_proba(model: Model, table: Table) -> np.ndarray:
    """The probabilities (N, C) of a table.

    Raises:
      ValueError: features that are not those the model was trained on, or a row that has no probabilities.
    """
    Y = np.asarray(handgrad.predict_proba(model.params, jnp.asarray(encode(model.encoding, table).X)))
    if np.isnan(Y).any():
        row = int(np.argmax(np.isnan(Y).any(axis=1)))
        raise ValueError(f"the model has no probabilities for row {row + 1}: its logits are not finite. Train it anew.")
    return Y


def save_model(path: pathlib.Path, model: Model) -> None:
    """Write the model."""
    encoding, tensors = to_description(model.encoding)
    for number, layer in enumerate(layers_of(model.params), 1):
        tensors |= {f"W{number}": np.asarray(layer.params.W), f"b{number}": np.asarray(layer.params.b)}
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "activations": [layer.activation for layer in layers_of(model.params)],
        "class_names": model.class_names,
        "target": model.target,
        "encoding": encoding,
        "versions": {"handgrad": handgrad.__version__, "jax": jax.__version__},
    }
    description["sha256"] = _digest(description, tensors)
    # One entry, for safetensors writes several in random order, and the same run should give the same bytes.
    path.write_bytes(safetensors.numpy.save(tensors, {"handgrad": json.dumps(description)}))


def load_model(path: pathlib.Path) -> Model:
    """Read a model.

    Args:
      path: the file, or the folder of a run with it.

    Raises:
      FileNotFoundError, ValueError: no such file, one that is damaged or cut short, one of another program, or one
        of a newer handgrad.
    """
    if path.is_dir():
        path = path / FILE_NAME
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such model. `handgrad train --out RUN` writes one.")
    with open(path, "rb"):
        pass  # what the system has against it is said by the system
    try:
        metadata, tensors = _read(path)
    except Exception as error:  # damaged bytes make safetensors and the decoders raise almost anything
        raise ValueError(f"{path}: is not a model, or is damaged or cut short ({_first_line(error)}).") from None
    if "handgrad" not in metadata:
        raise ValueError(f"{path}: was not written by handgrad; `handgrad train --out RUN` writes models.")
    try:
        description = json.loads(metadata["handgrad"])
        version, writer = description["format_version"], description["versions"]["handgrad"]
        is_whole = version != FORMAT_VERSION or description.pop("sha256") == _digest(description, tensors)
    except Exception:
        is_whole = False
    if not is_whole:
        raise ValueError(f"{path}: is damaged; its content does not match its checksum. Train it anew.")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path}: has format {version}, written by handgrad {writer}; this is handgrad {handgrad.__version__}, "
            f"which reads format {FORMAT_VERSION}."
        )
    params = tuple(
        handgrad.Layer(handgrad.Params(jnp.asarray(tensors[f"W{number}"]), jnp.asarray(tensors[f"b{number}"])), name)
        for number, name in enumerate(description["activations"], 1)
    )
    return Model(
        params=params if len(params) > 1 else params[0].params,
        encoding=from_description(description["encoding"], tensors),
        class_names=tuple(description["class_names"]),
        target=description["target"],
    )


def _read(path: pathlib.Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    with safetensors.safe_open(path, framework="numpy") as file:
        return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no dict


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _digest(description: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
