"""A causal model's loss without padding and repeats, from logits of supervised positions alone.

Logits over a vocabulary are the largest activation of a step, and those of a prompt count for
nothing: here the output head sees only the positions whose next token has a label. Its input is
gathered from ``[rows, tokens, hidden]`` to ``[1, positions, hidden]``, so that what a model does to
its logits one by one (a scale, a softcap) stays valid. The loss is transformers'
``ForCausalLMLoss``, term by term.

Where rows of a batch differ in length, they go through the model one after the other, as a single
row without padding, each counted from position 0: transformers' attention masks keep such documents
apart (``find_packed_sequence_indices`` in its masking_utils.py). Where rows begin alike, what they
share goes through once (``prefixes``).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.loss.loss_utils import ForCausalLMLoss

from .attention import Rows, on_cpu
from .encode import IGNORE
from .prefixes import Trie, trie

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
_DROPOUT = (
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_dropout",
    "attn_pdrop",
    "dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "layerdrop",
)
"""Fields of configs: dropout that is in no module."""
_BLOCK = 2**22 - 2**16
"""Bytes up to which a worker's memory comes from its heap (``MALLOC_MMAP_THRESHOLD_``)."""
_BY_LENGTH = ("dynamic", "longrope")
"""Kinds of rotary positions whose frequencies go by the last position of a row."""
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
    inputs, targets = laid_out(model, batch)
    gather = _Gather(targets, model.config.model_type)
    logits = gather.logits(model, inputs)
    count, device = len(targets.tokens), targets.tokens.device
    if gather.fused is not None:
        return gather.fused.to(device), count
    # Of a model that is spread over several GPUs, the last has the head.
    return summed(logits, targets.tokens.to(logits.device)).to(device), count


