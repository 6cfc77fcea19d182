"""What values that are texts stand for: what a person would read, or else words about it, and nothing in between."""

import datetime
import itertools
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handgrad.data import (
    encode,
    fit_encoding,
    judging,
    read_features,
    read_table,
    stream_table,
    streaming_columns,
)
from handgrad.data.description import from_description, to_description

pa = pytest.importorskip("pyarrow")

from handgrad.data.dates import parse_dates  # noqa: E402
from handgrad.data.words import SIGNS, parse_numbers  # noqa: E402

EPOCH = datetime.datetime(1970, 1, 1)


def write(path, values, separator=","):
    """A table with a column x of these values, four times, and classes."""
    rows = [f"{value}{separator}{'uv'[number % 2]}" for number, value in enumerate([*values] * 4)]
    path.write_text("\n".join([f"x{separator}kind", *rows]) + "\n", encoding="utf-8")
    return path


def column_of(path, **how):
    return read_table(path, target="kind", **how).columns["x"]


# --- Dates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        ("day-first date", ["26/11/2026 17:30", "01/02/2026 00:00"], ["2026-11-26T17:30", "2026-02-01"]),
        ("month-first date", ["11/26/2026 5:30:30.5 PM", "2/1/2026 12:00 am"], ["2026-11-26T17:30:30.5", "2026-02-01"]),
        ("day-first date", ["26-11-2026", "01-02-1969"], ["2026-11-26", "1969-02-01"]),
        ("month-first date", ["11-26-2026", "02-01-1969"], ["2026-11-26", "1969-02-01"]),
        (
            "date",
            ["2026-11-26", "1.2.1969", "2026/2/1", "2024.02.29"],
            ["2026-11-26", "1969-02-01", "2026-02-01", "2024-02-29"],
        ),
        ("date", ["29.02.2024 23:59:59", "31.12.0999"], ["2024-02-29T23:59:59", "0999-12-31"]),
        ("date", ["26.11.2026 10:00 +0530", "26.11.2026 10:00Z"], ["2026-11-26T04:30", "2026-11-26T10:00"]),
        ("date", ["05/05/2026", "06/06/2026"], ["2026-05-05", "2026-06-06"]),
    ],
)
def test_dates_are_read_as_they_are_written_in_the_world(tmp_path, kind, written, meant):
    column = column_of(write(tmp_path / "t.csv", written))
    assert column.kind == kind
    since = [(datetime.datetime.fromisoformat(each) - EPOCH) / datetime.timedelta(days=1) for each in meant]
    np.testing.assert_allclose(column.values[: len(since)], since, rtol=1e-14)


FORMS = {"-": "%Y-%m-%d", "/": "%d/%m/%Y", ".": "%d.%m.%Y", "of the USA": "%m-%d-%Y", "with a time": "%d.%m.%Y %H:%M"}
MOMENTS = st.datetimes(datetime.datetime(1000, 1, 1), datetime.datetime(3000, 1, 1))


