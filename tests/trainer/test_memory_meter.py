"""The peak of resident memory: that of this trial, not of the one before it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from tune_lora.trainer.memory import Meter

BLOCK = 192 * 2**20

_TWO_TRIALS = """
import mmap
from tune_lora.trainer.memory import Meter

def allocate(size):
    with mmap.mmap(-1, size) as block:  # goes back to the kernel on closing
        for start in range(0, size, 4096):
            block[start] = 1

first = Meter()
allocate({block})
before = first.peak_bytes()
second = Meter()
print(before, second.peak_bytes())
"""


def _peaks_are_reset() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return "VmHWM:" in Path("/proc/self/status").read_text()


def test_the_peak_covers_what_is_resident() -> None:
    meter = Meter()
    block = torch.ones(BLOCK // 4)
    resident = psutil.Process(os.getpid()).memory_info().rss
    assert resident > BLOCK
    assert meter.peak_bytes() >= resident - 2**20
    del block
    assert meter.peak_bytes() >= resident - 2**20


@pytest.mark.skipif(not _peaks_are_reset(), reason="this kernel does not reset VmHWM")
def test_a_new_meter_forgets_the_trial_before() -> None:
    code = _TWO_TRIALS.format(block=BLOCK)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, second = (int(word) for word in done.stdout.split())
    assert first - second == pytest.approx(BLOCK, rel=0.2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_there_is_nothing_to_tell() -> None:
    meter = Meter()
    meter.sample_gpu()
    assert meter.gpu_bytes() is None
    assert meter.gpu_utilization() is None


def test_utilization_is_the_mean_of_the_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    readings = iter([10, 50, 90])

    def read(gpu: int) -> int:
        try:
            return next(readings)
        except StopIteration:
            raise ModuleNotFoundError("pynvml") from None

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda gpu: 1)
    monkeypatch.setattr(torch.cuda, "utilization", read)
    for _ in range(4):  # the fourth reading fails, which leaves it out
        meter.sample_gpu()
    assert meter.gpu_utilization() == 50.0
