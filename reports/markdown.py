"""GitHub's Markdown: escaping and tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from .formats import printable

Align = Literal["left", "right"]

_SPECIAL = re.compile(r"([\\`*\[\]<>|&~$])")
# Within a word GitHub takes an underscore as it is, so q_proj stays readable.
_EDGE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def escape(text: str) -> str:
    """The text so that it shows as it is, in a paragraph or a table's cell."""
    return _EDGE_UNDERSCORE.sub(r"\\_", _SPECIAL.sub(r"\\\1", printable(text)))


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], aligns: Sequence[Align] = ()
) -> str:
    """A table of plain texts, each of them escaped here.

    Args:
        headings: one a column.
        rows: of as many cells as there are headings.
        aligns: one a column; all left if there are none.
    """
    sides = aligns or ["left"] * len(headings)
    rule = ["---:" if side == "right" else "---" for side in sides]
    lines = [[escape(cell) for cell in cells] for cells in (headings, *rows)]
    lines.insert(1, rule)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
