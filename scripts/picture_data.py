"""The numbers that the pictures of docs/ show, all of them computed by handgrad: a function for each picture.

`scripts/pictures.py` draws them. Nothing here needs matplotlib, so that a test compares the pictures that are committed
with the numbers of today wherever the tests run.
"""

import functools
import warnings

import jax
import numpy as np

import handgrad
from handgrad import Layer, Params, formulas
from handgrad.data import load_digits, split_and_scale

# The four pieces of fruit of the derivation: size and redness of a banana, a green apple, a red apple and a cherry.
FRUIT = ("banana", "green apple", "red apple", "cherry")
CLASSES = ("apple", "banana", "cherry")
X = np.array([[2.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
t = np.array([1, 0, 0, 2])
BIT = np.log(2)
GUESS = Params(
    W=BIT * np.array([[0.0, 0.0, 0.0], [0.0, -1.0, 1.0]]),
    b=BIT * np.array([[0.0, 1.0, 0.0]]),
)
TEMPERATURES = (0.25, 1.0, 4.0)
SHOWN_STEPS = (0, 1, 3, 7)
SHOWN_EPOCHS = (1, 3, 10, 30)


def numbers(name):
    """The arrays of a picture by name."""
    return {key: np.asarray(array, np.float64) for key, array in PICTURES[name]().items()}


def fingerprint(array):
    """A few numbers that hold an array to four digits or so: its size, sum, length, and products with two waves."""
    flat = np.ravel(array)
    index = np.arange(flat.size)
    return [
        flat.size,
        *(float(f"{flat @ wave:.6g}") for wave in (np.ones(flat.size), np.sin(index), np.cos(3 * index))),
    ]


def shapes():
    """XW + b = Z, W, b and Z in bits."""
    return {"X": X, "W": GUESS.W / BIT, "b": GUESS.b / BIT, "Z": formulas.linear(GUESS, X) / BIT}


def softmax():
    """The probabilities of the logits (z, 1, 0), and of the banana's at each temperature."""
    z = np.linspace(-6, 6, 97)
    Z = np.stack([z, np.ones_like(z), np.zeros_like(z)], axis=1)
    banana = formulas.linear(GUESS, X[:1])
    return {"z": z, "Y": formulas.softmax(Z), "of_banana": [formulas.softmax(banana / T)[0] for T in TEMPERATURES]}


def cross_entropy():
    """The cost of a class of probability p, in bits, and that of each piece of fruit."""
    p = np.linspace(0.02, 1, 197)
    cost = [formulas.cross_entropy(np.log([[q, max(1 - q, 1e-300)]]), np.array([0]), base=2) for q in p]
    Z = formulas.linear(GUESS, X)
    of_fruit = [formulas.cross_entropy(Z[[i]], t[[i]], base=2) for i in range(4)]
    return {"p": p, "cost": cost, "p_of_fruit": formulas.softmax(Z)[np.arange(4), t], "cost_of_fruit": of_fruit}


def entropy():
    """The entropy of the green apple's soft target, and the divergence of five predictions from it, in bits."""
    T = np.array([[2 / 3, 1 / 3, 0]])
    thirds, guess = np.full((1, 3), 1 / 3), formulas.predict_proba(GUESS, X[1:2])
    predictions = [T, np.array([[0.5, 0.4, 0.1]]), thirds, guess, np.array([[0.1, 0.2, 0.7]])]
    divergences = [formulas.kl_divergence(T, Y, base=2) for Y in predictions]
    return {"T": T, "Y": np.concatenate(predictions), "entropy": formulas.entropy(T, base=2), "divergence": divergences}


@functools.cache
def descended(steps=100):
    """The params of gradient descent on the fruit, with a rate of 1."""
    params = [GUESS]
    for _ in range(steps):
        params.append(formulas.sgd_step(params[-1], formulas.gradient(params[-1], X, t), 1.0))
    return params


def simplex():
    """Predictions, targets and T − Y, which is −N dL/dZ; and where the predictions go as the loss falls."""
    Z = formulas.linear(GUESS, X)
    trail = np.stack([formulas.predict_proba(params, X) for params in descended()])
    return {"Y": formulas.softmax(Z), "T": np.eye(3)[t], "down": -4 * formulas.logit_gradient(Z, t), "trail": trail}


def regions():
    """The class of each point of the plane at some steps of gradient descent, and the losses there."""
    side = np.linspace(-0.5, 2.5, 151), np.linspace(-0.5, 1.5, 101)
    grid = np.stack(np.meshgrid(*side), axis=-1).reshape(-1, 2)
    params = [descended()[step] for step in SHOWN_STEPS]
    classes = [formulas.predict(own, grid).reshape(101, 151) for own in params]
    return {"classes": classes, "loss": [formulas.loss(own, X, t) for own in params]}


# --- A valley: two classes, two features, one in units three times as small, and no bias --------------------------

VALLEY_L2 = 0.02


@functools.cache
def valley():
    """Its X and t."""
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(60, 2)) @ np.array([[1.0, 1.6], [0.0, 2.2]])
    return rows, (rows @ np.array([2.0, -0.35]) + rng.logistic(size=60) > 0).astype(int)


def both_classes(v):
    """The params of the log-odds v: two classes have opposite weights, as they have all along a path from 0."""
    return Params(W=np.stack([-v, v], axis=1) / 2, b=np.zeros((1, 2)))


def objective(v):
    """F at the log-odds v, and its gradient in W as a change of v."""
    params = both_classes(v)
    loss, gradient = formulas.value_and_gradient(params, *valley())
    dW = gradient.W + VALLEY_L2 * params.W
    return loss + VALLEY_L2 / 2 * np.sum(params.W**2), dW[:, 1] - dW[:, 0]


def fitted(iterations, tol=1e-12):
    """The fit of the valley after so many iterations."""
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        settings = {"l2": VALLEY_L2, "tol": tol, "max_iterations": iterations, "fit_intercept": False}
        return handgrad.fit(*valley(), **settings)


def log_odds(result):
    """The difference of the two classes' weights."""
    W = np.asarray(result.params.W)
    return W[:, 1] - W[:, 0]


def descent():
    """F on a grid of two weights, and the paths of gradient descent and of L-BFGS down to the certified optimum."""
    rows, _ = valley()
    rate = 1.9 / (np.linalg.eigvalsh(rows.T @ rows / len(rows))[-1] / 2 + VALLEY_L2)
    path = [np.zeros(2)]
    for _ in range(40):
        path.append(path[-1] - rate * objective(path[-1])[1])
    lbfgs = [np.zeros(2), *(log_odds(fitted(k)) for k in range(1, 6))]
    optimum = fitted(200)
    v_1, v_2 = np.linspace(-0.4, 3.6, 49), np.linspace(-1.0, 0.6, 33)
    F = [[objective(np.array([a, b]))[0] for a in v_1] for b in v_2]
    return {
        "v_1": v_1,
        "v_2": v_2,
        "F": F,
        "gradient_descent": path,
        "lbfgs": lbfgs,
        "optimum": log_odds(optimum),
        "least": optimum.loss,
    }


def preconditioner():
    """The valley in the coordinates u = M^½ v, M = A·g + l2 at the start, and the way down from there in both."""
    rows, _ = valley()
    g = 0.25  # y(1 − y) at equal logits
    values, Q = np.linalg.eigh(rows.T @ rows / len(rows) * g + VALLEY_L2 * np.eye(2))
    root = Q * np.sqrt(values) @ Q.T
    optimum = log_odds(fitted(200))
    u_1, u_2 = (root @ optimum)[:, None] + np.linspace(-1.6, 1.6, 33)
    inverse = Q / np.sqrt(values) @ Q.T
    F = [[objective(inverse @ np.array([a, b]))[0] for a in u_1] for b in u_2]
    v_1, v_2 = optimum[:, None] + np.linspace(-3, 3, 41)
    of_v = [[objective(np.array([a, b]))[0] for a in v_1] for b in v_2]
    down = -objective(np.zeros(2))[1]
    return {
        "v_1": v_1,
        "v_2": v_2,
        "F_of_v": of_v,
        "u_1": u_1,
        "u_2": u_2,
        "F_of_u": F,
        "least": objective(optimum)[0],
        "optimum_v": optimum,
        "optimum_u": root @ optimum,
        "down_v": down,
        "down_u": inverse @ down,
    }


# --- Hidden layers, certificate, sweep, digits --------------------------------------------------------------------

NETWORK = (
    Layer(Params(W=np.array([[0.0, 0.0], [-2.0, 2.0]]), b=np.array([[1.0, -1.0]])), "relu"),
    Layer(Params(W=BIT * np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), b=np.zeros((1, 3))), "softmax"),
)


def backpropagation():
    """X, Z_1, A_1 and Y on the way forward; on the way back 4δ_2, and 4δ_2 W_2ᵀ and 4δ_1 in units of log 2."""
    first, last = NETWORK
    Z = formulas.linear(first.params, X)
    A = np.maximum(Z, 0)
    D = 4 * formulas.logit_gradient(formulas.forward(NETWORK, X), t)
    G = D @ last.params.W.T / BIT
    return {"X": X, "Z_1": Z, "A_1": A, "Y": formulas.predict_proba(NETWORK, X), "D_2": D, "G": G, "D_1": G * (Z > 0)}


def certificate():
    """Of the digits, iteration by iteration, the gap and the true distance from the optimum, over the loss."""
    digits = split_and_scale(load_digits()).train
    data, settings = (digits.X.astype(np.float64), digits.labels), {"l2": 1e-3}
    gaps, losses, state = [], [], None
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        least = handgrad.fit(*data, **settings, tol=1e-12).loss
        for iteration in range(1, 61):
            result = handgrad.fit(*data, **settings, tol=1e-7, max_iterations=iteration, state=state)
            gaps.append(result.gap / least)
            losses.append(result.loss / least - 1)
            if result.converged:
                break
            state = result.state
    return {"log_gap": np.log10(gaps), "log_distance": np.log10(losses)}


def sweep():
    """Twelve digits in four blocks: of the second block Z, Y − T, and dW up to it; and dW in the end, 12·dL/dW."""
    digits = split_and_scale(load_digits()).train
    rows, labels = digits.X[:12, 18:30].astype(np.float64), digits.labels[:12]
    W = np.random.default_rng(0).normal(size=(12, 10)) / 3
    params, second = Params(W, np.zeros((1, 10))), slice(3, 6)
    Z = formulas.linear(params, rows[second])
    return {
        "X": rows,
        "labels": labels,
        "W": W,
        "Z": Z,
        "D": 3 * formulas.logit_gradient(Z, labels[second]),
        "dW": 6 * formulas.gradient(params, rows[:6], labels[:6]).W,
        "whole": 12 * formulas.gradient(params, rows, labels).W,
    }


def digits():
    """The weights of each digit, 8 × 8, after some epochs of training and at the certified optimum."""
    train = split_and_scale(load_digits()).train
    kept = {}

    def keep(params, epoch):
        if epoch.epoch in SHOWN_EPOCHS:
            kept[epoch.epoch] = np.asarray(params.W)

    handgrad.train(train.X, train.labels, epochs=max(SHOWN_EPOCHS), batch_size=32, l2=1e-3, callback=keep)
    optimum = handgrad.fit(train.X, train.labels, l2=1e-3, tol=1e-4)
    weights = [*(kept[epoch] for epoch in SHOWN_EPOCHS), np.asarray(optimum.params.W)]
    return {"W": np.stack(weights).transpose(0, 2, 1).reshape(len(weights), 10, 8, 8)}


PICTURES = {
    function.__name__.replace("_", "-"): function
    for function in (
        shapes,
        softmax,
        cross_entropy,
        entropy,
        simplex,
        descent,
        regions,
        backpropagation,
        preconditioner,
        certificate,
        sweep,
        digits,
    )
}
