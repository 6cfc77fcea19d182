"""The report of a run says what metrics.json says, of every kind of run, whatever the names in it."""

import json
import re

import jax
import numpy as np
import pytest
import scipy.sparse

import handgrad
import report_runs
from handgrad.app.report.page import FORMS
from handgrad.app.screen import to_json
from handgrad.data import Table, split_and_scale
from handgrad.formulas import Params
from handgrad.formulas.network import forward
from report_pages import Page, as_number, find
from report_runs import FINDING, NASTY, columns, drawn, fitted, page_of, run_of

ALWAYS = {"headline", "data", "confusion", "classes", "calibration", "weights", "mistakes", "reproduce"}
KINDS = {
    "digits_trained": ALWAYS | {"curves", "check"},
    "digits_fitted": ALWAYS | {"penalty", "certificate"},
    "network": ALWAYS | {"curves"},
    "named_two": ALWAYS | {"penalty", "certificate"},
    "nasty": ALWAYS | {"certificate"},
}


@pytest.fixture(scope="module")
def made():
    """By name, (page, metrics as they are read from the file, run, the page as text)."""
    found = {}
    for name in (*KINDS, "forty"):
        run = report_runs.many(40) if name == "forty" else getattr(report_runs, name)()
        text, metrics, _ = page_of(run, [FINDING] if name == "nasty" else [])
        found[name] = Page(text), json.loads(to_json(metrics)), run, text
    return found


def test_a_run_has_a_section_for_each_thing_it_has(made):
    for name, sections in KINDS.items():
        page = made[name][0]
        assert set(page.sections) == sections | ({"findings"} if name == "nasty" else set())
        assert not page.open
        links = {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
        assert links == set(page.sections)
        assert len([tag for tag, _ in page.tags if tag == "h1"]) == 1


@pytest.mark.parametrize("name", [*KINDS, "forty"])
def test_every_number_is_that_of_metrics_json(made, name):
    page, metrics, *_ = made[name]
    assert len(page.numbers) > 60
    for place, value, text in page.numbers:
        expected = find(metrics, place)
        if expected is None:
            assert (value, text) in {("", "–"), ("", "infinite"), ("", "no number")}
            continue
        assert float(value) == expected
        shown = as_number(text.lstrip("<> "))
        digits = (
            6e-4 if text.endswith("%") or "/weight" in place else 6e-5 if "loss" in place or "score" in place else 0
        )
        assert shown == pytest.approx(expected, rel=6e-3, abs=digits), place
        assert shown != 1 or round(expected, 9) == 1, "100 % is said of all of them, and of no fewer"
        assert shown != 0 or round(expected, 9) == 0


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        ("percent", 0.9996, "99.96 %"),
        ("percent", 1 - 1e-5, "> 99.99 %"),
        ("percent", 0.00004, "< 0.01 %"),
        ("percent", 1 - 1e-12, "100.0 %"),
        ("percent", 0.125, "12.5 %"),
        ("plain", 1.5e-7, "1.5·10⁻⁷"),
        ("plain", 0.01, "0.01"),
        ("plain", 1234.0, "1,234"),
        ("plain", -2.345, "−2.35"),
        ("signed", 0.4, "+0.400"),
        ("signed", -4e-5, "−4·10⁻⁵"),
        ("nats", 0.00012, "1.2·10⁻⁴"),
        ("count", 12345, "12,345"),
    ],
)
def test_numbers_are_written_as_people_read_them(form, value, text):
    assert FORMS[form](value).replace("\N{NARROW NO-BREAK SPACE}", " ") == text


def test_no_other_number_stands_on_the_page(made):
    page, _, run, _ = made["digits_fitted"]
    fixed = {"95", "0", "80", "100", "1", "8", "2"}  # of intervals and of what is explained
    for section in ("headline", "penalty", "confusion", "classes", "calibration", "certificate"):
        words = page.sections[section].replace(run.fitted.message, "").replace("F1", "").replace("l2", "")
        names = (
            {str(name) for name in run.model.class_names} if section in ("confusion", "classes", "headline") else set()
        )
        assert set(re.findall(r"\d[\d.,]*\d|\d", words)) <= fixed | names, section


