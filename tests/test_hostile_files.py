"""Files made to hang, to fill the memory, or to write what they like on a terminal or into a spreadsheet."""

import contextlib
import csv
import gzip
import io
import itertools
import json
import os
import re
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from handgrad.data import read_features, read_table, sources, write_table

pa = pytest.importorskip("pyarrow")

Y = np.arange(12) % 2


def refusal(path, **arguments):
    """The one line in which a file is refused; None where it is read."""
    try:
        table = read_table(path, **arguments)
    except (ValueError, FileNotFoundError) as raised:
        error = raised
    else:
        assert table.num_rows == len(table.labels)
        return None
    assert type(error) in (ValueError, FileNotFoundError)
    assert str(error).startswith(f"{path}: ")
    assert str(error).isprintable()
    return str(error)


# --- What is no file --------------------------------------------------------------------------------------------------

ENDINGS = [".csv", ".csv.gz", ".npz", ".npy", ".parquet", ".arrow", ".safetensors", ".svm", ".idx", ""]


@pytest.mark.parametrize("ending", ENDINGS)
def test_only_regular_files_are_opened(tmp_path, ending):
    fifo, link, loop = (tmp_path / f"{name}{ending}" for name in ("fifo", "link", "loop"))
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    loop.symlink_to(loop)
    for path in (fifo, link):
        assert "is not a regular file, but a FIFO. Pipe it in, and name it `-`." in refusal(path, target="k")
    assert refusal(loop, target="k")
    for device in ("/dev/zero", "/dev/null", "/dev/stdin"):
        path = tmp_path / f"device{ending}"
        path.unlink(missing_ok=True)
        path.symlink_to(device)
        if not Path(device).is_file():
            assert re.search("is not a regular file, but a|there is no such file", refusal(path, target="k"))
    with socket.socket(socket.AF_UNIX) as listening:
        os.chdir(tmp_path)  # a socket's name may have 107 characters
        listening.bind(f"socket{ending}")
        assert "is not a regular file, but a socket." in refusal(f"socket{ending}", target="k")
    assert "there is no such file" in refusal(tmp_path / f"nowhere{ending}", target="k")


@pytest.fixture(autouse=True)
def same_folder():
    with contextlib.chdir(os.getcwd()):
        yield


def test_a_link_to_a_file_is_a_file(tmp_path):
    (tmp_path / "t.csv").write_text("a,k\n1,x\n2,y\n3,x\n4,y\n")
    (tmp_path / "l.csv").symlink_to("t.csv")
    assert read_table(tmp_path / "l.csv", target="k").num_rows == 4


# --- What is larger than it looks -------------------------------------------------------------------------------------


def test_what_needs_more_memory_than_there_is_is_refused_before_it_is_taken(tmp_path):
    for size in (2**36, 2**43):  # of files with a hole in them
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size}, 1)}}".encode() + b"\n"
        path = tmp_path / "x.npy"
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
        os.truncate(path, path.stat().st_size + size)
        assert re.search(r"would take [\d,]+\.0 GB of memory, and", refusal(path, labels=Y))
        path = tmp_path / "t.csv"
        path.write_bytes(b"a,k\n" + b"1,x\n2,y\n" * 2**17)
        os.truncate(path, size)
        assert re.search(r"would take [\d,]+\.0 GB of memory, and", refusal(path, target="k"))
    path = tmp_path / "x.idx"
    path.write_bytes(struct.pack(">HBBII", 0, 8, 2, 2**32 - 1, 2**10))
    os.truncate(path, 12 + (2**32 - 1) * 2**10)
    assert "GB of memory" in refusal(path, labels=Y)
    (tmp_path / "t.svm").write_text(f"1 {2**62}:1\n2 1:1\n" * 2)
    assert "GB of memory" in refusal(tmp_path / "t.svm")


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz", "npy", "svm", "safetensors", "idx", "feather"])
def test_every_reader_asks_for_its_memory(tmp_path, monkeypatch, ending):
    path, X = tmp_path / f"t.{ending}", np.zeros((12, 2), np.uint8)
    frame = pa.table({"a": np.arange(12.0), "k": Y})
    if ending == "npz":
        np.savez(path, X=X, y=Y)
    elif ending == "npy":
        np.save(path, X)
    elif ending == "safetensors":
        path.write_bytes(pytest.importorskip("safetensors.numpy").save({"X": X, "y": Y}))
    elif ending == "idx":
        path.write_bytes(struct.pack(">HBBII", 0, 8, 2, 12, 2) + X.tobytes())
    elif ending == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(frame, path)
    elif ending == "feather":
        pytest.importorskip("pyarrow.feather").write_feather(frame, path)
    else:
        path.write_text("a,k\n1,0\n2,1\n3,0\n4,1\n" if ending == "csv" else "1 1:1\n2 1:1\n" * 2)
    monkeypatch.setattr(sources, "SMALL", 0)
    monkeypatch.setattr(sources, "available_memory", lambda: 7)
    arguments = (
        {"labels": Y}
        if ending in ("npy", "idx")
        else {}
        if ending in ("npz", "safetensors", "svm")
        else {"target": "k"}
    )
    assert "would take 0.0 GB of memory, and 0.0 GB are left" in refusal(path, **arguments)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize("packing", ["gz", "bz2", "zst"])
