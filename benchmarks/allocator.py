"""What glibc's settings in the workers are worth: CPU seconds a step, and peak memory.

    python benchmarks/allocator.py [--rounds 5] [--dtype fp32]

SmolLM2-135M, NF4 dequantized, r 16 on all linear layers, four rows of 56 tokens, in a fresh process
each; the settings are taken in turn within a round. CPU seconds of a whole trial of eight steps.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from plan_memory import CASES, MIB, found_model, measured, question
from tune_lora.search.ray_early import worker_variables

TUNABLES = "GLIBC_TUNABLES"
STEPS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    given = parser.parse_args()
    ours = worker_variables()
    small = ours[TUNABLES]
    huge = "glibc.malloc.hugetlb=1"
    variants = {
        "as workers have it": ours,
        "with small blocks set aside": {**ours, TUNABLES: ""},
        "as workers have it, and huge pages": {**ours, TUNABLES: f"{small}:{huge}"},
        "with small blocks set aside, and huge pages": {**ours, TUNABLES: huge},
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    case = CASES["nf4, dequantized, checkpointing"]
    case = {**case, "checkpointing": False, "tokens": 56}
    with tempfile.TemporaryDirectory() as folder:
        asked = question(found_model("SmolLM2-135M", Path(folder)), case, given.dtype)
        asked["train"].update(max_steps=STEPS, gradient_accumulation_steps=1)
        for _ in range(given.rounds):
            for name, variables in variants.items():
                one = measured(asked, variables)
                found[name].append((one["seconds"], one["peak"] / MIB))
    print("| | CPU s a step | range | peak, MiB |")
    print("| --- | ---: | ---: | ---: |")
    for name, values in found.items():
        seconds, peaks = zip(*values, strict=True)
        middle, peak = statistics.median(seconds), statistics.median(peaks)
        print(f"| {name} | {middle:.2f} | {min(seconds):.2f}-{max(seconds):.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
