"""A trial's configuration as plain data, and the digest by which duplicates are known."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from typing import Any

import pytest
from tune_lora.trainer.config import TrialConfig

CONFIG = TrialConfig(
    number=3,
    task="CAUSAL_LM",
    lora={"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    train={"learning_rate": 2e-4, "max_steps": 27, "seed": 0},
    rungs=(3, 9, 27),
    params={"lora.r": 8, "train.learning_rate": 2e-4},
)


def test_the_horizon() -> None:
    assert CONFIG.max_steps == 27


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, params=None, baseline=True)])
def test_through_json_and_back(config: TrialConfig) -> None:
    read = TrialConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert read == config
    assert isinstance(read.rungs, tuple)
    assert pickle.loads(pickle.dumps(config)) == config


def test_its_data_is_a_copy() -> None:
    data = CONFIG.to_dict()
    data["lora"]["target_modules"].append("o_proj")
    assert CONFIG.lora["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    "change",
    [
        {"number": 4},
        {"baseline": True},
        {"params": None},
        {"rungs": (27,)},
        {"lora": dict(reversed(CONFIG.lora.items()))},
        {"train": dict(reversed(CONFIG.train.items()))},
    ],
)
def test_duplicates_have_one_digest(change: dict[str, Any]) -> None:
    """What is trained is the same; who asked for it, and when it is looked at, is not."""
    assert replace(CONFIG, **change).digest() == CONFIG.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"task": "SEQ_2_SEQ_LM"},
        {"lora": {**CONFIG.lora, "r": 16}},
        {"lora": {**CONFIG.lora, "target_modules": ["q_proj"]}},
        {"lora": {**CONFIG.lora, "use_dora": True}},
        {"train": {**CONFIG.train, "seed": 1}},
        {"train": {**CONFIG.train, "learning_rate": 2.0000000001e-4}},
        {"train": {**CONFIG.train, "max_steps": 28}},
    ],
)
def test_other_trials_have_other_digests(change: dict[str, Any]) -> None:
    assert replace(CONFIG, **change).digest() != CONFIG.digest()


def test_the_digest_is_the_same_in_every_process() -> None:
    """It is kept on disk, so Python's own randomized hash would not do."""
    config = TrialConfig(0, "SEQ_CLS", {"r": 8}, {"max_steps": 1}, (1,))
    text = '{"lora": {"r": 8}, "task": "SEQ_CLS", "train": {"max_steps": 1}}'
    assert config.digest() == hashlib.sha256(text.encode()).hexdigest()[:16]
