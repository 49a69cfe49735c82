"""Figures of hyperparameters and of time, drawn by ``optuna.visualization``.

Optuna's figures compare trials by one value each. Stopped trials have none at the horizon, and
their last one is no match for another's: compared are the values at one rung, the last that
enough of the trials have come to (``common_rung``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna.distributions import CategoricalDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna.visualization import (
    plot_contour,
    plot_parallel_coordinate,
    plot_param_importances,
    plot_slice,
    plot_timeline,
)
from plotly.colors import sample_colorscale

from ..spaces.metrics import LOSS, Metric, find_metric
from ..trainer.result import TrialResult
from .drawing import COLOURS, Figure

_FEW = 4
"""Trials, at least, for figures that compare hyperparameters."""
_ENOUGH = 8
_RATE, _RANK = "learning_rate", "r"
_TREES, _SEED = 32, 0
"""Of fANOVA's forest: half of Optuna's trees, for half the time; a report of the same run is the
same report."""


def common_rung(results: Iterable[TrialResult]) -> int:
    """The last step at which enough trials were evaluated: half of them, and eight if there are.

    Returns:
        An optimizer step; 0 without any evaluation.
    """
    courses = [{e.step for e in result.evaluations} for result in results if result.evaluations]
    enough = max(len(courses) / 2, min(len(courses), _ENOUGH))
    steps = sorted(set().union(*courses), reverse=True)
    return next((step for step in steps if sum(step in c for c in courses) >= enough), 0)


def _study(
    results: Sequence[TrialResult], trials: Sequence[FrozenTrial], rung: int
) -> optuna.Study:
    """The trials that were evaluated at the rung, as complete ones with what they had there.

    The others stand among them as failed ones, which Optuna draws nothing of, so that every trial
    keeps its number.
    """
    found = {
        result.number: evaluation.value(result.metric)
        for result in results
        for evaluation in result.evaluations
        if evaluation.step == rung
    }
    values = {n: v for n, v in found.items() if v is not None and math.isfinite(v)}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize" if _metric(results).maximize else "minimize")
    study.add_trials(
        create_trial(
            params=_named(trial.params),
            distributions=_named(trial.distributions),
            value=values[trial.number],
        )
        if trial.params and trial.number in values
        else create_trial(state=TrialState.FAIL)
        for trial in trials
    )
    return study


def _metric(results: Sequence[TrialResult]) -> Metric:
    return find_metric(results[0].metric if results else LOSS)


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """By the last part of a parameter's name, where that is enough; texts without tags in them."""
    short = [name.rpartition(".")[2] for name in values]
    return {
        (brief if short.count(brief) == 1 else name): _untagged(value)
        for (name, value), brief in zip(values.items(), short, strict=True)
    }


def _untagged(value: Any) -> Any:
    """A choice, or a distribution of choices, in which plotly sees no tags and links."""
    if isinstance(value, CategoricalDistribution):
        return CategoricalDistribution([_untagged(choice) for choice in value.choices])
    return escape(value, quote=False) if isinstance(value, str) else value


def of_hyperparameters(
    results: Sequence[TrialResult], trials: Sequence[FrozenTrial]
) -> list[Figure]:
    """Figures of those that were varied; none where too few trials have a loss to compare.

    Args:
        results: of a run's trials.
        trials: Optuna's own records of them.
    """
    rung = common_rung(results)
    study = _study(results, trials, rung)
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if len(complete) < _FEW:
        return []
    common = set.intersection(*(set(trial.params) for trial in complete))
    varied = [
        name for name in sorted(common) if len({trial.params[name] for trial in complete}) > 1
    ]
    if not varied:
        return []
    count, said = len(complete), f"{_metric(results).name} at step {rung}"
    made: list[Figure] = []

    def add(name: str, title: str, caption: str, draw: Callable[[], go.Figure]) -> None:
        figure = draw()
        figure.update_layout(title=None)
        made.append(Figure(name, title, caption, figure))

    # Of values that are all alike there is no variance to share out.
    if len(varied) > 1 and len({trial.value for trial in complete}) > 1:
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
            "parallel-coordinates",
            "Every trial as a line",
            f"Each line is a configuration; its colour is {said}, blue where it is low.",
            lambda: _parallel(study, varied, said),
        )
    if _RATE in varied and _RANK in varied:
        add(
            "learning-rate-and-rank",
            "Learning rate and rank",
            f"Interpolated from {count} trials (dots): {said}, blue where it is low.",
            lambda: _rate_and_rank(study, said),
        )
    add(
        "slices",
        "One hyperparameter at a time",
        f"{said} against each hyperparameter; the others vary along with it.",
        lambda: _slices(study, varied, said),
    )
    return made


