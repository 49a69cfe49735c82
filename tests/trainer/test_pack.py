"""Trials that share passes are, step for step, what each of them is alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packs import Together, assert_equal, assert_same
from tiny_trials import Outcome, checksum, go_on, make_config
from tune_lora.spaces import DataBlock
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.data import TokenizedData, tokenize
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.packable import can_pack
from tune_lora.trainer.result import TrialResult, TrialState
from tune_lora.trainer.run import run_trial
from wide_models import save_wide

Trial = Callable[..., Outcome]


def different(steps: int) -> list[TrialConfig]:
    """Five trials with nothing in common but the base; the second is stopped half-way."""
    rungs = (steps // 5, steps // 2)
    return [
        make_config(
            {"target_modules": "attention"},
            number=0,
            rungs=rungs,
            max_steps=steps,
            lr_scheduler_type="cosine",
            warmup_steps=2,
        ),
        make_config(
            {"r": 8, "lora_alpha": 32, "target_modules": "all-linear", "use_rslora": True},
            number=1,
            rungs=rungs,
            max_steps=steps,
            learning_rate=3e-3,
            lr_scheduler_type="linear",
            seed=5,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            gradient_checkpointing=True,
            weight_decay=0.1,
        ),
        make_config(
            {"r": 2, "target_modules": "mlp"},
            number=2,
            rungs=rungs,
            max_steps=steps - 1,
            seed=2,
            per_device_train_batch_size=1,
            optim="paged_adamw_8bit",
            max_grad_norm=0.1,
        ),
        make_config(
            {"lora_alpha": 2, "init_lora_weights": "gaussian"}, number=3, max_steps=steps // 2
        ),
        make_config(
            {"target_modules": "all-linear"},
            number=4,
            max_steps=steps,
            eval_steps=1,
            early_stopping_patience=3,
            early_stopping_threshold=10.0,
        ),
    ]


def stop_one(result: TrialResult) -> bool:
    """A report that stops the second trial at its second rung."""
    return result.number != 1 or len(result.evaluations) < 2


def alone(trial: Trial, configs: list[TrialConfig], **options: Any) -> dict[int, Outcome]:
    return {c.number: trial(c, report=stop_one, **options) for c in configs}


@pytest.fixture
def data(base: BaseModel, tmp_path: Path) -> TokenizedData:
    """Rows of unequal length, so that what is padded alone and together differs."""
    path = tmp_path / "ragged.jsonl"
    rows = [
        {"instruction": f"Count to {n}", "response": " ".join(map(str, range(n)))}
        for n in (1, 25, 3, 8) * 10
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tokenize(
        DataBlock(train=str(path), max_length=128, duplicates="allow"), "CAUSAL_LM", base.tokenizer
    )


@pytest.fixture
def together(
    tmp_path: Path, base: BaseModel, data: TokenizedData, monkeypatch: pytest.MonkeyPatch
) -> Together:
    return Together(base, data, tmp_path / "packed", monkeypatch)


def still(folder: Path, architecture: str, tiny: Callable[..., Path]) -> BaseModel:
    """The tiny model of an architecture with every dropout of its configuration at 0."""
    shutil.copytree(tiny(architecture), folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {key: 0.0 for key in config if "drop" in key}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_base(BaseSpec(str(folder), architecture, dtype="fp32"))


def test_fifty_steps(trial: Trial, base: BaseModel, together: Together) -> None:
    before, configs = checksum(base.model), different(50)
    expected = alone(trial, configs)
    for config in configs:
        together.start(config, report=stop_one)
    found = together.end()
    states = [found[number].result.state for number in range(5)]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, *[TrialState.COMPLETE] * 3]
    assert found[4].result.stopped_early
    assert found[4].result.step == 4
    for number, outcome in found.items():
        assert_same(outcome, expected[number], 1e-4)
    # Each pass was shared by all who were training still.
    assert together.sizes.count(5) == 4
    # Trials 1 and 3 end at step 25, of a micro-batch each or of two.
    assert set(together.sizes) == {2, 3, 4, 5}
    assert checksum(base.model) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.model.modules())
    assert not any(p.requires_grad or p.grad is not None for p in base.model.parameters())
    assert not base.model.training
    assert "lora" not in " ".join(name for name, _ in base.model.named_modules())


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "falcon", "bloom"])
def test_architectures(
    trial: Trial,
    tiny: Callable[..., Path],
    tmp_path: Path,
    data: TokenizedData,
    architecture: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = still(tmp_path / architecture, architecture, tiny)
    configs = different(10)
    assert all(can_pack(config, base.model, base.dtype) for config in configs)
    expected = alone(trial, configs, base=base)
    together = Together(base, data, tmp_path / "packed", monkeypatch)
    for config in configs:
        together.start(config, report=stop_one)
    for number, outcome in together.end().items():
        assert_same(outcome, expected[number], 2e-5)
    assert max(together.sizes) == 5


@pytest.mark.parametrize(
    ("compute", "dtype"),
    [("bitsandbytes", "fp32"), ("dequantized", "fp32"), ("dequantized", "bf16")],
)
def test_quantized(
    trial: Trial,
    data: TokenizedData,
    tmp_path: Path,
    compute: str,
    dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    save_wide(tmp_path / "wide", "llama")
    spec = BaseSpec(str(tmp_path / "wide"), "wide", quantization="nf4", dtype=dtype)
    base = load_base(BaseSpec(**{**spec.__dict__, "quantization_compute": compute}))
    before, configs = checksum(base.model), different(10)
    expected = alone(trial, configs, base=base)
    together = Together(base, data, tmp_path / "packed", monkeypatch)
    for config in configs:
        together.start(config, report=stop_one)
    found = together.end()
    for number, outcome in found.items():
        # In bf16 sums of other shapes round otherwise: alone, a trial's rows have no padding.
        assert_same(outcome, expected[number], 2e-5 if dtype == "fp32" else 1e-1)
    assert max(together.sizes) == 5
    assert checksum(base.model) == before


OWN: list[dict[str, Any]] = [
    {"lora_dropout": 0.3},
    {"use_dora": True},
    {"modules_to_save": ["lm_head"]},
    {"target_modules": ["embed_tokens", "q_proj"]},
]


def test_those_with_passes_of_their_own_are_equal_to_the_bit(
    trial: Trial, base: BaseModel, together: Together
) -> None:
    before = checksum(base.model)
    own = [make_config(lora, number=n, rungs=(2,), seed=n) for n, lora in enumerate(OWN)]
    noisy = make_config(number=4, neftune_noise_alpha=5.0)
    plain = [make_config(number=number, seed=number) for number in (5, 6)]
    expected = {c.number: trial(c) for c in (*own, noisy, *plain)}
    for config in (*own, noisy, *plain):
        together.start(config)
    found = together.end()
    for config in (*own, noisy):
        assert_equal(found[config.number], expected[config.number])
    for config in plain:
        assert_same(found[config.number], expected[config.number], 2e-5)
    # The plain ones share every pass: nobody has to wait for more than a step of the others.
    assert together.sizes == [2] * 4
    assert checksum(base.model) == before


def test_one_alone_in_a_pack_is_equal_to_the_bit(trial: Trial, together: Together) -> None:
    config = make_config(rungs=(2,), gradient_accumulation_steps=2)
    together.start(config)
    assert_equal(together.end()[0], trial(config))
    assert together.sizes == []


def test_a_trial_that_comes_later(trial: Trial, together: Together) -> None:
    first, second = make_config(max_steps=3), make_config(number=1, seed=1, max_steps=9)
    third = make_config({"r": 8}, number=2, seed=2)
    together.start(first, third)
    together.start(second)
    found = together.end()
    for config in (first, second, third):
        assert_same(found[config.number], trial(config), 2e-5)
    assert together.sizes == [2] * 7


def test_stopped_in_a_pack_and_resumed_alone(
    trial: Trial, together: Together, base: BaseModel, data: TokenizedData
) -> None:
    configs = [
        make_config(lora, number=n, rungs=(3,), max_steps=6, lr_scheduler_type="cosine")
        for n, lora in enumerate([{}, {"r": 8}, {"lora_dropout": 0.2}])
    ]
    for config in configs:
        together.start(config, report=lambda result: False)
    for number, stopped in together.end().items():
        assert (stopped.result.state, stopped.result.step) == (TrialState.PRUNED, 3)
        config = configs[number]
        result = run_trial(config, base, data, go_on, stopped.folder, resume=True)
        assert_same(Outcome(result, stopped.folder), trial(config), 2e-5)


def test_stopped_alone_and_resumed_in_a_pack(
    trial: Trial, together: Together, tmp_path: Path
) -> None:
    configs = [make_config(number=n, seed=n, rungs=(3,), max_steps=6) for n in range(2)]
    for config in configs:
        folder = TrialFolder(tmp_path / "packed" / str(config.number))
        trial(config, report=lambda result: False, folder=folder)
    for config in configs:
        together.start(config, resume=True)
    for number, outcome in together.end().items():
        assert_same(outcome, trial(configs[number]), 2e-5)
    assert together.sizes == [2] * 3
