"""A byte-level BPE tokenizer in the words of a GGUF file's metadata.

llama.cpp splits text by rules that it knows by name (``tokenizer.ggml.pre``). Its converter guesses
the name from what a tokenizer makes of a sample; here it is read off the rules themselves, so that
llama.cpp splits as the tokenizer that the adapter was trained with does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType
from transformers import PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from .errors import TrialError

_BYTES, _BYTES_AND_WORDS = ("ByteLevel", False), ("ByteLevel", True)
_RULES: dict[tuple[tuple[str, object], ...], str] = {
    (_BYTES_AND_WORDS,): "gpt-2",
    (("Digits", True), _BYTES_AND_WORDS): "smollm",
    **{
        (("Split", GGUF_PRE_TOKENIZER_SPLITS[name]), _BYTES): name
        for name in ("llama-bpe", "qwen2", "tekken", "gpt-4o")
    },
}
"""llama.cpp's name for each sequence of steps that a tokenizer can split text by."""


def pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """The name that llama.cpp has for how a tokenizer splits text.

    Raises:
        TrialError: it is no byte-level BPE, or splits in a way of its own.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TrialError("its tokenizer has no tokenizer.json")
    parts: dict[str, Any] = json.loads(backend.to_str())
    model, decoder = parts["model"], parts["decoder"] or {}
    byte_level = decoder.get("type") == "ByteLevel" and not model.get("byte_fallback")
    if model["type"] != "BPE" or not byte_level:
        raise TrialError("its tokenizer is no byte-level BPE")
    # llama.cpp does without NFC, which changes only text in decomposed Unicode.
    if (parts["normalizer"] or {}).get("type", "NFC") != "NFC":
        raise TrialError(f"its tokenizer normalizes text ({parts['normalizer']['type']})")
    steps = tuple(_step(part) for part in _sequence(parts["pre_tokenizer"] or {}))
    if steps not in _RULES:
        raise TrialError("its tokenizer splits text by rules that have no name in llama.cpp")
    return _RULES[steps]


def _sequence(part: dict[str, Any]) -> list[dict[str, Any]]:
    return list(part["pretokenizers"]) if part.get("type") == "Sequence" else [part]


def _step(part: dict[str, Any]) -> tuple[str, object]:
    kind = str(part.get("type"))
    if kind == "ByteLevel" and not part["add_prefix_space"]:
        return kind, part["use_regex"]
    if kind == "Digits":
        return kind, part["individual_digits"]
    if kind == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
        return kind, part["pattern"].get("Regex")
    return kind, None


def add_vocab(
    writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, folder: Path, size: int
) -> None:
    """Add tokens, merges, special tokens and chat template.

    Args:
        writer: of a file that is not open yet.
        tokenizer: one that has a ``pre_tokenizer``.
        folder: where it and its model are saved.
        size: of the model's embedding; what has no token is marked as unused.
    """
    names = {index: token for token, index in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    kinds = {
        index: TokenType.CONTROL if token.special else TokenType.USER_DEFINED
        for index, token in added.items()
    }
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer))
    writer.add_token_list([names.get(index, f"[PAD{index}]") for index in range(size)])
    writer.add_token_types(
        [
            kinds.get(index, TokenType.NORMAL) if index in names else TokenType.UNUSED
            for index in range(size)
        ]
    )
    special = SpecialVocab(folder, load_merges=True, n_vocab=size)
    special.add_special_token |= _adds(tokenizer)
    special.add_to_gguf(writer, quiet=True)
    writer.add_add_space_prefix(False)


def _adds(tokenizer: PreTrainedTokenizerBase) -> dict[str, bool]:
    """Whether a text gets a beginning and an end token; some of llama.cpp's defaults are yes."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return {"bos": whole[0] != bare[0], "eos": whole[-1] != bare[-1]}
