"""What came of a trial: ``TrialState``, ``Evaluation`` and ``TrialResult``.

These are plain data on disk and between processes. ``reports/`` reads them without knowing
how trials are run.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from ..spaces.metrics import LOSS, find_objective
from .redact import redact


class TrialState(enum.StrEnum):
    """How far a trial came."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    """Reached its horizon, or its own early-stopping rule."""
    PRUNED = "PRUNED"
    """Stopped by the scheduler because it fell behind."""
    DIVERGED = "DIVERGED"
    """Its loss became NaN or infinite."""
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    FAILED = "FAILED"
    """An exception; the result carries the traceback."""
    LOST = "LOST"
    """Its worker died."""

    @property
    def ranked(self) -> bool:
        """Whether a trial in this state has a place in the ranking."""
        return self in (TrialState.COMPLETE, TrialState.PRUNED)

    @property
    def finished(self) -> bool:
        """Whether nothing more will come of the trial."""
        return self is not TrialState.RUNNING


@dataclass(frozen=True)
class Evaluation:
    """One pass over the validation rows.

    Attributes:
        step: optimizer steps taken before it.
        eval_loss: mean negative log-likelihood of a supervised token, in nats; for sequence
            classification, the mean cross-entropy of a row.
        seconds: since the trial began.
        metrics: what else was measured, by name.
    """

    step: int
    eval_loss: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """A metric's value; None where it came to none."""
        return value_of(metric, self.eval_loss, self.metrics)

    def cost(self, metric: str) -> float:
        """A metric's value turned so that less is better; infinite where there is none."""
        value = self.value(metric)
        return math.inf if value is None else cost_of(metric, value)

    @property
    def perplexity(self) -> float:
        """``exp(eval_loss)``; infinite where that overflows."""
        return perplexity(self.eval_loss)


def value_of(metric: str, loss: float, metrics: Mapping[str, float]) -> float | None:
    """A metric's value, from the loss or from what else was measured; None where it has none."""
    if metric == LOSS:
        return loss
    if metric == "perplexity":
        return found if math.isfinite(found := perplexity(loss)) else None
    return metrics.get(metric)


def cost_of(metric: str, value: float) -> float:
    """The value, its sign turned where larger is better."""
    return -value if find_objective(metric).maximize else value


def costs_of(values: Mapping[str, float | None]) -> tuple[float, ...] | None:
    """Objectives' values turned so that less of each is better; None where one is missing."""
    known = {name: value for name, value in values.items() if value is not None}
    if len(known) < len(values) or not all(map(math.isfinite, known.values())):
        return None
    return tuple(cost_of(name, value) for name, value in known.items())


