"""Data as they were given: labels, weights and numbers of every dtype at their extremes, in eager and compiled code."""

import decimal
import fractions
import functools
import inspect
import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import handgrad
import oracles
from handgrad import Layer, Params, arguments, formulas

pytestmark = pytest.mark.messages

drawn = settings(deadline=None, derandomize=True, database=None, max_examples=150)
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
FLOATS = ["float16", "float32", "float64", "longdouble"]

W, b, X, t, _ = oracles.problem(3, 2, 3, dtype="float32")
params = Params(W, b)
hidden = (Layer(Params(np.eye(2, dtype="float32"), np.zeros((1, 2), "float32")), "tanh"), Layer(params, "softmax"))
Z = X @ W + b
LOSSES = -np.log(oracles.softmax(Z))  # [i, c] what row i costs if its class is c

# Every function that takes labels and weights, as what it gives for logits Z, or for params and X that make them.
FUNCTIONS = {
    "cross_entropy": lambda module, *rest: module.cross_entropy(Z, *rest),
    "logit_gradient": lambda module, *rest: module.logit_gradient(Z, *rest),
    "loss": lambda module, *rest: module.loss(params, X, *rest),
    "gradient": lambda module, *rest: module.gradient(params, X, *rest),
    "value_and_gradient": lambda module, *rest: module.value_and_gradient(params, X, *rest),
    "hessian_vector_product": lambda module, targets, *weights: module.hessian_vector_product(
        hidden, X, hidden, *weights, targets=targets
    ),
}


def is_nan(results):
    return all(np.isnan(np.asarray(leaf, np.float64)).any() for leaf in jax.tree.leaves(results))


@st.composite
def labels_of_any_dtype(draw, num_classes):
    limits = np.iinfo(draw(st.sampled_from(INTEGERS)))
    odd = [-1, -100, num_classes, 127, 128, 255, 256, 2**16, 2**31, 2**32, 2**32 + 1, 2**32 - 100, 2**53 + 1, 2**63]
    odd = [value for value in (*odd, limits.min, limits.max) if limits.min <= value <= limits.max]
    label = st.one_of(st.integers(0, min(num_classes - 1, limits.max)), st.sampled_from(odd))
    return np.array(draw(st.lists(label, min_size=3, max_size=3)), limits.dtype)


# --- Labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
@drawn
@given(labels=labels_of_any_dtype(3))
def test_a_formula_takes_a_label_for_what_it_is_or_refuses_it(name, labels):
    if all(0 <= int(label) < 3 for label in labels):
        expected = FUNCTIONS[name](formulas, labels.astype(np.int64))
        jax.tree.map(np.testing.assert_array_equal, FUNCTIONS[name](formulas, labels), expected)
    else:
        with pytest.raises(ValueError, match=rf"^{name}: labels must be integers in \[0, 3\)"):
            FUNCTIONS[name](formulas, labels)


@pytest.mark.parametrize("num_classes", [3, 1000])
@drawn
@given(data=st.data())
def test_a_compiled_formula_takes_a_label_for_what_it_is_or_gives_nan_or_refuses_it(num_classes, data):
    labels = data.draw(labels_of_any_dtype(num_classes))
    logits = np.zeros((3, num_classes), np.float32)
    logits[:, 0] = 1
    if any(not -(2**31) <= int(label) < 2 ** (31 if labels.dtype.kind == "i" else 32) for label in labels):
        for function in (handgrad.cross_entropy, lambda _, labels: handgrad.one_hot(labels, num_classes)):
            with pytest.raises(ValueError, match=r"which u?int32 cannot hold"):
                function(logits, labels)
        return
    value, rows = handgrad.cross_entropy(logits, labels), handgrad.one_hot(labels, num_classes)
    right = [0 <= int(label) < num_classes for label in labels]
    np.testing.assert_array_equal(np.isnan(rows).all(axis=1), np.logical_not(right))
    for row, label in zip(np.asarray(rows)[right], labels[right], strict=True):
        assert row.sum() == row[int(label)] == 1
    if all(right):
        expected = math.log(math.e + num_classes - 1) - np.mean(labels == 0)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
    else:
        assert np.isnan(value)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("label", [2**32, -(2**32), 2**63 - 1])
