"""Formulas in LaTeX, as MathML: browsers draw it, and screen readers read it, without a script or a font of ours."""

import itertools
import re
import xml.etree.ElementTree as ET

import latex2mathml.converter

DISPLAY = re.compile(r"\$\$\s*(.+?)\s*\$\$", re.DOTALL)
INLINE = r"(?<![\\$])\$(?![\s$])((?:[^$\\]|\\.)+?)(?<!\s)\$(?![\d$])"
SCRIPTS = ("msub", "msup", "msubsup")
PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3}
THIN = {"width": "0.1667em"}


def mathml(formula: str, display: str) -> str:
    """A formula in a line of text, or as a block of its own."""
    try:
        math = ET.fromstring(latex2mathml.converter.convert(formula, display=display, xmlns=""))
    except Exception as error:
        raise ValueError(f"the formula {formula} cannot be read: {error!r}.") from error
    math.set("alttext", formula)
    for element in list(math.iter()):
        # What the converter does not know it leaves as it is.
        if len(element) != PARTS.get(element.tag, len(element)) or "\\" in (element.text or ""):
            raise ValueError(f"the formula {formula} cannot be read.")
        _join_letters(element)
        _set_apart(element)
    found = ET.tostring(math, encoding="unicode")
    return f'<div class="formula">{found}</div>' if display == "block" else found


def _join_letters(element: ET.Element) -> None:
    r"""Of the letters of \mathrm{softmax}, one word."""
    if len(element) > 1 and all(each.tag == "mi" and each.get("mathvariant") == "normal" for each in element):
        word = ET.Element("mi")
        word.text = "".join(each.text or "" for each in element)
        element[:] = [word]
    if element.tag == "mo" and element.text == "/":
        element.set("lspace", "0")
        element.set("rspace", "0")


def _set_apart(element: ET.Element) -> None:
    """A name such as log stands apart from what is before and after it, brackets and signs excepted, as in TeX."""
    if element.tag not in ("mrow", "math", "mtd"):
        return
    children = list(element)
    for before, after in itertools.pairwise(children):
        if (_is_name(before) or _is_name(after)) and "mo" not in (before.tag, after.tag):
            element.insert(list(element).index(after), ET.Element("mspace", THIN))


def _is_name(element: ET.Element) -> bool:
    if element.tag in SCRIPTS or (element.tag == "mrow" and len(element) == 1):
        return _is_name(element[0])
    return element.tag == "mi" and len(element.text or "") > 1
