"""Fifty trials, and the weights that lie on the disk at every moment and at the end."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tune_lora.trainer.folder import RunFolder
from whole_searches import numbers, trial_rows

TRIALS, KEPT, WORKERS = 50, 3, 2
ADAPTER, OPTIMIZER = "adapter_model.safetensors", "optimizer.pt"
SMALL = {"scheduler.pt", "training_args.bin"}
"""Of a checkpoint; a few kilobytes, whatever the model."""
WEIGHTS = {".safetensors", ".pt", ".bin", ".ckpt"}


def weights(root: Path) -> set[Path]:
    """Every file of weights below ``root``, relative to it."""
    found = (Path(folder, name) for folder, _, files in os.walk(root) for name in files)
    return {path.relative_to(root) for path in found if path.suffix in WEIGHTS}


def moments(process: subprocess.Popen[str], root: Path) -> Iterator[set[Path]]:
    """``weights`` for as long as the process runs.

    Files move while one looks for them, so only what two looks in a row agree on is a moment.
    """
    before = weights(root)
    while process.poll() is None:
        time.sleep(0.001)
        now = weights(root)
        if now == before:
            yield now
        before = now


@pytest.mark.slow
def test_no_more_than_the_best_and_those_that_run(
    space_file: Callable[..., Path],
    tmp_path: Path,
    command: Callable[..., subprocess.Popen[str]],
) -> None:
    path = space_file(
        # From far too low to far too high.
        train={"learning_rate": {"log_uniform": [1e-6, 1e4]}, "warmup_steps": 0},
        search={"trials": TRIALS, "sampler": "random", "keep_adapters": KEPT},
        resources={"workers": WORKERS, "threads": 1},
    )
    run = RunFolder(tmp_path / "run")
    process = command("search", path, "--run", run.root)
    seen: list[Counter[str]] = []
    owners: set[int] = set()
    for moment in moments(process, run.root):
        seen.append(Counter(path.name for path in moment))
        owners.add(len({path.parts[:2] for path in moment}))
    assert process.returncode == 0, process.communicate()[0]
    assert numbers(run) == list(range(TRIALS))

    # A trial that runs has its best adapter and a checkpoint; one of the two is written anew.
    assert max(owners) == KEPT + WORKERS
    assert max(count[ADAPTER] for count in seen) <= KEPT + 3 * WORKERS
    assert max(count[OPTIMIZER] for count in seen) <= 2 * WORKERS
    assert {name for count in seen for name in count} <= {ADAPTER, OPTIMIZER, *SMALL}
    best = [int(row["trial"]) for row in trial_rows(run)[:KEPT]]
    left = {run.trial(number).adapter / ADAPTER for number in best}
    assert weights(run.root) == {path.relative_to(run.root) for path in left}