@settings(deadline=None, derandomize=True, database=None, max_examples=60)
@given(form=st.sampled_from(sorted(FORMS)), moments=st.lists(MOMENTS, min_size=1, max_size=8))
def test_any_dates_of_one_form_are_those_that_python_reads(form, moments):
    moments = [*moments, datetime.datetime(2001, 12, 31)]  # which tells day and month apart
    written = list(dict.fromkeys(moment.strftime(FORMS[form]).zfill(10) for moment in moments))
    problems = []
    found = parse_dates("x", pa.array(written), problems)
    since = [(datetime.datetime.strptime(each, FORMS[form]) - EPOCH) / datetime.timedelta(days=1) for each in written]
    np.testing.assert_allclose(found.days, since, rtol=1e-14, atol=1e-9)
    assert found.is_date.all()
    assert not problems


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (["12-11-14", "99-01-01"], "dates have years of two digits: x ('12-11-14')"),
        (["26/11/26", "1/2/99"], "dates have years of two digits: x ('26/11/26')"),
        (["26.11.26", "01.02.99"], "dates have years of two digits: x ('26.11.26')"),
        (["2024-02-30", "2024-02-01"], "columns of dates hold what is none: x ('2024-02-30' in row 1, 4 of 8)"),
        (["29.02.2023", "1.3.2023"], "columns of dates hold what is none: x ('29.02.2023' in row 1, 4 of 8)"),
        (["2024-01-01", "2024-01-02", "never"], "columns of dates hold what is none: x ('never' in row 3, 4 of 12)"),
        (
            ["26/11/2026", "11/27/2026", "12/28/2026"],
            "columns of dates as month/day hold what is none: x ('26/11/2026' in row 1",
        ),
        (["2024-01-01T10:00Z", "2024-01-01T10:00"], "some dates have a time zone and others have none: x"),
        (["03-04-2021", "04-05-2021"], "dates may be day/month or month/day: x ('03-04-2021')"),
        (["1/2/2024 10:00", "1/3/2024 11:00 pm"], "dates may be day/month or month/day: x ('1/2/2024 10:00')"),
        (["2024-01-01 24:00", "2024-01-01 23:00"], "columns of dates hold what is none: x ('2024-01-01 24:00'"),
    ],
)
def test_what_may_be_another_date_or_none_is_said(tmp_path, written, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read_table(write(tmp_path / "t.csv", written), target="kind")


UNCLEAR = ["03/04/2026", "05.06.2026", "2026-07-08"]


@pytest.mark.parametrize(("clear", "first"), [("26/11/2025", 3), ("11/26/2025", 4)])
@pytest.mark.parametrize("read", [read_table, stream_table])
def test_which_part_of_a_date_is_the_day_is_as_in_the_rows_trained_on(tmp_path, monkeypatch, read, clear, first):
    monkeypatch.setattr(streaming_columns, "LEAST_ROWS", 2)
    monkeypatch.setattr(streaming_columns, "ROWS_AT_ONCE", 0)
    monkeypatch.setattr(judging, "LEAST_ROWS", 2)
    monkeypatch.setattr(judging, "BLOCKS_AT_ONCE", 0)
    table = read(write(tmp_path / "clear.csv", ["01/02/2026"] * 5 + [clear, *["2026-02-01"] * 6]), target="kind")
    assert table.notes == (f"read as {'day' if first == 3 else 'month'}-first dates: x.",)
    blocks = [table] if table.file is None else [*table.file.begin(np.arange(48))]
    assert {block.columns["x"].kind for block in blocks} == {f"{'day' if first == 3 else 'month'}-first date"}
    encoding = from_description(*to_description(fit_encoding(table)))
    moments = [datetime.datetime(2026, 7 - first, first), datetime.datetime(2026, 6, 5), datetime.datetime(2026, 7, 8)]
    expected = [(moment - EPOCH).days for moment in moments] * 4
    others = write(tmp_path / "unclear.csv", UNCLEAR)
    np.testing.assert_array_equal(read_features(others, encoding).columns["x"].values, expected)
    with judging.read_in_blocks(others, encoding, is_labelled=True, target="kind") as found:
        days = [block.columns["x"].values for block in found.blocks]
    assert len(days) > 1
    np.testing.assert_array_equal(np.concatenate(days), expected)
    what = f"columns of dates as {'day/month' if first == 3 else 'month/day'} hold what is none: x ('"
    others = write(tmp_path / "others.csv", ["12/25/2026" if first == 3 else "25/12/2026", "01/02/2026"])
    with pytest.raises(ValueError, match=re.escape(what)):
        read_features(others, encoding)


def test_which_part_is_the_day_is_one_in_all_blocks_of_a_file_that_is_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "LEAST_ROWS", 2)
    monkeypatch.setattr(judging, "BLOCKS_AT_ONCE", 0)
    encoding = fit_encoding(read_table(write(tmp_path / "clear.csv", ["2026-11-26", "2026-11-27"]), target="kind"))
    assert encoding.inputs[0].kind == "date"
    written = ["26/11/2026", "2026-11-26", "03/04/2026", "05/06/2026"]
    with judging.read_in_blocks(write(tmp_path / "a.csv", written), encoding, is_labelled=False) as found:
        days = np.concatenate([block.columns["x"].values for block in found.blocks])
    since = [datetime.datetime(2026, *day) - EPOCH for day in ((11, 26), (11, 26), (4, 3), (6, 5))]
    np.testing.assert_array_equal(days, [each.days for each in since] * 4)
    others = write(tmp_path / "b.csv", ["26/11/2026", "2026-11-26", "11/26/2026", "12/26/2026"])
    with (
        pytest.raises(ValueError, match="columns of dates as day/month hold what is none"),
        judging.read_in_blocks(others, encoding, is_labelled=False) as found,
    ):
        list(found.blocks)


