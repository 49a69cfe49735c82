"""The figures of a report, drawn by plotly and, where it has them, by ``optuna.visualization``.

Optuna's figures compare trials by one value each. Stopped trials have none at the horizon, and
their last one is no match for another's: compared are the values at one rung, the last that
enough of the trials have come to (``common_rung``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna.visualization import (
    plot_contour,
    plot_parallel_coordinate,
    plot_param_importances,
    plot_slice,
    plot_timeline,
)

from ..spaces.metrics import LOSS, find_metric
from ..trainer.result import TrialResult
from .leaderboard import Leaderboard
from .rows import Row

_FEW = 4
"""Trials, at least, for figures that compare hyperparameters."""
_ENOUGH = 8
_RATE, _RANK = "learning_rate", "r"
_TREES, _SEED = 32, 0
"""Of fANOVA's forest: half of Optuna's trees, for half the time; a report of the same run is the
same report."""


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
    rung = common_rung(results)
    study = _study(results, trials, rung)
    if len(study.trials) >= _FEW:
        made += _of_parameters(study, rung, board.metric)
    made += _costs(board)
    if len(board.agreement) and (scatter := _agreement(results)) is not None:
        made.append(scatter)
    known = {result.number for result in results}
    begun = [trial for trial in trials if trial.datetime_start and trial.number in known]
    if begun:
        made.append(_timeline(begun))
    return tuple(made)


def common_rung(results: Iterable[TrialResult]) -> int:
    """The last step at which enough trials were evaluated: half of them, and eight if there are.

    Returns:
        An optimizer step; 0 without any evaluation.
    """
    courses = [{e.step for e in result.evaluations} for result in results if result.evaluations]
    enough = max(len(courses) / 2, min(len(courses), _ENOUGH))
    steps = sorted(set().union(*courses), reverse=True)
    return next((step for step in steps if sum(step in c for c in courses) >= enough), 0)


def _curves(board: Leaderboard, results: Sequence[TrialResult]) -> Figure:
    best = board.best
    figure = go.Figure()
    for result in results:
        leads = best is not None and result.number == best.trial
        figure.add_trace(
            _course(
                result,
                name=f"{result.name} {result.state}",
                line={"width": 3 if leads else 1},
                opacity=1 if leads else 0.55,
                marker={"size": 6, "symbol": _SYMBOLS.get(str(result.state), "circle")},
            )
        )
    base = board.base
    if base is not None and base.score is not None:
        figure.add_hline(
            y=base.score, line_dash="dot", line_color="#888888", annotation_text="base model"
        )
    _axes(figure, "optimizer step", _label(board.metric))
    caption = "Every evaluation of every trial; the best trial's line is the thick one. Where a "
    caption += "line ends in a cross, early stopping ended it."
    return Figure("curves", "Learning curves", caption, figure)


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
                    name=name,
                    text=result.name,
                    legendgroup=name,
                    showlegend=result is best,
                    opacity=1 if result is best else 0.3,
                    line={"width": 3 if result is best else 1, "color": _COLOURS[place % 10]},
                )
            )
    if not figure.data:
        return None
    _axes(figure, "optimizer step", _label(board.metric))
    said = "Every trial, a colour a search; the best of each is the thick line."
    return Figure("curves", "Learning curves", said, figure)


def _course(result: TrialResult, **style: Any) -> go.Scatter:
    """A trial's evaluations; those that are not finite leave a gap."""
    return go.Scatter(
        x=[evaluation.step for evaluation in result.evaluations],
        y=[_finite(evaluation.value(result.metric)) for evaluation in result.evaluations],
        mode="lines+markers",
        **style,
    )


def _cost(result: TrialResult) -> float:
    return math.inf if math.isnan(result.cost) else result.cost


def _label(metric: str) -> str:
    return find_metric(metric).label


_COLOURS = (
    "#0b6bcb", "#d9541e", "#17803d", "#8e44ad", "#b58900",
    "#c2185b", "#00838f", "#6d4c41", "#546e7a", "#9e9d24",
)  # fmt: skip
_SYMBOLS = {"PRUNED": "x", "DIVERGED": "triangle-up", "RUNNING": "circle-open"}


