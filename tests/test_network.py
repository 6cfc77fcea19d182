"""Networks: the gradient by hand through every layer against autograd of one written independently."""

import functools
import itertools

import array_api_strict
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import grids
import handgrad
import oracles
from handgrad import Layer, Params, formulas, network
from handgrad.formulas.activations import ACTIVATIONS
from test_layer import assert_close, in_float64

FUNCTIONS = {
    "identity": lambda Z: Z,
    "relu": lambda Z: jnp.where(Z > 0, Z, 0),
    "leaky_relu": lambda Z: jnp.where(Z >= 0, Z, 0.01 * Z),
    "tanh": jnp.tanh,
    "sigmoid": lambda Z: 1 / (1 + jnp.exp(-Z)),
    "softplus": lambda Z: jnp.log(1 + jnp.exp(Z)),
    "gelu": lambda Z: Z * jax.scipy.stats.norm.cdf(Z),
    "gelu_tanh": lambda Z: 0.5 * Z * (1 + jnp.tanh(jnp.sqrt(2 / jnp.pi) * (Z + 0.044715 * Z**3))),
    "silu": lambda Z: Z / (1 + jnp.exp(-Z)),
    "softmax": lambda Z: jnp.exp(Z) / jnp.sum(jnp.exp(Z), axis=1, keepdims=True),
}
# With one unit, with more than 32, and with widths that coincide with each other, with P, C and N = 13.
DEPTHS = [(5, 3), (5, 1, 3), (4, 4, 4), (6, 4, 7, 2), (13, 64, 13), (3, 5, 1, 4, 3), (2, 8, 8, 8, 8, 3)]


def oracle(params, X, targets, weights=None):
    """The loss of a network for jax.grad, written without handgrad's formulas."""
    *hidden, output = params
    for layer in hidden:
        X = FUNCTIONS[layer.activation](X @ layer.params.W + layer.params.b)
    return oracles.jax_loss(output.params, X, targets, weights)


gradient_by_autograd = jax.jit(jax.grad(oracle))


def random_network(sizes, activation, dtype="float64", seed=0):
    """Weights of size 1/√P, biases of size 1, as NumPy arrays."""
    layers = []
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        W, b, *_ = oracles.problem(1, before, after, seed=10 * seed + number, dtype=dtype)
        layers.append(Layer(Params(W, b), activation))
    return (*layers[:-1], layers[-1]._replace(activation="softmax"))


def data(sizes, num_rows=13, **kwargs):
    return oracles.problem(num_rows, sizes[0], sizes[-1], seed=99, **kwargs)[2:]


def tanh_or(*quick):
    """Each activation in one network, and one of them in all."""
    return lambda activation, sizes: activation == "tanh" or sizes in quick


@pytest.mark.parametrize(
    ("activation", "sizes"), grids.product(FUNCTIONS, DEPTHS, quick=tanh_or((6, 4, 7, 2))), ids=str
)
def test_gradient_matches_autograd(activation, sizes):
    # Numbers of float32, so that one reference serves both dtypes.
    params = random_network(sizes, activation, "float32")
    X, t, _ = data(sizes, dtype="float32")
    expected_value, expected = in_float64(jax.jit(jax.value_and_grad(oracle)), params, X, t)
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            own, own_X = jax.tree.map(lambda array, dtype=dtype: array.astype(dtype), (params, X))
            value, gradient = handgrad.value_and_gradient(own, own_X, t)
            np.testing.assert_allclose(value, expected_value, rtol=oracles.TOLERANCE[dtype])
            assert_close(gradient, expected, dtype)
            assert jax.tree.structure(gradient) == jax.tree.structure(params)


