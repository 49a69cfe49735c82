"""Which trials can share a pass: those whose losses depend on nothing else that is in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..spaces import SpaceError
from .config import TrialConfig
from .loss import gathers
from .targets import matches, resolve_targets

_ROW_BY_ROW = {
    "alpha_pattern",
    "exclude_modules",
    "fan_in_fan_out",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "lora_bias",
    "r",
    "rank_pattern",
    "target_modules",
    "use_rslora",
}
"""Fields of LoraConfig with which an adapter's layer looks at nothing but its own input."""
_OWN_PASS = {"label_smoothing_factor", "neftune_noise_alpha", "torch_compile", "use_liger_kernel"}
"""Fields of TrainingArguments that change what the Trainer's own pass computes."""
_STRETCHED = {"dynamic", "longrope"}
"""Rotary embeddings that depend on the longest row of a batch."""


def can_pack(config: TrialConfig, model: Any, dtype: torch.dtype) -> bool:
    """Whether a trial can share a pass: its losses must not depend on what else is in it.

    Left to themselves are trials with dropout or an adapter that needs more than its own input
    (DoRA, trained biases or whole modules, adapted embeddings), fp16, whose gradients are scaled
    trial by trial, and models whose loss is not the mean over supervised tokens.

    Args:
        config: of the trial.
        model: the bare base; its weights may be on the meta device.
        dtype: that it computes in.
    """
    fields = {key for key, value in config.lora.items() if value and value != "none"}
    inits = (True, False, "gaussian", "orthogonal")
    plain = fields <= _ROW_BY_ROW and config.lora.get("init_lora_weights", True) in inits
    optimizer = str(config.train.get("optim", ""))
    # These two kinds take their step within the backward pass.
    own = "lomo" in optimizer or "layerwise" in optimizer
    own |= any(config.train.get(key) for key in _OWN_PASS)
    if not plain or own or dtype is torch.float16 or not gathers(model, config.task):
        return False
    return not _draws(model) and not _stretches(model) and _on_linears(config, model)


def _draws(model: Any) -> bool:
    """Whether the base itself draws at random when it trains."""
    if any(isinstance(module, nn.Dropout) and module.p for module in model.modules()):
        return True
    # Many models hand a rate of their config to a function, and have no module for it.
    return any(
        isinstance(value, int | float) and value > 0
        for key, value in model.config.get_text_config().to_dict().items()
        if ("drop" in key or "jitter" in key) and not key.startswith(("summary_", "classifier_"))
    )


def _stretches(model: Any) -> bool:
    rope = getattr(model.config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    return bool(kinds & _STRETCHED)


def _on_linears(config: TrialConfig, model: Any) -> bool:
    """Whether the adapter goes on linear layers alone, and not on the output head.

    The head sees supervised positions, not rows: an adapter on it cannot tell whose they are.
    """
    try:
        wanted = resolve_targets(config.lora["target_modules"], model)
    except SpaceError:
        # The trial itself is to say so.
        return False
    if wanted == "all-linear":
        return True
    head = model.get_output_embeddings()
    return all(
        isinstance(module, nn.Linear | Conv1D) and module is not head
        for path, module in model.named_modules()
        if matches(wanted, path)
    )
