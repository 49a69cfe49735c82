"""Trial 0: the configuration that people start from, so that a search shows what tuning bought.

The values are those of the QLoRA tutorials that this tool grew out of: r 8, alpha 32, query and
value projections, dropout 0.05, learning rate 2e-5 with a cosine schedule and 3% warm-up, paged
8-bit AdamW. Batch size and horizon are the space's own, so that it sees the data and costs the
time of every other trial.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from ..spaces import Choice, FloatRange, IntRange, Ratio, Space
from ..spaces.rules import LORA_DEFAULTS, TRAIN_DEFAULTS

LORA: Mapping[str, Any] = {"r": 8, "lora_alpha": 32, "target_modules": "qv", "lora_dropout": 0.05}
TRAIN: Mapping[str, Any] = {
    "learning_rate": 2e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.03,
    "optim": "paged_adamw_8bit",
}


def baseline_values(space: Space) -> dict[str, dict[str, Any]]:
    """``lora`` and ``train`` fields of the default configuration within this space.

    A field that the article names has the article's value; another has the space's constant;
    one that the space searches and the article does not name has the value that a space without it
    would give it, or is left to its library's default.
    """
    return {
        "lora": {**LORA_DEFAULTS, **_constants(space, "lora"), **LORA},
        "train": {**TRAIN_DEFAULTS, **_constants(space, "train"), **TRAIN},
    }


def _constants(space: Space, block: str) -> dict[str, Any]:
    """The block's own fields that are not searched, without those that only a choice brings."""
    values = (space.lora if block == "lora" else space.train).values
    searched = Choice | FloatRange | IntRange | Ratio
    return {k: copy.deepcopy(v) for k, v in values.items() if not isinstance(v, searched)}
