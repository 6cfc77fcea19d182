"""Looks at every page of build/site in a headless Chromium, as scripts/site.sh has built it.

    python scripts/check_site.py AXE        AXE: the file axe.min.js of axe-core

At the width of a desk and of a phone, light and dark: nothing is asked of a network, nothing is written to the console,
nothing is wider than the page, all of its Markdown was read, every link and picture is there, and axe finds nothing
serious for who cannot see, or cannot use a mouse. Exit status 1, and a line for each finding, where it is otherwise.
"""

import collections
import contextlib
import functools
import http.server
import json
import re
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import browser

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build" / "site"
WIDTHS = ((1280, 900), (390, 844))
WRONG = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded", "Network.loadingFailed")
LOOK = r"""(() => ({
  unread: [...document.querySelectorAll("article :is(p, li, td, th, h1, h2, h3)")].map((each) => {
    const words = each.cloneNode(true);
    for (const code of words.querySelectorAll("code, math, pre")) code.remove();
    return words.textContent.trim();
  }).filter((text) => /```|\$|\{\{|\}\}|\]\(|\\[a-z]+\{/.test(text)).map((text) => text.slice(0, 60)),
  width: document.scrollingElement.scrollWidth, inner: innerWidth,
  ids: [...document.querySelectorAll("[id]")].map((each) => each.id),
  links: [...document.querySelectorAll("a[href]")].map((each) => each.href),
  missing: [...document.images].filter((each) => each.complete && !each.naturalWidth).map((each) => each.src),
  formulas: [...document.querySelectorAll("article math")].filter((each) =>
    !each.closest("details:not([open])") && !each.getBoundingClientRect().width).length,
}))()"""
# Colours change at once, and not within a quarter of a second.
STILL = (
    'document.head.insertAdjacentHTML("beforeend", "<style>*, ::before, ::after {transition: none !important}</style>")'
)
SETTLE = "new Promise((done) => setTimeout(done, 50))"
AXE = """axe.run(document, {resultTypes: ["violations"]%s}).then((found) => found.violations
  .filter((each) => ["serious", "critical"].includes(each.impact))
  .map((each) => `${each.impact}: ${each.id}: ${each.help}: ${each.nodes.length} such as `
    + each.nodes[0].target.join(" ") + ": " + each.nodes[0].html.slice(0, 120)))"""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of the folder, on this machine alone."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()


class Page(collections.namedtuple("Page", ("ids", "links"))):
    """What may be pointed to, and what is."""


def look(tab: browser.Browser, address: str, axe: str, width: int) -> tuple[list[str], Page]:
    """What is wrong with a page at the width that the tab has, light and dark."""
    tab.visit(address)
    found = tab.evaluate(LOOK)
    faults = []
    if found["width"] > found["inner"]:
        faults.append(f"is {found['width']} wide")
    faults += [f"the picture {each} is not there" for each in found["missing"]]
    faults += [f"shows its source: {each}" for each in found["unread"]]
    if found["formulas"]:
        faults.append(f"{found['formulas']} formulas are not to be seen")
    tab.evaluate(STILL)
    tab.evaluate(axe)
    faults += [f"light: {each}" for each in tab.evaluate(AXE % "")]
    tab.look(width, 900, dark=True)
    tab.evaluate(SETTLE)
    faults += [f"dark: {each}" for each in tab.evaluate(AXE % ', runOnly: ["color-contrast"]')]
    home = address[: address.index("/", len("http://"))]
    asked = [each["request"]["url"] for method, each in tab.events if method == "Network.requestWillBeSent"]
    faults += [f"asks for {url}" for url in asked if not url.startswith((home, "data:", "blob:"))]
    faults += [f"{method}: {json.dumps(each)[:300]}" for method, each in tab.events if method in WRONG]
    return faults, Page(set(found["ids"]), set(found["links"]))


def dead_links(pages: dict[str, Page], home: str) -> Iterator[str]:
    """Links to what is not there."""
    for name, page in pages.items():
        for link in page.links:
            if link.startswith(home):
                file, _, anchor = link.removeprefix(home).partition("#")
                file = urllib.parse.unquote(file) or "index.html"
                if not (SITE / file).is_file():
                    yield f"{name}: links to {file}, which is not there"
                elif anchor and file in pages and urllib.parse.unquote(anchor) not in pages[file].ids:
                    yield f"{name}: links to {file}#{anchor}, which is not there"


def main(axe_file: str) -> int:
    """The exit status."""
    axe, faults, pages = Path(axe_file).read_text(), [], {}
    files = sorted(str(path.relative_to(SITE)) for path in SITE.rglob("*.html"))
    start = time.monotonic()
    with served(SITE) as home, browser.start() as tab:
        for width, height in WIDTHS:
            for file in files:
                tab.look(width, height)
                found, pages[file] = look(tab, home + file, axe, width)
                faults += [f"{file} at {width}: {each}" for each in found]
        faults += dead_links(pages, home)
    for fault in faults:
        print(re.sub(r"\s+", " ", fault))
    print(f"{len(files)} pages, {len(faults)} faults, {time.monotonic() - start:.0f} s.", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
