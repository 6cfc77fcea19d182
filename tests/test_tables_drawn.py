"""Look-alikes of real tables with every difficulty at once, drawn: what pandas writes is what is read."""

import csv

import numpy as np
import pytest

from handgrad.data import encode, fit_encoding, read_features, read_table

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

WORDS = [
    "red",
    "dark blue",
    "a, b",
    "x;y",
    'say "hi"',
    "grün",
    "two\nlines",
    "it's",
    "tab\there",
    "=1",
    "-",
    "N",
    "0x1F",
    "1 2",
]


def draw(rng):
    """A frame of numbers, whole numbers, words, dates and flags, some of them missing, and its classes."""
    N = int(rng.integers(30, 90))
    frame = pd.DataFrame({"kind": np.array(["NA", "x", "2", "10"])[rng.permutation(np.arange(N) % 4)]})
    for index in range(rng.integers(1, 7)):
        name = f"{rng.choice(['größe', 'a b', 'c', 'Ω'])} {index}"
        column = {
            0: lambda: rng.normal(size=N) * 10.0 ** rng.integers(-8, 9),
            1: lambda: rng.integers(-(10**6), 10**6, N).astype(float),
            2: lambda: np.array(WORDS)[rng.integers(0, rng.integers(2, len(WORDS)), N)].astype(object),
            3: lambda: pd.to_datetime("1990-01-01") + pd.to_timedelta(rng.integers(0, 15_000, N), unit="D"),
            4: lambda: rng.integers(0, 2, N).astype(bool),
            5: lambda: rng.normal(size=N).astype(np.float32).astype(float),
        }[int(rng.integers(0, 6))]()
        frame[name] = pd.Series(column)
        if rng.random() < 0.4 and frame[name].dtype != bool:
            frame.loc[rng.random(N) < 0.2, name] = None
    return frame[rng.permutation(frame.columns)]


def values_of(series):
    """What a column must be read as: words, or numbers."""
    if series.dtype == bool:
        return series.to_numpy(float)
    if pd.api.types.is_datetime64_any_dtype(series):
        return ((series - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy(float)
    return series.to_numpy(float) if series.dtype == float else [None if pd.isna(v) else v for v in series]


def read_values(column):
    if column.kind == "text":
        return [None if code < 0 else column.words[code] for code in column.values]
    return column.values.astype(float)


def is_as_drawn(table, frame):
    for name in frame.columns.drop("kind"):
        expected, found = values_of(frame[name]), read_values(table.columns[name])
        if isinstance(expected, list):
            assert found == expected
        else:
            np.testing.assert_array_equal(found, expected)
    assert [str(table.class_names[label]) for label in table.labels] == frame["kind"].tolist()
    assert [str(name) for name in table.class_names] == ["2", "10", "NA", "x"]
    return True


def write(frame, folder, rng):
    """The frame in a format that is drawn."""
    ending = rng.choice([".csv", ".tsv", ".txt", ".csv.gz", ".csv.bz2", ".parquet", ".feather"])
    path = folder / f"t{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    elif ending == ".feather":
        frame.to_feather(path)
    else:
        separator = "\t" if ending == ".tsv" else rng.choice([",", ";", "|"])
        frame.to_csv(
            path,
            index=bool(rng.random() < 0.3),
            sep=separator,
            decimal="," if separator == ";" and rng.random() < 0.7 else ".",
            encoding=rng.choice(["utf-8", "utf-8-sig", "utf-16"] if ending in (".csv", ".tsv", ".txt") else ["utf-8"]),
            quoting=int(rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, csv.QUOTE_ALL])),
            na_rep=rng.choice(["", "NA", "nan", "NULL"]),
            lineterminator=rng.choice(["\n", "\r\n"]),
        )
    return path


def check(folder, seed):
    rng = np.random.default_rng(seed)
    frame = draw(rng)
    path = write(frame, folder, rng)
    drop = [name for name in frame.columns.drop("kind") if frame[name].isna().all()]
    table = read_table(path, target="kind", missing="indicator", drop=drop)
    frame = frame.drop(columns=drop)
    assert is_as_drawn(table, frame)
    assert is_as_drawn(read_table(frame, target="kind", missing="indicator"), frame)
    encoding = fit_encoding(table)
    X = encode(encoding, table).X
    assert np.isfinite(X).all()
    again = read_features(path, encoding, target="kind")
    np.testing.assert_array_equal(encode(encoding, again).X, X)
    assert again.notes == tuple(
        note for note in table.notes if "look like ids" not in note and "quantities" not in note
    )


@pytest.mark.parametrize("start", range(0, 60, 10))
def test_what_pandas_writes_is_what_is_read(tmp_path, start):
    for seed in range(start, start + 10):
        check(tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1000, 4000, 500))
def test_thousands_of_what_pandas_writes_are_what_is_read(tmp_path, start):
    for seed in range(start, start + 500):
        check(tmp_path, seed)
