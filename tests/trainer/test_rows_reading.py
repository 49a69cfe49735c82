"""Rows from every kind of source, and what is said of a source that cannot be read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset
from pyarrow import parquet
from tune_lora.spaces import DataBlock, Fault, SpaceError
from tune_lora.trainer.splits import read_splits

ROWS = [
    {"instruction": f"say {index}", "input": "é" * (index % 2), "response": f'{{"n":{index}}}'}
    for index in range(10)
]


def _write(path: Path, rows: list[dict[str, str]]) -> Path:
    """The rows in the format that the path's suffix names."""
    lines = [json.dumps(row) for row in rows]
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    if path.suffix == ".csv":
        text = io.StringIO()
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        path.write_text(text.getvalue(), encoding="utf-8")
        return path
    text_of = {".jsonl": "\n".join(lines) + "\n", ".json": f"[{','.join(lines)}]"}
    path.write_text(text_of[path.suffix], encoding="utf-8")
    return path


def _splits(block: DataBlock, scratch: Path) -> dict[str, Dataset]:
    return {name: split.rows for name, split in read_splits(block, scratch).items()}


def _fault(block: DataBlock, scratch: Path) -> Fault:
    with pytest.raises(SpaceError) as caught:
        read_splits(block, scratch)
    assert len(caught.value.faults) == 1
    return caught.value.faults[0]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_kind_of_file_gives_its_rows(tmp_path: Path, suffix: str) -> None:
    path = _write(tmp_path / f"rows{suffix}", ROWS)
    splits = _splits(DataBlock(train=str(path)), tmp_path)
    found = [row for split in splits.values() for row in split]
    assert sorted(found, key=lambda row: row["instruction"]) == ROWS


def test_a_folder_brings_its_own_splits(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    for name, part in (("train", ROWS[:6]), ("validation", ROWS[6:8]), ("test", ROWS[8:])):
        _write(tmp_path / f"{name}.jsonl", part)
    splits = _splits(DataBlock(train=str(tmp_path)), scratch)
    assert {name: list(rows) for name, rows in splits.items()} == {
        "train": ROWS[:6],
        "validation": ROWS[6:8],
        "test": ROWS[8:],
    }


def test_columns_are_renamed_to_their_roles(tmp_path: Path) -> None:
    rows = [{"question": f"q{n}", "answer": str(n), "id": "x"} for n in range(6)]
    path = _write(tmp_path / "d.jsonl", rows)
    fields = {"instruction": "question", "response": "answer"}
    splits = _splits(DataBlock(train=str(path), fields=fields), tmp_path)
    assert splits["train"].column_names == ["instruction", "response"]
    found = {row["instruction"]: row["response"] for part in splits.values() for row in part}
    assert found == {f"q{n}": str(n) for n in range(6)}


@pytest.mark.parametrize(
    ("fields", "role", "column"),
    [
        ({}, "response", "'response'"),
        ({"response": "reply"}, "response", "'reply'"),
        ({"response": "answer", "input": "context"}, "input", "'context'"),
    ],
)
def test_a_missing_column_names_those_there_are(
    tmp_path: Path, fields: dict[str, str], role: str, column: str
) -> None:
    rows = [{"instruction": "ask", "answer": "yes"}] * 6
    path = _write(tmp_path / "d.jsonl", rows)
    fault = _fault(DataBlock(train=str(path), fields=fields), tmp_path)
    assert (fault.path, fault.value) == ("data.train", str(path))
    assert column in fault.rule
    assert "instruction, answer" in fault.rule
    assert fault.suggestions == (f"data.fields.{role}",)


GOOD = (json.dumps(ROWS[0]) + "\n").encode()


@pytest.mark.parametrize(
    ("name", "content", "rule"),
    [
        ("a.jsonl", b"", "empty"),
        ("a.csv", b"", "empty"),
        ("a.csv", b"instruction,response\n", "cannot be read"),
        ("a.jsonl", GOOD * 3 + b"{nope\n" + GOOD, "row 3"),
        ("a.jsonl", GOOD * 5 + GOOD[:12], "row 5"),
        ("a.jsonl", GOOD * 5 + b'{"instruction":"\xe9","response":"x"}\n', "UTF-8"),
        ("a.csv", b"instruction,response\na,b\nc,d,e\n", "line 3"),
        ("a.parquet", b"PAR1 and no more", "parquet"),
        ("a.txt", b"text", ".jsonl, .json, .csv, .parquet"),
    ],
)
def test_an_unreadable_file(tmp_path: Path, name: str, content: bytes, rule: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    fault = _fault(DataBlock(train=str(path)), tmp_path)
    assert fault.value == str(path)
    assert rule in fault.rule


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("/no/such/folder", "no such file"),
        ("missing.jsonl", "no such file"),
        ("~/missing/data.csv", "no such file"),
        ("builtin:extractions", "builtin:extraction"),
        ("package:no-such-dist/a.jsonl", "pip install --no-deps no-such-dist"),
        ("package:peft/none.jsonl", "peft is installed but has no 'none.jsonl'"),
        ("nobody/nothing", "cannot be read"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_source(tmp_path: Path, split: str, source: str, rule: str) -> None:
    sources = {"train": str(_write(tmp_path / "d.jsonl", ROWS)), split: source}
    fault = _fault(DataBlock.model_validate(sources), tmp_path)
    assert (fault.path, fault.value) == (f"data.{split}", source)
    assert rule in fault.rule
