"""Model files that lie: each is refused in one line, before memory is taken, or is a model that can be used."""

import copy
import hashlib
import itertools
import json
import os
import re
import tracemalloc
import warnings

import numpy as np
import pytest

import handgrad
from handgrad.app.cli import main
from handgrad.data import Column, Table, fit_encoding
from test_damage import MUTATIONS

RNG = np.random.default_rng(0)
FILE = "model.safetensors"
NUMPY = {"F64": np.float64, "F32": np.float32, "U8": np.uint8}
TABLE = Table(
    columns={
        "size": Column("number", np.array([1.0, 2.0, 4.0, np.nan])),
        "town": Column("text", np.array([0, 1, 0, 1], np.int32), ("Bonn", "Ulm")),
    },
    missing="indicator",
)


def write_model(folder):
    params = handgrad.Params(*(RNG.normal(size=shape).astype(np.float32) for shape in ((4, 3), (1, 3))))
    layers = (handgrad.Layer(params, "tanh"), handgrad.Layer(handgrad.init_params(3, 2), "softmax"))
    handgrad.save(layers, folder, class_names=["a", "b"], encoding=fit_encoding(TABLE), target="kind")
    return (folder / FILE).read_bytes()


def take_apart(content):
    """Header, description and numbers of a file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["handgrad"]), content[8 + length :]


def put_together(header, description, numbers, sign=True):
    """A file whose checksum is right: this is written by somebody who means it."""
    if sign and isinstance(description, dict):
        description.pop("sha256", None)
        digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
        for name in sorted(set(header) - {"__metadata__"}):
            try:
                start, end = header[name]["data_offsets"]
                dtype, shape = np.dtype(NUMPY[header[name]["dtype"]]), tuple(header[name]["shape"])
                digest.update(f"{name} {dtype} {shape}".encode(errors="surrogatepass") + numbers[start:end])
            except Exception:  # of a header that has no right checksum
                break
        description["sha256"] = digest.hexdigest()
    if description is not None:
        header["__metadata__"] = {"handgrad": json.dumps(description)}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


ODD = [
    None, True, -1, 0, 3, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, "", "x", "\x1b[31m", "a\r\nb", "\ud800", "a" * 9999,
    [], {}, [[]], [None], ["a", "a"], [1, "1"], {"a": 1}, [[["number"]]], [["size", "number", []]], [["a", "b", "c"]],
]  # fmt: skip


def places(value, path=()):
    """The path to each entry of nested lists and objects."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*path, key)
        yield from places(value[key], (*path, key))


def put(value, path, new):
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


def taken_out(value, path):
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return value


def odd_descriptions(header, description, numbers):
    for path in places(description):
        if path[0] != "sha256":
            for new in ODD:
                yield copy.deepcopy(header), put(description, path, new), numbers
            yield copy.deepcopy(header), taken_out(description, path), numbers
    for whole in (*ODD, {**description, "more": 1}):
        yield copy.deepcopy(header), whole, numbers


def odd_headers(header, description, numbers):
    for path in places({name: entry for name, entry in header.items() if name != "__metadata__"}):
        for new in ODD:
            yield put(header, path, new), dict(description), numbers
        yield taken_out(header, path), dict(description), numbers
    for new in ODD:
        yield put(header, ("__metadata__",), new), None, numbers
        yield put(header, ("__metadata__",), {"handgrad": new}), None, numbers
    for name, other in itertools.permutations([name for name in header if name != "__metadata__"], 2):
        changed = copy.deepcopy(header)
        changed[name], changed[other] = changed[other], changed[name]
        yield changed, dict(description), numbers


def odd_numbers(header, description, numbers):
    for name, entry in header.items():
        if name != "__metadata__":
            dtype = np.dtype(NUMPY[entry["dtype"]])
            for value in (np.nan, np.inf, -np.inf, 0.0, -1.0, 1e38, 0.5) if dtype.kind == "f" else (0, 1, 255):
                changed, (start, end) = bytearray(numbers), entry["data_offsets"]
                for place in {start, end - dtype.itemsize}:
                    changed[place : place + dtype.itemsize] = np.array(value, dtype).tobytes()
                yield copy.deepcopy(header), dict(description), bytes(changed)


def text_and_numbers(text, numbers=b""):
    return len(text).to_bytes(8, "little") + text + numbers


