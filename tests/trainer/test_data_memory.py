"""A file larger than memory: what is held of it at a time does not grow with it."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import pyarrow as pa
import pytest
from pyarrow import parquet
from tune_lora.spaces import DataBlock
from tune_lora.trainer.data import tokenize

MIB = 2**20


class Bytes:
    """A tokenizer of bytes: a real one would take most of the test's time."""

    eos_token_id = 0
    is_fast = True

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [list(text.encode()) for text in texts]}


@pytest.fixture
def quiet() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("count", "bound"),
    [(20_000, 16 * MIB), pytest.param(200_000, 60 * MIB, marks=pytest.mark.slow)],
)
def test_rows_are_not_held_as_objects(tmp_path: Path, count: int, bound: int) -> None:
    """As Python objects, a row takes more than a thousand bytes."""
    # Of a jsonl file, datasets itself holds ten megabytes at a time as Python objects.
    path = tmp_path / "d.parquet"
    answers = [str(n) for n in range(count)]
    table = pa.table({"prompt": [f"say {n}" for n in answers], "completion": answers})
    parquet.write_table(table, path)
    del table, answers
    block = DataBlock(train=str(path), format="completion")
    tracemalloc.start()
    try:
        data = tokenize(block, "CAUSAL_LM", cast(Any, Bytes()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < bound
    assert sum(counts["rows"] for counts in data.stats.values()) == count
    characters = sum(2 * len(str(n)) + len("say ") + 1 for n in range(count))
    assert sum(counts["tokens"] for counts in data.stats.values()) == characters
