"""Whatever can be loaded answers: merged models, other tasks, adapters of other tools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from tiny_trials import greedy, save_untrained
from transformers import AutoModelForCausalLM, AutoTokenizer
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.export import MERGED, Recipe
from tune_lora.trainer.generate import Answerer, Decoding, load_answerer

Export = Callable[..., Path]

ROW = {"instruction": "Turn this into JSON: 7 apples"}
PROMPT = "### Instruction:\nTurn this into JSON: 7 apples\n\n### Response:\n"
SHORT = Decoding(max_new_tokens=6)


def test_merged_model_answers_alike(exported: Export) -> None:
    folder = exported(merge=True)
    merged = load_answerer(folder / MERGED)
    tokenizer = AutoTokenizer.from_pretrained(str(folder / MERGED))
    assert not hasattr(merged.model, "peft_config")
    model = AutoModelForCausalLM.from_pretrained(str(folder / MERGED))
    # So that the model ends where it was trained to, whoever loads it.
    assert tokenizer.eos_token_id in model.generation_config.eos_token_id
    expected = greedy(model, folder, PROMPT)
    assert merged.answer(ROW, SHORT) == load_answerer(folder).answer(ROW, SHORT) == expected


def test_moved_merged_model_needs_no_base(exported: Export, tmp_path: Path) -> None:
    folder = exported(merge=True)
    before = load_answerer(folder / MERGED).answer(ROW, SHORT)
    moved = (folder / MERGED).rename(tmp_path / "elsewhere")
    recipe = Recipe.read(moved)
    block = recipe.model.model_copy(update={"name": str(tmp_path / "gone")})
    Recipe(block, recipe.template, merged=True).write(moved)
    assert load_answerer(moved).answer(ROW, SHORT) == before


def test_encoder_decoder_answers_with_the_decoders_text(
    exported: Export, new_base: Callable[..., BaseModel]
) -> None:
    folder = exported("t5", steps=20)
    model = PeftModel.from_pretrained(new_base("t5").model, str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    inputs = tokenizer(PROMPT, return_tensors="pt")
    assert inputs["input_ids"][0, -1] == tokenizer.eos_token_id
    made = [0]
    with torch.no_grad():
        for _ in range(6):
            logits = model(**inputs, decoder_input_ids=torch.tensor([made])).logits
            made.append(int(logits[0, -1].argmax()))
    answer = load_answerer(folder).answer(ROW, SHORT)
    assert answer == tokenizer.decode(made, skip_special_tokens=True)
    assert answer.startswith("{")


def test_classifier_names_label_and_probability(
    exported: Export, new_base: Callable[..., BaseModel]
) -> None:
    folder = exported("bert")
    model = PeftModel.from_pretrained(new_base("bert").model, str(folder)).eval()
    inputs = AutoTokenizer.from_pretrained(str(folder))("3 pears", return_tensors="pt")
    with torch.no_grad():
        shares = torch.softmax(model(**inputs).logits[0], 0)
    label = ("apples", "pears")[int(shares.argmax())]
    answer = load_answerer(folder).answer({"instruction": "3 pears"}, SHORT)
    assert answer == f"{label} ({100 * float(shares.max()):.1f}%)"


def test_adapter_of_another_tool(new_base: Callable[..., BaseModel], tmp_path: Path) -> None:
    folder = save_untrained(new_base().model, tmp_path / "foreign")
    answerer = load_answerer(folder)
    assert isinstance(answerer, Answerer)
    assert answerer.recipe is None
    base = answerer.base.spec.source
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval()
    plain = greedy(model, Path(base), ROW["instruction"])
    assert answerer.answer(ROW, SHORT) == answerer.answer(ROW, SHORT, raw=True) == plain


@pytest.mark.parametrize("made", [True, False])
def test_folder_without_adapter(tmp_path: Path, made: bool) -> None:
    folder = tmp_path / "nothing"
    if made:
        folder.mkdir()
    with pytest.raises(TrialError, match="holds no adapter"):
        load_answerer(folder)
