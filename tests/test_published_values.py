"""Coefficients and standard errors that others have published: unpenalised maximum likelihood."""

import csv
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import handgrad
from handgrad import Params

# J. R. Ashford, *An approach to the analysis of data for semi-quantal responses in biological assay* (1959): years of
# exposure of coal miners, and how many of them had normal, mild and severe pneumoconiosis.
PNEUMO = np.array(
    [
        [5.8, 98, 0, 0],
        [15, 51, 2, 1],
        [21.5, 34, 6, 3],
        [27.5, 35, 5, 8],
        [33.5, 32, 10, 9],
        [39.5, 23, 7, 8],
        [46, 12, 6, 10],
        [51.5, 4, 2, 5],
    ]
)


def pneumo():
    """Log exposure, proportions as soft targets, numbers of miners as weights."""
    counts = PNEUMO[:, 1:]
    return np.log(PNEUMO[:, :1]), counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=1)


def iris():
    """Versicolor (0) against virginica (1). R. A. Fisher, *The use of multiple measurements* (1936); UCI, CC BY 4.0."""
    with (Path(__file__).parent / "data" / "iris.csv").open(newline="") as file:
        rows = [row for row in csv.reader(file) if row[-1] in ("versicolor", "virginica")]
    X = np.array([row[:-1] for row in rows], float)
    return X, np.array([row[-1] == "virginica" for row in rows]).astype(np.int32)


def log_odds(params):
    """(intercept, slopes) of each class against the last."""
    relative = jax.tree.map(lambda array: np.asarray(array - array[:, -1:]), params)
    return np.concatenate([relative.b, relative.W]).T[:-1]


def hessian(params, X, weights=None):
    """The Hessian of the mean loss in the entries of W, row by row, and then of b."""
    flat, unflatten = jax.flatten_util.ravel_pytree(params)

    def column(direction):
        product = handgrad.hessian_vector_product(params, X, unflatten(direction), weights)
        return jax.flatten_util.ravel_pytree(product)[0]

    return jax.vmap(column)(jnp.eye(flat.size))


def newton(X, targets, weights=None, *, num_classes, steps=12):
    """Newton's method on the gradient and the Hessian by hand; the last class's part is fixed by the pseudoinverse."""
    params = handgrad.init_params(X.shape[1], num_classes)
    for _ in range(steps):
        gradient, unflatten = jax.flatten_util.ravel_pytree(handgrad.gradient(params, X, targets, weights))
        step = unflatten(jnp.linalg.lstsq(hessian(params, X, weights), gradient, rcond=1e-13)[0])
        params = handgrad.sgd_step(params, step, 1.0)
    return params


def test_pneumo_has_the_published_coefficients_deviance_and_standard_errors(x64):
    X, T, w = pneumo()
    params = newton(X, T, w, num_classes=3)
    published = [[11.97509199, -3.06746649], [3.03906225, -0.90209361]]
    np.testing.assert_allclose(log_odds(params), published, rtol=1e-8)
    # The deviance compares with the model that fits every row.
    excess = handgrad.loss(params, X, T, w) - np.sum(w * [handgrad.entropy(row[None]) for row in T]) / w.sum()
    np.testing.assert_allclose(2 * w.sum() * excess, 5.347382, rtol=1e-6)
    # Information about (intercept, slope) of the first two classes, the last taken as base.
    information = np.asarray(w.sum() * hessian(params, X, w)).reshape(2, 3, 2, 3)[::-1, :2, ::-1, :2]
    covariance = np.linalg.inv(information.transpose(1, 0, 3, 2).reshape(4, 4))
    published = [2.00044532, 0.56520669, 2.37607073, 0.66898220]
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), published, rtol=1e-7)


def test_iris_has_the_published_coefficients_and_deviance(x64):
    X, t = iris()
    params = newton(X, t, num_classes=2)
    published = [[42.63780381, 2.4652202, 6.68088701, -9.42938515, -18.28613689]]
    np.testing.assert_allclose(log_odds(params), published, rtol=1e-7)
    np.testing.assert_allclose(2 * len(X) * handgrad.loss(params, X, t), 11.898547, rtol=1e-7)


def test_the_gradient_vanishes_at_the_published_coefficients(x64):
    X, T, w = pneumo()
    params = Params(W=np.array([[-3.06746649, -0.90209361, 0]]), b=np.array([[11.97509199, 3.03906225, 0]]))
    gradient = handgrad.gradient(params, X, T, w)
    # The coefficients are given to 8 decimals.
    np.testing.assert_allclose(np.concatenate([gradient.W, gradient.b]), 0, atol=1e-8)


def test_full_batch_training_reaches_the_published_coefficients(x64, standard_promotion):
    X, T, w = pneumo()
    # Adam, its rate falling to 0, on log exposure brought to mean 0, which moves only the intercept.
    mean = X.mean()
    rate = optax.cosine_decay_schedule(0.1, 3000)
    result = handgrad.train(X - mean, T, weights=w, optimizer=optax.adam(rate), batch_size=None, epochs=3000)
    params = Params(W=result.params.W, b=result.params.b - mean * result.params.W)
    published = [[11.97509199, -3.06746649], [3.03906225, -0.90209361]]
    np.testing.assert_allclose(log_odds(params), published, rtol=1e-6)