def test_a_label_that_jax_would_cut_to_32_bits_is_refused_before(name, label):
    labels = np.array([0, label, 1])
    with pytest.raises(ValueError, match=rf"^{name}: targets has {label} at \(1,\), which int32 cannot hold"):
        FUNCTIONS[name](handgrad, labels)


def test_booleans_are_no_labels():
    for module in (formulas, handgrad):
        with pytest.raises(TypeError, match="got bool"):
            module.loss(params, X, t > 0)


@pytest.mark.parametrize("narrow", ["int4", "uint4"])
def test_integers_that_only_store_are_no_labels(narrow):
    with pytest.raises(TypeError, match=f"got {narrow}"):
        handgrad.cross_entropy(Z, jnp.zeros(3, narrow))
    with pytest.raises(TypeError, match="got float8_e4m3fn"):
        handgrad.softmax(jnp.zeros((3, 3), "float8_e4m3fn"))


def test_arrays_of_64_bits_where_jax_has_32_are_refused():
    with jax.enable_x64(True):
        wide = jnp.array([0, 2**32, 1])
    for module in (formulas, handgrad):
        with pytest.raises(TypeError, match=r"targets is int64, made under jax\.enable_x64"):
            module.cross_entropy(jnp.asarray(Z), wide)


@pytest.mark.parametrize(("dtype", "label"), [("uint32", 2**32 - 100), ("uint8", 156), ("uint64", 2**64 - 100)])
def test_an_unsigned_label_is_never_the_negative_one_to_ignore(dtype, label):
    labels = np.array([0, label, 1], dtype)
    with pytest.raises(ValueError, match=f"got {label} at row 1"):
        arguments.check_targets("f", labels, 3, 3, ignore_index=-100)
    arguments.check_targets("f", labels, 3, 3, ignore_index=label)
    if dtype != "uint64":
        with pytest.raises(ValueError, match=f"got {label} at row 1"):
            arguments.check_targets("f", jnp.asarray(labels), 3, 3, ignore_index=-100)


@pytest.mark.parametrize("function", [handgrad.train, functools.partial(handgrad.fit, l2=1.0)])
def test_a_stray_label_does_not_make_a_billion_classes(function):
    with pytest.raises(ValueError, match=r"targets have the label 1073741824 in 3 rows.* pass num_classes"):
        function(X, np.array([0, 1, 2**30]))


# --- Weights ----------------------------------------------------------------------------------------------------------


@st.composite
def weights_of_any_dtype(draw, dtypes=(*FLOATS, *INTEGERS)):
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    if dtype.kind in "iu":
        values = [0, 1, 2, 100, np.iinfo(dtype).max, np.iinfo(dtype).max - 1, np.iinfo(dtype).min]
    else:
        limits = np.finfo(dtype)
        values = [0, 1, 2.5, 1e-50, 1e-30, -1e-50, 1e300, 2e38, 1e-38, 1e-45, -1, np.nan, np.inf, -0.0]
        values += [limits.max, limits.max / 2, limits.smallest_normal, limits.smallest_subnormal]
    with np.errstate(all="ignore"):
        pool = np.array(values).astype(dtype) if dtype.kind == "f" else np.array(values, dtype)
    return np.array([pool[draw(st.integers(0, len(pool) - 1))] for _ in range(3)], dtype)


def exact_mean(weights):
    """Σ w l / Σ w in rational numbers; 0 if all weights are 0."""
    exact = [fractions.Fraction(*weight.as_integer_ratio()) for weight in weights.tolist()]
    losses = [fractions.Fraction(float(LOSSES[row, t[row]])) for row in range(3)]
    total = sum(exact)
    return float(sum(w * loss for w, loss in zip(exact, losses, strict=True)) / total) if total else 0.0


def check_weighted(function, weights):
    """That it gives the right mean, or refuses weights for a reason that they have."""
    lawful = np.isfinite(weights).all() and (weights >= 0).all()
    with np.errstate(all="ignore"):
        positive = weights[weights > 0].astype(np.longdouble)
        near = positive.size == 0 or positive.min() / positive.max() > 1.2e-38
    if not (lawful and near):
        with pytest.raises(ValueError, match="which would count as 0" if lawful else "must be finite and non-negative"):
            function(weights)
        return
    value = function(weights)
    np.testing.assert_allclose(value, exact_mean(weights), rtol=1e-5, atol=1e-7)


