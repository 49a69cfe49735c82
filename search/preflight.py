"""What is settled before any trial: the model is there, the data is good, the targets exist.

Everything that can be wrong with a space and only shows against model and data is found here,
on the meta device, before a weight is loaded for training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..spaces import Choice, IntRange, Space, SpaceError
from ..spaces.formats import CLASSIFIERS
from ..spaces.metrics import find_objective
from ..trainer.base import BaseSpec, load_tokenizer, meta_model
from ..trainer.data import TokenizedData, tokenize
from ..trainer.errors import TrialError
from ..trainer.folder import RunFolder
from ..trainer.inputs import inputs_digest
from ..trainer.metrics import Measures, check_references, own_metric
from ..trainer.targets import adapter_parameters, resolve_targets
from .measures import measures_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preflight:
    """What the trials share.

    Attributes:
        largest_adapter: trainable parameters of the largest adapter in the space.
        modules: the model's, without weights.
        kept: the data lies in the run folder already.
    """

    spec: BaseSpec
    data: TokenizedData
    largest_adapter: int
    modules: PreTrainedModel
    kept: bool = False

    def adapter_size(self, lora: Mapping[str, Any]) -> int:
        """Trainable parameters that a trial's ``lora`` block gives."""
        targets = resolve_targets(lora["target_modules"], self.modules)
        return adapter_parameters(targets, int(lora["r"]), self.modules)


def preflight(space: Space, run: RunFolder | None = None) -> Preflight:
    """Resolve the model, tokenize the data, check every choice of target modules.

    Args:
        space: validated, and the user's own: its ``trust_remote_code`` counts.
        run: a run that was begun keeps its tokenized data while nothing that it was made from has
            changed.

    Raises:
        SpaceError: something that the space names is missing or does not fit.
        TrialError: the model's files cannot be read.
    """
    _check_metrics(space)
    model = space.model
    spec = BaseSpec.of(model, trusted=True)
    inputs = inputs_digest(space.data, model.task, Path(spec.source))
    found = None if run is None else TokenizedData.kept(run.data, inputs)
    data = found or replace(tokenize(space.data, model.task, load_tokenizer(spec)), inputs=inputs)
    if run is not None and run.about.is_file():
        _check_same(space, data, run)
    _check_json(space, spec, data)
    if model.task in CLASSIFIERS:
        spec = with_labels(spec, space, data)
    modules = modules_of(space, spec)
    largest = check_targets(space, modules)
    return Preflight(spec, data, largest, modules, kept=found is not None)


def _check_metrics(space: Space) -> None:
    """A user's own metric that cannot be had would fail every trial."""
    named = {"search.metric": space.search.objectives, "search.metrics": space.search.metrics}
    for key, names in named.items():
        for name in names:
            if find_objective(name).source == "own":
                own_metric(name, str(Path.cwd()), key)


def _check_json(space: Space, spec: BaseSpec, data: TokenizedData) -> None:
    wanted = measures_of(space)
    if "json_f1" in wanted.get("names", ()):
        key = "search.metric" if "json_f1" in space.search.objectives else "search.metrics"
        measures = Measures.from_dict(wanted)
        check_references(data.validation, load_tokenizer(spec), spec.task, measures, key)


def _check_same(space: Space, data: TokenizedData, run: RunFolder) -> None:
    """Trials on other rows cannot be ranked with those of before."""
    if run.read_about()["data"]["fingerprint"] != data.fingerprint:
        rule = "its rows, or their tokens, are not those that the run was begun with"
        raise SpaceError.single("data.train", space.data.train, rule)


def with_labels(spec: BaseSpec, space: Space, data: TokenizedData) -> BaseSpec:
    """The spec with the classes that the training rows have.

    Raises:
        SpaceError: they are not as many as the space says.
    """
    wanted = space.model.num_labels
    if wanted is not None and wanted != len(data.labels):
        rule = f"the training rows have {len(data.labels)} classes: {', '.join(data.labels)}"
        raise SpaceError.single("model.num_labels", wanted, rule)
    return replace(spec, labels=data.labels)


def modules_of(space: Space, spec: BaseSpec) -> PreTrainedModel:
    """The model's modules without weights.

    Raises:
        SpaceError: there are none for the task.
    """
    try:
        return meta_model(spec)
    except TrialError as error:
        raise SpaceError.single("model.name", space.model.name, str(error)) from error


def check_targets(space: Space, model: PreTrainedModel) -> int:
    """Every choice, and the baseline's, before any trial: one that fails later wastes the rest.

    Returns:
        Trainable parameters of the largest adapter: the most targets at the highest rank.
    """
    highest = _highest_rank(space)
    resolved = [resolve_targets(value, model) for value in target_choices(space)]
    return max((adapter_parameters(targets, highest, model) for targets in resolved), default=0)


def _highest_rank(space: Space) -> int:
    domain = space.lora.get("r")
    if isinstance(domain, Choice):
        return max(int(str(option.value)) for option in domain.options)
    if isinstance(domain, IntRange):
        return domain.high
    return int(str(domain))


def target_choices(space: Space) -> list[Any]:
    """Every value that ``lora.target_modules`` can take in this space."""
    return lora_choices(space, "target_modules") + (["qv"] if space.search.baseline else [])


def lora_choices(space: Space, field: str) -> list[Any]:
    """Every value that a field of ``lora`` can take in the space's own trials; not of a range."""
    declared = [space.lora.get(field)]
    for block in (space.lora, space.train):
        for value in block.values.values():
            if isinstance(value, Choice):
                declared += [o.given.get(f"lora.{field}") for o in value.options]
    chosen: list[Any] = []
    for value in declared:
        if isinstance(value, Choice):
            chosen += [option.value for option in value.options]
        elif value is not None:
            chosen.append(value)
    return chosen
