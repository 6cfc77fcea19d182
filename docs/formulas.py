"""Every formula that stands on lines of its own in docs/, computed as it is written, beside what handgrad says.

`FORMULAS` has, for the LaTeX of each, a function of a NumPy Generator that gives pairs of arrays: by the formula, in
float64 NumPy, and by handgrad's function. They are to be equal. Where a formula is an inequality the pair is max(left,
right) and right; where it defines what handgrad has no name for, right is what follows from it.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import handgrad
from handgrad import Layer, Params, formulas
from handgrad.formulas.activations import ACTIVATIONS
from handgrad.formulas.losses import residual
from handgrad.formulas.softmax import softmax_derivative
from handgrad.rows.blocks import DenseBlock
from handgrad.solvers.bias import minimise_bias
from handgrad.solvers.kronecker import Curvature, factor_features, preconditioner
from handgrad.solvers.step import suitable_rate
from handgrad.solvers.sums import class_moments

Pairs = list[tuple[Any, Any]]


class Problem(NamedTuple):
    """Drawn arrays of the notation, N = 5, P = 3, C = 4, in float64; a direction, and a network with a hidden layer."""

    X: np.ndarray
    params: Params
    t: np.ndarray
    T: np.ndarray
    Z: np.ndarray
    Y: np.ndarray
    direction: Params
    network: tuple[Layer, Layer]


def drawn(rng: np.random.Generator) -> Problem:
    X, T = rng.normal(size=(5, 3)), rng.dirichlet([1] * 4, 5)
    params, direction = _layer(rng, 3, 4), _layer(rng, 3, 4)
    Z = X @ params.W + params.b
    network = Layer(_layer(rng, 3, 6), "tanh"), Layer(_layer(rng, 6, 4), "softmax")
    return Problem(X, params, rng.permutation([0, 1, 2, 3, 3]), T, Z, softmax(Z), direction, network)


def _layer(rng: np.random.Generator, inputs: int, outputs: int) -> Params:
    return Params(rng.normal(size=(inputs, outputs)) / np.sqrt(inputs), rng.normal(size=(1, outputs)) / 2)


def softmax(Z: np.ndarray) -> np.ndarray:
    return np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)


def slopes(function: Callable[[np.ndarray], Any], at: Any) -> np.ndarray:
    """The derivative in each entry of the argument, by differences of the fourth order; that entry's axes first."""
    at, rises = np.asarray(at, np.float64), []
    for unit in np.eye(at.size).reshape(-1, *at.shape):
        f = [np.asarray(function(at + step * 1e-3 * unit)) for step in (-2, -1, 1, 2)]
        rises.append((f[0] - 8 * f[1] + 8 * f[2] - f[3]) / 12e-3)
    return np.reshape(rises, (*at.shape, *rises[0].shape))


def moved(params: Params, direction: Params, step: Any) -> Params:
    return Params(params.W + step * direction.W, params.b + step * direction.b)


def square(params: Params) -> Any:
    return np.sum(params.W**2) + np.sum(params.b**2)


# --- derivation/shapes.md, softmax.md -----------------------------------------------------------------------------


def entries_of_logits(p: Problem) -> Pairs:
    X, (W, b) = p.X, p.params
    Z = [[sum(X[i, q] * W[q, c] for q in range(3)) + b[0, c] for c in range(4)] for i in range(5)]
    return [(Z, formulas.linear(p.params, X))]


def shifted(p: Problem) -> Pairs:
    Z = p.Z + 1e3
    return [(softmax(Z - Z.max(axis=1, keepdims=True)), formulas.softmax(Z))]


