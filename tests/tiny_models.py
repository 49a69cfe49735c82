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
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    FalconConfig,
    FalconForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

END = "<end>"
VOCABULARY = 320
_TEXT = ["Turn this into JSON.", "### Instruction:\n", "### Response:\n", '{"a":1}']

ARCHITECTURES = ("llama", "gpt2", "bloom", "falcon", "opt", "t5", "bert")
"""Those that a packaged space is for."""
OTHERS = (
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "phi",
    "gpt_neox",
    "bart",
    "roberta",
    "distilbert",
    "tagger",
)
"""The other families; ``tagger`` is BERT for tags. These encoders are saved as pretraining leaves
them, without a head for classes."""


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


_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_GROUPED = {**_DECODER, "num_key_value_heads": 1, "head_dim": 16}


def _bart() -> PreTrainedModel:
    config = BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=256,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    return BartForConditionalGeneration(config)


def _distilbert() -> PreTrainedModel:
    config = DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=2, hidden_dim=64)
    return DistilBertForMaskedLM(config)


_MAKERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": _llama,
    "gpt2": _gpt2,
    "bloom": _bloom,
    "falcon": _falcon,
    "opt": _opt,
    "t5": _t5,
    "bert": _bert,
    "mistral": lambda: MistralForCausalLM(MistralConfig(**_GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_GROUPED)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_GROUPED)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**_DECODER)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_DECODER)),
    "bart": _bart,
    "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**_DECODER, pad_token_id=1)),
    "distilbert": _distilbert,
    "tagger": lambda: BertForMaskedLM(BertConfig(**_DECODER)),
}
TASKS = dict.fromkeys([*ARCHITECTURES, *OTHERS], "CAUSAL_LM") | {
    "t5": "SEQ_2_SEQ_LM",
    "bart": "SEQ_2_SEQ_LM",
    "bert": "SEQ_CLS",
    "roberta": "SEQ_CLS",
    "distilbert": "SEQ_CLS",
    "tagger": "TOKEN_CLS",
}


def tiny_model(architecture: str, seed: int = 0) -> PreTrainedModel:
    """A random model in fp32."""
    torch.manual_seed(seed)
    return _MAKERS[architecture]()


def save_tiny(folder: Path, architecture: str = "llama", **tokenizer: Any) -> Path:
    """A model folder with tokenizer at ``folder``; see ``tiny_tokenizer`` for the options."""
    if architecture in ("t5", "bart", "roberta", "distilbert", "tagger"):
        tokenizer.setdefault("closes", architecture in ("t5", "bart"))
        tokenizer.setdefault("pad", "<pad>")
    tiny_model(architecture).save_pretrained(str(folder))
    tiny_tokenizer(**tokenizer).save_pretrained(str(folder))
    return folder
