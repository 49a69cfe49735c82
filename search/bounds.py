"""What running out of memory says about configurations that have not run yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..trainer.config import TrialConfig
from ..trainer.result import TrialResult, TrialState

_SAME = (
    "gradient_checkpointing",
    "optim",
    "bf16",
    "fp16",
    "gradient_checkpointing_kwargs",
    "torch_compile",
)
"""Fields of ``train`` that memory depends on; trials that differ in one say nothing of each other.
"""
_SAME_LORA = ("use_dora", "modules_to_save", "bias", "trainable_token_indices", "lora_bias")


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

    With all else equal, more adapter parameters or more rows a forward pass never need less.

    Attributes:
        size: trainable parameters that a trial's ``lora`` block gives; by default its rank, which
            orders trials only where their targets are the same.
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
        same = all(config.train.get(key) == other.train.get(key) for key in _SAME)
        same = same and all(config.lora.get(key) == other.lora.get(key) for key in _SAME_LORA)
        if not same or config.task != other.task:
            return False
        if self.size is not None:
            return self.size(config.lora) >= self.size(other.lora)
        targets = config.lora.get("target_modules") == other.lora.get("target_modules")
        return targets and int(config.lora["r"]) >= int(other.lora["r"])


def _fitted(result: TrialResult) -> int | None:
    """Rows a forward pass that were not too much, after more had been; 0 for not even one."""
    if result.state is TrialState.OUT_OF_MEMORY:
        # One that ended at more than a row had changed the base, and could not be tried again.
        return 0 if result.micro_batch in (None, 1) else None
    if result.micro_batch is None or not result.config:
        return None
    began = TrialConfig.from_dict(result.config).micro_batches()[0]
    return result.micro_batch if result.micro_batch < began else None
