"""A first space file for a model and a data set, with sizes from the data and the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from ..reports.formats import count, size
from ..spaces import DataBlock, ModelBlock, Space
from ..spaces.build import build_space
from ..spaces.errors import FaultLog
from ..spaces.formats import CLASSIFIERS
from ..spaces.yamltext import read_yaml
from ..trainer.base import BaseSpec, load_tokenizer
from ..trainer.data import TokenizedData, tokenize
from ..trainer.errors import TrialError, reason
from ..trainer.rows import outline
from .columns import Recognised, recognise
from .layout import rough_speed
from .plan import Plan
from .plan_facts import Lengths, capacity
from .preflight import modules_of, with_labels
from .resources import allocate, visible_cores
from .starter_text import TRIALS, Facts, space_text

_READ, _LONGEST = 2000, 16384
"""Rows whose lengths are looked at, and tokens of one at most."""
_SHARE = 0.8
"""Of the memory that a configuration is to take at most."""


@dataclass(frozen=True)
class Starter:
    """A space file and what it was made from.

    Attributes:
        text: YAML with comments.
        said: sentences on what was found, for the console.
    """

    text: str
    said: tuple[str, ...]


def start(model: str, data: str, task: str | None, *, trusted: bool = False) -> Starter:
    """A space that searches ``model`` on ``data``.

    Args:
        model: as ``model.name`` takes it.
        data: as ``data.train`` takes it.
        task: peft's task type; None goes by the columns and the model's config.
        trusted: whether the model's own code may run.

    Raises:
        SpaceError: model or data is missing, or the columns are of no known format.
        TrialError: the model has no config or tokenizer, or fits the machine with no settings.
    """
    columns, rows = outline(data)
    block: Mapping[str, Any] = {"name": model, "trust_remote_code": trusted}
    config = _config(_spec(block), model, trusted)
    form = recognise(columns, data, tasks_of(config) if task is None else (task,))
    spec = _spec({**block, "task": form.task})
    tokenized = _tokenized(data, form, spec)
    tokens, share = _length(tokenized, config)
    facts = Facts(model, str(config.model_type), data, rows, form, tokens, share, trusted=trusted)
    return _fitted(facts, spec, tokenized)


def tasks_of(config: Any) -> tuple[str, ...]:
    """The tasks that a model can be trained for, the likeliest first, by its config."""
    if config.is_encoder_decoder:
        return ("SEQ_2_SEQ_LM", *CLASSIFIERS)
    names = config.architectures or ()
    causal = any("CausalLM" in name or "LMHead" in name for name in names)
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not causal:
        return CLASSIFIERS
    return ("CAUSAL_LM", *CLASSIFIERS)


def _spec(block: Mapping[str, Any]) -> BaseSpec:
    """Its trust is the word of whoever calls ``start``."""
    return BaseSpec.of(ModelBlock.model_validate(block), trusted=True, weights=False)


def _config(spec: BaseSpec, model: str, trusted: bool) -> Any:
    try:
        return AutoConfig.from_pretrained(spec.source, trust_remote_code=trusted)
    except (OSError, ValueError) as error:
        said = f"{model}: its config cannot be read: {reason(error)}"
        remedy = "; say --trust-remote-code" if "trust_remote_code" in str(error) else ""
        raise TrialError(f"{said}{remedy}") from error


def _tokenized(data: str, form: Recognised, spec: BaseSpec) -> TokenizedData:
    few = {"train": _READ, "validation": _READ // 10, "test": 1}
    block = DataBlock.model_validate(
        {
            "train": data,
            "format": form.format,
            "fields": dict(form.fields),
            "max_length": _LONGEST,
            "limit": few,
        }
    )
    return tokenize(block, form.task, load_tokenizer(spec))


def _length(data: TokenizedData, config: Any) -> tuple[int, float]:
    """``max_length`` for 99 rows in a hundred, and the share that it cuts."""
    listed = isinstance(data.train[0]["labels"], list)
    # An encoder-decoder's labels are a sequence of their own.
    lengths = np.array(
        [max(len(row["input_ids"]), len(row["labels"]) if listed else 0) for row in data.train]
    )
    wanted = max(8, 8 * math.ceil(float(np.percentile(lengths, 99)) / 8))
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    tokens = min(wanted, int(most)) if most else wanted
    return tokens, float(np.mean(lengths > tokens))


def _fitted(facts: Facts, spec: BaseSpec, data: TokenizedData) -> Starter:
    """Batch and checkpointing by what the plan predicts for the largest adapter.

    Raises:
        TrialError: not even a row a pass fits.
    """
    space = _loaded(facts)
    if facts.form.task in CLASSIFIERS:
        spec = with_labels(spec, space, data)
    modules = modules_of(space, spec)
    facts = replace(facts, parameters=sum(p.numel() for p in modules.parameters()))
    own = capacity(torch.cuda.device_count())
    # Without GPUs, a machine of several cores has several workers.
    together = 1 if own.gpu else min(2, visible_cores())
    # As a search that keeps its weights packed, which takes least.
    spec = replace(spec, quantization=facts.quantization, quantization_compute="bitsandbytes")
    lengths = Lengths.of(data, spec.task).cut(facts.tokens)
    sizes = [n for n in (16, 8, 4, 2, 1) if n <= facts.effective]
    tries = [(False, n) for n in sizes if n >= 4 or n == sizes[0]] + [(True, n) for n in sizes]
    for checkpointing, batch in tries:
        one = replace(facts, checkpointing=checkpointing, batch=batch)
        plan = Plan(_loaded(one), spec, modules, lengths, own)
        heaviest = plan.of(plan.widest[0])
        found = heaviest.footprint
        if found is None:
            one = replace(facts, batch=1)
            return Starter(space_text(one), _said(one, f"not predicted: {heaviest.note}", lengths))
        if not own.size or together * found.held <= _SHARE * own.size:
            said = f"about {size(found.total)} a trial at most, of {size(own.size)}"
            return Starter(space_text(one), _said(one, said, lengths))
    raise TrialError(
        f"{facts.model}: not even one row of {facts.tokens} tokens a pass fits into the "
        f"{size(own.size)} of {own.what}; see tune-lora plan for what it needs"
    )


def _loaded(facts: Facts) -> Space:
    log = FaultLog("space.yaml")
    data = read_yaml(space_text(facts), log).data
    return build_space("space", data, log)


def _said(facts: Facts, fitted: str, lengths: Lengths) -> tuple[str, ...]:
    form, cut = facts.form, f"{facts.cut:.1%} of rows are longer and cut"
    fields = ", ".join(f"{role} is {column}" for role, column in form.fields.items())
    return (
        f"model:  {facts.model}: {facts.kind}, {count(facts.parameters)} parameters, {form.task}",
        f"data:   {facts.data}: {facts.rows} rows of format {form.format}"
        f"{f' ({fields})' if fields else ''}",
        f"length: {facts.tokens} tokens, the 99th percentile of the rows looked at; "
        f"{cut if facts.cut else 'no row is cut'}",
        f"batch:  {facts.batch} rows a pass, {facts.effective} a step; {fitted}",
        f"search: {TRIALS} trials of {facts.steps} steps; {_rough_time(facts, lengths)}",
    )


def _rough_time(facts: Facts, lengths: Lengths) -> str:
    """By the arithmetic alone, as nothing was measured."""
    allocation = allocate(_loaded(facts), visible_cores(), torch.cuda.device_count())
    rows = facts.steps * facts.effective * TRIALS
    hours = 4.0 * facts.parameters * lengths.mean * rows / rough_speed(allocation) / 3600
    shown = f"{hours:.0f} hours" if hours >= 2 else f"{60 * hours:.0f} minutes"
    if 60 * hours < 1:
        shown = "a minute"
    return f"very roughly {shown} if none is stopped early (tune-lora plan --measure says better)"
