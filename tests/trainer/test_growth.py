"""What a process holds between trials: noticed when it grows, not when it comes and goes."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest
import torch
from tune_lora.trainer import growth
from tune_lora.trainer.growth import Growth

MIB = 2**20


def test_what_stays_is_noticed() -> None:
    watch, kept = Growth(64 * MIB), []
    assert watch.excess() is None
    kept.append(torch.ones(48 * MIB, dtype=torch.uint8))
    assert watch.excess() is None
    kept.append(torch.ones(48 * MIB, dtype=torch.uint8))
    said = watch.excess()
    assert said is not None
    assert "MiB in memory after a trial" in said
    del kept[:]
    assert watch.excess() is None


def test_what_comes_and_goes_is_not() -> None:
    watch = Growth(64 * MIB)
    assert watch.excess() is None
    for _ in range(3):
        # In pieces that the allocator keeps for itself, and in cycles.
        pieces = [[bytearray(MIB // 16)] for _ in range(3000)]
        pieces.append(pieces)  # type: ignore[arg-type]
        del pieces
        assert watch.excess() is None


def test_mapped_files_are_not(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(128 * MIB))
    watch = Growth(64 * MIB)
    assert watch.excess() is None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not any(mapped[start] for start in range(0, len(mapped), 4096))
        assert watch.excess() is None


def test_a_gpus_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter([100 * MIB, 612 * MIB, 613 * MIB])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: next(held))
    watch = Growth(growth.BOUND)
    assert [watch.excess(), watch.excess()] == [None, None]
    said = "the worker held 613 MiB on the GPU after a trial, and 100 MiB after its first"
    assert watch.excess() == said
