"""The line search on convex functions, and the penalty against differences and a quadratic of its own."""

import math
import warnings

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from handgrad import fit, fit_path
from handgrad.solvers.penalty import L2
from handgrad.solvers.search import POINTS, TRIALS, Line

QUICK = settings(max_examples=200, deadline=None, derandomize=True, database=None)
EPS = float(np.finfo(np.float64).eps)


def convex(kind, minimum, steep):
    """φ and φ′, which fall from 0 on to their minimum."""
    match kind:
        case "quadratic":
            return lambda a: steep * (a - minimum) ** 2 / 2, lambda a: steep * (a - minimum)
        case "cosh":  # as a logit that is driven far
            limit = 600 / max(steep, 600 / 1e9)

            def slope(a):
                return math.inf if (a - minimum) > limit else math.sinh(max(steep * (a - minimum), -600.0))

            return lambda a: math.inf if a - minimum > limit else math.cosh(steep * (a - minimum)) / steep, slope
        case "hinge":  # log(1 + exp) and a pull back: a corner that Newton's steps jump over

            def sigmoid(z):
                return 1 / (1 + math.exp(-z)) if z > -700 else 0.0

            def value(a):
                z = steep * (a - minimum)
                return (max(z, 0) + math.log1p(math.exp(-abs(z)))) / steep - a / 2

            return value, lambda a: sigmoid(steep * (a - minimum)) - 0.5


def search(line, value, slope, *, look):
    """The trials until one is accepted; each is inside the bracket that the ones before it have left."""
    trials = []
    while not line.is_lost:
        alpha = line.alpha
        assert line.low <= alpha <= line.high
        assert alpha > 0
        trials.append(alpha)
        if line.accepts(value(alpha), slope(alpha), EPS):
            return trials
        assert line.low_slope <= 0
        assert not line.high_slope <= 0 or line.high == math.inf or value(line.high) > line.loss
        if look and line.is_hard:
            low, high, points = line.low, line.high, line.points()
            assert points.shape == (POINTS,)
            assert np.all(np.diff(points) > 0)
            assert low < points[0]
            assert points[-1] < high
            line.choose(points, np.array([slope(point) for point in points.tolist()]))
            assert low <= line.low < line.high <= high
    return None


@QUICK
@given(
    kind=st.sampled_from(["quadratic", "cosh", "hinge"]),
    minimum=st.floats(-4, 4).map(lambda power: 10**power),
    steep=st.floats(-2, 2).map(lambda power: 10**power),
    first=st.floats(-3, 0).map(lambda power: 10**power),
    look=st.booleans(),
)
def test_a_convex_function_has_a_step_that_is_found(kind, minimum, steep, first, look):
    value, slope = convex(kind, minimum, steep / minimum)  # steep in units in which the minimum is 1
    line = Line(value(0.0), slope(0.0), first)
    trials = search(line, value, slope, look=look)
    assert trials is not None, line.__dict__
    alpha = trials[-1]
    assert -0.9 * abs(slope(0.0)) <= slope(alpha) <= 0.5 * abs(slope(0.0))
    assert value(alpha) <= value(0.0) * (1 + 8 * EPS) + 8 * EPS
    if look:
        assert len(trials) <= 8


def test_the_slope_decides_where_the_loss_shows_no_difference():
    assert Line(1.0, -1e-12, 1.0).accepts(1.0 + EPS, 1e-13, EPS)
    assert not Line(1.0, -1e-12, 1.0).accepts(1.0, 1e-12, EPS)  # beyond the minimum
    assert not Line(1.0, -1e-12, 1.0).accepts(1.0, -0.95e-12, EPS)  # hardly begun
    assert not Line(1.0, -1.0, 1.0).accepts(1.1, 0.0, EPS)  # flat, and higher


@pytest.mark.parametrize(("loss", "slope"), [(math.nan, math.nan), (math.inf, math.nan), (math.inf, math.inf)])
def test_a_trial_that_is_not_finite_is_the_end_of_the_bracket(loss, slope):
    line = Line(1.0, -1.0, 1.0)
    for _ in range(3):
        before = line.alpha
        assert not line.accepts(loss, slope, EPS)
        assert line.high == before
        assert 0 < line.alpha < before


def test_slopes_that_fall_everywhere_lead_further_out():
    line = Line(1.0, -1.0, 1.0)
    line.rejected = 2
    points = line.points()
    line.choose(points, np.full(POINTS, -1.0))
    assert line.alpha > points[-1]
    assert np.all(line.points() > points[-1])


def test_slopes_that_rise_everywhere_lead_near_to_where_it_began():
    line = Line(1.0, -1.0, 1.0)
    line.accepts(2.0, 3.0, EPS)
    line.accepts(2.0, 3.0, EPS)
    points = line.points()
    line.choose(points, np.full(POINTS, 1.0))
    assert 0 < line.alpha < points[0]
    line.choose(points, np.full(POINTS, math.nan))
    assert 0 < line.alpha < points[0]


def test_a_direction_that_does_not_fall_is_lost_and_so_is_one_without_end():
    assert Line(1.0, 0.0, 1.0).is_lost
    assert Line(1.0, 1.0, 1.0).is_lost
    assert Line(1.0, math.nan, 1.0).is_lost
    line = Line(1.0, -1.0, 1.0)
    for _ in range(TRIALS):
        assert not line.is_lost
        line.accepts(2.0, 1.0, EPS)
    assert line.is_lost


