"""Keeps a trial's ``TrialResult`` while it runs; decides at each evaluation whether to go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .config import TrialConfig
from .folder import TrialFolder
from .memory import Meter
from .result import Evaluation, TrialResult, TrialState

Report = Callable[[TrialResult], bool]
"""Given the trial's result so far at each evaluation; returns whether to go on."""


class Recorder:
    """What is known of one running trial.

    Args:
        config: of the trial.
        folder: where metrics go.
        report: asked at each evaluation whether to go on.
        earlier: the result of a part of the trial that an interruption ended; it is added to.

    Attributes:
        result: what is known so far.
        save: called to keep the adapter when an evaluation is the best so far.
        checkpoint: called after an evaluation, before ``report`` is asked: whatever it answers,
            and whenever the process dies, nothing before that moment is done again.
    """

    def __init__(
        self,
        config: TrialConfig,
        folder: TrialFolder,
        report: Report,
        earlier: TrialResult | None = None,
    ) -> None:
        self.result = earlier or TrialResult(config.number, TrialState.RUNNING, config.to_dict())
        self._config, self._folder = config, folder
        self._report = report
        self.save: Callable[[int], None] = lambda step: None
        self.checkpoint: Callable[[], None] = lambda: None
        self._meter = Meter()
        self._start = time.perf_counter() - self.result.seconds
        rate = self.result.tokens_per_second
        self._training_seconds = self.result.tokens / rate if rate else 0.0
        self._outcome: TrialState | None = None

    @property
    def stopped(self) -> bool:
        """Whether the trial is to end before its horizon."""
        return self._outcome is not None

    @property
    def complete(self) -> bool:
        """Whether nothing has ended the trial but its horizon or its own early-stopping rule."""
        return self._outcome in (None, TrialState.COMPLETE)

    @property
    def at_evaluation(self) -> bool:
        """Whether the latest step is one that was evaluated."""
        done = self.result.evaluations
        return bool(done) and done[-1].step == self.result.step

    def parameters(self, trainable: int, total: int, micro_batch: int) -> None:
        """Note how many parameters train, of how many, and rows a forward pass."""
        self.result = replace(
            self.result,
            trainable_parameters=trainable,
            total_parameters=total,
            micro_batch=micro_batch,
        )

    def stepped(self, step: int, tokens: int, seconds: float) -> None:
        """An optimizer step has ended, ``tokens`` attended tokens in all, after ``seconds``."""
        self._training_seconds += seconds
        self._meter.sample_gpu()
        rate = tokens / self._training_seconds if self._training_seconds else None
        self.result = replace(self.result, step=step, tokens=tokens, tokens_per_second=rate)

    def logged(self, step: int, row: dict[str, Any]) -> None:
        """A training log line; a loss that is not finite ends the trial as DIVERGED."""
        loss = row.get("loss")
        if loss is not None and not math.isfinite(loss):
            self._outcome = TrialState.DIVERGED
        self._write({"step": step, **row})

    def evaluated(self, step: int, loss: float, metrics: Mapping[str, float]) -> None:
        """An evaluation: keep the adapter if it is the best, then ask whether to go on."""
        seconds = time.perf_counter() - self._start
        if not math.isfinite(loss):
            self._outcome = TrialState.DIVERGED
            self._write({"step": step, "eval_loss": loss})
            return
        evaluation = Evaluation(step, loss, seconds, dict(metrics))
        self._write(
            {
                "step": step,
                "eval_loss": loss,
                "perplexity": evaluation.perplexity,
                "seconds": seconds,
                **metrics,
            }
        )
        if self._improves(evaluation):
            self.save(step)
            score = evaluation.value(self._config.metric)
            self.result = replace(self.result, score=score, best_step=step)
        self.result = replace(
            self.result, step=step, evaluations=(*self.result.evaluations, evaluation)
        )
        self._measure()
        if step < self._config.max_steps:
            # The last evaluation is not put to the vote: the trial has ended anyway, and its
            # final result is what the driver is told.
            self._decide()

    def _improves(self, evaluation: Evaluation) -> bool:
        """Whether it is the best so far; of equal shares of few answers, the loss decides."""
        cost, best = evaluation.cost(self._config.metric), self.result.best
        if best is None or cost != self.result.cost:
            return cost < self.result.cost
        return evaluation.eval_loss < best.eval_loss

    def _decide(self) -> None:
        patience = self._config.train.get("early_stopping_patience")
        if patience is not None and self._stale() >= patience:
            self.result = replace(self.result, stopped_early=True)
            self._outcome = TrialState.COMPLETE
            return
        self.checkpoint()
        self.ask()

    def ask(self) -> None:
        """Ask whether to go on after the latest evaluation."""
        if not self._report(self.result):
            self._outcome = TrialState.PRUNED

    def _stale(self) -> int:
        """Evaluations in a row, up to now, that did not improve on the best before them."""
        threshold = float(self._config.train.get("early_stopping_threshold") or 0.0)
        best, stale = math.inf, 0
        for evaluation in self.result.evaluations:
            cost = evaluation.cost(self._config.metric)
            stale = 0 if cost < best - threshold else stale + 1
            best = min(best, cost)
        return stale

    def finished(self, state: TrialState | None = None, error: str | None = None) -> TrialResult:
        """The final result: ``state`` if given, else what the course of the trial says."""
        self._measure()
        self.result = self.result.ended(state or self._outcome or TrialState.COMPLETE, error)
        return self.result

    def tested(self, found: Mapping[str, float]) -> None:
        """The best evaluation's adapter has been scored on the test rows."""
        self.result = replace(self.result, test=dict(found))

    def measured(self, found: Mapping[str, float]) -> None:
        """The best evaluation's adapter has been measured further."""
        evaluations = tuple(
            replace(each, metrics={**each.metrics, **found})
            if each.step == self.result.best_step
            else each
            for each in self.result.evaluations
        )
        self.result = replace(self.result, evaluations=evaluations)

    def _measure(self) -> None:
        self.result = replace(
            self.result,
            seconds=time.perf_counter() - self._start,
            peak_memory_bytes=self._meter.peak_bytes(),
            gpu_memory_bytes=self._meter.gpu_bytes(),
            gpu_utilization=self._meter.gpu_utilization(),
        )

    def _write(self, row: dict[str, Any]) -> None:
        clean = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        self._folder.append_metrics(clean)
