"""A leaderboard as a table for a terminal, made to fit its width."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from ..trainer.result import TrialState
from . import formats
from .confirmation import expectation
from .leaderboard import Leaderboard
from .rows import SHOWN_ALWAYS, Row

_COLORS = {
    TrialState.RUNNING: "cyan",
    TrialState.COMPLETE: "green",
    TrialState.PRUNED: "yellow",
}
_ESSENTIAL = 6
"""Columns that stay however narrow the terminal is: rank, trial, state, loss, perplexity, step."""
_TARGETS = (7, 24)
"""Cells that the targets get: at least, and at most. A list of modules can be long."""
_REASONS = 5


@dataclass(frozen=True)
class _Column:
    """A heading and one text a row; ``width`` is what the texts and the heading's words need."""

    heading: str
    cells: tuple[str, ...]
    right: bool = True

    @property
    def width(self) -> int:
        words = (*self.heading.split(), *self.cells)
        return max(cell_len(word) for word in words)


def state_color(state: TrialState) -> str:
    """The color of a state on a terminal; red for a trial that broke."""
    return _COLORS.get(state, "red")


def terminal_table(board: Leaderboard, width: int = 100, limit: int | None = None) -> Table:
    """The board within ``width`` character cells.

    Further hyperparameters that were varied are shown where there is room; in less than about
    90 cells the last columns go, one by one.

    Args:
        board: what to show.
        width: of the terminal, in character cells.
        limit: rows to show at most; base model and default configuration are shown besides.
    """
    rows = _within(board.rows, limit)
    columns, gap = _fit(_columns(board, rows), _extras(board, rows), width)
    caption = _caption(board, rows)
    table = Table(
        box=None, pad_edge=False, padding=(0, gap, 0, 0), caption=caption, caption_justify="left"
    )
    for column, heading_width in zip(columns, _widths(columns, gap, width), strict=True):
        table.add_column(
            Text(column.heading),
            justify="right" if column.right else "left",
            width=heading_width,
            overflow="ellipsis",
            vertical="bottom",
        )
    for index, row in enumerate(rows):
        cells = [
            Text(column.cells[index], style=_style(row) if column.heading == "state" else "")
            for column in columns
        ]
        table.add_row(*cells, style=_row_style(row))
    return table


def _within(rows: tuple[Row, ...], limit: int | None) -> tuple[Row, ...]:
    if limit is None:
        return rows
    return tuple(row for i, row in enumerate(rows) if i < limit or row.kind != "trial")


def _columns(board: Leaderboard, rows: tuple[Row, ...]) -> list[_Column]:
    def made(heading: str, text: Callable[[Row], str], right: bool = True) -> _Column:
        return _Column(heading, tuple(formats.printable(text(row)) for row in rows), right)

    runs = {run: str(number) for number, run in enumerate(board.runs, start=1)}
    gpu = any(row.gpu_memory_bytes is not None for row in rows)
    columns = [
        made("#", lambda row: "" if row.rank is None else str(row.rank)),
        made("trial", lambda row: "default" if row.kind == "default" else row.name, False),
        made("state", _state, False),
        made(board.metric.replace("_", " "), lambda row: formats.loss(row.score)),
        *_again(rows),
        made("ppl", lambda row: formats.short(row.perplexity)),
        made("step", _step),
        made("r", lambda row: _param(row, "r")),
        made("\N{GREEK SMALL LETTER ALPHA}", lambda row: _param(row, "lora_alpha")),
        made("targets", lambda row: _param(row, "target_modules"), False),
        made("lr", _rate),
        *(_measured(name, rows) for name in board.further_metrics),
        made("trainable", lambda row: formats.count(row.trainable_parameters)),
        made("tok/s", _tokens),
        made("GPU mem" if gpu else "peak mem", lambda row: formats.size(_memory(row, gpu))),
    ]
    if board.objectives:
        columns.insert(1, made("front", lambda row: "" if row.front is None else str(row.front)))
    if len(runs) > 1:
        columns.insert(1, made("run", lambda row: runs.get(row.run, row.run)))
    return columns


def _again(rows: tuple[Row, ...]) -> list[_Column]:
    """What the best gave on fresh seeds, and on the test rows."""
    if not any(row.confirmed for row in rows):
        return []
    marks = any(row.tie for row in rows)
    tie = [" =" if row.tie else "  " * marks for row in rows]
    means = tuple(expectation(row) + end for row, end in zip(rows, tie, strict=True))
    return [
        _Column("fresh seeds", means),
        _Column("test", tuple(formats.loss(_test(row)) for row in rows)),
    ]


