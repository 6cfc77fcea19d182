"""Files with bytes changed: each read gives data, or one line that says what is wrong."""

import bz2
import gzip
import io
import re
import resource
import struct
import warnings
import zipfile

import numpy as np
import pytest

from handgrad.data import encode, fit_encoding, read_features, read_table

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), np.arange(12) % 2


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **({"X": X, "y": Y} | arrays))
    return file.getvalue()


CSV = "a,b,day,kind\n" + "".join(
    f"{index},{index / 7:.6f},2021-01-{index + 1:02},{'xy'[index % 2]}\n" for index in range(12)
)


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def safetensors():
    return pytest.importorskip("safetensors.numpy").save({"X": X, "y": Y})


def frame(write):
    file = io.BytesIO()
    write(pytest.importorskip("pyarrow.csv").read_csv(io.BytesIO(CSV.encode())), file)
    return file.getvalue()


def parquet(table, file):
    pytest.importorskip("pyarrow.parquet").write_table(table, file)


def feather(table, file):
    pytest.importorskip("pyarrow.feather").write_feather(table, file, compression="zstd")


def stream(table, file):
    with pytest.importorskip("pyarrow").ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zstd(text):
    return pytest.importorskip("pyarrow").compress(text.encode(), "zstd", asbytes=True)


FILES = {
    "stored.npz": npz,
    "compressed.npz": lambda: npz(np.savez_compressed),
    "text.npz": lambda: npz(y=np.array(["ab", "c"] * 6)),
    "plain.csv": lambda: CSV.encode(),
    "quoted.csv": lambda: CSV.replace("x", '"x, ü"').encode(),
    "semicolons.txt": lambda: CSV.replace(",", ";").replace(".", ",").encode(),
    "wide.tsv": lambda: CSV.replace(",", "\t").encode("utf-16"),
    "packed.csv.gz": lambda: gzip.compress(CSV.encode(), mtime=0),
    "packed.csv.bz2": lambda: bz2.compress(CSV.encode()),
    "packed.csv.zst": lambda: zstd(CSV),
    "table.parquet": lambda: frame(parquet),
    "table.feather": lambda: frame(feather),
    "stream.arrow": lambda: frame(stream),
    "x.npy": lambda: npy(X),
    "x.safetensors": safetensors,
    "x.idx": lambda: idx((X * 50).astype(np.uint8)),
    "x.idx.gz": lambda: gzip.compress(idx((X * 50).astype(np.uint8)), mtime=0),
    "x.svm": lambda: "".join(f"{y} 1:{a:.3f} 3:{b:.3f}\n" for y, (a, b, _) in zip(Y, X, strict=True)).encode(),
}


def flip(content, rng):
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)


def overwrite(content, rng):
    content[rng.integers(len(content))] = rng.choice([0, 9, 10, 13, 34, 44, 127, 255])


def delete(content, rng):
    start = rng.integers(len(content))
    del content[start : start + rng.integers(1, 9)]


def insert(content, rng):
    start = rng.integers(len(content))
    content[start:start] = rng.bytes(rng.integers(1, 9))


def truncate(content, rng):
    del content[rng.integers(len(content)) :]


def duplicate(content, rng):
    start = rng.integers(len(content))
    content[start:start] = content[start : start + rng.integers(1, 99)]


MUTATIONS = [flip, overwrite, delete, insert, truncate, duplicate]


def read(path):
    if path.name.startswith("x.") and path.suffix != ".svm" and "safetensors" not in path.name:
        table = read_table(path, labels=Y)
    else:
        is_array = path.suffix in (".npz", ".svm", ".safetensors")
        table = read_table(path, target=None if is_array else "kind", missing="mean")
    read_features(path, target="kind")
    return table


