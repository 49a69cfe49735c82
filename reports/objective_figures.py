"""Figures of trials that are judged by several objectives: the first against each of the others."""

from __future__ import annotations

import plotly.graph_objects as go

from ..spaces.metrics import find_objective
from .drawing import COLOURS, Figure, axes
from .leaderboard import Leaderboard
from .rows import Row

_FURTHER = "#888888"


def of_objectives(board: Leaderboard) -> list[Figure]:
    """One figure for each objective behind the first; none where no trial has a front."""
    rows = [row for row in board.rows if row.front is not None]
    return (
        [_figure(board, rows, place) for place in range(1, len(board.objectives))] if rows else []
    )


def _figure(board: Leaderboard, rows: list[Row], place: int) -> Figure:
    first, other = board.metric, board.objectives[place]
    figure = go.Figure()
    kinds = (("front 1", "diamond", 9, COLOURS[0]), ("further fronts", "circle", 6, _FURTHER))
    for name, symbol, size, colour in kinds:
        some = [row for row in rows if (row.front == 1) is (name == "front 1")]
        # Of two objectives the front is a staircase; of three it is seen from a side only.
        line = name == "front 1" and len(board.objectives) == 2
        some.sort(key=lambda row: row.objectives[other] or 0.0)
        figure.add_trace(
            go.Scatter(
                x=[row.objectives[other] for row in some],
                y=[row.objectives[first] for row in some],
                text=[f"{row.name}, front {row.front}" for row in some],
                mode="lines+markers" if line else "markers",
                line={"dash": "dot", "color": colour},
                marker={"symbol": symbol, "size": size, "color": colour},
                name=name,
            )
        )
    base = board.base
    if base is not None and base.score is not None and base.value(other) is not None:
        figure.add_trace(
            go.Scatter(
                x=[base.value(other)],
                y=[base.score],
                text=["base model"],
                mode="markers",
                marker={"symbol": "x", "size": 8, "color": _FURTHER},
                name="base model",
            )
        )
    axes(figure, find_objective(other).label, find_objective(first).label)
    if other == "parameters":
        figure.update_xaxes(type="log")
    caption = (
        f"{first} of each trial that came to its end, against its {other}. On front 1 is what no "
    )
    caption += f"other trial is better than in all of {', '.join(board.objectives)}."
    return Figure(f"pareto-{place}", f"Pareto front: {first} and {other}", caption, figure)
