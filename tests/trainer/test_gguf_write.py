"""A GGUF file that was written computes what the model does, and says of it what llama.cpp asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFValueType, TokenType
from gguf_models import ROTARY, save_drawn, small
from tiny_models import END, save_tiny, tiny_tokenizer
from transformers import AutoTokenizer
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.gguf import load_gguf
from tune_lora.trainer.gguf_write import check_gguf, gguf_name, write_gguf

IDS = torch.randint(0, 300, (1, 150), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[BaseModel, Path]]:
    """Write a small model of random weights; the model as loaded, and the file."""

    def write(kind: str = "f32", **options: Any) -> tuple[BaseModel, Path]:
        folder = save_drawn(tmp_path / "model", **options)
        spec = BaseSpec(str(folder), "small", dtype="fp32")
        check_gguf(spec)
        base, path = load_base(spec), tmp_path / gguf_name(kind)
        write_gguf(base, folder, path, kind, "a small one")
        return base, path

    return write


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.eval()(IDS).logits)


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in GGUFReader(path).tensors}


def metadata(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"tie_word_embeddings": True},
        {"head_dim": 32},
        {"rope_parameters": ROTARY, "max_position_embeddings": 4096},
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "qwen2"},
        {"model_type": "qwen3", "head_dim": 128},
    ],
    ids=["tied", "wide heads", "llama 3", "mistral", "qwen2", "qwen3"],
)
def test_what_is_read_back_computes_the_same(
    written: Callable[..., tuple[BaseModel, Path]], options: dict[str, Any]
) -> None:
    base, path = written("f32", **options)
    expected = logits(base.model)
    assert torch.allclose(logits(load_gguf(path, torch.float32)), expected, atol=1e-5)
    assert expected.std() > 0.5


def test_halves_are_off_by_their_rounding(
    written: Callable[..., tuple[BaseModel, Path]],
) -> None:
    base, path = written("f16")
    read = load_gguf(path, torch.float32)
    for name, weight in base.model.state_dict().items():
        rounded = weight.half().float() if weight.ndim == 2 else weight
        assert torch.equal(read.state_dict()[name], rounded), name
    assert torch.allclose(logits(read), logits(base.model), atol=0.05)


def test_eight_bits_are_off_by_half_a_step(
    written: Callable[..., tuple[BaseModel, Path]],
) -> None:
    base, path = written("q8_0")
    read = load_gguf(path, torch.float32).state_dict()
    weight = base.model.state_dict()["model.layers.0.mlp.up_proj.weight"]
    blocks = weight.reshape(-1, 32)
    steps = blocks.abs().amax(1, keepdim=True) / 127
    off = (read["model.layers.0.mlp.up_proj.weight"].reshape(-1, 32) - blocks).abs()
    # The step is itself kept in 11 bits, and multiplied by at most 127.
    assert bool((off <= 0.57 * steps).all())
    assert float((off / steps).max()) > 0.4
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}
    assert kinds["blk.0.ffn_up.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.attn_norm.weight"] == "F32"


def test_rows_that_do_not_fill_a_block_are_halves(
    written: Callable[..., tuple[BaseModel, Path]],
) -> None:
    _, path = written("q8_0", intermediate_size=80)
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(path).tensors}
    assert kinds["blk.1.ffn_down.weight"] == "F16"
    assert kinds["blk.1.ffn_up.weight"] == "Q8_0"


def test_rotated_rows_lie_in_pairs(written: Callable[..., tuple[BaseModel, Path]]) -> None:
    base, path = written("f32")
    found = tensors(path)
    for name, module, heads in (("attn_q", "q_proj", 4), ("attn_k", "k_proj", 2)):
        weight = base.model.state_dict()[f"model.layers.1.self_attn.{module}.weight"].numpy()
        width = weight.shape[0] // heads
        expected = np.empty_like(weight)
        for head in range(heads):
            for pair in range(width // 2):
                row = head * width + 2 * pair
                expected[row] = weight[head * width + pair]
                expected[row + 1] = weight[head * width + width // 2 + pair]
        assert found[f"blk.1.{name}.weight"].data.tobytes() == expected.tobytes()
    value = base.model.state_dict()["model.layers.1.self_attn.v_proj.weight"].numpy()
    assert found["blk.1.attn_v.weight"].data.tobytes() == value.tobytes()


def test_frequency_factors_are_llama_3s(written: Callable[..., tuple[BaseModel, Path]]) -> None:
    """Held against the formula in llama.cpp's convert_hf_to_gguf.py."""
    _, path = written("f16", rope_parameters=ROTARY, max_position_embeddings=4096)
    expected = []
    for index in range(8):
        wavelength = 2 * np.pi * ROTARY["rope_theta"] ** (index / 8)
        share = (64 / wavelength - 1.0) / (4.0 - 1.0)
        smooth = 1 / ((1 - share) / 8.0 + share)
        expected.append(1.0 if wavelength < 16 else 8.0 if wavelength > 64 else smooth)
    assert len({*expected}) > 2
    assert tensors(path)["rope_freqs.weight"].data == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_not_written_twice(
    written: Callable[..., tuple[BaseModel, Path]], tied: bool
) -> None:
    _, path = written("f16", tie_word_embeddings=tied)
    assert ("output.weight" not in tensors(path)) is tied


