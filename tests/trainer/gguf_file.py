"""A tiny Llama written as a GGUF file, tensor by tensor as llama.cpp's converter names them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType
from tiny_models import tiny_model, tiny_tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerFast

_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_gguf(path: Path, seed: int = 0) -> PreTrainedModel:
    """Write ``tiny_model("llama", seed)`` and its tokenizer to ``path``; the model written."""
    model = tiny_model("llama", seed)
    tokenizer = tiny_tokenizer()
    writer = GGUFWriter(str(path), "llama")
    _add_header(writer, model)
    _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    _add_tensors(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_header(writer: GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, size: int) -> None:
    known = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    tokens = [*known, *(f"<unused{index}>" for index in range(size - len(known)))]
    kinds = [TokenType.NORMAL] * len(known) + [TokenType.UNUSED] * (size - len(known))
    end = tokenizer.eos_token_id
    kinds[end] = TokenType.CONTROL
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)


def _add_tensors(writer: GGUFWriter, model: PreTrainedModel) -> None:
    config = model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    weights = {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        for short, long in _BLOCK.items():
            weight = weights[f"model.layers.{layer}.{long}.weight"]
            if short in heads:
                weight = _interleaved(weight, heads[short])
            writer.add_tensor(f"blk.{layer}.{short}.weight", weight)


def _interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF keeps the two halves of a rotary pair side by side, transformers half a head apart."""
    rows, columns = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
