"""A row that cannot be used is named by its place in the file that the user has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_models import tiny_tokenizer
from tune_lora.spaces import DataBlock, SpaceError
from tune_lora.trainer.data import tokenize
from tune_lora.trainer.lines import line_of
from tune_lora.trainer.splits import read_splits

BAD = 17


def jsonl(number: int, response: str) -> str:
    return json.dumps({"instruction": f"say {number}\nand\u2028no more", "response": response})


def lines(count: int, bad: tuple[int, ...] = (BAD,), response: str = " ") -> list[str]:
    """Rows of a jsonl file, one a line; ``bad`` ones, counted from 1, have this response."""
    return [jsonl(n, response if n in bad else str(n)) for n in range(1, count + 1)]


def refused(use: Callable[[], object]) -> str:
    with pytest.raises(SpaceError) as caught:
        use()
    (fault,) = caught.value.faults
    return fault.rule


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_line_of_a_row_whichever_split_it_fell_into(
    tmp_path: Path, seed: int, split: str
) -> None:
    whole = tmp_path / "whole.jsonl"
    whole.write_text("\n".join(lines(40, ())), encoding="utf-8")
    row = int(
        read_splits(DataBlock(train=str(whole), seed=seed), tmp_path)[split].rows["response"][0]
    )
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(lines(40, (row,))), encoding="utf-8")
    rule = refused(lambda: read_splits(DataBlock(train=str(path), seed=seed), tmp_path))
    assert f"1 rows have an empty response, the first is line {row} of {path}:" in rule


def test_the_first_in_the_file_not_in_the_shuffled_split(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(lines(40, tuple(range(9, 41)))), encoding="utf-8")
    rule = refused(
        lambda: read_splits(DataBlock(train=str(path), validation=0.1, test=0), tmp_path)
    )
    assert f"the first is line 9 of {path}" in rule


def test_blank_lines_count_as_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("\n\n".join(lines(40)), encoding="utf-8")
    rule = refused(lambda: read_splits(DataBlock(train=str(path)), tmp_path))
    assert f"the first is line {2 * BAD - 1} of {path}" in rule


def test_a_source_of_its_own(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text("\n".join(lines(20, ())), encoding="utf-8")
    bad.write_text("\n".join(lines(20)), encoding="utf-8")
    rule = refused(lambda: read_splits(DataBlock(train=str(good), validation=str(bad)), tmp_path))
    assert f"the first is line {BAD} of {bad}" in rule


def test_csv_records_of_several_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    records = [f'"say {n}\nplease",{"" if n == BAD else n}\n' for n in range(1, 41)]
    path.write_text("instruction,response\n\n" + "".join(records), encoding="utf-8")
    rule = refused(lambda: read_splits(DataBlock(train=str(path)), tmp_path))
    number = 3 + 2 * (BAD - 1)
    assert f"the first is line {number} of {path}" in rule
    assert path.read_text(encoding="utf-8").splitlines()[number - 1] == f'"say {BAD}'


def test_a_file_without_lines_counts_rows(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text(f"[{','.join(lines(40))}]", encoding="utf-8")
    rule = refused(lambda: read_splits(DataBlock(train=str(path)), tmp_path))
    assert f"the first is row {BAD} of {path}, counted from 1" in rule


def test_a_prompt_that_fills_the_row(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = lines(40, ())
    rows[BAD - 1] = json.dumps({"instruction": "long " * 200, "response": "x"})
    path.write_text("\n".join(rows), encoding="utf-8")
    block = DataBlock(train=str(path), max_length=128)
    rule = refused(lambda: tokenize(block, "CAUSAL_LM", tiny_tokenizer()))
    assert f"the first is line {BAD} of {path};" in rule


def test_no_line_rather_than_a_wrong_one(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join(lines(4)), encoding="utf-8")
    assert line_of(path, 2, rows=4) == 3
    assert line_of(path, 2, rows=5) is None
