"""A program: trials of a model whose logits dwarf it, in a process with little memory.

usage: starved.py MODEL PAIRS OUT LIMIT...

A limit is in MiB, 0 for none; ``late-`` before it: from the first evaluation on. Each result goes
to OUT/LIMIT.json.
"""

from __future__ import annotations

import ctypes
import json
import resource
import sys
from pathlib import Path

import psutil
import torch
from cut_trials import go_on, load_tiny, tokenized
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.result import TrialResult
from tune_lora.trainer.run import run_trial

CONFIG = TrialConfig(
    number=0,
    task="CAUSAL_LM",
    lora={"r": 2, "lora_alpha": 4, "target_modules": "qv"},
    train={
        "learning_rate": 1e-2,
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "optim": "adamw_torch",
        "seed": 0,
    },
    rungs=(1, 3),
)


def limit(mib: int) -> None:
    """Let the process grow by so much from here; 0 for as much as it likes."""
    # What the trial before has freed would otherwise be there on top of it.
    ctypes.CDLL(None).malloc_trim(0)
    grown = psutil.Process().memory_info().vms + mib * 2**20
    most = grown if mib else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def main() -> None:
    model, pairs, out, *limits = sys.argv[1:]
    torch.set_num_threads(1)
    base = load_tiny(Path(model))
    rows = tokenized(Path(pairs), base)
    for name in limits:
        mib = int(name.removeprefix("late-"))

        def report(result: TrialResult, mib: int = mib) -> bool:
            limit(mib)
            return True

        late = name.startswith("late-")
        if not late:
            limit(mib)
        folder = TrialFolder(Path(out) / f"trial-{name}")
        result = run_trial(CONFIG, base, rows, report if late else go_on, folder)
        limit(0)
        Path(out, f"{name}.json").write_text(json.dumps(result.to_dict()), encoding="utf-8")


if __name__ == "__main__":
    main()
