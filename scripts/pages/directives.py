"""Lines of a page that stand for what they name, such as

    {{ source("handgrad.formulas.losses.logit_gradient") }}
    {{ test("tests/test_losses.py::test_both_forms_of_the_loss_are_equal") }}
    {{ picture("images/simplex.svg", "what is to be seen") }}
    {{ figures("training_cpu", "epochs") }}
    {{ entry("handgrad.fit") }}
    {{ program() }}

What is not found is an error, and ends the build.
"""

import ast
import functools
import re
from collections.abc import Sequence

from pages.figures import show_figures
from pages.lines import ROOT, show_source, show_test
from pages.names import show_entry
from pages.program import show_program

DIRECTIVE = re.compile(r"\{\{ (\w+)\((.*)\) \}\}")
FENCE = re.compile(r"\s*(`{3,}|~{3,})")


def expand(lines: Sequence[str], page: str) -> list[str]:
    """The lines of a page, docs/PAGE, with what its directives stand for. In fences they stay as they are."""
    found, fence = [], None
    for line in lines:
        if fence is None and line.lstrip().startswith("{{ "):
            found.extend(_expand(line, page))
            continue
        mark = FENCE.match(line)
        if mark and (fence is None or line.strip() == fence):
            fence = mark[1] if fence is None else None
            line = line.removesuffix(" no-run")
        if fence is None or line.strip() != "# run":  # both are said to the tests
            found.append(line)
    return found


def _expand(line: str, page: str) -> list[str]:
    match = DIRECTIVE.fullmatch(line.strip())
    shown = SHOWN | {name: functools.partial(show, page=page) for name, show in SHOWN_ON_PAGE.items()}
    if match is None or match[1] not in shown:
        raise ValueError(f"docs/{page}: {line.strip()}: there are {', '.join(shown)}, as {{{{ name(…) }}}} on a line.")
    try:
        text = shown[match[1]](*ast.literal_eval(f"[{match[2]}]"))
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"docs/{page}: {line.strip()}: {error}") from error
    indent = line[: len(line) - len(line.lstrip())]
    return [indent + each if each else "" for each in text.split("\n")]


def show_picture(file: str, text: str, *, page: str) -> str:
    """A picture of docs/, with what is to be seen in it in words."""
    if not (ROOT / "docs" / file).is_file():
        raise ValueError(f"picture: there is no docs/{file}.")
    return f"![{text}]({'../' * page.count('/')}{file}){{ .picture loading=lazy }}"


SHOWN = {
    "entry": show_entry,
    "figures": show_figures,
    "program": show_program,
    "test": show_test,
}
SHOWN_ON_PAGE = {"picture": show_picture, "source": show_source}