SOFTMAX = {
    r"Z_{ic} = \sum_{p=1}^{P} X_{ip} W_{pc} + b_c": entries_of_logits,
    r"Z = XW + b": lambda p: [(p.X @ p.params.W + p.params.b, formulas.linear(p.params, p.X))],
    r"Y_{ic} = \frac{e^{Z_{ic}}}{\sum_{j=1}^{C} e^{Z_{ij}}}": lambda p: [
        ([[np.exp(z) / sum(np.exp(row)) for z in row] for row in p.Z], formulas.softmax(p.Z))
    ],
    r"\frac{Y_{ic}}{Y_{ij}} = e^{Z_{ic} - Z_{ij}}": lambda p: [
        (np.exp(p.Z[:, [c]] - p.Z), formulas.softmax(p.Z)[:, [c]] / formulas.softmax(p.Z)) for c in range(4)
    ],
    r"Y_{ic} = \frac{e^{Z_{ic} - m_i}}{\sum_{j=1}^{C} e^{Z_{ij} - m_i}}": shifted,
    r"\log Y_{ic} = Z_{ic} - \log \sum_{j=1}^{C} e^{Z_{ij}}": lambda p: [
        (p.Z - np.log(np.exp(p.Z).sum(axis=1, keepdims=True)), formulas.log_softmax(p.Z))
    ],
}

# --- derivation/cross-entropy.md ----------------------------------------------------------------------------------


def divergence_is_not_negative(p: Problem) -> Pairs:
    first, second = np.sum(p.T * np.log(p.Y / p.T)) / 5, np.sum(p.T * (p.Y / p.T - 1)) / 5
    found = 1 - formulas.kl_divergence(p.T, p.Y)  # beside 1, since what is 0 has no relative error
    return [(1 + first, found), (1 + second, 1 + max(first, second)), (1 + np.sum(p.Y - p.T) / 5, 1 + second)]


CROSS_ENTROPY = {
    r"\text{bits} = -\log_2 Y_{i,t_i}": lambda p: [
        (-np.log2(p.Y[i, p.t[i]]), formulas.cross_entropy(p.Z[[i]], p.t[[i]], base=2)) for i in range(5)
    ],
    r"L = -\frac{1}{N} \sum_{i=1}^{N} \log Y_{i,t_i}": lambda p: [
        (-sum(np.log(p.Y[i, p.t[i]]) for i in range(5)) / 5, formulas.cross_entropy(p.Z, p.t))
    ],
    r"L = -\frac{1}{N} \sum_{i=1}^{N} \sum_{c=1}^{C} T_{ic} \log Y_{ic}": lambda p: [
        (-np.sum(p.T * np.log(p.Y)) / 5, formulas.cross_entropy(p.Z, p.T)),
        (-np.sum(np.eye(4)[p.t] * np.log(p.Y)) / 5, formulas.cross_entropy(p.Z, p.t)),
    ],
    r"H(T) = -\frac{1}{N} \sum_{i=1}^{N} \sum_{c=1}^{C} T_{ic} \log T_{ic}": lambda p: [
        (-np.sum(p.T * np.log(p.T)) / 5, formulas.entropy(p.T))
    ],
    r"\mathrm{KL}(T \| Y) = \frac{1}{N} \sum_{i=1}^{N} \sum_{c=1}^{C} T_{ic} \log \frac{T_{ic}}{Y_{ic}}": lambda p: [
        (np.sum(p.T * np.log(p.T / p.Y)) / 5, formulas.kl_divergence(p.T, p.Y))
    ],
    r"H(T, Y) = H(T) + \mathrm{KL}(T \| Y)": lambda p: [
        (formulas.entropy(p.T) + formulas.kl_divergence(p.T, p.Y), formulas.cross_entropy(p.Z, p.T))
    ],
    r"-\mathrm{KL}(T \| Y) = \frac{1}{N} \sum_{i,c} T_{ic} \log \frac{Y_{ic}}{T_{ic}} "
    r"\le \frac{1}{N} \sum_{i,c} T_{ic} \left( \frac{Y_{ic}}{T_{ic}} - 1 \right) "
    r"= \frac{1}{N} \sum_{i,c} (Y_{ic} - T_{ic}) = 0": divergence_is_not_negative,
}

# --- derivation/gradient.md ---------------------------------------------------------------------------------------


def outer(p: Problem) -> np.ndarray:
    """diag(Y_i) − Y_iᵀY_i of each row: ∂Y_ic/∂Z_ik, (N, C, C)."""
    return p.Y[:, :, None] * (np.eye(4)[None] - p.Y[:, None, :])


def loss_of_a_row(p: Problem) -> Pairs:
    found = [formulas.cross_entropy(p.Z[[i]], p.T[[i]]) for i in range(5)]
    by_logits = np.log(np.exp(p.Z).sum(axis=1)) - np.sum(p.T * p.Z, axis=1)
    return [(-np.sum(p.T * np.log(p.Y), axis=1), found), (by_logits, found)]


