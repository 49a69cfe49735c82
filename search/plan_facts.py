"""What a plan rests on: how long rows are, and how much memory there is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ..spaces import DataBlock
from ..trainer.data import TokenizedData
from ..trainer.rows import BATCH
from ..trainer.statistics import data_lines
from ..trainer.trace import Batch
from ..trainer.unpacking import size_of_gpus

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Lengths:
    """How long rows are, in tokens.

    Attributes:
        longest: of the training rows.
        mean: of the training rows.
        scored: the longest of the validation rows.
        supervised: share of tokens that have a label; of an encoder-decoder, labels a token.
        reply: the longest labels of an encoder-decoder, which are a sequence of their own; None
            where labels are those of the row's own tokens.
        judged: tokens of all validation rows.
        assumed: why all of this is assumed; None if it was counted.
    """

    longest: int
    mean: int
    scored: int
    supervised: float
    reply: int | None = None
    judged: int = 0
    assumed: str | None = None

    @classmethod
    def of(cls, data: TokenizedData, task: str) -> Lengths:
        """Of tokenized data."""
        train, validation = data.stats["train"], data.stats["validation"]
        return cls(
            longest=train["longest"],
            mean=math.ceil(train["tokens"] / max(1, train["rows"])),
            scored=validation["longest"],
            supervised=train["supervised"] / max(1, train["tokens"]),
            reply=_longest_labels(data.train) if task == "SEQ_2_SEQ_LM" else None,
            judged=validation["tokens"],
        )

    @classmethod
    def assume(cls, max_length: int, task: str, why: str) -> Lengths:
        """Every row as long as allowed, and supervised."""
        reply = max_length if task == "SEQ_2_SEQ_LM" else None
        return cls(max_length, max_length, max_length, 1.0, reply, 0, why)

    def batch(self, rows: int, tokens: int) -> Batch:
        """So many rows of so many tokens."""
        if self.reply is not None and tokens >= self.longest:
            return Batch(rows, tokens, self.reply)
        return Batch(rows, tokens, max(1, math.ceil(self.supervised * tokens)))

    def cut(self, length: int) -> Lengths:
        """Of rows that are cut at another length."""
        return Lengths(
            longest=min(self.longest, length),
            mean=min(self.mean, length),
            scored=min(self.scored, length),
            supervised=self.supervised,
            reply=None if self.reply is None else min(self.reply, length),
            judged=self.judged,
            assumed=self.assumed,
        )


def _longest_labels(rows: Any) -> int:
    """The most labels that a row has."""
    batches = rows.select_columns(["labels"]).with_format("arrow").iter(batch_size=BATCH)
    lengths = (batch["labels"].combine_chunks().value_lengths().to_numpy() for batch in batches)
    return max((int(found.max()) for found in lengths), default=1)


def length_lines(block: DataBlock, data: TokenizedData | None, lengths: Lengths) -> list[str]:
    """What is said of the rows, whether or not they could be had."""
    if data is not None:
        return data_lines(block, data.stats)
    return [
        f"data:   {block.train}: not looked at ({lengths.assumed})",
        f"tokens: rows are taken to be of data.max_length, {lengths.longest}",
    ]


@dataclass(frozen=True)
class Capacity:
    """The memory that a worker can have at most.

    Attributes:
        size: in bytes; 0 where it cannot be read.
        what: whose it is, in words.
        gpu: whether it is a GPU's.
    """

    size: int
    what: str
    gpu: bool


def capacity(gpus: int, gpus_per_trial: float = 1.0, each: int | None = None) -> Capacity:
    """Of a trial's GPUs, or its part of one, or of this machine with its control group's limit.

    Args:
        gpus: how many there are; 0 for none.
        gpus_per_trial: as in the space.
        each: bytes of a GPU that is elsewhere; None looks at this machine's.
    """
    if gpus:
        size = size_of_gpus(gpus) if each is None else each
        if gpus_per_trial > 1:
            several = int(gpus_per_trial)
            return Capacity(several * size, f"{several} GPUs together", gpu=True)
        shared = int(1 / gpus_per_trial + 1e-9) if 0 < gpus_per_trial < 1 else 1
        part = f" shared by {shared}" if shared > 1 else ""
        return Capacity(size // shared, f"a GPU{part}", gpu=True)
    limits = [int(psutil.virtual_memory().total)]
    for name in _CGROUPS:
        path = Path(name)
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            limits.append(int(text))
    return Capacity(min(limits), "this machine", gpu=False)
