"""`handgrad export`: a stored model for other programs.

onnx     the whole of it, from columns as they are to the class: see `onnx_graph`
npz      its arrays, for whatever can read NumPy's: see FORMULA
sklearn  a Pipeline of scikit-learn's own classes, by joblib, of a softmax regression whose inputs are numbers
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from handgrad.app.screen import Screen
from handgrad.app.words import one_line
from handgrad.data.naming import join
from handgrad.files import new_file
from handgrad.formulas.network import is_network, layers_of
from handgrad.models import Model, load

# What stands in an .npz beside the arrays.
FORMULA = """\
inputs    names of the columns, or of the entries of an array, in their order; kinds has their kinds
1. A missing number (NaN) becomes fill; of a text, fill is the index of a word. Each text becomes a feature for each of
   its words, 1 where the row has that word and else 0: words, in order, of which word_counts says how many each input
   has. After all of these comes, for each input with has_indicator, 1 where its value was missing and else 0.
2. X = (features - offset) * scale, computed in float64 and rounded to float32.
3. For each layer l = 1, 2, ...: X = activations[l-1](X @ W{l} + b{l}); the last is softmax, exp(Z) / sum(exp(Z)) along
   the classes. Its columns are the probabilities of class_names, in order.
"""


def export(*, screen: Screen, run: pathlib.Path, to: str, out: pathlib.Path | None, overwrite: bool) -> int:
    """See `handgrad.app.program`."""
    if to not in WRITERS:
        raise ValueError(f"--to must be one of {', '.join(WRITERS)}; got {to!r}.")
    ending, write = WRITERS[to]
    model = load(run)
    folder = run if run.is_dir() else run.parent
    path = out or folder.parent / f"{folder.resolve().name}{ending}"
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: is there already. Choose another name by --out, or pass --overwrite.")
    with new_file(path) as temporary:
        write(model, temporary)
    screen.say(f"{one_line(str(path))}: {path.stat().st_size:,} bytes, {model!r}")
    if to == "sklearn":
        screen.note(["a file of joblib runs code when it is loaded: load none that you have not written yourself"])
    screen.answer(lambda: {"run": str(run), "to": to, "out": str(path), "bytes": path.stat().st_size})
    return 0


def _write_onnx(model: Model, path: pathlib.Path) -> None:
    try:
        from handgrad.app.onnx_graph import to_onnx
    except ModuleNotFoundError as error:
        raise ValueError(f"--to onnx needs {error.name}: pip install 'handgrad[onnx]'") from None
    path.write_bytes(to_onnx(model).SerializeToString(deterministic=True))


def _write_npz(model: Model, path: pathlib.Path) -> None:
    encoding, layers = model.encoding, layers_of(model.params)
    inputs = encoding.inputs or ()
    names = [each.name for each in inputs] or [str(number) for number in range(len(encoding.fill))]
    arrays: dict[str, Any] = {
        "formula": np.array(FORMULA),
        "inputs": np.array(names),
        "kinds": np.array([each.kind for each in inputs] or ["number"] * len(names)),
        "words": np.array([word for each in inputs for word in each.words], str),
        "word_counts": np.array([len(each.words) for each in inputs] or [0] * len(names)),
        "fill": encoding.fill,
        "has_indicator": encoding.has_indicator,
        "offset": encoding.offset,
        "scale": encoding.scale,
        "activations": np.array([layer.activation for layer in layers]),
        "class_names": np.array([str(name) for name in model.class_names]),
    }
    for number, layer in enumerate(layers, 1):
        arrays |= {f"W{number}": _of_numpy(layer.params.W), f"b{number}": _of_numpy(layer.params.b)}
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def _of_numpy(array: Any) -> np.ndarray:
    """In a dtype that NumPy has by itself, which bfloat16 is not."""
    return np.asarray(array, np.result_type(np.asarray(array).dtype, np.float32))


def _write_sklearn(model: Model, path: pathlib.Path) -> None:
    try:
        import joblib
    except ModuleNotFoundError as error:
        raise ValueError(f"--to sklearn needs {error.name}: pip install 'handgrad[sklearn]'") from None
    with open(path, "wb") as file:
        joblib.dump(to_pipeline(model), file)


def to_pipeline(model: Model) -> Any:
    """A fitted Pipeline of scikit-learn's: SimpleImputer where values are filled, StandardScaler, LogisticRegression.

    Each is fitted to a few rows that give it the right shape, and then gets its numbers.

    Raises:
      ValueError: a network, or a model with columns of text.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    encoding = model.encoding
    texts = [each.name for each in encoding.inputs or () if each.kind == "text"]
    if is_network(model.params) or texts:
        what = f"columns of text, {join(texts, 5)}" if texts else "hidden layers"
        raise ValueError(f"--to sklearn takes softmax regressions of numbers; the model has {what}. Take --to onnx.")
    W, b = map(_of_numpy, layers_of(model.params)[0].params)
    steps: list[tuple[str, Any]] = []
    if (~np.isnan(encoding.fill)).any() or encoding.has_indicator.any():
        fill = np.where(np.isnan(encoding.fill), 0, encoding.fill)
        rows = np.stack([fill, np.where(encoding.has_indicator, np.nan, fill)])
        imputer = SimpleImputer(strategy="mean", add_indicator=bool(encoding.has_indicator.any())).fit(rows)
        imputer.statistics_ = fill
        steps.append(("imputer", imputer))
    scaler = StandardScaler().fit(np.zeros((2, len(encoding.offset))))
    scaler.mean_, scaler.scale_ = encoding.offset, 1 / encoding.scale
    scaler.var_ = scaler.scale_**2
    steps.append(("scaler", scaler))
    num_classes = W.shape[1]
    classifier = LogisticRegression().fit(np.zeros((num_classes, W.shape[0])), np.arange(num_classes))
    coef, intercept = W.T.astype(np.float64), b[0].astype(np.float64)
    if num_classes == 2:
        coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
    classifier.coef_, classifier.intercept_ = coef, intercept
    classifier.classes_ = np.array(model.class_names)
    steps.append(("classifier", classifier))
    if encoding.inputs is not None:
        steps[0][1].feature_names_in_ = np.array([each.name for each in encoding.inputs], object)
    return Pipeline(steps)


WRITERS: dict[str, tuple[str, Callable[[Model, pathlib.Path], None]]] = {
    "onnx": (".onnx", _write_onnx),
    "npz": (".npz", _write_npz),
    "sklearn": (".joblib", _write_sklearn),
}
