"""Tables as a notebook shows them."""

import html
from collections.abc import Sequence

MOST_SHOWN = 20  # rows of a table that is shown without being asked for


def as_table(rows: Sequence[Sequence[str]], *below: str) -> str:
    """HTML of a table, whose first row is its head, and of lines below it.

    Example:
      >>> as_table([("a",), ("<1",)], "b")
      '<table><tr><th>a</th></tr><tr><td>&lt;1</td></tr></table><div>b</div>'
    """
    head, *body = rows
    shown = body[:MOST_SHOWN]
    if len(body) > len(shown):
        below = (f"… {len(body) - len(shown):,} more, which print shows", *below)
    lines = [_row(head, "th"), *(_row(row, "td") for row in shown)]
    return f"<table>{''.join(lines)}</table>" + "".join(f"<div>{html.escape(line)}</div>" for line in below if line)


def _row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"
