"""Formulas in LaTeX, as MathML: browsers draw it, and screen readers read it, without a script or a font of ours."""

import html
import re

import latex2mathml.converter

DISPLAY = re.compile(r"\$\$\s*(.+?)\s*\$\$", re.DOTALL)
INLINE = r"(?<![\\$])\$(?![\s$])((?:[^$\\]|\\.)+?)(?<!\s)\$(?![\d$])"


def mathml(formula: str, display: str) -> str:
    """A formula in a line of text, or as a block of its own."""
    try:
        found = latex2mathml.converter.convert(formula, display=display)
    except Exception as error:
        raise ValueError(f"the formula {formula} cannot be read: {error!r}.") from error
    found = found.replace("<math ", f'<math alttext="{html.escape(formula, quote=True)}" ', 1)
    return f'<div class="formula">{found}</div>' if display == "block" else found
