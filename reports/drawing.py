"""What every figure is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go

COLOURS = (
    "#0b6bcb", "#d9541e", "#17803d", "#8e44ad", "#b58900",
    "#c2185b", "#00838f", "#6d4c41", "#546e7a", "#9e9d24",
)  # fmt: skip
"""Told apart on white and on black."""


@dataclass(frozen=True)
class Figure:
    """One figure of a report.

    Attributes:
        name: for links, e.g. ``curves``.
        title: a heading.
        caption: what is seen, and what of it is to be believed; one or two sentences.
        figure: plotly's.
    """

    name: str
    title: str
    caption: str
    figure: go.Figure


def axes(figure: go.Figure, x: str, y: str) -> None:
    """Titles of both axes."""
    figure.update_layout(xaxis_title=x, yaxis_title=y)


def finite(value: float | None) -> float | None:
    """The value, or None, which leaves a gap."""
    return value if value is not None and math.isfinite(value) else None
