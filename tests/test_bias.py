"""The bias that minimises the loss for given W, and what rounding and rough steps leave of it."""

import numpy as np
import pytest

from handgrad import fit
from handgrad.formulas.by_row import exact_losses, softmax
from handgrad.solvers import bias, certificate
from handgrad.solvers.bias import minimise_bias


def test_best_bias_is_found_from_afar():
    rng = np.random.default_rng(0)
    Z, T = 3 * rng.normal(size=(500, 4)), np.eye(4)[rng.choice(4, 500, p=[0.9, 0.096, 0.002, 0.002])]
    w = rng.uniform(0, 1, 500) / 250
    for b in (np.zeros(4), np.array([30.0, -30, 5, 0]), np.array([0, 0, 0, 60.0])):
        found = minimise_bias(lambda: [(Z.T, T.T, w)], b)
        np.testing.assert_allclose(w @ (softmax((Z + found.b).T).T - T), 0, atol=1e-15)
        assert found.decrement < 1e-28
        assert found.kappa < 1e-10


def test_what_is_left_of_the_bias_is_counted():
    """Where rounding leaves ∇_b, its decrement bounds what f may still fall: at least half of λ² for small steps."""
    rng = np.random.default_rng(1)
    Z, T, w = rng.normal(size=(50, 3)), np.eye(3)[rng.integers(0, 3, 50)], np.full(50, 1 / 50)
    best = minimise_bias(lambda: [(Z.T, T.T, w)], np.zeros(3))
    lowest_loss = w @ exact_losses((Z + best.b).T, T.T)
    for size in (1e-3, 1e-2, 1e-1):
        b = best.b + size * np.array([1, -1, 0.5])
        Y = np.exp(Z + b) / np.exp(Z + b).sum(axis=1, keepdims=True)
        G = np.diag(w @ Y) - (w[:, None] * Y).T @ Y
        decrement = (w @ (Y - T)) @ np.linalg.pinv(G) @ (w @ (Y - T))
        assert 0.4 * decrement < w @ exact_losses((Z + b).T, T.T) - lowest_loss <= decrement


def test_the_best_bias_of_many_classes_is_that_of_few(monkeypatch):
    """By conjugate gradients, without G, down to what rounding leaves of the gradient."""
    rng = np.random.default_rng(0)
    for C, shares in ((5, np.full(5, 0.2)), (7, np.array([0.6, 0.3, 0.05, 0.04, 0.005, 0.004, 0.001])), (6, None)):
        Z, t = 2 * rng.normal(size=(400, C)), rng.choice(C, 400, p=shares)
        t[:C] = np.arange(C)
        T, w = np.eye(C)[t], rng.uniform(0, 1, 400) / 200
        pieces = [(Z[:150].T, T[:150].T, w[:150]), (Z[150:].T, T[150:].T, w[150:])]
        whole = minimise_bias(lambda pieces=pieces: pieces, np.zeros(C))
        with monkeypatch.context() as few:
            few.setattr(bias, "WHOLE_CLASSES", 3)
            found = minimise_bias(lambda pieces=pieces: iter(pieces), np.zeros(C))
        np.testing.assert_allclose(found.b - found.b.mean(), whole.b - whole.b.mean(), atol=1e-7)
        assert found.kappa < 1e-6


