"""Rows of like length in one batch, in an order that an interrupted trial finds again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochSampler(LengthGroupedSampler):  # type: ignore[misc]
    """transformers' sampler of like lengths, its order drawn from seed and epoch alone.

    Drawn from the global random state, as there, it could not be drawn again by a trial that goes
    on from a checkpoint within the epoch.

    Args:
        sampler: as the Trainer makes it.
        seed: of the data's order.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int) -> None:
        super().__init__(sampler.batch_size, lengths=sampler.lengths)
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer at each epoch's beginning."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Indices of rows."""
        self.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from super().__iter__()
