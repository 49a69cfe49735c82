"""The loss of a model on a split, weighted by token.

The Trainer's own ``eval_loss`` is a mean of batch means, so it shifts with the batch size and
with how rows of unequal length fall together. This one is the mean over all supervised tokens,
whose exponential is the perplexity, and a rescore with any batch size gives the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
)

from .encode import IGNORE
from .loss import gathers, supervised_loss

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from .base import BaseModel

Collator = Callable[[list[dict[str, Any]]], Any]


def collator(tokenizer: PreTrainedTokenizerBase, task: str) -> Collator:
    """Rows to a batch, padded to the longest of its rows and no further, labels with -100."""
    made: Collator
    if task == "SEQ_CLS":
        made = DataCollatorWithPadding(tokenizer)
    elif task == "TOKEN_CLS":
        made = DataCollatorForTokenClassification(tokenizer, label_pad_token_id=IGNORE)
    else:
        made = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORE)
    return made


def supervised_count(labels: torch.Tensor, task: str) -> int:
    """How many predictions the model's loss is the mean of.

    A causal model predicts each token from the ones before it, so the first label of a row
    never counts.
    """
    if task == "SEQ_CLS":
        return labels.shape[0]
    shifted = labels[:, 1:] if task == "CAUSAL_LM" else labels
    return int((shifted != IGNORE).sum())


def score(
    model: torch.nn.Module,
    rows: Dataset,
    collate: Collator,
    task: str,
    *,
    batch_size: int,
    autocast: AbstractContextManager[Any],
) -> tuple[float, int]:
    """Mean loss of ``rows``.

    Args:
        model: anything with transformers' forward; its training mode is restored afterwards.
        rows: tokenized rows.
        collate: from ``collator``.
        task: peft's task type.
        batch_size: rows a forward pass, where they are the longest; of shorter ones there are more.
            It has no bearing on the result beyond rounding.
        autocast: a context to run in.

    Returns:
        The mean negative log-likelihood of a supervised token in nats (cross-entropy of a row
        for SEQ_CLS, of a labelled token for TOKEN_CLS), and how many there were.
    """
    device = next(model.parameters()).device
    total, count = 0.0, 0
    gathered = gathers(model, task)
    with evaluating(model), autocast:
        for batch in _batches(rows, batch_size):
            tensors = {key: value.to(device) for key, value in collate(batch).items()}
            if gathered:
                loss, weight = supervised_loss(model, tensors)
                total += float(loss)
            else:
                weight = supervised_count(tensors["labels"], task)
                total += float(model(**tensors).loss) * weight
            count += weight
    return total / max(count, 1), count


def score_on(model: Any, base: BaseModel, rows: Any, batch_size: int) -> tuple[float, int]:
    """``score`` in the precision of ``base``, whose model ``model`` is or wears."""
    return score(
        model,
        rows,
        collator(base.tokenizer, base.spec.task),
        base.spec.task,
        batch_size=batch_size,
        autocast=base.autocast(),
    )


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, without gradients; the mode that it was in is restored."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def _batches(rows: Dataset, size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of like length together: less padding, less time, the same sum.

    Of the longest there are ``size`` in a batch, and of shorter ones as many more as have no more
    tokens than those, padded, nor more labels than as many rows with the most.
    """
    sizes = [_size(row) for row in rows]
    bounds = [size * max(of) for of in zip(*sizes, strict=True)]
    batch: list[dict[str, Any]] = []
    widest = (0, 0)
    for index in sorted(range(len(rows)), key=lambda index: sizes[index], reverse=True):
        wider = _wider(widest, sizes[index])
        if batch and any(
            (len(batch) + 1) * width > bound for width, bound in zip(wider, bounds, strict=True)
        ):
            yield batch
            batch, wider = [], sizes[index]
        batch.append(rows[index])
        widest = wider
    if batch:
        yield batch


def _size(row: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens, and those that have a label."""
    labels = row["labels"]
    labelled = sum(label != IGNORE for label in labels) if isinstance(labels, Sequence) else 1
    return len(row["input_ids"]), labelled


def _wider(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), max(one[1], other[1])
