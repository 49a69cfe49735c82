"""Keeps a trial's ``TrialResult`` while it runs; decides at each evaluation whether to go on."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .config import TrialConfig
from .folder import TrialFolder
from .memory import Meter
from .result import Evaluation, TrialResult, TrialState
from .tracking import NoTracker, Tracker

logger = logging.getLogger(__name__)

Report = Callable[[TrialResult], bool]
"""Given the trial's result so far at each evaluation; returns whether to go on."""


class Recorder:
    """What is known of one running trial.

    Args:
        config: of the trial.
        folder: where metrics go.
        report: asked at each evaluation whether to go on.
        tracker: sees every log line.

    Attributes:
        result: what is known so far.
        save: called to keep the adapter when an evaluation is the best so far.
    """

    def __init__(
        self,
        config: TrialConfig,
        folder: TrialFolder,
        report: Report,
        tracker: Tracker | None = None,
    ) -> None:
        self.result = TrialResult(config.number, TrialState.RUNNING, config.to_dict())
        self._config, self._folder = config, folder
        self._report = report
        self.save: Callable[[], None] = lambda: None
        self._tracker = tracker or NoTracker()
        self._meter = Meter()
        self._start = time.perf_counter()
        self._training_seconds = 0.0
        self._outcome: TrialState | None = None
        self._stale = 0

    @property
    def stopped(self) -> bool:
        """Whether the trial is to end before its horizon."""
        return self._outcome is not None

    def parameters(self, trainable: int, total: int) -> None:
        """Note how many parameters train, of how many."""
        self.result = replace(self.result, trainable_parameters=trainable, total_parameters=total)

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

    def evaluated(self, step: int, loss: float) -> None:
        """An evaluation: keep the adapter if it is the best, then ask whether to go on."""
        seconds = time.perf_counter() - self._start
        if not math.isfinite(loss):
            self._outcome = TrialState.DIVERGED
            self._write({"step": step, "eval_loss": loss})
            return
        evaluation = Evaluation(step, loss, seconds)
        self._write(
            {
                "step": step,
                "eval_loss": loss,
                "perplexity": evaluation.perplexity,
                "seconds": seconds,
            }
        )
        best = self.result.score
        if best is None or loss < best:
            self.save()
            self.result = replace(self.result, score=loss, best_step=step)
        self.result = replace(
            self.result, step=step, evaluations=(*self.result.evaluations, evaluation)
        )
        self._measure()
        self._decide(step, loss, best)

    def _decide(self, step: int, loss: float, best: float | None) -> None:
        patience = self._config.train.get("early_stopping_patience")
        threshold = float(self._config.train.get("early_stopping_threshold") or 0.0)
        better = best is None or loss < best - threshold
        self._stale = 0 if better else self._stale + 1
        at_end = step >= self._config.max_steps
        if patience is not None and self._stale >= patience and not at_end:
            self.result = replace(self.result, stopped_early=True)
            self._outcome = TrialState.COMPLETE
        elif not at_end and not self._report(self.result):
            # The last evaluation is not put to the vote: the trial has ended anyway, and its
            # final result is what the driver is told.
            self._outcome = TrialState.PRUNED

    def finished(self, state: TrialState | None = None, error: str | None = None) -> TrialResult:
        """The final result: ``state`` if given, else what the course of the trial says."""
        self._measure()
        self.result = self.result.ended(state or self._outcome or TrialState.COMPLETE, error)
        self._track(lambda tracker: tracker.finish(self.result))
        return self.result

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
        self._track(lambda tracker: tracker.log(clean))

    def _track(self, tell: Callable[[Tracker], None]) -> None:
        """A tracker that fails is logged and asked no more; the trial goes on."""
        try:
            tell(self._tracker)
        except Exception:
            logger.exception("trial %d goes on untracked", self._config.number)
            self._tracker = NoTracker()
