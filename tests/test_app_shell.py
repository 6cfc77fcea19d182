"""The program as what surrounds it has it: signals amid imports, streams that are closed, full, or lack letters."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import handgrad
from handgrad.app import cli, fitting, training
from handgrad.app.cli import main
from handgrad.app.screen import Screen, make_screen
from handgrad.models import save

NAMES = ("да", "нет ±")


@pytest.fixture
def handled(monkeypatch):
    """Signals that the program answers, as when it begins: none received yet, whatever ran before in this process."""
    monkeypatch.setattr(cli, "received", [])
    monkeypatch.setattr(cli, "postponed", [])
    before = signal.signal(signal.SIGINT, cli._end)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def points(tmp_path, monkeypatch):
    """Rows of two classes, in a table and as embeddings; nothing checks gradients, which compiles."""
    for module in (fitting, training):
        monkeypatch.setattr(module, "check_at", lambda *_, **__: handgrad.GradientReport((), True, ""))
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    X = rng.normal(size=(60, 3)).astype(np.float32) + labels[:, None]
    np.savez(tmp_path / "points.npz", X=X, y=labels)
    return tmp_path / "points.npz"


def stream(encoding):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")


def written(stream):
    stream.flush()
    return stream.buffer.getvalue()


# --- Signals ----------------------------------------------------------------------------------------------------------


def test_an_interruption_amid_an_import_comes_at_its_end(handled, tmp_path, monkeypatch):
    signal.signal(signal.SIGINT, cli.raise_interrupt)
    (tmp_path / "interrupted_module.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\ndone = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    def go_on():
        import interrupted_module  # noqa: F401

        end = time.monotonic() + 20
        while time.monotonic() < end:
            pass

    with pytest.raises(KeyboardInterrupt):
        go_on()
    assert sys.modules["interrupted_module"].done
    assert (cli.received, cli.postponed) == ([signal.SIGINT], [])


def test_a_second_interruption_amid_an_import_ends_at_once(handled, tmp_path, monkeypatch):
    class Ended(BaseException):
        pass

    def end(number, _=None):
        raise Ended(number)

    monkeypatch.setattr(cli, "_end", end)
    monkeypatch.setattr(cli, "_soon", lambda *_: None)
    signal.signal(signal.SIGINT, cli.raise_interrupt)
    (tmp_path / "twice_interrupted.py").write_text("import signal\nfor _ in range(9):\n    signal.raise_signal(2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Ended):
        import twice_interrupted  # noqa: F401
    assert cli.postponed == [signal.SIGINT]


def test_a_signal_ends_the_program_at_once_until_a_command_has_been_imported(handled, monkeypatch, capsys):
    seen = []

    class Watching:
        @staticmethod
        def find_spec(name, *_):
            if name == "handgrad.app.exporting":
                seen.append(signal.getsignal(signal.SIGINT))

    monkeypatch.setattr(sys, "meta_path", [Watching, *sys.meta_path])
    monkeypatch.delitem(sys.modules, "handgrad.app.exporting", raising=False)
    assert main(["export", "nowhere", "--to", "npz"]) == 2
    assert seen == [cli._end]
    assert signal.getsignal(signal.SIGINT) is cli.raise_interrupt


def test_a_file_of_the_user_s_is_interrupted_as_it_runs(handled, tmp_path, capsys):
    signal.signal(signal.SIGINT, cli.raise_interrupt)
    file = tmp_path / "mine.py"
    file.write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    assert main(["check", "--gradient", f"{file}:gradient"]) == 130
    assert cli.received == [signal.SIGINT]


# --- Streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["fit", "train", "probe"])
def test_a_run_is_kept_whose_end_cannot_be_said(points, tmp_path, monkeypatch, capsys, command):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Screen, "show", fail)
    arguments = {"fit": ["--l2", "1"], "train": ["--epochs", "1"], "probe": ["y", "--name", "X", "--l2", "1"]}[command]
    assert main([command, str(points), *arguments, "--out", str(tmp_path / "run")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").exists()


def test_a_screen_that_nobody_reads_any_more_falls_silent(monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        screen = make_screen()
        for _ in range(3):
            screen.say("x" * 100_000)


def test_what_lacks_a_reader_ends_with_the_status_of_a_broken_pipe():
    command = [sys.executable, "-m", "handgrad", "fit", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)


@pytest.mark.skipif(os.name != "posix", reason="closes a stream by a shell")
def test_closed_streams_and_poor_encodings_are_no_error():
    line = '"$0" -m handgrad --version >&- && "$0" -m handgrad --version 2>&- && "$0" -m handgrad fit --help'
    how = {"env": os.environ | {"PYTHONIOENCODING": "ascii"}, "capture_output": True, "text": True, "check": True}
    done = subprocess.run(["sh", "-c", line, sys.executable], **how)
    assert done.stdout.startswith("handgrad ")
    assert r"\u2016W\u2016" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_an_object_and_a_table_are_what_they_are_in_any_encoding(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdout", stream(encoding))
    make_screen(as_json=True).answer(lambda: {"names": list(NAMES)})
    assert json.loads(written(sys.stdout).decode(encoding))["names"] == list(NAMES)

    params = handgrad.Params(np.eye(2, dtype=np.float32), np.zeros((1, 2), np.float32))
    save(params, tmp_path / "run", class_names=NAMES)
    np.savez(tmp_path / "new.npz", X=np.eye(2))
    monkeypatch.setattr(sys, "stdout", stream(encoding))
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "new.npz")]) == 0
    assert written(sys.stdout).decode("utf-8").splitlines()[0] == "class,да,нет ±"
