"""Files of .svmlight: rows that stay sparse, and where their indices begin."""

import gzip

import numpy as np
import pytest

from handgrad.data import encode, fit_encoding, read_features, read_table
from handgrad.data.description import from_description, to_description
from handgrad.data.judging import read_in_blocks

pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


SVMLIGHT = "1 1:0.5 3:2 # a comment\n-1 qid:7 2:1\n\n# only a comment\n1 3:1e-3\n-1 1:7\n"
DENSE = [[0.5, 0, 2], [0, 1, 0], [0, 0, 1e-3], [7, 0, 0]]


def test_indices_begin_where_those_that_were_trained_on_do(tmp_path):
    rest = write(tmp_path / "rest.svmlight", "1 1:7\n0 2:3\n")  # the first column is not in it
    for name, text, expected in (
        ("zero", "0 0:1 2:5\n1 1:2\n", [[0, 7, 0], [0, 0, 3]]),
        ("one", "0 1:1 3:5\n1 2:2\n", [[7, 0, 0], [0, 3, 0]]),
    ):
        encoding = fit_encoding(read_table(write(tmp_path / f"{name}.svmlight", 2 * text)))
        encoding = from_description(*to_description(encoding))
        X = encode(encoding, read_features(rest, encoding)).X.toarray()
        np.testing.assert_allclose(X / encoding.scale, expected, rtol=1e-6)
        with read_in_blocks(rest, encoding, is_labelled=True) as found:
            blocks = [encode(encoding, block).X.toarray() for block in found.blocks]
        np.testing.assert_allclose(np.concatenate(blocks) / encoding.scale, expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"zero.svmlight: has an index 0, and in what the model was trained on"):
        read_features(tmp_path / "zero.svmlight", encoding)


def test_svmlight_stays_sparse(tmp_path):
    load = pytest.importorskip("sklearn.datasets").load_svmlight_file
    path = write(tmp_path / "t.svmlight", SVMLIGHT)
    table = read_table(path)
    assert type(table.X).__name__ == "csr_array"
    np.testing.assert_array_equal(table.X.toarray(), DENSE)
    np.testing.assert_array_equal(table.X.toarray(), load(str(path))[0].toarray())
    assert (table.class_names, table.labels.tolist()) == ((-1, 1), [1, 0, 1, 0])
    packed = write(tmp_path / "t.svm.gz", gzip.compress(SVMLIGHT.encode()))
    np.testing.assert_array_equal(read_table(packed).X.toarray(), DENSE)
    zero_based = read_table(write(tmp_path / "t.libsvm", "1 0:1 2:2\n2 1:3\n" * 2))
    np.testing.assert_array_equal(zero_based.X.toarray(), [[1, 0, 2], [0, 3, 0]] * 2)
    encoding = fit_encoding(table)
    narrow = read_features(write(tmp_path / "n.svm", "0 1:3.5\n"), encoding)
    np.testing.assert_array_equal(encode(encoding, narrow).X.toarray(), [[0.5, 0, 0]])


@pytest.mark.parametrize("line", ["1 1:x", "1 1", "one 1:1", "1 -1:1", "1 1:1:1", "1 1:inf", "nan 1:1", "1 1.5:1"])
def test_a_line_that_is_not_svmlight_is_named(tmp_path, line):
    with pytest.raises(ValueError, match=r"t\.svm: line 2 is not `class index:value …` with finite numbers; got '"):
        read_table(write(tmp_path / "t.svm", f"1 1:1\n{line}\n2 1:1\n"))
