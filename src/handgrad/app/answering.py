"""What a model says of a table: of all rows at once, or of some after others where it is too large for the memory."""

import contextlib
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from handgrad.data import Table, read_features, read_table
from handgrad.data.judging import read_in_blocks
from handgrad.data.streaming import needs_streaming
from handgrad.models import Answers, Model, answer

LARGE = "{} would take more than half of the free memory, and is read in blocks"


@contextlib.contextmanager
def answers_of(
    model: Model, data: pathlib.Path, *, is_labelled: bool, **reading: Any
) -> Iterator[tuple[Table, Iterator[Answers]]]:
    """A table, perhaps without its features, and what the model says of some of its rows after the others.

    Args:
      model: what is asked.
      data: the table.
      is_labelled: whether it has classes, with which it is read as `read_table` does, and else as `read_features`.
      reading: how; `target` is left out where there are no classes.
    """
    if needs_streaming(data):
        with read_in_blocks(data, model.encoding, is_labelled=is_labelled, **reading) as (beside, blocks):
            yield beside, _answers(model, blocks)
        return
    read = read_table if is_labelled else read_features
    table = read(data, encoding=model.encoding, **reading)
    yield table, iter([answer(model, table._replace(notes=()))])


def _answers(model: Model, blocks: Iterator[Table]) -> Iterator[Answers]:
    start = 0
    for block in blocks:
        try:
            yield answer(model, block)
        except ValueError as error:
            raise ValueError(f"{error} (Its block begins at row {start + 1:,}.)" if start else error) from None
        start += block.num_rows


def once(notes: Iterable[str]) -> list[str]:
    """Notes of blocks: of those that differ in numbers and quotations alone the first, with a word of the others."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(re.sub(r"[0-9][0-9,]*|'[^']*'", "#", note), []).append(note)
    return [
        own[0] if len(own) == 1 else f"{own[0].rstrip('.')}. {len(own) - 1:,} more blocks of rows have such notes."
        for own in kinds.values()
    ]
