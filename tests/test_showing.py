"""What results look like in a notebook, and the bar of a fit that goes on."""

import re
import sys
import types

import numpy as np
import pytest

import handgrad
import oracles
from handgrad.progress import share_of_gap, shown


def data():
    _, _, X, t, _ = oracles.problem(50, 4, 3, dtype="float32")
    return X, t


CALLS = {
    "fit": lambda X, t, **own: handgrad.fit(X, t, l2=0.01, **own),
    "fit_path": lambda X, t, **own: handgrad.fit_path(X, t, l2s=np.logspace(-3, 0, 20), **own),
    "train": lambda X, t, **own: handgrad.train(X, t, epochs=3, validation=(X, t), **own),
}


# --- Tables -----------------------------------------------------------------------------------------------------------


def test_coefficients_are_a_table_of_some_lines_however_many_there_are():
    X, t = data()
    few = handgrad.fit(X, t, l2=0, tol=1e-4).standard_errors(X)
    assert repr(few) == str(few)
    assert str(few).splitlines()[1].split()[:3] == ["1", "intercept", f"{few.estimate[-1, 0]:.5g}"]
    many = few._replace(**{name: np.tile(getattr(few, name), (9, 1)) for name in few._fields[2:]})
    lines = repr(many).splitlines()
    assert lines[:21] == str(many).splitlines()[:21]
    assert lines[21:] == ["… 70 more, which print shows", "log-odds against class 0"]
    page = many._repr_html_()
    assert (page.count("<tr>"), page.count("<td>")) == (21, 160)
    assert "<th>std.err</th>" in page
    assert "<div>… 70 more, which print shows</div><div>log-odds against class 0</div>" in page


def test_a_report_of_a_check_is_its_table():
    X, t = data()
    report = handgrad.check_gradients(
        handgrad.init_params(4, 3), X, t, gradient=lambda *_: (np.ones((4, 3)), np.ones(3))
    )
    assert repr(report) == str(report)
    page = report._repr_html_()
    assert page.count("<tr>") == len(report.checks) + 1
    assert "<td>FAILED</td>" in page
    assert all(line.replace("<", "&lt;").replace("'", "&#x27;") in page for line in report.diagnosis.splitlines())


# --- The bar ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_a_bar_changes_nothing_and_leaves_the_callback_its_say(capsys, name):
    X, t = data()
    seen = []
    plain = CALLS[name](X, t, callback=lambda *own: seen.append(own))
    assert capsys.readouterr() == ("", "")
    again = []
    barred = CALLS[name](X, t, callback=lambda *own: again.append(own), progress=True)
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(name)
    np.testing.assert_array_equal(plain.params.W, barred.params.W)
    assert len(again) == len(seen) > 0
    calls = []
    CALLS[name](X, t, callback=lambda *own: calls.append(own) or name == "train", progress=True)
    assert name != "train" or len(calls) == 1


class Handle:
    """What IPython's display gives back, and all that it was told to show."""

    def __init__(self):
        self.pictures = []

    def update(self, picture):
        self.pictures.append(picture)


@pytest.fixture
def notebook(monkeypatch):
    """IPython as it is in a notebook."""
    handle = Handle()

    def display(picture, display_id):
        assert display_id is True
        handle.update(picture)
        return handle

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.HTML, ipython.display.display = str, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr("handgrad.progress.SECONDS", 0.0)
    return handle


@pytest.mark.parametrize("name", CALLS)
def test_a_notebook_has_a_bar_without_rich(notebook, name):
    X, t = data()
    CALLS[name](X, t, progress=True)
    shares = [
        float(re.match(r'<progress value="([0-9.]+)" max="1"></progress> ', each)[1]) for each in notebook.pictures
    ]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    assert len(shares) > 2
    assert name in notebook.pictures[0]
    words = {"fit": "within ", "fit_path": " of 20 fits", "train": "validation loss "}[name]
    assert words in notebook.pictures[-1]


def test_a_terminal_without_rich_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    X, t = data()
    with pytest.raises(ModuleNotFoundError, match=r"train: progress=True needs rich: pip install 'handgrad\[app\]'"):
        CALLS["train"](X, t, progress=True)


def test_ipython_in_a_terminal_is_no_notebook(monkeypatch, capsys):
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: None
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    with shown("f", True, None, lambda done: (done, "words")) as watched:
        watched(0.5)
    assert capsys.readouterr().err.startswith("f ")


def test_the_share_of_a_fit_is_the_logarithm_of_its_gap():
    share = share_of_gap(1e-4)
    shares = [share(i, 1.0, gap)[0] for i, gap in enumerate([1.0, 1e-1, 1e-2, 5.0, 1e-4, 1e-6])]
    np.testing.assert_allclose(shares, [0, 0.25, 0.5, 0, 1, 1])
    for first in (np.inf, 0.0, 1e-9):
        assert share_of_gap(1e-4)(1, 1.0, first)[0] == 0
