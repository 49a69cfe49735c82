"""How rows are split: by share, by own source, as the source brings them; never twice used."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from tune_lora.spaces import DataBlock, SpaceError
from tune_lora.spaces.extraction import SIZES
from tune_lora.trainer.splits import read_splits


def _write(path: Path, numbers: Iterable[int]) -> str:
    rows = ({"instruction": f"say {n}", "response": str(n)} for n in numbers)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _split(**block: object) -> dict[str, list[int]]:
    with tempfile.TemporaryDirectory() as scratch:
        splits = read_splits(DataBlock.model_validate(block), Path(scratch))
    return {name: [int(text) for text in split.rows["response"]] for name, split in splits.items()}


@pytest.mark.parametrize(
    ("count", "shares", "sizes"),
    [
        (40, {}, (32, 4, 4)),
        (40, {"validation": 0.25, "test": 0.5}, (10, 10, 20)),
        (40, {"test": 0}, (36, 4, 0)),
        (5, {"validation": 0.01, "test": 0.01}, (3, 1, 1)),
        (3, {}, (1, 1, 1)),
    ],
)
def test_shares(
    tmp_path: Path, count: int, shares: dict[str, float], sizes: tuple[int, int, int]
) -> None:
    splits = _split(train=_write(tmp_path / "d.jsonl", range(count)), **shares)
    assert tuple(len(rows) for rows in splits.values()) == sizes
    everything = [number for rows in splits.values() for number in rows]
    assert sorted(everything) == list(range(count))


def test_the_seed_decides_who_goes_where(tmp_path: Path) -> None:
    source = _write(tmp_path / "d.jsonl", range(40))
    assert _split(train=source, seed=1) == _split(train=source, seed=1)
    assert _split(train=source, seed=1)["test"] != _split(train=source, seed=2)["test"]


def test_validation_from_a_source_of_its_own(tmp_path: Path) -> None:
    splits = _split(
        train=_write(tmp_path / "d.jsonl", range(20)),
        validation=_write(tmp_path / "v.jsonl", range(100, 107)),
        test=0.2,
    )
    assert splits["validation"] == list(range(100, 107))
    assert len(splits["test"]) == 4
    assert sorted(splits["train"] + splits["test"]) == list(range(20))


def test_all_splits_from_sources_of_their_own_keep_their_order(tmp_path: Path) -> None:
    splits = _split(
        train=_write(tmp_path / "d.jsonl", range(6)),
        validation=_write(tmp_path / "v.jsonl", range(10, 13)),
        test=_write(tmp_path / "t.jsonl", range(20, 22)),
    )
    assert splits == {"train": list(range(6)), "validation": [10, 11, 12], "test": [20, 21]}


def test_limits_cut_each_split(tmp_path: Path) -> None:
    source = _write(tmp_path / "d.jsonl", range(40))
    whole = _split(train=source)
    cut = _split(train=source, limit={"train": 7, "validation": 2, "test": 99})
    assert cut == {
        "train": whole["train"][:7],
        "validation": whole["validation"][:2],
        "test": whole["test"],
    }


@pytest.mark.parametrize(
    ("count", "shares", "key"),
    [
        (1, {}, "data.validation"),
        (2, {}, "data.validation"),
        (3, {"validation": 0.9, "test": 0.05}, "data.train"),
        (3, {"validation": 0.5, "test": 0.49}, "data.train"),
    ],
)
def test_too_few_rows_to_split(
    tmp_path: Path, count: int, shares: dict[str, float], key: str
) -> None:
    source = _write(tmp_path / "d.jsonl", range(count))
    with pytest.raises(SpaceError) as caught:
        _split(train=source, **shares)
    assert caught.value.faults[0].path == key


def test_the_built_in_data_set_has_splits_of_its_own(tmp_path: Path) -> None:
    splits = read_splits(DataBlock(train="builtin:extraction", validation=0.5), tmp_path)
    assert {name: len(rows) for name, rows in splits.items()} == SIZES
    first = splits["train"].rows[0]
    assert set(first) == {"instruction", "input", "response"}
    assert isinstance(json.loads(first["response"]), dict)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_field_is_refused_in_every_split(tmp_path: Path, split: str) -> None:
    sources = {
        name: _write(tmp_path / f"{name}.jsonl", range(4))
        for name in ("train", "validation", "test")
    }
    bad = Path(sources[split])
    bad.write_text(bad.read_text() + '{"instruction": null, "response": "x"}\n', encoding="utf-8")
    with pytest.raises(SpaceError, match="empty instruction, the first is line 5 of") as caught:
        _split(**sources)
    fault = caught.value.faults[0]
    assert (fault.path, fault.value) == (f"data.{split}", sources[split])
