"""Tokenized splits: made once a search, on disk as Arrow, memory-mapped by every worker.

No split is ever held in memory as a whole: rows are read, encoded and written in batches.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spaces import DataBlock, Fault, SpaceError
from ..spaces.formats import CLASSIFIERS
from .encode import IGNORE, Encoder, check_tokenizer
from .errors import TrialError, reason
from .folder import read_json, write_json
from .rows import BATCH, mapped
from .splits import SPLITS, Split, read_general, read_splits, shared

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_GENERAL = "general"


@dataclass(frozen=True)
class TokenizedData:
    """The splits of a search, ready for a Trainer.

    Each row has ``input_ids`` and ``labels``: for CAUSAL_LM both of the row's length (int,
    unpadded) with ``IGNORE`` over what is not learnt; for SEQ_2_SEQ_LM the response; for SEQ_CLS
    one class index; for TOKEN_CLS that of each word, at its first token.

    Attributes:
        fingerprint: sha256 over every split's ids and labels: equal exactly for equal data.
        labels: class names, for SEQ_CLS and TOKEN_CLS.
        stats: for each split ``rows``, ``tokens``, ``supervised`` (tokens with a label),
            ``truncated`` (rows cut at ``max_length``); ``median``, ``p95`` (95th percentile) and
            ``longest`` of the rows' lengths in tokens; ``repeated`` (rows that are copies of an
            earlier one in the split) and ``shared`` (rows that are in another split too). Of the
            general text likewise, as ``general``.
        inputs: digest of what they were made from (see ``inputs``), if that is known.
        general: a text that shows what is forgotten; None where the space names none.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    fingerprint: str
    stats: Mapping[str, Mapping[str, int]]
    labels: tuple[str, ...] = ()
    inputs: str | None = None
    general: Dataset | None = None

    @property
    def parts(self) -> dict[str, Dataset]:
        """The splits, and the general text if there is one, by name."""
        found = {split: getattr(self, split) for split in SPLITS}
        return found if self.general is None else {**found, _GENERAL: self.general}

    def save(self, folder: Path) -> None:
        """Write the splits as Arrow files under ``folder``."""
        for name, rows in self.parts.items():
            # Of no rows it would write no shard, which it then cannot read back.
            rows.save_to_disk(str(folder / name), num_shards=None if len(rows) else 1)
        about = {
            "fingerprint": self.fingerprint,
            "stats": self.stats,
            "labels": list(self.labels),
            "inputs": self.inputs,
        }
        write_json(folder / "about.json", about)

    @classmethod
    def kept(cls, folder: Path, inputs: str | None) -> TokenizedData | None:
        """What ``save`` wrote, if it was made from the same inputs and is whole."""
        try:
            if inputs is None or read_json(folder / "about.json").get("inputs") != inputs:
                return None
            data = cls.load(folder)
            found = _fingerprint(data.parts)
        except (TrialError, OSError, ValueError, KeyError, AttributeError):
            # Also pyarrow's errors are of these kinds.
            return None
        return data if found == data.fingerprint else None

    @classmethod
    def load(cls, folder: Path) -> TokenizedData:
        """Memory-map what ``save`` wrote."""
        from datasets import load_from_disk

        about = read_json(folder / "about.json")
        names = (*SPLITS, *([_GENERAL] if _GENERAL in about["stats"] else []))
        return cls(
            **{name: load_from_disk(str(folder / name)) for name in names},
            fingerprint=about["fingerprint"],
            stats=about["stats"],
            labels=tuple(about["labels"]),
            inputs=about.get("inputs"),
        )


