"""What a driver does with a study: opens it, takes configurations, hands in results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from tune_lora.search.study import Study
from tune_lora.spaces import Space
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState


def outcome(
    config: TrialConfig,
    state: TrialState,
    losses: Sequence[float] = (),
    **more: Any,
) -> TrialResult:
    """A result with these losses at the first rungs of ``config``."""
    rungs = config.rungs[: len(losses)]
    found = tuple(Evaluation(s, v, 1.0) for s, v in zip(rungs, losses, strict=True))
    best = min(found, key=lambda e: e.eval_loss, default=None)
    return TrialResult(
        config.number,
        state,
        config.to_dict(),
        score=best and best.eval_loss,
        best_step=best and best.step,
        step=rungs[-1] if rungs else 0,
        evaluations=found,
        **more,
    )


def read_back(run: RunFolder) -> list[optuna.trial.FrozenTrial]:
    """The trials of the study on disk, as any other program would read them."""
    return optuna.load_study(study_name=run.name, storage=f"sqlite:///{run.study}").trials


def opened(space: Space, run: RunFolder) -> Study:
    """The study of a run, new or as it was left."""
    return Study(space, run.study, run.name)


def following(study: Study) -> TrialConfig:
    """The next configuration, which there must be."""
    config = study.next_config()
    assert config is not None
    return config


def everything(study: Study) -> list[TrialConfig]:
    """All that are left."""
    return list(iter(study.next_config, None))
