"""Token ids and labels: the prompt and all padding masked, the end token kept.

Rows are tokenized once a search and lie on disk as Arrow, memory-mapped by every worker.
Masking is by position, never by token id: where the pad token is the end token, masking by
id would also hide the end token, and the model would never learn to stop.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..spaces import DataBlock, SpaceError
from .errors import TrialError
from .folder import read_json, write_json
from .rows import SPLITS, first_place, read_splits
from .template import render_prompt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORE = -100
"""The label that torch's cross-entropy leaves out."""


@dataclass(frozen=True)
class TokenizedData:
    """The splits of a search, ready for a Trainer.

    Each row has ``input_ids`` and ``labels``: for CAUSAL_LM both of the row's length (int,
    unpadded) with ``IGNORE`` over the prompt; for SEQ_2_SEQ_LM the response; for SEQ_CLS one
    class index.

    Attributes:
        fingerprint: sha256 over every split's ids and labels: equal exactly for equal data.
        labels: class names, for SEQ_CLS.
        stats: for each split ``rows``, ``tokens``, ``supervised`` (tokens with a label),
            ``truncated`` (rows cut at ``max_length``) and ``longest`` (tokens).
        inputs: digest of what they were made from (see ``inputs``), if that is known.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    fingerprint: str
    stats: Mapping[str, Mapping[str, int]]
    labels: tuple[str, ...] = ()
    inputs: str | None = None

    def save(self, folder: Path) -> None:
        """Write the splits as Arrow files under ``folder``."""
        for split in SPLITS:
            rows = getattr(self, split)
            # Of no rows it would write no shard, which it then cannot read back.
            rows.save_to_disk(str(folder / split), num_shards=None if len(rows) else 1)
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
            found = _fingerprint({split: getattr(data, split) for split in SPLITS})
        except (TrialError, OSError, ValueError, KeyError, AttributeError):
            # Also pyarrow's errors are of these kinds.
            return None
        return data if found == data.fingerprint else None

    @classmethod
    def load(cls, folder: Path) -> TokenizedData:
        """Memory-map what ``save`` wrote."""
        from datasets import load_from_disk

        about = read_json(folder / "about.json")
        splits = {split: load_from_disk(str(folder / split)) for split in SPLITS}
        return cls(
            **splits,
            fingerprint=about["fingerprint"],
            stats=about["stats"],
            labels=tuple(about["labels"]),
            inputs=about.get("inputs"),
        )


def tokenize(block: DataBlock, task: str, tokenizer: PreTrainedTokenizerBase) -> TokenizedData:
    """Read, split and tokenize a space's data.

    Raises:
        SpaceError: see ``read_splits``; or a row has no supervised token within
            ``data.max_length``; or a class of one split is unknown to the training rows.
    """
    rows = read_splits(block)
    labels = tuple(sorted(set(rows["train"]["label"]))) if task == "SEQ_CLS" else ()
    if len(labels) == 1:
        rule = f"every training row has the class {labels[0]!r}; there is nothing to tell apart"
        raise SpaceError.single("data.fields.label", block.fields.get("label", "label"), rule)
    encode = _Encoder(block, task, tokenizer, labels)
    made, stats = {}, {}
    for split in SPLITS:
        made[split], stats[split] = _encode_split(rows[split], encode, split)
    return TokenizedData(**made, fingerprint=_fingerprint(made), stats=stats, labels=labels)


@dataclass(frozen=True)
class _Encoder:
    """One row of text to ids and labels."""

    block: DataBlock
    task: str
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...]

    def __call__(self, row: Mapping[str, str]) -> dict[str, Any]:
        if self.task == "SEQ_CLS":
            return self._classification(row)
        prompt = render_prompt(self.block.template, row)
        if self.task == "SEQ_2_SEQ_LM":
            return self._pair(prompt, row["response"])
        return causal_row(self.tokenizer, prompt, row["response"], self.block.max_length)

    def _pair(self, prompt: str, response: str) -> dict[str, Any]:
        ids = self.tokenizer(prompt)["input_ids"]
        labels = self.tokenizer(text_target=response)["input_ids"]
        limit = self.block.max_length
        cut = len(ids) > limit or len(labels) > limit
        return {"input_ids": ids[:limit], "labels": labels[:limit], "truncated": cut}

    def _classification(self, row: Mapping[str, str]) -> dict[str, Any]:
        limit = self.block.max_length
        ids = self.tokenizer(row["text"], truncation=True, max_length=limit)["input_ids"]
        if row["label"] not in self.labels:
            rule = f"no training row has this class; they have {', '.join(self.labels)}"
            raise SpaceError.single("data.fields.label", row["label"], rule)
        full = len(self.tokenizer(row["text"])["input_ids"])
        return {
            "input_ids": ids,
            "labels": self.labels.index(row["label"]),
            "truncated": full > limit,
        }


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """A causal model's prompt in tokens, the same in training and at generation."""
    ids: list[int] = tokenizer(prompt)["input_ids"]
    # Some tokenizers close every text with their end token; inside a row that would be a lie.
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def causal_row(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str, max_length: int
) -> dict[str, Any]:
    """Ids and labels of one instruction row for a causal model.

    Prompt and response are tokenized apart, as they are at generation, so that the boundary
    falls between the same tokens in both.

    Args:
        tokenizer: special tokens that it puts in front (a BOS) are kept, unsupervised.
        prompt: everything before the response.
        response: what is supervised, followed by the end token.
        max_length: in tokens; the row's end is cut off.

    Returns:
        ``input_ids`` and ``labels``, lists of equal length, and ``truncated``.
    """
    ahead = prompt_ids(tokenizer, prompt)
    after = tokenizer(response, add_special_tokens=False)["input_ids"]
    after = [*after, tokenizer.eos_token_id]
    ids = [*ahead, *after]
    labels = [IGNORE] * len(ahead) + after
    return {
        "input_ids": ids[:max_length],
        "labels": labels[:max_length],
        "truncated": len(ids) > max_length,
    }


