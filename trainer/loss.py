"""A causal model's loss without padding, from the logits of supervised positions alone.

Logits over a vocabulary are the largest activation of a step, and those of a prompt count for
nothing: here the output head sees only the positions whose next token has a label. Its input is
gathered from ``[rows, tokens, hidden]`` to ``[1, positions, hidden]``, so that what a model does to
its logits one by one (a scale, a softcap) stays valid. The loss is transformers'
``ForCausalLMLoss``, term by term.

Where rows of a batch differ in length, they go through the model one after the other, as a single
row without padding, each counted from position 0: transformers' attention masks keep such documents
apart (``find_packed_sequence_indices`` in its masking_utils.py).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.loss.loss_utils import ForCausalLMLoss

from .data import IGNORE

_BARE_HEADS = {
    "bloom",
    "falcon",
    "gpt2",
    "gpt_neox",
    "llama",
    "mistral",
    "opt",
    "phi3",
    "qwen2",
    "qwen3",
}
"""Model types whose logits are what the head returns, with nothing done to them afterwards."""
_BY_POSITION = {"falcon", "gpt2", "gpt_neox", "llama", "mistral", "phi3", "qwen2", "qwen3"}
"""Model types that tell documents in a row apart by the positions of their tokens."""
_FLASH = ("flash_attention_2", "flash_attention_3")


def gathers(model: Any, task: str) -> bool:
    """Whether ``supervised_loss`` is this model's loss.

    It is for causal models with an output head whose loss is transformers' own. A mixture of
    experts that adds a loss of its router is left to its own forward.

    Args:
        model: a transformers model, or one that wears an adapter.
        task: peft's task type.
    """
    if task != "CAUSAL_LM" or getattr(model, "loss_function", None) is not ForCausalLMLoss:
        return False
    routed = getattr(model.config, "output_router_logits", False)
    return model.get_output_embeddings() is not None and not routed


def supervised_loss(model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor, int]:
    """The summed loss of a batch's supervised tokens, in fp32.

    Args:
        model: one that ``gathers`` is true of.
        batch: arguments of its forward; ``labels`` is ``[rows, tokens]``, ``IGNORE`` where a token
            is not supervised. The first token of a row is never predicted, so its label is not
            looked at.

    Returns:
        The negative log-likelihood in nats, a scalar with a gradient (0 where nothing is
        supervised), and how many tokens it is of.
    """
    batch = flattened(model, batch)
    gather = _Gather(batch["labels"], model.config.model_type)
    logits = gather.logits(model, batch)
    if gather.fused is not None:
        return gather.fused, len(gather.targets)
    total = functional.cross_entropy(logits.float(), gather.targets, reduction="sum")
    return total, len(gather.targets)


def flattened(model: Any, batch: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """The batch as one row without padding, where the model allows it and it is less work.

    Except to flash attention, tokens of other rows are work too, if masked: for a layer of width
    ``h`` (12 h² weights) and ``t`` tokens in a row, 24 h² t operations and 4 h t² of attention.

    Args:
        model: a causal one.
        batch: ``input_ids``, ``attention_mask`` and ``labels``, ``[rows, tokens]``, padded on the
            right.

    Returns:
        ``input_ids``, ``position_ids`` and ``labels``, ``[1, tokens that are no padding]``; or the
        batch itself.
    """
    mask = batch["attention_mask"].bool()
    rows, longest = mask.shape
    total = int(mask.sum())
    if total == mask.numel() or not _tells_apart(model):
        return batch
    width = model.config.get_text_config().hidden_size
    flash = model.config._attn_implementation in _FLASH
    if not flash and (6 * width + total) * total > (6 * width + longest) * rows * longest:
        return batch
    positions = torch.arange(longest, device=mask.device).expand(rows, -1)
    labels = batch["labels"].clone()
    # No row's first token is predicted, least of all from the row before.
    labels[:, 0] = IGNORE
    found = {"input_ids": batch["input_ids"], "position_ids": positions, "labels": labels}
    return {key: values[mask].unsqueeze(0) for key, values in found.items()}


def _tells_apart(model: Any) -> bool:
    config = model.config
    noisy = hasattr(model.get_input_embeddings(), "neftune_noise_alpha")
    # NEFTune's noise goes by the length of a row.
    alibi = getattr(config, "alibi", False)
    known = config._attn_implementation in ("eager", "sdpa", *_FLASH)
    return config.model_type in _BY_POSITION and known and not noisy and not alibi


def row_losses(model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of every supervised token, in fp32, and the row that it is in.

    Args:
        model: one that ``gathers`` is true of.
        batch: see ``supervised_loss``.

    Returns:
        Negative log-likelihoods in nats with a gradient, and row indices, ``[positions]`` each.
    """
    gather = _Gather(batch["labels"], None)
    logits = gather.logits(model, batch)
    losses = functional.cross_entropy(logits.float(), gather.targets, reduction="none")
    return losses, gather.rows


class _Gather:
    """A forward pre-hook of the output head.

    Attributes:
        targets: the supervised tokens, ``[positions]``.
        fused: their summed loss, where the head's product was made part of it; never without a
            model type.
    """

    def __init__(self, labels: torch.Tensor, model_type: str | None) -> None:
        following = functional.pad(labels[:, 1:], (0, 1), value=IGNORE).flatten()
        self._shape, self._model_type = labels.shape, model_type
        self._positions = (following != IGNORE).nonzero().squeeze(1)
        self.targets = following[self._positions]
        self.fused: torch.Tensor | None = None

    @property
    def rows(self) -> torch.Tensor:
        """The row of each supervised token, ``[positions]``."""
        return self._positions // self._shape[1]

    def logits(self, model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """The logits of supervised positions, ``[positions, vocabulary]``."""
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        hook = model.get_output_embeddings().register_forward_pre_hook(self)
        try:
            outputs = model(**inputs, use_cache=False)
        finally:
            hook.remove()
        return self.picked(outputs["logits"] if isinstance(outputs, dict) else outputs[0])

    def __call__(self, head: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
        if not args or args[0].shape[:-1] != self._shape:
            return None
        hidden = self.picked(args[0])
        loss = _fused_loss(head, hidden, self._model_type)
        if loss is not None:
            self.fused = loss(head.weight, hidden, self.targets, head.bias)
            hidden = hidden[:0]
        return (hidden.unsqueeze(0), *args[1:])

    def picked(self, values: torch.Tensor) -> torch.Tensor:
        """``[positions, width]`` of ``[rows, tokens, width]``, or of what is picked already."""
        flat = values.flatten(0, -2)
        # The last token of a row is never picked: one shape cannot be taken for the other.
        return flat if values.shape[:-1] != self._shape else flat.index_select(0, self._positions)


def _fused_loss(head: nn.Module, hidden: torch.Tensor, model_type: str | None) -> Any:
    """Liger's fused product and cross-entropy, or None where it would not be the same loss.

    It takes ``(weight [vocabulary, hidden], input [positions, hidden], target, bias)`` and never
    holds all logits at once (https://github.com/linkedin/Liger-Kernel). It has no adapter on the
    head and nothing between head and loss, and no batch without positions.
    """
    plain = type(head) is nn.Linear and model_type in _BARE_HEADS
    return _liger() if plain and hidden.is_cuda and len(hidden) else None


@functools.cache
def _liger() -> Any:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    return LigerFusedLinearCrossEntropyLoss(reduction="sum")
