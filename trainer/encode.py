"""Rows to token ids and labels, format by format.

Masking is by position, never by token id: where the pad token is the end token, masking by
id would also hide the end token, and the model would never learn to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from ..spaces import DataBlock, SpaceError
from .chat import NO_TEMPLATE, chat_tokens
from .shapes import RowError
from .template import render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Row: TypeAlias = dict[str, Any]
Batch: TypeAlias = Mapping[str, Sequence[Any]]

IGNORE = -100
"""The label that torch's cross-entropy leaves out."""


@dataclass
class Encoder:
    """A batch of rows to ``input_ids``, ``labels`` and ``truncated``.

    Attributes:
        labels: class names, for SEQ_CLS and TOKEN_CLS.
        faults: indices of the rows that cannot be used, by what is to be said and the remedy.
    """

    block: DataBlock
    task: str
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...] = ()
    faults: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def __call__(self, batch: Batch, indices: Sequence[int]) -> dict[str, list[Any]]:
        """Columns of the encoded rows; those of a row that cannot be used are empty."""
        encoders: dict[str, Callable[[Batch, Sequence[int]], list[Row]]] = {
            "instruction": self._instruction,
            "chat": self._chat,
            "completion": lambda b, _: self._completions(b["prompt"], b["completion"]),
            "text": self._text,
            "seq2seq": lambda b, _: self._pairs(b["source"], b["target"]),
            "classification": self._classification,
            "token_classification": self._tags,
        }
        rows = encoders[self.block.format](batch, indices)
        return {key: [row[key] for row in rows] for key in ("input_ids", "labels", "truncated")}

    def _instruction(self, batch: Batch, _: Sequence[int]) -> list[Row]:
        inputs = batch.get("input") or [""] * len(batch["instruction"])
        prompts = [
            render_prompt(self.block.template, {"instruction": instruction, "input": extra})
            for instruction, extra in zip(batch["instruction"], inputs, strict=True)
        ]
        join = self._pairs if self.task == "SEQ_2_SEQ_LM" else self._completions
        return join(prompts, batch["response"])

    def _completions(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Row]:
        return causal_rows(self.tokenizer, prompts, completions, self.block.max_length)

    def _pairs(self, sources: Sequence[str], targets: Sequence[str]) -> list[Row]:
        limit = self.block.max_length
        encoded = self.tokenizer(list(sources))["input_ids"]
        wanted = self.tokenizer(text_target=list(targets))["input_ids"]
        return [
            {
                "input_ids": ids[:limit],
                "labels": labels[:limit],
                "truncated": len(ids) > limit or len(labels) > limit,
            }
            for ids, labels in zip(encoded, wanted, strict=True)
        ]

    def _text(self, batch: Batch, _: Sequence[int]) -> list[Row]:
        end = self.tokenizer.eos_token_id
        encoded = self.tokenizer(list(batch["text"]))["input_ids"]
        rows = [ids if ids and ids[-1] == end else [*ids, end] for ids in encoded]
        # Nothing comes before the first token, from which it could be predicted.
        return [self._cut(ids, [IGNORE, *ids[1:]]) for ids in rows]

    def _chat(self, batch: Batch, indices: Sequence[int]) -> list[Row]:
        rows = []
        for index, messages in zip(indices, batch["messages"], strict=True):
            try:
                ids, said = chat_tokens(self.tokenizer, messages)
            except RowError as error:
                self._note(error, index)
                ids, said = [], []
            labels = [token if own else IGNORE for token, own in zip(ids, said, strict=True)]
            rows.append(self._cut(ids, labels))
        return rows

    def _classification(self, batch: Batch, _: Sequence[int]) -> list[Row]:
        limit = self.block.max_length
        texts = list(batch["text"])
        cut = self.tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
        whole = self.tokenizer(texts)["input_ids"]
        return [
            {
                "input_ids": ids,
                "labels": self._class(label, "label", "class"),
                "truncated": len(full) > limit,
            }
            for ids, full, label in zip(cut, whole, batch["label"], strict=True)
        ]

    def _tags(self, batch: Batch, _: Sequence[int]) -> list[Row]:
        """A word's first token has its tag, the others none.

        As in https://huggingface.co/docs/transformers/tasks/token_classification.
        """
        limit = self.block.max_length
        words = [list(row) for row in batch["tokens"]]
        cut = self.tokenizer(words, is_split_into_words=True, truncation=True, max_length=limit)
        whole = self.tokenizer(words, is_split_into_words=True)["input_ids"]
        rows = []
        for index, tags in enumerate(batch["tags"]):
            ids = cut["input_ids"][index]
            labels, before = [IGNORE] * len(ids), None
            for place, word in enumerate(cut.word_ids(index)):
                if word is not None and word != before:
                    labels[place] = self._class(tags[word], "tags", "tag")
                before = word
            rows.append(
                {"input_ids": ids, "labels": labels, "truncated": len(whole[index]) > limit}
            )
        return rows

    def _class(self, name: str, role: str, noun: str) -> int:
        if name not in self.labels:
            rule = f"no training row has this {noun}; they have {', '.join(self.labels)}"
            raise SpaceError.single(f"data.fields.{role}", name, rule)
        return self.labels.index(name)

    def _cut(self, ids: list[int], labels: list[int]) -> Row:
        return _cut(ids, labels, self.block.max_length)

    def _note(self, error: RowError, index: int) -> None:
        self.faults.setdefault((error.said, error.remedy), []).append(index)


def check_tokenizer(form: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer can do what a format of data needs.

    Raises:
        SpaceError: it cannot.
    """
    if form == "chat" and not tokenizer.chat_template:
        raise SpaceError.single("data.format", form, NO_TEMPLATE)
    if form == "token_classification" and not tokenizer.is_fast:
        rule = "needs a fast tokenizer (tokenizer.json), and the model has none"
        raise SpaceError.single("data.format", form, rule)


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """A causal model's prompt in tokens, the same in training and at generation."""
    return _open(tokenizer(prompt)["input_ids"], tokenizer.eos_token_id)


def causal_rows(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    responses: Sequence[str],
    max_length: int,
) -> list[Row]:
    """Ids and labels of prompts with their responses, for a causal model.

    Prompt and response are tokenized apart, as they are at generation, so that the boundary
    falls between the same tokens in both.

    Args:
        tokenizer: special tokens that it puts in front (a BOS) are kept, unsupervised.
        prompts: everything before each response.
        responses: what is supervised, followed by the end token.
        max_length: in tokens; a row's end is cut off.

    Returns:
        For each row ``input_ids`` and ``labels``, lists of equal length, and ``truncated``.
    """
    rows, end = [], tokenizer.eos_token_id
    encoded = tokenizer(list(prompts))["input_ids"]
    answers = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    for ids, answer in zip(encoded, answers, strict=True):
        ahead, after = _open(ids, end), [*answer, end]
        rows.append(_cut([*ahead, *after], [IGNORE] * len(ahead) + after, max_length))
    return rows


def _open(ids: list[int], end: int | None) -> list[int]:
    # Some tokenizers close every text with their end token; inside a row that would be a lie.
    return ids[:-1] if len(ids) > 1 and ids[-1] == end else ids


def _cut(ids: list[int], labels: list[int], max_length: int) -> Row:
    truncated = len(ids) > max_length
    return {
        "input_ids": ids[:max_length],
        "labels": labels[:max_length],
        "truncated": truncated,
    }
