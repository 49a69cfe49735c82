"""Short searches of a tiny model under Ray, in this process or from the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tune_lora.reports import build, render
from tune_lora.search import ray_early, ray_tune
from tune_lora.search.driver import new_run
from tune_lora.search.ledger import Ledger
from tune_lora.search.preflight import preflight
from tune_lora.search.ray_worker import TrialWorker
from tune_lora.search.resources import Allocation
from tune_lora.search.study import Study
from tune_lora.spaces import load_space
from tune_lora.trainer.folder import RunFolder

STEPS = 8
TWO = Allocation(workers=2, threads=1, gpus=0.0)


@dataclass(frozen=True)
class TinySearch:
    """A search whose learning rates go from next to none to far too much.

    Attributes:
        root: where its run folder comes to lie.
        model: folder of a tiny model.
        pairs: rows that it learns in a few steps.
        search: the space's ``search`` block.
        more: further blocks.
    """

    root: Path
    model: Path
    pairs: Path
    search: Mapping[str, Any]
    more: Mapping[str, Any] = field(default_factory=dict)

    def write(self) -> Path:
        """The space file."""
        body = {
            "model": {"name": str(self.model), "quantization": "none", "dtype": "fp32"},
            "data": {"train": str(self.pairs), "max_length": 128},
            "lora": {"r": {"choice": [2, 4, 8]}, "target_modules": "all-linear"},
            "train": {
                "learning_rate": {"log_uniform": [1e-6, 1e-1]},
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0,
                "max_steps": STEPS,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 1,
                "gradient_checkpointing": False,
                "optim": "adamw_torch",
            },
            "search": {"sampler": "random", "priors": False, "retries": 1, **self.search},
            "resources": {"workers": 2, "threads": 1},
            **self.more,
        }
        path = self.root / "tiny.yaml"
        path.write_text(yaml.safe_dump(body), encoding="utf-8")
        return path


def ray_search(
    wanted: TinySearch,
    worker: type[TrialWorker] = TrialWorker,
    allocation: Allocation = TWO,
    gpus: int | None = None,
) -> RunFolder:
    """The finished search, by two workers; ``gpus`` are there in name only."""
    space = load_space(wanted.write())
    run = new_run(space, wanted.root / "run")
    ready = preflight(space)
    ready.data.save(run.data)
    ledger = Ledger(space, run, Study(space, run.study, run.name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_tune, "TrialWorker", worker)
        ray_early.start_ray(2, gpus)
        try:
            ray_tune.fit(ledger, ready.spec.to_dict(), allocation, lambda: False)
        finally:
            ray_early.stop_ray()
    render.write(run, build(run))
    return run


def killed_and_resumed(wanted: TinySearch, moment: Callable[[RunFolder], bool]) -> RunFolder:
    """The search by the command line, its driver killed at a moment, then resumed to its end."""
    run = RunFolder(wanted.root / "run")
    command = [sys.executable, "-m", "tune_lora.cli", "search", str(wanted.write())]
    first = psutil.Popen([*command, "--run", str(run.root)], **_quiet(wanted.root))
    try:
        end = time.monotonic() + 120
        while not moment(run):
            assert first.poll() is None, "the search has ended before the moment"
            assert time.monotonic() < end, "the moment has not come"
            time.sleep(0.01)
        family = first.children(recursive=True)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    # Ray's own processes notice by themselves; what is too slow about it is none of this test's.
    for process in psutil.wait_procs(family, timeout=5)[1]:
        process.kill()
    done = subprocess.run(
        [*command, "--resume", str(run.root)], timeout=180, check=False, **_quiet(wanted.root)
    )
    assert done.returncode == 0, (wanted.root / "said.txt").read_text(encoding="utf-8")[-4000:]
    return run


def _quiet(root: Path) -> dict[str, Any]:
    said = (root / "said.txt").open("a", encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return {"stdout": said, "stderr": subprocess.STDOUT, "cwd": root, "env": environment}