def test_the_sign_of_a_unit_is_one_in_all_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(streaming_columns, "LEAST_ROWS", 2)
    monkeypatch.setattr(streaming_columns, "ROWS_AT_ONCE", 0)
    for values in (["12 %", "13 %", "14 %", "15 %", "16", "17"], ["12 %", "13 %", "14", "15", "16", "17"]):
        with pytest.raises(ValueError, match="columns of numbers hold what is none: x"):
            stream_table(write(tmp_path / "t.csv", values), target="kind")
    table = stream_table(
        write(tmp_path / "t.csv", ["12 %", "13 %", "", "", "16 %", "17 %"]), target="kind", missing="mean"
    )
    assert (table.num_rows, table.notes) == (24, ("read as numbers in units of '%': x.",))


@pytest.mark.parametrize("written", [["3.11.7", "3.12.1"], ["10.0.0.1", "10.0.0.2"], ["123-45-6789", "223-45-6780"]])
def test_versions_addresses_and_numbers_with_dashes_are_no_dates(tmp_path, written):
    table = read_table(write(tmp_path / "t.csv", written), target="kind")
    assert table.columns["x"].words == tuple(written)
    assert table.notes == (f"texts that begin as numbers do are taken as texts: x ({written[0]!r}).",)


# --- Booleans and numbers ---------------------------------------------------------------------------------------------


def test_true_and_false_may_be_spelled_in_any_case_and_all_of_them_at_once(tmp_path):
    spellings = [
        "".join(letters)
        for word in ("true", "false")
        for letters in itertools.product(*zip(word, word.upper(), strict=True))
    ]
    column = column_of(write(tmp_path / "t.csv", spellings))
    assert column.kind == "boolean"
    np.testing.assert_array_equal(column.values[: len(spellings)], [1] * 16 + [0] * 32)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("form", ["{sign}{number}", "{number}{sign}", "{number}\u00a0{sign}", "{sign} {number}"])
@pytest.mark.parametrize("decimal", [".", ","])
def test_numbers_may_have_the_sign_of_a_unit(sign, form, decimal):
    numbers = ["12", "-3.5", "+1,200.25", "0"]
    marks = {ord("."): decimal, ord(","): ".,"[decimal == "."]}
    words = [form.format(sign=sign, number=each.translate(marks)) for each in numbers]
    words.append(f"-{sign}7")
    found = parse_numbers(pa.array(words), decimal)
    np.testing.assert_array_equal(found.values, [12, -3.5, 1200.25, 0, -7])
    assert (found.sign, found.grouping) == (sign, marks[ord(",")])


