"""What the pages of docs/ write beyond Markdown, as an extension of Python-Markdown: directives, and formulas."""

import html

from markdown import Extension, Markdown
from markdown.blockprocessors import BlockProcessor
from markdown.inlinepatterns import InlineProcessor
from markdown.preprocessors import Preprocessor
from zensical.extensions.context import ContextPreprocessor

from pages.directives import expand
from pages.formulas import DISPLAY, INLINE, mathml


class Directives(Preprocessor):
    """Replaces directives."""

    def run(self, lines: list[str]) -> list[str]:
        """The lines of a page with what its directives stand for."""
        context = ContextPreprocessor.from_markdown(self.md)
        return lines if context is None else expand(lines, context.page.path)  # a docstring is on no page


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
