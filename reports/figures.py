"""The figures of a report: courses of trials, costs against loss, and those that Optuna draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
from optuna.trial import FrozenTrial

from ..spaces.metrics import find_metric
from ..trainer.result import TrialResult
from . import formats
from .drawing import COLOURS, Figure, axes, finite
from .leaderboard import Leaderboard
from .objective_figures import of_objectives
from .optuna_figures import of_hyperparameters, timeline
from .rows import Row


def figures(
    board: Leaderboard, results: Sequence[TrialResult], trials: Sequence[FrozenTrial]
) -> tuple[Figure, ...]:
    """Every figure that the run has enough trials for.

    Args:
        board: of the run.
        results: of its trials.
        trials: Optuna's own records of them.
    """
    made: list[Figure] = []
    curves = [result for result in results if result.evaluations]
    if curves:
        made.append(_curves(board, curves))
    made += of_hyperparameters(results, trials)
    made += of_objectives(board)
    made += _costs(board)
    if len(board.agreement) and (scatter := _agreement(results)) is not None:
        made.append(scatter)
    known = {result.number for result in results}
    begun = [trial for trial in trials if trial.datetime_start and trial.number in known]
    if begun:
        made.append(timeline(begun))
    for each in made:
        each.figure.update_layout(colorway=COLOURS)
    return tuple(made)


@dataclass(frozen=True)
class _Look:
    """How a trial's course is drawn: its words in the legend, and a mark where it ends."""

    words: str
    colour: str
    end: str = "circle"
    width: int = 1


_LOOKS = {
    "COMPLETE": _Look("complete", "#6ea3d3"),
    "PRUNED": _Look("stopped early", "#9aa1ab", end="x"),
    "RUNNING": _Look("running", COLOURS[2], end="circle-open"),
}
_FAILED = _Look("diverged or failed", "#b3261e", end="triangle-up")


def _curves(board: Leaderboard, results: Sequence[TrialResult]) -> Figure:
    best, default, rows = board.best, board.default, {row.trial: row for row in board.rows}
    looks = {r.number: _LOOKS.get(str(r.state), _FAILED) for r in results}
    if default is not None and default.trial in looks:
        looks[default.trial] = _Look("default configuration", COLOURS[1], width=2)
    if best is not None and best.trial in looks:
        looks[best.trial] = _Look(f"best: {best.name}", COLOURS[0], width=3)
    figure = go.Figure()
    named: set[_Look] = set()
    # What is to be seen is drawn last, above the others.
    for result in sorted(results, key=lambda result: looks[result.number].width):
        look = looks[result.number]
        figure.add_trace(
            _course(
                result,
                board.metric,
                name=look.words,
                legendgroup=look.words,
                legendrank=1000 - look.width,
                showlegend=look not in named,
                line={"width": look.width, "color": look.colour},
                marker={
                    "size": 6,
                    "symbol": ["circle"] * (len(result.evaluations) - 1) + [look.end],
                },
                text=_described(rows[result.number], board),
                hovertemplate="%{text}<br>step %{x}: %{y:.4f}<extra></extra>",
            )
        )
        named.add(look)
    base = board.base
    if base is not None and base.score is not None:
        figure.add_hline(
            y=base.score, line_dash="dot", line_color="#888888", annotation_text="base model"
        )
    axes(figure, "optimizer step", find_metric(board.metric).label)
    caption = "Every evaluation of every trial; the best trial's line is the thick one. Where a "
    caption += "line ends in a cross, early stopping ended it."
    return Figure("learning-curves", "Learning curves", caption, figure)


def _described(row: Row, board: Leaderboard) -> str:
    """A trial in words, for where the pointer is; plotly would take tags in it for its own."""
    has = [name for name in board.param_names if name in row.params]
    settings = ", ".join(f"{name} {formats.brief(row.params[name])}" for name in has)
    return escape(formats.printable(f"{row.name}, {row.state}: {settings}"), quote=False)


def courses(board: Leaderboard, results: Sequence[Sequence[TrialResult]]) -> Figure | None:
    """Learning curves of several runs over each other; None where nothing was evaluated.

    Args:
        board: of all of them.
        results: of each, in the order of ``board.runs``.
    """
    figure = go.Figure()
    for place, (name, trials) in enumerate(zip(board.runs, results, strict=True)):
        best = min((r for r in trials if r.score is not None), key=_cost, default=None)
        for result in trials:
            if not result.evaluations:
                continue
            figure.add_trace(
                _course(
                    result,
                    board.metric,
                    name=name,
                    text=result.name,
                    legendgroup=name,
                    showlegend=result is best,
                    opacity=1 if result is best else 0.3,
                    line={"width": 3 if result is best else 1, "color": COLOURS[place % 10]},
                )
            )
    if not figure.data:
        return None
    axes(figure, "optimizer step", find_metric(board.metric).label)
    said = "Every trial, a colour a search; the best of each is the thick line."
    return Figure("learning-curves", "Learning curves", said, figure)


