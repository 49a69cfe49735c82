"""A trial's losses against the same trial with the Trainer's own loss from all logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import TASKS
from tiny_trials import Outcome, make_config
from transformers import Trainer
from tune_lora.trainer import run, score
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.result import TrialState

CAUSAL = ["llama", "gpt2", "bloom", "falcon", "opt"]
LORA = {"target_modules": "all-linear", "lora_dropout": 0.1}
Course = list[tuple[float, float]]
Both = Callable[..., tuple[Outcome, Outcome]]


@pytest.fixture
def both(trial: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> Both:
    """A trial with the loss under test, and then with the stock one."""

    def run_both(config: Any, **options: Any) -> tuple[Outcome, Outcome]:
        ours = trial(config, **options)
        with monkeypatch.context() as patch:
            for place in (run, score):
                patch.setattr(place, "gathers", lambda model, task: False)
            stock = trial(config, **options)
        assert ours.result.state is stock.result.state is TrialState.COMPLETE, ours.result.error
        return ours, stock

    return run_both


def _course(outcome: Outcome) -> Course:
    return [(row["loss"], row["grad_norm"]) for row in outcome.rows("grad_norm")]


def _assert_alike(ours: Outcome, stock: Outcome, **tolerance: float) -> None:
    found, wanted = _course(ours), _course(stock)
    assert len(found) == len(wanted) == ours.result.step
    for pair, expected in zip(found, wanted, strict=True):
        assert pair == pytest.approx(expected, **tolerance)
    assert ours.losses == pytest.approx(stock.losses, **tolerance)


@pytest.mark.parametrize("architecture", CAUSAL)
def test_every_step_is_that_of_the_stock_trainer(
    both: Both,
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
    architecture: str,
) -> None:
    config = make_config(LORA, max_steps=2, gradient_accumulation_steps=3, eval_steps=1)
    ours, stock = both(config, base=new_base(architecture), data=tokenized(architecture))
    # Each step starts from what the one before made of the weights: 1e-6, and what that adds up to.
    _assert_alike(ours, stock, abs=1e-6, rel=1e-6)


def test_no_logits_of_prompts_in_training_or_evaluation(
    trial: Callable[..., Outcome], base: BaseModel, data: TokenizedData
) -> None:
    seen = []
    head = base.model.get_output_embeddings()
    head.register_forward_hook(lambda _, args, logits: seen.append(logits.shape[:-1].numel()))
    rows = len(data.train)
    assert rows % 4 == 0
    trial(make_config(max_steps=rows // 4))  # an epoch: each row once
    assert sum(seen) == data.stats["train"]["supervised"] + data.stats["validation"]["supervised"]


@pytest.mark.parametrize(
    "train",
    [
        {"gradient_checkpointing": True, "gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    ],
)
def test_with_checkpointing_and_with_single_rows(both: Both, train: dict[str, Any]) -> None:
    _assert_alike(*both(make_config(LORA, max_steps=2, **train)), abs=1e-6, rel=1e-6)


def test_smoothed_labels_are_left_to_the_trainer(both: Both) -> None:
    config = make_config(LORA, max_steps=2, label_smoothing_factor=0.2)
    ours, stock = both(config)
    assert _course(ours) == _course(stock)
    plain, _ = both(make_config(LORA, max_steps=2))
    assert _course(plain)[0][0] != pytest.approx(_course(ours)[0][0], abs=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="replaces what a CPU says of itself")
def test_under_bf16_autocast(
    both: Both, base: BaseModel, data: TokenizedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    spec = BaseSpec(source=base.spec.source, name="bf16", dtype="bf16")
    lent = load_base(spec)
    assert lent.dtype is torch.bfloat16
    # A product of bf16 numbers is rounded by the order of its terms, at 2 ** -9 of its size.
    _assert_alike(*both(make_config(LORA, max_steps=2), base=lent, data=data), rel=5e-3)


def test_a_batch_without_labels_does_not_end_the_trial(
    trial: Callable[..., Outcome], data: TokenizedData
) -> None:
    """Only a row's first token supervised: nothing is predicted, nothing learned."""
    rows = data.train.map(
        lambda row: {"labels": [row["input_ids"][0]] + [-100] * (len(row["labels"]) - 1)}
    )
    outcome = trial(make_config(max_steps=2, rungs=(1,)), data=replace(data, train=rows))
    assert outcome.result.state is TrialState.COMPLETE
    assert [row["loss"] for row in outcome.rows("grad_norm")] == [0.0, 0.0]
    assert outcome.losses[0] == outcome.losses[1]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_operations_are_counted_as_the_trainer_counts_them(
    trial: Callable[..., Outcome],
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
) -> None:
    counts: list[tuple[int, int]] = []
    ours = run.TrialTrainer.floating_point_ops

    def both_ways(self: Any, inputs: Any) -> int:
        counts.append((ours(self, inputs), Trainer.floating_point_ops(self, inputs)))
        return counts[-1][0]

    monkeypatch.setattr(run.TrialTrainer, "floating_point_ops", both_ways)
    config = make_config(task=TASKS[architecture])
    outcome = trial(config, base=new_base(architecture), data=tokenized(architecture))
    assert outcome.result.state is TrialState.COMPLETE, outcome.result.error
    assert len(counts) == config.max_steps
    assert all(found == theirs > 0 for found, theirs in counts)
