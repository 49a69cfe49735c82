"""Tiny models of the least width at which what bitsandbytes computes on a CPU is right.

Its kernel misreads rows narrower than its block of 64 weights, which the shared tiny models have.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

WIDE: dict[str, dict[str, int]] = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32},
    "gpt2": {"n_embd": 64},
    "bloom": {"hidden_size": 64},
    "falcon": {"hidden_size": 64, "ffn_hidden_size": 256},
    "opt": {"hidden_size": 64, "ffn_dim": 128, "word_embed_proj_dim": 64},
    "t5": {"d_model": 64, "d_kv": 32},
}


def save_wide(folder: Path, architecture: str) -> PreTrainedModel:
    """A random model in fp32, saved at ``folder`` with its tokenizer."""
    narrow = tiny_model(architecture)
    for name, value in WIDE[architecture].items():
        setattr(narrow.config, name, value)
    torch.manual_seed(0)
    model = type(narrow)(narrow.config)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model
