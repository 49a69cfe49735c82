"""``tune-lora plan``: everything that a search settles before its first trial, and no search."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..spaces import Space, SpaceError
from ..spaces.formats import CLASSIFIERS
from ..trainer.base import BaseSpec, load_tokenizer
from ..trainer.data import TokenizedData, tokenize
from ..trainer.errors import TrialError
from .layout import Layout, settle_layout
from .plan import Plan
from .plan_facts import Lengths, capacity
from .preflight import Preflight, check_targets, modules_of, with_labels
from .resources import allocate, visible_cores
from .settle import settle_unpacking, settle_workers


@dataclass(frozen=True)
class Outlook:
    """A plan and what it rests on.

    Attributes:
        plan: class by class.
        data: the tokenized rows; None where they could not be had.
        layout: workers, threads and packing.
        unpacking: how NF4 weights are computed with, and why; None where nothing is quantized.
        largest_adapter: trainable parameters of the largest adapter in the space.
    """

    plan: Plan
    data: TokenizedData | None
    layout: Layout
    unpacking: str | None
    largest_adapter: int


@dataclass(frozen=True)
class Gpus:
    """GPUs of a machine that is elsewhere.

    Attributes:
        number: how many.
        memory: bytes of each.
    """

    number: int
    memory: int


def look_ahead(space: Space, *, measure: bool = False, gpus: Gpus | None = None) -> Outlook:
    """Plan a search of ``space``.

    The model's config is enough. Rows are counted where there is a tokenizer and data; else each is
    taken to be as long as ``data.max_length`` allows.

    Args:
        space: validated, and the user's own: its ``trust_remote_code`` counts.
        measure: load the model and measure how fast trials train.
        gpus: of the machine that it is to run on; None plans for this one.

    Raises:
        SpaceError: the model is missing, or the space does not fit it or the machine.
        TrialError: it is to be measured, and there are no rows.
    """
    spec = BaseSpec.of(space.model, trusted=True, weights=measure)
    data, why = _tokenized(space, spec)
    if space.model.task in CLASSIFIERS:
        spec = _labelled(spec, space, data)
    modules = modules_of(space, spec)
    largest = check_targets(space, modules)
    cores, here = visible_cores(), torch.cuda.device_count()
    if gpus is None:
        allocation = settle_workers(space, spec, modules, allocate(space, cores, here), cores)
        own = capacity(here, allocation.gpus)
        spec, unpacking = settle_unpacking(space, spec, modules, allocation, None)
    else:
        allocation = allocate(space, max(cores, gpus.number), gpus.number)
        own = capacity(gpus.number, allocation.gpus, gpus.memory)
        spec, unpacking = settle_unpacking(space, spec, modules, allocation, None, own.size)
    layout = Layout(allocation)
    if measure:
        if data is None:
            raise TrialError(f"nothing can be measured without the data: {why}")
        ready = Preflight(spec, data, largest, modules)
        layout = settle_layout(space, ready, allocation, cores, None, measure=True)
    lengths = (
        Lengths.assume(space.data.max_length, spec.task, why)
        if data is None
        else Lengths.of(data, spec.task)
    )
    return Outlook(Plan(space, spec, modules, lengths, own), data, layout, unpacking, largest)


def existing(folder: Path) -> Path:
    """The nearest folder above a path that exists."""
    path = folder.resolve()
    return next(place for place in (path, *path.parents) if place.is_dir())


def _tokenized(space: Space, spec: BaseSpec) -> tuple[TokenizedData | None, str]:
    """The rows, or why there are none."""
    try:
        return tokenize(space.data, space.model.task, load_tokenizer(spec)), ""
    except (SpaceError, TrialError) as error:
        return None, " ".join(str(error).split())


def _labelled(spec: BaseSpec, space: Space, data: TokenizedData | None) -> BaseSpec:
    if data is not None:
        return with_labels(spec, space, data)
    number = space.model.num_labels or 2
    return replace(spec, labels=tuple(map(str, range(number))))
