"""A gradient of the user's own: right ones pass, in any library and form, and each kind of mistake is named."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import handgrad
import oracles
import oracles_check
from handgrad import Params
from oracles_check import MISTAKES, right, right_divided_late

# Each shape compiles, so there are few; N, P and C coincide in the second, N and C in the third.
SHAPES = ((40, 7, 4), (6, 6, 6), (5, 4, 5))
DTYPES = ("float64", "float32", "bfloat16", "float16")
drawn = settings(deadline=None, derandomize=True, database=None, max_examples=60)


@st.composite
def problems(draw):
    """Params, X, targets and weights, of features of any size, with masked and absent classes and rows of no weight."""
    N, P, C = draw(st.sampled_from(SHAPES))
    kinds = {"targets": draw(st.sampled_from(["labels", "distributions"])), "seed": draw(st.integers(0, 10**6))}
    W, b, X, t, w = oracles.problem(N, P, C, weights=draw(st.sampled_from([None, "floating"])), **kinds)
    scale = draw(st.sampled_from([1e-3, 1.0, 1.0, 1e3]))
    W, X = W * draw(st.sampled_from([0.0, 1 / scale, 1 / scale, 30 / scale])), scale * X
    if t.ndim == 1 and draw(st.booleans()):
        t[t == C - 1] = 0
        b[0, C - 1] = draw(st.sampled_from([b[0, C - 1], -np.inf]))
    if w is not None and draw(st.booleans()):
        w[::2] = 0
    return Params(W, b), X, t, w


@jax.jit
def jax_gradient(params, X, targets, weights=None):
    return jax.grad(jax_loss)(params, X, targets, weights)


def jax_loss(params, X, targets, weights):
    log_Y = jax.nn.log_softmax(X @ params.W + params.b)
    if targets.ndim == 1:
        losses = -jnp.take_along_axis(log_Y, targets[:, None], axis=1)[:, 0]
    else:
        losses = -jnp.sum(jnp.where(targets == 0, 0, targets * log_Y), axis=1)
    return jnp.mean(losses) if weights is None else jnp.sum(weights * losses) / jnp.sum(weights)


def torch_gradient(params, X, targets, weights=None):
    import torch

    Y = torch.softmax(X @ params.W + params.b, dim=1)
    T = targets if targets.ndim == 2 else torch.nn.functional.one_hot(targets, Y.shape[1]).to(X.dtype)
    w = torch.ones(len(X), dtype=X.dtype) if weights is None else weights
    D = (Y - T) * w[:, None] / w.sum()
    return types.SimpleNamespace(W=X.T @ D, b=D.sum(0, keepdim=True))


@drawn
@given(problems(), st.sampled_from([right, right_divided_late]))
def test_right_gradients_pass_on_drawn_data(problem, gradient):
    params, X, targets, weights = problem
    report = handgrad.check_gradients(params, X, targets, gradient=gradient, weights=weights)
    assert report.passed, report
    assert report.diagnosis == ""


@drawn
@given(problems(), st.sampled_from(["T − Y", "sum", "−5.5", "an entry", "transposed", "no Y"]))
def test_wrong_gradients_fail_on_drawn_data(problem, mistake):
    params, X, targets, weights = problem
    wrong = MISTAKES[mistake][0]
    report = handgrad.check_gradients(params, X, targets, gradient=wrong, weights=weights, dtypes=("float32",))
    assert not report.passed


@drawn
@given(st.sampled_from(SHAPES), st.integers(0, 10**6), st.sampled_from(sorted(MISTAKES)))
def test_each_mistake_is_named_on_drawn_data(shape, seed, mistake):
    W, b, X, t, _ = oracles.problem(*shape, seed=seed)
    wrong, name = MISTAKES[mistake]
    report = handgrad.check_gradients(Params(W, b), X, t, gradient=wrong, dtypes=("float64",))
    assert not report.passed
    assert name in report.diagnosis
    assert str(report).splitlines()[-1] == report.diagnosis.splitlines()[-1]


@pytest.mark.parametrize("shape", SHAPES[:2])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_named(mistake, shape):
    W, b, X, t, _ = oracles.problem(*shape)
    wrong, name = MISTAKES[mistake]
    assert name in handgrad.check_gradients(Params(W, b), X, t, gradient=wrong, dtypes=("float64",)).diagnosis


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("mistake", ["T − Y", "sum", "−5.5", "−5 dW", "no db", "transposed"])
def test_a_mistake_is_seen_in_every_dtype_alone(dtype, mistake):
    """Even where the float64 version of the function is right, and where the parameters separate the rows."""
    _, b, X, t, _ = oracles.problem(*SHAPES[1])
    wrong = MISTAKES[mistake][0]

    def wrong_in_one_dtype(params, X, targets):
        return (wrong if X.dtype == dtype else right)(params, X, targets)

    if dtype == "float16":
        X = X / 8
    for scale in (1.0, 300.0):
        report = handgrad.check_gradients(
            Params(scale * np.linalg.lstsq(X, np.eye(6)[t], rcond=None)[0], 0 * b),
            X,
            t,
            gradient=wrong_in_one_dtype,
            dtypes=(dtype,),
        )
        assert not report.passed
        assert report.diagnosis.startswith(f"In {dtype}, not in float64: ")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_one_entry_off_by_a_percent_fails_whatever_dtype_is_asked_for(dtype):
    W, b, X, t, _ = oracles.problem(*SHAPES[0])
    wrong, name = MISTAKES["an entry"]
    report = handgrad.check_gradients(Params(W, b), X, t, gradient=wrong, dtypes=(dtype,))
    assert not report.passed
    assert name in report.diagnosis


@pytest.mark.parametrize(("targets", "weights"), [("labels", None), ("distributions", "floating")])
@pytest.mark.parametrize("library", ["numpy", "jax", "torch"])
def test_a_right_gradient_passes_in_every_library_and_dtype(library, weights, targets):
    if library == "torch":
        convert, gradient = pytest.importorskip("torch", reason="PyTorch is not installed").asarray, torch_gradient
    else:
        convert, gradient = {"numpy": (np.asarray, right), "jax": (jnp.asarray, jax_gradient)}[library]
    W, b, X, t, w = oracles.problem(*SHAPES[0], weights=weights, targets=targets)

    def own(params, X, *data):
        assert all(isinstance(array, type(convert(np.ones(1)))) for array in (*params, X, *data))
        return gradient(params, X, *data)

    report = handgrad.check_gradients(Params(W, b), convert(X), t, gradient=own, weights=w, dtypes=DTYPES)
    assert report.passed
    assert [check.dtype for check in report.checks if check.reference == "autograd"] == [
        d for d in DTYPES for _ in "Wb"
    ]


@pytest.mark.parametrize(
    "form",
    [
        lambda W, b: (W, b),
        lambda W, b: [W, b[None, :]],
        lambda W, b: Params(W, b),
        lambda W, b: {"W": W, "b": b},
        lambda W, b: {"dW": W, "db": b},
        lambda W, b: types.SimpleNamespace(W=W, b=b),
        lambda W, b: (0.5, (W, b)),
        lambda W, b: (np.float64(0.5), {"dW": W, "db": b}),
        lambda W, b: (jnp.asarray(0.5), W, b),
        lambda W, b: (W.tolist(), b.tolist()),
    ],
)
def test_a_gradient_comes_in_any_usual_form(form):
    W, b, X, t, _ = oracles.problem(*SHAPES[0])

    def gradient(*args):
        return form(*right(*args))

    def doubled(*args):
        return form(*(2 * array for array in right(*args)))

    assert handgrad.check_gradients(Params(W, b), X, t, gradient=gradient, dtypes=("float64",)).passed
    assert not handgrad.check_gradients(Params(W, b), X, t, gradient=doubled, dtypes=("float64",)).passed


def network():
    random = np.random.default_rng(0)
    layers = [Params(random.normal(size=(P, C)) / 2, random.normal(size=(1, C))) for P, C in ((5, 4), (4, 3))]
    X, t = random.normal(size=(12, 5)), random.integers(0, 3, 12)
    return tuple(handgrad.Layer(own, name) for own, name in zip(layers, ("tanh", "softmax"), strict=True)), X, t


def network_gradient(network, X, targets, *, slope=lambda A: 1 - A * A):
    (W1, b1), (W2, b2) = (layer.params for layer in network)
    A = np.tanh(X @ W1 + b1)
    D2 = (oracles_check.softmax(A @ W2 + b2) - np.eye(3)[targets]) / len(X)
    D1 = (D2 @ W2.T) * slope(A)
    return [(X.T @ D1, D1.sum(axis=0)), (A.T @ D2, D2.sum(axis=0))]


def test_a_network_s_gradient_is_checked_layer_by_layer():
    def as_layers(*args):
        return tuple(handgrad.Layer(Params(*own), "tanh") for own in network_gradient(*args))

    def as_dict(*args):
        (W1, b1), (W2, b2) = network_gradient(*args)
        return 0.5, {"W1": W1, "b1": b1, "W2": W2, "b2": b2}

    def without_slope(*args):
        return network_gradient(*args, slope=np.ones_like)

    def transposed(*args):
        (W1, b1), second = network_gradient(*args)
        return (W1.T, b1), second

    for gradient in (network_gradient, as_layers, as_dict):
        assert handgrad.check_gradients(*network(), gradient=gradient).passed
    for gradient, name in (
        (without_slope, "non-linearities' derivatives are left out"),
        (transposed, "dW1: transposed"),
    ):
        report = handgrad.check_gradients(*network(), gradient=gradient)
        assert not report.passed
        assert name in report.diagnosis


@pytest.mark.parametrize(
    ("gradient", "name"),
    [
        (lambda *args: right(*args[:3]), "dW and db: the weights are left out."),
        (
            lambda params, X, t, w: [w.sum() * array for array in right(params, X, t, w)],
            "= sum(w) times what is right: the weights are not",
        ),
        (
            lambda params, X, t, w: [w.mean() * array for array in right(params, X, t, w)],
            "= sum(w)/N times what is right: divided by N",
        ),
        (
            lambda params, X, t, w: [array * (w * w).sum() / w.sum() for array in right(params, X, t, w * w)],
            "the weights are applied twice",
        ),
        (
            lambda params, X, t, w: (right(params, X, t, w)[0], np.zeros(len(X))),
            "db: of shape (40,), summed over the classes",
        ),
        (
            lambda params, X, t, w: (right(params, X, t, w)[0], np.zeros((len(X), 4))),
            "db: of shape (40, 4), a row for each row",
        ),
        (
            lambda params, X, t, w: [array.astype(np.float32) for array in right(params, X, t, w)],
            "float32 where X is float64",
        ),
        (
            lambda params, X, t, w: (right(params, X, t, w)[0] * np.nan, np.zeros(4)),
            "dW is NaN or infinite in 28 of 28 entries",
        ),
    ],
)
def test_mistakes_of_weights_shapes_and_dtypes_are_named(gradient, name):
    W, b, X, t, w = oracles.problem(*SHAPES[0], weights="floating")
    report = handgrad.check_gradients(Params(W, b), X, t, gradient=gradient, weights=w)
    assert not report.passed
    assert name in report.diagnosis


def test_two_mistakes_at_once_are_named_both():
    W, b, X, t, _ = oracles.problem(*SHAPES[0])
    twice = oracles_check.of_residual(lambda r: r.share * r.Y * len(r.X))
    diagnosis = handgrad.check_gradients(Params(W, b), X, t, gradient=twice).diagnosis
    assert diagnosis.startswith("dW and db: T is not subtracted: Y − T; besides, 40 = N times what is right: ")


def test_what_cannot_be_told_apart_is_said_to_be():
    W, b, X, t, _ = oracles.problem(6, 6, 2)
    diagnosis = handgrad.check_gradients(Params(W, b), X, t, gradient=MISTAKES["t + 1"][0]).diagnosis
    assert "t + 1 stands for t. Or else, which these data cannot tell apart: dW and db: the labels" in diagnosis
    W, b, X, t, _ = oracles.problem(6, 6, 6)
    diagnosis = handgrad.check_gradients(Params(W, b), X, t, gradient=MISTAKES["sum"][0]).diagnosis
    assert "6 = N = C = P times what is right" in diagnosis
    random = np.random.default_rng(0)
    noise = handgrad.check_gradients(Params(W, b), X, t, gradient=lambda *_: (random.normal(size=(6, 6)), b)).diagnosis
    assert noise.count("no simple mistake explains it; the largest error is at [") == 2


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (None, TypeError, r"gradient must return dW and db: a pair \(dW, db\), .* got NoneType"),
        (np.zeros((7, 4)), TypeError, r"got ndarray of shape \(7, 4\)"),
        ({"w": 1}, TypeError, r"got a dict with 'w'"),
        (
            (np.zeros((7, 4)), np.zeros(4, int)),
            TypeError,
            r"gradient must return db as a floating-point array; got ndarray of int64",
        ),
        (
            (np.ma.masked_array(np.zeros((7, 4))), np.zeros(4)),
            TypeError,
            r"gradient must return dW as an array without a mask",
        ),
        (("a", "b"), TypeError, r"gradient must return dW as a floating-point array; got str"),
    ],
)
def test_what_is_no_gradient_is_refused(answer, error, message):
    W, b, X, t, _ = oracles.problem(*SHAPES[0])
    with pytest.raises(error, match=f"check_gradients: .*{message}"):
        handgrad.check_gradients(Params(W, b), X, t, gradient=lambda *_: answer)
    with pytest.raises(TypeError, match=r"check_gradients: gradient must return a sequence of one \(dW, db\) for each"):
        handgrad.check_gradients(*network(), gradient=lambda *_: None)


def test_what_the_function_raises_passes_through_with_a_note():
    W, b, X, t, _ = oracles.problem(*SHAPES[0])
    with pytest.raises(ZeroDivisionError) as raised:
        handgrad.check_gradients(Params(W, b), X, t, gradient=lambda *_: 1 / 0)
    assert raised.value.__notes__ == [
        "check_gradients: raised by gradient(params, X, targets), X (40, 7) and targets (40,) as numpy.ndarray, X in "
        "float64."
    ]


def test_what_the_function_does_to_its_arguments_changes_nothing():
    W, b, X, t, _ = oracles.problem(*SHAPES[0])
    kept = [array.copy() for array in (W, b, X, t)]

    def spoils(params, X, targets):
        dW, db = right(params, X, targets)
        for array in (*params, X, targets):
            array[...] = 0
        return dW, db

    assert handgrad.check_gradients(Params(W, b), X, t, gradient=spoils).passed
    for array, copy in zip((W, b, X, t), kept, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_head_is_checked_by_a_wrapper():
    W, b, X, t, _ = oracles.problem(*SHAPES[1])

    def head(params, X, targets):
        return jax.grad(lambda params: handgrad.linear_cross_entropy(X, params.W, targets, bias=params.b))(params)

    assert handgrad.check_gradients(Params(W, b), jnp.asarray(X), t, gradient=head).passed
