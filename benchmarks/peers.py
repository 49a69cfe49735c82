"""Whole searches, compared: the same twelve configurations by peers, by tune-lora, by the floor.

    python benchmarks/peers.py --data PAIRS.jsonl [--rounds 3] [--out FILE.json]

PAIRS.jsonl has an ``instruction`` and a ``response`` a line. Every contestant runs in processes of
its own, started cold, one after another; each round begins with another one. The results are
written after every run; ``python benchmarks/table.py FILE.json`` makes table and figure of them.
``--quick`` is a smoke test: two configurations of four steps.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import tempfile
import time
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from configurations import CONFIGURATIONS, MODEL, Workload
from contestants import CONTESTANTS, Contestant, run
from tune_lora.spaces import ModelBlock
from tune_lora.trainer.precision import compute_dtype
from tune_lora.trainer.sources import resolve_model

VERSIONED = ("torch", "transformers", "peft", "bitsandbytes", "optuna", "ray", "datasets")


def split(path: Path, folder: Path, train: int, validation: int, seed: int) -> list[str]:
    """So many rows of the data in files of their own; their paths."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) < train + validation:
        raise SystemExit(f"{path}: has {len(lines)} rows, and {train + validation} are needed")
    random.Random(seed).shuffle(lines)
    parts = {"validation": lines[:validation], "train": lines[validation : validation + train]}
    for name, rows in parts.items():
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return [str(folder / f"{name}.jsonl") for name in ("train", "validation")]


def prepared(given: argparse.Namespace, folder: Path) -> Workload:
    """What all contestants share; converting the model, once a machine, is nobody's time."""
    small = {"configurations": 2, "steps": 4, "every": 2} if given.quick else {"steps": given.steps}
    rows = (64, 16) if given.quick else (given.train_rows, given.validation_rows)
    train, validation = split(given.data, folder, *rows, seed=0)
    model = resolve_model(ModelBlock(name=MODEL)).folder
    best = compute_dtype("auto", torch.device("cpu"))
    bf16 = best is torch.bfloat16 and not given.fp32
    return replace(
        Workload(str(folder), model, train, validation, bf16=bf16, guarded=not given.unguarded),
        **small,
    )


def about(work: Workload, given: argparse.Namespace) -> dict[str, Any]:
    """Where and of what the numbers are."""
    names = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    shared = asdict(work)
    for key in ("folder", "model", "train", "validation"):
        del shared[key]
    return {
        "started": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpu": next(line.split(":")[1].strip() for line in names if "model name" in line),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
        },
        "versions": {name: metadata.version(name) for name in VERSIONED},
        "workload": {
            "model": MODEL,
            "validation_rows": 16 if given.quick else given.validation_rows,
            **shared,
        },
        "configurations": [asdict(CONFIGURATIONS[number]) for number in work.numbers],
        "contestants": [asdict(contestant) for contestant in CONTESTANTS],
        "runs": [],
    }


def one(contestant: Contestant, work: Workload, keep: Path | None) -> dict[str, Any]:
    """One run in a fresh folder, gone afterwards unless it is to be kept."""
    at = tempfile.mkdtemp(prefix=f"{contestant.name}-", dir=keep)
    environment = {
        "RAY_worker_niceness": "0",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": f"{at}/datasets",
    }
    try:
        return run(contestant, replace(work, folder=at), environment)
    finally:
        if keep is None:
            shutil.rmtree(at, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="jsonl of pairs")
    parser.add_argument("--out", type=Path, default=Path("docs/performance/peers.json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=Workload.steps, help="of a configuration")
    parser.add_argument("--train-rows", type=int, default=512)
    parser.add_argument("--validation-rows", type=int, default=64)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="of the contestants")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--unguarded",
        action="store_true",
        help="peers as documented where the CPU has AVX512-BF16: wrong gradients",
    )
    parser.add_argument("--fp32", action="store_true", help="also where the CPU has AVX512-BF16")
    parser.add_argument("--keep", type=Path, help="keep logs and run folders there")
    given = parser.parse_args()
    wanted = [c for c in CONTESTANTS if not given.only or c.name in given.only]
    with tempfile.TemporaryDirectory() as folder:
        work = prepared(given, Path(folder))
        found = about(work, given)
        for number in range(given.rounds):
            start = number * max(1, len(wanted) // given.rounds) % len(wanted)
            for contestant in (*wanted[start:], *wanted[:start]):
                load = os.getloadavg()[0]
                result = one(contestant, work, given.keep)
                entry = {"contestant": contestant.name, "round": number, "load": load, **result}
                found["runs"].append(entry)
                given.out.parent.mkdir(parents=True, exist_ok=True)
                given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(
                    f"round {number} {contestant.name:28} {result['seconds']:8.1f} s "
                    f"{result['cpu_seconds']:8.1f} CPU s {result['peak_bytes'] / 2**30:5.2f} GiB "
                    f"best {result['best_eval']:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
