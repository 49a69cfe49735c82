"""What a model makes of the prompts of rows: answers in batches, and predicted classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from .base import BaseModel
from .encode import IGNORE
from .score import collator

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


def question(row: Mapping[str, Any], base: BaseModel) -> Question:
    """The question in a tokenized row; of several supervised parts the first is its answer."""
    ids, labels = row["input_ids"], row["labels"]
    start = 0
    if base.spec.task == "CAUSAL_LM":
        start = next(place for place, label in enumerate(labels) if label != IGNORE)
    end = next((p for p in range(start, len(labels)) if labels[p] == IGNORE), len(labels))
    text = base.tokenizer.decode(labels[start:end], skip_special_tokens=True)
    prompt = ids[:start] if base.spec.task == "CAUSAL_LM" else ids
    return Question(tuple(prompt), str(text))


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
        batch_size: prompts at a time, those of like length together.
    """
    causal = base.spec.task == "CAUSAL_LM"
    pad = base.tokenizer.pad_token_id
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    made = [""] * len(prompts)
    with _evaluating(model), torch.no_grad(), base.autocast():
        for begin in range(0, len(order), batch_size):
            places = order[begin : begin + batch_size]
            longest = max(len(prompts[place]) for place in places)
            ids = torch.full((len(places), longest), pad, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for line, place in enumerate(places):
                own = torch.tensor(prompts[place], dtype=torch.long)
                at = slice(longest - len(own), longest) if causal else slice(0, len(own))
                ids[line, at], mask[line, at] = own, 1
            found = model.generate(
                input_ids=ids.to(base.device),
                attention_mask=mask.to(base.device),
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                **_GREEDY,
            )
            new = found[:, longest:] if causal else found
            texts = base.tokenizer.batch_decode(new, skip_special_tokens=True)
            for place, text in zip(places, texts, strict=True):
                made[place] = text
    return made


def classes(model: Any, base: BaseModel, rows: Any, batch_size: int) -> tuple[list[str], list[str]]:
    """Predicted and true class names: of each row, or of each labelled token (TOKEN_CLS)."""
    collate = collator(base.tokenizer, base.spec.task)
    names = base.spec.labels
    predicted, true = [], []
    with _evaluating(model), torch.no_grad(), base.autocast():
        for begin in range(0, len(rows), batch_size):
            part = [rows[place] for place in range(begin, min(begin + batch_size, len(rows)))]
            batch = {key: value.to(base.device) for key, value in collate(part).items()}
            labels = batch.pop("labels")
            counts = labels != IGNORE
            predicted += model(**batch).logits.argmax(-1)[counts].tolist()
            true += labels[counts].tolist()
    return [names[index] for index in predicted], [names[index] for index in true]


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
