"""llama.cpp's names for how tokenizers split text."""

from __future__ import annotations

import pytest
from tiny_models import tiny_tokenizer
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.gguf_vocab import pre_tokenizer

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As it stands in tokenizer.json of Llama 3; Qwen2's differs in its numbers."""
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    rule = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    return pre_tokenizers.Sequence([rule, BYTES])


def fresh() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer)


@pytest.mark.parametrize(
    ("name", "splitter"),
    [
        ("gpt-2", WORDS),
        ("smollm", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS])),
        ("llama-bpe", split(LLAMA_3)),
        ("qwen2", split(LLAMA_3.replace(r"\p{N}{1,3}", r"\p{N}"))),
    ],
)
def test_known_rules(name: str, splitter: pre_tokenizers.PreTokenizer) -> None:
    tokenizer = fresh()
    tokenizer.backend_tokenizer.pre_tokenizer = splitter
    assert pre_tokenizer(tokenizer) == name


@pytest.mark.parametrize(
    "splitter",
    [
        split(r"\p{L}+"),
        pre_tokenizers.Whitespace(),
        pre_tokenizers.ByteLevel(add_prefix_space=True),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), WORDS]),
    ],
)
def test_rules_of_its_own(splitter: pre_tokenizers.PreTokenizer) -> None:
    tokenizer = fresh()
    tokenizer.backend_tokenizer.pre_tokenizer = splitter
    with pytest.raises(TrialError, match="rules that have no name in llama"):
        pre_tokenizer(tokenizer)


def test_unicode_forms() -> None:
    tokenizer = fresh()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    assert pre_tokenizer(tokenizer) == "gpt-2"
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(TrialError, match=r"normalizes text \(Lowercase\)"):
        pre_tokenizer(tokenizer)


def test_other_kinds_of_tokenizer() -> None:
    tokenizer = fresh()
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    with pytest.raises(TrialError, match="no byte-level BPE"):
        pre_tokenizer(tokenizer)
    tokenizer = fresh()
    tokenizer.backend_tokenizer.model = models.WordLevel({"a": 0}, unk_token="a")
    with pytest.raises(TrialError, match="no byte-level BPE"):
        pre_tokenizer(tokenizer)
