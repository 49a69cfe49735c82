"""What is made of an adapter besides its folder: scored as it lies on disk, refused in time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from safetensors.torch import load_file, save_file
from tiny_models import TASKS
from tiny_trials import Outcome, make_config, row_by_row
from transformers import AutoModelForCausalLM
from tune_lora.spaces import ModelBlock
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.export import MERGED, MERGED_NF4, Forms, Recipe, Rescore, export_adapter
from tune_lora.trainer.gguf import convert, load_gguf
from tune_lora.trainer.nf4 import never_repack

Export = Callable[..., Rescore]
Blocks = Callable[..., ModelBlock]

WEIGHTS = "adapter_model.safetensors"
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def rounded(model: Any) -> Any:
    """The model with every linear weight quantized and dequantized, one at a time."""
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith(LINEAR):
                packed, state = quantize_4bit(
                    module.weight, quant_type="nf4", compress_statistics=True
                )
                module.weight.copy_(dequantize_4bit(packed, state))
    return model


def test_four_bits_have_the_loss_of_rounded_weights(
    export: Export, data: TokenizedData, tmp_path: Path
) -> None:
    scores = export(forms=Forms(merge=True, quantize=True))
    out = tmp_path / "out"
    merged = AutoModelForCausalLM.from_pretrained(str(out / MERGED))
    assert scores.merged == pytest.approx(row_by_row(merged, data.validation), abs=1e-5)
    assert scores.nf4 == pytest.approx(row_by_row(rounded(merged), data.validation), abs=1e-5)
    assert abs(scores.nf4 - scores.merged) > 1e-4
    assert scores.gguf is None


def test_plain_transformers_loads_the_four_bits(
    export: Export, data: TokenizedData, tmp_path: Path
) -> None:
    scores = export(forms=Forms(quantize=True))
    folder = tmp_path / "out" / MERGED_NF4
    stated = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert (stated["bnb_4bit_quant_type"], stated["bnb_4bit_use_double_quant"]) == ("nf4", True)
    assert stated["bnb_4bit_compute_dtype"] == "float32"
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    never_repack(model)
    assert row_by_row(model, data.validation) == pytest.approx(scores.nf4, abs=1e-5)
    assert Recipe.read(folder).merged


def test_constants_are_not_quantized_where_the_space_says_so(
    export: Export, model_block: Blocks, tmp_path: Path
) -> None:
    block = model_block().model_copy(update={"double_quant": False})
    export(recipe=Recipe(block), forms=Forms(quantize=True))
    config = json.loads((tmp_path / "out" / MERGED_NF4 / "config.json").read_text())
    assert config["quantization_config"]["bnb_4bit_use_double_quant"] is False


def test_the_merged_model_stays_only_if_asked_for(export: Export, tmp_path: Path) -> None:
    scores = export(forms=Forms(quantize=True, gguf="f32"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {MERGED_NF4, "model-f32.gguf"} < names
    assert MERGED not in names
    assert scores.merged is None


def test_a_loaded_four_bit_model_is_never_repacked(export: Export, tmp_path: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    export(forms=Forms(quantize=True))
    spec = BaseSpec(str(tmp_path / "out" / MERGED_NF4), "mine", dtype="fp32")
    model = load_base(spec, quantization="none").model
    packed = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(packed) == 14
    assert not any(module.support_avx512bf16_for_cpu for module in packed)


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "opt", "t5", "bert"])
def test_other_architectures_in_four_bits(
    trial: Callable[..., Outcome],
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
    model_block: Blocks,
    tmp_path: Path,
    architecture: str,
) -> None:
    data, base = tokenized(architecture), new_base(architecture)
    config = make_config({"target_modules": "all-linear"}, task=TASKS[architecture])
    source = trial(config, base=base, data=data).folder.adapter
    recipe, out = Recipe(model_block(architecture), labels=data.labels), tmp_path / "out"
    scores = export_adapter(
        source, out, recipe, data, batch_size=4, forms=Forms(merge=True, quantize=True)
    )
    spec = BaseSpec.of(recipe.model, recipe.labels)
    folder = BaseSpec.from_dict({**spec.to_dict(), "source": str(out / MERGED_NF4)})
    model = load_base(folder, quantization="none").model
    assert model.is_loaded_in_4bit
    expected = row_by_row(model, data.validation, TASKS[architecture])
    assert scores.nf4 == pytest.approx(expected, abs=1e-5)
    assert scores.nf4 == pytest.approx(scores.merged, abs=0.2)
    assert scores.nf4 != scores.merged


def test_the_gguf_file_is_the_merged_model(
    export: Export, data: TokenizedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = export(forms=Forms(merge=True, gguf="f16"))
    out = tmp_path / "out"
    read = load_gguf(out / "model-f16.gguf", torch.float32)
    assert scores.gguf == pytest.approx(row_by_row(read, data.validation), abs=1e-5)
    assert scores.gguf == pytest.approx(scores.merged, abs=1e-3)
    assert scores.gguf != scores.merged
    merged = AutoModelForCausalLM.from_pretrained(str(out / MERGED)).state_dict()
    for name, weight in read.state_dict().items():
        assert torch.allclose(weight, merged[name], rtol=2**-11, atol=2**-24), name
    # And as the base of another search, though an adapter lies beside it.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    again = AutoModelForCausalLM.from_pretrained(str(convert(out / "model-f16.gguf")))
    assert row_by_row(again, data.validation) == pytest.approx(scores.gguf, abs=1e-5)


@pytest.mark.parametrize(
    ("architecture", "forms", "message"),
    [
        ("gpt2", Forms(gguf="f16"), "--gguf: .*its type is gpt2; GGUF is written for"),
        ("falcon", Forms(quantize=True), "--quantize: .* cannot load a Falcon saved in 4 bits"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    trained: Outcome,
    data: TokenizedData,
    model_block: Blocks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    forms: Forms,
    message: str,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("tune_lora.trainer.export.load_base", refuse)
    target, recipe = tmp_path / "new" / "out", Recipe(model_block(architecture))
    with pytest.raises(TrialError, match=message):
        export_adapter(trained.folder.adapter, target, recipe, data, batch_size=2, forms=forms)
    assert not target.parent.exists()


def test_an_adapter_without_a_finite_loss_is_refused(
    export: Export, trained: Outcome, tmp_path: Path
) -> None:
    weights = load_file(trained.folder.adapter / WEIGHTS)
    first = next(iter(weights))
    weights[first] = weights[first] * float("nan")
    save_file(weights, trained.folder.adapter / WEIGHTS)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(TrialError, match=r"the adapter, loaded again .* loss of nan, so nothing"):
        export()
    assert sorted(path.name for path in tmp_path.iterdir()) == before
