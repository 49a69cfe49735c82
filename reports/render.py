"""A leaderboard as CSV, JSON and Markdown: the same rows in the same order in each.

CSV and JSON hold raw numbers (nats, bytes, seconds, fractions), Markdown what a reader wants.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict

from ..trainer.folder import RunFolder, write_text
from ..trainer.result import trial_name
from . import formats
from .agreement import AUDIT_HEADS, RUNG_HEADS, audit_cells, rung_cells
from .confirmation import (
    HEADS,
    caption,
    cells,
    confirmed_rows,
    expectation,
    test_expectation,
)
from .leaderboard import Leaderboard
from .markdown import Align, escape, table
from .rows import Row
from .verdict import verdict

_LEADING = (
    "rank",
    "run",
    "trial",
    "name",
    "kind",
    "state",
    "metric",
    "score",
    "eval_loss",
    "perplexity",
    "gain_over_base",
    "best_step",
    "steps",
    "horizon",
)
_TRAILING = (
    "trainable_parameters",
    "trainable_share",
    "tokens_per_second",
    "seconds",
    "peak_memory_bytes",
    "gpu_memory_bytes",
    "gpu_utilization",
    "has_adapter",
    "error",
)
_CONFIRMED = ("seeds", "failed", "mean", "standard_error", "low", "high", "test_mean")
"""Of ``Confirmed.to_dict``: columns where a configuration was trained again."""


def to_csv(board: Leaderboard) -> str:
    """Raw numbers, one line a row; what is absent or not finite is empty.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = board.param_names
    again = _CONFIRMED if any(row.confirmed for row in board.rows) else ()
    heads = [f"confirmed_{name}" for name in again] + (["tie"] if again else [])
    further = [name for name in board.further_metrics if name not in _LEADING]
    front = ["front"] if board.objectives else []
    heads = [*front, *map(_csv_text, further), *heads]
    writer.writerow([*_LEADING, *heads, *map(_csv_text, names), *_TRAILING])
    for row in board.rows:
        values = [getattr(row, key) for key in (*_LEADING, *front)]
        values += [row.value(name) for name in further]
        if again:
            found = {} if row.confirmed is None else row.confirmed.to_dict()
            values += [*(found.get(name) for name in again), row.tie]
        values += [row.params.get(name) for name in names]
        values += [getattr(row, key) for key in _TRAILING]
        writer.writerow([_csv_cell(value) for value in values])
    return out.getvalue()


def to_json(board: Leaderboard) -> str:
    """Everything, numbers exact; what is not finite is null."""
    best = board.best
    data = {
        "name": board.name,
        "metric": board.metric,
        "objectives": board.objectives,
        "runs": board.runs,
        "warnings": board.warnings,
        "best": None if best is None else {"run": best.run, "name": best.name},
        "agreement": [asdict(rung) for rung in board.agreement],
        "audits": [asdict(audit) for audit in board.audits],
        "noise": None if board.noise is None else asdict(board.noise),
        "rows": [_row(row) for row in board.rows],
        "about": board.about,
    }
    return json.dumps(_finite(data), indent=2, allow_nan=False, default=str) + "\n"


def _row(row: Row) -> dict[str, object]:
    found = row.confirmed
    return {**asdict(row), "confirmed": None if found is None else found.to_dict()}


def to_markdown(board: Leaderboard) -> str:
    """A heading, the verdict and GitHub's kind of table."""
    columns = _columns(board)
    cells = [[_markdown_cell(board, row, name) for name in columns] for row in board.rows]
    aligns: list[Align] = ["left" if name in _LEFT else "right" for name in columns]
    parts = [f"# Leaderboard: {escape(board.name)}\n", f"{escape(verdict(board))}\n"]
    further = [*_confirmation(board), *_agreement(board), *_lineage(board)]
    return "\n".join([*parts, table(columns, cells, aligns), *further])


def _confirmation(board: Leaderboard) -> list[str]:
    """What the best came to on fresh seeds."""
    rows = confirmed_rows(board)
    if not rows:
        return []
    aligns: list[Align] = ["left", *_rights(len(HEADS) - 2), "left"]
    made = table(HEADS, map(cells, rows), aligns)
    return [f"\n## On fresh seeds\n\n{escape(caption(rows))}\n\n{made}"]


def _rights(count: int) -> list[Align]:
    return ["right"] * count