@drawn
@given(weights=weights_of_any_dtype())
def test_weights_of_any_size_give_the_weighted_mean_or_are_refused(weights):
    check_weighted(lambda w: formulas.loss(params, X, t, w), weights)


@drawn
@given(weights=weights_of_any_dtype())
def test_compiled_formulas_see_the_weights_as_they_were_given(weights):
    check_weighted(lambda w: handgrad.cross_entropy(Z, t, w), weights)


@drawn
@given(weights=weights_of_any_dtype())
def test_training_sees_the_weights_as_they_were_given(weights):
    # With learning rate 0, the loss of an epoch is that of the parameters.
    still = {"params": params, "learning_rate": 0.0, "epochs": 1, "batch_size": 2}
    check_weighted(lambda w: handgrad.train(X, t, weights=w, **still).history[0].loss, weights)


compiled_mean = jax.jit(formulas.cross_entropy)


@drawn
@given(weights=weights_of_any_dtype(("float32",)))
def test_weights_that_cannot_be_seen_give_the_weighted_mean_or_nan(weights):
    value = compiled_mean(Z, t, jnp.asarray(weights))
    if not np.isnan(value):
        np.testing.assert_allclose(value, exact_mean(weights), rtol=1e-5, atol=1e-7)
    else:
        positive = weights[weights > 0]
        smallest = np.finfo(np.float32).smallest_normal
        bad = ~((weights >= 0) & np.isfinite(weights))
        assert bad.any() or positive.min() < 1.01 * smallest * max(1, positive.max())


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("scale", [1e-300, 1e-50, 1e-45, 3e38, 1e300])
def test_the_size_of_all_weights_together_does_not_matter(name, scale):
    weights = np.array([1.0, 0.0, 3.0])
    expected = FUNCTIONS[name](formulas, t, weights)
    for module in (formulas, handgrad):
        results = FUNCTIONS[name](module, t, weights * scale)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), results, expected)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("weight", [-1e-50, -1.0, np.nan, np.inf])
def test_every_function_refuses_weights_that_are_none(name, weight):
    for module in (formulas, handgrad):
        with pytest.raises(ValueError, match=rf"^{name}: weights must be finite and non-negative; got {weight:g} at"):
            FUNCTIONS[name](module, t, np.array([1.0, weight, 1.0]))


@pytest.mark.parametrize("network", [params, hidden, list(hidden)], ids=["layer", "network", "list"])
def test_a_row_of_weight_zero_does_not_count_whatever_is_in_it(network, dtype):
    network, data = jax.tree.map(lambda a: a.astype(dtype), (network, X))
    weights = np.array([2.0, 0.0, 1.0], dtype)
    spoilt, spoilt_Z, other = data.copy(), Z.astype(dtype), np.array([t[0], 1, t[2]])
    spoilt[1], spoilt_Z[1] = np.nan, np.inf
    rows = [0, 2]
    for module in (formulas, handgrad):
        expected = module.value_and_gradient(network, data[rows], t[rows], weights[rows])
        found = module.value_and_gradient(network, spoilt, other, weights)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected)
        expected = module.hessian_vector_product(network, data[rows], network, weights[rows], targets=t[rows])
        found = module.hessian_vector_product(network, spoilt, network, weights, targets=other)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected)
        assert not np.any(np.asarray(module.logit_gradient(spoilt_Z, other, weights))[1])
    by_autograd = jax.grad(handgrad.loss)(jax.tree.map(jnp.asarray, network), spoilt, other, weights)
    by_hand = handgrad.gradient(network, data[rows], t[rows], weights[rows])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), by_autograd, by_hand)
    assert np.isfinite(jax.grad(handgrad.cross_entropy)(jnp.asarray(spoilt_Z), other, weights)).all()