_SCALE = [[0.0, COLOURS[0]], [0.5, "#b0a8b9"], [1.0, COLOURS[1]]]
"""Of losses, seen on white and on black: Optuna's best are as dark as a dark page."""


def _parallel(study: optuna.Study, varied: list[str], said: str) -> go.Figure:
    figure = plot_parallel_coordinate(study, params=varied, target_name=said)
    # Optuna's are small and grey, whatever the figure's own letters are.
    for note in figure.layout.annotations:
        note.font = None
    for trace in figure.data:
        if trace.mode == "lines":
            # Its place on the first axis, from 0 to 1, is the loss's.
            (trace.line.color,) = sample_colorscale(_SCALE, [trace.y[0]])
            trace.opacity = 0.7
        elif trace.marker.colorscale:
            trace.marker.update(colorscale=_SCALE, reversescale=False)
    return figure.update_xaxes(showline=False, ticks="")


def _rate_and_rank(study: optuna.Study, said: str) -> go.Figure:
    """A contour; ranks, which double from choice to choice, on a logarithmic axis."""
    figure = plot_contour(study, params=[_RATE, _RANK], target_name=said)
    surface = figure.data[0]
    inner = surface.y[1:-1]
    low, high = inner[0] / 1.1, inner[-1] * 1.1
    # Optuna's own ends are a twentieth of the range beyond the ranks, which may be below zero.
    surface.y = (low, *inner, high)
    surface.update(colorscale=_SCALE, reversescale=False)
    few = {"tickvals": inner, "ticktext": [f"{rank:g}" for rank in inner]}
    return figure.update_yaxes(
        type="log",
        range=[math.log10(low), math.log10(high)],
        **(few if len(inner) <= _ENOUGH else {}),
    )


def _slices(study: optuna.Study, varied: list[str], said: str) -> go.Figure:
    figure = plot_slice(study, params=varied, target_name=said)
    # Optuna writes choices as Python does, with quotes.
    for axis in figure.select_xaxes():
        if axis.categoryarray:
            axis.categoryarray = [_unquoted(choice) for choice in axis.categoryarray]
    for trace in figure.data:
        trace.x = [_unquoted(value) for value in trace.x]
        # The first trials are white: on white, their rim is all that is seen of them.
        trace.marker.line = {"color": "#777777", "width": 1}
    # Its width is fixed, and beyond a page's.
    return figure.update_layout(width=None)


def _unquoted(value: Any) -> Any:
    return value[1:-1] if isinstance(value, str) and value[:1] in ("'", '"') else value


_STATES = {"COMPLETE": "#17803d", "PRUNED": "#b58900", "RUNNING": "#0b6bcb", "FAIL": "#b3261e"}


def timeline(trials: Sequence[FrozenTrial]) -> Figure:
    """When trials ran; each of them has begun."""
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
    for trace in figure.data:
        # What Optuna says of a trial is of the stand-in.
        trace.y = [trials[place].number for place in trace.y]
        trace.update(text=None, hovertemplate="trial %{y}<extra>%{fullData.name}</extra>")
        trace.marker.color = _STATES[trace.name]
    figure.update_layout(title=None, xaxis_title=None, yaxis_title="trial")
    caption = "When each trial began and ended. Bars side by side ran at the same time."
    return Figure("timeline", "Timeline", caption, figure)
