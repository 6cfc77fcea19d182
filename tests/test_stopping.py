"""What a callback of `fit` and `fit_path` sees, and what there is where it ends them before their time."""

import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
import oracles

L2S = [1.0, 0.1, 1e-2, 1e-3]


@pytest.fixture(params=["by NumPy", pytest.param("compiled", marks=pytest.mark.slow)])
def problem(request):
    """Both kinds of rows: of few, summed by NumPy, and of many."""
    if request.param == "compiled":
        request.getfixturevalue("compiled_rows")
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    return rng.normal(size=(90, 4)).astype(np.float32) + np.eye(3, 4, dtype=np.float32)[labels], labels


def test_a_fit_that_a_callback_ends_is_certified_as_far_as_it_came(problem):
    X, t = problem
    seen = []
    with pytest.warns(RuntimeWarning, match="fit: the fit was ended before its time: the loss is certified to be with"):
        result = handgrad.fit(X, t, l2=1e-3, callback=lambda *numbers: seen.append(numbers) or len(seen) == 3)
    best = handgrad.fit(X, t, l2=1e-3)
    assert [iteration for iteration, _, _ in seen] == [1, 2, 3]
    assert not result.converged
    assert result.iterations == 3
    loss = oracles.loss(*map(np.asarray, result.params), X.astype(np.float64), t) + 5e-4 * np.sum(
        np.asarray(result.params.W, np.float64) ** 2
    )
    np.testing.assert_allclose(result.loss, loss, rtol=1e-6)
    assert 0 < result.loss - best.loss <= result.gap < result.loss


def test_a_fit_without_penalty_that_is_ended_says_nothing_of_a_minimum(problem):
    X, t = problem
    with pytest.warns(
        RuntimeWarning, match="ended before its time: the gradient's norm is .*; l2=0 has no certificate"
    ):
        assert not handgrad.fit(X, t, l2=0, callback=lambda *_: True).converged


def test_a_path_s_callback_counts_the_fits_that_have_ended(problem):
    seen = []
    handgrad.fit_path(*problem, l2s=L2S, validation=3, callback=lambda *numbers: seen.append(numbers))
    done = [each for each, _ in seen]
    assert {fits for _, fits in seen} == {16}
    assert done == sorted(done)
    assert 0 <= done[0] < done[-1] < 16


@pytest.mark.filterwarnings("ignore:fit_path. .* have not converged:RuntimeWarning")
def test_a_path_that_is_ended_keeps_what_has_converged(problem, monkeypatch):
    monkeypatch.setattr("handgrad.solvers.driver.COLUMNS", 6)  # two lanes
    path = handgrad.fit_path(*problem, l2s=L2S, callback=lambda done, _: done >= 1)
    whole = handgrad.fit_path(*problem, l2s=L2S)
    assert path.converged[0]
    assert not path.converged.all()
    np.testing.assert_allclose(path.loss[0], whole.loss[0], rtol=1e-5)
    assert np.all(path.loss[~path.converged] - path.gap[~path.converged] <= whole.loss[~path.converged])
    assert np.isfinite(path.params.W).all()


def test_what_is_ended_is_not_taken_up_again(problem, monkeypatch):
    # The proof finds more than was asked of what has ended, which is taken up again as a rule.
    monkeypatch.setattr("handgrad.solvers.driver.MARGIN", 1e3)
    monkeypatch.setattr("handgrad.solvers.driver.COLUMNS", 6)
    answers = []

    def callback(done, _):
        answers.append(done >= 1)
        return answers[-1]

    with pytest.warns(RuntimeWarning, match="have not converged"):
        handgrad.fit_path(*problem, l2s=L2S, callback=callback)
    assert answers.index(True) == len(answers) - 1


@pytest.mark.parametrize(("answer", "ends"), [(True, True), (np.True_, True), (jnp.array(True), True), (1, False)])
@pytest.mark.filterwarnings("ignore:fit. the fit was ended:RuntimeWarning")
def test_true_of_any_library_ends_a_fit_and_nothing_else(answer, ends):
    X, t = np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 2
    assert handgrad.fit(X, t, l2=1e-3, callback=lambda *_: answer).converged != ends


@pytest.mark.messages
@pytest.mark.parametrize("solve", ["fit", "fit_path"])
def test_a_callback_must_be_callable(solve):
    X, t = np.ones((4, 1)), np.arange(4) % 2
    penalty = {"l2": 1.0} if solve == "fit" else {"l2s": [1.0]}
    with pytest.raises(TypeError, match=f"{solve}: callback must be a function; got True"):
        getattr(handgrad, solve)(X, t, callback=True, **penalty)