def test_a_bomb_goes_off_in_little_memory(tmp_path, packing):
    block = b"1,x\n2,y\n" * 2**17
    pack = {
        "gz": gzip.compress,
        "bz2": __import__("bz2").compress,
        "zst": lambda text: pa.compress(text, "zstd", asbytes=True),
    }
    member = pack[packing](block)
    path = tmp_path / f"bomb.csv.{packing}"
    path.write_bytes(pack[packing](b"a,k\n") + member * 2000)  # 2 GB
    program = (
        "import re, sys\nfrom handgrad.data import read_table\n"
        "try:\n    read_table(sys.argv[1], target='k')\nexcept ValueError as error:\n    print(error)\n"
        # Not the getrusage of a process, which begins with what it was forked from.
        "print(re.search('VmHWM: *([0-9]+)', open('/proc/self/status').read().replace('\\t', ' '))[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    message, peak = done.stdout.splitlines()
    assert "as no table does. Unpack it yourself if you trust it." in message
    assert int(peak) < 2**20  # KB


def test_an_array_that_claims_to_be_huge_takes_no_memory(tmp_path):
    path = tmp_path / "t.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000)}\n"
        archive.writestr(
            "X.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(2**20)
        )
        archive.writestr("y.npy", b"")
    assert "is not an .npz archive, or is damaged or cut short." in refusal(path)


# --- Headers that lie -------------------------------------------------------------------------------------------------

DESCRIPTIONS = [
    "'<f8'",
    "'|u1'",
    "'<U0'",
    "'|V8'",
    "'|O'",
    "'<c16'",
    "'<M8[s]'",
    "'x'",
    "()",
    "[]",
    "[('a', '<f8')]",
    "1",
]
SHAPES = ["(12, 3)", "(12,)", "()", "(0, 3)", "(12, 3, 1)", "(-12, -3)", "(True, 5)", "(2**63, 2)", "(10**30, 1)"]
SHAPES += ["'ab'", "None", "(12.0, 3)"]


def test_npy_headers_that_lie_are_refused_in_one_line(tmp_path):
    read = 0
    path = tmp_path / "x.npy"
    for description, shape, order in itertools.product(DESCRIPTIONS, SHAPES, ["False", "True", "'C'"]):
        header = f"{{'descr': {description}, 'fortran_order': {order}, 'shape': {shape}}}\n".encode()
        path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(12 * 3 * 8))
        read += refusal(path, labels=Y) is None
    assert read == 4  # numbers of 8 bytes, (12, 3) or (12, 3, 1), in either order


def test_idx_headers_that_lie_are_refused_in_one_line(tmp_path):
    read = 0
    path = tmp_path / "x.idx"
    sizes = (0, 1, 3, 12, 2**31, 2**32 - 1)
    for kind, (first, second) in itertools.product([0, 7, 8, 9, 11, 14, 255], itertools.product(sizes, sizes)):
        path.write_bytes(struct.pack(">HBBII", 0, kind, 2, first, second) + bytes(36))
        read += refusal(path, labels=Y) is None
    assert read == 2  # (12, 3) of bytes, with a sign or without
    for head in (
        b"",
        b"\0\0\x08",
        struct.pack(">HBB", 0, 8, 255),
        struct.pack(">HBB", 0, 8, 0),
        bytes(4),
        b"\1\0\x08\1\0",
    ):
        path.write_bytes(head)
        assert refusal(path, labels=Y)


def test_safetensors_headers_that_lie_are_refused_in_one_line(tmp_path):
    read = 0
    path = tmp_path / "x.safetensors"
    shapes = ([12, 3], [36], [], [-12, -3], ["12", 3], None, [2**62, 4], [12.5, 2], [[12], 3], {"0": 12})
    offsets = ([0, 288], [0, 287], [288, 0], [-288, 0], [0], None, [0, 2**63], ["0", "288"])
    for dtype, shape, offset in itertools.product(["F64", "BF16", "F8_E4M3", "", None, 5], shapes, offsets):
        header = json.dumps({"X": {"dtype": dtype, "shape": shape, "data_offsets": offset}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(288))
        read += refusal(path, labels=Y) is None
    assert read == 1
    heads = (b"", b"[]", b"{}", b"null", b'{"X":', b'{"X": 1}', b"[" * 100_000, b"\xff", b'{"__metadata__": 1}')
    for header, length in itertools.product(heads, (None, 0, 2**62, 2**64 - 1)):
        path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header)
        assert refusal(path, labels=Y)