def is_read(path):
    """Whether a file gives data that are whole; else it gives one line that begins with its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = read(path)
        except ValueError as raised:
            found, kind, error = None, type(raised), str(raised)  # the error itself keeps all that was open
    if found is None:
        assert kind is ValueError, error
        assert error.startswith(f"{path}: "), error
        assert "\n" not in error
        return False
    if found.columns is None:
        assert found.X.ndim == 2
        assert not np.isinf(found.X.data if hasattr(found.X, "indptr") else found.X).any()
    else:
        assert all(len(column.values) == found.num_rows for column in found.columns.values())
        assert not any(np.isinf(column.values).any() for column in found.columns.values())
    assert len(found.labels) == found.num_rows
    assert set(found.labels) == set(range(len(found.class_names)))
    # What only encoding can tell: no column varies, a number is too large.
    assert re.search("^$|to learn from|too large to scale", encoding_error(found))
    return True


def encoding_error(table):
    try:
        encode(fit_encoding(table), table)
    except ValueError as error:
        return str(error)
    return ""


def mutate(path, count, seed):
    """How many of so many damaged files are read."""
    rng = np.random.default_rng(seed)
    content, read = FILES[path.name](), 0
    path.write_bytes(content)
    assert is_read(path)
    for number in range(count):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            if changed:
                MUTATIONS[number % len(MUTATIONS)](changed, rng)
        path.write_bytes(bytes(changed))
        read += is_read(path)
    return read


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name):
    assert mutate(tmp_path / name, 18, seed=0) < 18


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_thousands_of_damaged_files_are_read_or_refused_in_one_line_and_in_little_memory(tmp_path, name, capsys):
    mutate(tmp_path / name, 60, seed=2)
    before = peak_memory()
    count = 1140
    read = mutate(tmp_path / name, count, seed=1)
    with capsys.disabled():
        print(f"\n{name}: {count:,} damaged files, {read:,} read, {count - read:,} refused", end=" ")
    assert 0 < read < count
    assert peak_memory() - before < 2**26


def peak_memory():
    """Bytes that this process has ever had at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- Damage with a right checksum, as only an attacker or another program makes it ------------------------------------


def npy_of(header, content=bytes(8 * 36), version=b"\x01\x00"):
    header = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content


def archive(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return bytearray(file.getvalue())


LABELS = {"y.npy": npy_of("{'descr': '<i8', 'fortran_order': False, 'shape': (12,)}")}


def with_header(header, **kwargs):
    return archive({"X.npy": npy_of(header, **kwargs)} | LABELS)


def encrypted():
    content = archive({"X.npy": npy_of("{}")} | LABELS)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    return content


def damaged_lzma():
    content = archive(
        {"X.npy": npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (12, 3)}")} | LABELS, zipfile.ZIP_LZMA
    )
    content[60:70] = bytes(10)
    return content


HOSTILE_ARCHIVES = {
    "encrypted": encrypted,
    "lzma": damaged_lzma,
    "a member without .npy": lambda: archive({"X": b"hello", "y": b"there"}),
    "descr ()": lambda: with_header("{'descr': (), 'fortran_order': False, 'shape': (12, 3)}"),
    "shape of booleans": lambda: with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (True, 5)}"),
    "huge shape": lambda: with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000000, 99999)}"),
    "overflowing shape": lambda: with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (2**63, 2**63)}"),
    "negative shape": lambda: with_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-12, -3)}"),
    "deep header": lambda: with_header("(" * 5000),
    "no header": lambda: with_header(""),
    "bytes for a header": lambda: with_header("{'descr': b'<f8', 'fortran_order': 0, 'shape': [12, 3]}"),
    "version 9": lambda: with_header("{}", version=b"\x09\x00"),
    "text beyond Unicode": lambda: archive(
        {"X.npy": npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (12, 3)}")}
        | {"y.npy": npy_of("{'descr': '<U1', 'fortran_order': False, 'shape': (12,)}", b"\xff" * 48)}
    ),
    "an empty archive": lambda: archive({}),
}


@pytest.mark.parametrize("kind", HOSTILE_ARCHIVES)
def test_a_hostile_archive_is_refused_in_one_line(tmp_path, kind):
    path = tmp_path / "t.npz"
    path.write_bytes(bytes(HOSTILE_ARCHIVES[kind]()))
    with pytest.raises(
        ValueError, match=r"t\.npz: (is not an \.npz archive|which of its arrays|the labels hold bytes)[^\n]*$"
    ):
        read_table(path)


def test_an_archive_whose_bytes_are_not_those_of_its_checksum_is_refused(tmp_path):
    path = tmp_path / "t.npz"
    many = RNG.normal(size=(2000, 3))
    whole, number = npz(X=many, y=np.arange(2000) % 2), many.tobytes()[40:48]
    for old, new in ((number, number[::-1]), (b"(2000, 3)", b"(2000, 2)")):
        assert old in whole
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(ValueError, match=r"is not an \.npz archive, or is damaged or cut short\.$"):
            read_table(path)


def test_names_in_a_file_are_told_on_one_line():
    from handgrad.data.naming import join

    assert join(["a", "b\nc", "\x1b[31m"]) == "a, b\\nc, \\x1b[31m"
