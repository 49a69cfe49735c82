"""GGUF files become model folders once, and a broken one leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf_file import write_gguf
from transformers import AutoModelForCausalLM
from tune_lora.spaces import DataBlock, ModelBlock
from tune_lora.trainer.base import BaseSpec, load_base
from tune_lora.trainer.data import tokenize
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.gguf import convert
from tune_lora.trainer.sources import cache_root, resolve_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Conversions go to this test's own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_root() / "gguf"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path)
    return path


def _spec(path: Path) -> BaseSpec:
    return BaseSpec.of(ModelBlock(name=str(path), quantization="none", dtype="fp32"))


def test_the_model_computes_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    written = write_gguf(path, seed=3).eval()
    read = load_base(_spec(path)).model
    ids = torch.arange(40, 60).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(read(ids).logits, written(ids).logits, atol=1e-6)


def test_the_end_token_is_supervised_where_it_pads(file: Path, pairs: Path) -> None:
    base = load_base(_spec(file))
    tokenizer = base.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == base.model.config.pad_token_id
    data = tokenize(DataBlock(train=str(pairs)), "CAUSAL_LM", tokenizer)
    assert {row["labels"][-1] for row in data.train} == {tokenizer.eos_token_id}
    row = data.train[0]
    response = [label for label in row["labels"] if label != -100]
    assert tokenizer.decode(response[:-1]).startswith('{"apples":')


def test_a_second_call_converts_nothing(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = convert(file)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("read again")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    assert convert(file) == first
    assert list(cache.iterdir()) == [first]
    shutil.rmtree(first)
    with pytest.raises(TrialError, match="read again"):
        convert(file)


def test_the_folder_is_named_by_the_content(file: Path, tmp_path: Path) -> None:
    first = convert(file)
    copy = tmp_path / "elsewhere" / file.name
    copy.parent.mkdir()
    copy.write_bytes(file.read_bytes())
    assert convert(copy) == first
    write_gguf(file, seed=1)
    assert convert(file) != first


def test_resolving_a_gguf_gives_the_converted_folder(file: Path, cache: Path) -> None:
    found = resolve_model(ModelBlock(name=str(file)))
    assert Path(found.folder).parent == cache
    assert found.reference == found.folder
    assert (Path(found.folder) / "tokenizer.json").is_file()


_BREAKAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "no gguf": lambda raw: b"NOPE" + raw[4:],
    "cut in the header": lambda raw: raw[:1000],
    "cut in the weights": lambda raw: raw[: len(raw) // 2],
    "another version": lambda raw: raw[:4] + b"\x09" + raw[5:],
    "unknown architecture": lambda raw: raw.replace(b"llama", b"lxxma"),
}


@pytest.mark.parametrize("breakage", _BREAKAGES)
def test_a_broken_file_leaves_nothing_in_the_cache(file: Path, cache: Path, breakage: str) -> None:
    file.write_bytes(_BREAKAGES[breakage](file.read_bytes()))
    with pytest.raises(TrialError, match=file.name):
        convert(file)
    assert list(cache.iterdir()) == []