def claims(dtype, shape, end):
    return text_and_numbers(json.dumps({"W1": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}).encode())


def odd_files(content):
    """Files whose outermost parts are wrong."""
    header, description, numbers = take_apart(content)
    text = json.dumps(header).encode()
    first = text[1:].partition(b"},")[0] + b"},"
    yield from (b"", b"\0", bytes(7), bytes(8), bytes(9), b"PK\x03\x04 hello, I am another file", b"{}")
    yield from (length.to_bytes(8, "little") + content[8:] for length in (0, 1, 2, 10, 2**24, 2**32, 2**62, 2**64 - 1))
    yield from (content + b"\0", content[:-1], content[:8], content[: len(content) // 2], content * 2)
    yield text_and_numbers(b"{" + first + text[1:], numbers)  # a name stands twice
    yield text_and_numbers(text.replace(b'"F32"', b'"F32","dtype":"F32"', 1), numbers)
    yield from (text_and_numbers(b"[" * depth, numbers) for depth in (10, 1000, 100_000))
    yield from (text_and_numbers(b'{"a":' * depth, numbers) for depth in (10, 1000, 100_000))
    yield from (
        text_and_numbers(words) for words in (b"null", b"[]", b"{}", b"\xff\xfe{}", b"{} {}", b"NaN", b'"\\ud800"')
    )
    yield from (claims("F64", [2**40, 2**20], 2**63 - 1), claims("F64", [2**40], 2**43), claims("F32", [2**62, 4], 0))
    yield text_and_numbers(b"[" + b"[]," * 5_000_000 + b"[]]")
    yield from (claims("F8_E4M3", [4], 4), claims("F32", [1] * 1000, 4), claims("F32", [-1, -1], 4))
    yield put_together(header, {**description, "format_version": 9}, numbers, sign=False)
    yield put_together({**header, "": header["W1"]}, description, numbers)
    yield put_together({**header, "W9": header["W1"]}, description, numbers)
    yield put_together(
        {**header, "\x1b[2J": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}, description, numbers
    )


def hostile(content):
    yield from odd_files(content)
    for make in (odd_descriptions, odd_headers, odd_numbers):
        for parts in make(*take_apart(content)):
            try:
                yield put_together(*parts)
            except ValueError:  # a number of more digits than Python writes
                continue


def use(path):
    """The model, if it is one; a line that is safe to print if it is none, or says nothing of the data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the words of a text that the model has not
        try:
            model = handgrad.load(path)
        except ValueError as error:
            return check_line(error, path)
        try:
            Y = model.predict_proba(TABLE)
        except ValueError as error:
            check_line(error)
        else:
            np.testing.assert_allclose(Y.sum(axis=1), 1, rtol=1e-5)
            assert len(model.predict(TABLE)) == 4
        return model


def check_line(error, path=None):
    assert type(error) is ValueError
    text = str(error)
    assert path is None or text.startswith(f"{path}: ")
    assert text.isprintable()
    assert len(text) < 600 + len(str(path))


def with_header(content, old, new):
    """The file with a header in which something else stands, and the length of that."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    assert old in header
    return text_and_numbers(header.replace(old, new, 1), content[8 + length :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:4], "its header has no such length"),
        (lambda content: (2**30).to_bytes(8, "little") + content[8:], "its header has no such length"),
        (lambda content: with_header(content, b'"W2":', b'"W1":'), "a name stands twice in its header"),
        (lambda content: with_header(content, b'"shape":[3,2]', b'"shape":NaN'), "its header has the number NaN"),
        (lambda content: with_header(content, b'"shape":[3,2]', b'"shape":' + b"[" * 9999), "is too deep"),
        (lambda content: with_header(content, b'"shape":[3,2]', b'"shape":[3,3]'), "another size than its shape says"),
        (lambda content: with_header(content, b'"shape":[3,2]', b'"shape":[-3,-2]'), "offsets that are no sizes"),
        (lambda content: with_header(content, b'"shape":[3,2]', b'"shape":[6,true]'), "offsets that are no sizes"),
        (lambda content: with_header(content, b'"dtype":"F32"', b'"dtype":"F8"'), "a dtype that is not read"),
        (lambda content: with_header(content, b'"shape":[3,2]', b'"shap":[3,2]'), "not described by dtype, shape and"),
        (lambda content: content + b"more", "its arrays end elsewhere than the file"),
        (lambda content: content[:-4], "its arrays end elsewhere than the file"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "does not match its checksum"),
        (lambda content: with_header(content, b'\\"kind\\"', b'\\"mind\\"'), "does not match its checksum"),
        (lambda content: with_header(content, b'{"handgrad":', b'{"leftgrad":'), "was not written by handgrad"),
        (
            lambda content: with_header(content, b'version\\": 2', b'version\\": 9'),
            "has format 9, written by handgrad 0.",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    content = write_model(tmp_path / "run")
    changed = change(content)
    assert changed != content
    (tmp_path / FILE).write_bytes(changed)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        handgrad.load(tmp_path)
    check_line(caught.value, tmp_path / FILE)


def test_arrays_that_overlap_are_refused(tmp_path):
    header, description, numbers = take_apart(write_model(tmp_path / "run"))
    start, _ = header["b1"]["data_offsets"]
    header["b2"]["data_offsets"] = [start, start + 8]  # within b1, and a gap where b2 was
    (tmp_path / FILE).write_bytes(put_together(header, description, numbers))
    with pytest.raises(ValueError, match="its arrays have gaps or overlap"):
        handgrad.load(tmp_path)


@pytest.mark.parametrize("part", range(4))
def test_a_hostile_model_is_refused_in_one_line_or_can_be_used(tmp_path, part):
    content = write_model(tmp_path / "run")
    path = tmp_path / FILE
    counts = {True: 0, False: 0}
    for number, changed in enumerate(hostile(content)):
        if number % 4 == part:
            path.write_bytes(changed)
            counts[use(path) is not None] += 1
    print(f"{counts[False]} refused, {counts[True]} used")
    assert counts[False] > 500
    assert counts[True] < 0.1 * counts[False]


def damaged(content, path, count, seed):
    path.write_bytes(content)
    whole = use(path)
    rng = np.random.default_rng(seed)
    refused = 0
    for number in range(count):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            MUTATIONS[number % len(MUTATIONS)](changed, rng)
            if not changed:
                break
        path.write_bytes(bytes(changed))
        found = use(path)
        if found is None:
            refused += 1
        else:
            assert (found.class_names, found.target) == (whole.class_names, whole.target)
            assert found.encoding.inputs == whole.encoding.inputs
            for own, layer in zip(found.params, whole.params, strict=True):
                np.testing.assert_array_equal(own.params.W, layer.params.W)
    return refused


def test_a_damaged_model_is_refused_in_one_line_or_is_the_same(tmp_path):
    assert damaged(write_model(tmp_path / "run"), tmp_path / FILE, 500, seed=0) > 450


@pytest.mark.slow
def test_thousands_of_damaged_models_are_refused_in_one_line_or_are_the_same(tmp_path):
    assert damaged(write_model(tmp_path / "run"), tmp_path / FILE, 20_000, seed=1) > 18_000


def test_no_more_memory_is_taken_than_twice_the_file(tmp_path):
    path = tmp_path / FILE
    W = np.zeros((1000, 500), np.float32)
    handgrad.save(handgrad.Params(W, W[:1]), tmp_path / "run")
    honest = (tmp_path / "run" / FILE).read_bytes()
    handgrad.load(tmp_path / "run")
    many = [text_and_numbers(b"[" + b"[]," * count + b"[]]") for count in (300_000, 5_000_000)]
    for content in (honest, *odd_files(honest), *many):
        path.write_bytes(content)
        tracemalloc.start()
        try:
            handgrad.load(path)
        except ValueError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 2 * len(content) + (2**25 if content in many else 10**6)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / FILE)
    for path in (tmp_path, tmp_path / FILE, "/dev/zero"):
        with pytest.raises(ValueError, match=r"is not a model, or is damaged or cut short.*no regular file"):
            handgrad.load(path)


def test_the_program_answers_a_hostile_model_in_one_line(tmp_path, capsys):
    content = write_model(tmp_path / "run")
    (tmp_path / "data.csv").write_text("size,town\n1,Ulm\n")
    header, description, numbers = take_apart(content)
    changed = put_together(header, {**description, "target": ["\x1b[31m\r\nhello"]}, numbers)
    (tmp_path / "run" / FILE).write_bytes(changed)
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "data.csv")]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("handgrad: ")
    assert output.err.count("\n") == 1
    assert output.err.rstrip("\n").isprintable()
