"""Attention over short rows on a CPU, as the products that it is made of.

PyTorch's fused kernel saves the memory of a row's length squared. In bf16 it takes three times as
long as the products do, its backward pass above all; and of rows that lie in one row, each attends
to its own tokens alone, where the kernel works on all pairs and takes a mask. Up to ``LONGEST``
tokens that memory is less than the other activations'. The models call it by the name of "sdpa",
which is registered anew (https://huggingface.co/docs/transformers/attention_interface).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .products import autocast_dtype

LONGEST = {torch.bfloat16: 512, torch.float32: 256}
"""Tokens of a row, up to which products are used, by the dtype that they are made in."""
_RARE = ("position_bias", "softcap", "s_aux")
"""Arguments that only some models give."""
_meant_for_gpu: ContextVar[bool] = ContextVar("meant_for_gpu", default=False)


@dataclass(frozen=True)
class Rows:
    """Where the tokens of rows are that go through a model as one.

    A mask that says the same may carry it, as its attribute ``rows``.

    Attributes:
        places: of each row's tokens, ``[rows, tokens of the longest]``; any, past a row's end.
        homes: one place in ``places``, flattened, of each token, ``[tokens]``.
    """

    places: torch.Tensor
    homes: torch.Tensor

    @classmethod
    def of(cls, paths: Sequence[torch.Tensor]) -> Rows:
        """Of each row's places, ``[tokens of the row]``; every token is in some row."""
        places = pad_sequence(list(paths), batch_first=True)
        homes = torch.empty(1 + max(int(path.max()) for path in paths), dtype=torch.long)
        for row, path in enumerate(paths):
            homes[path] = row * places.shape[1] + torch.arange(len(path))
        return cls(places, homes)

    def apart(self, values: torch.Tensor) -> torch.Tensor:
        """``[1, heads, tokens, width]`` as ``[rows, heads, tokens of a row, width]``."""
        taken = values[0].transpose(0, 1).index_select(0, self.places.flatten())
        return taken.view(*self.places.shape, *taken.shape[1:]).transpose(1, 2)

    def together(self, values: torch.Tensor) -> torch.Tensor:
        """``[rows, tokens of a row, heads, width]`` as ``[1, tokens, heads, width]``."""
        return values.flatten(0, 1).index_select(0, self.homes)[None]


def register() -> None:
    """Have the models' attention go through ``attend``."""
    AttentionInterface.register("sdpa", attend)


@contextmanager
def meant_for_gpu(meant: bool) -> Iterator[None]:
    """While a pass on the CPU stands for one on a GPU, where the fused kernel is the faster."""
    token = _meant_for_gpu.set(meant)
    try:
        yield
    finally:
        _meant_for_gpu.reset(token)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' ``sdpa_attention_forward``, with its arguments and its result.

    Args:
        module: the model's attention.
        query: ``[rows, heads, tokens, width]``.
        key: ``[rows, heads or fewer, tokens, width]``.
        value: likewise.
        attention_mask: true where a query may look; ``[rows or 1, 1, tokens, tokens]``.
        dropout: of the weights, for a model that is being trained.
        scaling: of the scores; one over the root of ``width`` where it is None.
        is_causal: whether, without a mask, a query looks at nothing after it; the module knows
            where it is None.
        **kwargs: left to transformers.

    Returns:
        ``[rows, tokens, heads, width]``, and None for the weights.
    """
    plain = all(kwargs.get(name) is None for name in _RARE) and _ours(query)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows: Rows | None = getattr(attention_mask, "rows", None)
    if plain and rows is not None and _shorter(rows, query):
        asked, known, told = (rows.apart(values) for values in (query * scale, key, value))
        found = _by_products(asked, known, told, None, dropout=dropout, causal=True)
        return rows.together(found), None
    if not (plain and _suits(query, key, attention_mask)):
        made: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
        return made
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    found = _by_products(query * scale, key, value, attention_mask, dropout=dropout, causal=causal)
    return found, None


def on_cpu(values: torch.Tensor) -> bool:
    """Whether a pass is on the CPU, and does not stand for one on a GPU."""
    return values.device.type == "cpu" and not _meant_for_gpu.get()


def _ours(query: torch.Tensor) -> bool:
    usual = on_cpu(query) and not torch.compiler.is_compiling()
    return usual and autocast_dtype(query) in LONGEST


def _shorter(rows: Rows, query: torch.Tensor) -> bool:
    """Whether attention row by row has fewer pairs of tokens than all at once."""
    count, longest = rows.places.shape
    return longest <= LONGEST[autocast_dtype(query)] and count * longest**2 < query.shape[2] ** 2


def _suits(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None) -> bool:
    dtype = autocast_dtype(query)
    rows, _, tokens, _ = query.shape
    if not 1 < tokens <= LONGEST[dtype] or (key.shape[0], key.shape[2]) != (rows, tokens):
        return False
    if mask is not None and (mask.dtype is not torch.bool or mask.shape[1:-2] != (1,)):
        return False
    return dtype is torch.bfloat16


def _by_products(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    dropout: float,
    causal: bool,
) -> torch.Tensor:
    dtype = autocast_dtype(query)
    rows, heads, tokens, _ = query.shape
    groups = key.shape[1]
    if mask is None and causal:
        mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()[None, None]
    # The heads that share keys are one product's rows.
    together = (rows, groups, heads // groups * tokens, -1)
    asked = query.to(dtype).reshape(together)
    scores = (asked @ key.to(dtype).transpose(-1, -2)).view(rows, heads, tokens, tokens)
    if mask is not None:
        # The lowest number, not -inf: a row of padding that sees nothing stays finite.
        unseen = torch.finfo(dtype).min
        scores += torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, unseen)
    weights = scores.softmax(-1).view(*together[:3], tokens)
    weights = functional.dropout(weights, dropout)
    found = (weights @ value.to(dtype)).view(rows, heads, tokens, -1)
    return found.transpose(1, 2).contiguous()
