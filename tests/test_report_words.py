"""What a report says in words: what is so of the run that it is of, once, and no more than a person reads."""

import html
import re

import numpy as np
import pytest

import handgrad
import report_runs
from handgrad.app.findings import Finding
from handgrad.models.saving import plain_encoding
from report_runs import columns, drawn, fitted, page_of, run_of


def words(run, findings=()):
    """The words of each section, with its numbers and without its pictures, and the page as text."""
    text, *_ = page_of(run, findings)
    sections = re.findall(r'<section id="(\w+)"[^>]*>(.*?)</section>', text, re.DOTALL)
    bare = {name: re.sub(r"<svg.*?</svg>|<[^>]+>", "", section, flags=re.DOTALL) for name, section in sections}
    return {name: " ".join(html.unescape(section).split()) for name, section in bare.items()}, text


def unscaled():
    """A probe of features as they are given."""
    run = run_of(report_runs.many(3).table, drawn(30, 3), fitted=fitted(None), choice=report_runs.choice())
    encoding = plain_encoding(30, None)
    model = run.model._replace(encoding=encoding)
    return run._replace(command="probe", model=model, split=run.split._replace(encoding=encoding))


def test_long_evidence_is_cut_and_counted():
    rows = {f"kind {index}": index for index in range(300)}
    finding = Finding("rare-classes", "Many are rare.", {"rows": rows, "names": list(rows)}, "Get more.")
    said = words(report_runs.named_two(), [finding])[0]["findings"]
    assert said.count("and 290 more, in metrics.json") == 2
    assert "kind 9: 9" in said
    assert "kind 10" not in said
    short = finding._replace(evidence={"rows": {"a": 1}, "names": []})
    assert "rows a: 1 · names none" in words(report_runs.named_two(), [short])[0]["findings"]


def test_commands_and_options_are_set_as_such_and_names_are_still_no_html():
    advice = "Try `handgrad train --hidden 64`, or --drop '<b>'."
    text = words(report_runs.named_two(), [Finding("code", "So.", {"a": 1}, advice)])[1]
    assert "<code>handgrad train --hidden 64</code>, or <code>--drop</code> &#39;&lt;b&gt;&#39;." in text


def test_losses_that_are_infinite_are_said_to_be():
    run = report_runs.named_two()
    Y = np.eye(2)[1 - run.split.test.labels]
    said, _ = words(run._replace(train_loss=np.inf, Y=Y))
    assert "the model has infinite nats" in said["headline"]
    assert "standard error" not in said["headline"]
    assert "standard error" in words(run)[0]["headline"]


@pytest.mark.parametrize(
    ("best", "says", "says_not"),
    [(3, "It is the last.", "After the last"), (2, "After the last, 3, it is", "It is the last")],
)
def test_the_last_epoch_is_told_where_it_is_not_the_best(best, says, says_not):
    history = tuple(handgrad.Epoch(number, 1 / number, 1 / number, 0.5) for number in (1, 2, 3))
    table = columns()
    run = run_of(table, drawn(7, 2), command="train", history=history, best=best)
    said = words(run)[0]["curves"]
    assert says in said
    assert says_not not in said


def test_the_message_of_a_fit_is_told_where_it_has_not_converged():
    run = report_runs.named_two()
    assert "steps" in words(run)[0]["certificate"]
    assert run.fitted.message not in words(run)[0]["certificate"]
    failed = run.fitted._replace(converged=False, message="float32 goes no further.")
    assert "steps the fit says: float32 goes no further." in words(run._replace(fitted=failed))[0]["certificate"]


def test_features_that_were_not_scaled_are_not_said_to_be():
    said, _ = words(unscaled())
    assert "nothing was shifted or scaled" in said["data"]
    assert "standard deviation" not in said["data"]
    assert "cannot be compared" in said["weights"]
    assert "The same C is, on all the rows trained on, l2 = 0.01" in said["penalty"]
    run = report_runs.named_two()
    scaled, _ = words(run)
    assert "mean 0 and standard deviation 1" in scaled["data"]
    assert "a word is 1 or 0" in scaled["weights"]
    assert "The same C" not in scaled["penalty"]


def test_a_split_by_files_is_not_said_to_be_at_random():
    run = unscaled()
    assert "at random" in words(run)[0]["data"]
    said = words(run._replace(settings={**run.settings, "test_data": "test.npy"}))[0]["data"]
    assert "split as the files have them" in said
    assert "at random" not in said


def test_what_counts_more_is_said():
    run = report_runs.named_two()
    assert "count" not in words(run)[0]["data"]
    train = run.split.train._replace(weights=np.ones(len(run.split.train.labels)))
    settings = {**run.settings, "class_weight": "kind 1=3"}
    said = words(run._replace(split=run.split._replace(train=train), settings=settings))[0]["data"]
    assert "Rows count by their weights in the fit and in every loss." in said
    assert "classes count by --class-weight kind 1=3." in said
