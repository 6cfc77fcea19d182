"""Reports as a browser shows them: nothing asked of a network, no error, everything on a phone and on a desk."""

import sys
from pathlib import Path

import pytest

import report_runs
from report_pages import Page
from report_runs import page_of

SCRIPTS = Path(__file__).parents[1] / "scripts"
RUNS = {
    "digits_trained": report_runs.digits_trained,
    "digits_fitted": report_runs.digits_fitted,
    "named_two": report_runs.named_two,
    "nasty": report_runs.nasty,
    "forty": lambda: report_runs.many(40),
    "thousand": lambda: report_runs.many(1000),
}
# What is there, what is seen of it, how wide the page is, and the colour that it stands on.
LOOK = """(() => {
  const sections = [...document.querySelectorAll("main section")];
  const within = [...document.querySelectorAll("main *")].filter((each) =>
    !each.closest(".scroll") && !each.closest("pre") && !each.closest("details:not([open])") &&
    each.getBoundingClientRect().right > innerWidth + 1);
  return {
    sections: sections.filter((each) => each.getBoundingClientRect().height > 40).map((each) => each.id),
    width: document.scrollingElement.scrollWidth, inner: innerWidth,
    beyond: within.map((each) => each.outerHTML.slice(0, 80)),
    empty: [...document.querySelectorAll("svg, img")].filter((each) => each.getBoundingClientRect().height < 20).length,
    unread: [...document.images].filter((each) => !each.naturalWidth).length,
    paper: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.querySelector("h1")).color,
    small: Math.min(...[...document.querySelectorAll("svg text")].map((each) => each.getBoundingClientRect().height)),
  };
})()"""


@pytest.fixture(scope="module")
def browser():
    if not SCRIPTS.exists():
        pytest.skip("the tests run apart from the repository")
    sys.path.insert(0, str(SCRIPTS))
    try:
        import browser
    finally:
        sys.path.remove(str(SCRIPTS))
    if browser.find() is None:
        pytest.skip(f"no browser is here: {', '.join(browser.NAMES)}")
    with browser.start() as found:
        yield found


@pytest.mark.parametrize("name", RUNS)
def test_a_report_in_a_browser_is_whole_at_any_width_light_and_dark(browser, tmp_path, name):
    text, *_ = page_of(RUNS[name](), [report_runs.FINDING])
    (tmp_path / "report.html").write_text(text)
    for width, height in ((1280, 900), (390, 844)):
        for dark in (False, True):
            browser.look(width, height, dark=dark)
            browser.open(tmp_path / "report.html")
            seen = browser.evaluate(LOOK)
            assert seen["sections"] == list(Page(text).sections)
            assert seen["width"] <= seen["inner"] == width
            assert (seen["beyond"], seen["empty"], seen["unread"]) == ([], 0, 0)
            assert seen["small"] > 9, "text in a picture is large enough to read"
            assert (luminance(seen["paper"]) < 0.1 < 0.7 < luminance(seen["ink"])) is dark
            asked = [
                found["request"]["url"] for method, found in browser.events if method == "Network.requestWillBeSent"
            ]
            assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
            wrong = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed")
            assert [each for each in browser.events if each[0] in wrong] == []


@pytest.mark.parametrize("name", ["nasty", "digits_trained"])
def test_a_printed_report_is_as_wide_as_its_paper(browser, tmp_path, name):
    text, *_ = page_of(RUNS[name](), arguments=("fit", "x" * 90, "--out", "y" * 90))
    (tmp_path / "report.html").write_text(text)
    browser.look(720, 1000)
    browser.send("Emulation.setEmulatedMedia", media="print")
    browser.open(tmp_path / "report.html")
    found = browser.evaluate("document.scrollingElement.scrollWidth")
    cut_off = browser.evaluate(
        "[...document.querySelectorAll('pre')].map((each) => each.scrollWidth - each.clientWidth)"
    )
    browser.send("Emulation.setEmulatedMedia", media="")
    assert found <= 720
    assert cut_off == [0]


def test_a_script_or_a_request_on_a_page_would_be_seen(browser, tmp_path):
    (tmp_path / "page.html").write_text("<script>console.error(1); nothing()</script><img src='other.png'>")
    browser.open(tmp_path / "page.html")
    methods = [method for method, _ in browser.events]
    assert {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"} <= set(methods)
    assert methods.count("Network.requestWillBeSent") == 2


def luminance(color):
    """Of rgb(r, g, b), from 0 to 1."""
    red, green, blue = map(int, color.removeprefix("rgb(").removesuffix(")").split(","))
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255