def test_the_step_after_a_short_one_is_tried_short():
    for alpha, expected in ((1.0, 1.0), (0.61, 1.0), (0.1, 0.2)):
        assert Line(1.0, -1.0, alpha).following() == pytest.approx(expected)


def test_a_line_whose_bracket_has_become_a_point_is_lost():
    """Slopes may change their sign between two neighbouring numbers, and neither be small."""
    line, eps, looks = Line(1.0, -1.0, 1.0), float(np.finfo(np.float32).eps), 0
    while not line.is_lost:
        line.accepts(1 - min(line.alpha, 0.3), -1.0 if line.alpha < 0.3 else 1.0, eps)
        if line.is_hard:
            looks += 1
            line.choose(line.points(), np.where(line.points() < 0.3, -1.0, 1.0))
    assert looks <= 7
    assert line.high - line.low <= 1e-7


def counts_of_words(seed, N, P, C):
    """Planted topics, and their labels, as many of each."""
    rng, length = np.random.default_rng(seed), 60
    labels, frequency = rng.permutation(N) % C, 1 / (np.arange(P) + 20.0)
    frequency /= frequency.sum()
    topics = np.stack([rng.choice(P, 50, p=frequency, replace=False) for _ in range(C)])
    own = topics[labels[:, None], rng.integers(0, 50, (N, length))]
    words = np.where(rng.random((N, length)) < 0.15, own, rng.choice(P, (N, length), p=frequency))
    X = np.zeros((N, P), np.float32)
    np.add.at(X, (np.arange(N)[:, None], words), 1)
    return X, labels


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", [scipy.sparse.csr_array, np.asarray])
def test_counts_of_more_words_than_documents_take_few_passes(form, seed):
    """The whole first step is a hundred times too long there, and ends where each row is sure of some class."""
    X, labels = counts_of_words(seed, 200, 2000, 20)
    for l2 in (1e-4, 1e-5):
        result = fit(form(X), labels, l2=l2)
        assert result.converged
        assert result.passes <= 50


@pytest.mark.parametrize("seed", range(3))
def test_a_problem_that_is_taken_up_beside_a_hard_line_begins_at_its_start(seed):
    """Where it began at the problem before it a class that this fold has was left out, and stayed so."""
    X, labels = counts_of_words(seed, 120, 1500, 10)
    labels[:3] = [10, 11, 12]  # each in no fold but those that train on it
    with warnings.catch_warnings(action="ignore"):  # of rows that cannot be scored
        path = fit_path(scipy.sparse.csr_array(X), labels, l2s=10.0 ** np.arange(1, -8, -1), validation=4)
    assert path.converged[:-2].all()
    assert np.all(path.validation_loss < 3)


# --- The penalty ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(2, 3, 4), (3, 3, 3), (1, 1, 1), (2, 2, 3)])
def test_the_penalty_has_its_own_derivatives(sizes):
    rng = np.random.default_rng(0)
    W, dW = rng.normal(size=(2, *sizes))
    penalty = L2(rng.uniform(0.1, 2, sizes[0]))
    np.testing.assert_allclose(
        penalty.value(W), [s / 2 * np.sum(w**2) for s, w in zip(penalty.strength, W, strict=True)]
    )
    step = 1e-4
    difference = (penalty.value(W + step * dW) - penalty.value(W - step * dW)) / (2 * step)
    np.testing.assert_allclose(np.sum(penalty.gradient(W) * dW, axis=(1, 2)), difference, rtol=1e-8)
    slope, growth = penalty.along(W, dW)
    np.testing.assert_allclose(slope, difference, rtol=1e-8)
    at_2 = np.sum(penalty.gradient(W + 2 * dW) * dW, axis=(1, 2))
    np.testing.assert_allclose(slope + 2 * growth, at_2, rtol=1e-12)
    second = (penalty.value(W + dW) - 2 * penalty.value(W) + penalty.value(W - dW)) / np.sum(dW**2, axis=(1, 2))
    np.testing.assert_allclose(penalty.curvature(), second, rtol=1e-9)


def test_the_gap_of_a_quadratic_is_no_less_than_the_truth():
    """F = ⟨W, QW⟩/2 − ⟨c, W⟩ + (l2/2)‖W‖²; where Q is 0 the bound is the gap itself."""
    rng = np.random.default_rng(0)
    for P, C in ((3, 2), (2, 2), (1, 1)):
        for size in (0.0, 1.0):
            root = size * rng.normal(size=(P, P))
            Q, c, W, l2 = root @ root.T, rng.normal(size=(P, C)), rng.normal(size=(P, C)), 10 ** rng.uniform(-3, 1)
            best = np.linalg.solve(Q + l2 * np.eye(P), c)

            def objective(W, Q=Q, c=c, l2=l2):
                return np.sum(W * (Q @ W)) / 2 - np.sum(c * W) + l2 / 2 * np.sum(W**2)

            penalty = L2(np.array([l2]))
            bound = penalty.gap(penalty.distance((Q @ W - c)[None] + penalty.gradient(W[None])))[0]
            assert objective(W) - objective(best) <= bound * (1 + 1e-9)
            if size == 0:
                np.testing.assert_allclose(bound, objective(W) - objective(best), rtol=1e-9)
            at_best = penalty.distance((Q @ best - c)[None] + penalty.gradient(best[None]))
            np.testing.assert_allclose(at_best, 0, atol=1e-12)
