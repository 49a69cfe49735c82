"""A pass without numbers keeps in memory what a real one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import ARCHITECTURES, TASKS, tiny_model
from transformers import Trainer, TrainingArguments
from tune_lora.trainer import trace
from tune_lora.trainer.base import AUTO_CLASSES, heads_of
from tune_lora.trainer.data import IGNORE
from tune_lora.trainer.loss import gathers, supervised_loss
from tune_lora.trainer.targets import resolve_targets
from tune_lora.trainer.trace import Batch, at_full_depth, cut, peak_of, peak_of_answers, stacks

BATCH = Batch(rows=4, tokens=48, supervised=16)


def adapted(architecture: str, *, meta: bool, **fields: Any) -> Any:
    """A tiny model that wears an adapter, with or without weights."""
    device = torch.device("meta" if meta else "cpu")
    with device:
        model = tiny_model(architecture)
        if TASKS[architecture] == "TOKEN_CLS":
            model = AUTO_CLASSES["TOKEN_CLS"].from_config(model.config)
            fields["modules_to_save"] = heads_of(model)
        targets = resolve_targets("all-linear", model)
        wanted = LoraConfig(task_type=TASKS[architecture], r=4, target_modules=targets, **fields)
        return get_peft_model(model.requires_grad_(False), wanted, low_cpu_mem_usage=meta)


def uneven(task: str, batch: Batch) -> dict[str, torch.Tensor]:
    """A batch with numbers. Without padding, models leave their masks out."""
    ids = torch.randint(320, (batch.rows, batch.tokens))
    mask = torch.ones_like(ids)
    # The last column predicts nothing, and is not looked at.
    mask[-1, -2:] = 0
    labels = ids.clone()
    labels[:, : -batch.supervised] = labels[-1, -2:] = IGNORE
    if task == "SEQ_CLS":
        labels = torch.zeros(batch.rows, dtype=torch.long)
    if task == "TOKEN_CLS":
        labels = ids % 2
    if task == "SEQ_2_SEQ_LM":
        labels = ids[:, : batch.supervised].clone()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def really(model: Any, task: str, batch: Batch, checkpointing: bool) -> int:
    """Bytes at the peak of a training step with numbers, the second of two."""
    inputs = uneven(task, batch)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def step() -> None:
        ours = gathers(model, task)
        loss = supervised_loss(model, inputs)[0] if ours else model(**inputs).loss
        loss.backward()

    step()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    live = trace._Live([*model.parameters(), *model.buffers(), *grads, *inputs.values()], 320)
    with live:
        step()
    return live.peak.total


@pytest.mark.parametrize(
    ("architecture", "checkpointing"),
    [
        *((architecture, True) for architecture in ("llama", "t5", "bert")),
        *((architecture, False) for architecture in (*ARCHITECTURES, "bart", "gemma", "tagger")),
    ],
)
def test_it_is_what_a_step_with_numbers_takes(architecture: str, checkpointing: bool) -> None:
    task = TASKS[architecture]
    measured = really(adapted(architecture, meta=False), task, BATCH, checkpointing)
    kwargs = {"use_reentrant": False} if checkpointing else None
    found = peak_of(
        adapted(architecture, meta=True), task, torch.float32, BATCH, checkpointing=kwargs
    )
    assert found.total == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_answers_are_what_generation_takes(architecture: str) -> None:
    """The keys and values of the last token's pass are those of all."""
    task, new = TASKS[architecture], 24
    model = adapted(architecture, meta=False).eval()
    ids = torch.randint(1, 320, (4, 40))
    live = trace._Live([*model.parameters(), *model.buffers(), ids], 320)
    with live, torch.no_grad():
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )
    found = peak_of_answers(
        adapted(architecture, meta=True), task, torch.float32, Batch(4, 40, new)
    )
    # The whole answer in one pass works with more than its tokens one by one.
    assert 0.7 * live.peak.total < found.total < 2 * live.peak.total


@pytest.mark.parametrize("smoothing", [0.1, 0.0])
def test_the_trainers_own_loss_is_of_all_logits(smoothing: float, tmp_path: Path) -> None:
    model = adapted("llama", meta=False)
    arguments = TrainingArguments(
        str(tmp_path), label_smoothing_factor=smoothing, use_cpu=True, report_to="none"
    )
    trainer = Trainer(model, arguments)
    inputs = uneven("CAUSAL_LM", BATCH)
    model.train()
    trainer.compute_loss(model, dict(inputs)).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    live = trace._Live([*model.parameters(), *model.buffers(), *grads, *inputs.values()], 320)
    with live:
        trainer.compute_loss(model, dict(inputs)).backward()
    meta = adapted("llama", meta=True)
    found = peak_of(meta, "CAUSAL_LM", torch.float32, BATCH, smoothing=smoothing)
    assert found.total == pytest.approx(live.peak.total, rel=0.05)


def test_logits_are_as_wide_as_the_vocabulary() -> None:
    """Logits, log-softmax and the gradients of both are there at once, in fp32 all alike."""
    found = peak_of(adapted("llama", meta=True), "CAUSAL_LM", torch.float32, BATCH)
    one = BATCH.rows * BATCH.supervised * 320 * 4
    assert found.logits % one == 0
    assert 2 <= found.logits // one <= 4


def test_checkpointing_keeps_less_and_more_rows_keep_more() -> None:
    def total(rows: int, checkpointing: bool) -> int:
        kwargs = {"use_reentrant": False} if checkpointing else None
        model = deep(4)
        batch = Batch(rows, 48, 16)
        return peak_of(model, "CAUSAL_LM", torch.float32, batch, checkpointing=kwargs).total

    assert total(4, True) < 0.7 * total(4, False)
    assert total(8, False) == pytest.approx(2 * total(4, False), rel=0.05)


def test_half_precision_keeps_less() -> None:
    def total(dtype: torch.dtype) -> int:
        model = adapted("llama", meta=True)
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
        return peak_of(model, "CAUSAL_LM", dtype, BATCH).total

    assert 0.4 < total(torch.bfloat16) / total(torch.float32) < 0.95


def deep(layers: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).requires_grad_(False)
        wanted = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
        return get_peft_model(model, wanted, low_cpu_mem_usage=True)


@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": False}])
def test_few_blocks_tell_what_many_take(checkpointing: dict[str, Any] | None) -> None:
    whole = deep(5)
    found = stacks(whole, lambda path: False)
    assert [(one.length, one.distinct) for one in found] == [(5, 1)]

    def measure(lengths: Any) -> list[int]:
        small = cut(whole, lengths)
        peak = peak_of(small, "CAUSAL_LM", torch.float32, BATCH, checkpointing=checkpointing)
        return [sum(p.numel() for p in small.parameters()), peak.total]

    told = at_full_depth(found, measure)
    parameters = sum(p.numel() for p in whole.parameters())
    peak = peak_of(whole, "CAUSAL_LM", torch.float32, BATCH, checkpointing=checkpointing)
    assert told == [parameters, peak.total]


def test_the_first_block_of_a_t5_is_its_own() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(num_layers=4, num_decoder_layers=5, d_model=32))
    found = {one.path: (one.length, one.distinct) for one in stacks(model, lambda path: False)}
    assert found == {"encoder.block": (4, 2), "decoder.block": (5, 2)}


def test_blocks_that_are_adapted_unlike_each_other_are_no_stack() -> None:
    model = deep(4)
    assert stacks(model, lambda path: ".2." in path and path.endswith("q_proj")) == []
