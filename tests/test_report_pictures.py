"""Each picture of a report shows the numbers that metrics.json has: read off its own axes."""

import base64
import io
import math
import re

import numpy as np
import pytest

import report_runs
from handgrad.app.report import images, svg
from handgrad.check.report import ERROR_EDGES
from handgrad.data import Table, split_and_scale
from handgrad.formulas import Params
from report_pages import Page, as_number, axis, decode, marks, points
from report_runs import page_of, run_of


@pytest.fixture(scope="module")
def made():
    """By name, (page, metrics, run)."""
    found = {}
    for name in ("digits_trained", "digits_fitted", "named_two"):
        run = getattr(report_runs, name)()
        text, metrics, _ = page_of(run)
        found[name] = Page(text), metrics, run
    return found


def test_curves_are_those_of_the_history(made):
    page, metrics, _ = made["digits_trained"]
    losses, accuracies = page.drawings["curves"]
    history = metrics["history"]
    for drawing, line, name in (
        (losses, "trained", "loss"),
        (losses, "watched", "validation_loss"),
        (accuracies, "watched", "validation_accuracy"),
    ):
        expected = [(each["epoch"], each[name]) for each in history]
        np.testing.assert_allclose(points(drawing, "line", line), expected, rtol=0.02, atol=0.004)
        best = metrics["best_epoch"]
        if line == "watched":
            np.testing.assert_allclose(points(drawing, "dot", "best")[0], expected[best - 1], rtol=0.02, atol=0.004)
    assert metrics["best_epoch"] == min(history, key=lambda each: each["validation_loss"])["epoch"]


def test_the_path_is_that_of_the_choice_and_its_ring_the_penalty_chosen(made):
    page, metrics, _ = made["digits_fitted"]
    (drawing,) = page.drawings["penalty"]
    expected = np.stack([metrics["path"]["l2"], metrics["path"]["score"]], axis=1)
    for kind in ("line", "dot"):
        np.testing.assert_allclose(points(drawing, kind, "watched", log_x=True), expected, rtol=0.02, atol=0.002)
    chosen = points(drawing, "dot", "best", log_x=True)
    np.testing.assert_allclose(chosen, [expected[metrics["path"]["best"]]], rtol=0.02, atol=0.002)


def test_reliability_is_that_of_the_bins(made):
    page, metrics, _ = made["named_two"]
    (drawing,) = page.drawings["calibration"]
    bins = metrics["calibration"]
    expected = np.stack([bins["confidence"], bins["accuracy"]], axis=1)
    np.testing.assert_allclose(points(drawing, "dot", "trained"), expected, atol=0.003)
    y = axis(drawing, "y")
    ends = [
        re.fullmatch(r"M[\d.]+ ([\d.]+)V([\d.]+)", each.get("d")).groups() for each in marks(drawing, "path", "span")
    ]
    np.testing.assert_allclose(y(np.array(ends, float)), np.stack([bins["low"], bins["high"]], axis=1), atol=0.003)
    ideal = points(drawing, "line", "ideal")
    np.testing.assert_allclose(ideal[:, 0], ideal[:, 1], atol=0.003)


def test_the_histogram_is_that_of_the_checks(made):
    page, metrics, _ = made["digits_trained"]
    assert len(page.drawings["check"]) == len(metrics["gradient_checks"]) == 2
    for drawing, report in zip(page.drawings["check"], metrics["gradient_checks"], strict=True):
        counts = np.sum([check["error_counts"] for check in report["checks"]], axis=0)
        y, bars = axis(drawing, "y"), list(drawing.iter("rect"))
        heights = [y(float(bar.get("y"))) - y(float(bar.get("y")) + float(bar.get("height"))) for bar in bars]
        np.testing.assert_allclose(heights, counts, atol=0.004 * counts.max())
        assert [as_number(each.text) for each in marks(drawing, "text", "number")] == counts.tolist()
        names = [each.text for each in marks(drawing, "text", "x")]
        assert [as_number(name.lstrip("> ")) for name in names] == pytest.approx([*ERROR_EDGES, 1])


def test_the_whisker_is_the_accuracy_its_interval_and_the_majority(made):
    for page, metrics, _ in made.values():
        (drawing,) = page.drawings["headline"]
        x = axis(drawing, "x")
        (dot,), (span,), (majority,) = (
            marks(drawing, *each) for each in (("circle", "dot"), ("path", "span"), ("path", "majority"))
        )
        assert x(float(dot.get("cx"))) == pytest.approx(metrics["test_accuracy"], abs=1e-3)
        ends = np.array(re.fullmatch(r"M([\d.]+) 30H([\d.]+)", span.get("d")).groups(), float)
        np.testing.assert_allclose(x(ends), metrics["test_accuracy_interval"], atol=1e-3)
        place = float(re.match(r"M([\d.]+) ", majority.get("d"))[1])
        assert x(place) == pytest.approx(metrics["majority_accuracy"], abs=1e-3)


