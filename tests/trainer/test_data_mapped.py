"""Workers map the same Arrow files: what is tokenized lies in memory once, not once a worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset
from tune_lora.trainer.data import TokenizedData

ROWS, TOKENS = 4000, 512
SIZE = ROWS * TOKENS * 4 * 2
"""Bytes of ids and labels."""

_WORKER = """
import sys
from pathlib import Path
from tune_lora.trainer.data import TokenizedData
data = TokenizedData.load(Path(sys.argv[1]))
sum(sum(row["input_ids"]) for row in data.train)
maps = Path("/proc/self/maps").read_text()
print(*sorted({line.split()[-1] for line in maps.splitlines() if line.endswith(".arrow")}))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapped") / "data"
    ids = np.arange(ROWS * TOKENS, dtype=np.int32).reshape(ROWS, TOKENS)
    large = Dataset.from_dict({"input_ids": ids, "labels": ids})
    small = large.select(range(2))
    TokenizedData(large, small, small, "", {}).save(folder)
    return folder


def test_loading_and_reading_allocates_next_to_nothing(saved: Path) -> None:
    before = pa.total_allocated_bytes()
    data = TokenizedData.load(saved)
    files = {Path(file["filename"]) for file in data.train.cache_files}
    assert {file.parent for file in files} == {saved / "train"}
    assert sum(file.stat().st_size for file in files) >= SIZE
    assert [len(row["labels"]) for row in data.train] == [TOKENS] * ROWS
    assert pa.total_allocated_bytes() - before < SIZE / 20


def test_two_processes_map_the_same_files(saved: Path) -> None:
    command = [sys.executable, "-c", _WORKER, str(saved)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in "ab"
    )
    assert first == second
    assert str(saved / "train") in first
