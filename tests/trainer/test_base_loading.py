"""Loading a base model: the weights as saved, in which precision, and what fails."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TASKS, save_tiny, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from tune_lora.spaces import ModelBlock
from tune_lora.trainer import base
from tune_lora.trainer.base import (
    BaseSpec,
    check_on_gpus,
    device_map,
    load_base,
    load_tokenizer,
    meta_model,
)
from tune_lora.trainer.errors import TrialError

Tiny = Callable[..., Path]
_LONG = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def _spec(folder: Path, **fields: Any) -> BaseSpec:
    return BaseSpec(source=str(folder), name=folder.name, **{"dtype": "fp32", **fields})


@pytest.mark.parametrize("architecture", ["llama", "t5", "bert"])
def test_without_quantization_the_weights_are_those_saved(tiny: Tiny, architecture: str) -> None:
    labels = ("a", "b") if architecture == "bert" else ()
    spec = _spec(tiny(architecture), task=TASKS[architecture], labels=labels)
    base = load_base(spec)
    saved = tiny_model(architecture).state_dict()
    for name, tensor in base.model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


@pytest.mark.parametrize(
    ("asked", "native", "given"),
    [
        ("fp32", False, torch.float32),
        ("fp16", False, torch.float32),
        ("bf16", False, torch.float32),
        ("fp16", True, torch.bfloat16),
        ("bf16", True, torch.bfloat16),
        ("auto", True, torch.bfloat16),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="what a CPU falls back to")
def test_dtypes_and_their_logged_fallbacks(
    tiny: Tiny,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    asked: str,
    native: bool,
    given: torch.dtype,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    with caplog.at_level(logging.WARNING, logger="tune_lora"):
        base = load_base(_spec(tiny(), dtype=asked))
    assert base.dtype is given
    assert {parameter.dtype for parameter in base.model.parameters()} == {given}
    fell_back = f"{asked} is not supported on this cpu: using {given}" in caplog.text
    assert fell_back is (asked != "auto" and f"{given}" != f"torch.{_LONG[asked]}")
    with base.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype is given


def test_a_classification_head_has_the_classes_and_one_start(tiny: Tiny) -> None:
    spec = _spec(tiny("bert"), task="SEQ_CLS", labels=("bad", "good", "so-so"))
    spec = BaseSpec.from_dict({**spec.to_dict(), "source": str(tiny("llama"))})
    first, second = load_base(spec).model, load_base(spec).model
    assert first.config.id2label == {0: "bad", 1: "good", 2: "so-so"}
    assert first.config.label2id == {"bad": 0, "good": 1, "so-so": 2}
    assert first.score.weight.shape == (3, 32)
    assert torch.equal(first.score.weight, second.score.weight)
    assert first.config.pad_token_id == load_tokenizer(spec).pad_token_id


def test_the_meta_model_has_the_same_modules_and_no_weights(tiny: Tiny) -> None:
    spec = _spec(tiny("gpt2"))
    meta, real = meta_model(spec), load_base(spec).model
    assert [name for name, _ in meta.named_modules()] == [name for name, _ in real.named_modules()]
    assert {name: p.shape for name, p in meta.named_parameters()} == {
        name: p.shape for name, p in real.named_parameters()
    }
    assert all(parameter.is_meta for parameter in meta.parameters())


@pytest.mark.parametrize("load", [load_base, meta_model, load_tokenizer])
def test_a_folder_that_is_gone_is_a_trial_error(tmp_path: Path, load: Callable[..., Any]) -> None:
    with pytest.raises(TrialError, match="gone"):
        load(_spec(tmp_path / "gone"))


def test_broken_weights_are_a_trial_error(tmp_path: Path, tiny: Tiny) -> None:
    folder = Path(shutil.copytree(tiny(), tmp_path / "broken"))
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(TrialError, match="broken: the model could not be loaded"):
        load_base(_spec(folder))


def test_a_model_of_another_task_is_a_trial_error(tiny: Tiny) -> None:
    with pytest.raises(TrialError, match="SEQ_2_SEQ_LM"):
        meta_model(_spec(tiny("llama"), task="SEQ_2_SEQ_LM"))


def _edit_tokenizer(folder: Path, **fields: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("pad", [None, "<pad>"])
def test_a_tokenizer_without_a_pad_token_pads_with_its_end(tmp_path: Path, pad: str | None) -> None:
    folder = save_tiny(tmp_path / "model", pad=pad)
    _edit_tokenizer(folder, pad_token=pad, padding_side="left")
    saved = AutoTokenizer.from_pretrained(folder)
    assert (saved.pad_token, saved.padding_side) == (pad, "left")
    tokenizer = load_tokenizer(_spec(folder))
    assert tokenizer.pad_token == (pad or tokenizer.eos_token)
    assert tokenizer.padding_side == "right"


def test_a_tokenizer_with_neither_pad_nor_end_is_a_trial_error(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    _edit_tokenizer(folder, pad_token=None, eos_token=None)
    with pytest.raises(TrialError, match="neither a pad nor an end token"):
        load_tokenizer(_spec(folder))


@pytest.mark.parametrize(
    ("architecture", "labels", "fresh"),
    [
        ("bert", ("a", "b"), ()),
        ("bert", ("a", "b", "c"), ("classifier",)),
        ("tagger", ("a", "b"), ("classifier",)),
        ("roberta", ("a", "b"), ("classifier",)),
        ("distilbert", ("a", "b"), ("pre_classifier", "classifier")),
        ("llama", (), ()),
    ],
)
def test_modules_without_weights_are_known(
    model_block: Callable[..., ModelBlock],
    architecture: str,
    labels: tuple[str, ...],
    fresh: tuple[str, ...],
) -> None:
    assert load_base(BaseSpec.of(model_block(architecture), labels)).fresh == fresh


@pytest.mark.parametrize(
    ("architecture", "fresh"),
    [
        ("tagger", ("classifier", "bert.pooler.dense")),
        ("bart", ("classification_head",)),
        ("t5", ("classification_head",)),
        ("llama", ("score",)),
    ],
)
def test_models_of_another_task_get_a_head_for_classes(
    model_block: Callable[..., ModelBlock], architecture: str, fresh: tuple[str, ...]
) -> None:
    block = model_block(architecture).model_copy(update={"task": "SEQ_CLS"})
    assert load_base(BaseSpec.of(block, ("a", "b"))).fresh == fresh


@pytest.mark.parametrize(
    ("gpus", "chosen"), [(0, {"": "cpu"}), (1, {"": 0}), (2, "balanced"), (8, "balanced")]
)
def test_where_a_model_goes_by_its_gpus(gpus: int, chosen: object) -> None:
    assert device_map(gpus) == chosen


def test_a_worker_spreads_a_model_over_the_gpus_that_it_sees(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def stop(source: str, **options: Any) -> None:
        asked.update(options)
        raise OSError("far enough")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", stop)
    monkeypatch.setattr(base, "pick_device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(base, "compute_dtype", lambda *_: torch.float32)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for spread, chosen in ((True, "balanced"), (False, {"": 0})):
        with pytest.raises(TrialError, match="far enough"):
            load_base(_spec(tiny()), spread=spread)
        assert asked["device_map"] == chosen


def test_a_model_on_a_single_gpu_needs_no_map(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    real, gpu = AutoModelForCausalLM.from_pretrained, torch.device("cuda", 0)

    def load(source: str, **options: Any) -> Any:
        assert options["device_map"] == {"": 0}
        return real(source, **{**options, "device_map": {"": "cpu"}})

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", load)
    monkeypatch.setattr(base, "pick_device", lambda: gpu)
    monkeypatch.setattr(base, "compute_dtype", lambda *_: torch.float32)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert load_base(_spec(tiny()), spread=True).device == gpu


def test_a_model_that_is_not_on_gpus_as_a_whole_is_refused() -> None:
    check_on_gpus("m", {"model.embed_tokens": 0, "model.layers.0": 0, "lm_head": 1})
    placed = {"model.layers.0": 0, "model.layers.1": "cpu", "lm_head": "disk"}
    with pytest.raises(TrialError, match=r"model\.layers\.1 and 1 more .*gpus_per_trial"):
        check_on_gpus("m", placed)