def derivative_of_softmax(p: Problem) -> Pairs:
    by_unit = np.stack([softmax_derivative(np, p.Y, np.tile(unit, (5, 1))) for unit in np.eye(4)], axis=2)
    by_differences = [slopes(lambda z: formulas.softmax(z[None])[0], z).T for z in p.Z]
    return [(outer(p), by_unit), (outer(p), by_differences)]


def the_long_way(p: Problem) -> Pairs:
    found = residual(np, p.Z, p.T, None)
    by_chain_rule = np.einsum("ic,ick->ik", -p.T / p.Y, outer(p))
    return [(by_chain_rule, found), (-p.T + p.Y * p.T.sum(axis=1, keepdims=True), found), (p.Y - p.T, found)]


def entries_of_gradient(p: Problem) -> Pairs:
    found = formulas.gradient(p.params, p.X, p.T).W
    by_differences = slopes(lambda W: formulas.loss(p.params._replace(W=W), p.X, p.T), p.params.W)
    return [(np.einsum("ip,ic->pc", p.X, formulas.logit_gradient(p.Z, p.T)), found), (by_differences, found)]


GRADIENT = {
    r"\frac{\partial L}{\partial Z} = \frac{1}{N} (Y - T)": lambda p: [
        ((p.Y - p.T) / 5, formulas.logit_gradient(p.Z, p.T)),
        (slopes(lambda Z: formulas.cross_entropy(Z, p.T), p.Z), formulas.logit_gradient(p.Z, p.T)),
    ],
    r"\ell_i = -\sum_{c=1}^{C} T_{ic} \log Y_{ic} "
    r"= \log \sum_{j=1}^{C} e^{Z_{ij}} - \sum_{c=1}^{C} T_{ic} Z_{ic}": loss_of_a_row,
    r"\frac{\partial}{\partial Z_{ik}} \log \sum_{j=1}^{C} e^{Z_{ij}} "
    r"= \frac{e^{Z_{ik}}}{\sum_{j=1}^{C} e^{Z_{ij}}} = Y_{ik}": lambda p: [
        (slopes(lambda Z: np.log(np.exp(Z).sum(axis=1)).sum(), p.Z), formulas.softmax(p.Z)),
    ],
    r"\frac{\partial Y_{ic}}{\partial Z_{ik}} = Y_{ic} (\delta_{ck} - Y_{ik})": derivative_of_softmax,
    r"\frac{\partial \ell_i}{\partial Z_{ik}} "
    r"= \sum_{c=1}^{C} -\frac{T_{ic}}{Y_{ic}} Y_{ic} (\delta_{ck} - Y_{ik}) "
    r"= -T_{ik} + Y_{ik} \sum_{c=1}^{C} T_{ic} = Y_{ik} - T_{ik}": the_long_way,
    r"\frac{\partial L}{\partial W_{pc}} = \sum_{i=1}^{N} X_{ip} \frac{\partial L}{\partial Z_{ic}}": (
        entries_of_gradient
    ),
    r"\frac{\partial L}{\partial W} = \frac{1}{N} X^{\top} (Y - T)": lambda p: [
        (p.X.T @ (p.Y - p.T) / 5, formulas.gradient(p.params, p.X, p.T).W)
    ],
    r"\frac{\partial L}{\partial b} = \frac{1}{N} \mathbf{1}^{\top} (Y - T)": lambda p: [
        (np.ones((1, 5)) @ (p.Y - p.T) / 5, formulas.gradient(p.params, p.X, p.T).b)
    ],
}

# --- derivation/descent.md ----------------------------------------------------------------------------------------


def slope_along_the_gradient(p: Problem) -> Pairs:
    gradient = formulas.gradient(p.params, p.X, p.t)
    return [(slopes(lambda rate: formulas.loss(moved(p.params, gradient, -rate), p.X, p.t), 0.0), -square(gradient))]


