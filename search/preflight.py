"""What is settled before any trial: the model is there, the data is good, the targets exist.

Everything that can be wrong with a space and only shows against model and data is found here,
on the meta device, before a weight is loaded for training.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

from ..spaces import Choice, Space, SpaceError
from ..trainer.base import BaseSpec, load_tokenizer, meta_model
from ..trainer.data import TokenizedData, tokenize
from ..trainer.errors import TrialError
from ..trainer.targets import resolve_targets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preflight:
    """What the trials share."""

    spec: BaseSpec
    data: TokenizedData


def preflight(space: Space) -> Preflight:
    """Resolve the model, tokenize the data, check every choice of target modules.

    Raises:
        SpaceError: something that the space names is missing or does not fit.
        TrialError: the model's files cannot be read.
    """
    model = space.model
    spec = BaseSpec.of(model)
    data = tokenize(space.data, model.task, load_tokenizer(spec))
    if model.task == "SEQ_CLS":
        spec = _with_labels(spec, space, data)
    _check_targets(space, spec)
    return Preflight(spec, data)


def _with_labels(spec: BaseSpec, space: Space, data: TokenizedData) -> BaseSpec:
    wanted = space.model.num_labels
    if wanted is not None and wanted != len(data.labels):
        rule = f"the training rows have {len(data.labels)} classes: {', '.join(data.labels)}"
        raise SpaceError.single("model.num_labels", wanted, rule)
    return replace(spec, labels=data.labels)


def _check_targets(space: Space, spec: BaseSpec) -> None:
    """Every choice, and the baseline's, before any trial: one that fails later wastes the rest."""
    try:
        model = meta_model(spec)
    except TrialError as error:
        raise SpaceError.single("model.name", space.model.name, str(error)) from error
    for value in target_choices(space):
        resolve_targets(value, model)


def target_choices(space: Space) -> list[Any]:
    """Every value that ``lora.target_modules`` can take in this space."""
    declared = [space.lora.get("target_modules")]
    for block in (space.lora, space.train):
        for value in block.values.values():
            if isinstance(value, Choice):
                declared += [o.given.get("lora.target_modules") for o in value.options]
    chosen: list[Any] = []
    for value in declared:
        if isinstance(value, Choice):
            chosen += [option.value for option in value.options]
        elif value is not None:
            chosen.append(value)
    return chosen + (["qv"] if space.search.baseline else [])
