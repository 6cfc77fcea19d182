"""Files with bytes changed: each read gives data, or one line that says what is wrong."""

import io
import struct
import warnings
import zipfile

import numpy as np
import pytest

from handgrad.data import Column, Table, read_features, read_table

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)), np.arange(12) % 2


COLUMNS = Table(columns={name: Column("number", values) for name, values in zip("xyz", X.T, strict=True)})


def npz(save=np.savez, **arrays):
    file = io.BytesIO()
    save(file, **({"X": X, "y": Y} | arrays))
    return file.getvalue()


CSV = "a,b,kind\n" + "".join(f"{index},{index / 7:.6f},{'xy'[index % 2]}\n" for index in range(12))
FILES = {
    "stored.npz": lambda _: npz(),
    "compressed.npz": lambda _: npz(np.savez_compressed),
    "text.npz": lambda _: npz(y=np.array(["ab", "c"] * 6)),
    "plain.csv": lambda _: CSV.encode(),
    "quoted.csv": lambda _: CSV.replace("x", '"x, ü"').encode(),
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
    with_target = read_table(path, target="kind" if path.suffix == ".csv" else None)
    read_features(path, target="kind")
    return with_target


def check(path):
    """That reading gives data that are whole, or one line that begins with the file's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = read(path)
        except ValueError as error:
            found = error
    if isinstance(found, ValueError):
        assert type(found) is ValueError
        assert str(found).startswith(f"{path}: ")
        assert "\n" not in str(found)
    elif isinstance(found, Table):
        X = found.X if found.columns is None else np.column_stack([column.values for column in found.columns.values()])
        assert np.isfinite(X).all()
        assert X.ndim == 2
        assert len(found.labels) == len(X)
        assert set(found.labels) == set(range(len(found.class_names)))


def mutate(path, mutation, count, seed):
    rng = np.random.default_rng(seed)
    content = FILES[path.name](path)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            if changed:
                mutation(changed, rng)
        path.write_bytes(bytes(changed))
        check(path)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, name, mutation):
    mutate(tmp_path / name, mutation, 40, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
@pytest.mark.parametrize("name", FILES)
def test_thousands_of_damaged_files_are_read_or_refused_in_one_line(tmp_path, name, mutation):
    mutate(tmp_path / name, mutation, 1000, seed=1)


# --- Damage with a right checksum, as only an attacker or another program makes it ------------------------------------


def npy(header, content=bytes(8 * 36), version=b"\x01\x00"):
    header = header.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + content


def archive(members, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as written:
        for name, content in members.items():
            written.writestr(name, content)
    return bytearray(file.getvalue())


LABELS = {"y.npy": npy("{'descr': '<i8', 'fortran_order': False, 'shape': (12,)}")}


def with_header(header, **kwargs):
    return archive({"X.npy": npy(header, **kwargs)} | LABELS)


def encrypted():
    content = archive({"X.npy": npy("{}")} | LABELS)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    return content


def damaged_lzma():
    content = archive(
        {"X.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (12, 3)}")} | LABELS, zipfile.ZIP_LZMA
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
        {"X.npy": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (12, 3)}")}
        | {"y.npy": npy("{'descr': '<U1', 'fortran_order': False, 'shape': (12,)}", b"\xff" * 48)}
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