def test_the_headline_is_in_nats_and_bits_beside_the_majority_and_the_entropy(made):
    page, metrics, *_ = made["digits_fitted"]
    places = [place for place, *_ in page.numbers]
    for place in ("test_accuracy", "test_accuracy_interval/0", "test_accuracy_interval/1", "test_loss"):
        assert place in places
    for place in ("test_loss_bits", "test_loss_standard_error", "majority_accuracy", "baseline_loss", "train_loss"):
        assert place in places
    assert metrics["test_loss_bits"] == pytest.approx(metrics["test_loss"] / np.log(2))


def test_names_are_text_and_no_html(made):
    page, _, _, text = made["nasty"]
    assert not [tag for tag, _ in page.tags if tag == "script"]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert "\x1b" not in text
    assert "\x00" not in text
    for name in NASTY:
        shown = name.replace("\x1b", r"\x1b").replace("\x00", r"\x00")
        assert shown in page.sections["classes"]
    assert "Two classes <b>& more</b> have 3 rows." in page.sections["findings"]
    assert "{{ 7 * 7 }}" in page.sections["confusion"]
    assert "handgrad fit 'a & b.csv'" in page.sections["reproduce"]
    assert {value[0] for value in re.findall(r'(?:src|href)="([^"]*)"', text)} == {"d", "#"}, "data: and #section"
    assert "url(" not in text
    assert "@import" not in text


def test_a_file_whose_name_is_no_text_has_a_page(tmp_path):
    from handgrad.app.report import write_report

    run = report_runs.named_two()
    run = run._replace(settings=run.settings | {"data": "\udcff.csv"})
    _, metrics, _ = page_of(run)
    write_report(tmp_path / "report.html", run, metrics)
    assert r"<bdi>\udcff.csv</bdi>" in (tmp_path / "report.html").read_text(encoding="utf-8")


# --- What is chosen of much -------------------------------------------------------------------------------------------


def test_the_worst_confusions_are_told_where_classes_are_many(made):
    page, metrics, run, _ = made["forty"]
    assert "confusion" not in metrics
    labels, taken = run.split.test.labels, run.Y.argmax(axis=1)
    names = run.model.class_names
    counts = [
        ((labels == names.index(each["class"])) & (taken == names.index(each["predicted"]))).sum()
        for each in metrics["confusions"]
    ]
    assert [each["rows"] for each in metrics["confusions"]] == counts
    pairs = np.unique(np.stack([labels, taken])[:, labels != taken], axis=1, return_counts=True)[1]
    assert sorted(pairs)[::-1][: len(counts)] == counts
    assert len(counts) == min(20, len(pairs))
    assert sum(place.startswith("confusions/") for place, *_ in page.numbers) == 2 * len(counts)


def test_many_classes_are_all_there_the_least_well_told_first(made):
    page, metrics, *_ = made["forty"]
    order = [int(place.split("/")[1]) for place, *_ in page.numbers if re.fullmatch(r"per_class/\d+/f1", place)]
    assert sorted(order) == list(range(40))
    scores = [metrics["per_class"][index]["f1"] for index in order]
    assert scores == sorted(scores)


def test_two_classes_have_one_signed_column(made):
    page, metrics, run, _ = made["named_two"]
    W = np.asarray(run.model.params.W)
    (output,) = metrics["weights"]["strongest"]
    assert output["output"] == "kind 1"
    names = run.model.encoding.feature_names
    expected = dict(zip(names, (W[:, 1] - W[:, 0]).tolist(), strict=True))
    assert {each["feature"]: each["weight"] for each in output["features"]} == pytest.approx(expected)
    assert [each["weight"] for each in output["features"]] == sorted(expected.values(), reverse=True)
    assert sum("/weight" in place for place, *_ in page.numbers) == len(names)


