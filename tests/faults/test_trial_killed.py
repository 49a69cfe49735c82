"""A trial's process killed with SIGKILL, twice, and the trial's end in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cut_trials import Left, resumed
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.checkpoint import find
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import TrialFolder

HERE = Path(__file__).parent


def kill_after(lines: int, folder: TrialFolder, model: Path, pairs: Path) -> None:
    """Let a process work on the trial until it has logged so many lines."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "killed.py"), str(model), str(pairs), str(folder.root)],
        env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if folder.metrics.exists() and folder.metrics.read_bytes().count(b"\n") >= lines:
            break
        time.sleep(0.002)
    assert process.poll() is None, "ended before it could be killed"
    process.kill()
    process.wait()


def test_killed_twice(
    whole: Left,
    lent: BaseModel,
    rows: TokenizedData,
    tiny: Callable[..., Path],
    pairs: Path,
    tmp_path: Path,
) -> None:
    folder = TrialFolder(tmp_path / "trial")
    reached = []
    for lines in (3, 10):
        kill_after(lines, folder, tiny(), pairs)
        checkpoint = find(folder.checkpoint)
        assert checkpoint is not None
        reached.append(checkpoint.result.step)
    assert 0 < reached[0] < reached[1] < 12
    resumed(folder, lent, rows).same_as(whole)
