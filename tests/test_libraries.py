"""One source, four array libraries: their results agree, and each stays in its own library."""

import array_api_strict
import jax.numpy as jnp
import numpy as np
import pytest

import oracles
from handgrad import Params, formulas


def torch_asarray(array):
    return pytest.importorskip("torch", reason="PyTorch is not installed").asarray(array)


LIBRARIES = {"jax": jnp.asarray, "torch": torch_asarray, "array_api_strict": array_api_strict.asarray}


@pytest.mark.parametrize("weights", [None, "floating", "counts"])
@pytest.mark.parametrize("targets", ["labels", "distributions"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_every_formula_agrees_with_numpy(library, targets, weights):
    convert = LIBRARIES[library]
    W, b, X, t, w = oracles.problem(7, 5, 3, targets=targets, weights=weights, dtype="float32")
    T = oracles.problem(7, 5, 3, targets="distributions", dtype="float32")[3]

    def results(convert):
        params = Params(convert(W), convert(b))
        data, labels, rows = convert(X), convert(t), convert(T)
        share = None if w is None else convert(w)
        Z = formulas.linear(params, data)
        value, gradient = formulas.value_and_gradient(params, data, labels, share)
        yield from (Z, formulas.softmax(Z), formulas.log_softmax(Z), formulas.one_hot(convert(np.array([2, 0])), 3))
        yield from (formulas.cross_entropy(Z, labels, share, base=2), formulas.logit_gradient(Z, labels, share))
        yield from (formulas.entropy(rows), formulas.kl_divergence(rows, formulas.softmax(Z)))
        yield from (formulas.loss(params, data, labels, share), value, *gradient)
        yield from formulas.gradient(params, data, labels, share)
        yield from formulas.hessian_vector_product(params, data, gradient, share)
        yield from formulas.sgd_step(params, gradient, 0.1)
        yield from (formulas.predict(params, data), formulas.predict_proba(params, data))

    own_type = type(convert(X))
    for theirs, numpys in zip(results(convert), results(np.asarray), strict=True):
        assert isinstance(theirs, own_type)
        np.testing.assert_allclose(np.asarray(theirs), numpys, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_library_gets_the_error_for_a_bad_label(library):
    convert = LIBRARIES[library]
    W, b, X, t, _ = oracles.problem(7, 5, 3, dtype="float32")
    t[4] = 3
    with pytest.raises(ValueError, match=r"loss: labels must be integers in \[0, 3\) .* got 3 at row 4"):
        formulas.loss(Params(convert(W), convert(b)), convert(X), convert(t))


def test_torch_bfloat16_is_widened_too():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    Z = torch.tensor([[9.9375, 0.0]], dtype=torch.bfloat16)
    dZ = formulas.logit_gradient(Z, torch.tensor([0]))
    assert dZ.dtype == torch.bfloat16
    np.testing.assert_allclose(dZ.to(torch.float64), [[-4.83e-5, 4.83e-5]], rtol=1e-2)
    assert formulas.cross_entropy(Z, torch.tensor([0])).dtype == torch.float32


def test_gradient_by_hand_equals_torch_autograd():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    W, b, X, t, _ = oracles.problem(7, 5, 3)
    W, b, X, t = torch.tensor(W), torch.tensor(b), torch.tensor(X), torch.tensor(t, dtype=torch.int64)
    W.requires_grad_()
    b.requires_grad_()
    torch.nn.functional.cross_entropy(X @ W + b, t).backward()
    by_hand = formulas.gradient(Params(W.detach(), b.detach()), X, t)
    np.testing.assert_allclose(by_hand.W, W.grad, atol=1e-15)
    np.testing.assert_allclose(by_hand.b, b.grad, atol=1e-15)