def test_a_head_that_was_trained_apart_is_written(tmp_path: Path) -> None:
    folder = save_drawn(tmp_path / "model", tie_word_embeddings=True)
    base = load_base(BaseSpec(str(folder), "small", dtype="fp32"))
    base.model.lm_head.weight = torch.nn.Parameter(base.model.lm_head.weight * 2)
    write_gguf(base, folder, tmp_path / "m.gguf", "f32", "a small one")
    assert torch.equal(logits(load_gguf(tmp_path / "m.gguf", torch.float32)), logits(base.model))


def test_metadata(written: Callable[..., tuple[BaseModel, Path]]) -> None:
    base, path = written("f16", head_dim=32)
    found = metadata(path)
    shape = {
        "block_count": 2,
        "context_length": 2048,
        "embedding_length": 64,
        "feed_forward_length": 96,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "rope.dimension_count": 32,
        "rope.freq_base": 10000.0,
        "vocab_size": 320,
    }
    assert {key: found[f"llama.{key}"] for key in shape} == shape
    assert found["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-6)
    assert (found["general.architecture"], found["general.type"]) == ("llama", "model")
    assert (found["general.file_type"], found["general.quantization_version"]) == (1, 2)
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert found["tokenizer.ggml.eos_token_id"] == base.tokenizer.eos_token_id
    assert found["tokenizer.ggml.padding_token_id"] == base.tokenizer.pad_token_id
    assert found["tokenizer.ggml.add_bos_token"] is False
    fields = GGUFReader(path).fields
    assert fields["tokenizer.ggml.add_space_prefix"].types == [GGUFValueType.BOOL]


def test_vocabulary(written: Callable[..., tuple[BaseModel, Path]]) -> None:
    base, path = written("f16")
    found, size = metadata(path), len(base.tokenizer)
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert tokens[:size] == base.tokenizer.convert_ids_to_tokens(range(size))
    assert (len(tokens), tokens[-1]) == (320, "[PAD319]")
    assert kinds[base.tokenizer.eos_token_id] == TokenType.CONTROL
    assert set(kinds[1:size]) == {TokenType.NORMAL}
    assert set(kinds[size:]) == {TokenType.UNUSED}
    text = f'Turn this into JSON: 12 "apples" {END}'
    read = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    assert read(text)["input_ids"] == base.tokenizer(text)["input_ids"]


def test_chat_template_and_beginning_come_along(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    folder = save_tiny(tmp_path / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.bos_token = END
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.eos_token_id)]
    )
    tokenizer.save_pretrained(str(folder))
    base = load_base(BaseSpec(str(folder), "tiny", dtype="fp32"))
    write_gguf(base, folder, tmp_path / "m.gguf", "f16", "a tiny one")
    found = metadata(tmp_path / "m.gguf")
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.bos_token_id"] == tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attention_bias": True}, "its attention has biases"),
        ({"mlp_bias": True}, "its feed-forward blocks have biases"),
        ({"hidden_act": "gelu"}, "its activation is gelu"),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
            "its rotary positions are scaled (linear)",
        ),
        ({"model_type": "mistral", "sliding_window": 128}, "it attends in a sliding window"),
        ({"model_type": "qwen3", "head_dim": 32}, "its heads are 32 wide"),
    ],
)
def test_what_would_be_another_model_is_refused(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    config = small(**options)
    config.save_pretrained(str(tmp_path))
    tiny_tokenizer().save_pretrained(str(tmp_path))
    with pytest.raises(TrialError) as refused:
        check_gguf(BaseSpec(str(tmp_path), "mine"))
    said = str(refused.value)
    assert said.startswith(f"--gguf: mine: {reason}; GGUF is written for causal models of type")


@pytest.mark.parametrize("architecture", ["gpt2", "bloom", "falcon", "opt", "t5", "bert"])
def test_other_architectures_are_refused(tiny: Callable[..., Path], architecture: str) -> None:
    from tiny_models import TASKS

    spec = BaseSpec(str(tiny(architecture)), "mine", task=TASKS[architecture], labels=("a", "b"))
    reason = f"its (type is {architecture}|task is {spec.task})"
    with pytest.raises(TrialError, match=f"{reason}; .* llama, mistral .* qwen2 and qwen3"):
        check_gguf(spec)


def test_numbers_beyond_f16_are_refused(tmp_path: Path) -> None:
    folder = save_drawn(tmp_path / "model")
    base = load_base(BaseSpec(str(folder), "small", dtype="fp32"))
    with torch.no_grad():
        base.model.model.layers[1].mlp.up_proj.weight[3, 4] = -7e4
    with pytest.raises(TrialError, match=r"blk\.1\.ffn_up\.weight holds numbers beyond f16"):
        write_gguf(base, folder, tmp_path / "m.gguf", "f16", "a small one")
    write_gguf(base, folder, tmp_path / "m32.gguf", "f32", "a small one")