def _study(
    results: Sequence[TrialResult], trials: Sequence[FrozenTrial], rung: int
) -> optuna.Study:
    """The trials that were evaluated at the rung, as complete ones with what they had there."""
    found = {
        result.number: evaluation.value(result.metric)
        for result in results
        for evaluation in result.evaluations
        if evaluation.step == rung
    }
    values = {n: v for n, v in found.items() if v is not None and math.isfinite(v)}
    metric = find_metric(results[0].metric if results else LOSS)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if metric.maximize else "minimize")
    study.add_trials(
        create_trial(
            params=_named(trial.params),
            distributions=_named(trial.distributions),
            value=values[trial.number],
        )
        for trial in trials
        if trial.params and trial.number in values
    )
    return study


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """By the last part of a parameter's name, where that is enough."""
    short = [name.rpartition(".")[2] for name in values]
    return {
        (brief if short.count(brief) == 1 else name): value
        for (name, value), brief in zip(values.items(), short, strict=True)
    }


def _of_parameters(study: optuna.Study, rung: int, metric: str) -> list[Figure]:
    """What Optuna draws of hyperparameters, for those that were varied."""
    common = set.intersection(*(set(trial.params) for trial in study.trials))
    varied = [
        name for name in sorted(common) if len({trial.params[name] for trial in study.trials}) > 1
    ]
    if not varied:
        return []
    count, said = len(study.trials), f"{metric} at step {rung}"
    made: list[Figure] = []

    def add(name: str, title: str, caption: str, draw: Callable[[], go.Figure]) -> None:
        figure = draw()
        figure.update_layout(title=None)
        made.append(Figure(name, title, caption, figure))

    if len(varied) > 1:
        evaluator = FanovaImportanceEvaluator(n_trees=_TREES, seed=_SEED)
        few = " So few trials say little: take it as a hint." if count < 20 else ""
        add(
            "importance",
            "What mattered",
            f"fANOVA: the share of the variance of {said}, over {count} trials, that each "
            f"hyperparameter explains by itself.{few}",
            lambda: plot_param_importances(
                study, evaluator=evaluator, params=varied, target_name=said
            ).update_layout(yaxis_title=None, xaxis_title="share of the variance"),
        )
        add(
            "parallel",
            "Every trial as a line",
            f"Each line is a configuration; its colour is {said}. Drag along an axis to pick.",
            lambda: plot_parallel_coordinate(study, params=varied, target_name=said),
        )
    if _RATE in varied and _RANK in varied:
        add(
            "rate-and-rank",
            "Learning rate and rank",
            f"Interpolated from {count} trials (dots): {said}.",
            lambda: plot_contour(study, params=[_RATE, _RANK], target_name=said),
        )
    add(
        "slices",
        "One hyperparameter at a time",
        f"{said} against each hyperparameter; the others vary along with it.",
        lambda: plot_slice(study, params=varied, target_name=said),
    )
    return made


def _costs(board: Leaderboard) -> list[Figure]:
    ranked = [row for row in board.rows if row.rank is not None]
    kinds: list[tuple[str, str, Callable[[Row], float | None]]] = [
        ("parameters", "trainable parameters", lambda row: row.trainable_parameters),
        ("time", "seconds of the trial", lambda row: row.seconds),
        ("memory", "peak memory, GiB", lambda row: _gib(row)),
    ]
    made = []
    for name, axis, cost in kinds:
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
    _axes(figure, axis, _label(metric))
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
                x=[_finite(early) for early, *_ in both],
                y=[_finite(late) for _, late, _ in both],
                text=[name for *_, name in both],
                mode="markers",
                name=f"step {step}",
            )
        )
    label = _label(whole[0].metric)
    _axes(figure, f"{label}, at the rung", f"{label}, at the horizon")
    caption = "Where a rung tells what the horizon will, its points rise from left to right. Only "
    caption += "trials that came to the horizon can be shown."
    return Figure("agreement", "Rungs against the end", caption, figure)


def _timeline(trials: Sequence[FrozenTrial]) -> Figure:
    study = optuna.create_study()
    for trial in trials:
        state = trial.state if trial.state.is_finished() else TrialState.RUNNING
        made = create_trial(
            state=state, value=0.0 if state is TrialState.COMPLETE else None, params={}
        )
        made.datetime_start = trial.datetime_start
        made.datetime_complete = trial.datetime_complete
        study.add_trial(made)
    figure = plot_timeline(study)
    figure.update_layout(title=None)
    caption = "When each trial began and ended. Bars side by side ran at the same time."
    return Figure("timeline", "Timeline", caption, figure)


def _axes(figure: go.Figure, x: str, y: str) -> None:
    figure.update_layout(xaxis_title=x, yaxis_title=y)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