def _test(row: Row) -> float | None:
    return None if row.confirmed is None else row.confirmed.test_mean


def _measured(name: str, rows: tuple[Row, ...]) -> _Column:
    return _Column(name.replace("_", " "), tuple(formats.loss(row.value(name)) for row in rows))


def _extras(board: Leaderboard, rows: tuple[Row, ...]) -> list[_Column]:
    names = [name for name in board.param_names if name not in SHOWN_ALWAYS]
    return [
        _Column(name, tuple(formats.printable(_param(row, name)) for row in rows)) for name in names
    ]


def _fit(columns: list[_Column], extras: list[_Column], width: int) -> tuple[list[_Column], int]:
    """The columns that fit, and how many cells stand between two of them."""
    columns = list(columns)
    # Targets give way before anything else does.
    at = next(i for i, column in enumerate(columns) if column.heading == "targets")
    columns[at] = _shortened(columns[at], _TARGETS[1])
    over = max(0, _needed(columns, 1) - width)
    columns[at] = _shortened(columns[at], columns[at].width - over)
    while _needed(columns, 1) > width and len(columns) > _ESSENTIAL:
        columns.pop()
    for extra in extras:
        if _needed([*columns, extra], 1) <= width:
            columns.append(extra)
    return columns, 2 if _needed(columns, 2) <= width else 1


def _shortened(column: _Column, width: int) -> _Column:
    width = max(width, _TARGETS[0])
    cells = (c if cell_len(c) <= width else f"{set_cell_size(c, width - 1)}…" for c in column.cells)
    return _Column(column.heading, tuple(cells), column.right)


def _needed(columns: list[_Column], gap: int) -> int:
    return sum(column.width for column in columns) + gap * (len(columns) - 1)


def _widths(columns: list[_Column], gap: int, width: int) -> list[int]:
    """Each column's width: what it needs, and its heading on one line where there is room."""
    spare = width - _needed(columns, gap)
    widths = []
    for column in columns:
        more = max(0, cell_len(column.heading) - column.width)
        more = more if more <= spare else 0
        spare -= more
        widths.append(column.width + more)
    return widths


def _caption(board: Leaderboard, rows: tuple[Row, ...]) -> Text | None:
    lines = []
    if len(board.runs) > 1:
        lines += [f"run {number}: {run}" for number, run in enumerate(board.runs, start=1)]
    if len(rows) < len(board.rows):
        lines.append(f"{len(board.rows) - len(rows)} more rows are not shown")
    reasons = [f"{row.name} {row.state}: {row.error}" for row in board.rows if row.error]
    lines += reasons[:_REASONS]
    if len(reasons) > _REASONS:
        lines.append(f"{len(reasons) - _REASONS} more without a rank")
    if any(row.tie and row.confirmed for row in rows):
        lines.append("=: cannot be told apart from the best")
    lines += board.warnings
    return Text("\n".join(formats.printable(line) for line in lines)) if lines else None


def _state(row: Row) -> str:
    return "OOM" if row.state == TrialState.OUT_OF_MEMORY else row.state or formats.ABSENT


def _style(row: Row) -> str:
    return "" if row.kind == "base" else state_color(TrialState(row.state))


def _row_style(row: Row) -> str | None:
    if row.rank == 1:
        return "bold"
    return None if row.kind == "trial" else "italic"


def _step(row: Row) -> str:
    if row.horizon is None:
        return formats.ABSENT
    step = row.steps if row.best_step is None else row.best_step
    return f"{step}/{row.horizon}"


def _param(row: Row, name: str) -> str:
    return formats.brief(row.params.get(name))


def _rate(row: Row) -> str:
    rate = row.params.get("learning_rate")
    return f"{rate:.1e}" if isinstance(rate, (int, float)) else formats.brief(rate)


def _tokens(row: Row) -> str:
    rate = row.tokens_per_second
    finite = rate is not None and math.isfinite(rate)
    return formats.count(round(rate)) if finite and rate is not None else formats.ABSENT


def _memory(row: Row, gpu: bool) -> int | None:
    return row.gpu_memory_bytes if gpu else row.peak_memory_bytes
