"""Train, validation and test rows: from sources of their own or by share, with no row in two."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ..spaces import DataBlock, GeneralBlock, SpaceError
from .rows import Rows, read_rows, read_texts

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

Indices: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

SPLITS = ("train", "validation", "test")
_RANK = {"test": 0, "validation": 1, "train": 2}
"""Of two splits that have a row, the lower one keeps it."""


@dataclass(frozen=True)
class Split:
    """Some of a source's rows, in the order in which they are used.

    Attributes:
        source: all of its rows.
        numbers: which of them, counted from 0.
        key: of the space, that says which they are.
    """

    source: Rows
    numbers: Indices
    key: str

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def rows(self) -> Dataset:
        """One column a role."""
        return self.source.rows.select(self.numbers)

    @property
    def digests(self) -> np.ndarray[Any, np.dtype[np.bytes_]]:
        """Equal exactly for equal rows, ``[rows]``."""
        found: np.ndarray[Any, np.dtype[np.bytes_]] = self.source.digests[self.numbers]
        return found

    def place(self, indices: Iterable[int]) -> str:
        """Where the first of some rows stands: of them, the one that comes first in the source."""
        return self.source.place(min(int(self.numbers[index]) for index in indices))

    def repeated(self) -> int:
        """Rows that are copies of an earlier one."""
        return len(self) - len(np.unique(self.digests))

    def without(self, unwanted: np.ndarray[Any, np.dtype[np.bool_]]) -> Split:
        """The rows of which ``unwanted`` is not true."""
        return replace(self, numbers=self.numbers[~unwanted])


def read_splits(block: DataBlock, scratch: Path) -> dict[str, Split]:
    """The three splits of a space's data.

    ``validation`` and ``test`` are shares of ``train``'s rows, drawn with ``data.seed``, or
    sources of their own; a hub data set, a folder or a built-in one brings its own where it
    has splits of these names. ``test`` may be empty. What becomes of rows that are equal in all
    their roles, ``data.duplicates`` says.

    Args:
        block: the space's data.
        scratch: see ``read_rows``.

    Raises:
        SpaceError: see ``read_rows``; or a split is left without rows, or two of them have a row
            in common.
    """
    splits = _carve(read_rows(block.train, "data.train", block, scratch), block, scratch)
    if block.duplicates == "drop":
        splits = _dropped(splits)
    for split in SPLITS:
        limit = getattr(block.limit, split)
        splits[split] = replace(splits[split], numbers=splits[split].numbers[:limit])
    for split in ("train", "validation"):
        if len(splits[split]) == 0:
            raise SpaceError.single(f"data.{split}", getattr(block, split), "there are no rows")
    if block.duplicates == "refuse":
        _check_apart(splits)
    return {split: splits[split] for split in SPLITS}


def read_general(
    general: GeneralBlock, block: DataBlock, train: Split, scratch: Path
) -> tuple[DataBlock, Split]:
    """The general text, and the block that its rows are encoded by.

    Args:
        general: where it is.
        block: the space's data.
        train: must have none of its rows, unless ``data.duplicates`` allows it.
        scratch: see ``read_rows``.

    Raises:
        SpaceError: see ``read_texts``; or a row is trained on.
    """
    update = {"format": "text", "template": None, "fields": {"text": general.column}}
    own = block.model_copy(update=update)
    rows = read_texts(general, own, scratch)
    split = Split(rows, np.arange(len(rows.rows)), rows.key)
    learnt = np.flatnonzero(np.isin(split.digests, train.digests))
    if len(learnt) and block.duplicates != "allow":
        rule = (
            f"{len(learnt)} of its {len(split)} rows are train rows too, the first is "
            f"{split.place(learnt)}: what is learnt is not forgotten; name another text, or write "
            "data.duplicates: allow"
        )
        raise SpaceError.single(rows.key, rows.source, rule)
    return own, split


def shared(splits: Mapping[str, Split]) -> dict[str, int]:
    """How many rows of each split are in another one too."""
    digests = {name: split.digests for name, split in splits.items()}
    others = {
        name: np.concatenate([found for other, found in digests.items() if other != name])
        for name in digests
    }
    return {name: int(np.isin(digests[name], others[name]).sum()) for name in digests}


def _carve(found: Mapping[str, Rows], block: DataBlock, scratch: Path) -> dict[str, Split]:
    """Train, validation and test, by share, by own source or as the source brings them."""
    train = next(rows for rows in found.values() if not rows.split)
    splits, shares = {}, {}
    for split in ("validation", "test"):
        wanted = getattr(block, split)
        if isinstance(wanted, str):
            own = read_rows(wanted, f"data.{split}", block, scratch)
            rows = own.get(split) or next(rows for rows in own.values() if not rows.split)
            splits[split] = Split(rows, np.arange(len(rows.rows)), f"data.{split}")
        elif split in found and found[split] is not train:
            splits[split] = Split(found[split], np.arange(len(found[split].rows)), "data.train")
        else:
            shares[split] = float(wanted)
    order = np.arange(len(train.rows))
    if shares:
        order = np.random.default_rng(block.seed).permutation(len(train.rows))
    drawn = _Drawn(train, order, block.duplicates)
    for split, share in shares.items():
        splits[split] = Split(train, drawn.take(share), f"data.{split}")
    splits["train"] = Split(train, drawn.rest(), "data.train")
    return splits


class _Drawn:
    """A source's rows in random order, from which shares are taken.

    Unless duplicates are allowed, copies of a row stand right behind it, and the end of a share
    does not come between them.
    """

    def __init__(self, train: Rows, order: Indices, duplicates: str) -> None:
        self._train, self._order, self._taken = train, order, 0
        self._first = np.arange(len(order))
        if duplicates == "allow" or len(order) == 0:
            return
        # For each place in the order, the place of the first of the row's copies.
        _, first, group = np.unique(train.digests[order], return_index=True, return_inverse=True)
        placed = first[group]
        if duplicates == "drop":
            self._order = order[placed == self._first]
            self._first = np.arange(len(self._order))
        else:
            together = np.argsort(placed, kind="stable")
            self._order, self._first = order[together], placed[together]

    def take(self, share: float) -> Indices:
        """A share of all rows, at least one if there is any."""
        count = round(share * len(self._order))
        count = max(1, count) if share and len(self._order) > 2 else count
        begin, end = self._taken, self._taken + count
        while count and end < len(self._order) and self._first[end] == self._first[end - 1]:
            end += 1
        if end >= len(self._order):  # both shares may have been rounded up
            rule = f"its {len(self._order)} rows are too few to split: none is left to train on"
            if self._train.rows.num_rows > len(np.unique(self._train.digests)):
                rule += " (copies of a row stay in one split)"
            raise SpaceError.single("data.train", self._train.source, rule)
        self._taken = end
        return self._order[begin:end]

    def rest(self) -> Indices:
        """What is not taken; without shares, in the source's own order."""
        return self._order[self._taken :]


