"""NF4 weights dequantized once, against bitsandbytes' own layers loaded by transformers alone."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel, prepare_model_for_kbit_training
from tiny_models import TASKS
from tiny_trials import Outcome, make_config, row_by_row
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, BitsAndBytesConfig
from tune_lora.spaces import DataBlock
from tune_lora.trainer import products
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.data import TokenizedData, tokenize
from tune_lora.trainer.folder import read_json
from tune_lora.trainer.nf4 import DequantizedLinear
from tune_lora.trainer.result import TrialState
from wide_models import WIDE, save_wide

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(),
    reason="a GPU multiplies few rows in a kernel of its own, with other rounding",
)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.fixture(autouse=True)
def _bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


@pytest.fixture(autouse=True)
def _one_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another library is faster than bitsandbytes' own, it sums in another order."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model of each architecture, made once."""
    root = tmp_path_factory.mktemp("wide")

    def folder(architecture: str) -> Path:
        if not (root / architecture).exists():
            save_wide(root / architecture, architecture)
        return root / architecture

    return folder


def _load(folder: Path, compute: str, dtype: str = "fp32", **fields: Any) -> BaseModel:
    fields = {"quantization": "nf4", "task": TASKS[folder.name], "dtype": dtype, **fields}
    return load_base(BaseSpec(str(folder), folder.name, quantization_compute=compute, **fields))


def _plain(folder: Path, dtype: str) -> Any:
    """As the QLoRA tutorials load it; nothing of this project."""
    auto = AutoModelForSeq2SeqLM if folder.name == "t5" else AutoModelForCausalLM
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[dtype],
        llm_int8_skip_modules=["lm_head"],
    )
    model = auto.from_pretrained(folder, quantization_config=config, dtype=DTYPES[dtype])
    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model.eval()


def _logits(model: Any, dtype: str) -> torch.Tensor:
    ids = torch.randint(300, (3, 9), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[:, :4]
    autocast = torch.autocast("cpu", torch.bfloat16) if dtype == "bf16" else None
    with torch.no_grad(), autocast or contextlib.nullcontext():
        return model(**inputs).logits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", WIDE)
def test_logits_are_bitsandbytes_own_bit_for_bit(
    wide: Callable[[str], Path], architecture: str, dtype: str
) -> None:
    folder = wide(architecture)
    base = _load(folder, "dequantized", dtype)
    assert base.dtype is DTYPES[dtype]
    # Falcon's own kind of linear layer is only quantized since load_base has been called.
    expected = _logits(_plain(folder, dtype), dtype)
    assert expected.std() > 0.01
    assert torch.equal(_logits(base.model, dtype), expected)
    full = load_base(replace(base.spec, quantization_compute="auto"), quantization="none")
    assert not torch.equal(_logits(full.model, dtype), expected)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
@pytest.mark.parametrize("architecture", WIDE)
def test_by_the_other_library_they_differ_by_rounding(
    wide: Callable[[str], Path], architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _logits(_plain(wide(architecture), "fp32"), "fp32")
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    found = _logits(_load(wide(architecture), "dequantized").model, "fp32")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_no_packed_weight_is_left(
    wide: Callable[[str], Path], architecture: str, double: bool
) -> None:
    gc.collect()
    before = sum(isinstance(thing, Linear4bit) for thing in gc.get_objects())
    base = _load(wide(architecture), "dequantized", "bf16", double_quant=double)
    layers = [m for m in base.model.modules() if isinstance(m, DequantizedLinear)]
    assert len(layers) >= 8
    assert {layer.weight.dtype for layer in layers} == {torch.bfloat16}
    gc.collect()
    assert sum(isinstance(thing, Linear4bit) for thing in gc.get_objects()) == before
    rest = [
        p for n, p in base.model.named_parameters() if "norm" in n or "embed" in n or "ln_" in n
    ]
    assert rest
    assert {parameter.dtype for parameter in rest} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert isinstance(base.model.get_output_embeddings(), nn.Linear)
    assert not isinstance(base.model.get_output_embeddings(), DequantizedLinear)


@pytest.fixture(scope="module")
def rows(wide: Callable[[str], Path], pairs: Path) -> Callable[[str], TokenizedData]:
    def get(architecture: str) -> TokenizedData:
        base = load_base(BaseSpec(str(wide(architecture)), architecture, dtype="fp32"))
        return tokenize(DataBlock(train=str(pairs), max_length=128), "CAUSAL_LM", base.tokenizer)

    return get


def _course(outcome: Outcome) -> list[tuple[float, float]]:
    assert outcome.result.state is TrialState.COMPLETE, outcome.result.error
    return [(row["loss"], row["grad_norm"]) for row in outcome.rows("grad_norm")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("architecture", "lora", "train"),
    [
        ("llama", {"target_modules": "all-linear", "lora_dropout": 0.1}, {}),
        ("llama", {"target_modules": "all-linear", "use_dora": True}, {}),
        ("llama", {"modules_to_save": ["lm_head"]}, {"gradient_checkpointing": True}),
        ("gpt2", {"target_modules": "all-linear"}, {"gradient_accumulation_steps": 2}),
        ("opt", {"target_modules": "all-linear", "use_rslora": True}, {}),
    ],
)
def test_a_trial_has_the_same_losses_and_gradients(
    trial: Callable[..., Outcome],
    wide: Callable[[str], Path],
    rows: Callable[[str], TokenizedData],
    architecture: str,
    lora: dict[str, Any],
    train: dict[str, Any],
    dtype: str,
) -> None:
    config = make_config(lora, max_steps=3, eval_steps=1, **train)
    packed, unpacked = (
        trial(config, base=_load(wide(architecture), compute, dtype), data=rows(architecture))
        for compute in ("bitsandbytes", "dequantized")
    )
    assert _course(unpacked) == _course(packed)
    assert unpacked.losses == packed.losses
    assert len(packed.losses) == 3
    assert unpacked.result.trainable_parameters == packed.result.trainable_parameters
    assert unpacked.result.total_parameters == packed.result.total_parameters
    first, second = (
        read_json(o.folder.adapter / "adapter_config.json") for o in (packed, unpacked)
    )
    assert first == second


def test_its_adapter_is_one_of_the_packed_base(
    trial: Callable[..., Outcome],
    wide: Callable[[str], Path],
    rows: Callable[[str], TokenizedData],
) -> None:
    data = rows("llama")
    base = _load(wide("llama"), "dequantized")
    outcome = trial(make_config({"target_modules": "all-linear"}), base=base, data=data)
    plain = _plain(wide("llama"), "fp32")
    untrained = row_by_row(plain, data.validation)
    worn = PeftModel.from_pretrained(plain, str(outcome.folder.adapter)).eval()
    loss = row_by_row(worn, data.validation)
    assert loss < untrained - 1e-3
    assert outcome.result.score == pytest.approx(loss, rel=2e-6)