def test_the_strongest_weights_are_those_of_the_model(made):
    page, metrics, run, _ = made["forty"]
    W = np.asarray(run.model.params.W)
    assert len(metrics["weights"]["strongest"]) == 12
    for index, output in enumerate(metrics["weights"]["strongest"]):
        strongest = sorted(np.abs(W[:, index]))[::-1][:8]
        assert sorted(abs(each["weight"]) for each in output["features"])[::-1] == pytest.approx(strongest)
    assert "The first 12 of" in page.sections["weights"]


def test_mistakes_are_those_rows_with_the_values_that_led_there(made):
    _, metrics, run, _ = made["named_two"]
    taken, labels = run.Y.argmax(axis=1), run.split.test.labels
    wrong = np.flatnonzero(taken != labels)
    assert [each["probability"] for each in metrics["mistakes"]] == pytest.approx(
        sorted(run.Y[wrong].max(axis=1))[::-1][:12]
    )
    for each in metrics["mistakes"]:
        row = each["row"] - 1
        assert each["ids"] == {"id": f"p{row}"}
        assert each["class"] == run.table.class_names[run.table.labels[row]] != each["predicted"]
        for value in each["values"]:
            if value["name"] == "town":
                town = run.table.columns["town"]
                assert value["value"] == town.words[town.values[row]]
            if value["name"] == "size <cm>":
                size = run.table.columns["size <cm>"].values[row]
                assert value["value"] == (None if np.isnan(size) else size)
    assert any(each["values"] for each in metrics["mistakes"])


@pytest.mark.parametrize("hidden", [(), (4, 3)])
def test_what_leads_to_a_mistake_is_value_times_slope(hidden):
    table = report_runs.many(7, rows_each=20).table
    split = split_and_scale(table)
    sizes = (30, *hidden, 7)
    params = handgrad.init_network(jax.random.key(0), sizes, "tanh") if hidden else drawn(30, 7)
    run = run_of(table, params, split=split)
    _, metrics, _ = page_of(run)
    rows = {int(row) + 1: index for index, row in enumerate(split.rows.test)}
    mistake = metrics["mistakes"][0]
    x = split.test.X[[rows[mistake["row"]]]]
    taken, true = (table.class_names.index(mistake[name]) for name in ("predicted", "class"))
    slopes = jax.grad(lambda x: forward(params, x)[0, taken] - forward(params, x)[0, true])(x)
    pushes = np.sort((x * np.asarray(slopes))[0])[::-1][:3]
    assert [each["push"] for each in mistake["values"]] == pytest.approx(pushes.tolist(), rel=1e-4)


def test_the_histogram_of_the_check_counts_every_entry(made):
    for report in made["digits_trained"][2].checks:
        for check in report.checks:
            assert sum(check.error_counts) == check.entries
            edges = (0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, np.inf)
            last = max(index for index, count in enumerate(check.error_counts) if count)
            assert check.error_over_tolerance <= edges[last]
            assert last == 0 or check.error_over_tolerance > edges[last - 1]


def test_a_wrong_gradient_has_entries_beyond_their_tolerance():
    X, labels = np.eye(4, 3) + 0.5, np.array([0, 1, 0, 1])
    X[:, 2] = 0  # its gradient is 0, without any error
    params = Params(np.eye(3), np.zeros((1, 3)))

    def wrong(params, X, targets):
        dW, db = handgrad.formulas.gradient(params, X, targets)
        dW[0, 0] *= 1.01
        return dW, db

    report = handgrad.check_gradients(params, X, labels, gradient=wrong, dtypes=("float64",))
    check = report.checks[0]
    assert (check.parameter, check.error_counts[-1], sum(check.error_counts)) == ("W", 1, 9)
    assert check.error_counts[0] >= 3


@pytest.mark.parametrize(("best", "words"), [(0, "those of the start"), (1, "those after epoch"), (None, "")])
def test_the_epoch_that_is_kept_is_said(best, words):
    run = report_runs.network()._replace(best=best)
    page, *_ = page_of(run)
    found = Page(page)
    assert words in found.sections["curves"]
    assert ("The weights kept" in found.sections["curves"]) == (best is not None)
    assert [value for place, value, _ in found.numbers if place == "best_epoch"] == ([str(best)] if best else [])