def rate_that_suits(p: Problem) -> Pairs:
    X = 0.1 * p.X + np.array([3.0, 0.0, 0.0])  # the largest eigenvalue stands out, so that ten products find it
    x = np.column_stack([X, np.ones(5)])
    with jax.enable_x64(True):
        rate = suitable_rate(p.params, X, None, batch_size=None, l2=0.0)
    gradient = formulas.gradient(p.params, X, p.t)
    fallen = formulas.loss(p.params, X, p.t) - formulas.loss(formulas.sgd_step(p.params, gradient, rate), X, p.t)
    promised = rate / 2 * square(gradient)
    return [(1 / (np.linalg.eigvalsh(x.T @ x / 5)[-1] / 2), rate), (max(fallen, promised), fallen)]


DESCENT = {
    r"W \leftarrow W - \eta \frac{\partial L}{\partial W}": lambda p: [
        (p.params.W - 0.3 * p.direction.W, formulas.sgd_step(p.params, p.direction, 0.3).W)
    ],
    r"b \leftarrow b - \eta \frac{\partial L}{\partial b}": lambda p: [
        (p.params.b - 0.3 * p.direction.b, formulas.sgd_step(p.params, p.direction, 0.3).b)
    ],
    r"\frac{d}{d\eta} L\left(W - \eta \frac{\partial L}{\partial W}, b - \eta \frac{\partial L}{\partial b}\right) "
    r"= -\left\| \frac{\partial L}{\partial W} \right\|^2 "
    r"- \left\| \frac{\partial L}{\partial b} \right\|^2 \quad (\eta = 0)": slope_along_the_gradient,
    r"\eta = \frac{1}{\lambda / 2}": rate_that_suits,
}

# --- derivation/hidden-layers.md ----------------------------------------------------------------------------------


class Pass(NamedTuple):
    """What the formulas make of the network: Z_1, A_1, ∂L/∂A_1, and both δ."""

    Z: np.ndarray
    A: np.ndarray
    G: np.ndarray
    first: np.ndarray
    last: np.ndarray


def passed(p: Problem) -> Pass:
    (W, b), (W_2, b_2) = (layer.params for layer in p.network)
    Z = p.X @ W + b
    A = np.tanh(Z)
    last = (softmax(A @ W_2 + b_2) - p.T) / 5
    G = last @ W_2.T
    return Pass(Z, A, G, G * (1 - A**2), last)


def of_each_layer(field: str, by_formula: Callable[[Any, Any], Any]) -> Callable[[Problem], Pairs]:
    """dL/dW or dL/db of both layers, from their inputs and δ."""

    def check(p: Problem) -> Pairs:
        found, way = formulas.gradient(p.network, p.X, p.T), passed(p)
        pairs = zip(((p.X, way.first), (way.A, way.last)), found, strict=True)
        return [(by_formula(*own), getattr(layer.params, field)) for own, layer in pairs]

    return check


HIDDEN_LAYERS = {
    r"Z_l = A_{l-1} W_l + b_l": lambda p: [
        (passed(p).A @ p.network[1].params.W + p.network[1].params.b, formulas.forward(p.network, p.X))
    ],
    r"A_l = f_l(Z_l)": lambda p: [
        (function(p.Z), ACTIVATIONS[name].function(np, p.Z))
        for name, function in {"tanh": np.tanh, "relu": lambda Z: np.maximum(Z, 0)}.items()
    ],
    r"\delta = \frac{1}{N} (Y - T)": lambda p: [
        (passed(p).last, formulas.logit_gradient(formulas.forward(p.network, p.X), p.T))
    ],
    r"\frac{\partial L}{\partial A_l} = \delta_{l+1} W_{l+1}^{\top}": lambda p: [
        (passed(p).G, slopes(lambda A: formulas.loss(p.network[1].params, A, p.T), passed(p).A))
    ],
    r"\delta_l = \left(\delta_{l+1} W_{l+1}^{\top}\right) \circ f_l'(Z_l)": lambda p: [
        (passed(p).first, ACTIVATIONS["tanh"].backward(np, *passed(p)[:3])),
        (passed(p).first, slopes(lambda Z: formulas.loss(p.network[1].params, np.tanh(Z), p.T), passed(p).Z)),
    ],
    r"\frac{\partial L}{\partial W_l} = A_{l-1}^{\top} \delta_l": of_each_layer("W", lambda A, D: A.T @ D),
    r"\frac{\partial L}{\partial b_l} = \mathbf{1}^{\top} \delta_l": of_each_layer(
        "b", lambda _, D: np.ones((1, 5)) @ D
    ),
}

