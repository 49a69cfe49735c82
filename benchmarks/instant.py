"""Trials that take no time, for measuring what surrounds them.

A module of its own, because Ray imports it in every worker: nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tune_lora.search.place import Place
from tune_lora.search.ray_worker import TrialWorker
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState


def instant(config: TrialConfig, report: Callable[[TrialResult], bool]) -> TrialResult:
    """A trial that takes no time: its losses fall with its learning rate and its steps."""
    rate = float(config.train["learning_rate"])
    result = TrialResult(config.number, TrialState.RUNNING, config.to_dict())
    for step in config.rungs:
        loss = 3.0 - 100 * rate + 1 / step
        score = min(loss, result.score or loss)
        evaluations = (*result.evaluations, Evaluation(step, loss, 0.0))
        result = replace(result, step=step, score=score, best_step=step, evaluations=evaluations)
        if step < config.max_steps and not report(result):
            return result.ended(TrialState.PRUNED)
    return result.ended(TrialState.COMPLETE)


class InstantPlace(Place):
    """Where nothing is trained."""

    def run(self, config: dict[str, Any], report: Callable[[TrialResult], bool]) -> TrialResult:
        """A trial that takes no time."""
        return instant(TrialConfig.from_dict(json.loads(config["trial"])), report)


class InstantWorker(TrialWorker):
    """A worker that trains nothing."""

    kind = InstantPlace
