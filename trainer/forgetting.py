"""Forgetting: by how much a model's loss on a general text has risen since before it was tuned.

The same rows are scored under the bare base and under the adapter that is kept, in the same
precision, so that the difference is the adapter's alone.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch

from ..spaces.metrics import FORGETTING, GENERAL
from .base import BaseModel
from .memory import out_of_memory
from .score import score_on

logger = logging.getLogger(__name__)


def before(base: BaseModel, rows: Any, batch_size: int) -> float:
    """The loss of the bare base, computed once for all that share it.

    Args:
        base: bare, unless its loss is known.
        rows: the general text, tokenized.
        batch_size: rows a forward pass; fewer where memory runs out.

    Returns:
        Mean negative log-likelihood of a token, in nats.
    """
    if GENERAL not in base.bare:
        base.bare[GENERAL] = _loss(base.model, base, rows, batch_size)
    return base.bare[GENERAL]


def of_base(base: BaseModel, rows: Any, batch_size: int) -> dict[str, float]:
    """What ``after`` gives of the base itself: it has forgotten nothing."""
    return _finite({GENERAL: before(base, rows, batch_size), FORGETTING: 0.0})


def after(model: Any, base: BaseModel, rows: Any, batch_size: int) -> dict[str, float]:
    """``general_loss`` and ``forgetting`` of a tuned model, in nats a token.

    Args:
        model: the base model wearing an adapter.
        base: whose loss ``before`` is known.
        rows: the general text, tokenized.
        batch_size: rows a forward pass; fewer where memory runs out.

    Returns:
        By name; nothing where the loss is not finite.
    """
    loss = _loss(model, base, rows, batch_size)
    return _finite({GENERAL: loss, FORGETTING: loss - base.bare[GENERAL]})


def _finite(found: dict[str, float]) -> dict[str, float]:
    return found if all(map(math.isfinite, found.values())) else {}


def _loss(model: Any, base: BaseModel, rows: Any, batch_size: int) -> float:
    # Of a text every token counts, so its logits may need more than those of validation rows.
    while True:
        try:
            return score_on(model, base, rows, batch_size)[0]
        except Exception as error:
            if batch_size == 1 or not out_of_memory(error):
                raise
        logger.warning("memory is not enough for %d rows of the general text", batch_size)
        batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