def test_signs_are_said_and_those_that_only_some_have_are_asked_about(tmp_path):
    table = read_table(write(tmp_path / "t.csv", ["12%", "\u22123.5 %"]), target="kind")
    np.testing.assert_array_equal(table.columns["x"].values[:2], [12, -3.5])
    assert table.notes == ("read as numbers in units of '%': x.",)
    for values, wrong in ((["1%", "2", "3%"], "2"), (["1", "2%", "3"], "2%"), (["$1", "$2", "€3"], "€3")):
        with pytest.raises(ValueError, match=re.escape(f"columns of numbers hold what is none: x ({wrong!r} in row")):
            read_table(write(tmp_path / "t.csv", values), target="kind")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_comma_that_may_stand_between_thousands_is_asked_about(tmp_path, separator):
    path = write(tmp_path / "t.csv", ["1,234", "567"], separator)
    with pytest.raises(ValueError, match=r"1,234 may be a number with thousands or one with decimals\. .* --decimal"):
        read_table(path, target="kind")
    for decimal, number in ((".", 1234), (",", 1.234)):
        assert column_of(path, decimal=decimal).values[0] == number
    assert column_of(write(path, ["1,234", "0,567"], separator)).values.tolist()[:2] == [1.234, 0.567]
    assert column_of(write(path, ["1,234.5", "567"], separator)).values.tolist()[:2] == [1234.5, 567]
    assert column_of(write(path, ["1.234,5", "7.654"], separator)).values.tolist()[:2] == [1234.5, 7654]


def test_quoted_decimal_commas_between_commas_are_numbers(tmp_path):
    table = read_table(write(tmp_path / "t.csv", ['"1,5"', '"2,75"', '"1,250"']), target="kind")
    np.testing.assert_array_equal(table.columns["x"].values[:3], [1.5, 2.75, 1.25])
    assert table.notes == ("read as text with decimal commas.",)
    assert column_of(tmp_path / "t.csv", decimal=",").values[2] == 1.25
    # Where points are decimal marks, a few such texts do not make 1.234 a thousand.
    rows = [f'{number + 0.234},"{number},5",{"uv"[number % 2]}' for number in range(1, 9)]
    (tmp_path / "t.csv").write_text("\n".join(["x,pair,kind", *rows]))
    table = read_table(tmp_path / "t.csv", target="kind")
    np.testing.assert_allclose(table.columns["x"].values, np.arange(1, 9) + 0.234)
    assert table.columns["pair"].kind == "text"
    assert "texts that begin as numbers do are taken as texts: pair ('1,5')." in table.notes


@pytest.mark.parametrize("read", [read_table, stream_table])
def test_numbers_that_begin_with_a_zero_are_said_unless_they_are_texts(tmp_path, read):
    rows = [f"{number:03},{number:03},0.5,{number:03}" for number in range(1, 5)] * 2
    (tmp_path / "t.csv").write_text("\n".join(["id,zip,size,kind", *rows]))
    table = read(tmp_path / "t.csv", target="kind", ids=["id"])
    assert table.class_names == ("001", "002", "003", "004")
    assert table.ids["id"].tolist()[0] == "001"
    assert table.notes == ("numbers that begin with 0, as codes do, are taken as quantities: zip.",)


# --- A model's columns ------------------------------------------------------------------------------------------------

ROWS = {
    "size": ["1.5", "2", "4", "1"],
    "flag": ["true", "false", "true", "false"],
    "day": ["2024-01-01", "2024-02-01", "2024-01-01", "2024-01-03"],
    "town": ["Ulm", "Bonn", "Ulm", "Bonn"],
}


def encoding_of(tmp_path):
    lines = [",".join([*row, kind]) for row, kind in zip(zip(*ROWS.values(), strict=True), "uvuv", strict=True)]
    (tmp_path / "train.csv").write_text("\n".join([",".join([*ROWS, "kind"]), *lines]))
    return fit_encoding(read_table(tmp_path / "train.csv", target="kind", missing="mean"))


