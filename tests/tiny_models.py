"""Tiny random models of each architecture, with a tokenizer, saved as folders in milliseconds.

Hidden size 32, two layers: large enough for every preset of target modules to exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

END = "<end>"
VOCABULARY = 320
_TEXT = ["Turn this into JSON.", "### Instruction:\n", "### Response:\n", '{"a":1}']

ARCHITECTURES = ("llama", "gpt2", "bloom", "falcon", "opt", "t5", "bert")


def tiny_tokenizer(*, pad: str | None = None, closes: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer.

    Args:
        pad: its pad token; by default the end token, as many Llamas have it.
        closes: whether it ends every text with its end token, as T5's does.
    """
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    specials = [END, *([pad] if pad else [])]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 8,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator(_TEXT, trainer)
    if closes:
        made.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, made.token_to_id(END))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=pad or END)


def _llama() -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=2))


def _bloom() -> PreTrainedModel:
    return BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=2))


def _falcon() -> PreTrainedModel:
    config = FalconConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    return FalconForCausalLM(config)


def _opt() -> PreTrainedModel:
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=64,
        word_embed_proj_dim=32,
    )
    return OPTForCausalLM(config)


def _t5() -> PreTrainedModel:
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def _bert() -> PreTrainedModel:
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    return BertForSequenceClassification(config)


_MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "bloom": _bloom,
    "falcon": _falcon,
    "opt": _opt,
    "t5": _t5,
    "bert": _bert,
}
TASKS = dict.fromkeys(ARCHITECTURES, "CAUSAL_LM") | {"t5": "SEQ_2_SEQ_LM", "bert": "SEQ_CLS"}


def tiny_model(architecture: str, seed: int = 0) -> PreTrainedModel:
    """A random model in fp32."""
    torch.manual_seed(seed)
    return _MAKERS[architecture]()


def save_tiny(folder: Path, architecture: str = "llama", **tokenizer: Any) -> Path:
    """A model folder with tokenizer at ``folder``; see ``tiny_tokenizer`` for the options."""
    if architecture == "t5":
        tokenizer.setdefault("closes", True)
        tokenizer.setdefault("pad", "<pad>")
    tiny_model(architecture).save_pretrained(str(folder))
    tiny_tokenizer(**tokenizer).save_pretrained(str(folder))
    return folder