def test_what_conjugate_gradients_leave_is_counted(monkeypatch):
    """λ² and κ are no less than those of G itself, wherever they are taken, and however little was solved."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(bias, "WHOLE_CLASSES", 3)
    for C in (4, 5, 8):
        Z, T, w = rng.normal(size=(90, C)), np.eye(C)[np.arange(90) % C], np.full(90, 1 / 90)
        shares = w @ T
        for size in (1e-6, 1e-2, 1.0):
            b = size * rng.normal(size=C)
            step = bias._newton_step(lambda: [(Z.T, T.T, w)], b, shares, lambda sums: sums)  # noqa: B023
            Y = softmax((Z + b).T).T
            G = np.diag(w @ Y) - (w[:, None] * Y).T @ Y
            inverse, gradient = np.linalg.pinv(G), w @ (Y - T)
            apart = np.eye(C)[:, None] - np.eye(C)[None]
            resistance = np.einsum("jkc,cd,jkd->jk", apart, inverse, apart).max()
            assert resistance <= step.resistance * (1 + 1e-9)
            assert gradient @ inverse @ gradient <= step.decrement * (1 + 1e-9)
            np.testing.assert_allclose(step.step, -inverse @ gradient, atol=2e-2 * np.ptp(inverse @ gradient))


def test_the_bias_of_a_fit_that_was_broken_off_is_soon_given_up(monkeypatch):
    """Rows so sure that hardly anything joins the classes: what is found proves nothing, after however many steps."""
    rng, C = np.random.default_rng(0), 450
    X, t = 30 * rng.normal(size=(900, 40)), rng.integers(0, C, 900)
    t[:C] = np.arange(C)
    steps, newton_step = [], bias._newton_step

    def counted(*arguments):
        steps.append(newton_step(*arguments))
        return steps[-1]

    monkeypatch.setattr(bias, "_newton_step", counted)
    with pytest.warns(RuntimeWarning, match="max_iterations=6 are used up"):
        result = fit(X, t, l2=1e-9, max_iterations=6)
    assert sum(step.is_rough for step in steps) == bias.ROUGH_STEPS + 1
    assert np.isfinite(result.loss)
    assert result.gap == result.loss


def test_the_bias_of_a_fit_that_arrived_is_proved_in_as_many_steps_as_it_takes():
    rng = np.random.default_rng(0)
    C, N, P = 410, 1500, 20
    t, M = rng.integers(0, C, N), rng.normal(size=(C, P))
    X = M[t] + 0.3 * rng.normal(size=(N, P))
    Z = 3 * (M @ X.T - 0.5 * (M**2).sum(axis=1)[:, None]) / np.sqrt(P)
    T, w = 0.999 * np.eye(C)[t].T + 0.001 / C, np.full(N, 1 / N)
    assert minimise_bias(lambda: [(Z, T, w)], np.log(T @ w)).kappa < 0.5


def test_only_the_bias_of_problems_that_were_broken_off_is_given_up(monkeypatch):
    X, t = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3
    given = []
    monkeypatch.setattr(
        certificate,
        "minimise_bias",
        lambda *arguments, rough_steps: given.append(rough_steps) or minimise_bias(*arguments, rough_steps=rough_steps),
    )
    assert fit(X, t, l2=0.1).converged
    assert set(given) == {bias.BIAS_STEPS}
    given.clear()
    with pytest.warns(RuntimeWarning, match="max_iterations=1 are used up"):
        fit(X, t, l2=1e-6, max_iterations=1)
    assert set(given) == {bias.ROUGH_STEPS}


def test_a_bias_that_no_step_moves_is_left_where_it_is(monkeypatch):
    """A range of 0 would be divided by."""
    monkeypatch.setattr(bias, "WHOLE_CLASSES", 3)
    monkeypatch.setattr(bias, "_by_conjugate_gradients", lambda *given: bias._Newton(0 * given[1], 1.0, 1e9, given[2]))
    Z, T, w = np.random.default_rng(0).normal(size=(5, 9)), np.eye(5)[np.arange(9) % 5].T, np.full(9, 1 / 9)
    found = minimise_bias(lambda: [(Z, T, w)], np.arange(5.0))
    np.testing.assert_array_equal(found.b, np.arange(5.0))
    assert np.isinf(found.kappa)


def test_a_constant_that_rounding_leaves_in_the_gradient_of_the_bias_is_not_solved_for():
    """G has none of it: conjugate gradients would go on for ever, and what they leave would be taken for λ."""
    Y = softmax(np.random.default_rng(0).normal(size=(6, 90)))
    G = np.diag(Y.mean(axis=1)) - Y @ Y.T / 90
    gradient = G @ np.arange(6.0)
    found = [
        bias._by_conjugate_gradients(lambda v: G @ v, gradient + constant, Y.mean(axis=1), Y @ Y[0] / 90, 0)
        for constant in (0.0, 1e-2)
    ]
    np.testing.assert_allclose(found[1].decrement, found[0].decrement, rtol=1e-6)
