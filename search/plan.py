"""What a search will need, class by class of its configurations, before anything is trained.

The formula and where its terms come from: docs/plan.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from ..spaces import Space, SpaceError
from ..trainer.base import BaseSpec
from ..trainer.errors import AdapterRefusedError, TrialError
from ..trainer.footprint import Footprint, Surveyor, weight_bytes
from ..trainer.precision import compute_dtype
from ..trainer.targets import adapter_parameters, resolve_targets
from ..trainer.trace import Batch
from .classes import Values, size_classes, size_fields, size_key
from .measures import measures_of
from .plan_facts import Capacity, Lengths

MARGIN = 1.25
"""A configuration is impossible if one row a pass is predicted to need so many times what there is.

How far predictions were off on a CPU is in docs/plan.md; those for GPUs were not measured.
"""
TRACED = 8
"""Classes that a search traces before it begins, at about a second each; the rest when proposed."""
_ROWS = "per_device_train_batch_size"


@dataclass(frozen=True)
class Class:
    """Configurations of one size.

    Attributes:
        values: ``lora`` and ``train`` of one of them.
        footprint: with rows as the space says, each as long as the longest; None where there
            is no prediction.
        least: bytes with one row a pass, of mean length; looked at only where ``footprint`` does
            not fit.
        tokens: that a trial trains on, to the horizon.
        note: where it does not fit as it is, how it will; or why there is no prediction.
        refused: why it can be trained on no machine; None where it can.
    """

    values: Values
    footprint: Footprint | None
    least: int
    tokens: int
    note: str | None = None
    refused: str | None = None

    @property
    def adapter_bytes(self) -> int:
        """On disk: adapters are saved in fp32."""
        return 4 * self.footprint.trainable if self.footprint else 0


@dataclass
class Plan:
    """Predictions for a space on a machine; made as they are asked for, and kept.

    Attributes:
        space: validated.
        spec: its model, ``quantization_compute`` settled.
        modules: the model's, weights on the meta device.
        lengths: of its rows.
        capacity: of the machine.
    """

    space: Space
    spec: BaseSpec
    modules: Any
    lengths: Lengths
    capacity: Capacity
    _known: dict[str, Class] = field(default_factory=dict)

    def classes(self) -> list[Class]:
        """Every class of the space, the baseline's first."""
        return [self.of(values) for values in size_classes(self.space)]

    def of(self, values: Values) -> Class:
        """The class of a configuration."""
        key = size_key(values)
        if key not in self._known:
            self._known[key] = self._predicted(values)
        return self._known[key]

    def heaviest(self) -> Class:
        """The class that needs most, of those at the top of ``widest``."""
        found = [self.of(values) for values in self.widest[:TRACED]]
        return max(found, key=lambda one: one.footprint.total if one.footprint else 0)

    def refusal(self, values: Values) -> str | None:
        """Why a configuration is impossible; None if it is not."""
        return None if self._all_fit else self._refusal(self.of(values))

    def check(self) -> bool:
        """Whether some classes are known to be impossible.

        Raises:
            SpaceError: all of them are.
        """
        if self._too_heavy(self._surveyor):
            self._raise()
        refused = [self._refusal(self.of(values)) for values in self.widest[:TRACED]]
        if not all(refused):
            return any(refused)
        if all(self._refusal(self.of(values)) for values in size_classes(self.space)):
            self._raise()
        return True

    def _too_heavy(self, surveyor: Surveyor) -> bool:
        """Whether weights alone are too much, which takes no trace."""
        size = self.capacity.size
        return bool(size) and surveyor.process + surveyor.weights > MARGIN * size

    def _raise(self) -> None:
        """All classes are impossible."""
        key, own = "model.name", self.capacity
        if self._too_heavy(self._surveyor):
            least, weights = size_classes(self.space)[0], _gib(self._surveyor.weights)
            rule = f"its weights alone take {weights}, and {own.what} has {_gib(own.size)}"
            raise SpaceError.single(key, self.space.model.name, f"{rule}; {self._remedy(least)}")
        found = self.classes()
        sized = [one for one in found if one.refused is None]
        if not sized:
            rule = f"{found[0].refused} (and so on: no configuration can be trained)"
            raise SpaceError.single("lora", dict(found[0].values["lora"]), rule)
        small = min(sized, key=lambda one: one.least)
        rule = f"{self._refusal(small)}, and no configuration needs less"
        rule = f"{rule}; {self._remedy(small.values)}"
        raise SpaceError.single(key, self.space.model.name, rule)

    def _refusal(self, found: Class) -> str | None:
        if found.refused is not None:
            return found.refused
        if not self.capacity.size or found.least <= MARGIN * self.capacity.size:
            return None
        return (
            f"one row a pass of {self.lengths.mean} tokens needs about {_gib(found.least)}, and "
            f"{self.capacity.what} has {_gib(self.capacity.size)}"
        )

    @cached_property
    def _all_fit(self) -> bool:
        """Whether even the widest adapters of the highest rank do, and so the others too."""
        widest = self.widest
        few = len(widest) <= TRACED
        return few and not any(self._refusal(self.of(values)) for values in widest)

    @cached_property
    def widest(self) -> list[Values]:
        """Of classes that differ in rank and targets alone, the one with the largest adapter.

        Those that may be expected to need most come first.
        """
        found: dict[str, tuple[int, Values]] = {}
        for values in size_classes(self.space):
            rest = {k: v for k, v in size_fields(values).items() if k not in _ORDERED}
            key = json.dumps(rest, sort_keys=True, default=str)
            lora = values["lora"]
            targets = resolve_targets(lora["target_modules"], self.modules)
            size = adapter_parameters(targets, int(lora["r"]), self.modules)
            if key not in found or size > found[key][0]:
                found[key] = size, values
        ranked = sorted(found.values(), key=_weight, reverse=True)
        return [values for _, values in ranked]

    def _predicted(self, values: Values) -> Class:
        train, lengths = values["train"], self.lengths
        # What a default configuration may leave to transformers has its value there.
        rows = int(train.get(_ROWS, 8))
        scored = int(train.get("per_device_eval_batch_size", 8))
        steps = int(train.get("gradient_accumulation_steps", 1)) * int(train["max_steps"])
        tokens = steps * rows * lengths.mean
        batch = lengths.batch(rows, lengths.longest)
        try:
            whole = self._footprint(values, batch, lengths.batch(scored, lengths.scored))
        except AdapterRefusedError as error:
            return Class(values, None, 0, tokens, "impossible", str(error))
        except TrialError as error:
            return Class(values, None, 0, tokens, str(error))
        least = whole.held
        if self.capacity.size and least > MARGIN * self.capacity.size:
            one = lengths.batch(1, lengths.mean)
            least = self._footprint(values, one, one, few=True).held
        return Class(values, whole, least, tokens, self._note(whole.held, least))

    def _footprint(
        self, values: Values, batch: Batch, scored: Batch, *, few: bool = False
    ) -> Footprint:
        """Of a configuration; with ``few``, one answer at a time."""
        asked, answered = self.space.search.generation, None
        if measures_of(self.space) and self.spec.task in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
            rows = 1 if few else asked.batch_size
            answered = Batch(rows, scored.tokens, asked.max_new_tokens)
        return self._surveyor.footprint(values["lora"], values["train"], batch, scored, answered)

    def _note(self, whole: int, least: int) -> str | None:
        size = self.capacity.size
        if not size or whole <= size:
            return None
        if whole <= MARGIN * size:
            return "tight"
        return "with fewer rows a pass" if least <= MARGIN * size else "impossible"

    @cached_property
    def _surveyor(self) -> Surveyor:
        uneven = self.lengths.mean < self.lengths.longest
        return Surveyor(self.spec, self.modules, self._dtype(), self.capacity.gpu, uneven)

    def _dtype(self) -> torch.dtype:
        if not self.capacity.gpu:
            return compute_dtype(self.spec.dtype, torch.device("cpu"))
        # A GPU is not asked: that would take its memory.
        return {"fp32": torch.float32, "fp16": torch.float16}.get(self.spec.dtype, torch.bfloat16)

    def _remedy(self, least: Values) -> str:
        """What would make the smallest configuration fit, or that nothing here would."""
        for words, spec, train, lengths in self._remedies(least):
            other = replace(self, spec=spec, lengths=lengths, _known={})
            if self._too_heavy(other._surveyor):
                continue
            found = other.of({"lora": least["lora"], "train": train})
            if found.least <= MARGIN * self.capacity.size:
                return f"{words} would fit (predicted: {_gib(found.least)})"
        packed = replace(self.spec, quantization="nf4", quantization_compute="bitsandbytes")
        weights = _gib(weight_bytes(self.modules, packed, self._dtype().itemsize))
        return f"in nf4 they take {weights}: a smaller model is needed"

    def _remedies(
        self, least: Values
    ) -> Sequence[tuple[str, BaseSpec, Mapping[str, Any], Lengths]]:
        """Each more than the one before, as far as it is not there already."""
        spec, train, lengths = self.spec, dict(least["train"]), self.lengths
        words: list[str] = []
        found = []
        if not train.get("gradient_checkpointing"):
            words.append("train.gradient_checkpointing=true")
            train = {**train, "gradient_checkpointing": True}
            found.append((" with ".join(words), spec, train, lengths))
        if (spec.quantization, spec.quantization_compute) != ("nf4", "bitsandbytes"):
            spec = replace(spec, quantization="nf4", quantization_compute="bitsandbytes")
            packed = self.space.model.quantization == "nf4"
            key = "quantization_compute=bitsandbytes" if packed else "quantization=nf4"
            words.append(f"model.{key}")
            found.append((" with ".join(words), spec, train, lengths))
        length = self.space.data.max_length
        while length >= 64:
            length //= 2
            said = " with ".join([*words, f"data.max_length={length}"])
            found.append((said, spec, train, lengths.cut(length)))
        return found


_ORDERED = {"lora.r", "lora.target_modules"}
"""With all else equal, more of these never needs less memory (see ``bounds``)."""


def _weight(sized: tuple[int, Values]) -> tuple[int, bool, int, bool, int]:
    """Rows whose activations are kept, DoRA and so on, the adapter: a guess, for an order."""
    size, values = sized
    lora, train = values["lora"], values["train"]
    kept = 0 if train.get("gradient_checkpointing") else int(train.get(_ROWS, 8))
    whole, drops = len(lora.get("modules_to_save") or ()), bool(lora.get("lora_dropout"))
    return kept, bool(lora.get("use_dora")), whole, drops, size


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
