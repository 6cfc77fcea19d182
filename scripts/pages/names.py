"""The public names, and where what they stand for is written."""

import functools
import importlib
import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENTRY = re.compile(r'\{\{ entry\("([\w.]+)"')
PACKAGES = ("handgrad", "handgrad.formulas", "handgrad.data")


@functools.cache
def homes() -> dict[str, str]:
    """`handgrad.fit` is written in `handgrad.solvers.fit.fit`; a module is its own home."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            what = getattr(module, name)
            what = what if inspect.ismodule(what) else inspect.unwrap(what)
            home = what.__name__ if inspect.ismodule(what) else f"{what.__module__}.{what.__qualname__}"
            found[f"{package}.{name}"] = home
    return found


def public_names(home: str) -> list[str]:
    """Under which names users import what is written there, the shortest first."""
    return sorted((name for name, its in homes().items() if its == home), key=len)


def link_to(home: str, page: str) -> str | None:
    """A link from a page, docs/PAGE, to the entry of what is written there; nothing for what is not public."""
    names = public_names(home)
    for path in sorted((ROOT / "docs" / "reference").glob("*.md")):
        entries = ENTRY.findall(path.read_text())
        if any(name in entries for name in names):
            return f"[`{names[0]}`]({'../' * page.count('/')}reference/{path.name}#{names[0]})"
    return None


def show_entry(name: str, level: int = 2) -> str:
    """A public name's entry in the reference, from its docstring; one for all the names of the same thing."""
    if name not in homes():
        raise ValueError(f"entry: {name} is not public.")
    home, label = homes()[name], name.rpartition(".")[2]
    anchors = "".join(f'<span id="{each}"></span>' for each in public_names(home) if each != home)
    options = {"heading": name, "toc_label": label, "heading_level": level}
    if home in sys.modules:  # whose members have entries of their own
        options["members"] = "false"
    lines = [f"      {option}: {value}" for option, value in options.items()]
    return "\n".join([anchors, "", f"::: {home}", "    options:", *lines])
