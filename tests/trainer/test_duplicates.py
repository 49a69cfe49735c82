"""Rows that are there twice: kept in one split, dropped, refused between splits, or allowed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_tokenizer
from tune_lora.spaces import DataBlock, SpaceError
from tune_lora.trainer.data import tokenize
from tune_lora.trainer.splits import read_splits


def write(path: Path, numbers: Iterable[int]) -> str:
    rows = ({"instruction": f"say {n}", "response": str(n)} for n in numbers)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def split(scratch: Path, **block: Any) -> dict[str, list[int]]:
    found = read_splits(DataBlock.model_validate(block), scratch)
    return {name: [int(text) for text in part.rows["response"]] for name, part in found.items()}


@pytest.mark.parametrize("seed", range(4))
def test_copies_in_one_source_stay_together(tmp_path: Path, seed: int) -> None:
    numbers = [n for n in range(30) for _ in range(1 + n % 4)]
    source = write(tmp_path / "d.jsonl", numbers)
    splits = split(tmp_path, train=source, validation=0.2, test=0.1, seed=seed)
    assert sorted(n for part in splits.values() for n in part) == numbers
    for one, other in itertools.combinations(splits.values(), 2):
        assert not set(one) & set(other)
    # A share is at most its last row's copies larger than it was to be.
    for name, share in (("validation", 0.2), ("test", 0.1)):
        assert 0 <= len(splits[name]) - round(share * len(numbers)) <= 3


def test_without_copies_the_draw_is_numpys_permutation(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", range(40))
    order = np.random.default_rng(3).permutation(40).tolist()
    wanted = {"train": order[8:], "validation": order[:4], "test": order[4:8]}
    for duplicates in ("refuse", "drop", "allow"):
        assert split(tmp_path, train=source, seed=3, duplicates=duplicates) == wanted


def test_allowed_copies_are_drawn_one_by_one(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [0, 1] * 20)
    splits = split(tmp_path, train=source, duplicates="allow")
    assert [len(part) for part in splits.values()] == [32, 4, 4]


def test_rows_that_are_all_alike_cannot_be_split(tmp_path: Path) -> None:
    source = write(tmp_path / "d.jsonl", [7] * 40)
    with pytest.raises(SpaceError, match="copies of a row stay in one split"):
        split(tmp_path, train=source)


def test_dropping_keeps_each_row_once(tmp_path: Path) -> None:
    numbers = [n for n in range(20) for _ in range(1 + n % 3)]
    splits = split(tmp_path, train=write(tmp_path / "d.jsonl", numbers), duplicates="drop")
    assert sorted(n for part in splits.values() for n in part) == list(range(20))
    assert [len(part) for part in splits.values()] == [16, 2, 2]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    """3 is in all three, 5 in train and validation, 8 in validation and test."""
    return {
        "train": write(tmp_path / "d.jsonl", [1, 2, 3, 4, 5, 2]),
        "validation": write(tmp_path / "v.jsonl", [6, 5, 3, 8, 7]),
        "test": write(tmp_path / "t.jsonl", [8, 9, 3]),
    }


def test_rows_in_two_sources_are_refused(tmp_path: Path, sources: dict[str, str]) -> None:
    with pytest.raises(SpaceError) as caught:
        split(tmp_path, **sources)
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("data.validation", sources["validation"])
    assert "2 of its 5 validation rows are train rows too" in fault.rule
    assert f"line 2 of {sources['validation']}, which is line 5 of {sources['train']}" in fault.rule
    assert "data.duplicates: drop" in fault.rule
    assert "allow" in fault.rule


def test_validation_and_test_have_to_be_apart_too(tmp_path: Path, sources: dict[str, str]) -> None:
    with pytest.raises(SpaceError) as caught:
        split(tmp_path, **sources | {"train": write(tmp_path / "other.jsonl", range(100, 106))})
    assert caught.value.faults[0].path == "data.test"
    assert "2 of its 3 test rows are validation rows too" in caught.value.faults[0].rule


def test_dropped_ones_stay_where_they_measure(tmp_path: Path, sources: dict[str, str]) -> None:
    assert split(tmp_path, **sources, duplicates="drop") == {
        "train": [1, 2, 4],
        "validation": [6, 5, 7],
        "test": [8, 9, 3],
    }


def test_allowed_ones_stay(tmp_path: Path, sources: dict[str, str]) -> None:
    assert split(tmp_path, **sources, duplicates="allow")["train"] == [1, 2, 3, 4, 5, 2]


def test_what_a_limit_leaves_out_is_no_duplicate(tmp_path: Path, sources: dict[str, str]) -> None:
    limit = {"train": 2, "validation": 1, "test": 2}
    assert split(tmp_path, **sources, limit=limit)["train"] == [1, 2]


def test_splits_of_a_folder_are_held_apart(tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write(folder / "train.jsonl", [1, 2, 3])
    write(folder / "test.jsonl", [4, 2])
    with pytest.raises(SpaceError) as caught:
        split(tmp_path, train=str(folder))
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("data.train", str(folder))
    assert f"row 2 of the test split of {folder}, counted from 1" in fault.rule


def test_another_response_is_another_row(tmp_path: Path) -> None:
    rows = [{"instruction": "say", "response": str(n)} for n in range(6)]
    for name, part in (("d", rows[:4]), ("v", rows[4:])):
        text = "".join(json.dumps(row) + "\n" for row in part)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    found = split(
        tmp_path, train=str(tmp_path / "d.jsonl"), validation=str(tmp_path / "v.jsonl"), test=0
    )
    assert found["validation"] == [4, 5]


def test_the_statistics_count_them(sources: dict[str, str]) -> None:
    block = DataBlock.model_validate({**sources, "duplicates": "allow"})
    stats = tokenize(block, "CAUSAL_LM", tiny_tokenizer()).stats
    assert {name: (one["repeated"], one["shared"]) for name, one in stats.items()} == {
        "train": (1, 2),
        "validation": (0, 3),
        "test": (0, 2),
    }


def test_the_statistics_of_lengths(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [{"text": "x" * (n + 3)} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    block = DataBlock(train=str(path), format="text", max_length=30, validation=0.25, test=0)
    data = tokenize(block, "CAUSAL_LM", tiny_tokenizer())
    lengths = sorted(len(row["input_ids"]) for row in data.train)
    stats = data.stats["train"]
    assert len(lengths) == stats["rows"] == 30
    # The shortest length that at least half, and 95%, of the rows do not exceed.
    assert stats["median"] == lengths[15 - 1]
    assert stats["p95"] == lengths[29 - 1]
    assert stats["longest"] == lengths[-1] == 30
    assert (
        stats["truncated"]
        == sum(len(rows[int(n)]["text"]) + 1 > 30 for n in range(40))
        - (data.stats["validation"]["truncated"])
    )
