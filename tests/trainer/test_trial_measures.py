"""What a trial counts: parameters, tokens, seconds, memory; each against arithmetic of its own."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny_trials import Outcome, make_config
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.result import TrialResult

Trial = Callable[..., Outcome]

# Tiny Llama: hidden 32, MLP 64, one key-value head of two, so keys and values have 16.
SHAPES = {
    "q_proj": 32 + 32,
    "k_proj": 32 + 16,
    "v_proj": 32 + 16,
    "o_proj": 32 + 32,
    "gate_proj": 32 + 64,
    "up_proj": 32 + 64,
    "down_proj": 64 + 32,
}
LAYERS = 2


@pytest.mark.parametrize(
    ("preset", "modules"),
    [
        ("qv", ["q_proj", "v_proj"]),
        ("attention", ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        ("all-linear", list(SHAPES)),
        (["down_proj"], ["down_proj"]),
    ],
)
@pytest.mark.parametrize("r", [1, 8])
def test_trainable_parameters(
    trial: Trial, base: BaseModel, preset: str | list[str], modules: list[str], r: int
) -> None:
    own = sum(parameter.numel() for parameter in base.model.parameters())
    result = trial(make_config({"r": r, "target_modules": preset}, max_steps=1)).result
    expected = LAYERS * sum(r * SHAPES[name] for name in modules)
    assert result.trainable_parameters == expected
    assert result.total_parameters == own + expected


def test_saved_adapter_holds_exactly_the_trainable_parameters(trial: Trial) -> None:
    from safetensors.torch import load_file

    outcome = trial(make_config(max_steps=1))
    saved = load_file(outcome.folder.adapter / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == outcome.result.trainable_parameters


def test_quantized_weights_are_counted_one_by_one(
    trial: Trial, base: BaseModel, new_base: Callable[..., BaseModel]
) -> None:
    own = sum(parameter.numel() for parameter in base.model.parameters())
    result = trial(make_config(max_steps=1), base=new_base(quantization="nf4")).result
    assert result.total_parameters == own + result.trainable_parameters


@pytest.mark.parametrize("train", [{}, {"gradient_accumulation_steps": 2, "max_steps": 2}])
def test_tokens_of_one_epoch_are_those_of_the_rows(
    trial: Trial, data: TokenizedData, train: dict[str, Any]
) -> None:
    # 32 rows of unequal length, so batches are padded; padding is no token.
    lengths = {len(row["input_ids"]) for row in data.train}
    assert len(lengths) > 1
    config = make_config(per_device_train_batch_size=8, **train)
    rows = 8 * config.max_steps * config.train["gradient_accumulation_steps"]
    assert rows == len(data.train)
    assert trial(config).result.tokens == sum(len(row["input_ids"]) for row in data.train)


def test_tokens_per_second_counts_training_time_only(trial: Trial) -> None:
    def slow(result: TrialResult) -> bool:
        time.sleep(0.5)
        return True

    result = trial(make_config(rungs=(1, 2)), report=slow).result
    assert result.tokens_per_second is not None
    training = result.tokens / result.tokens_per_second
    assert 0 < training < result.seconds - 1.0


def test_seconds_of_the_evaluations_rise_to_the_trials(trial: Trial) -> None:
    began = time.perf_counter()
    result = trial(make_config(eval_steps=1)).result
    wall = time.perf_counter() - began
    seconds = [item.seconds for item in result.evaluations]
    assert seconds == sorted(seconds)
    assert 0 < seconds[0] < seconds[-1] <= result.seconds <= wall


def test_peak_memory_is_this_trials_own(trial: Trial) -> None:
    mebibyte = 2**20

    def spike(result: TrialResult) -> bool:
        return bool(torch.ones(300 * mebibyte, dtype=torch.uint8).any())

    resident = psutil.Process().memory_info().rss
    config = make_config(rungs=(1,), max_steps=2)
    before, high, after = (
        trial(config, **options).result.peak_memory_bytes for options in ({}, {"report": spike}, {})
    )
    assert 0.9 * resident < before < psutil.virtual_memory().total
    assert 250 * mebibyte < high - before < 400 * mebibyte
    if Path("/proc/self/clear_refs").exists():
        assert high - after > 200 * mebibyte


def test_no_gpu_numbers_without_a_gpu(trial: Trial) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = trial(make_config(max_steps=1)).result
    assert (result.gpu_memory_bytes, result.gpu_utilization) == (None, None)


def test_perplexity_is_the_exponential_of_the_loss(trial: Trial) -> None:
    outcome = trial(make_config(rungs=(1,)))
    for row, item in zip(outcome.rows("eval_loss"), outcome.result.evaluations, strict=True):
        assert row["eval_loss"] == item.eval_loss
        assert row["perplexity"] == item.perplexity == math.exp(item.eval_loss)


def test_result_survives_json(trial: Trial) -> None:
    result = trial(make_config({"target_modules": ["q_proj"]}, rungs=(1,))).result
    assert TrialResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
