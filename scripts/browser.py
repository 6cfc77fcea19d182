"""A headless Chromium, driven by its DevTools protocol over a pipe: to see a report as its reader does.

Run: python scripts/browser.py PAGE SELECTOR FILE [WIDTH]     a picture of what the selector finds on the page
     python scripts/browser.py runs/digits/report.html '#weights .images' docs/images/digits.png 532
"""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Chromium reads commands from descriptor 3 and writes answers to 4.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
OPTIONS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync --remote-debugging-pipe"
)
SECONDS = 60


def find():
    """The browser of this machine; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def start():
    """A `Browser`, until the end of the block."""
    (read_commands, write_commands), (read_answers, write_answers) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # dup2 in a new interpreter, since a function of ours may not run between fork and exec where there are threads.
        ours = (read_commands, write_answers)
        command = [sys.executable, "-I", "-c", LAUNCH, *map(str, ours), find(), *OPTIONS.split()]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}", "about:blank"], pass_fds=ours, stdout=quiet, stderr=quiet
        )
        for descriptor in ours:
            os.close(descriptor)
        try:
            yield Browser(write_commands, read_answers)
        finally:
            for descriptor in (write_commands, read_answers):
                os.close(descriptor)  # which ends it
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Browser:
    """One tab. What it reports goes into `events`, a list of (method, parameters)."""

    def __init__(self, commands, answers):
        self.commands, self.answers = commands, answers
        self.numbers, self.rest, self.session, self.events = itertools.count(1), b"", None, []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        """The answer to a command."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self.events.append((answer["method"], answer["params"]))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def look(self, width, height, *, dark=False):
        """Show pages at this size, light or dark."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path):
        """Load a file, with all that it asks for."""
        self.visit(pathlib.Path(path).resolve().as_uri())

    def visit(self, address):
        """Load a page, with all that it asks for."""
        self.events.clear()
        self.send("Page.navigate", url=address)
        while not any(method == "Page.loadEventFired" for method, _ in self.events):
            event = self._receive()
            self.events.append((event["method"], event["params"]))

    def evaluate(self, expression):
        """The value of a JavaScript expression, of a promise that of which it is one."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def photograph(self, selector, scale=2, margin=12):
        """A PNG of the first element that a selector finds, with a margin."""
        box = self.evaluate(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            f"return {{x: box.x + scrollX - {margin}, y: box.y + scrollY - {margin}, "
            f"width: box.width + {2 * margin}, height: box.height + {2 * margin}}}; }})()"
        )
        shot = self.send("Page.captureScreenshot", clip=box | {"scale": scale}, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def _receive(self):
        end = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            if not select.select([self.answers], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError(f"the browser has said nothing for {SECONDS} seconds")
            read = os.read(self.answers, 1 << 16)
            if not read:
                raise RuntimeError("the browser has ended")
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


def main(page, selector, file, width="1280"):
    with start() as browser:
        browser.look(int(width), 900)
        browser.open(page)
        pathlib.Path(file).write_bytes(browser.photograph(selector))


if __name__ == "__main__":
    main(*sys.argv[1:])