def _agreement(board: Leaderboard) -> list[str]:
    """Whether the rungs told what the horizon did, and what the scheduler got wrong."""
    parts = []
    if board.agreement:
        rungs = table(RUNG_HEADS, [*map(rung_cells, board.agreement)], ["right"] * 4)
        parts.append(f"\n## Early stopping\n\n{rungs}")
    if board.audits:
        found = table(AUDIT_HEADS, [*map(audit_cells, board.audits)], ["right"] * 5)
        parts.append(f"\n{found}")
    return parts


def _lineage(board: Leaderboard) -> list[str]:
    """Whose weights a trial had at which steps, and what they were trained with there."""
    cells = []
    for row in board.rows:
        for link in row.lineage:
            had = ", ".join(f"{key} {formats.brief(v)}" for key, v in link["params"].items())
            cells.append((row.name, str(link["step"]), trial_name(link["trial"]), had))
    if not cells:
        return []
    aligns: list[Align] = ["left", "right", "left", "left"]
    return [f"\n## Population based training\n\n{table(_LINEAGE, cells, aligns)}"]


def write(run: RunFolder, board: Leaderboard) -> None:
    """Replace the run's ``leaderboard.csv``, ``.json`` and ``.md``."""
    for suffix, text in (
        ("csv", to_csv(board)),
        ("json", to_json(board)),
        ("md", to_markdown(board)),
    ):
        write_text(run.leaderboard(suffix), text)


_LINEAGE = ("trial", "until step", "weights of", "trained with")
_LEFT = {"run", "trial", "state", "target_modules", "reason"}


def _columns(board: Leaderboard) -> list[str]:
    run = ["run"] if len(board.runs) > 1 else []
    gpu = any(row.gpu_memory_bytes is not None for row in board.rows)
    reason = any(row.error for row in board.rows)
    again = ["on fresh seeds", "on test rows"] if any(row.confirmed for row in board.rows) else []
    return [
        *(
            "#",
            *(["front"] if board.objectives else []),
            *run,
            "trial",
            "state",
            board.metric,
            *again,
            *board.further_metrics,
            *([] if board.metric == "perplexity" else ["perplexity"]),
            "gain over base",
            "best step",
            "steps",
        ),
        *board.param_names,
        *("trainable", "share", "tokens/s", "time", "peak memory"),
        *(["GPU memory", "GPU use"] if gpu else []),
        *(["reason"] if reason else []),
    ]


def _markdown_cell(board: Leaderboard, row: Row, column: str) -> str:
    if column in board.param_names:
        return formats.brief(row.params[column]) if column in row.params else ""
    use = row.gpu_utilization
    cells = {
        "#": "" if row.rank is None else str(row.rank),
        "front": "" if row.front is None else str(row.front),
        "run": row.run,
        "trial": f"{row.name} (default)" if row.kind == "default" else row.name,
        "state": row.state,
        board.metric: formats.loss(row.score),
        **{name: formats.loss(row.value(name)) for name in board.further_metrics},
        "on fresh seeds": expectation(row) + (" (tie)" if row.tie else ""),
        "on test rows": test_expectation(row),
        **({} if board.metric == "perplexity" else {"perplexity": formats.short(row.perplexity)}),
        "gain over base": formats.loss(row.gain_over_base),
        "best step": formats.ABSENT if row.best_step is None else str(row.best_step),
        "steps": formats.ABSENT if row.horizon is None else f"{row.steps}/{row.horizon}",
        "trainable": formats.count(row.trainable_parameters),
        "share": formats.share(row.trainable_share),
        "tokens/s": formats.short(row.tokens_per_second),
        "time": formats.clock(row.seconds),
        "peak memory": formats.size(row.peak_memory_bytes),
        "GPU memory": formats.size(row.gpu_memory_bytes),
        "GPU use": formats.ABSENT if use is None else f"{use:.0f}%",
        "reason": row.error or "",
    }
    return cells[column]


def _csv_cell(value: object) -> str:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else ""
    text = formats.plain(value)
    # A number keeps its sign; only what was written by someone can be a formula.
    return text if isinstance(value, (int, type(None))) else _csv_text(text)


def _csv_text(text: str) -> str:
    formula = text.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    # On one line: Python's writer leaves a lone carriage return unquoted, and no reader takes it.
    return ("'" if formula else "") + formats.printable(text)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
