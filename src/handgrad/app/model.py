"""A trained model as a file, model.safetensors: all that is needed to predict from raw features."""

import hashlib
import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

import handgrad
from handgrad.data import Scaling, apply_scaling
from handgrad.data.tables import ClassName

FILE_NAME = "model.safetensors"
FORMAT_VERSION = 1


class Model(NamedTuple):
    """Parameters, and how raw features become what they were trained on.

    Attributes:
      params: W (P, C) and b (1, C).
      scaling: the preprocessing, offset (P,) and scale (P,).
      class_names: C names, integers or text.
      feature_names, image_shape, target: as in `handgrad.data.Table`.
    """

    params: handgrad.Params
    scaling: Scaling
    class_names: tuple[ClassName, ...]
    feature_names: tuple[str, ...] | None
    image_shape: tuple[int, int] | None
    target: str | None


def predict_proba(model: Model, X: np.ndarray) -> np.ndarray:
    """The probabilities (N, C) of raw features (N, P).

    Raises:
      ValueError: features in a number that the model was not trained on.
    """
    num_features = len(model.scaling.offset)
    if X.shape[1] != num_features:
        raise ValueError(f"the model was trained on {num_features} features; got {X.shape[1]} in a row.")
    return np.asarray(handgrad.predict_proba(model.params, jnp.asarray(apply_scaling(model.scaling, X))))


def save_model(path: pathlib.Path, model: Model) -> None:
    """Write the model."""
    tensors = {
        "W": np.asarray(model.params.W),
        "b": np.asarray(model.params.b),
        "offset": model.scaling.offset,
        "scale": model.scaling.scale,
    }
    metadata = {
        "format": "handgrad",
        "format_version": json.dumps(FORMAT_VERSION),
        "class_names": json.dumps(model.class_names),
        "feature_names": json.dumps(model.feature_names),
        "image_shape": json.dumps(model.image_shape),
        "target": json.dumps(model.target),
        "preprocessing": "(x - offset) * scale",
        "handgrad_version": handgrad.__version__,
        "jax_version": jax.__version__,
    }
    metadata["sha256"] = _digest(metadata, tensors)
    path.write_bytes(safetensors.numpy.save(tensors, metadata))


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
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, the file is no dict
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: is not a model, or is damaged or cut short ({error}).") from None
    if metadata.get("format") != "handgrad":
        raise ValueError(f"{path}: was not written by handgrad; `handgrad train --out RUN` writes models.")
    if metadata.get("format_version") != json.dumps(FORMAT_VERSION):
        raise ValueError(
            f"{path}: has format {metadata.get('format_version')}, written by handgrad "
            f"{metadata.get('handgrad_version')}; this handgrad {handgrad.__version__} reads format {FORMAT_VERSION}."
        )
    if metadata.pop("sha256", None) != _digest(metadata, tensors):
        raise ValueError(f"{path}: is damaged; its content does not match its checksum. Train it anew.")
    feature_names, image_shape = (json.loads(metadata[key]) for key in ("feature_names", "image_shape"))
    return Model(
        params=handgrad.Params(W=jnp.asarray(tensors["W"]), b=jnp.asarray(tensors["b"])),
        scaling=Scaling(offset=tensors["offset"], scale=tensors["scale"]),
        class_names=tuple(json.loads(metadata["class_names"])),
        feature_names=feature_names and tuple(feature_names),
        image_shape=image_shape and tuple(image_shape),
        target=json.loads(metadata["target"]),
    )


def _digest(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        digest.update(tensors[name].tobytes())
    return digest.hexdigest()
