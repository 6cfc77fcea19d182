"""What no function can take is refused in one line, which names the function and the argument; the rest is taken."""

import decimal
import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
from handgrad import Params

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")

pytestmark = pytest.mark.messages

X, T = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32), np.eye(4, dtype=np.float32)
t, W, b = np.arange(4), np.eye(4, dtype=np.float32), np.zeros((1, 4), np.float32)
PARAMS = Params(W, b)
NO_NUMBERS = {
    "objects": X.astype(object),
    "text": X.astype(str),
    "bytes": X.astype("S"),
    "dates": X.astype("M8[s]"),
    "records": X.astype([("x", np.float32)]),
    "a frame": pandas.DataFrame(X),
    "a frame of polars": polars.DataFrame(X),
    "a string": "X",
    "nothing": None,
    "a dictionary": {},
}
OF_ONE_ARRAY = {
    "softmax": handgrad.softmax,
    "log_softmax": handgrad.log_softmax,
    "linear": lambda X: handgrad.linear(PARAMS, X),
    "forward": lambda X: handgrad.forward(PARAMS, X),
    "predict": lambda X: handgrad.predict(PARAMS, X),
    "predict_proba": lambda X: handgrad.predict_proba(PARAMS, X),
    "loss": lambda X: handgrad.loss(PARAMS, X, t),
    "gradient": lambda X: handgrad.gradient(PARAMS, X, t),
    "value_and_gradient": lambda X: handgrad.value_and_gradient(PARAMS, X, t),
    "cross_entropy": lambda X: handgrad.cross_entropy(X, t),
    "dense": lambda X: handgrad.dense(X, PARAMS),
    "linear_cross_entropy": lambda X: handgrad.linear_cross_entropy(X, W, t),
    "linear_distillation": lambda X: handgrad.linear_distillation(T, W, X, W),
    "check_gradients": lambda X: handgrad.check_gradients(PARAMS, X, t),
}


@pytest.mark.parametrize("function", OF_ONE_ARRAY)
def test_what_is_no_array_of_numbers_is_refused_by_the_function_s_name(function):
    for name, array in NO_NUMBERS.items():
        with pytest.raises(TypeError, match=rf"^{function}: ") as refused:
            OF_ONE_ARRAY[function](array)
        assert "\n" not in str(refused.value), name


def test_the_argument_that_has_no_numbers_is_named():
    for targets in (pandas.Series(t), t.astype(str), t.astype(object)):
        with pytest.raises(TypeError, match=r"^loss: targets must be numbers in arrays; got a(n array of|) "):
            handgrad.loss(PARAMS, X, targets)
    with pytest.raises(TypeError, match=r"^loss: params must be numbers in arrays; got an array of object"):
        handgrad.loss(Params(W.astype(object), b), X, t)
    with pytest.raises(ValueError, match=r"^dense: X must have shape \(…, P\) with P = 4; got \(\)"):
        handgrad.dense(np.float32(1), PARAMS)


FLAGS = {
    "fit: fit_intercept": lambda flag: handgrad.fit(X, t, l2=1.0, fit_intercept=flag),
    "fit: progress": lambda flag: handgrad.fit(X, t, l2=1.0, progress=flag),
    "fit_path: fit_intercept": lambda flag: handgrad.fit_path(X, t, l2s=[1.0], fit_intercept=flag),
    "linear_cross_entropy: transposed": lambda flag: handgrad.linear_cross_entropy(X, W, t, transposed=flag),
    "linear_cross_entropy: recompute": lambda flag: handgrad.linear_cross_entropy(X, W, t, recompute=flag),
    "linear_cross_entropy: with_stats": lambda flag: handgrad.linear_cross_entropy(X, W, t, with_stats=flag),
    "value_and_gradient: recompute": lambda flag: handgrad.value_and_gradient(PARAMS, X, t, recompute=flag),
    "gradient: recompute": lambda flag: handgrad.gradient(PARAMS, X, t, recompute=flag),
}


@pytest.mark.parametrize("flag", FLAGS)
def test_what_is_on_or_off_is_true_or_false(flag):
    for value in ("no", 0.5, 0, ()):
        with pytest.raises(TypeError, match=rf"^{flag} must be True(, False or None| or False); got"):
            FLAGS[flag](value)


def test_a_span_of_time_is_no_integer():
    """NumPy counts it among them."""
    span = np.timedelta64(2, "s")
    for call in (
        lambda: handgrad.fit(X, t, l2=1.0, max_iterations=span),
        lambda: handgrad.fit_path(X, t, l2s=[1.0], validation=span),
        lambda: handgrad.train(X, t, epochs=span),
        lambda: handgrad.linear_cross_entropy(X, W, t, ignore_index=span),
        lambda: handgrad.init_params(span, 2),
    ):
        with pytest.raises((TypeError, ValueError), match=r"^(fit|fit_path|train|linear_cross_entropy|init_params): "):
            call()


