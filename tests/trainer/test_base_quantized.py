"""A base model in 4 bits: which modules, how near to the weights saved, all else in fp32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, get_peft_model
from tiny_models import TASKS, tiny_model
from torch import nn
from tune_lora.trainer.base import BaseSpec, load_base
from tune_lora.trainer.targets import resolve_targets
from wide_models import save_wide

Tiny = Callable[..., Path]


def _spec(folder: Path, **fields: Any) -> BaseSpec:
    packed = {"quantization": "nf4", "quantization_compute": "bitsandbytes"}
    fields = {"dtype": "fp32", **packed, **fields}
    return BaseSpec(source=str(folder), name=folder.name, **fields)


def _linear(model: nn.Module) -> dict[str, nn.Linear]:
    """Linear modules but the head; those of bitsandbytes are among them."""
    found = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    return {name: part for name, part in found.items() if name != "lm_head"}


@pytest.mark.parametrize("double", [True, False])
def test_every_linear_module_but_the_head_is_nf4(tiny: Tiny, double: bool) -> None:
    base = load_base(_spec(tiny(), double_quant=double))
    linear = _linear(base.model)
    assert len(linear) == 2 * 7
    for module in linear.values():
        assert isinstance(module, bnb.nn.Linear4bit)
        state = module.weight.quant_state
        assert (state.quant_type, state.nested) == ("nf4", double)
        assert (state.state2 is not None) is double
    assert isinstance(base.model.lm_head, nn.Linear)
    assert base.model.lm_head.weight.dtype is torch.float32


def test_the_rest_is_in_fp32_and_all_is_frozen(tiny: Tiny) -> None:
    base = load_base(_spec(tiny()))
    parameters = dict(base.model.named_parameters())
    rest = {name: p for name, p in parameters.items() if p.dtype is not torch.uint8}
    assert {name.split(".")[-2] for name in rest} == {
        "embed_tokens", "input_layernorm", "post_attention_layernorm", "norm"
    }  # fmt: skip
    assert {parameter.dtype for parameter in rest.values()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in parameters.values())
    assert not base.model.training
    assert not base.spoiled


@pytest.mark.skipif(torch.cuda.is_available(), reason="replaces what a CPU says of itself")
def test_norms_are_in_fp32_though_products_are_in_bf16(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    base = load_base(_spec(tiny(), dtype="bf16"))
    assert base.dtype is torch.bfloat16
    norms = [p for name, p in base.model.named_parameters() if "norm" in name]
    assert {parameter.dtype for parameter in norms} == {torch.float32}
    assert {module.compute_dtype for module in _linear(base.model).values()} == {torch.bfloat16}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_the_weights_are_near_those_saved(tmp_path: Path, architecture: str) -> None:
    """Four bits a weight: the error is a tenth of the weights' size (0.09 for normal ones)."""
    saved = save_wide(tmp_path, architecture).state_dict()
    base = load_base(_spec(tmp_path, task=TASKS[architecture]))
    found = {
        name: module
        for name, module in _linear(base.model).items()
        if isinstance(module, bnb.nn.Linear4bit)
    }
    assert len(found) >= 8
    for name, module in found.items():
        weight = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
        wanted = saved[f"{name}.weight"]
        wanted = wanted.T if architecture == "gpt2" else wanted  # Conv1D keeps it the other way
        assert 0.05 < (weight.cpu() - wanted).norm() / wanted.norm() < 0.12, name


def test_the_quantization_can_be_overruled(tiny: Tiny) -> None:
    base = load_base(_spec(tiny()), quantization="none")
    linear = _linear(base.model).values()
    assert not any(isinstance(module, bnb.nn.Linear4bit) for module in linear)
    assert {module.weight.dtype for module in linear} == {torch.float32}


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_targets_are_found_in_it_and_only_they_learn(tiny: Tiny, architecture: str) -> None:
    base = load_base(_spec(tiny(architecture)))
    targets = resolve_targets("qv", base.model)
    assert targets == resolve_targets("qv", tiny_model(architecture))
    wanted = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=targets)
    model = get_peft_model(base.model, wanted)
    ids = torch.arange(8, device=base.device).unsqueeze(0)
    model(input_ids=ids, labels=ids).loss.backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning == {name for name, _ in model.named_parameters() if "lora_" in name}
