"""Presets of target modules on each architecture, and what peft then really adapts."""

from __future__ import annotations

import pytest
import torch
from adapted_modules import adapted
from tiny_models import TASKS, tiny_model
from transformers import PreTrainedModel
from tune_lora.spaces import SpaceError
from tune_lora.trainer.base import AUTO_CLASSES
from tune_lora.trainer.targets import resolve_targets

NAMES: dict[str, dict[str, list[str]]] = {
    "llama": {
        "qv": ["q_proj", "v_proj"],
        "attention": ["k_proj", "o_proj", "q_proj", "v_proj"],
        "mlp": ["down_proj", "gate_proj", "up_proj"],
    },
    "gpt2": {
        "qv": ["c_attn"],
        "attention": ["attn.c_proj", "c_attn"],
        "mlp": ["c_fc", "mlp.c_proj"],
    },
    "bloom": {
        "qv": ["query_key_value"],
        "attention": ["dense", "query_key_value"],
        "mlp": ["dense_4h_to_h", "dense_h_to_4h"],
    },
    "falcon": {
        "qv": ["query_key_value"],
        "attention": ["dense", "query_key_value"],
        "mlp": ["dense_4h_to_h", "dense_h_to_4h"],
    },
    "opt": {
        "qv": ["q_proj", "v_proj"],
        "attention": ["k_proj", "out_proj", "q_proj", "v_proj"],
        "mlp": ["fc1", "fc2"],
    },
    "t5": {
        "qv": ["q", "v"],
        "attention": ["k", "o", "q", "v"],
        "mlp": ["wi_0", "wi_1", "wo"],
    },
    "bert": {
        "qv": ["query", "value"],
        "attention": ["attention.output.dense", "key", "query", "value"],
        "mlp": ["0.output.dense", "1.output.dense", "intermediate.dense"],
    },
    "phi": {
        "qv": ["q_proj", "v_proj"],
        "attention": ["dense", "k_proj", "q_proj", "v_proj"],
        "mlp": ["fc1", "fc2"],
    },
    "gpt_neox": {
        "qv": ["query_key_value"],
        "attention": ["dense", "query_key_value"],
        "mlp": ["dense_4h_to_h", "dense_h_to_4h"],
    },
    "bart": {
        "qv": ["q_proj", "v_proj"],
        "attention": ["k_proj", "out_proj", "q_proj", "v_proj"],
        "mlp": ["fc1", "fc2"],
    },
    "roberta": {
        "qv": ["query", "value"],
        "attention": ["attention.output.dense", "key", "query", "value"],
        "mlp": ["0.output.dense", "1.output.dense", "intermediate.dense"],
    },
    "distilbert": {
        "qv": ["q_lin", "v_lin"],
        "attention": ["k_lin", "out_lin", "q_lin", "v_lin"],
        "mlp": ["lin1", "lin2"],
    },
}
"""What each preset resolves to."""
NAMES |= dict.fromkeys(("mistral", "qwen2", "qwen3", "gemma"), NAMES["llama"])