# --- What is at the edge ----------------------------------------------------------------------------------------------


def edge(num_rows=40, num_classes=3, num_features=4, **more):
    labels = (np.arange(num_rows) % num_classes).astype(np.int32)
    X = (np.eye(num_classes, num_features)[labels] + 0.01 * np.arange(num_rows)[:, None]).astype(np.float32)
    names = tuple(f"class {index}" for index in range(num_classes))
    return Table(X=X, labels=labels, class_names=names, **more)


def test_no_mistakes_are_said_to_be_none():
    table = edge()
    split = split_and_scale(table)
    Y = np.eye(3)[split.test.labels]
    page, metrics, _ = page_of(run_of(table, drawn(4, 3), split=split, Y=Y))
    assert "None: all " in Page(page).sections["mistakes"]
    assert "No test row is taken for another class." in page
    assert metrics["mistakes"] == metrics["confusions"] == []


@pytest.mark.parametrize("num_classes", [1, 2, 3])
def test_one_row_to_test_has_a_page(num_classes):
    table = edge(num_classes=num_classes)
    split = split_and_scale(table)
    test = split.test._replace(X=split.test.X[:1], labels=split.test.labels[:1])
    split = split._replace(test=test, rows=split.rows._replace(test=split.rows.test[:1]))
    page, metrics, _ = page_of(
        run_of(table, drawn(4, num_classes), split=split, history=(handgrad.Epoch(1, 1.0, None, None),))
    )
    assert Page(page).sections["calibration"]
    assert metrics["test_rows"] == 1


def test_weights_of_zero_and_a_class_left_out_have_a_page():
    table = edge()
    params = Params(np.zeros((4, 3), np.float32), np.array([[0, 0, -np.inf]], np.float32))
    run = run_of(table, params, fitted=fitted(params, l2=0.0, gap=np.inf, converged=False), command="fit")
    page, metrics, _ = page_of(run)
    found = Page(page)
    assert metrics["weights"]["largest"] == 0
    assert metrics["test_loss"] is None
    assert ["test_loss", "", "infinite"] in found.numbers
    assert "It has not converged." in found.sections["certificate"]
    assert "Without a penalty there is no bound" in found.sections["certificate"]


def test_sparse_features_in_tens_of_thousands_stay_sparse(monkeypatch):
    generator = np.random.default_rng(0)
    X = scipy.sparse.random(300, 20_000, density=1e-3, format="csr", dtype=np.float32, random_state=generator)
    table = edge(300)._replace(X=X)
    split = split_and_scale(table)
    run = run_of(table, drawn(20_000, 3), split=split)
    dense = scipy.sparse.csr_matrix.toarray

    def watched(matrix, *arguments, **options):
        assert matrix.shape[0] == 1, "a mistake is one row"
        return dense(matrix, *arguments, **options)

    monkeypatch.setattr(scipy.sparse.csr_matrix, "toarray", watched)
    page, metrics, _ = page_of(run)
    assert len(page) < 200_000
    for each in metrics["mistakes"][:3]:
        for value in each["values"]:
            number = int(value["name"].removeprefix("feature ")) - 1
            assert value["value"] == X[each["row"] - 1, number] != 0


def test_columns_are_listed_and_the_rest_counted():
    table = columns(60)
    more = {f"c{index}": table.columns["born"] for index in range(40)}
    table = table._replace(columns=table.columns | more)
    split = split_and_scale(table)
    page, metrics, _ = page_of(run_of(table, drawn(split.train.X.shape[1], 2), split=split))
    assert (len(metrics["columns"]), metrics["columns_read"]) == (30, 44)
    assert sum(each["features"] for each in metrics["columns"][:4]) == 7
    words = Page(page).sections["data"]
    assert "The first 30 of" in words
    assert "notes & remarks" in words
    assert "a separator was found out" in words
    assert "Missing values were filled in by the mean, and a feature says where." in words
