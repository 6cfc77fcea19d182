"""What the pages of docs/ write beyond Markdown, as an extension of Python-Markdown: formulas, and lines such as

    {{ source("handgrad.formulas.losses.logit_gradient") }}
    {{ test("tests/test_losses.py::test_both_forms_of_the_loss_are_equal") }}
    {{ picture("images/simplex.svg", "what is to be seen") }}
    {{ figures("training_cpu", "epochs") }}
    {{ entry("handgrad.fit") }}
    {{ program() }}

each of which is replaced by what it names. What is not found is an error, and ends the build.
"""

import ast
import functools
import html
import re

from markdown import Extension, Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from zensical.extensions.context import ContextPreprocessor

from pages.figures import show_figures
from pages.formulas import DISPLAY, INLINE, mathml
from pages.lines import ROOT, show_source, show_test
from pages.names import show_entry
from pages.program import show_program

DIRECTIVE = re.compile(r"\{\{ (\w+)\((.*)\) \}\}")
FENCE = re.compile(r"\s*(`{3,}|~{3,})")


def show_picture(file: str, text: str, *, page: str) -> str:
    """A picture of docs/, with what is to be seen in it in words."""
    if not (ROOT / "docs" / file).is_file():
        raise ValueError(f"picture: there is no docs/{file}.")
    return f"![{text}]({'../' * page.count('/')}{file}){{ .picture loading=lazy }}"


SHOWN = {
    "entry": show_entry,
    "figures": show_figures,
    "program": show_program,
    "source": show_source,
    "test": show_test,
}


def expand(line: str, page: str) -> list[str]:
    """The lines that a directive on a page stands for."""
    match = DIRECTIVE.fullmatch(line.strip())
    shown = SHOWN | {"picture": functools.partial(show_picture, page=page)}
    if match is None or match[1] not in shown:
        raise ValueError(f"docs/{page}: {line.strip()}: there are {', '.join(shown)}, as {{{{ name(…) }}}} on a line.")
    text = shown[match[1]](*ast.literal_eval(f"[{match[2]}]"))
    indent = line[: len(line) - len(line.lstrip())]
    return [indent + each if each else "" for each in text.split("\n")]


class Directives(Preprocessor):
    """Replaces directives outside of fences."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines of a page with what its directives stand for."""
        context = ContextPreprocessor.from_markdown(self.md)
        page = "" if context is None else context.page.path  # a docstring is on no page
        found, fence = [], None
        for line in lines:
            opening = FENCE.match(line)
            if fence is None and line.lstrip().startswith("{{ "):
                found.extend(expand(line, page))
                continue
            if opening and (fence is None or line.strip() == fence):
                fence = opening[1] if fence is None else None
            found.append(line)
        return found


class Display(BlockProcessor):
    """A formula on lines of its own, between $$ and $$."""

    def test(self, parent, block):  # noqa: ARG002
        """Whether a block is a formula."""
        return DISPLAY.fullmatch(block.strip()) is not None

    def run(self, parent, blocks):
        """Put the formula into the page."""
        block = blocks.pop(0).strip()
        self.parser.parseBlocks(parent, [self.parser.md.htmlStash.store(mathml(DISPLAY.fullmatch(block)[1], "block"))])


class Inline(InlineProcessor):
    """A formula in a line."""

    def handleMatch(self, match, data):  # noqa: ARG002, N802
        """The formula, kept from further reading."""
        return self.md.htmlStash.store(mathml(html.unescape(match[1]), "inline")), match.start(0), match.end(0)


class Pages(Extension):
    """All of it."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Before fences are read, and after code in a line is."""
        md.preprocessors.register(Directives(md), "directives", 28)
        md.parser.blockprocessors.register(Display(md.parser), "display formula", 95)
        md.inlinePatterns.register(Inline(INLINE, md), "inline formula", 185)


def makeExtension(**settings) -> Pages:  # noqa: N802
    """The name that Python-Markdown looks for."""
    return Pages(**settings)