def test_the_heat_map_has_the_share_of_each_true_class(made):
    page, metrics, _ = made["digits_fitted"]
    counts = np.array(metrics["confusion"])
    shares = [
        (attributes["class"].split()[0], float(attributes["style"].removeprefix("--share:")))
        for tag, attributes in page.tags
        if tag == "td" and "style" in attributes
    ]
    rows, columns = np.nonzero(counts)
    assert [kind for kind, _ in shares] == ["right" if at else "wrong" for at in rows == columns]
    np.testing.assert_allclose(
        [share for _, share in shares], (counts / counts.sum(1, keepdims=True))[rows, columns], atol=1e-4
    )


def test_bars_of_weights_are_as_long_as_the_weights_are_large(made):
    page, metrics, _ = made["named_two"]
    (output,) = metrics["weights"]["strongest"]
    bars = [
        (attributes["class"], float(attributes["style"].removeprefix("--size:")))
        for tag, attributes in page.tags
        if tag == "span" and attributes.get("style", "").startswith("--size:")
    ]
    weights = [each["weight"] for each in output["features"]]
    assert [kind for kind, _ in bars] == ["against" if weight < 0 else "for" for weight in weights]
    np.testing.assert_allclose([size for _, size in bars], np.abs(weights) / max(map(abs, weights)), atol=1e-4)


def test_images_of_weights_and_of_mistakes_are_their_values(made):
    page, metrics, run = made["digits_fitted"]
    weights, mistakes = page.images[:10], page.images[10:]
    W, largest = np.asarray(run.model.params.W), metrics["weights"]["largest"]
    for pixels, column in zip(weights, W.T, strict=True):
        alpha, values = pixels[..., 3] / 255, column.reshape(8, 8)
        np.testing.assert_allclose(alpha, np.abs(values) / largest, atol=0.003)
        is_blue = pixels[..., 2] > pixels[..., 0]
        np.testing.assert_array_equal(is_blue[alpha > 0], values[alpha > 0] > 0)
    assert len(mistakes) == len(metrics["mistakes"]) > 0
    for pixels, mistake in zip(mistakes, metrics["mistakes"], strict=True):
        np.testing.assert_allclose(pixels[..., 0] / 255, run.table.X[mistake["row"] - 1].reshape(8, 8) / 16, atol=0.003)


def test_images_in_colours_are_shown_in_them():
    generator = np.random.default_rng(0)
    X = generator.integers(256, size=(40, 5 * 4 * 3)).astype(np.uint8)
    X[0], X[1] = 0, 255
    labels = (np.arange(40) % 2).astype(np.int32)
    table = Table(X=X, labels=labels, class_names=("a", "b"), image_shape=(5, 4, 3))
    split = split_and_scale(table)
    W = generator.normal(size=(60, 2)).astype(np.float32)
    text, metrics, _ = page_of(run_of(table, Params(W, np.zeros((1, 2), np.float32)), split=split))
    (weights, *mistakes) = Page(text).images
    difference = (W[:, 1] - W[:, 0]).reshape(5, 4, 3).mean(axis=2)
    np.testing.assert_allclose(weights[..., 3] / 255, np.abs(difference) / metrics["weights"]["largest"], atol=0.003)
    rows = [each["row"] - 1 for each in metrics["mistakes"]]
    low, high = X[rows].min(), X[rows].max()
    for pixels, row in zip(mistakes, rows, strict=True):
        assert pixels.shape == (5, 4, 3)
        np.testing.assert_allclose(pixels / 255, (X[row].reshape(5, 4, 3) - low) / (high - low), atol=0.003)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_has_the_pixels_that_were_written(channels):
    pixels = np.random.default_rng(channels).integers(256, size=(3, 5, channels)).astype(np.uint8)
    uri = images.png(pixels)
    np.testing.assert_array_equal(decode(uri.removeprefix("data:image/png;base64,")), pixels)
    pillow = pytest.importorskip("PIL.Image", reason="Pillow reads PNG too")
    with pillow.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as image:
        np.testing.assert_array_equal(np.asarray(image).reshape(pixels.shape), pixels)


# --- Axes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_log", [False, True])
def test_ticks_are_round_few_and_on_the_axis(is_log):
    generator = np.random.default_rng(0)
    for _ in range(2000):
        low = 10 ** generator.uniform(-12, 6) * (1 if is_log else generator.choice([-1, 1]))
        found = svg.spanning("", [low, low + abs(low) * 10 ** generator.uniform(-6, 8)], is_log=is_log)
        ticks = svg.ticks(found)
        assert 1 <= len(ticks) <= 7
        room = 1e-6 * (found.high - found.low)
        assert all(found.low - room <= tick <= found.high + room for tick in ticks)
        assert len({svg.tick_text(found, tick) for tick in ticks}) == len(ticks)


def test_axes_of_equal_infinite_and_no_values_are_axes():
    for values in ([0.5, 0.5], [0.0], [math.nan, math.inf], [], [1e-320, 0.0], [-3.0, -3.0]):
        for is_log in (False, True):
            found = svg.spanning("", values, is_log=is_log)
            assert found.low < found.high
            assert svg.ticks(found)


def test_a_line_is_broken_where_a_number_is_none():
    frame = svg.Frame(svg.Axis("", 0, 3), svg.Axis("", 0, 1))
    broken = svg.line(frame, [(0, 0.5), (1, math.nan), (2, 0.5), (3, math.inf)], "trained")
    assert broken.count("M") == 2
    assert "nan" not in broken
