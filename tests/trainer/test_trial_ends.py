"""How a trial can end, and what its result then says."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_trials import EXPLODING, RISING, Outcome, make_config, stop
from transformers import Trainer
from tune_lora.trainer.result import TrialResult, TrialState

Trial = Callable[..., Outcome]

ALL = {"target_modules": "all-linear"}


def refuse(result: TrialResult) -> bool:
    raise AssertionError(f"asked at step {result.step}")


def test_report_ends_it_as_pruned(trial: Trial) -> None:
    result = trial(make_config(rungs=(2, 3), max_steps=6), report=stop).result
    assert (result.state, result.step, result.best_step) == (TrialState.PRUNED, 2, 2)
    assert (result.stopped_early, result.error) == (False, None)
    assert result.score == result.evaluations[-1].eval_loss


def test_report_is_not_asked_at_the_horizon(trial: Trial) -> None:
    result = trial(make_config(max_steps=2), report=refuse).result
    assert (result.state, result.step, result.error) == (TrialState.COMPLETE, 2, None)


def test_patience_ends_it_as_complete(trial: Trial) -> None:
    config = make_config(ALL, **{**RISING, "max_steps": 6}, early_stopping_patience=1)
    outcome = trial(config)
    result = outcome.result
    assert outcome.losses[1] > outcome.losses[0]
    assert (result.state, result.step, result.stopped_early) == (TrialState.COMPLETE, 2, True)
    assert (result.best_step, result.score) == (1, outcome.losses[0])


@pytest.mark.parametrize(
    ("threshold", "steps"),
    [(0.0, [1, 2, 3, 4, 5]), (100.0, [1, 2, 3])],
)
def test_improvement_below_the_threshold_is_none(
    trial: Trial, threshold: float, steps: list[int]
) -> None:
    config = make_config(
        max_steps=5,
        eval_steps=1,
        early_stopping_patience=2,
        early_stopping_threshold=threshold,
    )
    outcome = trial(config)
    assert outcome.losses == sorted(outcome.losses, reverse=True)
    assert [item.step for item in outcome.result.evaluations] == steps
    assert outcome.result.stopped_early is (steps[-1] < 5)
    # Not good enough to go on for, but still the best.
    assert outcome.result.best_step == steps[-1]


def test_nan_in_training_is_divergence_without_score(trial: Trial) -> None:
    outcome = trial(make_config(ALL, rungs=(3,), max_steps=5, **EXPLODING), report=refuse)
    result = outcome.result
    assert (result.state, result.step) == (TrialState.DIVERGED, 2)
    assert (result.score, result.best_step, result.evaluations) == (None, None, ())
    assert [row["loss"] for row in outcome.rows("loss")][1] is None
    assert not outcome.folder.adapter.exists()


def test_nan_in_evaluation_is_divergence(trial: Trial) -> None:
    outcome = trial(make_config(ALL, rungs=(1,), **EXPLODING), report=refuse)
    assert (outcome.result.state, outcome.result.step) == (TrialState.DIVERGED, 1)
    assert outcome.result.score is None
    assert outcome.rows("eval_loss") == [{"step": 1, "eval_loss": None}]


def test_nan_at_the_horizon_is_divergence(trial: Trial) -> None:
    assert trial(make_config(ALL, max_steps=1, **EXPLODING)).result.state is TrialState.DIVERGED


def test_diverged_trial_keeps_its_last_finite_evaluation(trial: Trial) -> None:
    # The first step of a warmup has the learning rate 0; the second one is ruin.
    config = make_config(
        ALL,
        rungs=(1, 3),
        max_steps=5,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=2,
        **EXPLODING,
    )
    outcome = trial(config)
    result = outcome.result
    assert (result.state, result.best_step) == (TrialState.DIVERGED, 1)
    assert result.score is not None
    assert math.isfinite(result.score)
    assert outcome.losses == [result.score]
    assert outcome.folder.adapter.is_dir()


@pytest.mark.parametrize(
    ("lora", "train", "words"),
    [
        ({"target_modules": ["missing"]}, {}, "no such module 'missing'"),
        ({"r": 0}, {}, "positive integer"),
        ({"unheard_of": 1}, {}, "peft refuses"),
        ({}, {"optim": "sgdd"}, "sgdd"),
        ({}, {"unheard_of": 1}, "unheard_of"),
    ],
)
def test_exception_ends_it_as_failed_with_traceback(
    trial: Trial, lora: dict[str, Any], train: dict[str, Any], words: str
) -> None:
    result = trial(make_config(lora, **train)).result
    assert (result.state, result.score, result.step) == (TrialState.FAILED, None, 0)
    assert result.error is not None
    assert result.error.startswith("Traceback")
    assert words in result.error


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (MemoryError(), TrialState.OUT_OF_MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory"), TrialState.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), TrialState.OUT_OF_MEMORY),
        (RuntimeError("shapes do not match"), TrialState.FAILED),
    ],
)
def test_error_in_a_training_step(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, error: Exception, state: TrialState
) -> None:
    def step(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        Path(self.args.output_dir).mkdir(exist_ok=True)
        scratch.add(Path(self.args.output_dir))
        if self.state.global_step == 2:
            raise error
        return original(self, *args, **kwargs)

    scratch: set[Path] = set()
    original = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", step)
    outcome = trial(make_config(rungs=(1,)))
    assert (outcome.result.state, outcome.result.step) == (state, 2)
    assert outcome.result.score == outcome.losses[0]
    assert type(error).__name__ in (outcome.result.error or "")
    assert scratch == {outcome.folder.scratch}
    assert not outcome.folder.scratch.exists()
