"""Spaces for tests that draw from them and train nothing, so that no model is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tune_lora.spaces import (
    DataBlock,
    ModelBlock,
    ResourcesBlock,
    SearchBlock,
    Space,
    load_space,
)
from tune_lora.spaces.blocks import LoraBlock, TrainBlock

BODY: Mapping[str, Mapping[str, Any]] = {
    "model": {"name": "none"},
    "data": {"train": "none.jsonl"},
    "lora": {"r": {"choice": [2, 4]}, "target_modules": "qv"},
    "train": {"learning_rate": {"log_uniform": [1e-3, 1e-1]}, "max_steps": 4},
    "search": {"scheduler": {"asha": {"grace_steps": 1, "reduction_factor": 2}}},
}


def space_in(folder: Path, *overrides: str, **blocks: Mapping[str, Any]) -> Space:
    """The space of ``BODY``, its blocks extended or replaced key by key."""
    body = {name: {**block, **blocks.get(name, {})} for name, block in BODY.items()}
    path = folder / "modelless.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return load_space(path, overrides)


def bare_space(trials: int, **resources: Any) -> Space:
    """A space of which only the number of trials and the resources are looked at."""
    return Space(
        name="s",
        model=ModelBlock(name="m"),
        data=DataBlock(train="d"),
        lora=LoraBlock(),
        train=TrainBlock(),
        search=SearchBlock(trials=trials),
        resources=ResourcesBlock(**resources),
    )
