"""The kinds of configurations in a space that differ in what they need, one of each.

Learning rates and the like change nothing about a trial's size; ranks, targets, rows and so on do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..spaces import Choice, FloatRange, IntRange, Label, Space
from ..trainer.adapter import rewrites_base
from .baseline import baseline_values

_SIZELESS = {"lora_alpha", "use_rslora", "alpha_pattern"}
"""Fields of ``lora`` that a trial's size does not depend on."""
_SIZED = {
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "activation_checkpointing",
    "gradient_checkpointing_kwargs",
    "optim",
    "label_smoothing_factor",
    "torch_compile",
}
"""Fields of ``train`` that it depends on."""
MOST = 512
"""Combinations that are looked at."""

Values = Mapping[str, Mapping[str, Any]]


def size_fields(values: Values) -> dict[str, Any]:
    """What the size depends on, by dotted key.

    Of dropout only whether it is there counts, of initialisations which one changes the base.
    """
    found = {f"lora.{k}": v for k, v in values["lora"].items() if k not in _SIZELESS}
    found |= {f"train.{k}": v for k, v in values["train"].items() if k in _SIZED}
    found["lora.lora_dropout"] = bool(found.get("lora.lora_dropout"))
    init = found.get("lora.init_lora_weights", True)
    found["lora.init_lora_weights"] = init if rewrites_base(init) else True
    return found


def size_key(values: Values) -> str:
    """Equal for two configurations exactly if they are of one class."""
    return json.dumps(size_fields(values), sort_keys=True, default=str)


def size_classes(space: Space) -> list[Values]:
    """A configuration of each class, the baseline's first; of ranges both ends."""
    found: dict[str, Values] = {}
    if space.search.baseline:
        baseline = baseline_values(space)
        found[size_key(baseline)] = baseline
    for values in _combinations(space):
        found.setdefault(size_key(values), values)
    return list(found.values())


def _combinations(space: Space) -> Iterator[Values]:
    """Every combination of what matters; of the rest the first value."""
    odometer = _Odometer()
    for _ in range(MOST):
        yield space.sample(odometer)
        if not odometer.turn():
            return


class _Odometer:
    """Answers a space's questions with the first option each, then with the next combination.

    What is asked may depend on what was answered before.
    """

    def __init__(self) -> None:
        self._places: list[int] = []
        self._counts: list[int] = []

    def __call__(self, name: str, domain: Choice | FloatRange | IntRange) -> Label:
        options, place = _options(name, domain), len(self._counts)
        self._counts.append(len(options))
        if place == len(self._places):
            self._places.append(0)
        return options[self._places[place]]

    def turn(self) -> bool:
        """On to the next combination; false where there is none."""
        counts, self._counts = self._counts, []
        while self._places and self._places[-1] + 1 == counts[len(self._places) - 1]:
            self._places.pop()
        if self._places:
            self._places[-1] += 1
        return bool(self._places)


def _options(name: str, domain: Choice | FloatRange | IntRange) -> tuple[Label, ...]:
    block, _, field = name.partition("@")[0].removesuffix(".ratio").partition(".")
    matters = field in _SIZED if block == "train" else field not in _SIZELESS
    if isinstance(domain, Choice):
        brings = any(option.given for option in domain.options)
        return domain.labels if matters or brings else domain.labels[:1]
    return (domain.low, domain.high) if matters else (domain.low,)