def test_weights_may_be_differentiated(x64):
    weights = np.array([0.3, 2.0, 0.7])
    arrays = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, X))
    found = jax.grad(handgrad.loss, argnums=3)(*arrays, t, jnp.asarray(weights))
    losses = LOSSES[np.arange(3), t]
    np.testing.assert_allclose(found, (losses - weights @ losses / weights.sum()) / weights.sum(), rtol=1e-5)


def test_host_weights_are_divided_by_their_largest():
    np.testing.assert_array_equal(arguments.host_weights("f", None, 2), [1, 1])
    np.testing.assert_array_equal(arguments.host_weights("f", np.array([2**63, 2**62], np.uint64), 2), [1, 0.5])
    np.testing.assert_array_equal(arguments.host_weights("f", np.full(2, 5e-324), 2), [1, 1])
    np.testing.assert_array_equal(arguments.host_weights("f", np.full(2, 1e308), 2, dtype=np.float32), [1, 1])
    np.testing.assert_array_equal(arguments.host_weights("f", np.zeros(2), 2), [0, 0])
    with pytest.raises(ValueError, match="got 1e-40 at row 1, which would count as 0"):
        arguments.host_weights("f", np.array([1, 1e-40]), 2, dtype=np.float32)
    assert arguments.host_weights("f", np.array([1, 1e-40]), 2)[1] == 1e-40


# --- Distributions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [0.9991, 1.0009])
def test_rows_that_nearly_sum_to_one_are_divided_by_their_sum(total, dtype):
    logits, T = Z.astype(dtype), oracles.problem(3, 2, 3, targets="distributions", dtype="float64")[3]
    expected = -(T * np.log(oracles.softmax(logits))).sum(axis=1).mean()
    off = (T * total).astype(dtype)
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    for module in (formulas, handgrad):
        np.testing.assert_allclose(module.cross_entropy(logits, off), expected, rtol=tolerance)
        D = module.logit_gradient(logits, off)
        np.testing.assert_allclose(D, (oracles.softmax(logits) - T) / 3, atol=tolerance)
        np.testing.assert_allclose(jax.grad(module.cross_entropy)(jnp.asarray(logits), off), D, atol=tolerance)
        np.testing.assert_allclose(module.entropy(off), -(T * np.log(T)).sum(axis=1).mean(), rtol=10 * tolerance)
        np.testing.assert_allclose(module.kl_divergence(off, T.astype(dtype)), 0, atol=tolerance)


# --- Features and numbers ---------------------------------------------------------------------------------------------


def test_features_that_float32_cannot_hold_are_refused():
    wide = jax.tree.map(lambda a: a.astype(np.float64), (params, X))
    wide[1][2, 1] = 1e39
    for name in ("linear", "predict", "predict_proba", "forward"):
        with pytest.raises(ValueError, match=rf"^{name}: X has 1e\+39 at \(2, 1\), which float32 cannot hold"):
            getattr(handgrad, name)(*wide)
    with pytest.raises(ValueError, match=r"^softmax: Z has -1e\+300 at \(0, 0\)"):
        handgrad.softmax(np.array([[-1e300, 0.0]]))
    with pytest.raises(ValueError, match=r"^train: X has 1e\+39 at \(2, 1\)"):
        handgrad.train(wide[1], t)
    assert np.isinf(handgrad.log_softmax(np.array([[-np.inf, 0.0]]))[0, 0])
    with jax.enable_x64(True):
        assert np.isfinite(handgrad.linear(*wide)).all()


