"""Beside an export's answer, that of the base: as if no adapter had ever been there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_trials import greedy, save_untrained
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.export import MERGED, MERGED_NF4, Recipe
from tune_lora.trainer.generate import Decoding, answer_both, load_answerer

Export = Callable[..., Path]
Bases = Callable[..., BaseModel]

ROW = {"instruction": "Turn this into JSON: 7 apples"}
PROMPT = "### Instruction:\nTurn this into JSON: 7 apples\n\n### Response:\n"
SHORT = Decoding(max_new_tokens=6)


@pytest.mark.parametrize(
    "lora",
    [{}, {"bias": "all"}, {"init_lora_weights": "pissa"}, {"modules_to_save": ["lm_head"]}],
    ids=["plain", "biases", "pissa", "head"],
)
def test_adapter_and_base(exported: Export, new_base: Bases, lora: dict[str, object]) -> None:
    folder = exported(steps=20, lora=lora)
    both = answer_both(folder, ROW, SHORT)
    assert both.adapter == load_answerer(folder).answer(ROW, SHORT)
    assert both.base == greedy(new_base().model, folder, PROMPT)
    assert both.adapter != both.base
    assert both.base_name == Recipe.read(folder).model.name


@pytest.mark.parametrize(("name", "quantization"), [(MERGED, "none"), (MERGED_NF4, "nf4")])
def test_merged_models_have_their_base_loaded(
    exported: Export, new_base: Bases, name: str, quantization: str
) -> None:
    folder = exported(steps=20, merge=True, quantize=True)
    both = answer_both(folder / name, ROW, SHORT)
    assert both.adapter == load_answerer(folder / name).answer(ROW, SHORT)
    assert both.base == greedy(new_base(quantization=quantization).model, folder, PROMPT)
    assert both.adapter != both.base


def test_draws_are_of_the_same_seed(new_base: Bases, tmp_path: Path) -> None:
    folder = save_untrained(new_base().model, tmp_path / "foreign")
    drawn = Decoding(12, temperature=1.0, seed=3)
    both = answer_both(folder, ROW, drawn)
    assert both == answer_both(folder, ROW, drawn)
    answerer = load_answerer(folder)
    with answerer.model.disable_adapter():
        assert both.base == answerer.answer(ROW, drawn)


def test_a_classifiers_base_has_a_random_head(exported: Export) -> None:
    both = answer_both(exported("bert"), {"instruction": "3 pears"}, SHORT)
    assert both.base_name.endswith(", its head untrained")
    assert both.adapter != both.base
