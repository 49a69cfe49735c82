"""The terms of a prediction, against counts that are made otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import ARCHITECTURES, TASKS, tiny_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from tune_lora.spaces.formats import CLASSIFIERS
from tune_lora.trainer import footprint
from tune_lora.trainer.base import AUTO_CLASSES, BaseSpec, heads_of, load_base, meta_model
from tune_lora.trainer.errors import AdapterRefusedError, TrialError
from tune_lora.trainer.footprint import (
    CPU_KERNELS,
    CPU_PROCESS,
    GPU_CONTEXT,
    RETAINED,
    Footprint,
    Surveyor,
    optimizer_bytes,
    weight_bytes,
)
from tune_lora.trainer.targets import resolve_targets
from tune_lora.trainer.trace import Batch

BATCH = Batch(2, 32, 16)
TRAIN = {"optim": "adamw_torch", "gradient_checkpointing": False}


def classifier(architecture: str) -> Any:
    """An encoder with a head for the two classes of its task."""
    return AUTO_CLASSES[TASKS[architecture]].from_config(tiny_model(architecture).config)


def survey(
    architecture: str, lora: Mapping[str, Any], train: Mapping[str, Any] = TRAIN, **spec: Any
) -> Footprint:
    """The footprint of a tiny model in fp32."""
    with torch.device("meta"):
        classes = TASKS[architecture] in CLASSIFIERS
        model = classifier(architecture) if classes else tiny_model(architecture)
    spec = {"quantization": "none", **spec}
    own = BaseSpec("", "tiny", task=TASKS[architecture], **spec)
    return Surveyor(own, model, torch.float32, gpu=False).footprint(lora, train, BATCH, BATCH)


FIELDS: dict[str, dict[str, Any]] = {
    "qv": {"target_modules": "qv", "r": 2},
    "all-linear": {"target_modules": "all-linear", "r": 8},
    "dora": {"target_modules": "attention", "r": 4, "use_dora": True},
    "bias": {"target_modules": "attention", "r": 4, "bias": "lora_only"},
}


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        *(("llama", kind) for kind in FIELDS),
        *((architecture, "all-linear") for architecture in (*ARCHITECTURES[1:], "bart", "tagger")),
    ],
)
def test_trained_parameters_are_those_that_peft_counts(architecture: str, kind: str) -> None:
    model, fields = tiny_model(architecture), FIELDS[kind]
    if TASKS[architecture] in CLASSIFIERS:
        model = classifier(architecture)
        # No checkpoint has weights for a head of these classes.
        fields = {**fields, "modules_to_save": heads_of(model)}
    targets = resolve_targets(fields["target_modules"], model)
    wanted = LoraConfig(task_type=TASKS[architecture], **{**fields, "target_modules": targets})
    trained, _ = get_peft_model(model, wanted).get_nb_trainable_parameters()
    found = survey(architecture, fields)
    assert found.trainable == trained
    assert (found.adapter, found.gradients, found.optimizer) == (
        4 * trained,
        4 * trained,
        8 * trained,
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["norm"]},
        {"modules_to_save": ["layers.1.input_layernorm"]},
        {"exclude_modules": ["layers.0.self_attn.q_proj"]},
        {"layers_to_transform": [1]},
        {"rank_pattern": {"q_proj": 16}},
        {"target_modules": r".*layers\.1\..*q_proj"},
        {"init_lora_weights": "pissa"},
    ],
    ids=str,
)
def test_what_makes_blocks_differ_is_counted_too(fields: dict[str, Any]) -> None:
    fields = {"r": 4, "target_modules": ["q_proj", "v_proj"], **fields}
    wanted = LoraConfig(task_type="CAUSAL_LM", **fields)
    trained, _ = get_peft_model(tiny_model("llama"), wanted).get_nb_trainable_parameters()
    assert survey("llama", fields).trainable == trained


def test_what_peft_refuses_is_said() -> None:
    fields = {"r": 4, "target_modules": "qv", "use_dora": True, "lora_bias": True}
    with pytest.raises(AdapterRefusedError, match="peft refuses"):
        survey("llama", fields)


def state_of(optim: str, folder: Path) -> tuple[Any, int]:
    """A model, and the bytes of the optimizer's state after a step on all that is trained."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )
    wanted = LoraConfig(
        task_type="CAUSAL_LM",
        r=48,
        target_modules="all-linear",
        modules_to_save=["embed_tokens"],
    )
    model = get_peft_model(LlamaForCausalLM(config), wanted)
    arguments = TrainingArguments(str(folder), optim=optim, use_cpu=True, report_to="none")
    optimizer = Trainer(model, arguments).create_optimizer()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = {
        value.data_ptr(): value.numel() * value.element_size()
        for state in optimizer.state.values()
        for key, value in state.items()
        # Shared by all tensors, or a single number.
        if isinstance(value, torch.Tensor) and not key.startswith("qmap") and value.numel() > 1
    }
    return model, sum(tensors.values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without GPUs")
@pytest.mark.parametrize(
    "optim",
    [
        "adamw_torch",
        "adamw_8bit",
        "paged_adamw_8bit",
        "paged_adamw_32bit",
        "lion_8bit",
        "lion_32bit",
        "rmsprop_bnb_8bit",
        "sgd",
    ],
)
def test_optimizer_state_is_that_of_a_real_step(optim: str, tmp_path: Path) -> None:
    model, measured = state_of(optim, tmp_path)
    tables = {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for p in module.parameters()
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    rest = [p.numel() for p in trained if id(p) not in tables]
    found = optimizer_bytes(optim, rest, [p.numel() for p in trained if id(p) in tables])
    assert any(size >= 4096 for size in rest)
    assert any(size < 4096 for size in rest) or optim != "adamw_8bit"
    assert found == measured


def wide(folder: Path) -> BaseSpec:
    """A Llama whose layers are wide enough that scales of scales fill their blocks."""
    from tiny_models import tiny_tokenizer

    config = LlamaConfig(
        vocab_size=320,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return BaseSpec(str(folder), "wide", dtype="fp32")


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("compute", ["bitsandbytes", "dequantized"])
def test_weights_are_those_of_a_loaded_model(tmp_path: Path, double: bool, compute: str) -> None:
    from dataclasses import replace

    spec = replace(
        wide(tmp_path), quantization="nf4", quantization_compute=compute, double_quant=double
    )
    base = load_base(spec)
    held = 0
    for parameter in base.model.parameters():
        held += parameter.numel() * parameter.element_size()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            held += state.absmax.numel() * state.absmax.element_size()
            if state.nested:
                held += state.state2.absmax.numel() * 4
    width = base.dtype.itemsize
    assert weight_bytes(meta_model(spec), spec, width) == pytest.approx(held, rel=0.01)


@pytest.mark.parametrize(
    ("dtype", "onednn", "gpu", "uneven", "process"),
    [
        (torch.bfloat16, False, False, True, CPU_PROCESS + CPU_KERNELS),
        (torch.bfloat16, True, False, False, CPU_PROCESS),
        (torch.float32, False, False, True, CPU_PROCESS),
        (torch.float32, True, False, True, CPU_PROCESS + CPU_KERNELS),
        (torch.bfloat16, True, True, True, GPU_CONTEXT),
    ],
)
def test_kernels_are_compiled_by_onednn_for_rows_of_unequal_length(
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    onednn: bool,
    gpu: bool,
    uneven: bool,
    process: int,
) -> None:
    monkeypatch.setattr(footprint, "prefers_onednn", lambda: onednn)
    spec = BaseSpec("", "t", quantization="none")
    assert Surveyor(spec, torch.nn.Identity(), dtype, gpu, uneven).process == process


def test_a_head_beside_packed_weights_is_kept_in_two_dtypes_on_a_cpu() -> None:
    with torch.device("meta"):
        model = tiny_model("llama")
    spec = BaseSpec("", "t", quantization="nf4", quantization_compute="bitsandbytes")
    here, there = (Surveyor(spec, model, torch.bfloat16, gpu) for gpu in (False, True))
    assert here.weights - there.weights == 2 * model.lm_head.weight.numel()
    fp32 = Surveyor(spec, model, torch.float32, gpu=False)
    assert fp32.weights == there.weights


def test_the_whole_is_the_sum_of_its_parts() -> None:
    found = survey("llama", {"r": 4, "target_modules": "qv"})
    worked = found.activations + found.logits
    assert found.process == CPU_PROCESS
    assert found.allocator == pytest.approx(RETAINED * worked, abs=1)
    fixed = found.weights + found.adapter + found.gradients + found.optimizer
    assert found.mapped == 0
    assert found.held == found.total == CPU_PROCESS + fixed + worked + found.allocator


def test_a_file_in_fp32_stays_mapped_where_some_of_it_is_used_as_it_is() -> None:
    lora = {"r": 4, "target_modules": "qv"}
    with torch.device("meta"):
        model = tiny_model("llama")
    model.config.dtype = torch.float32
    spec = BaseSpec("", "t", quantization="nf4", quantization_compute="dequantized")
    found = Surveyor(spec, model, torch.float32, gpu=False).footprint(lora, TRAIN, BATCH, BATCH)
    linear = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64)
    assert found.mapped == 4 * linear == found.total - found.held
    other = Surveyor(spec, model, torch.bfloat16, gpu=False)
    assert other.footprint(lora, TRAIN, BATCH, BATCH).mapped == 0


def test_an_evaluation_that_takes_more_than_training_counts() -> None:
    lora = {"r": 4, "target_modules": "qv"}
    with torch.device("meta"):
        model = tiny_model("llama")
    own = Surveyor(BaseSpec("", "t", quantization="none"), model, torch.float32, gpu=False)
    small, large = Batch(1, 16, 8), Batch(64, 64, 64)
    assert (
        own.footprint(lora, TRAIN, small, large).total
        > own.footprint(lora, TRAIN, small, small).total
    )


@pytest.mark.parametrize(
    ("fields", "less"),
    [
        ({"r": 64}, {"r": 2}),
        ({"target_modules": "all-linear"}, {"target_modules": "qv"}),
        ({"use_dora": True}, {"use_dora": False}),
        ({"lora_dropout": 0.1}, {"lora_dropout": 0.0}),
    ],
)
def test_what_asks_for_more_gets_more(fields: dict[str, Any], less: dict[str, Any]) -> None:
    base = {"r": 4, "target_modules": "attention"}
    more = survey("llama", {**base, **fields})
    assert more.total > survey("llama", {**base, **less}).total


def test_a_model_that_looks_at_numbers_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: Any, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids, self.weight) * float(self.weight.sum())

    monkeypatch.setattr(nn.Embedding, "forward", forward)
    with pytest.raises(TrialError, match="cannot be traced without numbers"):
        survey("llama", {"r": 4, "target_modules": "qv"})


def test_the_trainers_own_loss_is_of_all_logits() -> None:
    lora = {"r": 4, "target_modules": "attention"}
    plain, compiled, smooth = (
        survey("llama", lora, {**TRAIN, **more}).logits
        for more in ({}, {"torch_compile": True}, {"label_smoothing_factor": 0.1})
    )
    assert plain < compiled <= smooth


def test_checkpointing_goes_by_its_former_name_too() -> None:
    lora = {"r": 4, "target_modules": "attention"}
    plain = {"optim": "adamw_torch"}
    found = [
        survey("llama", lora, {**plain, key: True})
        for key in ("gradient_checkpointing", "activation_checkpointing")
    ]
    assert found[0] == found[1]
    assert found[0].total < survey("llama", lora, plain).total
