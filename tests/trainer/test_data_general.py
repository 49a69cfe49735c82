"""A general text beside the data: what is read of it, what is refused, the way to disk and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_tokenizer
from tune_lora.spaces import DataBlock, Fault, SpaceError
from tune_lora.trainer.data import TokenizedData, tokenize
from tune_lora.trainer.inputs import inputs_digest


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def source(tmp_path: Path) -> str:
    """Pairs to train on."""
    rows = [{"instruction": f"say {index}", "response": str(index)} for index in range(20)]
    return write(tmp_path / "pairs.jsonl", rows)


def made(source: str, general: object, **fields: Any) -> TokenizedData:
    block = DataBlock.model_validate({"train": source, "general": general, **fields})
    return tokenize(block, "CAUSAL_LM", tiny_tokenizer())


def fault(source: str, general: object, **fields: Any) -> Fault:
    with pytest.raises(SpaceError) as caught:
        made(source, general, **fields)
    (found,) = caught.value.faults
    return found


def test_its_first_rows_are_cut_and_closed(source: str, tmp_path: Path) -> None:
    rows: list[Mapping[str, object]] = [{"text": text} for text in ("ab", "\n", "c" * 200, "de")]
    data = made(source, write(tmp_path / "g.jsonl", rows), max_length=64)
    tokenizer = tiny_tokenizer()
    assert data.general is not None
    wanted = [
        [*tokenizer("ab")["input_ids"], tokenizer.eos_token_id],
        tokenizer("c" * 200)["input_ids"][:64],
        [*tokenizer("de")["input_ids"], tokenizer.eos_token_id],
    ]
    assert [row["input_ids"] for row in data.general] == wanted
    assert [row["labels"] for row in data.general] == [[-100, *ids[1:]] for ids in wanted]
    stats = data.stats["general"]
    assert (stats["rows"], stats["truncated"], stats["shared"]) == (3, 1, 0)


def test_of_splits_the_one_that_is_held_out_is_read(source: str, tmp_path: Path) -> None:
    folder = tmp_path / "splits"
    for name in ("train", "test"):
        write(folder / f"{name}.jsonl", [{"text": f"{name} {index}"} for index in range(3)])
    data = made(source, {"source": str(folder), "rows": 2})
    assert data.general is not None
    texts = [tiny_tokenizer().decode(row["input_ids"][:-1]) for row in data.general]
    assert texts == ["test 0", "test 1"]


def test_saved_and_loaded_is_the_same(source: str, tmp_path: Path) -> None:
    data = made(source, write(tmp_path / "g.jsonl", [{"text": "some text"}]))
    data.save(tmp_path / "data")
    read = TokenizedData.load(tmp_path / "data")
    assert read.general is not None
    assert data.general is not None
    assert list(read.general) == list(data.general)
    assert read.fingerprint == data.fingerprint
    bare = made(source, None)
    bare.save(tmp_path / "bare")
    assert TokenizedData.load(tmp_path / "bare").general is None


def test_the_fingerprint_and_the_digest_of_inputs_follow_it(source: str, tmp_path: Path) -> None:
    tiny_tokenizer().save_pretrained(str(tmp_path / "model"))
    prints, digests = set(), set()
    for text in ("one", "two"):
        path = write(tmp_path / "g.jsonl", [{"text": text}])
        block = DataBlock.model_validate({"train": source, "general": path})
        prints.add(tokenize(block, "CAUSAL_LM", tiny_tokenizer()).fingerprint)
        digests.add(inputs_digest(block, "CAUSAL_LM", tmp_path / "model"))
    prints.add(made(source, None).fingerprint)
    assert (len(prints), len(digests), None in digests) == (3, 2, False)


def test_what_cannot_be_read_names_key_and_value(source: str, tmp_path: Path) -> None:
    missing = fault(source, str(tmp_path / "nowhere.jsonl"))
    assert (missing.path, missing.rule) == ("data.general.source", "no such file")
    texts = write(tmp_path / "g.jsonl", [{"body": "a", "title": "b"}])
    column = fault(source, texts)
    assert (column.path, column.value) == ("data.general.column", "text")
    assert column.rule == f"is no column of {texts}, which has body, title"
    blank = fault(source, {"source": texts, "column": "body"} | {"source": blanks(tmp_path)})
    assert (blank.path, blank.rule) == ("data.general.source", "there are no rows with a text")
    lists = write(tmp_path / "l.jsonl", [{"text": ["a", "b"]}])
    assert "must hold text" in fault(source, lists).rule


def blanks(folder: Path) -> str:
    return write(folder / "blank.jsonl", [{"body": ""}, {"body": None}])


def test_a_text_that_is_learnt_is_refused_unless_copies_are_allowed(tmp_path: Path) -> None:
    rows: list[Mapping[str, object]] = [{"text": f"text {index}"} for index in range(20)]
    train = write(tmp_path / "t.jsonl", rows)
    own: dict[str, Any] = {"format": "text", "validation": 0.2, "test": 0}
    other: list[Mapping[str, object]] = [{"text": "another"}, *rows]
    found = fault(train, write(tmp_path / "g.jsonl", other), **own)
    assert found.path == "data.general.source"
    assert "16 of its 21 rows are train rows too, the first is line " in found.rule
    allowed = made(train, write(tmp_path / "g.jsonl", other), duplicates="allow", **own)
    assert allowed.stats["general"]["shared"] == 20