def test_a_setting_is_a_number_of_any_kind():
    same = handgrad.fit(X, t, l2=0.5, tol=1e-3).loss
    assert handgrad.fit(X, t, l2=fractions.Fraction(1, 2), tol=decimal.Decimal("1e-3")).loss == same
    expected = handgrad.linear_distillation(X, W, X, T[::-1], temperature=2.0, targets=t, label_share=0.5)
    given = {"temperature": decimal.Decimal(2), "label_share": fractions.Fraction(1, 2)}
    assert handgrad.linear_distillation(X, W, X, T[::-1], targets=t, **given) == expected
    key = jax.random.key(0)
    scale = fractions.Fraction(1, 4)
    np.testing.assert_array_equal(
        handgrad.init_params(3, 2, key=key, scale=scale).W, handgrad.init_params(3, 2, key=key, scale=0.25).W
    )


def test_settings_that_are_no_names_or_numbers_are_refused():
    for call, said in (
        (lambda: handgrad.one_hot(t, np.array(4)), "one_hot: num_classes must have settings that are numbers or"),
        (lambda: handgrad.one_hot(t, 4, dtype="x"), "one_hot: dtype must be floating-point; got x"),
        (lambda: handgrad.init_params(2, 2, dtype="x"), "init_params: dtype must be a floating dtype; got 'x'"),
        (lambda: handgrad.init_network(jax.random.key(0), b"ab"), "init_network: sizes must be at least"),
        (lambda: handgrad.init_network(jax.random.key(0), 3), "init_network: sizes must be at least"),
        (lambda: handgrad.dense(X, PARAMS, ["relu"]), "dense: activation must be one of identity"),
        (lambda: handgrad.check_gradients(PARAMS, X, t, dtypes=0.5), "check_gradients: dtypes must be a sequence"),
        (lambda: handgrad.check_gradients(PARAMS, X, t, dtypes=["x"]), "check_gradients: dtypes must be a floating"),
        (lambda: handgrad.check_gradients(PARAMS, X, t, gradient=3), "check_gradients: gradient must be a function"),
        (lambda: handgrad.linear_cross_entropy(X, W, t, ignore_index="0"), "linear_cross_entropy: ignore_index must"),
        (lambda: handgrad.linear_cross_entropy(X, W, t, class_axis=0), "linear_cross_entropy: class_axis must be the"),
        (lambda: handgrad.linear_cross_entropy(X, W, t, z_loss=1e300), "linear_cross_entropy: z_loss must be 0, or"),
        (lambda: handgrad.linear_cross_entropy(X, W, t, reduction=W), "linear_cross_entropy: reduction must be one"),
        (lambda: handgrad.train(X, t, num_classes=0), "train: num_classes must be a positive integer"),
        (lambda: handgrad.train(X, t, params=0.5), r"train: params must be a pair \(W, b\)"),
        (lambda: handgrad.train(X, t, validation=np.float32(1)), "train: validation must be a pair"),
        (lambda: handgrad.fit_path(X, t, l2s=[1.0], validation=np.float32(1)), "fit_path: validation must be a pair"),
    ):
        with pytest.raises((TypeError, ValueError), match=rf"^{said}"):
            call()


def test_the_order_of_bytes_changes_nothing():
    swapped = lambda array: array.astype(array.dtype.newbyteorder())  # noqa: E731
    for targets in (t, T):
        handgrad.linear_cross_entropy(X, W, targets)  # compiled: JAX then takes bytes for what they were there
        for function in (
            lambda X, W, b, targets: handgrad.linear_cross_entropy(X, W, targets, bias=b),
            lambda X, W, b, targets: handgrad.train(X, targets, params=Params(W, b), epochs=1).params.W,
        ):
            np.testing.assert_array_equal(function(*map(swapped, (X, W, b, targets))), function(X, W, b, targets))


def test_tensors_and_bfloat16_are_data():
    torch = pytest.importorskip("torch")
    small = np.round(8 * X) / 8  # which bfloat16 holds
    expected = handgrad.fit(small, t, l2=0.1)
    weights = torch.ones(4, requires_grad=True)
    for data in (torch.tensor(small), torch.tensor(small).bfloat16(), small.astype(jnp.bfloat16)):
        result = handgrad.fit(data, torch.tensor(t), l2=0.1, weights=weights)
        np.testing.assert_allclose(result.loss, expected.loss, rtol=1e-6)
    trained = handgrad.train(torch.tensor(small), torch.tensor(t), epochs=1).params.W
    np.testing.assert_array_equal(trained, handgrad.train(small, t, epochs=1).params.W)


@pytest.mark.parametrize("of_what", ["data", "nothing"])
def test_what_is_stepped_from_python_is_refused_where_it_would_be_compiled(of_what):
    calls = {
        "fit": lambda X: handgrad.fit(X, t, l2=1.0).loss,
        "fit_path": lambda X: handgrad.fit_path(X, t, l2s=[1.0]).loss[0],
        "train": lambda X: handgrad.train(X, t, epochs=1).history[-1].loss,
        "check_gradients": lambda X: handgrad.check_gradients(PARAMS, X, t).passed,
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=rf"^{name}: data must be known, which they are not under jax.jit"):
            jax.jit(lambda given, call=call: call(given if of_what == "data" else X))(X)
    with pytest.raises(TypeError, match=r"^fit: data must be known"):
        jax.vmap(lambda class_weights: handgrad.fit(X, t, l2=1.0, class_weights=class_weights).loss)(T)


def test_rows_held_out_that_all_weigh_nothing_are_refused():
    with pytest.raises(ValueError, match=r"^train: validation must have rows of a positive weight"):
        handgrad.train(X, t, validation=(X, t, np.zeros(4)), epochs=1)