def perplexity(loss: float) -> float:
    """``exp(loss)`` of a mean token loss in nats; infinite where that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


@dataclass(frozen=True)
class TrialResult:
    """What is known of a trial, while it runs and after.

    A trial's score is its best evaluation, and its adapter is the one saved at that
    evaluation (``best_step``): the two never part.

    Attributes:
        number: the trial's number in the study.
        state: see ``TrialState``.
        config: ``TrialConfig.to_dict()``.
        score: the best value of ``metric`` so far, None before the first evaluation that has one.
        best_step: the optimizer step of that evaluation; of several with this value, of the one
            with the lowest loss.
        step: optimizer steps taken.
        evaluations: every evaluation, in order.
        trainable_parameters: of the adapter (and of modules_to_save).
        total_parameters: of base and adapter; 4-bit weights counted one by one.
        tokens: attended (not padding) input tokens trained on.
        seconds: since the trial began, evaluations included.
        tokens_per_second: ``tokens`` over the seconds spent in training steps.
        peak_memory_bytes: peak resident memory of the worker process during the trial.
        gpu_memory_bytes: peak memory that torch reserved on the GPU; None without one.
        gpu_utilization: mean utilization of the GPU in percent (NVML); None without one.
        micro_batch: rows a forward pass; less than the configuration's after running out of
            memory, at the same effective batch.
        stopped_early: whether the trial's own early-stopping rule ended it.
        test: ``eval_loss`` and what else is measured, of the adapter on the test rows; only of a
            trial that confirms another on a fresh seed.
        place: the node and the GPUs there that it ran on last; None on one machine without GPUs.
        error: traceback of a trial that failed.
    """

    number: int
    state: TrialState
    config: Mapping[str, Any]
    score: float | None = None
    best_step: int | None = None
    step: int = 0
    evaluations: tuple[Evaluation, ...] = ()
    trainable_parameters: int = 0
    total_parameters: int = 0
    tokens: int = 0
    seconds: float = 0.0
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    gpu_memory_bytes: int | None = None
    gpu_utilization: float | None = None
    micro_batch: int | None = None
    stopped_early: bool = False
    test: Mapping[str, float] = field(default_factory=dict)
    place: str | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """``trial-0007``: what tables, folders and trackers call it."""
        return trial_name(self.number)

    @property
    def metric(self) -> str:
        """What the trial is judged by."""
        return str(self.config.get("metric", LOSS))

    @property
    def objectives(self) -> tuple[str, ...]:
        """What trials are ranked by, ``metric`` first."""
        return tuple(self.config.get("objectives") or (self.metric,))

    @property
    def values(self) -> dict[str, float | None]:
        """Of each objective: of the adapter that is kept, or of all that the trial took."""
        took = {
            "parameters": self.trainable_parameters,
            "seconds": self.seconds,
            "memory": self.gpu_memory_bytes or self.peak_memory_bytes,
        }
        measured = {} if self.best is None else {n: self.best.value(n) for n in self.objectives}
        known = {**measured, **took, self.metric: self.score}
        return {name: known.get(name) for name in self.objectives}

    @property
    def costs(self) -> tuple[float, ...] | None:
        """``values`` turned so that less is better; None before a trial's own end."""
        return costs_of(self.values) if self.state is TrialState.COMPLETE else None

    @property
    def cost(self) -> float:
        """``score`` turned so that less is better; infinite where there is none."""
        return math.inf if self.score is None else cost_of(self.metric, self.score)

    @property
    def merit(self) -> tuple[float, float]:
        """``cost``, and the loss there, which tells equal ones apart; less is better."""
        return self.cost, math.inf if self.best is None else self.best.eval_loss

    @property
    def best(self) -> Evaluation | None:
        """The evaluation that ``score`` is of."""
        return next((e for e in self.evaluations if e.step == self.best_step), None)

    @property
    def test_score(self) -> float | None:
        """The value of ``metric`` on the test rows."""
        if LOSS not in self.test:
            return None
        return value_of(self.metric, self.test[LOSS], self.test)

    @property
    def baseline(self) -> bool:
        """Whether this is the default configuration that the search is held against."""
        return bool(self.config.get("baseline"))

    def ended(self, state: TrialState, error: str | None = None) -> TrialResult:
        """This result in its final state."""
        return replace(self, state=state, error=None if error is None else redact(error))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, from which ``from_dict`` makes an equal result."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialResult:
        """The inverse of ``to_dict``; keys that this version does not know are passed over."""
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in data.items() if key in known}
        values["state"] = TrialState(values["state"])
        values["evaluations"] = tuple(Evaluation(**item) for item in values["evaluations"])
        return cls(**values)


def trial_name(number: int) -> str:
    """``trial-0007`` for 7."""
    return f"trial-{number:04d}"


@dataclass(frozen=True)
class BaseScore:
    """The untouched base model on the same validation rows: what a trial must beat.

    Attributes:
        eval_loss: as in ``Evaluation``.
        rows: validation rows scored.
        tokens: supervised tokens in them (rows, for classification).
        seconds: the scoring took.
        metrics: what else was measured, by name.
    """

    eval_loss: float
    rows: int
    tokens: int
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """A metric's value; None where it came to none."""
        return value_of(metric, self.eval_loss, self.metrics)

    @property
    def perplexity(self) -> float:
        """``exp(eval_loss)``."""
        return perplexity(self.eval_loss)
