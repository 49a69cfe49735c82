"""A comparison of several searches as a page."""

from __future__ import annotations

from html import escape

from .compare import HEADS, Comparison, difference_cells, standing_cells
from .figures import courses
from .page import Section, advice, caption, document, figure_body, leaderboard_table, table
from .verdict import verdict


def to_html(found: Comparison) -> str:
    """The whole page."""
    board = found.board
    notes = "".join(advice(text, caution=True) for text in board.warnings)
    header = f'<h1>{escape(board.name)}</h1><p class="verdict">{escape(verdict(board))}</p>{notes}'
    standings = [standing_cells(standing) for standing in found.standings]
    different = [difference_cells(key, values) for key, values in found.differences.items()]
    drawn = courses(board, found.results)
    sections = [
        Section("searches", "The searches", table(HEADS, standings, left=1)),
        Section("differences", "What differs between their spaces", _differences(found, different)),
        *([Section(drawn.name, drawn.title, figure_body(drawn))] if drawn else []),
        Section("leaderboard", "All trials, ranked together", leaderboard_table(board)),
    ]
    return document(board.name, header, sections)


def _differences(found: Comparison, rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return caption("Nothing: the spaces are the same.")
    return table(("key", *found.board.runs), rows, left=1 + len(found.board.runs))
