"""An export is what it says: loaded by plain peft and transformers it has the trial's loss."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from peft import PeftModel
from tiny_models import TASKS
from tiny_trials import Outcome, checksum, make_config, row_by_row
from transformers import AutoModelForCausalLM, AutoTokenizer
from tune_lora.spaces import ModelBlock
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.export import (
    MERGED,
    Forms,
    Recipe,
    Rescore,
    export_adapter,
    sample_prompt,
)

Trial = Callable[..., Outcome]
Blocks = Callable[..., ModelBlock]

ALL = {"target_modules": "all-linear"}
MERGE = Forms(merge=True)


def test_adapter_has_the_trials_loss(
    export: Callable[..., Rescore],
    trained: Outcome,
    new_base: Callable[..., BaseModel],
    data: TokenizedData,
    tmp_path: Path,
) -> None:
    scores = export()
    model = PeftModel.from_pretrained(new_base().model, str(tmp_path / "out"))
    assert row_by_row(model, data.validation) == pytest.approx(trained.result.score, rel=1e-6)
    assert scores.adapter == pytest.approx(trained.result.score, rel=1e-6)
    assert scores.merged is None


def test_merged_model_has_the_trials_loss(
    export: Callable[..., Rescore], trained: Outcome, data: TokenizedData, tmp_path: Path
) -> None:
    scores = export(forms=MERGE)
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "out" / MERGED))
    assert row_by_row(model, data.validation) == pytest.approx(trained.result.score, abs=1e-5)
    assert scores.merged == pytest.approx(trained.result.score, abs=1e-5)


def test_what_is_in_the_folder(
    export: Callable[..., Rescore], trained: Outcome, model_block: Blocks, tmp_path: Path
) -> None:
    recipe = Recipe(model_block(), template="Q: {instruction} A: ")
    export(recipe=recipe, forms=MERGE)
    out, name = tmp_path / "out", "adapter_model.safetensors"
    assert (out / name).read_bytes() == (trained.folder.adapter / name).read_bytes()
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    assert (
        tokenizer("apples")["input_ids"]
        == (AutoTokenizer.from_pretrained(recipe.model.name)("apples")["input_ids"])
    )
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == recipe.model.name
    assert (config["r"], config["lora_alpha"]) == (4, 8)
    assert Recipe.read(out) == recipe
    whole = Recipe.read(out / MERGED)
    assert (whole.merged, whole.template, whole.model) == (True, recipe.template, recipe.model)


def test_finish_adds_to_the_folder_before_it_has_its_name(
    export: Callable[..., Rescore], tmp_path: Path
) -> None:
    seen: list[Rescore] = []

    def finish(folder: Path, scores: Rescore) -> None:
        assert not (tmp_path / "out").exists()
        (folder / "README.md").write_text("card", encoding="utf-8")
        seen.append(scores)

    scores = export(finish=finish)
    assert seen == [scores]
    assert (tmp_path / "out" / "README.md").read_text() == "card"


def test_adapter_of_a_quantized_base(
    trial: Trial,
    new_base: Callable[..., BaseModel],
    model_block: Blocks,
    data: TokenizedData,
    tmp_path: Path,
) -> None:
    outcome = trial(make_config(ALL, learning_rate=0.02), base=new_base(quantization="nf4"))
    recipe, out = Recipe(model_block(quantization="nf4")), tmp_path / "out"
    scores = export_adapter(outcome.folder.adapter, out, recipe, data, batch_size=4, forms=MERGE)
    assert scores.adapter == pytest.approx(outcome.result.score, rel=1e-6)
    # Merged into the full-precision weights, not into the rounded ones.
    unrounded = PeftModel.from_pretrained(new_base().model, str(out))
    expected = row_by_row(unrounded, data.validation)
    assert scores.merged == pytest.approx(expected, abs=1e-5)
    assert abs(expected - scores.adapter) > 1e-4
    merged = AutoModelForCausalLM.from_pretrained(str(out / MERGED))
    bare = checksum(new_base().model)
    assert not hasattr(merged.config, "quantization_config")
    assert checksum(merged) != bare


@pytest.mark.parametrize("architecture", ["t5", "bert"])
def test_other_tasks_are_exported_and_merged(
    trial: Trial,
    new_base: Callable[..., BaseModel],
    tokenized: Callable[..., TokenizedData],
    model_block: Blocks,
    tmp_path: Path,
    architecture: str,
) -> None:
    data, base = tokenized(architecture), new_base(architecture)
    outcome = trial(make_config(ALL, task=TASKS[architecture]), base=base, data=data)
    recipe = Recipe(model_block(architecture), labels=data.labels)
    scores = export_adapter(
        outcome.folder.adapter, tmp_path / "out", recipe, data, batch_size=4, forms=MERGE
    )
    assert scores.adapter == pytest.approx(outcome.result.score, rel=1e-6)
    assert scores.merged == pytest.approx(outcome.result.score, abs=1e-5)


def test_sample_prompt_is_the_first_validation_rows(
    data: TokenizedData, model_block: Blocks
) -> None:
    prompt = sample_prompt(Path(model_block().name), data, "CAUSAL_LM")
    assert prompt.startswith("### Instruction:\nTurn this into JSON: ")
    assert prompt.endswith(" apples\n\n### Response:\n")
