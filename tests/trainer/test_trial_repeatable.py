"""The same configuration gives the same losses, however its batches are cut and computed."""

from collections.abc import Callable
from typing import Any

import pytest
from tiny_trials import EXPLODING, Outcome, make_config, row_by_row
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.result import TrialState

Trial = Callable[..., Outcome]


def course(outcome: Outcome) -> list[tuple[int, float]]:
    """Training losses, then evaluations."""
    assert outcome.result.state is TrialState.COMPLETE, outcome.result.error
    logged = [(row["step"], row["loss"]) for row in outcome.rows("loss")]
    return logged + [(item.step, item.eval_loss) for item in outcome.result.evaluations]


def test_same_config_same_losses_to_the_bit_whatever_ran_in_between(trial: Trial) -> None:
    config = make_config({"lora_dropout": 0.1}, rungs=(2,))
    first = course(trial(config))
    trial(make_config({"target_modules": "all-linear", "r": 16}, learning_rate=0.3, seed=7))
    trial(make_config({"target_modules": "all-linear"}, **EXPLODING))
    trial(make_config({"modules_to_save": ["lm_head"]}))
    trial(make_config({"target_modules": ["missing"]}))
    assert course(trial(config)) == first


def test_same_losses_on_a_base_loaded_anew(
    trial: Trial, new_base: Callable[..., BaseModel]
) -> None:
    config = make_config(rungs=(2,))
    assert course(trial(config)) == course(trial(config, base=new_base()))


@pytest.mark.parametrize("changed", [{"seed": 1}, {"learning_rate": 9e-3}])
def test_another_config_gives_other_losses(trial: Trial, changed: dict[str, Any]) -> None:
    assert trial(make_config()).losses != trial(make_config(**changed)).losses


def test_gradient_checkpointing_leaves_the_losses_alone(trial: Trial) -> None:
    plain = course(trial(make_config()))
    checkpointed = course(trial(make_config(gradient_checkpointing=True)))
    assert [loss for _, loss in checkpointed] == pytest.approx(
        [loss for _, loss in plain], rel=1e-6
    )


@pytest.mark.parametrize(("size", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_effective_batch_is_size_times_accumulation(
    trial: Trial, size: int, accumulation: int
) -> None:
    whole = course(trial(make_config(per_device_train_batch_size=8)))
    parts = course(
        trial(
            make_config(per_device_train_batch_size=size, gradient_accumulation_steps=accumulation)
        )
    )
    assert [step for step, _ in parts] == [step for step, _ in whole]
    assert [loss for _, loss in parts] == pytest.approx([loss for _, loss in whole], rel=1e-5)


@pytest.mark.parametrize(("size", "accumulation"), [(32, 1), (4, 8)])
def test_first_training_loss_is_the_bases_over_the_effective_batch(
    trial: Trial, data: TokenizedData, base: BaseModel, size: int, accumulation: int
) -> None:
    assert len(data.train) == size * accumulation
    expected = row_by_row(base.model, data.train)
    outcome = trial(
        make_config(
            max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation
        )
    )
    assert outcome.rows("loss")[0]["loss"] == pytest.approx(expected, rel=1e-6)


def test_evaluation_does_not_change_the_training(trial: Trial) -> None:
    rare = trial(make_config({"lora_dropout": 0.1}, max_steps=4))
    often = trial(make_config({"lora_dropout": 0.1}, max_steps=4, eval_steps=1))
    assert len(often.losses) == 4
    assert [row["loss"] for row in often.rows("loss")] == [row["loss"] for row in rare.rows("loss")]
    assert often.losses[-1] == rare.losses[-1]
