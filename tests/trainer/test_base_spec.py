"""What a worker is told of the base model: plain data, made from the space's model block."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tune_lora.spaces import ModelBlock, SpaceError
from tune_lora.trainer.base import BaseSpec

Tiny = Callable[..., Path]


def test_every_field_of_the_block_arrives(tiny: Tiny) -> None:
    block = ModelBlock(
        name=str(tiny("bert")),
        task="SEQ_CLS",
        quantization="nf4",
        double_quant=False,
        quantization_compute="bitsandbytes",
        dtype="fp16",
        attn_implementation="eager",
        trust_remote_code=True,
    )
    folder = str(tiny("bert").resolve())
    assert BaseSpec.of(block, ["a", "b"], trusted=True) == BaseSpec(
        source=folder,
        name=block.name,
        reference=folder,
        task="SEQ_CLS",
        quantization="nf4",
        double_quant=False,
        quantization_compute="bitsandbytes",
        dtype="fp16",
        attn_implementation="eager",
        trust_remote_code=True,
        labels=("a", "b"),
    )


def test_through_json_and_back() -> None:
    spec = BaseSpec("folder", "name", task="SEQ_CLS", labels=("a", "b"))
    assert BaseSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_a_missing_model_is_a_fault_of_the_space() -> None:
    with pytest.raises(SpaceError) as caught:
        BaseSpec.of(ModelBlock(name="/no/such/model"))
    assert caught.value.faults[0].path == "model.name"


def test_only_classification_has_a_head_to_describe() -> None:
    assert BaseSpec("folder", "name").head_options() == {}
    assert BaseSpec("folder", "name", task="SEQ_CLS", labels=("x", "y")).head_options() == {
        "num_labels": 2,
        "id2label": {0: "x", 1: "y"},
        "label2id": {"x": 0, "y": 1},
    }