def test_columns_of_which_a_file_has_no_value_are_what_the_model_knows(tmp_path):
    encoding = encoding_of(tmp_path)
    (tmp_path / "new.csv").write_text(f"{','.join(ROWS)}\n,,,\n")
    for source in (tmp_path / "new.csv", {name: [None] for name in ROWS}):
        X = encode(encoding, read_features(source, encoding)).X
        assert X.shape == (1, 5)
        numbers = [not name.startswith("town") for name in encoding.feature_names]
        np.testing.assert_array_equal(X[0, numbers], 0)  # the mean
        assert X[0].sum() == 1  # and one of the two towns, which are as frequent


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("1", "true", "yesterday", "Ulm"), "columns of dates hold what is none: day ('yesterday' in row 1)."),
        (
            ("1", "true", "45/67/2024", "Ulm"),
            "new.csv: columns of dates hold what is none: day ('45/67/2024' in row 1).",
        ),
        (("one", "true", "2024-01-01", "Ulm"), "columns of numbers hold what is none: size ('one' in row 1)."),
    ],
)
def test_what_a_model_does_not_take_is_said_without_advice_that_is_none(tmp_path, values, message):
    encoding = encoding_of(tmp_path)
    (tmp_path / "new.csv").write_text(f"{','.join(ROWS)}\n{','.join(values)}\n")
    with pytest.raises(ValueError, match=re.escape(f"{message} Correct it, or leave those cells empty.") + "$"):
        read_features(tmp_path / "new.csv", encoding)


def test_marks_in_the_numbers_for_a_model_are_said(tmp_path):
    encoding = encoding_of(tmp_path)
    (tmp_path / "new.csv").write_text(f'{",".join(ROWS)}\n"1,234",true,2024-01-01,Ulm\n')
    table = read_features(tmp_path / "new.csv", encoding)
    assert table.columns["size"].values == [1234]
    assert table.notes == ("read as numbers with ',' between thousands: size.",)


# --- How a text is written --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_table, stream_table])
def test_an_empty_line_of_a_single_column_is_a_value_that_is_missing(tmp_path, read):
    (tmp_path / "t.csv").write_text("x\n1\n2\n\n3\n")
    np.testing.assert_array_equal(read_features(tmp_path / "t.csv").columns["x"].values, [1, 2, np.nan, 3])
    with pytest.raises(ValueError, match=r"values are missing: x \(1 of 4, the first in row 3\)"):
        read(tmp_path / "t.csv", labels=np.array([0, 1, 0, 1]))


def test_spaces_before_quotes_are_asked_about(tmp_path):
    (tmp_path / "t.csv").write_text('x,kind\n1, "a"\n2, "b"\n')
    with pytest.raises(ValueError, match="in row 1 a space stands before a quotation mark, which then quotes nothing"):
        read_table(tmp_path / "t.csv", target="kind")
    (tmp_path / "t.csv").write_text('x,kind\n1, 5" wide\n2, "b" or c\n3, 5" wide\n4, "b" or c\n')
    assert read_table(tmp_path / "t.csv", target="kind").class_names == ('5" wide', '"b" or c')


def test_names_alone_are_no_table(tmp_path):
    for content in ("x,kind", "x,kind\n", "x,kind\n\n\n"):
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(ValueError, match=r"t\.csv: has names of columns and no rows\.$"):
            read_table(tmp_path / "t.csv", target="kind")


def test_an_encoding_has_any_of_its_names(tmp_path):
    path = write(tmp_path / "t.csv", ["1", "2"])
    for name in ("UTF8", "utf_8", "U8"):
        assert stream_table(path, target="kind", text_encoding=name).num_rows == 8
    for name in ("undefined", "utf-8\0", "hex", "klingon"):
        with pytest.raises(ValueError, match=r"--encoding must be one that Python knows, .*; got"):
            read_table(path, target="kind", text_encoding=name)


def test_a_spreadsheet_is_no_archive_of_arrays(tmp_path):
    np.savez(tmp_path / "t.npz", X=np.eye(4, 2), y=[0, 1, 0, 1])
    for name in ("t.xlsx", "t.ods", "arrays"):
        (tmp_path / name).write_bytes((tmp_path / "t.npz").read_bytes())
    assert read_table(tmp_path / "arrays").num_rows == 4
    for name in ("t.xlsx", "t.ods"):
        with pytest.raises(ValueError, match=r"the ending must be one of \.csv, "):
            read_table(tmp_path / name)
