"""``Row``: one line of a leaderboard as typed numbers, before anything is rendered."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..spaces.metrics import LOSS
from ..trainer.result import (
    BaseScore,
    TrialResult,
    TrialState,
    cost_of,
    costs_of,
    perplexity,
    value_of,
)
from .noise import Confirmed, configuration

Kind = Literal["trial", "default", "base"]

SHOWN_ALWAYS = ("r", "lora_alpha", "target_modules", "learning_rate")
"""Hyperparameters that every leaderboard names, searched or not."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERROR_LENGTH = 200
_UNEVALUATED = "it ended before its first evaluation"


@dataclass(frozen=True)
class Row:
    """One trial, or the untouched base model.

    Attributes:
        rank: place among the trials, from 1; None where there is no score to rank.
        trial: number in the study; None for the base model.
        name: ``trial-0004`` or ``base model``.
        kind: ``default`` is the configuration that every search is held against.
        state: a ``TrialState``; empty for the base model.
        metric: what trials are judged by.
        score: its best value; None where there is none or it is not finite.
        eval_loss: at the evaluation that ``score`` is of, in nats.
        perplexity: ``exp(eval_loss)``; infinite where that overflows.
        metrics: what else was measured at that evaluation, by name.
        gain_over_base: how far ``score`` is better than the base model's; less than 0: worse.
        best_step: optimizer step of ``score``, and of the adapter.
        steps: optimizer steps taken.
        horizon: optimizer steps planned; the learning-rate schedule spans them.
        params: the hyperparameters to show: ``SHOWN_ALWAYS`` and whatever else was varied.
        trainable_parameters: of the adapter; None if the trial never came to have one.
        trainable_share: of all parameters, a fraction.
        tokens_per_second: attended input tokens, over the seconds in training steps.
        seconds: the trial took, evaluations included.
        peak_memory_bytes: peak resident memory of the worker process.
        gpu_memory_bytes: peak memory that torch reserved on the GPU.
        gpu_utilization: mean, in percent.
        error: why there is no rank, on one line.
        has_adapter: whether the weights are still in the run folder.
        run: name of the run folder.
        settings: every hyperparameter of the trial, by its field name.
        lineage: trials whose weights this one took over while it ran (``TrialConfig.lineage``);
            ``settings`` are then those of its last part.
        confirmed: what its configuration gave on fresh seeds, if that was tried.
        tie: whether it cannot be told apart from the best (see ``noise.ties``), or has the
            best one's configuration but for the seed.
        objectives: the value of each, by name, where trials are judged by several.
        front: among those that came to their end, which one it is on (see ``pareto.fronts``), from
            1; None of all others.
    """

    rank: int | None
    trial: int | None
    name: str
    kind: Kind
    state: str
    metric: str
    score: float | None
    eval_loss: float | None
    perplexity: float | None
    metrics: Mapping[str, float]
    gain_over_base: float | None
    best_step: int | None
    steps: int
    horizon: int | None
    params: Mapping[str, Any]
    trainable_parameters: int | None
    trainable_share: float | None
    tokens_per_second: float | None
    seconds: float
    peak_memory_bytes: int | None
    gpu_memory_bytes: int | None
    gpu_utilization: float | None
    error: str | None
    has_adapter: bool
    run: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    lineage: Sequence[Mapping[str, Any]] = ()
    confirmed: Confirmed | None = None
    tie: bool = False
    objectives: Mapping[str, float | None] = field(default_factory=dict)
    front: int | None = None

    @property
    def expected(self) -> float | None:
        """The score to expect: the mean over fresh seeds, where there are any."""
        return self.score if self.confirmed is None else self.confirmed.mean

    @property
    def cost(self) -> float:
        """``score`` turned so that less is better; infinite where there is none."""
        return math.inf if self.score is None else cost_of(self.metric, self.score)

    @property
    def merit(self) -> tuple[float, float]:
        """``cost``, and the loss there, which tells equal ones apart; less is better."""
        return self.cost, math.inf if self.eval_loss is None else self.eval_loss

    @property
    def expected_cost(self) -> float:
        """``expected``, likewise."""
        return math.inf if self.expected is None else cost_of(self.metric, self.expected)

    def value(self, metric: str) -> float | None:
        """A metric's value at the evaluation that ``score`` is of."""
        if self.eval_loss is None:
            return None
        return value_of(metric, self.eval_loss, self.metrics)

    @property
    def tier(self) -> float:
        """``front``; infinite, and so the same for all, where there is none."""
        return math.inf if self.front is None else self.front

    @property
    def costs(self) -> tuple[float, ...] | None:
        """``objectives`` turned so that less is better; None where they are of no use for that."""
        if not self.objectives or self.state != TrialState.COMPLETE:
            return None
        return costs_of(self.objectives)

    @property
    def memory_bytes(self) -> int | None:
        """The GPU's peak where there is one, else the process's."""
        return self.gpu_memory_bytes or self.peak_memory_bytes

    @property
    def configuration(self) -> str:
        """The same for two rows exactly if their hyperparameters are, but for the seeds."""
        return configuration(self.settings)

    @property
    def rankable(self) -> bool:
        """Whether the row has a place in the ranking: a finite score of an ended trial."""
        ended = self.kind != "base" and TrialState(self.state).ranked
        return ended and self.score is not None


