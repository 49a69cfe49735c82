"""Tiny causal models of many types, and what a pass through one shows."""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tiny_models import VOCABULARY, tiny_model
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}


def causal_model(kind: str, attention: str = "sdpa", **fields: Any) -> Any:
    """A random one of a model type; ``fields`` are of its config."""
    if kind in ("gpt2", "falcon"):
        model = tiny_model(kind)
        model.set_attn_implementation(attention)
        return model
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**_SIZES, **fields)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def wearing(model: Any, **fields: Any) -> Any:
    """The model with a random adapter on all linear layers."""
    fields = {"target_modules": "all-linear", "init_lora_weights": False, **fields}
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **fields))


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Those of a loss alone, by parameter."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def embedded(model: Any) -> list[tuple[int, ...]]:
    """The shapes of ids that the model embeds from now on, a call an entry."""
    seen: list[tuple[int, ...]] = []
    model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(tuple(args[0].shape))
    )
    return seen