def test_bytes_that_are_no_text_are_refused_in_files_that_have_types(tmp_path):
    text = pa.array(["ab", "cd", "ab", "cd"])
    invalid = pa.Array.from_buffers(pa.string(), 4, [None, text.buffers()[1], pa.py_buffer(b"a\xffcda\xffcd")])
    frame = pa.table({"a": invalid, "k": text})
    parquet = pytest.importorskip("pyarrow.parquet")
    for path in (tmp_path / "t.parquet", tmp_path / "t.arrow"):
        if path.suffix == ".parquet":
            parquet.write_table(frame, path)
        else:
            with pa.ipc.new_file(str(path), frame.schema) as writer:
                writer.write_table(frame)
        for target in ("a", "k"):
            assert "or is damaged" in refusal(path, target=target)


TEXTS = {
    "a line without end": b"a" * 2**22,
    "quotes without end": b'a,k\n1,"x\n' + b"2,y\n" * 1000,
    "many columns": b",".join(b"c%d" % i for i in range(5_000)) + b",k\n" + b"1," * 5_000 + b"x\n",
    "many columns without names": b"," * 5_000 + b"k\n" + b"1," * 5_000 + b"x\n",
    "only separators": b",,,\n,,,\n",
    "only quotes": b'""""\n' * 50,
    "carriage returns": b"a,k\r1,x\r2,y\r",
    "a name of a megabyte": b"a" * 2**20 + b",k\n1,x\n2,x\n",
    "escapes in names": b"\x1b[31m,\x07,k\n1,2,x\n2,,x\n",
    "escapes in values": b"a,k\n1,x\n2,x\n\x1b[2J,x\n",
    "a number of a million digits": b"a,k\n1,x\n2,x\n" + b"9" * 2**20 + b",x\n",
    "numbers beyond float64": b"a,k\n1e999,x\n-1e999,x\n",
    "a year of five digits": b"a,k\n99999-01-01,x\n2020-01-01,x\n",
    "a date that is none": b"a,k\n2021-02-30,x\n2021-13-01,x\n",
    "text directions": "a,k\n1,x\n2,x\n\u202e,x\n".encode(),
    "half of a pair": b"a,k\n1,\xed\xa0\x80\n2,x\n",
    "UTF-16 without its second half": b"\xff\xfea",
    "UTF-32": "a,k\n1,x\n2,x\n".encode("utf-32"),
    "UTF-7": b"+AGE-,k\n1,x\n2,x\n",
    "a NUL in the middle": b"a,k\n1,x\n" * 200_000 + b"\0,x\n",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_made_to_confuse_is_refused_in_one_printable_line(tmp_path, kind):
    path = tmp_path / "t.csv"
    path.write_bytes(TEXTS[kind])
    assert refusal(path, target="k")
    for target in ("a", "\x1b[31m"):
        refusal(path, target=target)
    with contextlib.suppress(ValueError):
        read_features(path)


# --- What goes out ----------------------------------------------------------------------------------------------------

CELLS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "a\rb",
    "a\nb",
    "\x1b[31mred",
    "\u202e",
    "\ud800",
]
PLAIN = ["red", "-1.5", "+3", "a, b", 'say "hi"', "ü", "", "-inf", "1e-5", "a=b", "x-y"]


def test_no_formula_no_line_end_and_no_escape_is_written():
    file = io.StringIO(newline="")
    write_table(file, {"=name": CELLS, "b\r": range(len(CELLS))})
    written = file.getvalue()
    assert all(character.isprintable() for character in written.replace("\n", ""))
    header, *rows = csv.reader(io.StringIO(written, newline=""))
    assert header == ["'=name", "b\\r"]
    assert len(rows) == len(CELLS)
    for row in rows:
        assert not re.match(r"\s*[=+@-]", row[0])


def test_what_is_harmless_is_written_as_it_is_and_numbers_with_all_their_digits():
    numbers = np.random.default_rng(0).normal(size=(len(PLAIN), 2))
    file = io.StringIO(newline="")
    write_table(file, {"a": PLAIN, "wide": numbers[:, 0], "narrow": numbers[:, 1].astype(np.float32)})
    _, *rows = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert [row[0] for row in rows] == PLAIN
    np.testing.assert_array_equal(np.array([row[1] for row in rows], np.float64), numbers[:, 0])
    np.testing.assert_array_equal(np.array([row[2] for row in rows], np.float32), numbers[:, 1].astype(np.float32))


def test_what_was_written_is_read_back(tmp_path):
    path = tmp_path / "t.csv"
    rng = np.random.default_rng(1)
    columns = {
        "a": rng.normal(size=25_000),
        "b": rng.integers(0, 9, 25_000),
        "k": np.array(["x", "y, z"])[rng.integers(0, 2, 25_000)],
    }
    with open(path, "w", newline="", encoding="utf-8") as file:
        write_table(file, columns)
    table = read_table(path, target="k")
    np.testing.assert_array_equal(table.columns["a"].values, columns["a"])
    np.testing.assert_array_equal(table.columns["b"].values, columns["b"])
    assert [table.class_names[label] for label in table.labels] == columns["k"].tolist()
