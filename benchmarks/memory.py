"""Peak memory of a search with one worker, with two, and with four trials in a pass.

    python benchmarks/memory.py --data PAIRS.jsonl [--runs 1] [--out FILE.json]

SmolLM2-135M in NF4, batches of four pairs. Printed is what the workers' own meters say, and the
largest sum over all processes, driver and Ray included, in which shared pages count in each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from configurations import MODEL
from measure import measure

CASES = {
    "one worker": {"workers": 1, "pack": 1, "trials": 2},
    "two workers": {"workers": 2, "pack": 1, "trials": 4},
    "one worker, four trials a pass": {"workers": 1, "pack": 4, "trials": 4},
}
GIB = 2**30


def peak(data: Path, case: dict[str, int]) -> tuple[float, float]:
    """In GiB: the largest of the trials' own meters, and the sum over processes."""
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "space.yaml", Path(folder) / "run"
        body = {
            "model": {"name": MODEL},
            "data": {"train": str(data), "limit": {"train": 128, "validation": 16, "test": 8}},
            "lora": {"r": 16, "target_modules": "all-linear"},
            "train": {
                "learning_rate": {"log_uniform": [1e-5, 1e-3]},
                "max_steps": 4,
                "per_device_train_batch_size": 4,
                "gradient_accumulation_steps": 1,
            },
            "search": {
                "trials": case["trials"],
                "scheduler": "none",
                "baseline": False,
                "pack": case["pack"],
            },
            "resources": {"workers": case["workers"], "threads": 1},
        }
        path.write_text(json.dumps(body), encoding="utf-8")
        command = [sys.executable, "-m", "tune_lora.cli", "search", str(path), "--run", str(run)]
        environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": f"{folder}/datasets"}
        took = measure(command, environment, Path(folder) / "log.txt")
        found = [json.loads(p.read_text("utf-8")) for p in run.glob("trials/*/result.json")]
        return max(r["peak_memory_bytes"] for r in found) / GIB, took.peak_bytes / GIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="jsonl of pairs")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for _ in range(given.runs):
        for name, case in CASES.items():
            found[name].append(peak(given.data.resolve(), case))
    print("| peak memory, GiB | of a worker | of all processes |")
    print("| --- | ---: | ---: |")
    for name, peaks in found.items():
        own, every = (statistics.median(values) for values in zip(*peaks, strict=True))
        print(f"| {name} | {own:.2f} | {every:.2f} |", flush=True)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