def test_dense_sees_its_arguments_as_they_were_given():
    layer = Params(W.astype(np.float64), b.astype(np.float64))
    np.testing.assert_allclose(handgrad.dense(X.astype(np.float64), layer), Z, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^dense: X has 1e\+39 at \(0, 0\)"):
        handgrad.dense(np.full((1, 2), 1e39), layer)
    with pytest.raises(TypeError, match="dense: X must be an array without a mask"):
        handgrad.dense(masked, params)


def test_a_wide_or_foreign_float_is_computed_with_as_float32():
    for dtype in (np.longdouble, ">f4", ">f8"):
        np.testing.assert_allclose(handgrad.softmax(Z.astype(dtype)), oracles.softmax(Z), rtol=1e-6)


masked = np.ma.masked_array(X, mask=X > 0)


@pytest.mark.parametrize("is_warm", [False, True])
def test_masked_arrays_are_refused_whatever_was_compiled_before(is_warm):
    if is_warm:
        handgrad.loss(params, X, t)
        handgrad.softmax(X)
    for call in (
        lambda: handgrad.loss(params, masked, t),
        lambda: formulas.loss(params, masked, t),
        lambda: handgrad.softmax(masked),
        lambda: handgrad.loss(params, X, np.ma.masked_array(t, mask=t > 0)),
        lambda: handgrad.loss(params, X, t, np.ma.masked_array(np.ones(3), mask=t > 0)),
        lambda: handgrad.linear(Params(np.ma.masked_array(W), b), X),
        lambda: handgrad.train(masked, t),
        lambda: handgrad.fit(masked, t, l2=1.0),
    ):
        with pytest.raises(TypeError, match=r"must be an array without a mask; got a masked array\. Fill it"):
            call()


NUMBERS = [0.5, 1, np.float16(0.5), np.float32(0.5), np.int8(1), np.array(0.5), jnp.array(0.5)]
NUMBERS += [fractions.Fraction(1, 2), decimal.Decimal("0.5")]
NO_NUMBERS = ["0.5", b"1", True, np.True_, np.array(True), 1 + 0j, np.complex64(1), None, [1.0], np.array([1.0])]
NO_NUMBERS += [10**400, 10**5000, np.nan, np.inf, -1, np.array("1"), np.datetime64(1, "s"), object()]


@pytest.mark.parametrize("number", NUMBERS, ids=repr)
def test_a_real_number_is_a_setting(number):
    arguments.check_number("f", "setting", number)
    still = handgrad.train(X, t, learning_rate=number, l2=number, epochs=1)
    assert np.isfinite(still.history[0].loss)
    stepped = formulas.sgd_step(params, params, number)
    np.testing.assert_allclose(stepped.W, W * (1 - float(number)), rtol=1e-6)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: str(type(value)))
def test_what_is_no_real_number_is_no_setting(value):
    with pytest.raises(ValueError, match=r"^f: setting must be a finite number, 0 or more; got [^\n]{1,80}\.$"):
        arguments.check_number("f", "setting", value)
    with pytest.raises(ValueError, match=r"^train: l2 must be a finite number"):
        handgrad.train(X, t, l2=value)
    for base in (value, 1):
        with pytest.raises(ValueError, match=r"^entropy: base must be a finite"):
            formulas.entropy(np.eye(3), base)
    with pytest.raises(ValueError, match=r"^f: count must be a positive integer( below 2\*\*31)?; got [^\n]{1,80}\.$"):
        arguments.check_positive_integer("f", "count", value)
    if not (isinstance(value, int) and value == -1):
        with pytest.raises((ValueError, TypeError), match=r"^sgd_step: learning_rate must be [^\n]*$"):
            formulas.sgd_step(params, params, value)


@pytest.mark.parametrize("rate", [10**400, 2**40, 1e39, np.float64(1e39)])
def test_a_learning_rate_that_float32_cannot_hold_is_refused(rate):
    if rate != 2**40:
        with pytest.raises(ValueError, match="learning_rate must be"):
            formulas.sgd_step(params, params, rate)
    with pytest.raises(ValueError, match="learning_rate"):
        handgrad.sgd_step(params, params, rate)


@pytest.mark.parametrize("number", [1e-46, 1e-40, 1e39])
def test_a_setting_must_not_become_zero_or_infinite_in_the_dtype_that_it_is_used_in(number):
    with pytest.raises(ValueError, match=r"train: l2 must be 0, or from 1\.2e-38 to 3\.4e\+38 for data of float32"):
        handgrad.train(X, t, l2=number)
    arguments.check_number("f", "l2", number, dtype=np.float64)
    arguments.check_number("f", "l2", 0.0, dtype=np.float32)
    arguments.check_number("f", "l2", 1e-6, dtype=np.float16)
    with pytest.raises(ValueError, match="for data of float16"):
        arguments.check_number("f", "l2", 1e-8, dtype=np.float16)