def trial_row(
    result: TrialResult,
    base: BaseScore | None,
    run: str,
    has_adapter: bool,
    confirmed: Mapping[str, Confirmed] = {},
) -> Row:
    """The row of a trial, not ranked yet and without ``params``."""
    score, best = _finite(result.score), result.best
    loss = None if best is None or score is None else best.eval_loss
    settings = {**result.config.get("lora", {}), **result.config.get("train", {})}
    made = result.total_parameters > 0
    return Row(
        rank=None,
        trial=result.number,
        name=result.name,
        kind="default" if result.baseline else "trial",
        state=str(result.state),
        metric=result.metric,
        score=score,
        eval_loss=loss,
        perplexity=None if loss is None else perplexity(loss),
        metrics={} if best is None or score is None else dict(best.metrics),
        gain_over_base=_gain(result.metric, score, base),
        best_step=None if score is None else result.best_step,
        steps=result.step,
        horizon=settings.get("max_steps"),
        params={},
        trainable_parameters=result.trainable_parameters if made else None,
        trainable_share=result.trainable_parameters / result.total_parameters if made else None,
        tokens_per_second=result.tokens_per_second,
        seconds=result.seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        gpu_memory_bytes=result.gpu_memory_bytes,
        gpu_utilization=result.gpu_utilization,
        error=_reason(result),
        has_adapter=has_adapter,
        run=run,
        settings=settings,
        lineage=tuple(result.config.get("lineage", ())),
        confirmed=confirmed.get(configuration(settings)) if result.state.ranked else None,
        objectives=_several(result),
    )


def _several(result: TrialResult) -> dict[str, float | None]:
    if len(result.objectives) < 2:
        return {}
    return {name: _finite(value) for name, value in result.values.items()}


def base_row(base: BaseScore, run: str, metric: str = LOSS) -> Row:
    """The row of the untouched base model: nothing trained, nothing to rank."""
    loss, score = _finite(base.eval_loss), _finite(base.value(metric))
    return Row(
        rank=None,
        trial=None,
        name="base model",
        kind="base",
        state="",
        metric=metric,
        score=score,
        eval_loss=loss,
        perplexity=None if loss is None else perplexity(loss),
        metrics=dict(base.metrics),
        gain_over_base=None if score is None else 0.0,
        best_step=None,
        steps=0,
        horizon=None,
        params={},
        trainable_parameters=None,
        trainable_share=None,
        tokens_per_second=None,
        seconds=base.seconds,
        peak_memory_bytes=None,
        gpu_memory_bytes=None,
        gpu_utilization=None,
        error=None if score is not None else _missing(metric, base.value(metric)),
        has_adapter=False,
        run=run,
    )


def shown_names(rows: Iterable[Row]) -> tuple[str, ...]:
    """``SHOWN_ALWAYS`` and the names of what differs between trials.

    The default configuration is left out of the comparison: it differs from every trial in
    fields that nobody searched. A field that some trials have and some lack differs.
    """
    trials = [row.settings for row in rows if row.kind == "trial"]
    names = dict.fromkeys(name for settings in trials for name in settings)
    differing = [name for name in names if len({_key(s, name) for s in trials}) > 1]
    return tuple(dict.fromkeys((*SHOWN_ALWAYS, *differing)))


def shown_params(row: Row, names: Iterable[str]) -> dict[str, Any]:
    """The row's values of ``names``, without those that it lacks."""
    return {name: row.settings[name] for name in names if name in row.settings}


def one_line(error: str) -> str:
    """What a traceback says: the first line of its last exception's message.

    Args:
        error: a traceback, or any text; colors and control characters are dropped.
    """
    lines = [line for line in _ANSI.sub("", error).splitlines() if line.strip()]
    frames = [i for i, line in enumerate(lines) if line.lstrip().startswith('File "')]
    after = lines[frames[-1] + 1 :] if frames else lines
    said = next((line for line in after if not line.startswith((" ", "\t"))), None)
    line = said or (lines[-1] if lines else "")
    text = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return text if len(text) <= _ERROR_LENGTH else f"{text[: _ERROR_LENGTH - 1]}…"


def _reason(result: TrialResult) -> str | None:
    if result.error:
        return one_line(result.error)
    if result.score is not None and not math.isfinite(result.score):
        return f"its score is {result.score}"
    if result.state is TrialState.DIVERGED:
        return f"its loss became NaN or infinite after step {result.step}"
    if result.state is TrialState.LOST:
        return "its worker died"
    if result.state.ranked and result.score is None:
        return _missing(result.metric) if result.evaluations else _UNEVALUATED
    return None


def _missing(metric: str, value: float | None = None) -> str:
    return f"its {metric} came to nothing" if value is None else f"its score is {value}"


def _gain(metric: str, score: float | None, base: BaseScore | None) -> float | None:
    before = None if base is None else _finite(base.value(metric))
    if score is None or before is None:
        return None
    return cost_of(metric, before) - cost_of(metric, score)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _key(settings: Mapping[str, Any], name: str) -> str | None:
    if name not in settings:
        return None
    return json.dumps(settings[name], sort_keys=True, default=str)