def tokenize(block: DataBlock, task: str, tokenizer: PreTrainedTokenizerBase) -> TokenizedData:
    """Read, split and tokenize a space's data.

    Raises:
        SpaceError: see ``check_tokenizer`` and ``read_splits``; or a row has no supervised token
            within ``data.max_length``; or a class of one split is unknown to the training rows.
        TrialError: what is made of the rows cannot be written.
    """
    from datasets import config

    check_tokenizer(block.format, tokenizer)
    cache = Path(config.HF_DATASETS_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        # Where the library keeps its own copies: /tmp may lie in memory. What is mapped when this
        # folder is deleted stays until it is no longer.
        with tempfile.TemporaryDirectory(dir=cache, prefix="tune-lora-") as folder:
            return _tokenized(block, task, tokenizer, Path(folder))
    except OSError as error:
        said = f"{cache}: rows cannot be written: {reason(error)}"
        raise TrialError(f"{said}; free some space, or set HF_DATASETS_CACHE") from error


def _tokenized(
    block: DataBlock, task: str, tokenizer: PreTrainedTokenizerBase, scratch: Path
) -> TokenizedData:
    splits = read_splits(block, scratch)
    labels = _classes(splits["train"], block) if task in CLASSIFIERS else ()
    common = shared(splits)
    made, stats = {}, {}
    for split in SPLITS:
        encode = Encoder(block, task, tokenizer, labels)
        made[split], stats[split] = _encoded(splits[split], encode, split, scratch)
        stats[split] |= {"repeated": splits[split].repeated(), "shared": common[split]}
    if block.general is not None:
        own, text = read_general(block.general, block, splits["train"], scratch)
        encode = Encoder(own, task, tokenizer)
        made[_GENERAL], stats[_GENERAL] = _encoded(text, encode, _GENERAL, scratch)
        known = np.concatenate([split.digests for split in splits.values()])
        both = int(np.isin(text.digests, known).sum())
        stats[_GENERAL] |= {"repeated": text.repeated(), "shared": both}
    return TokenizedData(**made, fingerprint=_fingerprint(made), stats=stats, labels=labels)


def _classes(train: Split, block: DataBlock) -> tuple[str, ...]:
    """The source's own names of classes, else those of the training rows, sorted."""
    role = "label" if block.format == "classification" else "tags"
    found = set()
    for batch in train.rows.select_columns([role]).with_format("arrow").iter(batch_size=BATCH):
        column = batch[role].combine_chunks()
        found.update((column if role == "label" else column.flatten()).unique().to_pylist())
    if len(found) == 1:
        rule = f"every training row has the class {min(found)!r}; there is nothing to tell apart"
        raise SpaceError.single(f"data.fields.{role}", block.fields.get(role, role), rule)
    whole = all(name.isdecimal() for name in found)
    return train.source.classes or tuple(sorted(found, key=int if whole else None))


def _encoded(
    split: Split, encode: Encoder, name: str, scratch: Path
) -> tuple[Dataset, dict[str, int]]:
    from datasets import Features, List, Value

    counts = _Counts(len(split))

    def counted(batch: Mapping[str, Any], indices: list[int]) -> dict[str, list[Any]]:
        encoded = encode(batch, indices)
        counts.add(encoded, indices)
        return {key: encoded[key] for key in ("input_ids", "labels")}

    ids = List(Value("int64"))
    labels = Value("int64") if encode.task == "SEQ_CLS" else ids
    features = Features({"input_ids": ids, "labels": labels})
    made = mapped(split.rows, counted, features, scratch, f"tokenizing {name}")
    _check_encoded(split, encode, counts, name)
    stats = counts.stats()
    if stats["truncated"]:
        logger.warning(
            "%s: %d of %d rows are cut at data.max_length", name, stats["truncated"], len(split)
        )
    return made, stats


class _Counts:
    """Lengths in tokens, supervised tokens, and whether it was cut, of each row."""

    def __init__(self, rows: int) -> None:
        self.lengths, self.supervised, self.cut = np.zeros((3, rows), dtype=np.int64)

    def add(self, encoded: Mapping[str, list[Any]], indices: list[int]) -> None:
        """Count the rows of a batch."""
        self.lengths[indices] = [len(ids) for ids in encoded["input_ids"]]
        self.supervised[indices] = [
            1 if isinstance(labels, int) else len(labels) - labels.count(IGNORE)
            for labels in encoded["labels"]
        ]
        self.cut[indices] = encoded["truncated"]

    def stats(self) -> dict[str, int]:
        """See ``TokenizedData.stats``."""
        lengths = self.lengths if len(self.lengths) else np.zeros(1, dtype=np.int64)
        median, p95 = np.quantile(lengths, (0.5, 0.95), method="inverted_cdf")
        return {
            "rows": len(self.lengths),
            "tokens": int(lengths.sum()),
            "supervised": int(self.supervised.sum()),
            "truncated": int(self.cut.sum()),
            "median": int(median),
            "p95": int(p95),
            "longest": int(lengths.max()),
        }


def _check_encoded(split: Split, encode: Encoder, counts: _Counts, name: str) -> None:
    source = split.source
    faults = [
        Fault(
            source.key,
            source.source,
            f"{len(rows)} rows of the {name} split {said}, the first is {split.place(rows)}: "
            f"{remedy}",
        )
        for (said, remedy), rows in encode.faults.items()
    ]
    if faults:
        raise SpaceError(faults)
    bare = np.flatnonzero(counts.supervised == 0)
    if len(bare):
        rule = (
            f"{len(bare)} rows of the {name} split have no supervised token within it (the "
            f"prompt alone fills it), the first is {split.place(bare)}; raise it or drop those rows"
        )
        raise SpaceError.single("data.max_length", encode.block.max_length, rule)


def _fingerprint(parts: Mapping[str, Dataset]) -> str:
    digest = hashlib.sha256()
    for name, rows in parts.items():
        for row in _numbers(rows):
            digest.update(b"%b|%b|" % row)
        digest.update(name.encode())
    return digest.hexdigest()


def _numbers(rows: Dataset) -> Iterator[tuple[bytes, bytes]]:
    """Ids and labels of each row, as int64."""
    for batch in rows.with_format("arrow").iter(batch_size=BATCH):
        ids, labels = (batch[key].combine_chunks() for key in ("input_ids", "labels"))
        yield from zip(_bytes(ids), _bytes(labels), strict=True)


def _bytes(column: Any) -> Iterator[bytes]:
    """The numbers of each row of a column of numbers or of lists of them."""
    listed = hasattr(column, "value_lengths")
    numbers = (column.flatten() if listed else column).to_numpy(zero_copy_only=False)
    lengths = column.value_lengths().to_pylist() if listed else [1] * len(column)
    whole, begin = memoryview(numbers.astype(np.int64).tobytes()), 0
    for length in lengths:
        end = begin + 8 * length
        yield bytes(whole[begin:end])
        begin = end