def _course(result: TrialResult, metric: str, **style: Any) -> go.Scatter:
    """A trial's evaluations; those that are not finite leave a gap."""
    return go.Scatter(
        x=[evaluation.step for evaluation in result.evaluations],
        y=[finite(evaluation.value(metric)) for evaluation in result.evaluations],
        mode="lines+markers",
        **style,
    )


def _cost(result: TrialResult) -> float:
    return math.inf if math.isnan(result.cost) else result.cost


_OBJECTIVES = {"parameters": "parameters", "time": "seconds", "memory": "memory"}
"""What costs are called as objectives."""


def _costs(board: Leaderboard) -> list[Figure]:
    ranked = [row for row in board.rows if row.rank is not None]
    kinds: list[tuple[str, str, Callable[[Row], float | None]]] = [
        ("parameters", "trainable parameters", lambda row: row.trainable_parameters),
        ("time", "seconds of the trial", lambda row: row.seconds),
        ("memory", "peak memory, GiB", lambda row: _gib(row)),
    ]
    made = []
    for name, axis, cost in kinds:
        if _OBJECTIVES[name] in board.objectives:
            # It is drawn as one.
            continue
        points = [(cost(row), row) for row in ranked]
        known = [(value, row) for value, row in points if value is not None]
        if len(known) >= 2:
            made.append(_pareto(name, axis, known, board.metric))
    return made


def _gib(row: Row) -> float | None:
    size = row.memory_bytes
    return None if size is None else size / 2**30


def _pareto(name: str, axis: str, points: Sequence[tuple[float, Row]], metric: str) -> Figure:
    front = pareto([(cost, row.cost) for cost, row in points])
    figure = go.Figure()
    for label, chosen, symbol in (("front", True, "diamond"), ("others", False, "circle")):
        some = [point for index, point in enumerate(points) if (index in front) is chosen]
        some.sort(key=lambda point: point[0])
        figure.add_trace(
            go.Scatter(
                x=[cost for cost, _ in some],
                y=[row.score for _, row in some],
                text=[row.name for _, row in some],
                mode="lines+markers" if chosen else "markers",
                line={"dash": "dot", "shape": "hv"},
                marker={"symbol": symbol, "size": 9 if chosen else 6},
                name=label,
            )
        )
    axes(figure, axis, find_metric(metric).label)
    if name == "parameters":
        figure.update_xaxes(type="log")
    caption = "No trial is better in both than one on the front."
    if name != "parameters":
        caption += " Trials that were stopped took less for having done less."
    return Figure(f"score-and-{name}", f"{metric} and {axis.partition(',')[0]}", caption, figure)


def pareto(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the points that no other is as good as in both and better in one; low is good."""
    order = sorted(range(len(points)), key=lambda index: points[index])
    front: set[int] = set()
    best = math.inf
    for index in order:
        if points[index][1] < best:
            best = points[index][1]
            front.add(index)
    return front | {i for i in order if any(points[i] == points[j] for j in front)}


def _agreement(results: Sequence[TrialResult]) -> Figure | None:
    """First-rung losses against final ones."""
    whole = [r for r in results if str(r.state) == "COMPLETE" and len(r.evaluations) > 1]
    if len(whole) < 2:
        return None
    figure = go.Figure()
    steps = sorted({e.step for r in whole for e in r.evaluations})[:-1]
    for step in steps:
        both = [
            (e.value(r.metric), r.evaluations[-1].value(r.metric), r.name)
            for r in whole
            for e in r.evaluations
            if e.step == step and e is not r.evaluations[-1]
        ]
        if not both:
            continue
        figure.add_trace(
            go.Scatter(
                x=[finite(early) for early, *_ in both],
                y=[finite(late) for _, late, _ in both],
                text=[name for *_, name in both],
                mode="markers",
                name=f"step {step}",
            )
        )
    label = find_metric(whole[0].metric).label
    axes(figure, f"{label}, at the rung", f"{label}, at the horizon")
    caption = "Where a rung tells what the horizon will, its points rise from left to right. Only "
    caption += "trials that came to the horizon can be shown."
    return Figure("agreement", "Rungs against the end", caption, figure)
