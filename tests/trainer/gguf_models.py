"""Small models of the types that GGUF files are written for, with weights that all matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_models import VOCABULARY, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

ROTARY: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""Rotary positions as Llama 3 scales them, with wavelengths on both sides of each bound."""


def small(model_type: str = "llama", **options: Any) -> PretrainedConfig:
    """The configuration of one."""
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": False,
    }
    return AutoConfig.for_model(model_type, **{**shape, **options})


def save_drawn(folder: Path, **options: Any) -> Path:
    """A model of random weights, norms included, as a folder with tokenizer."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small(**options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, float(parameter.ndim == 1), 0.2)
    model.save_pretrained(str(folder))
    tiny_tokenizer().save_pretrained(str(folder))
    return folder
