"""Bad input: the error names the function, what it requires, what it got and what to do."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from jax.experimental import sparse

import handgrad
import oracles
from handgrad import Params, formulas

pytestmark = pytest.mark.messages

W, b, X, t, w = oracles.problem(7, 5, 3, weights="floating")
T = oracles.problem(7, 5, 3, targets="distributions")[3]
params = Params(W, b)
Z = X @ W + b

CASES = {
    "labels from one": (
        lambda: formulas.cross_entropy(Z, t + 1),
        ValueError,
        f"cross_entropy: labels must be integers in [0, 3) for logits (7, 3); got 3 at row {np.argmax(t == 2)}. "
        "Labels that start at 1? Subtract 1.",
    ),
    "a negative label": (
        lambda: formulas.loss(params, X, np.where(np.arange(7) == 5, -1, t)),
        ValueError,
        "loss: labels must be integers in [0, 3) for logits (7, 3); got -1 at row 5.",
    ),
    "labels as floats": (
        lambda: formulas.gradient(params, X, t * 1.0),
        TypeError,
        "gradient: targets must be labels (N,) of integer dtype or distributions (N, C) of floating dtype; got "
        "float64 of shape (7,). Labels as floats? Convert them to int32.",
    ),
    "labels as booleans": (
        lambda: formulas.gradient(params, X, t > 1),
        TypeError,
        "gradient: targets must be integers or floating-point; got bool. Convert it, for example with .astype.",
    ),
    "labels as a column": (
        lambda: formulas.loss(params, X, t[:, None]),
        ValueError,
        "loss: targets must have shape (N, C) = (7, 3); got (7, 1). Labels as a column? Use targets[:, 0].",
    ),
    "one-hot integers": (
        lambda: formulas.loss(params, X, np.eye(3, dtype=int)[t]),
        TypeError,
        "loss: targets must be floating-point; got int64. Convert it, for example with .astype.",
    ),
    "labels as a list": (
        lambda: formulas.loss(params, X, list(t)),
        TypeError,
        "loss: targets must be an array of shape (N,); got list. Convert it, for example with numpy.asarray.",
    ),
    "three axes of targets": (
        lambda: formulas.loss(params, X, T[None]),
        ValueError,
        "loss: targets must be labels (N,) or distributions (N, C) for 7 rows and 3 classes; got shape (1, 7, 3).",
    ),
    "too few labels": (
        lambda: formulas.loss(params, X, t[:3]),
        ValueError,
        "loss: targets must have shape (N,) = (7,); got (3,).",
    ),
    "logits for targets": (
        lambda: formulas.cross_entropy(Z, np.full((7, 3), 2.0)),
        ValueError,
        "cross_entropy: each row of targets must be a distribution, non-negative and with sum 1; got row 0 with sum 6 "
        "and smallest entry 2. Pass probabilities, not logits or counts.",
    ),
    "a negative weight": (
        lambda: formulas.value_and_gradient(params, X, t, np.where(np.arange(7) == 2, -1.5, w)),
        ValueError,
        "value_and_gradient: weights must be finite and non-negative; got -1.5 at row 2.",
    ),
    "weights of another length": (
        lambda: formulas.hessian_vector_product(params, X, params, w[:6]),
        ValueError,
        "hessian_vector_product: weights must have shape (N,) = (7,); got (6,).",
    ),
    "features in the wrong number": (
        lambda: handgrad.predict(params, X[:, :4]),
        ValueError,
        "predict: X must have P = 5 columns for W (5, 3); got (7, 4).",
    ),
    "a flat bias": (
        lambda: formulas.linear(Params(W, b[0]), X),
        ValueError,
        "linear: params.b must have shape (1, C); got (3,).",
    ),
    "a bias for other classes": (
        lambda: formulas.linear(Params(W, b[:, :2]), X),
        ValueError,
        "linear: params.b must have shape (1, C) = (1, 3) for W (5, 3); got (1, 2).",
    ),
    "two dtypes": (
        lambda: formulas.linear(params, X.astype(np.float32)),
        TypeError,
        "linear: X and params.W must have one dtype; got float32 and float64. Convert one of them.",
    ),
    "integer data": (
        lambda: formulas.linear(params, np.ones((7, 5), np.uint8)),
        TypeError,
        "linear: X must be floating-point; got uint8. Convert it, for example with .astype.",
    ),
    "no rows": (
        lambda: handgrad.loss(params, X[:0], t[:0]),
        ValueError,
        "loss: X must not be empty; got shape (0, 5) for (N, P).",
    ),
    "W alone for params": (
        lambda: formulas.loss(W, X, t),
        TypeError,
        "loss: params must be a pair (W, b); got ndarray. Make one with handgrad.Params(W, b) or handgrad.init_params.",
    ),
    "a direction of another shape": (
        lambda: formulas.hessian_vector_product(params, X, Params(W[:4], b)),
        ValueError,
        "hessian_vector_product: direction.W must have the shape of params.W, (5, 3); got (4, 3).",
    ),
    "a gradient of another dtype": (
        lambda: formulas.sgd_step(params, Params(W.astype(np.float32), b.astype(np.float32)), 0.1),
        TypeError,
        "sgd_step: gradient.W and params.W must have one dtype; got float32 and float64. Convert one of them.",
    ),
    "logits of one axis": (
        lambda: handgrad.softmax(Z[0]),
        ValueError,
        "softmax: Z must have shape (N, C); got (3,).",
    ),
    "base one": (
        lambda: formulas.entropy(T, base=1),
        ValueError,
        "entropy: base must be a finite positive number other than 1; got 1. 2 gives bits, math.e nats.",
    ),
    "no classes": (
        lambda: formulas.one_hot(t, 0),
        ValueError,
        "one_hot: num_classes must be a positive integer; got 0.",
    ),
    "an integer dtype of one-hot rows": (
        lambda: formulas.one_hot(t, 3, np.dtype("int32")),
        TypeError,
        "one_hot: dtype must be floating-point; got int32.",
    ),
    "distributions of two shapes": (
        lambda: formulas.kl_divergence(T, T[:3]),
        ValueError,
        "kl_divergence: Y must have the shape of T, (7, 3); got (3, 3).",
    ),
    "a scale without a key": (
        lambda: handgrad.init_params(2, 3, scale=0.1),
        ValueError,
        "init_params: scale belongs to random weights, which need a key; got key=None.",
    ),
    "integer params": (
        lambda: handgrad.init_params(2, 3, dtype="int32"),
        TypeError,
        "init_params: dtype must be floating-point; got int32.",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_message_says_what_is_wrong(case):
    call, error, message = CASES[case]
    with pytest.raises(error, match="^" + re.escape(message)):
        call()


def test_arrays_that_a_compiled_function_closes_over_are_looked_at():
    arrays = jax.tree.map(jnp.asarray, (X.astype(np.float32), t, w.astype(np.float32), T.astype(np.float32)))
    data, labels, weights, rows = arrays
    own = Params(W.astype(np.float32), b.astype(np.float32))
    for targets in (labels, rows):
        value = jax.jit(lambda params, targets=targets: formulas.loss(params, data, targets, weights))(own)
        np.testing.assert_allclose(value, formulas.loss(own, data, targets, weights), rtol=1e-6)
    shifted, doubled = labels + 1, 2 * rows
    with pytest.raises(ValueError, match=r"^loss: labels must be integers in \[0, 3\) .* got 3 at row"):
        jax.jit(lambda params: formulas.loss(params, data, shifted))(own)
    with pytest.raises(ValueError, match=r"^loss: each row of targets must be a distribution"):
        jax.jit(lambda params: formulas.loss(params, data, doubled))(own)


@pytest.mark.parametrize("form", [scipy.sparse.csr_array, scipy.sparse.coo_matrix, sparse.BCOO.fromdense])
@pytest.mark.parametrize("name", ["train", "predict", "loss", "value_and_gradient", "linear_cross_entropy", "formulas"])
def test_sparse_data_are_refused_with_their_size_where_they_would_have_to_be_dense(name, form):
    given = form(X.astype(np.float32))
    narrow = Params(W.astype(np.float32), b.astype(np.float32))
    calls = {
        "train": lambda: handgrad.train(given, t),
        "predict": lambda: handgrad.predict(narrow, given),
        "linear_cross_entropy": lambda: handgrad.linear_cross_entropy(given, narrow.W, t),
        "formulas": lambda: formulas.loss(narrow, given, t),
    }
    call = calls.get(name, lambda: getattr(handgrad, name)(narrow, given, t))
    message = r"X must be dense; got a \w+ of shape \(7, 5\), which would take 140 bytes. Give X.todense\(\)"
    with pytest.raises(TypeError, match=message):
        call()
