"""A report as a reader has it: its text, its numbers, its pictures in the units of their own axes."""

import base64
import html.parser
import re
import struct
import xml.etree.ElementTree
import zlib

import numpy as np

SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """Sections by id with their words, `numbers` as (place, value, text), tags that nobody closed in `open`."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.numbers, self.tags, self.cells = [], {}, [], [], []
        self.feed(text)
        self.close()
        self.drawings = {
            section: [xml.etree.ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", part, re.DOTALL)]
            for section, part in re.findall(r'<section id="(\w+)"(.*?)</section>', text, re.DOTALL)
        }
        self.images = [decode(uri) for uri in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "data":
            self.numbers.append([attributes["data-metric"], attributes["value"], ""])
        if tag not in VOID:
            self.open.append((tag, attributes))
        if tag == "section":
            self.sections[attributes["id"]] = ""

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open[-1][0] == tag
        if tag in ("td", "th"):
            self.handle_data(" ")
        self.open.pop()

    def handle_data(self, text):
        names = [tag for tag, _ in self.open]
        section = next((attributes["id"] for tag, attributes in self.open if tag == "section"), None)
        if "data" in names:
            self.numbers[-1][2] += text
        elif section is not None and "svg" not in names:
            self.sections[section] += text


def as_number(text):
    """What a reader reads, a percentage as a share."""
    text = text.replace("−", "-").replace(",", "").replace("\N{NARROW NO-BREAK SPACE}", " ").strip()
    scale = 0.01 if text.endswith("%") else 1.0
    match = re.fullmatch(r"(?:([-+]?[\d.]+)·)?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", text.removesuffix("%").strip())
    if match:
        return scale * float(match[1] or 1) * 10.0 ** int(match[2].translate(SUPERSCRIPTS))
    return scale * float(text.removesuffix("%"))


def find(metrics, place):
    """What stands at a place of metrics.json."""
    for name in place.split("/"):
        metrics = metrics[int(name) if isinstance(metrics, list) else name]
    return metrics


def marks(drawing, kind, name):
    """Elements of a kind that have a class."""
    return [each for each in drawing.iter(kind) if name in each.get("class", "").split()]


def axis(drawing, name, *, is_log=False):
    """From a place in the picture to a number, as the texts along an axis have it."""
    texts = marks(drawing, "text", name)
    places = np.array([float(each.get("data-at")) for each in texts])
    values = np.array([as_number(each.text) for each in texts])
    assert len(values) > 1
    slope, start = np.polyfit(places, np.log(values) if is_log else values, 1)
    np.testing.assert_allclose(
        start + slope * places, np.log(values) if is_log else values, atol=1e-2 * abs(np.ptp(values))
    )
    return lambda place: np.exp(start + slope * place) if is_log else start + slope * place


def points(drawing, kind, name, **logs):
    """The points (N, 2) of a line or of dots, in the units of the axes."""
    if kind == "line":
        (path,) = marks(drawing, "path", name)
        places = np.array(re.findall(r"[ML]([\d.]+) ([\d.]+)", path.get("d")), float)
    else:
        places = np.array([(each.get("cx"), each.get("cy")) for each in marks(drawing, "circle", name)], float)
    x, y = axis(drawing, "x", is_log=logs.get("log_x", False)), axis(drawing, "y")
    return np.stack([x(places[:, 0]), y(places[:, 1])], axis=1)


def decode(text):
    """The pixels (H, W, channels) of a PNG."""
    content = base64.b64decode(text)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        (size,), name = struct.unpack(">I", content[at : at + 4]), content[at + 4 : at + 8]
        chunks[name] = content[at + 8 : at + 8 + size]
        assert struct.unpack(">I", content[at + 8 + size : at + 12 + size])[0] == zlib.crc32(name + chunks[name])
        at += 12 + size
    width, height, depth, kind, *_ = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    assert (depth, list(chunks)[-1]) == (8, b"IEND")
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * channels)
    assert not lines[:, 0].any()
    return lines[:, 1:].reshape(height, width, channels)
