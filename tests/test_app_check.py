"""`handgrad check --gradient FILE.py:FUNCTION`: the user's own gradient from the program."""

import numpy as np
import pytest

from handgrad.app.cli import main
from test_app import fails

MINE = """
import dataclasses
import numpy as np
from beside import softmax


@dataclasses.dataclass
class Gradient:
    W: np.ndarray
    b: np.ndarray


def gradient(params, X, targets):
    Y = softmax(X @ params.W + params.b)
    D = (Y - np.eye(Y.shape[1])[targets]) / len(X)
    return Gradient(X.T @ D, D.sum(axis=0))


def wrong(params, X, targets):
    right = gradient(params, X, targets)
    return -right.W, -right.b


def raises(params, X, targets):
    return X @ X


def returns_nothing(params, X, targets):
    pass


def network(layers, X, targets):
    (W1, b1), (W2, b2) = (layer.params for layer in layers)
    A = np.tanh(X @ W1 + b1)
    Y = softmax(A @ W2 + b2)
    D2 = (Y - np.eye(Y.shape[1])[targets]) / len(X)
    D1 = D2 @ W2.T * (1 - A * A)
    return [(X.T @ D1, D1.sum(axis=0)), (A.T @ D2, D2.sum(axis=0))]


number = 1
"""

BESIDE = """
import numpy as np


def softmax(Z):
    exponentials = np.exp(Z - Z.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A file with gradients, in the current folder, that imports one beside it; and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "beside.py").write_text(BESIDE)
    random = np.random.default_rng(0)
    np.savez("data.npz", X=random.normal(size=(30, 3)), y=np.arange(30) % 2)


def test_a_right_gradient_is_exit_status_0(files, capsys):
    assert main(["check", "data.npz", "--gradient", "mine.py:gradient"]) == 0
    assert all(line.endswith("passed") for line in capsys.readouterr().out.splitlines()[1:])


def test_a_network_s_gradient_is_checked_with_its_hidden_layers(files, capsys):
    arguments = ["check", "data.npz", "--hidden", "4", "--activation", "tanh"]
    assert main([*arguments, "--gradient", "mine.py:network"]) == 0
    assert " W1 " in capsys.readouterr().out


def test_a_wrong_gradient_is_exit_status_1_and_named(files, capsys):
    assert main(["check", "data.npz", "--gradient", "mine.py:wrong"]) == 1
    *table, diagnosis = capsys.readouterr().out.splitlines()
    assert all(line.endswith("FAILED") for line in table[1:])
    assert diagnosis == "dW and db: the sign is wrong, T − Y where the derivative is Y − T."


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        ("mine.py", "--gradient must be FILE.py:FUNCTION, as in my_file.py:gradient; got 'mine.py'."),
        ("mine:gradient", "--gradient must be FILE.py:FUNCTION"),
        ("mine.py:", "--gradient must be FILE.py:FUNCTION"),
        ("yours.py:gradient", "--gradient yours.py:gradient: there is no file yours.py."),
        (
            "mine.py:gradients",
            "mine.py has no function gradients. Its functions: softmax, gradient, wrong, raises, ret",
        ),
        ("mine.py:number", "mine.py has no function number."),
        ("syntax.py:f", "syntax.py, line 2: "),
        ("import.py:f", "import.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("exit.py:f", "exit.py, line 2: SystemExit: 3"),
        ("bytes.py:f", "bytes.py"),
        ("mine.py:raises", "mine.py, line 25: ValueError: matmul: "),
        ("mine.py:returns_nothing", "check_gradients: gradient must return dW and db: a pair (dW, db), "),
    ],
)
def test_a_mistake_in_the_argument_is_one_line(files, capsys, tmp_path, gradient, message):
    (tmp_path / "syntax.py").write_text("x = 1\ndef f(:\n")
    (tmp_path / "import.py").write_text("import no_such_module\n")
    (tmp_path / "exit.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "bytes.py").write_bytes(b"x = '\xff'\n")
    assert message in fails(capsys, "check", "data.npz", "--gradient", gradient)


def test_the_help_says_what_the_function_gets_and_returns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["check", "--help"]) == 0
    output = capsys.readouterr().out
    for words in ("FILE.py:FUNCTION", "function of (params, X, targets) that returns (dW, db)", "Exit status 1"):
        assert words in output