def _dropped(splits: Mapping[str, Split]) -> dict[str, Split]:
    """Each row once, in test if it is there, else in validation, else in train."""
    kept: dict[str, Split] = {}
    seen = np.zeros(0, dtype="S16")
    for name in sorted(splits, key=_RANK.__getitem__):
        split = splits[name]
        _, first = np.unique(split.digests, return_index=True)
        again = np.ones(len(split), dtype=bool)
        again[first] = False
        kept[name] = split.without(again | np.isin(split.digests, seen))
        seen = np.concatenate([seen, kept[name].digests])
        if gone := len(split) - len(kept[name]):
            logger.warning("%s: %d of %d rows are dropped as duplicates", name, gone, len(split))
    return kept


def _check_apart(splits: Mapping[str, Split]) -> None:
    for name, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        split, of = splits[name], splits[other]
        both = np.flatnonzero(np.isin(split.digests, of.digests))
        if len(both) == 0:
            continue
        row = int(min(both, key=lambda index: split.numbers[index]))
        twin = np.flatnonzero(of.digests == split.digests[row])
        rule = (
            f"{len(both)} of its {len(split)} {name} rows are {other} rows too, the first is "
            f"{split.place([row])}, which is {of.place(twin)}: a score on rows that a model has "
            "seen says little; remove them, or write data.duplicates: drop (keeps them for "
            f"{name} only) or allow"
        )
        raise SpaceError.single(split.key, split.source.source, rule)
