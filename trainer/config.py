"""``TrialConfig``: one point of the search space, as plain data.

It is the only thing that crosses from the driver to a worker: no model, no Trainer, no
tensor is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..spaces.metrics import LOSS

_TUPLES = ("rungs", "objectives", "lineage")


@dataclass(frozen=True)
class TrialConfig:
    """What one trial trains.

    Attributes:
        number: the trial's number in the study, from 0.
        task: peft's task type, e.g. ``CAUSAL_LM``.
        lora: fields of peft's ``LoraConfig``; ``target_modules`` may name a preset.
        train: fields of transformers' ``TrainingArguments``; ``max_steps`` is the horizon,
            in optimizer steps.
        rungs: optimizer steps after which the trial is evaluated, ascending; the last one is
            the horizon.
        metric: what the trial is judged by (``spaces.metrics``).
        objectives: all that trials are ranked by, ``metric`` the first of them; empty for it alone.
        measures: what is measured besides the loss, fields of ``metrics.Measures``.
        micro_batch: rows a forward pass to begin with, in place of
            ``per_device_train_batch_size``, at the same effective batch; None for that.
        checkpoint_minutes: at most between two checkpoints; each evaluation makes one too.
        baseline: whether this is the default configuration that every search is held against.
        params: the sampler's own parameters, by name; empty for a baseline outside the space.
        lineage: under population based training, every time the weights at hand went from one
            trial to another, in order: ``step``, the ``trial`` they came from and the ``params``
            that it had trained them with up to there.
    """

    number: int
    task: str
    lora: Mapping[str, Any]
    train: Mapping[str, Any]
    rungs: tuple[int, ...]
    metric: str = LOSS
    objectives: tuple[str, ...] = ()
    measures: Mapping[str, Any] = field(default_factory=dict)
    micro_batch: int | None = None
    checkpoint_minutes: float = 10.0
    baseline: bool = False
    params: Mapping[str, Any] | None = None
    lineage: tuple[Mapping[str, Any], ...] = ()

    @property
    def max_steps(self) -> int:
        """The horizon, in optimizer steps."""
        return int(self.train["max_steps"])

    @property
    def effective_batch(self) -> int:
        """Rows an optimizer step."""
        batch = int(self.train["per_device_train_batch_size"])
        return batch * int(self.train["gradient_accumulation_steps"])

    def micro_batches(self) -> tuple[int, ...]:
        """Rows a forward pass to try, one after another, as memory runs out: down to 1.

        Each divides the one before it and is at most half of it, so that the effective batch, and
        with it the schedule, stays.
        """
        size = self.micro_batch or int(self.train["per_device_train_batch_size"])
        sizes = [size]
        while size > 1:
            size = next(part for part in range(size // 2, 0, -1) if size % part == 0)
            sizes.append(size)
        return tuple(sizes)

    def digest(self) -> str:
        """A hash of what is trained: equal for two trials exactly if they are duplicates."""
        body = {"task": self.task, "lora": dict(self.lora), "train": dict(self.train)}
        text = json.dumps(body, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, from which ``from_dict`` makes an equal config."""
        lists = {key: list(getattr(self, key)) for key in _TUPLES}
        return {**asdict(self), **lists}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialConfig:
        """The inverse of ``to_dict``."""
        tuples = {key: tuple(data[key]) for key in _TUPLES if key in data}
        return cls(**{**data, **tuples})
