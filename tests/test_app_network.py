"""The program with hidden layers, and what they are good for on real images."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
import oracles
from handgrad.app.cli import main
from handgrad.data import Table, encode, load_digits


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "network"
    assert main(["train", "--hidden", "64", "--out", str(folder)]) == 0
    return folder


def test_a_hidden_layer_of_64_reads_97_of_100_digits(run):
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test_accuracy"] >= 0.97
    assert metrics["gradient_check_passed"]
    assert (metrics["hidden"], metrics["activation"]) == ([64], "relu")


def test_a_network_comes_back_from_its_file(run, tmp_path):
    model = handgrad.load(run)
    assert [(layer.params.W.shape, layer.activation) for layer in model.params] == [
        ((64, 64), "relu"),
        ((64, 10), "softmax"),
    ]
    X = load_digits().X[:20]
    np.savez(tmp_path / "digits.npz", X=X)
    assert main(["predict", str(run), str(tmp_path / "digits.npz"), "--out", str(tmp_path / "classes.csv")]) == 0
    rows = list(csv.reader((tmp_path / "classes.csv").read_text().splitlines()))
    expected = handgrad.predict_proba(model.params, jnp.asarray(encode(model.encoding, Table(X)).X))
    np.testing.assert_allclose(np.array(rows[1:], np.float32)[:, 1:], expected, rtol=1e-5)


def test_check_reports_each_layer(capsys):
    assert main(["check", "--hidden", "8,6", "--activation", "tanh"]) == 0
    rows = [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]]
    assert set(rows) == {"W1", "b1", "W2", "b2", "W3", "b3"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hidden", "64,x"], "handgrad: --hidden must be widths of layers with commas between them, as in 128,64; "),
        (["--hidden", "0"], "handgrad: --hidden must be widths"),
        (["--activation", "tanh"], "handgrad: --activation is that of hidden layers; got 'tanh' without --hidden. "),
        (["--hidden", "8", "--activation", "selu"], "handgrad: --activation must be one of identity, relu, "),
    ],
)
def test_wrong_layers_are_one_line(capsys, arguments, message):
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


@pytest.mark.slow
def test_two_hidden_layers_read_mnist_10k_better_than_none():
    X, t = oracles.mnist_10k()
    train, held_out = (X[:8000], t[:8000]), (X[8000:], t[8000:])
    settings = {"validation": held_out, "epochs": 30, "batch_size": 64, "learning_rate": 0.2}
    accuracies = []
    for sizes in ((784, 10), (784, 256, 128, 10)):
        params = handgrad.init_network(jax.random.key(0), sizes)
        accuracies.append(handgrad.train(*train, params=params, **settings).history[-1].validation_accuracy)
    flat, deep = accuracies
    print(f"MNIST-10k: softmax regression {flat:.4f}, 784-256-128-10 {deep:.4f}")
    assert deep >= 0.955 > flat > 0.88
