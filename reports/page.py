"""What pages are made of: one HTML file each, which needs no network, for a laptop and a phone."""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs

from . import formats
from .confirmation import expectation, test_expectation
from .drawing import Figure
from .leaderboard import Leaderboard
from .rows import Row

_PAIRS = (
    "pareto-1",
    "pareto-2",
    "score-and-parameters",
    "score-and-time",
    "score-and-memory",
    "agreement",
)
"""Figures that stand two in a row, where the window is wide."""
_TALL = ("slices", "parallel-coordinates", "learning-rate-and-rank")


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading.

    Attributes:
        name: what links go to.
        title: plain text.
        body: HTML; a section without is left out.
    """

    name: str
    title: str
    body: str


def document(title: str, header: str, sections: Iterable[Section]) -> str:
    """A whole page.

    Args:
        title: plain text.
        header: HTML, above the sections.
        sections: in their order.
    """
    shown = [section for section in sections if section.body]
    links = "".join(f'<a href="#{s.name}">{escape(s.title)}</a>' for s in shown)
    scripts = (get_plotlyjs(), _asset("report.js"))
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)} - tune-lora</title>",
            f"<style>{_asset('report.css')}</style>",
            f"</head><body><header>{header}</header><nav>{links}</nav><main>",
            *_laid_out(shown),
            "</main><footer>Made by tune-lora. Losses in nats; less is better.</footer>",
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>",
            "",
        ]
    )


def _policy(scripts: Iterable[str]) -> str:
    """What a browser holds the page to: these scripts and no others, and nothing from elsewhere."""
    digests = (sha256(script.encode()).digest() for script in scripts)
    known = " ".join(f"'sha256-{b64encode(digest).decode()}'" for digest in digests)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {known}; {rest}"


def _asset(name: str) -> str:
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def _laid_out(sections: Iterable[Section]) -> list[str]:
    made: list[str] = []
    paired = False
    for section in sections:
        pair = section.name in _PAIRS
        if pair is not paired:
            made.append('<div class="pair">' if pair else "</div>")
            paired = pair
        title = f"<h2>{escape(section.title)}</h2>"
        made.append(f'<section id="{section.name}">{title}{section.body}</section>')
    return [*made, "</div>"] if paired else made


def advice(text: str, *, caution: bool = False) -> str:
    """A sentence that stands out."""
    kind = "advice caution" if caution else "advice"
    return f'<p class="{kind}">{escape(text)}</p>'


def caption(text: str) -> str:
    """What a table or a figure shows."""
    return f'<p class="caption">{escape(text)}</p>'


def tiles(facts: Iterable[tuple[str, str]]) -> str:
    """Large numbers with what they are of."""
    each = (f'<div class="tile"><b>{escape(b)}</b><span>{escape(s)}</span></div>' for b, s in facts)
    return f'<div class="tiles">{"".join(each)}</div>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 0) -> str:
    """Plain text in rows; the first ``left`` columns are words."""

    def cell(tag: str, index: int, text: str) -> str:
        side = ' class="left"' if index < left else ""
        return f"<{tag}{side}>{escape(formats.printable(text))}</{tag}>"

    top = "".join(cell("th", index, head) for index, head in enumerate(heads))
    lines = ("".join(cell("td", i, text) for i, text in enumerate(row)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    made = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{made}</div>'


Column = tuple[str, str, str]
"""Shown, its raw value, and classes."""


def leaderboard_table(board: Leaderboard) -> str:
    """Every row, to be sorted and filtered; ``data-value`` is a cell's number in full."""
    if not board.rows:
        return caption("Nothing has been evaluated yet.")
    columns = [_cells(board, row) for row in board.rows]
    heads = "".join(
        f'<th scope="col" class="{classes}"><button>{escape(name)}</button></th>'
        for name, (_, _, classes) in columns[0].items()
    )
    body = []
    for row, cells in zip(board.rows, columns, strict=True):
        kind = "base" if row.kind == "base" else "best" if row.rank == 1 else ""
        inner = "".join(
            f'<td class="{classes}" data-value="{escape(formats.printable(raw))}">{shown}</td>'
            for shown, raw, classes in cells.values()
        )
        body.append(f'<tr class="{kind}" data-state="{row.state}">{inner}</tr>')
    states = sorted({row.state for row in board.rows if row.state})
    options = "".join(f"<option>{state}</option>" for state in states)
    return (
        '<div class="tools"><input id="words" type="search" placeholder="Filter: all-linear r=16"'
        ' aria-label="Filter the rows"><select id="state" aria-label="State">'
        f'<option value="">every state</option>{options}</select>'
        '<span class="caption" id="count" role="status"></span></div>'
        f'<div class="scroll"><table id="rows"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cells(board: Leaderboard, row: Row) -> dict[str, Column]:
    default = " (default)" if row.kind == "default" else ""
    state = f'<span class="state {row.state}">{row.state}</span>'
    run: dict[str, Column] = {"run": (_text(row.run), row.run, "left")}
    further = board.further_metrics
    perplexity = _number(formats.short(row.perplexity), row.perplexity)
    front = _number("" if row.front is None else str(row.front), row.front)
    cells: dict[str, Column] = {
        "#": _number("" if row.rank is None else str(row.rank), row.rank),
        **({"front": front} if board.objectives else {}),
        **(run if len(board.runs) > 1 else {}),
        "trial": (escape(row.name + default), row.name, "left name"),
        "state": (state, row.state, "left"),
        board.metric: _number(formats.loss(row.score), row.score),
        **{name: _number(formats.loss(row.value(name)), row.value(name)) for name in further},
        **({} if board.metric == "perplexity" else {"perplexity": perplexity}),
        "gain over base": _number(formats.loss(row.gain_over_base), row.gain_over_base),
        "steps": _number(
            formats.ABSENT if row.horizon is None else f"{row.steps}/{row.horizon}", row.steps
        ),
    }
    if any(other.confirmed for other in board.rows):
        found = row.confirmed
        tie = " (tie)" if row.tie else ""
        mean, test = (found.mean, found.test_mean) if found else (None, None)
        cells["on fresh seeds"] = _number(expectation(row) + tie, mean)
        cells["on test rows"] = _number(test_expectation(row), test)
    for name in board.param_names:
        value = row.params.get(name)
        shown = formats.brief(value) if name in row.params else ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            cells[name] = _number(shown, value)
        else:
            cells[name] = (_text(shown), formats.plain(value), "left")
    memory = row.memory_bytes
    cells |= {
        "trainable": _number(formats.count(row.trainable_parameters), row.trainable_parameters),
        "tokens/s": _number(formats.short(row.tokens_per_second), row.tokens_per_second),
        "time": _number(formats.clock(row.seconds), row.seconds),
        "peak memory": _number(formats.size(memory), memory),
    }
    if any(other.error for other in board.rows):
        cells["reason"] = (_text(row.error or ""), row.error or "", "long")
    return cells


def _text(words: str) -> str:
    return escape(formats.printable(words))


def _number(shown: str, value: float | None) -> Column:
    # As Python and as JavaScript read it.
    raw = "" if value is None else "Infinity" if value == math.inf else repr(value)
    return escape(shown), raw, ""


def figure_body(figure: Figure) -> str:
    """Its place on the page, and its data, which a script draws."""
    made = json.loads(figure.figure.to_json())
    made["layout"].pop("template", None)
    tall = " tall" if figure.name in _TALL else ""
    return (
        f"{caption(figure.caption)}"
        f'<div class="figure{tall}" id="{figure.name}-figure"></div>'
        f'<script type="application/json" id="{figure.name}-figure-data">{_json(made)}</script>'
    )


def _json(data: Any) -> str:
    """JSON that ends no script element."""
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
