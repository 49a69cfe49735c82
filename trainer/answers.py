"""What a model makes of the prompts of rows: answers in batches, and predicted classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .base import BaseModel
from .encode import IGNORE
from .memory import out_of_memory
from .score import collator, evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_GREEDY: Mapping[str, Any] = {
    "do_sample": False,
    "temperature": None,
    "top_p": None,
    "top_k": None,
    "num_beams": 1,
    "use_cache": True,
}


@dataclass(frozen=True)
class Question:
    """A row as a question and its answer.

    Attributes:
        prompt: token ids before the first supervised token; for SEQ_2_SEQ_LM, the encoder's.
        reference: the supervised text that follows, without special tokens.
    """

    prompt: tuple[int, ...]
    reference: str


def question(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, task: str) -> Question:
    """The question in a tokenized row; of several supervised parts the first is its answer.

    A row that is supervised from its first token on is asked by that token.
    """
    ids, labels = row["input_ids"], row["labels"]
    causal, start = task == "CAUSAL_LM", 0
    if causal:
        start = next(p for p, label in enumerate(labels) if label != IGNORE and p > 0)
    end = next((p for p in range(start, len(labels)) if labels[p] == IGNORE), len(labels))
    text = tokenizer.decode(labels[start:end], skip_special_tokens=True)
    return Question(tuple(ids[:start] if causal else ids), str(text))


def answers(
    model: Any,
    base: BaseModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
) -> list[str]:
    """The likeliest answer token by token (greedy), in the order of the prompts.

    Prompts of a causal model are padded on the left, so that each goes on right behind its end.

    Args:
        model: ``base.model``, or that model wearing an adapter; its training mode stays.
        base: tokenizer, device and precision.
        prompts: token ids.
        max_new_tokens: at most, the end token included.
        batch_size: prompts at a time, those of like length together; fewer where memory runs out.
    """
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    made = [""] * len(prompts)
    begin, size = 0, batch_size
    with evaluating(model), base.autocast():
        while begin < len(order):
            places = order[begin : begin + size]
            texts = _batch(model, base, [prompts[p] for p in places], max_new_tokens)
            if texts is None:
                # Here the error is gone, and with it the memory that its traceback kept.
                size = max(1, len(places) // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                continue
            for place, text in zip(places, texts, strict=True):
                made[place] = text
            begin += len(places)
    return made


def _batch(
    model: Any, base: BaseModel, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[str] | None:
    """The answers; None where memory is enough for fewer at a time only."""
    causal, pad = base.spec.task == "CAUSAL_LM", base.tokenizer.pad_token_id
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, prompt in enumerate(prompts):
        at = slice(longest - len(prompt), longest) if causal else slice(0, len(prompt))
        ids[line, at], mask[line, at] = torch.tensor(prompt, dtype=torch.long), 1
    try:
        found = model.generate(
            input_ids=ids.to(base.device),
            attention_mask=mask.to(base.device),
            max_new_tokens=max_new_tokens,
            pad_token_id=pad,
            **_GREEDY,
        )
    except Exception as error:
        if len(prompts) == 1 or not out_of_memory(error):
            raise
        logger.warning("memory is not enough for %d answers at a time", len(prompts))
        return None
    new = found[:, longest:] if causal else found
    return list(base.tokenizer.batch_decode(new, skip_special_tokens=True))


def classes(model: Any, base: BaseModel, rows: Any, batch_size: int) -> tuple[list[str], list[str]]:
    """Predicted and true class names: of each row, or of each labelled token (TOKEN_CLS)."""
    collate = collator(base.tokenizer, base.spec.task)
    names = base.spec.labels
    predicted, true = [], []
    with evaluating(model), base.autocast():
        for begin in range(0, len(rows), batch_size):
            part = [rows[place] for place in range(begin, min(begin + batch_size, len(rows)))]
            batch = {key: value.to(base.device) for key, value in collate(part).items()}
            labels = batch.pop("labels")
            counts = labels != IGNORE
            predicted += model(**batch).logits.argmax(-1)[counts].tolist()
            true += labels[counts].tolist()
    return [names[index] for index in predicted], [names[index] for index in true]
