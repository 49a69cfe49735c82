"""A Llama-like model as a GGUF file, laid out as llama.cpp's own converter does it.

Only what can be loaded again and scored is written. What transformers does not read back from such
a file is refused before any work: biases of a Llama's attention, sliding windows, scaled rotary
positions other than Llama 3's. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_VERSION,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
)
from gguf.quants import quant_shape_to_byte_shape, quantize
from gguf.utility import size_label
from transformers import AutoConfig

from .base import BaseModel, BaseSpec, load_tokenizer
from .errors import TrialError
from .gguf_vocab import add_vocab, pre_tokenizer

TYPES = {
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
"""What matrices can be written as; vectors are always f32."""

_ARCHITECTURES = {
    "llama": MODEL_ARCH.LLAMA,
    "mistral": MODEL_ARCH.LLAMA,
    "qwen2": MODEL_ARCH.QWEN2,
    "qwen3": MODEL_ARCH.QWEN3,
}
"""GGUF's architecture for each of transformers' model types; a Mistral is a Llama there."""
_SUPPORTED = "causal models of type llama, mistral (without sliding window), qwen2 and qwen3"
_F16_MAX = float(np.finfo(np.float16).max)


def gguf_name(kind: str) -> str:
    """``model-f16.gguf`` for ``f16``."""
    return f"model-{kind}.gguf"


def check_gguf(spec: BaseSpec) -> None:
    """Look at a model's configuration and tokenizer, without loading its weights.

    Raises:
        TrialError: it cannot be written as a GGUF file that means the same.
    """
    try:
        config = AutoConfig.from_pretrained(spec.source, trust_remote_code=spec.trust_remote_code)
        obstacle = _obstacle(config, spec.task)
        if obstacle is None:
            pre_tokenizer(load_tokenizer(spec))
    except (OSError, ValueError, TrialError) as error:
        obstacle = str(error)
    if obstacle is not None:
        raise TrialError(f"--gguf: {spec.name}: {obstacle}; GGUF is written for {_SUPPORTED}")


def _obstacle(config: Any, task: str) -> str | None:
    """Why a model would not be the same in a GGUF file; None if it would be."""
    kind = config.model_type
    if task != "CAUSAL_LM":
        return f"its task is {task}"
    if kind not in _ARCHITECTURES:
        return f"its type is {kind}"
    rope = config.rope_parameters or {}
    scaled = rope.get("rope_type", "default")
    known = ("default", "llama3") if kind in ("llama", "mistral") else ("default",)
    reasons = {
        f"its activation is {config.hidden_act}": config.hidden_act != "silu",
        "its attention has biases": getattr(config, "attention_bias", False),
        "its feed-forward blocks have biases": getattr(config, "mlp_bias", False),
        "it attends in a sliding window": getattr(config, "sliding_window", None) is not None,
        f"its rotary positions are scaled ({scaled})": scaled not in known,
        "its rotary positions are partial": rope.get("partial_rotary_factor", 1.0) != 1.0,
        f"its heads are {_head_dim(config)} wide": not _default_heads(config),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _head_dim(config: Any) -> int:
    stated = getattr(config, "head_dim", None)
    return int(stated or config.hidden_size // config.num_attention_heads)


def _default_heads(config: Any) -> bool:
    """Whether transformers will know the width of a head: it reads it for Llamas only."""
    width = _head_dim(config)
    if config.model_type == "qwen2":
        return bool(width * config.num_attention_heads == config.hidden_size)
    return bool(config.model_type != "qwen3" or width == 128)


def write_gguf(base: BaseModel, folder: Path, path: Path, kind: str, name: str) -> None:
    """Write a loaded model with its tokenizer.

    Args:
        base: in full precision; ``check_gguf`` has nothing against it.
        folder: where it lies.
        path: of the file to write.
        kind: one of ``TYPES``; a matrix whose rows do not fill q8_0's blocks is written as f16.
        name: for people to read.

    Raises:
        TrialError: a weight is too large for f16.
        OSError: the file cannot be written.
    """
    config, tied = base.model.config, _tied(base.model)
    arch = _ARCHITECTURES[config.model_type]
    writer = GGUFWriter(path, MODEL_ARCH_NAMES[arch])
    try:
        _add_metadata(writer, base, kind, name)
        add_vocab(writer, base.tokenizer, folder, config.vocab_size)
        for tensor_name, tensor, type_ in _tensors(base.model, arch, TYPES[kind][0], tied):
            size = int(np.prod(quant_shape_to_byte_shape(tensor.shape, type_)))
            writer.add_tensor_info(tensor_name, tensor.shape, np.dtype(np.float32), size, type_)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        # One at a time, so that no second copy of the model is held.
        for tensor_name, tensor, type_ in _tensors(base.model, arch, TYPES[kind][0], tied):
            writer.write_tensor_data(_encoded(tensor_name, tensor, type_))
    finally:
        writer.close()


def _add_metadata(writer: GGUFWriter, base: BaseModel, kind: str, name: str) -> None:
    config, head_dim = base.model.config, _head_dim(base.model.config)
    count = sum(parameter.numel() for parameter in base.model.parameters())
    writer.add_type("model")
    writer.add_name(name)
    writer.add_size_label(size_label(count, count, 0, 0))
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(TYPES[kind][1])
    writer.add_quantization_version(GGML_QUANT_VERSION)


def _tensors(
    model: Any, arch: MODEL_ARCH, wanted: GGMLQuantizationType, tied: bool
) -> Iterator[tuple[str, torch.Tensor, GGMLQuantizationType]]:
    """GGUF's name of each tensor, the tensor as laid out there, and the type to write it as."""
    config = model.config
    names = get_tensor_name_map(arch, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise TrialError(f"--gguf: {name} has no name in a GGUF file of {arch.name.lower()}")
        module = name.split(".")[-2]
        if arch is MODEL_ARCH.LLAMA and module in heads:
            tensor = _interleaved(tensor, heads[module])
        yield found, tensor, _type(tensor, wanted)
    if (factors := _frequency_factors(model)) is not None:
        yield "rope_freqs.weight", factors, GGMLQuantizationType.F32


def _type(tensor: torch.Tensor, wanted: GGMLQuantizationType) -> GGMLQuantizationType:
    if tensor.ndim == 1:
        return GGMLQuantizationType.F32
    uneven = wanted is GGMLQuantizationType.Q8_0 and tensor.shape[-1] % 32 != 0
    return GGMLQuantizationType.F16 if uneven else wanted


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows ``[heads * width, ...]`` from halves, as transformers rotates them, to pairs."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def _frequency_factors(model: Any) -> torch.Tensor | None:
    """What a Llama 3 divides its rotary frequencies by, ``[head_dim / 2]``; None for others."""
    rope = model.config.rope_parameters
    if rope.get("rope_type", "default") == "default":
        return None
    width = _head_dim(model.config)
    powers = torch.arange(0, width, 2).float() / width
    actual: torch.Tensor = model.model.rotary_emb.inv_freq.float().cpu()
    return 1.0 / (torch.pow(float(rope["rope_theta"]), powers) * actual)


def _tied(model: Any) -> bool:
    """Whether the output head is the embedding, bit for bit."""
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    return head.shape == embedding.shape and bool(torch.equal(head, embedding))


def _encoded(name: str, tensor: torch.Tensor, type_: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    data = tensor.detach().float().cpu().contiguous().numpy()
    if type_ is GGMLQuantizationType.F16 and np.abs(data).max(initial=0.0) > _F16_MAX:
        raise TrialError(f"--gguf: {name} holds numbers beyond f16; write it as f32")
    encoded: np.ndarray[Any, Any] = quantize(data, type_)
    return encoded
