"""The console that tables are printed on."""

from __future__ import annotations

from rich.console import Console

_WIDTH_ELSEWHERE = 112
"""Character cells in a log or a pipe, where nothing says how wide the reader's window is."""


def make_console() -> Console:
    """As wide as the terminal; in a log or a pipe, wide enough for every column."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_ELSEWHERE)
