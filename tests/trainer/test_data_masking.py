"""What is supervised: the response and its end token, never the prompt, never padding."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_tokenizer
from transformers import PreTrainedTokenizerFast
from tune_lora.spaces import DataBlock, SpaceError
from tune_lora.trainer.data import tokenize
from tune_lora.trainer.encode import causal_rows, prompt_ids
from tune_lora.trainer.score import collator, supervised_count

PROMPT = "### Instruction:\nDefine a noun.\n\n### Response:\n"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    made = tiny_tokenizer()
    assert made.pad_token_id == made.eos_token_id
    return made


def _write(path: Path, rows: list[tuple[str, str]]) -> str:
    lines = (json.dumps({"instruction": a, "response": b}) + "\n" for a, b in rows)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def causal_row(
    tokenizer: PreTrainedTokenizerFast, prompt: str, response: str, max_length: int
) -> dict[str, Any]:
    (row,) = causal_rows(tokenizer, [prompt], [response], max_length)
    return row


def test_a_row_is_prompt_response_end(tokenizer: PreTrainedTokenizerFast) -> None:
    row = causal_row(tokenizer, PROMPT, '{"a":1}', 512)
    prompt = tokenizer(PROMPT)["input_ids"]
    response = [*tokenizer('{"a":1}')["input_ids"], tokenizer.eos_token_id]
    assert row["input_ids"] == prompt + response
    assert row["labels"] == [-100] * len(prompt) + response
    assert row["truncated"] is False


def test_a_closing_tokenizer_does_not_end_the_prompt() -> None:
    closing = tiny_tokenizer(closes=True)
    row = causal_row(closing, PROMPT, "1", 512)
    assert closing(PROMPT)["input_ids"][-1] == closing.eos_token_id
    assert row["input_ids"].count(closing.eos_token_id) == 1
    assert row["input_ids"][-1] == row["labels"][-1] == closing.eos_token_id
    assert prompt_ids(closing, PROMPT) == tiny_tokenizer()(PROMPT)["input_ids"]


@pytest.mark.parametrize("pad", [None, "<pad>"])
def test_padding_is_masked_by_position(pad: str | None) -> None:
    tokenizer = tiny_tokenizer(pad=pad)
    rows = [causal_row(tokenizer, PROMPT, text, 512) for text in ("1", '{"a":1,"b":[2,3]}')]
    for row in rows:
        del row["truncated"]
    batch = collator(tokenizer, "CAUSAL_LM")([dict(row) for row in rows])
    longest = max(len(row["input_ids"]) for row in rows)
    assert tuple(batch["input_ids"].shape) == (2, longest)
    for index, row in enumerate(rows):
        length, pads = len(row["input_ids"]), longest - len(row["input_ids"])
        assert batch["labels"][index].tolist() == row["labels"] + [-100] * pads
        assert batch["input_ids"][index].tolist()[length:] == [tokenizer.pad_token_id] * pads
        assert batch["attention_mask"][index].tolist() == [1] * length + [0] * pads
        assert row["labels"][-1] == tokenizer.eos_token_id


def test_no_batch_is_wider_than_its_longest_row(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    lengths = [9, 3, 17, 4, 4, 30]
    rows: list[dict[str, Any]] = [
        {"input_ids": [7] * length, "labels": [-100] + [7] * (length - 1)} for length in lengths
    ]
    collate = collator(tokenizer, "CAUSAL_LM")
    for start in range(0, len(rows), 2):
        batch = collate([dict(row) for row in rows[start : start + 2]])
        assert batch["input_ids"].shape[1] == max(lengths[start : start + 2])
        wanted = sum(length - 1 for length in lengths[start : start + 2])
        assert supervised_count(batch["labels"], "CAUSAL_LM") == wanted


def test_truncation_cuts_the_end_and_is_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [("Define a noun.", f"{index}{'x' * (4 if index % 2 else 60)}") for index in range(10)]
    block = DataBlock(train=_write(tmp_path / "d.jsonl", rows), max_length=64, test=0)
    whole = [causal_row(tokenizer, PROMPT, text, 10_000)["input_ids"] for _, text in rows]
    assert sum(len(ids) > 64 for ids in whole) == 5
    with caplog.at_level(logging.WARNING):
        data = tokenize(block, "CAUSAL_LM", tokenizer)
    stats = [data.stats[split] for split in ("train", "validation")]
    assert sum(one["truncated"] for one in stats) == 5
    assert sum(one["rows"] for one in stats) == 10
    assert sum(one["tokens"] for one in stats) == sum(min(len(ids), 64) for ids in whole)
    prompt = len(tokenizer(PROMPT)["input_ids"])
    assert sum(one["supervised"] for one in stats) == sum(
        min(len(ids), 64) - prompt for ids in whole
    )
    assert data.stats["train"]["longest"] == 64
    cut = [row for row in data.train if len(row["input_ids"]) == 64]
    assert cut
    assert all(row["labels"][-1] != tokenizer.eos_token_id for row in cut)
    assert "cut at data.max_length" in caplog.text


def test_a_row_without_a_supervised_token_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [("short", "yes")] * 9 + [("long " * 50, "yes")]
    block = DataBlock(train=_write(tmp_path / "d.jsonl", rows), max_length=64, test=0)
    with pytest.raises(SpaceError) as caught:
        tokenize(block, "CAUSAL_LM", tokenizer)
    fault = caught.value.faults[0]
    assert (fault.path, fault.value) == ("data.max_length", 64)
    assert "1 rows" in fault.rule
    assert "supervised" in fault.rule


@pytest.mark.parametrize("response", ["", "  \n"])
def test_an_empty_response_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, response: str
) -> None:
    rows = [("ask", "yes")] * 5 + [("ask", response)]
    block = DataBlock(
        train=_write(tmp_path / "d.jsonl", rows),
        validation=str(tmp_path / "d.jsonl"),
        duplicates="allow",
    )
    with pytest.raises(SpaceError, match="empty response"):
        tokenize(block, "CAUSAL_LM", tokenizer)
