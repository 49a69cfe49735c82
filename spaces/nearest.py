"""What a user may have meant by a key or a word that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import cache
from typing import Final

from pydantic import BaseModel

from .blocks import (
    ConfirmBlock,
    DataBlock,
    GeneralBlock,
    GenerationBlock,
    Limits,
    MlflowTracking,
    ModelBlock,
    ResourcesBlock,
    SearchBlock,
    TrackingBlock,
    WandbTracking,
)
from .fields import block_fields
from .rules import SYNONYMS, reserved
from .schedulers import SCHEDULERS

FIXED_BLOCKS: Final[dict[str, type[BaseModel]]] = {
    "model": ModelBlock,
    "data": DataBlock,
    "search": SearchBlock,
    "resources": ResourcesBlock,
}
NESTED_BLOCKS: Final[dict[str, type[BaseModel]]] = {
    "data.general": GeneralBlock,
    "data.limit": Limits,
    "search.confirm": ConfirmBlock,
    "search.generation": GenerationBlock,
    **{f"search.scheduler.{word}": block for word, block in SCHEDULERS.items()},
    "tracking": TrackingBlock,
    "tracking.wandb": WandbTracking,
    "tracking.mlflow": MlflowTracking,
}
VALUE_BLOCKS: Final = ("lora", "train")
BLOCKS: Final = ("model", "data", "lora", "train", "search", "resources", "tracking")

_SHOWN: Final = 3
_CUTOFF: Final = 0.6


def nearest(word: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known words most like this one, likeliest first; at most three."""
    return tuple(difflib.get_close_matches(word, list(known), n=_SHOWN, cutoff=_CUTOFF))


@cache
def valid_keys() -> tuple[str, ...]:
    """Every key that a space file may hold, dotted."""
    models = {**FIXED_BLOCKS, **NESTED_BLOCKS}
    keys = [f"{prefix}.{name}" for prefix, model in models.items() for name in model.model_fields]
    for block in VALUE_BLOCKS:
        names = (f"{block}.{name}" for name in block_fields(block))
        keys += [name for name in names if not reserved(name)]
    return tuple(keys)


def suggest_keys(parents: tuple[str, ...], key: str) -> tuple[str, ...]:
    """Valid keys that an unknown one may stand for.

    A key of that very name elsewhere comes first (`train.r` is `lora.r`), then what people call
    it elsewhere, then keys of the same block that are spelled alike.

    Args:
        parents: The keys above it; empty at the top of the file.
        key: The unknown key.
    """
    word = key.lower().replace("-", "_").rsplit(".", 1)[-1]
    found = [name for name in valid_keys() if name.rsplit(".", 1)[-1] == word]
    found += [SYNONYMS[word]] if word in SYNONYMS else []
    if not parents and not found:
        found += nearest(word, BLOCKS)
    prefix = "".join(f"{part}." for part in parents)
    inside = {n.removeprefix(prefix): n for n in valid_keys() if n.startswith(prefix)}
    found += [inside[name] for name in nearest(word, inside)]
    if not found:
        last = {name.rsplit(".", 1)[-1]: name for name in valid_keys()}
        found = [last[name] for name in nearest(word, last)]
    return tuple(dict.fromkeys(found))[:_SHOWN]
