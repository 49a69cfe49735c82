"""The figure of configurations that were trained again: every seed, the mean, its interval."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from .noise import LEVEL
from .rows import Row


def seed_figure(rows: Sequence[Row], metric: str) -> go.Figure:
    """One column a configuration, in the rows' order.

    Args:
        rows: each with ``confirmed``.
        metric: what the vertical axis is called, in nats.
    """
    figure = go.Figure()
    found = [row.confirmed for row in rows if row.confirmed is not None]
    names = [row.name for row in rows]
    means = [each.mean for each in found]
    figure.add_scatter(
        name="one fresh seed",
        x=[name for name, each in zip(names, found, strict=True) for _ in each.scores],
        y=[score for each in found for score in each.scores],
        mode="markers",
        marker={"size": 9, "opacity": 0.55},
    )
    figure.add_scatter(
        name=f"mean, {LEVEL:.0%} interval",
        x=names,
        y=means,
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 26},
        error_y={
            "array": [each.interval[1] - each.mean for each in found],
            "thickness": 1.5,
            "width": 8,
        },
    )
    figure.add_scatter(
        name="the search's own score",
        x=names,
        y=[row.score for row in rows],
        mode="markers",
        marker={"symbol": "x", "size": 9},
    )
    tests = [(name, each.test_mean) for name, each in zip(names, found, strict=True)]
    if any(mean is not None for _, mean in tests):
        figure.add_scatter(
            name="mean on the test rows",
            x=[name for name, _ in tests],
            y=[mean for _, mean in tests],
            mode="markers",
            marker={"symbol": "diamond-open", "size": 11},
        )
    figure.update_xaxes(title="configuration of")
    figure.update_yaxes(title=metric)
    return figure