def _encode_split(rows: Dataset, encode: _Encoder, split: str) -> tuple[Dataset, dict[str, int]]:
    from datasets import Dataset

    encoded = [encode(row) for row in rows]
    _check_supervised(encoded, encode, split)
    lengths = [len(row["input_ids"]) for row in encoded]
    stats = {
        "rows": len(encoded),
        "tokens": sum(lengths),
        "supervised": sum(_supervised(row) for row in encoded),
        "truncated": sum(row["truncated"] for row in encoded),
        "longest": max(lengths, default=0),
    }
    if stats["truncated"]:
        logger.warning(
            "%s: %d of %d rows are cut at data.max_length", split, stats["truncated"], len(encoded)
        )
    columns = {key: [row[key] for row in encoded] for key in ("input_ids", "labels")}
    return Dataset.from_dict(columns), stats


def _supervised(row: Mapping[str, Any]) -> int:
    if isinstance(row["labels"], int):
        return 1
    return sum(label != IGNORE for label in row["labels"])


def _check_supervised(encoded: list[dict[str, Any]], encode: _Encoder, split: str) -> None:
    bare = [index for index, row in enumerate(encoded) if _supervised(row) == 0]
    if bare:
        rule = (
            f"{len(bare)} rows of the {split} split have no supervised token within it (the "
            f"prompt alone fills it), the first is {first_place(encode.block, split, bare)}; "
            "raise it or drop those rows"
        )
        raise SpaceError.single("data.max_length", encode.block.max_length, rule)


def _fingerprint(splits: Mapping[str, Dataset]) -> str:
    digest = hashlib.sha256()
    for split in SPLITS:
        for row in splits[split]:
            for key in ("input_ids", "labels"):
                digest.update(np.asarray(row[key], dtype=np.int64).tobytes())
                digest.update(b"|")
        digest.update(split.encode())
    return digest.hexdigest()
