"""Tokenized splits: other tasks than causal, fingerprints, and the way to disk and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_tokenizer
from tune_lora.spaces import DataBlock, SpaceError
from tune_lora.trainer.data import TokenizedData, tokenize
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.score import collator

ALLOWED: dict[str, Any] = {"duplicates": "allow"}
"""To have the same rows for training and validation."""


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _reviews(labels: Sequence[object]) -> list[dict[str, object]]:
    return [{"text": f"review {index}", "label": label} for index, label in enumerate(labels)]


def _causal(path: Path, count: int, **fields: object) -> TokenizedData:
    rows = [{"instruction": f"say {index}", "response": str(index)} for index in range(count)]
    block = DataBlock.model_validate({"train": _write(path, rows), **fields})
    return tokenize(block, "CAUSAL_LM", tiny_tokenizer())


def test_classes_are_numbered_in_sorted_order(tmp_path: Path) -> None:
    rows = _reviews(["good", "bad", "so-so"] * 6)
    source = _write(tmp_path / "d.jsonl", rows)
    block = DataBlock(train=source, validation=source, test=0, format="classification", **ALLOWED)
    tokenizer = tiny_tokenizer(pad="<pad>")
    data = tokenize(block, "SEQ_CLS", tokenizer)
    assert data.labels == ("bad", "good", "so-so")
    found = {tokenizer.decode(row["input_ids"]): row["labels"] for row in data.validation}
    numbers = {"bad": 0, "good": 1, "so-so": 2}
    assert found == {str(row["text"]): numbers[str(row["label"])] for row in rows}
    assert data.stats["validation"]["supervised"] == len(rows)
    batch = collator(tokenizer, "SEQ_CLS")([data.train[index] for index in range(3)])
    assert batch["labels"].tolist() == data.train["labels"][:3]


def test_whole_numbers_are_classes_too(tmp_path: Path) -> None:
    source = _write(tmp_path / "d.jsonl", _reviews([0, 1] * 5))
    block = DataBlock(train=source, validation=source, format="classification", test=0, **ALLOWED)
    assert tokenize(block, "SEQ_CLS", tiny_tokenizer()).labels == ("0", "1")


def test_a_class_that_training_lacks_is_refused(tmp_path: Path) -> None:
    block = DataBlock(
        train=_write(tmp_path / "d.jsonl", _reviews(["good", "bad"] * 4)),
        validation=_write(tmp_path / "v.jsonl", [{"text": "other", "label": "awful"}]),
        format="classification",
    )
    with pytest.raises(SpaceError, match="bad, good") as caught:
        tokenize(block, "SEQ_CLS", tiny_tokenizer())
    assert caught.value.faults[0].value == "awful"


def test_long_texts_are_cut_for_classification(tmp_path: Path) -> None:
    rows = [{"text": "x" * (30 if index < 3 else 5), "label": index % 2} for index in range(8)]
    source = _write(tmp_path / "d.jsonl", rows)
    block = DataBlock(
        train=source, validation=source, format="classification", max_length=8, **ALLOWED
    )
    stats = tokenize(block, "SEQ_CLS", tiny_tokenizer()).stats["validation"]
    assert (stats["truncated"], stats["longest"], stats["tokens"]) == (3, 8, 3 * 8 + 5 * 5)


def test_sequence_to_sequence_keeps_prompt_and_response_apart(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(pad="<pad>", closes=True)
    source = _write(tmp_path / "d.jsonl", [{"instruction": "add", "response": '{"a":1}'}] * 4)
    block = DataBlock(
        train=source, validation=source, template="do: {instruction}", test=0, **ALLOWED
    )
    row = tokenize(block, "SEQ_2_SEQ_LM", tokenizer).train[0]
    assert row["input_ids"] == tokenizer("do: add")["input_ids"]
    assert row["labels"] == tokenizer('{"a":1}')["input_ids"]
    assert row["labels"][-1] == tokenizer.eos_token_id
    assert -100 not in row["labels"]


def test_sequence_to_sequence_padding(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(pad="<pad>", closes=True)
    rows = [{"input_ids": [5, 6, 7], "labels": [8]}, {"input_ids": [5], "labels": [8, 9]}]
    batch = collator(tokenizer, "SEQ_2_SEQ_LM")(rows)
    pad = tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7], [5, pad, pad]]
    assert batch["labels"].tolist() == [[8, -100], [8, 9]]


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    made = _causal(tmp_path / "d.jsonl", 12, test=0)
    made.save(tmp_path / "run" / "data")
    read = TokenizedData.load(tmp_path / "run" / "data")
    assert (read.fingerprint, read.labels) == (made.fingerprint, made.labels)
    assert {key: dict(value) for key, value in read.stats.items()} == made.stats
    for split in ("train", "validation", "test"):
        assert list(getattr(read, split)) == list(getattr(made, split))
    assert len(read.test) == 0


def test_loading_what_was_not_finished(tmp_path: Path) -> None:
    _causal(tmp_path / "d.jsonl", 6).save(tmp_path / "data")
    (tmp_path / "data" / "about.json").unlink()  # the last file that save() writes
    with pytest.raises(TrialError, match="about"):
        TokenizedData.load(tmp_path / "data")


def test_the_fingerprint_follows_the_data(tmp_path: Path) -> None:
    first = _causal(tmp_path / "a.jsonl", 12).fingerprint
    assert _causal(tmp_path / "b.jsonl", 12).fingerprint == first
    others = [
        _causal(tmp_path / "a.jsonl", 12, seed=1),
        _causal(tmp_path / "a.jsonl", 12, validation=0.2),
        _causal(tmp_path / "a.jsonl", 12, template="{instruction}:"),
        _causal(tmp_path / "a.jsonl", 12, limit={"train": 5}),
        _causal(tmp_path / "c.jsonl", 13),
    ]
    assert len({first, *(data.fingerprint for data in others)}) == 6


def test_rows_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    (tmp_path / "file").write_text("")
    source = _write(tmp_path / "d.jsonl", _reviews(["a", "b"] * 4))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file" / "below"))
    block = DataBlock(train=source, format="classification")
    with pytest.raises(TrialError, match=r"rows cannot be written.*HF_DATASETS_CACHE"):
        tokenize(block, "SEQ_CLS", tiny_tokenizer())
