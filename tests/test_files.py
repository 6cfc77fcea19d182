"""Files and runs: what was there is whole, or what is new is, whatever happens while they are written."""

import fcntl
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

import writing
from handgrad import files
from handgrad.files import new_file, new_run

DRIVER = str(pathlib.Path(writing.__file__))


def start(folder, how, *rest):
    command = [sys.executable, DRIVER, str(folder), how, *map(str, rest)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def number_of(folder):
    """The number of the run that is there, every file of which must be of that run, and the user's note beside it."""
    contents = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(contents) == {"model.safetensors", "metrics.json", "loss.png", "notes.txt"}
    assert contents.pop("notes.txt") == "mine"
    (content,) = set(contents.values())
    assert content.count("\n") == 20_000
    return int(content.partition("\n")[0])


def settled(folder):
    """The number of the run after the next start, which leaves nothing else beside it."""
    files.settle(folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    return number_of(folder)


def die_while_writing(folder, how, kills, seed):
    writing.write(folder, 0)
    rng = random.Random(seed)
    for _ in range(kills):
        with start(folder, how) as process:
            started = process.stdout.readline()
            time.sleep(rng.uniform(0, 0.02))
            process.kill()
            last = int((started + process.stdout.read()).split()[-1])
        if how == "exchange":
            assert number_of(folder) in (last, last + 1)
        assert settled(folder) in (last, last + 1)


@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_a_process_killed_while_it_writes_leaves_a_whole_run(tmp_path, how):
    die_while_writing(tmp_path / "run", how, 15, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_a_process_killed_at_hundreds_of_moments_leaves_a_whole_run(tmp_path, how):
    die_while_writing(tmp_path / "run", how, 300, seed=1)


@pytest.mark.parametrize(
    ("how", "number", "when", "expected"),
    [
        ("exchange", 0, "before", 0),
        ("exchange", 0, "after", 1),
        ("renames", 0, "before", 0),
        ("renames", 0, "after", 0),
        ("renames", 1, "before", 0),
        ("renames", 1, "after", 1),
    ],
)
def test_a_process_killed_at_a_rename_leaves_a_whole_run(tmp_path, how, number, when, expected):
    folder = tmp_path / "run"
    writing.write(folder, 0)
    with start(folder, how, number, when) as process:
        assert process.stdout.read() == ""
    assert process.returncode == -signal.SIGKILL
    if how == "exchange":
        assert number_of(folder) == expected
    assert settled(folder) == expected


@pytest.mark.parametrize("how", ["exchange", "renames"])
def test_there_are_no_other_renames(tmp_path, how):
    writing.write(tmp_path / "run", 0)
    with start(tmp_path / "run", how, 1 + (how == "renames"), "before") as process:
        assert process.stdout.read() == "done\n"
    assert settled(tmp_path / "run") == 1


def test_a_new_run_that_is_killed_at_its_rename_is_there_or_not(tmp_path):
    for when, expected in (("before", []), ("after", ["run"])):
        with start(tmp_path / "run", "exchange", 0, when) as process:
            process.wait()
        files.settle(tmp_path / "run")
        assert [path.name for path in tmp_path.iterdir()] == expected


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    folder = tmp_path / "run"
    with new_run(folder, overwrite=False) as temporary:
        (temporary / "model.safetensors").write_text("a")
        command = [sys.executable, "-c", f"import pathlib; from handgrad import files; files.settle({folder!r})"]
        subprocess.run([*command[:2], command[2].replace("PosixPath", "pathlib.Path")], check=True)
        assert (temporary / "model.safetensors").exists()
        with new_run(folder, overwrite=False) as other:
            (other / "model.safetensors").write_text("b")
        assert temporary.exists()
        (folder / "model.safetensors").unlink()
    assert (folder / "model.safetensors").read_text() == "a"
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_dead_process_left_is_removed_and_nothing_else(tmp_path):
    for name in (".run.0123abcd.partial", ".run.0123abcd.earlier"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    for name in (".run.backup.partial", ".runs.0123abcd.partial", "run.0123abcd.partial"):
        (tmp_path / name).mkdir()
    (tmp_path / ".table.csv.0123abcd.partial").touch()
    with new_run(tmp_path / "run", overwrite=False) as temporary:
        (temporary / "model.safetensors").touch()
    with new_file(tmp_path / "table.csv") as temporary:
        temporary.write_text("a")
    names = {".run.backup.partial", ".runs.0123abcd.partial", "run.0123abcd.partial", "run", "table.csv"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_two_writers_do_not_remove_what_the_other_is_about_to_lock(tmp_path, monkeypatch):
    real, first = fcntl.flock, []

    def flock(descriptor, operation):
        if not first:  # between the folder's making and its lock, another process removes it
            first.append(descriptor)
            assert files._remove_if_dead(next(tmp_path.iterdir()))
        return real(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with new_run(tmp_path / "run", overwrite=False) as temporary:
        (temporary / "model.safetensors").touch()
    assert first
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    (tmp_path / ".run.0123abcd.partial").mkdir()  # of which nobody can know
    writing.write(tmp_path / "run", 0)
    writing.write(tmp_path / "run", 3)
    assert number_of(tmp_path / "run") == 3
    assert {path.name for path in tmp_path.iterdir()} == {"run", ".run.0123abcd.partial"}


# --- What is in the way -----------------------------------------------------------------------------------------------


def enter(path, overwrite):
    with new_run(path, overwrite=overwrite) as temporary:
        (temporary / "model.safetensors").write_text("new")


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_a_run_is_replaced_and_only_when_asked(tmp_path, overwrite, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "metrics.json").write_text("mine")
    (tmp_path / "file").touch()
    for name, message in (
        ("metrics", "metrics: holds files and no run. Choose a folder that is new or empty."),
        ("file", "file: is a file; a run needs a folder."),
        (".", r"\.: is the current folder, which a run cannot replace. Name a folder in it."),
        ("/", "/: is where a file system begins"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            enter(pathlib.Path(name), overwrite)
    assert (tmp_path / "metrics" / "metrics.json").read_text() == "mine"
    writing.write(tmp_path / "run", 0)
    if not overwrite:
        with pytest.raises(ValueError, match=r"run: holds a run already. Choose another folder, or pass --overwrite"):
            enter(tmp_path / "run", overwrite)
        assert number_of(tmp_path / "run") == 0
    (tmp_path / "run" / "weights.png").mkdir()
    if overwrite:
        with pytest.raises(ValueError, match=r"weights\.png: stands where a run has a file, and is none. Move it away"):
            enter(tmp_path / "run", overwrite)
    assert (tmp_path / "run" / "loss.png").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"metrics", "file", "run"}


def test_an_empty_folder_and_what_version_0_1_left_in_it_are_no_obstacle(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed" / ".partial-abc").mkdir(parents=True)
    for name in ("empty", "killed", "a/b/c"):
        enter(tmp_path / name, overwrite=False)
        assert [path.name for path in (tmp_path / name).iterdir()] == ["model.safetensors"]


def test_what_the_user_has_beside_a_run_stays_whatever_it_is(tmp_path):
    folder = tmp_path / "run"
    writing.write(folder, 0)
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / "sub" / "deep" / "a.txt").write_text("a")
    (folder / "link").symlink_to("sub")
    (folder / "broken").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    folder.chmod(0o700)
    enter(folder, overwrite=True)
    assert {path.name for path in folder.iterdir()} == {
        "model.safetensors", "notes.txt", "sub", "link", "broken", "fifo",
    }  # fmt: skip
    assert (folder / "link" / "deep" / "a.txt").read_text() == "a"
    assert (folder / "broken").readlink() == pathlib.Path("nowhere")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(tmp_path.iterdir()) == [folder]


def test_a_failure_leaves_no_folder_that_was_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_run(tmp_path / "a" / "b" / "run", overwrite=False):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_run_stays_a_link(tmp_path):
    writing.write(tmp_path / "real" / "run", 0)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "run")
    enter(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "run" / "model.safetensors").read_text() == "new"


def test_a_file_replaces_files_and_nothing_else(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    for path, message in (
        (tmp_path / "fifo", "is no regular file; a file is needed."),
        (pathlib.Path(os.devnull), "is no regular file"),
        (tmp_path / "folder", "is a folder; a file is needed. Choose another name."),
        (pathlib.Path(""), "is a folder"),
    ):
        with pytest.raises(ValueError, match=message), new_file(path):
            pass
    with pytest.raises(FileNotFoundError, match="there is no such folder"), new_file(tmp_path / "a" / "b"):
        pass
    with new_file(tmp_path / "link.csv") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "real.csv").read_text() == "old"
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new"
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "real.csv") as temporary:
        temporary.rename(tmp_path / "folder" / "away")  # so that the last rename fails
    assert (tmp_path / "real.csv").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    def mkdir(path, *_, **__):
        if path.suffix == ".partial":
            raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pathlib.Path, "mkdir", mkdir)
    with pytest.raises(PermissionError) as caught, new_run(tmp_path / "run", overwrite=False):
        pass
    assert caught.value.filename == str(tmp_path)


@pytest.mark.parametrize("is_run", [False, True])
@pytest.mark.parametrize("how", ["new", "exchange", "renames"])
def test_what_is_renamed_is_on_the_disk_before(tmp_path, monkeypatch, is_run, how):
    stored, at_rename = set(), []
    monkeypatch.setattr(os, "fsync", lambda descriptor: stored.add(os.fstat(descriptor).st_ino))
    for module, name in ((os, "rename"), (os, "replace"), (files, "_exchange")):
        rename = getattr(module, name)

        def noting(*names, rename=rename):
            at_rename.append(set(stored))
            return rename(*names)

        monkeypatch.setattr(module, name, noting)
    if how == "renames":
        monkeypatch.setattr(files, "_exchange", writing.cannot)
    target = tmp_path / "there"
    for number in range(1 if how == "new" else 2):
        stored.clear()
        at_rename.clear()
        if is_run:
            writing.write(target, number)
        else:
            with new_file(target) as temporary:
                temporary.write_text("whole")
    written = [path for path in target.iterdir() if path.name != "notes.txt"] if is_run else []
    assert {path.stat().st_ino for path in (target, *written)} <= at_rename[0]
    assert tmp_path.stat().st_ino in stored  # where the name stands