@pytest.mark.parametrize("depth", grids.product([0, 1, 2, 3, 5, 9], quick=lambda depth: depth in (0, 1, 5)))
def test_recomputing_changes_nothing_but_memory(depth):
    sizes = (5, *range(3, 3 + depth), 4)
    params = random_network(sizes, "tanh", "float32")
    X, t, w = data(sizes, weights="floating", dtype="float32")
    plain = handgrad.value_and_gradient(params, X, t, w)
    chex.assert_trees_all_close(handgrad.value_and_gradient(params, X, t, w, recompute=True), plain, atol=1e-6)
    chex.assert_trees_all_close(handgrad.gradient(params, X, t, w, recompute=True), plain[1], atol=1e-6)


@pytest.mark.parametrize("targets", ["labels", "distributions"])
@pytest.mark.parametrize("weights", ["floating", "counts"])
def test_weights_and_distributions_reach_every_layer(targets, weights, dtype):
    sizes = (5, 4, 6, 3)
    params = random_network(sizes, "tanh", dtype)
    X, t, w = data(sizes, targets=targets, weights=weights, dtype=dtype)
    expected = in_float64(gradient_by_autograd, params, X, t, w)
    assert_close(handgrad.gradient(params, X, t, w), expected, dtype)


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_bfloat16_is_right_to_its_precision(activation):
    sizes = (5, 16, 16, 3)
    params = jax.tree.map(lambda array: jnp.asarray(array, jnp.bfloat16), random_network(sizes, activation, "float32"))
    X, t, _ = data(sizes, dtype="float32")
    X = jnp.asarray(X, jnp.bfloat16)
    expected = in_float64(gradient_by_autograd, params, X, t)
    assert_close(handgrad.gradient(params, X, t), expected, "bfloat16")


