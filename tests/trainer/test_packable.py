"""Which trials may share a pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import tiny_model
from tiny_trials import make_config
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from tune_lora.trainer.packable import can_pack

FP32 = torch.float32


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return tiny_model("llama")


def changed(**fields: Any) -> PreTrainedModel:
    config = tiny_model("llama").config.to_dict() | fields
    return LlamaForCausalLM(LlamaConfig(**config))


@pytest.mark.parametrize("targets", ["qv", "attention", "mlp", "all-linear", ["q_proj"], ".*_proj"])
@pytest.mark.parametrize("dtype", [FP32, torch.bfloat16])
def test_plain_lora_can(llama: PreTrainedModel, targets: Any, dtype: torch.dtype) -> None:
    assert can_pack(make_config({"target_modules": targets, "bias": "none"}), llama, dtype)


@pytest.mark.parametrize(
    "lora",
    [
        {"use_rslora": True},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": False},
        {"lora_dropout": 0.0, "use_dora": False, "modules_to_save": None},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 4}},
    ],
)
def test_fields_that_stay_within_a_layer(llama: PreTrainedModel, lora: dict[str, Any]) -> None:
    assert can_pack(make_config(lora), llama, FP32)


@pytest.mark.parametrize(
    ("lora", "train"),
    [
        ({"lora_dropout": 0.05}, {}),
        ({"use_dora": True}, {}),
        ({"bias": "all"}, {}),
        ({"init_lora_weights": "pissa"}, {}),
        ({"init_lora_weights": "eva"}, {}),
        ({"modules_to_save": ["lm_head"]}, {}),
        ({"trainable_token_indices": [1]}, {}),
        ({"alora_invocation_tokens": [1]}, {}),
        ({"layer_replication": [[0, 2], [0, 2]]}, {}),
        ({"target_modules": ["q_proj", "embed_tokens"]}, {}),
        ({"target_modules": ["q_proj", "lm_head"]}, {}),
        ({"target_modules": ".*"}, {}),
        ({"target_modules": ["missing"]}, {}),
        ({}, {"label_smoothing_factor": 0.1}),
        ({}, {"neftune_noise_alpha": 5}),
        ({}, {"torch_compile": True}),
        ({}, {"use_liger_kernel": True}),
        ({}, {"optim": "adalomo"}),
        ({}, {"optim": "galore_adamw_layerwise"}),
    ],
)
def test_what_needs_a_pass_of_its_own(
    llama: PreTrainedModel, lora: dict[str, Any], train: dict[str, Any]
) -> None:
    assert not can_pack(make_config(lora, **train), llama, FP32)


def test_scaled_gradients_are_each_trials_own(llama: PreTrainedModel) -> None:
    assert not can_pack(make_config(), llama, torch.float16)


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "t5", "bert"])
def test_models_with_dropout_or_another_loss_cannot(architecture: str) -> None:
    task = {"t5": "SEQ_2_SEQ_LM", "bert": "SEQ_CLS"}.get(architecture, "CAUSAL_LM")
    assert not can_pack(make_config(task=task), tiny_model(architecture), FP32)


@pytest.mark.parametrize("architecture", ["bloom", "falcon"])
@pytest.mark.parametrize("field", ["attention_dropout", "hidden_dropout"])
def test_dropout_without_a_module_is_found(architecture: str, field: str) -> None:
    model = tiny_model(architecture)
    assert can_pack(make_config(), model, FP32)
    setattr(model.config, field, 0.1)
    assert not can_pack(make_config(), model, FP32)


def test_a_llama_with_attention_dropout_cannot(llama: PreTrainedModel) -> None:
    assert not can_pack(make_config(), changed(attention_dropout=0.1), FP32)


@pytest.mark.parametrize(("kind", "can"), [("linear", True), ("dynamic", False)])
def test_positions_that_depend_on_the_batch(kind: str, can: bool) -> None:
    rope = {"rope_type": kind, "factor": 2.0, "rope_theta": 10000.0}
    assert can_pack(make_config(), changed(rope_parameters=rope), FP32) is can


def test_weights_may_be_on_the_meta_device(tiny: Callable[..., Any]) -> None:
    from tune_lora.trainer.base import BaseSpec, meta_model

    spec = BaseSpec(str(tiny("llama")), "llama", dtype="fp32")
    assert can_pack(make_config(), meta_model(spec), FP32)