# --- derivation/curvature.md --------------------------------------------------------------------------------------


def change(p: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Ż along the direction, and Ẏ = Y ∘ (Ż − ⟨Y, Ż⟩)."""
    dZ = p.X @ p.direction.W + p.direction.b
    return dZ, p.Y * (dZ - (p.Y * dZ).sum(axis=1, keepdims=True))


def times_hessian(p: Problem) -> Params:
    return formulas.hessian_vector_product(p.params, p.X, p.direction)


def hessian(p: Problem) -> np.ndarray:
    """∂²L/∂W², (P·C, P·C), by a product for each entry of W."""
    units = (Params(unit.reshape(3, 4), np.zeros((1, 4))) for unit in np.eye(12))
    return np.stack([times_hessian(p._replace(direction=unit)).W.ravel() for unit in units])


def variance(p: Problem) -> Pairs:
    (dZ, _), found = change(p), times_hessian(p)
    variances = (p.Y * dZ**2).sum(axis=1) - (p.Y * dZ).sum(axis=1) ** 2
    return [(variances.mean(), np.sum(p.direction.W * found.W) + np.sum(p.direction.b * found.b))]


def kronecker_product(p: Problem) -> Pairs:
    params = Params(0 * p.params.W, p.params.b)  # where all rows of Y are the same it is exact
    equal = p._replace(params=params, Y=softmax(0 * p.Z + params.b))
    return [(np.kron(p.X.T @ p.X / 5, outer(equal).mean(axis=0)), hessian(equal))]


def features(p: Problem) -> tuple[np.ndarray, Curvature]:
    """A, and its eigenvectors by handgrad, which has the bias in the last row."""
    A = np.eye(4)
    A[:3, :3] = p.X.T @ p.X / 5
    return A, Curvature(*factor_features(A), None)


def moment_of_classes(p: Problem) -> Pairs:
    units = (Params(np.zeros((3, 4)), unit[None]) for unit in np.eye(4))
    of_bias = [times_hessian(p._replace(direction=unit)).b[0] for unit in units]
    return [(sum(np.diag(y) - np.outer(y, y) for y in p.Y) / 5, np.array(of_bias))]


def division(p: Problem) -> Pairs:
    (A, curvature), l2, V = features(p), 0.3, p.direction.W
    g = np.mean(p.Y * (1 - p.Y), axis=0)
    a, Q = np.linalg.eigh(A[:3, :3])
    by_formula = Q @ (Q.T @ V / (a[:, None] * g[None] + l2))
    solved = np.linalg.solve(np.kron(A[:3, :3], np.diag(g)) + l2 * np.eye(12), V.ravel()).reshape(3, 4)
    divide = preconditioner(curvature, g[None], np.array([l2]), np.ones((1, 4), bool))
    found = curvature.Q @ divide((curvature.Q.T @ np.vstack([V, np.zeros((1, 4))]))[None])[0]
    return [(by_formula, solved), (by_formula - by_formula.mean(axis=1, keepdims=True), found[:3])]


def blocks_of_classes(p: Problem) -> Pairs:
    Q = features(p)[1].Q[:, -3:]  # two eigenvectors, and the bias
    V, one, N = np.vstack(p.params), np.ones(1), len(p.X)
    shared = (V[None], one, Q), np.zeros(1, int)
    found = class_moments(DenseBlock(p.X, 1.0), p.t, np.full((N, 1), 1 / N), shared, 1).moments
    by_formula = [Q[:3, :2].T @ (p.X.T * (y * (1 - y)) @ p.X / N) @ Q[:3, :2] + 0.3 * np.eye(2) for y in p.Y.T]
    return [(np.stack(by_formula), found[:, :2, :2] + 0.3 * np.eye(2))]


CURVATURE = {
    r"\dot Z = X \dot W + \dot b": lambda p: [
        (change(p)[0], slopes(lambda s: formulas.linear(moved(p.params, p.direction, s), p.X), 0.0))
    ],
    r"\dot Y_{ic} = \sum_{k=1}^{C} Y_{ic} (\delta_{ck} - Y_{ik}) \dot Z_{ik} "
    r"= Y_{ic} \left( \dot Z_{ic} - \sum_{k=1}^{C} Y_{ik} \dot Z_{ik} \right)": lambda p: [
        (np.einsum("ick,ik->ic", outer(p), change(p)[0]), softmax_derivative(np, p.Y, change(p)[0])),
        (change(p)[1], softmax_derivative(np, p.Y, change(p)[0])),
    ],
    r"\dot Y = Y \circ (\dot Z - \langle Y, \dot Z \rangle)": lambda p: [
        (change(p)[1], slopes(lambda s: formulas.softmax(p.Z + s * change(p)[0]), 0.0))
    ],
    r"H (\dot W, \dot b) = \left( \frac{1}{N} X^{\top} \dot Y, \; \frac{1}{N} \mathbf{1}^{\top} \dot Y \right)": (
        lambda p: [
            (p.X.T @ change(p)[1] / 5, times_hessian(p).W),
            (np.ones((1, 5)) @ change(p)[1] / 5, times_hessian(p).b),
        ]
    ),
    r"\langle (\dot W, \dot b), H (\dot W, \dot b) \rangle = \frac{1}{N} \sum_{i=1}^{N} "
    r"\left( \sum_{c=1}^{C} Y_{ic} \dot Z_{ic}^2 - "
    r"\left( \sum_{c=1}^{C} Y_{ic} \dot Z_{ic} \right)^2 \right)": variance,
    r"H_{pc,qk} = \frac{1}{N} \sum_{i=1}^{N} X_{ip} X_{iq} \cdot Y_{ic} (\delta_{ck} - Y_{ik})": lambda p: [
        (np.einsum("ip,iq,ick->pcqk", p.X, p.X, outer(p)).reshape(12, 12) / 5, hessian(p))
    ],
    r"H \approx A \otimes G": kronecker_product,
    r"A = \frac{1}{N} X^{\top} X": lambda p: [
        (features(p)[0], features(p)[1].Q @ np.diag(features(p)[1].a) @ features(p)[1].Q.T)
    ],
    r"G = \frac{1}{N} \sum_{i=1}^{N} \left( \mathrm{diag}(Y_i) - Y_i^{\top} Y_i \right)": moment_of_classes,
    r"(A \otimes \mathrm{diag}(g) + l_2 I)^{-1} \, V = Q \, \frac{Q^{\top} V}{a g^{\top} + l_2}": division,
    r"B_c = Q_k^{\top} \left( \frac{1}{N} \sum_{i=1}^{N} Y_{ic} (1 - Y_{ic}) \, X_i^{\top} X_i \right) Q_k + l_2 I": (
        blocks_of_classes
    ),
}

# --- derivation/certificate.md ------------------------------------------------------------------------------------

L2 = 0.1


def F(p: Problem, W: Any, b: Any) -> Any:
    return formulas.loss(Params(W, b), p.X, p.t) + L2 / 2 * np.sum(W**2)


def dF(p: Problem, W: Any, b: Any) -> Any:
    return formulas.gradient(Params(W, b), p.X, p.t).W + L2 * W


def floor(p: Problem, v: Any) -> Any:
    """The tangent at W and the parabola on it, at v."""
    (W, b), gradient = p.params, dF(p, *p.params)
    return F(p, W, b) + np.sum(gradient * (v - W)) + L2 / 2 * np.sum((v - W) ** 2)


def fit(p: Problem, iterations: int, *, intercept: bool = True) -> tuple[Any, np.ndarray, np.ndarray]:
    """A fit in float64 that ends after so many iterations: F and the gap that it says, W and b."""
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        result = handgrad.fit(p.X, p.t, l2=L2, tol=1e-12, max_iterations=iterations, fit_intercept=intercept)
    return result, *map(np.asarray, result.params)


def lowest_of_the_floor(p: Problem) -> Pairs:
    W, gradient = p.params.W, dF(p, *p.params)
    written = F(p, *p.params) - np.sum(gradient**2) / L2 + np.sum(gradient**2) / (2 * L2)
    by_formula = F(p, *p.params) - np.sum(gradient**2) / (2 * L2)
    return [(written, by_formula), (floor(p, W - gradient / L2), by_formula)]


def gap_without_bias(p: Problem) -> Pairs:
    (early, W, b), optimum = fit(p, 2, intercept=False), fit(p, 200, intercept=False)[0]
    bound = np.sum(dF(p, W, b) ** 2) / (2 * L2)
    return [(max(F(p, W, b) - optimum.loss, bound), bound), (min(bound, F(p, W, b)), early.gap)]


def gap(p: Problem) -> Pairs:
    (early, W, b), optimum = fit(p, 2), fit(p, 200)[0]
    best = minimise_bias(lambda: [((p.X @ W).T, np.eye(4)[p.t].T, np.full(5, 0.2))], b[0]).b[None]
    bound = np.sum(dF(p, W, best) ** 2) / (2 * L2) + F(p, W, b) - F(p, W, best)
    return [(max(F(p, W, b) - optimum.loss, bound), bound), (min(bound, F(p, W, b)), early.gap)]


CERTIFICATE = {
    r"F(W, b) = L(W, b) + \frac{l_2}{2} \|W\|^2": lambda p: [(F(p, *fit(p, 3)[1:]), fit(p, 3)[0].loss)],
    r"F(v) \ge F(w) + \langle \nabla F(w), v - w \rangle + \frac{l_2}{2} \|v - w\|^2": lambda p: [
        (max(F(p, v, p.params.b), floor(p, v)), F(p, v, p.params.b)) for v in (p.direction.W, 0 * p.direction.W)
    ],
    r"F(w) - \frac{\|\nabla F(w)\|^2}{l_2} + \frac{\|\nabla F(w)\|^2}{2 l_2} "
    r"= F(w) - \frac{\|\nabla F(w)\|^2}{2 l_2}": lowest_of_the_floor,
    r"F(w) - \min F \le \frac{\|\nabla F(w)\|^2}{2 l_2}": gap_without_bias,
    r"F(W, b) - \min F \le \frac{\|\nabla_W F(W, b^*)\|^2}{2 l_2} + F(W, b) - F(W, b^*)": gap,
}

# --- derivation/sweep.md ------------------------------------------------------------------------------------------

BLOCKS = (slice(0, 2), slice(2, 3), slice(3, 5))


def gradient_of_data(p: Problem) -> Pairs:
    by_blocks = np.concatenate([(p.Y[rows] - p.T[rows]) @ p.params.W.T / 5 for rows in BLOCKS])
    with jax.enable_x64(True):
        found = jax.grad(handgrad.linear_cross_entropy)(p.X, p.params.W, p.T, bias=p.params.b[0], block_size=2)
    return [(by_blocks, found)]


SWEEP = {
    r"L = \frac{1}{N} \sum_B \sum_{i \in B} \ell_i": lambda p: [
        (sum(-np.sum(p.T[rows] * np.log(p.Y[rows])) for rows in BLOCKS) / 5, formulas.loss(p.params, p.X, p.T))
    ],
    r"\frac{\partial L}{\partial W} = \frac{1}{N} \sum_B X_B^{\top} (Y_B - T_B)": lambda p: [
        (sum(p.X[B].T @ (p.Y[B] - p.T[B]) for B in BLOCKS) / 5, formulas.gradient(p.params, p.X, p.T).W)
    ],
    r"\frac{\partial L}{\partial b} = \frac{1}{N} \sum_B \mathbf{1}^{\top} (Y_B - T_B)": lambda p: [
        (sum((p.Y[B] - p.T[B]).sum(axis=0)[None] for B in BLOCKS) / 5, formulas.gradient(p.params, p.X, p.T).b)
    ],
    r"\frac{\partial L}{\partial X_B} = \frac{1}{N} (Y_B - T_B) W^{\top}": gradient_of_data,
}

# ------------------------------------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Problem], Pairs]] = {
    **SOFTMAX,
    **CROSS_ENTROPY,
    **GRADIENT,
    **DESCENT,
    **HIDDEN_LAYERS,
    **CURVATURE,
    **CERTIFICATE,
    **SWEEP,
}


def _check(check: Callable[[Problem], Pairs], rng: np.random.Generator) -> Pairs:
    return check(drawn(rng))


FORMULAS: dict[str, Callable[[np.random.Generator], Pairs]] = {
    latex: functools.partial(_check, check) for latex, check in CHECKS.items()
}