PARTS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "llama": (
        {f"self_attn.{name}_proj" for name in "qv"},
        {f"self_attn.{name}_proj" for name in "ko"},
        {f"mlp.{name}_proj" for name in ("gate", "up", "down")},
    ),
    "gpt2": ({"attn.c_attn"}, {"attn.c_proj"}, {"mlp.c_fc", "mlp.c_proj"}),
    "bloom": (
        {"self_attention.query_key_value"},
        {"self_attention.dense"},
        {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
    ),
    "falcon": (
        {"self_attention.query_key_value"},
        {"self_attention.dense"},
        {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
    ),
    "opt": (
        {"self_attn.q_proj", "self_attn.v_proj"},
        {"self_attn.k_proj", "self_attn.out_proj"},
        {"fc1", "fc2"},
    ),
    "t5": (
        {f"{kind}Attention.{name}" for kind in ("Self", "EncDec") for name in "qv"},
        {f"{kind}Attention.{name}" for kind in ("Self", "EncDec") for name in "ko"},
        {f"DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")},
    ),
    "bert": (
        {"attention.self.query", "attention.self.value"},
        {"attention.self.key", "attention.output.dense"},
        {"intermediate.dense", "output.dense"},
    ),
    "phi": (
        {f"self_attn.{name}_proj" for name in "qv"},
        {"self_attn.k_proj", "self_attn.dense"},
        {"mlp.fc1", "mlp.fc2"},
    ),
    "gpt_neox": (
        {"attention.query_key_value"},
        {"attention.dense"},
        {"mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
    ),
    "bart": (
        {f"{kind}_attn.{name}_proj" for kind in ("self", "encoder") for name in "qv"},
        {f"{kind}_attn.{name}_proj" for kind in ("self", "encoder") for name in ("k", "out")},
        {"fc1", "fc2"},
    ),
    "roberta": (
        {"attention.self.query", "attention.self.value"},
        {"attention.self.key", "attention.output.dense"},
        {"intermediate.dense", "output.dense"},
    ),
    "distilbert": (
        {"attention.q_lin", "attention.v_lin"},
        {"attention.k_lin", "attention.out_lin"},
        {"ffn.lin1", "ffn.lin2"},
    ),
}
"""Path ends, below the numbered block, of: query and value; other attention; MLP."""
PARTS |= dict.fromkeys(("mistral", "qwen2", "qwen3", "gemma"), PARTS["llama"])

PRESETS = ("qv", "attention", "mlp")
HEADS = {"roberta": ("classifier",), "distilbert": ("pre_classifier", "classifier")}


def model_of(architecture: str) -> PreTrainedModel:
    """With the head of its task, as a trial loads it."""
    model = tiny_model(architecture)
    if architecture not in HEADS:
        return model
    found: PreTrainedModel = AUTO_CLASSES[TASKS[architecture]].from_config(model.config)
    return found


def below_block(path: str) -> str:
    """``mlp.c_fc`` of ``transformer.h.1.mlp.c_fc``."""
    parts = path.split(".")
    last = max((index for index, part in enumerate(parts) if part.isdigit()), default=-1)
    return ".".join(parts[last + 1 :])


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("architecture", NAMES)
def test_names(architecture: str, preset: str) -> None:
    model = tiny_model(architecture)
    assert resolve_targets(preset, model) == NAMES[architecture][preset]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("architecture", PARTS)
def test_peft_adapts_those_modules_and_no_others(architecture: str, preset: str) -> None:
    query_value, rest, mlp = PARTS[architecture]
    ends = {"qv": query_value, "attention": query_value | rest, "mlp": mlp}[preset]
    model = model_of(architecture)
    paths = [path for path, _ in model.named_modules()]
    targets = resolve_targets(preset, model)
    found = adapted(model, TASKS[architecture], targets, HEADS.get(architecture, ()))
    assert found == {path for path in paths if below_block(path) in ends}
    assert {below_block(path) for path in found} == ends


@pytest.mark.parametrize("architecture", PARTS)
def test_all_linear_is_both_without_the_head(architecture: str) -> None:
    model = model_of(architecture)
    targets = resolve_targets("all-linear", model)
    assert targets == "all-linear"
    paths = adapted(model, TASKS[architecture], targets, HEADS.get(architecture, ()))
    found = {below_block(path) for path in paths}
    pooler = {"bert.pooler.dense"} if architecture == "bert" else set()
    assert found == set().union(*PARTS[architecture]) | pooler


@pytest.mark.parametrize("architecture", NAMES)
def test_the_meta_device_is_enough(architecture: str) -> None:
    with torch.device("meta"):
        model = tiny_model(architecture)
    assert next(model.parameters()).is_meta
    assert resolve_targets("mlp", model) == NAMES[architecture]["mlp"]


@pytest.mark.parametrize("preset", [*PRESETS, "all-linear", ""])
@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_encoder_and_decoder_apart(architecture: str, part: str, preset: str) -> None:
    query_value, rest, mlp = PARTS[architecture]
    attention = query_value | rest
    ends = {"qv": query_value, "attention": attention, "mlp": mlp}.get(preset, attention | mlp)
    model = tiny_model(architecture)
    value = f"{part}.{preset}" if preset else part
    paths = [path for path, _ in model.named_modules()]
    found = adapted(model, TASKS[architecture], resolve_targets(value, model))
    assert found == {p for p in paths if below_block(p) in ends and part in p.split(".")}
    assert found


@pytest.mark.parametrize("architecture", ["llama", "bert", "opt"])
def test_a_model_without_both_has_no_parts(architecture: str) -> None:
    with pytest.raises(SpaceError) as caught:
        resolve_targets("decoder.mlp", tiny_model(architecture))
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("lora.target_modules", "decoder.mlp")
    assert fault.suggestions == ("mlp",)