@pytest.mark.parametrize(
    ("activation", "sizes"),
    grids.product(FUNCTIONS, [(5, 3), (4, 4, 4), (3, 5, 2, 4, 3)], quick=tanh_or((4, 4, 4))),
    ids=str,
)
def test_hessian_vector_product_matches_autograd(activation, sizes):
    def by_autograd(params, direction, X, t, w):
        return jax.jvp(lambda params: jax.grad(oracle)(params, X, t, w), (params,), (direction,))[1]

    params, direction = (random_network(sizes, activation, "float32", seed=seed) for seed in (0, 1))
    X, t, w = data(sizes, weights="floating", dtype="float32")
    expected = in_float64(jax.jit(by_autograd), params, direction, X, t, w)
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            arrays = jax.tree.map(lambda array, dtype=dtype: array.astype(dtype), (params, X, direction, w))
            product = handgrad.hessian_vector_product(*arrays, targets=t)
            # Second derivatives add up ten times as many terms as the gradient.
            assert_close(*jax.tree.map(lambda array: array / 10, (product, expected)), dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_derivative_is_that_of_its_function(activation, x64):
    Z = jnp.concatenate([jnp.linspace(-30, 30, 60), jnp.linspace(-2, 2, 60)]).reshape(20, 6) + 1e-3
    G, dZ = (jnp.asarray(oracles.problem(1, 20, 6, seed=seed)[0]) for seed in (1, 2))
    function, backward, backward_derivative, _ = ACTIVATIONS[activation]
    A, pullback = jax.vjp(lambda Z: FUNCTIONS[activation](Z), Z)
    np.testing.assert_allclose(function(jnp, Z), A, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(backward(jnp, Z, A, G), pullback(G)[0], rtol=1e-12, atol=1e-13)
    _, change = jax.jvp(lambda Z: jax.vjp(FUNCTIONS[activation], Z)[1](G)[0], (Z,), (dZ,))
    by_hand = jnp.broadcast_to(backward_derivative(jnp, Z, A, G, dZ), Z.shape)
    np.testing.assert_allclose(by_hand, change, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_stay_finite_at_extremes(activation):
    Z = jnp.array([[-1e4, -200.0, 0.0, 200.0, 1e4]], jnp.float32)
    function, backward, backward_derivative, _ = ACTIVATIONS[activation]
    A = function(jnp, Z)
    ones = jnp.ones_like(Z)
    assert np.isfinite(A).all()
    assert np.isfinite(backward(jnp, Z, A, ones)).all()
    assert np.isfinite(backward_derivative(jnp, Z, A, ones, ones)).all()


def test_the_normal_distribution_is_exact_to_rounding_also_in_its_tails(x64):
    special = pytest.importorskip("scipy.special", reason="SciPy is not installed")
    Z = np.linspace(-37, 9, 4001)
    Phi = np.asarray(ACTIVATIONS["gelu"].function(jnp, jnp.asarray(Z))) / Z
    # exp(−z²) multiplies a rounding error of z² by up to 37²/2.
    np.testing.assert_allclose(Phi[Z != 0], special.ndtr(Z)[Z != 0], rtol=1e-12)


def test_at_the_kink_the_convention_is_that_of_jax_nn():
    zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
    for name, theirs in (("relu", jax.nn.relu), ("leaky_relu", jax.nn.leaky_relu)):
        function, backward, *_ = ACTIVATIONS[name]
        slope = backward(jnp, zero, function(jnp, zero), one)
        np.testing.assert_array_equal(slope, jax.vmap(jax.grad(theirs))(zero[:, 0])[:, None])
    assert ACTIVATIONS["relu"].backward(jnp, zero, zero, one) == 0
    assert ACTIVATIONS["leaky_relu"].backward(jnp, zero, zero, one) == 1


def test_the_softmax_regression_is_the_network_without_hidden_layers(dtype):
    (layer,) = random_network((5, 3), "relu", dtype)
    X, t, w = data((5, 3), weights="floating", dtype=dtype)
    value, (gradient,) = handgrad.value_and_gradient((layer,), X, t, w)
    alone_value, alone = handgrad.value_and_gradient(layer.params, X, t, w)
    assert value == alone_value
    chex.assert_trees_all_equal(gradient.params, alone)
    (product,) = handgrad.hessian_vector_product((layer,), X, (layer,), w)
    chex.assert_trees_all_equal(product.params, handgrad.hessian_vector_product(layer.params, X, layer.params, w))
    np.testing.assert_array_equal(handgrad.forward((layer,), X), handgrad.linear(layer.params, X))


def torch_asarray(array):
    return pytest.importorskip("torch", reason="PyTorch is not installed").asarray(array)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("convert", [jnp.asarray, array_api_strict.asarray, torch_asarray])
def test_every_library_agrees_with_numpy(convert, activation):
    params = random_network((5, 4, 6, 3), activation, "float32")
    X, t, _ = data((5, 4, 6, 3), dtype="float32")
    theirs = tuple(Layer(Params(*map(convert, layer.params)), layer.activation) for layer in params)
    for recompute in (False, True):
        value, gradient = formulas.value_and_gradient(theirs, convert(X), convert(t), recompute=recompute)
        expected_value, expected = formulas.value_and_gradient(params, X, t)
        product = formulas.hessian_vector_product(theirs, convert(X), theirs, targets=convert(t))
        np.testing.assert_allclose(np.asarray(value), expected_value, rtol=1e-5)
        for own, numpys in zip(
            (gradient, product), (expected, formulas.hessian_vector_product(params, X, params, targets=t)), strict=True
        ):
            for layer, numpy_layer in zip(own, numpys, strict=True):
                for array, numpy_array in zip(layer.params, numpy_layer.params, strict=True):
                    assert isinstance(array, type(convert(X)))
                    np.testing.assert_allclose(np.asarray(array), numpy_array, rtol=1e-4, atol=1e-5)


def test_recomputing_holds_fewer_activations():
    sizes = (32,) + 16 * (64,) + (10,)
    params = network.init_network(jax.random.key(0), sizes, "tanh")
    X, t = jnp.zeros((4096, 32)), jnp.zeros(4096, jnp.int32)

    def temporary_bytes(recompute):
        lowered = handgrad.value_and_gradient.lower(params, X, t, recompute=recompute)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    activation = 4096 * 64 * 4
    # Of 16 activations, the plain pass holds 16 and the other the 4 inputs and 4 of one segment, and a few in work.
    assert temporary_bytes(False) > 16 * activation
    assert temporary_bytes(True) < 10 * activation


@pytest.mark.parametrize(
    ("activation", "dtype"),
    grids.product(ACTIVATIONS, ["float32", "float64"], quick=lambda name, dtype: name == "tanh" or dtype == "float64"),
    indirect=["dtype"],
)
def test_dense_has_the_derivatives_of_its_function_in_both_modes(activation, dtype):
    W, b, X, *_ = jax.tree.map(jnp.asarray, oracles.problem(7, 5, 3, dtype=dtype))

    def by_hand(X, W, b):
        return handgrad.dense(X, Params(W, b), activation)

    def naive(X, W, b):
        return FUNCTIONS[activation](X @ W + b)

    tangents = tuple(jnp.cos(3 * array) for array in (X, W, b))
    cotangent = jnp.sin(5 * (X @ W))

    def derivatives(function):
        def hessian_product(X, W, b):
            scalar = lambda W: jnp.sum(cotangent * function(X, W, b))  # noqa: E731
            return jax.jvp(jax.grad(scalar), (W,), (tangents[1],))[1]

        def all_of_them(*arrays):
            forward, reverse = jax.jvp(function, arrays, tangents), jax.vjp(function, *arrays)[1](cotangent)
            return forward, reverse, hessian_product(*arrays)

        return jax.jit(all_of_them)(X, W, b)

    tolerance = 10 * oracles.TOLERANCE[dtype]
    chex.assert_trees_all_close(derivatives(by_hand), derivatives(naive), rtol=tolerance, atol=tolerance)


def test_dense_takes_leading_axes_and_vmap():
    W, b, X, *_ = jax.tree.map(jnp.asarray, oracles.problem(24, 5, 3, dtype="float32"))
    expected = jnp.tanh(X @ W + b)
    np.testing.assert_allclose(
        handgrad.dense(X.reshape(2, 3, 4, 5), Params(W, b), "tanh"), expected.reshape(2, 3, 4, 3), atol=1e-6
    )
    np.testing.assert_allclose(handgrad.dense(X[0], Params(W, b), "tanh"), expected[0], atol=1e-6)
    mapped = jax.vmap(lambda x: handgrad.dense(x, Params(W, b), "tanh"))(X.reshape(6, 4, 5))
    np.testing.assert_allclose(mapped, expected.reshape(6, 4, 3), atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_initial_weights_keep_the_size_of_what_passes(activation):
    sizes = (256, 256, 256, 256, 10)
    params = network.init_network(jax.random.key(0), sizes, activation)
    assert [layer.params.W.shape for layer in params] == [(256, 256)] * 3 + [(256, 10)]
    assert [layer.activation for layer in params] == [activation] * 3 + ["softmax"]
    assert not any(np.any(layer.params.b) for layer in params)
    deviations = [float(np.std(layer.params.W)) * 16 for layer in params]
    gain = ACTIVATIONS[activation].gain or 1.0  # Glorot's is 1 where P = C
    np.testing.assert_allclose(deviations, [gain, gain, gain, 1.0], rtol=0.05)
    if gain > 1:
        X = jax.random.normal(jax.random.key(1), (512, 256))
        assert 0.3 < float(jnp.std(handgrad.forward(params, X))) < 3


def kinked_twice(activation, hidden):
    return (activation, hidden) == ("relu", (8, 6))


@pytest.mark.parametrize(
    ("activation", "hidden"),
    grids.product(["relu", "tanh", "softmax"], [(), (8,), (8, 6)], quick=kinked_twice),
    ids=str,
)
def test_the_gradient_check_reports_each_layer(activation, hidden):
    sizes = (5, *hidden, 3)
    X, t, w = data(sizes, num_rows=40, weights="floating")
    report = handgrad.check_gradients(random_network(sizes, activation), X, t, weights=w)
    assert report.passed, str(report)
    assert {row.parameter for row in report.checks} == {
        f"{parameter}{number}" for parameter in "Wb" for number in range(1, len(sizes))
    }


@pytest.mark.parametrize(
    "activation", ["relu", *(pytest.param(name, marks=pytest.mark.slow) for name in ("tanh", "softmax"))]
)
def test_a_wrong_hidden_layer_fails_the_check(activation, monkeypatch):
    right = formulas.gradient

    def wrong(params, *args):
        first, *others = right(params, *args)
        return (first._replace(params=jax.tree.map(lambda array: 1.01 * array, first.params)), *others)

    monkeypatch.setattr(formulas, "gradient", wrong)
    X, t, _ = data((5, 8, 3), num_rows=40)
    report = handgrad.check_gradients(random_network((5, 8, 3), activation), X, t, dtypes=("float64",))
    assert [row.passed for row in report.checks] == [False] * 4 + [True] * 4


def test_training_takes_a_network_and_its_penalty_every_layer(dtype):
    sizes = (5, 4, 3)
    params = random_network(sizes, "tanh", dtype)
    X, t, _ = data(sizes, dtype=dtype)
    gradient = handgrad.gradient(params, X, t)
    stepped = handgrad.train(X, t, params=params, l2=0.5, learning_rate=0.1, batch_size=None, epochs=1).params
    for layer, own, after in zip(params, gradient, stepped, strict=True):
        expected = layer.params.W - 0.1 * (own.params.W + 0.5 * layer.params.W)
        np.testing.assert_allclose(after.params.W, expected, atol=oracles.TOLERANCE[dtype])
        np.testing.assert_allclose(after.params.b, layer.params.b - 0.1 * own.params.b, atol=oracles.TOLERANCE[dtype])
    assert jax.tree.structure(stepped) == jax.tree.structure(params)


def test_a_hidden_layer_learns_what_a_softmax_regression_cannot():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    t = (X[:, 0] * X[:, 1] > 0).astype(np.int32)
    flat = handgrad.train(X, t, epochs=60, batch_size=32).params
    deep = network.init_network(jax.random.key(0), (2, 16, 2))
    deep = handgrad.train(X, t, params=deep, epochs=60, batch_size=32).params
    assert np.mean(handgrad.predict(flat, X) == t) < 0.7
    assert np.mean(handgrad.predict(deep, X) == t) > 0.95


good = random_network((5, 4, 3), "relu")
X, t, _ = data((5, 4, 3))
CASES = {
    "layers that do not fit": (
        lambda: formulas.loss((good[0], random_network((5, 3), "relu")[0]), X, t),
        r"loss: layer 1.W must have shape \(4, C\), for the 4 outputs of the layer before it; got \(5, 3\)\.",
    ),
    "a last layer that is not softmax": (
        lambda: formulas.loss(good[:1], X, t),
        "loss: the activation of layer 0 must be 'softmax', whose logits the loss takes; got 'relu'.",
    ),
    "an unknown activation": (
        lambda: formulas.forward((good[0]._replace(activation="selu"), good[1]), X),
        r"forward: the activation of layer 0 must be one of identity, relu, .*; got 'selu'\.",
    ),
    "no targets for the curvature": (
        lambda: formulas.hessian_vector_product(good, X, good),
        "hessian_vector_product: a network with hidden layers needs targets; got None.",
    ),
    "a direction with fewer layers": (
        lambda: formulas.hessian_vector_product(good, X, good[:1], targets=t),
        "hessian_vector_product: direction must have the layers of params, 2 of them; got 1.",
    ),
    "one size": (
        lambda: network.init_network(jax.random.key(0), (5,)),
        r"init_network: sizes must be at least \(features, classes\); got \(5,\)\.",
    ),
    "an unknown activation of dense": (
        lambda: handgrad.dense(jnp.zeros((2, 5)), good[0].params, "selu"),
        "dense: activation must be one of identity, relu, .*; got 'selu'.",
    ),
}


@pytest.mark.messages
@pytest.mark.parametrize("case", CASES)
def test_the_message_says_what_is_wrong(case):
    call, message = CASES[case]
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_nan_never_becomes_a_finite_number(activation):
    params = random_network((5, 4, 3), activation, "float32")
    X, t, _ = data((5, 4, 3), dtype="float32")
    X[2, 1] = np.nan
    value, gradient = handgrad.value_and_gradient(params, X, t)
    assert np.isnan(value)
    assert np.isnan(gradient[0].params.W).all()


def test_sigmoid_keeps_its_tails():
    Z = jnp.array([[-80.0, -20.0, -1.0, 0.0, 20.0]], jnp.float32)
    np.testing.assert_allclose(ACTIVATIONS["sigmoid"].function(jnp, Z), jax.nn.sigmoid(Z), rtol=1e-6)


# --- Activations as functions -----------------------------------------------------------------------------------------


def test_the_functions_of_jax_nn_are_the_activations_of_their_names(dtype):
    X = jnp.linspace(-4, 4, 24, dtype=dtype).reshape(8, 3)
    params = Params(jnp.eye(3, 5, dtype=dtype), jnp.zeros((1, 5), dtype))
    functions = [*network.KNOWN, functools.partial(jax.nn.gelu, approximate=False)]
    assert {network.KNOWN.get(function, "gelu") for function in functions} == set(ACTIVATIONS)
    for function in functions:
        by_hand = jax.jvp(lambda X: handgrad.dense(X, params, function), (X,), (jnp.cos(X),))  # noqa: B023
        by_autograd = jax.jvp(lambda X: function(X @ params.W), (X,), (jnp.cos(X),))  # noqa: B023
        tolerance = 2e-6 if dtype == "float32" else 1e-14
        chex.assert_trees_all_close(by_hand, by_autograd, rtol=tolerance, atol=tolerance)


def test_a_function_and_its_derivative_are_differentiated_by_hand_and_again(x64):
    X, W, b = jnp.linspace(-1, 1, 12).reshape(4, 3), jnp.cos(jnp.arange(6.0)).reshape(3, 2), jnp.array([0.5, -0.25])
    own = (lambda Z: Z**3, lambda Z: 3 * Z**2)

    def results(layer):
        def of(X, W, b):
            return jnp.sum(jnp.cos(layer(X, W, b)))

        return jax.value_and_grad(of, argnums=(0, 1, 2))(X, W, b), jax.hessian(of, argnums=1)(X, W, b)

    by_hand = results(lambda X, W, b: handgrad.dense(X, (W, b), own))
    chex.assert_trees_all_close(by_hand, results(lambda X, W, b: (X @ W + b[None]) ** 3), rtol=1e-12)
    wrong = jax.grad(lambda X: jnp.sum(handgrad.dense(X, (W, b), (own[0], lambda Z: Z**2))))(X)
    assert not np.allclose(wrong, jax.grad(lambda X: jnp.sum((X @ W + b[None]) ** 3))(X))  # it is the derivative given


@pytest.mark.parametrize(
    "function",
    [jnp.sin, jax.nn.elu, functools.partial(jax.nn.leaky_relu, negative_slope=0.2)],
    ids=["sin", "elu", "leaky_relu"],
)
def test_a_function_whose_derivative_is_not_known_is_refused(function):
    with pytest.raises(ValueError, match=r"dense: activation must be a function whose derivative is known.*\(f, df\)"):
        handgrad.dense(jnp.ones((2, 3)), Params(jnp.ones((3, 2)), jnp.zeros((1, 2))), function)
