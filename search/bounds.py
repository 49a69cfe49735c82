"""What running out of memory says about configurations that have not run yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..trainer.config import TrialConfig
from ..trainer.result import TrialResult, TrialState

_SAME = (
    "per_device_eval_batch_size",
    "gradient_checkpointing",
    "optim",
    "bf16",
    "fp16",
    "gradient_checkpointing_kwargs",
    "torch_compile",
)
"""Fields of ``train`` that memory depends on; trials that differ in one say nothing of each other.
"""
_OTHER_LORA = {"r", "target_modules", "lora_dropout", "lora_alpha", "use_rslora"}
"""Fields of ``lora`` in which two trials may differ and still be compared."""


@dataclass(frozen=True)
class Bound:
    """What a trial may begin with.

    Attributes:
        micro_batch: rows a forward pass; None where a single row is too much.
        reason: which trial this was learned from, in words.
    """

    micro_batch: int | None
    reason: str


@dataclass(frozen=True)
class MemoryBounds:
    """Compares configurations by the memory that they need.

    With all else equal, a higher rank, wider target modules, dropout or more rows a forward pass
    never need less.

    Attributes:
        size: trainable parameters that a trial's ``lora`` block gives; by default trials are
            compared only where their targets are the same.
    """

    size: Callable[[Mapping[str, Any]], int] | None = None

    def bound(self, config: TrialConfig, results: Iterable[TrialResult]) -> Bound | None:
        """What earlier results say about ``config``; None if nothing.

        Args:
            config: about to run.
            results: of the same search, running trials included.
        """
        sizes = config.micro_batches()
        found: Bound | None = None
        for result in results:
            most = _fitted(result)
            if most is None or result.number == config.number:
                continue
            if not self._needs_no_less(config, TrialConfig.from_dict(result.config)):
                continue
            if most == 0:
                reason = f"not run: {result.name} needs no more, and one row a pass was too much"
                return Bound(None, reason)
            if most < sizes[0] and (found is None or most < (found.micro_batch or 0)):
                found = Bound(most, f"{result.name} ran out of memory with more rows a pass")
        if found is None or found.micro_batch is None:
            return None
        return Bound(next(s for s in sizes if s <= (found.micro_batch or 1)), found.reason)

    def _needs_no_less(self, config: TrialConfig, other: TrialConfig) -> bool:
        if config.task != other.task or _compared(config) != _compared(other):
            return False
        ours, theirs = config.lora, other.lora
        if bool(ours.get("lora_dropout")) < bool(theirs.get("lora_dropout")):
            return False
        if int(ours["r"]) < int(theirs["r"]):
            return False
        if ours.get("target_modules") == theirs.get("target_modules"):
            return True
        # A parameter more a rank is a wider module, of which the forward pass keeps more.
        return self.size is not None and (
            self.size(ours) * int(theirs["r"]) >= self.size(theirs) * int(ours["r"])
        )


def _compared(config: TrialConfig) -> list[object]:
    lora = {key: value for key, value in config.lora.items() if key not in _OTHER_LORA}
    return [lora, *(config.train.get(key) for key in _SAME)]


def _fitted(result: TrialResult) -> int | None:
    """Rows a forward pass that were not too much, after more had been; 0 for not even one."""
    if result.state is TrialState.OUT_OF_MEMORY:
        # One that ended at more than a row had changed the base, and could not be tried again.
        return 0 if result.micro_batch in (None, 1) else None
    if result.micro_batch is None or not result.config:
        return None
    began = TrialConfig.from_dict(result.config).micro_batches()[0]
    return result.micro_batch if result.micro_batch < began else None