def test_a_key_is_one_of_jax():
    for call in (
        lambda: handgrad.train(X, t, key=0),
        lambda: handgrad.init_params(2, 3, key=0),
        lambda: handgrad.init_network(0, (2, 3)),
    ):
        with pytest.raises(
            TypeError, match=r"key must be a JAX random key; got 0\. Make one with jax\.random\.key\(0\)"
        ):
            call()
    handgrad.init_params(2, 3, key=jax.random.PRNGKey(0))


@pytest.mark.parametrize("wrong", [{"targets": np.array([0, 2**32, 1])}, {"weights": np.array([1, -1e-50, 1])}])
def test_arguments_given_by_name_are_looked_at_too(wrong):
    arrays = jax.tree.map(jnp.asarray, {"params": params, "X": X, "targets": t})
    handgrad.loss(**arrays)
    with pytest.raises(ValueError, match=f"^loss: {next(iter(wrong))}"):
        handgrad.loss(**arrays | wrong)


# --- Predictions ------------------------------------------------------------------------------------------------------


def test_a_row_without_probabilities_has_no_class(dtype):
    rows = np.array([[0, 1, 0], [np.nan, 1, 0], [0, 0, np.nan], [np.inf, 0, 0], [-np.inf] * 3, [-np.inf, 2, 1]], dtype)
    whole = Params(np.eye(3, dtype=dtype), np.zeros((1, 3), dtype))
    logits = np.where(np.isinf(rows), 0, rows)
    # X = I gives W's rows as logits, infinite ones too.
    one_by_one = [int(formulas.predict(Params(row[None], whole.b), np.ones((1, 1), dtype))[0]) for row in rows]
    assert one_by_one == [1, -1, -1, -1, -1, 1]
    for module in (formulas, handgrad):
        predictions = np.asarray(module.predict(whole, logits))
        np.testing.assert_array_equal(predictions, [1, -1, -1, 0, 0, 1])
        np.testing.assert_array_equal(np.isnan(module.predict_proba(whole, logits)).any(axis=1), predictions == -1)


# --- The compiled faces -----------------------------------------------------------------------------------------------


def test_a_compiled_function_has_the_signature_of_the_formula_and_can_be_pickled():
    for name in formulas.__all__:
        if name not in ("Params", "Layer"):
            function = getattr(handgrad, name)
            assert inspect.signature(function) == inspect.signature(getattr(formulas, name))
            assert function.__doc__ == getattr(formulas, name).__doc__
            assert pickle.loads(pickle.dumps(function)) is function


def test_compiled_functions_work_inside_those_of_the_user():
    arrays = jax.tree.map(jnp.asarray, (params, X, t))
    expected = handgrad.gradient(*arrays)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(handgrad.gradient)(*arrays), expected)
    by_autograd = jax.grad(handgrad.loss)(*arrays)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), by_autograd, expected)
    one_by_one = jax.vmap(lambda x, label: handgrad.loss(arrays[0], x[None], label[None]))(*arrays[1:])
    np.testing.assert_allclose(one_by_one.mean(), handgrad.loss(*arrays), rtol=1e-6)
    # Positional or by name, and with settings that are compiled in.
    np.testing.assert_array_equal(handgrad.cross_entropy(Z, targets=t), handgrad.cross_entropy(Z, t, None))
    assert handgrad.one_hot(t, num_classes=3, dtype="float16").dtype == "float16"
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'wieghts'"):
        handgrad.loss(params, X, t, wieghts=None)


def test_a_list_of_layers_is_a_network():
    in_a_list = list(hidden)
    np.testing.assert_array_equal(handgrad.forward(in_a_list, X), handgrad.forward(hidden, X))
    gradient = handgrad.gradient(in_a_list, X, t)
    assert isinstance(gradient, list)
    assert jax.tree.structure(gradient) == jax.tree.structure(in_a_list)
    jax.tree.map(np.testing.assert_array_equal, tuple(gradient), handgrad.gradient(hidden, X, t))
    for empty in ((), []):
        with pytest.raises(ValueError, match="forward: a network must have a layer; got an empty"):
            handgrad.forward(empty, X)
