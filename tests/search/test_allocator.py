"""glibc takes the settings that workers are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tune_lora.search.ray_early import worker_variables


def test_glibc_knows_the_tunables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    loaders = [path for path in Path("/").glob("lib*/ld-linux-*.so.*") if os.access(path, os.X_OK)]
    if not loaders:
        pytest.skip("there is no glibc")
    command = [str(loaders[0]), "--list-tunables"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=worker_variables()
    )
    if "glibc.malloc.mxfast" not in done.stdout:
        pytest.skip("this glibc is older than 2.33")
    lines = done.stdout.splitlines()
    taken = {name: value.split() for name, _, value in (line.partition(": ") for line in lines)}
    assert {
        name: int(taken[f"glibc.malloc.{name}"][0], 0)
        for name in ("tcache_count", "mxfast", "arena_max", "mmap_threshold")
    } == {
        "tcache_count": 0,
        "mxfast": 0,
        "arena_max": 1,
        "mmap_threshold": 4 * 2**20,
    }


def test_what_a_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=3")
    assert worker_variables()["GLIBC_TUNABLES"] == "glibc.malloc.check=3"


_STEPS = """
import ctypes, torch

fields = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in fields.split()]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info
before = info().arena
kept = []
for step in range(40):
    tensors = [torch.empty(1000 * size) for size in (590, 590, 590, 900, 300)]
    kept.append(torch.empty(1))
    del tensors
print(info().arena - before)
"""


def test_memory_of_freed_tensors_is_used_again() -> None:
    environment = {**os.environ, **worker_variables()}
    command = [sys.executable, "-c", _STEPS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    # Eleven are live at a time; where glibc sets small blocks aside, it comes to hold 55.
    assert int(done.stdout) < 30 * 2**20