def summed(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The negative log-likelihood of ``[positions]`` in ``[positions, vocabulary]``, summed."""
    if on_cpu(logits):
        # Blocks that stay in the heap: larger ones come from the system, page by page, each time.
        size = max(1, _BLOCK // (logits.shape[1] * torch.float32.itemsize))
    else:
        size = max(1, len(tokens))
    losses = [
        functional.cross_entropy(part.float(), of, reduction="sum")
        for part, of in zip(torch.split(logits, size), torch.split(tokens, size), strict=True)
    ]
    return torch.stack(losses).sum()


@dataclass(frozen=True)
class Targets:
    """What is predicted, and where.

    Attributes:
        shape: of the model's input, ``[rows, tokens]``.
        positions: those whose next token is supervised, in the input flattened, ``[targets]``.
            Where rows share a beginning, a position may be there more than once.
        tokens: the supervised tokens, ``[targets]``.
    """

    shape: torch.Size
    positions: torch.Tensor
    tokens: torch.Tensor

    @classmethod
    def of(cls, following: torch.Tensor) -> Targets:
        """Those of what each position is to predict, ``[rows, tokens]``."""
        flat = following.flatten()
        positions = (flat != IGNORE).nonzero().squeeze(1)
        return cls(following.shape, positions, flat[positions])


def _following(labels: torch.Tensor) -> torch.Tensor:
    """What each position is to predict; no row's first token is predicted."""
    return functional.pad(labels[:, 1:], (0, 1), value=IGNORE)


def laid_out(
    model: Any, batch: Mapping[str, torch.Tensor]
) -> tuple[Mapping[str, torch.Tensor], Targets]:
    """The batch as one row without padding and repeats, where the model allows it and it pays.

    What comes after the last position that predicts something is left out, for no token before it
    sees it; but not where that would change what dropout or noise is drawn. Where rows stay beside
    each other, it is what comes after the last such position of all.

    Except to flash attention, tokens of other rows are work too, if masked: for a layer of width
    ``h`` (12 h² weights) and ``t`` tokens in a row, 24 h² t operations and 4 h t² of attention.

    Args:
        model: a causal one.
        batch: ``input_ids``, ``attention_mask`` and ``labels``, ``[rows, tokens]``, padded on the
            right.

    Returns:
        Arguments of the model's forward, and what it is to predict.
    """
    mask, following = batch["attention_mask"].bool(), _following(batch["labels"])
    drops = _drops(model)
    cut = not drops and _may_end_early(model)
    if cut:
        supervised = following != IGNORE
        # In each row, whether there is something to predict here or further on.
        needed = supervised.flip(1).cumsum(1).flip(1) > 0
        # A model needs some token.
        needed[:, 0] = True
        mask = mask & needed
    lengths = mask.sum(1).tolist()
    longest = max(lengths) if cut else mask.shape[1]
    ids, mask, following = (
        batch["input_ids"][:, :longest],
        mask[:, :longest],
        following[:, :longest],
    )
    as_is = {key: value[:, :longest] for key, value in batch.items() if key != "labels"}
    rows = len(lengths)
    if rows == 1 or not _tells_apart(model):
        return as_is, Targets.of(following)
    texts = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    total = sum(lengths)
    tree = trie(texts) if not drops and _shares(model, longest) else None
    shared = total if tree is None else len(tree.tokens)
    width = model.config.get_text_config().hidden_size
    flash = model.config._attn_implementation in _FLASH
    whole = (6 * width + longest) * rows * longest
    if tree is not None and shared < total and (6 * width + shared) * shared <= whole:
        return _as_tree(model, tree, following)
    if total == mask.numel() or (not flash and (6 * width + total) * total > whole):
        return as_is, Targets.of(following)
    positions = torch.arange(longest, device=mask.device).expand(rows, -1)
    found = {"input_ids": ids, "position_ids": positions}
    inputs = {key: values[mask].unsqueeze(0) for key, values in found.items()}
    return inputs, Targets.of(following[mask].unsqueeze(0))


def _as_tree(
    model: Any, tree: Trie, following: torch.Tensor
) -> tuple[Mapping[str, torch.Tensor], Targets]:
    device = following.device
    sees: torch.Tensor = tree.sees()[None, None].to(device)
    if model.config._attn_implementation == "eager":
        # It adds the mask to its scores.
        lowest = torch.finfo(model.dtype).min
        sees = torch.zeros(sees.shape, dtype=model.dtype, device=device).masked_fill(~sees, lowest)
    if on_cpu(sees):
        # Attention takes it from there; a model hands its mask on as it is.
        sees.rows = Rows.of(tree.paths)  # type: ignore[attr-defined]
    inputs = {
        "input_ids": tree.tokens[None].to(device),
        "position_ids": tree.depths[None].to(device),
        "attention_mask": sees,
    }
    positions, tokens = [], []
    for path, row in zip(tree.paths, following.cpu(), strict=True):
        wanted = row[: len(path)]
        counts = wanted != IGNORE
        positions.append(path[counts])
        tokens.append(wanted[counts])
    targets = Targets(
        inputs["input_ids"].shape, torch.cat(positions).to(device), torch.cat(tokens).to(device)
    )
    return inputs, targets


def _shares(model: Any, longest: int) -> bool:
    """Whether rows of so many tokens may share their beginnings.

    Not with flash attention, which takes no mask; nor past a sliding window, which the mask would
    not know. (And not where dropout would give what is shared the same noise.)
    """
    config = model.config
    if config._attn_implementation not in ("eager", "sdpa"):
        return False
    window = getattr(config, "sliding_window", None)
    return window is None or longest <= window


def _drops(model: Any) -> bool:
    """Whether there is dropout in this pass."""
    if not model.training:
        return False
    return any(getattr(model.config, name, 0.0) for name in _DROPOUT) or any(
        isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()
    )


def _tells_apart(model: Any) -> bool:
    config = model.config
    alibi = getattr(config, "alibi", False)
    known = config._attn_implementation in ("eager", "sdpa", *_FLASH)
    return config.model_type in _BY_POSITION and known and not alibi and not _noisy(model)


def _may_end_early(model: Any) -> bool:
    """Whether rows may go without the tokens that predict nothing."""
    # A field of kinds, or of such fields by the kind of layer.
    rotary = str(getattr(model.config, "rope_parameters", None))
    return not (_noisy(model) or any(kind in rotary for kind in _BY_LENGTH))


def _noisy(model: Any) -> bool:
    """Whether there is NEFTune's noise, which goes by the length of a row."""
    return hasattr(model.get_input_embeddings(), "neftune_noise_alpha")


def row_losses(model: Any, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of every supervised token, in fp32, and the row that it is in.

    Args:
        model: one that ``gathers`` is true of.
        batch: see ``supervised_loss``.

    Returns:
        Negative log-likelihoods in nats with a gradient, and row indices, ``[positions]`` each.
    """
    targets = Targets.of(_following(batch["labels"]))
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    logits = _Gather(targets, None).logits(model, inputs)
    losses = functional.cross_entropy(logits.float(), targets.tokens, reduction="none")
    return losses, targets.positions // targets.shape[1]


class _Gather:
    """A forward pre-hook of the output head.

    Attributes:
        targets: what the logits are to predict.
        fused: their summed loss, where the head's product was made part of it; never without a
            model type.
    """

    def __init__(self, targets: Targets, model_type: str | None) -> None:
        self.targets, self._model_type = targets, model_type
        self.fused: torch.Tensor | None = None
        self._gathered = False

    def logits(self, model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
        """The logits of supervised positions, ``[positions, vocabulary]``."""
        hook = model.get_output_embeddings().register_forward_pre_hook(self)
        try:
            outputs = model(**inputs, use_cache=False)
        finally:
            hook.remove()
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        return logits.flatten(0, -2) if self._gathered else self._picked(logits)

    def __call__(self, head: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
        if not args or args[0].shape[:-1] != self.targets.shape:
            return None
        self._gathered = True
        hidden = self._picked(args[0])
        loss = _fused_loss(head, hidden, self._model_type)
        if loss is not None:
            tokens = self.targets.tokens.to(hidden.device)
            self.fused = loss(head.weight, hidden, tokens, head.bias)
            hidden = hidden[:0]
        return (hidden.unsqueeze(0), *args[1:])

    def _picked(self, values: torch.Tensor) -> torch.Tensor:
        """``[positions, width]`` of ``[rows, tokens, width]``."""
        return values.flatten(0, -2).index_select(0, self.targets.positions.to(values.device))


def _fused_loss(head: nn.Module, hidden: torch.Tensor, model_type: str | None) -> Any:
    """Liger's fused product and cross-entropy, or None where it would not be the same loss.

    It takes ``(weight [vocabulary, hidden], input [positions, hidden], target, bias)`` and never
    holds all logits at once (https://github.com/linkedin/Liger-Kernel). It has no adapter on the
    head and nothing between head and loss, no batch without positions, and an input that is where
    the head is.
    """
    plain = type(head) is nn.Linear and model_type in _BARE_HEADS
    plain = plain and head.weight.device == hidden.device
    return _liger() if plain and hidden.is_cuda and len(hidden) else None


@functools.cache
def _liger() -> Any:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    return LigerFusedLinearCrossEntropyLoss(reduction="sum")
