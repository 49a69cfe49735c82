"""Seconds from ``tune-lora search`` to its first training step, part by part.

    python benchmarks/startup.py --data PAIRS.jsonl [--runs 3] [--out FILE.json]

The command runs in a process of its own, in which functions of the package are wrapped to note
the clock as they begin and end; nothing else is changed. A search of one trial of one step.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configurations import MODEL

MARKS = "TUNE_LORA_STARTUP_MARKS"

PARTS = (
    ("Python, command line, space file, run folder", "start", "start_ray"),
    ("Ray's start", "start_ray", "start_ray ended"),
    ("beside it, driver imports (torch, transformers, peft)", "driver imports", "driver imported"),
    ("preflight: model found, data tokenized, targets checked", "preflight", "preflight ended"),
    ("of which tokenization", "tokenize", "tokenize ended"),
    ("of which the modules' shapes", "meta_model", "meta_model ended"),
    ("memory foretold, data saved, study made", "preflight ended", "tune imports"),
    ("Ray Tune imported, Ray waited for", "tune imports", "fit"),
    ("until a worker takes the trial", "fit", "worker"),
    ("worker imports that are left (torch, transformers, peft)", "worker", "worker imported"),
    ("model loaded and quantized", "load_base", "load_base ended"),
    ("base model scored", "score_base", "score_base ended"),
    ("adapter and Trainer made", "run_trial", "first step"),
    ("in all, to the first training step", "start", "first step"),
    ("from the last step to the prompt", "run_trial ended", "end"),
)


def mark(name: str) -> None:
    """Note the clock."""
    with Path(os.environ[MARKS]).open("a", encoding="utf-8") as file:
        file.write(json.dumps([name, time.time()]) + "\n")


def marked(module: Any, name: str) -> None:
    """Wrap a function of a module so that its beginning and its end are noted."""
    inner: Callable[..., Any] = getattr(module, name)

    @functools.wraps(inner)
    def outer(*given: Any, **named: Any) -> Any:
        mark(name)
        try:
            return inner(*given, **named)
        finally:
            mark(f"{name} ended")

    setattr(module, name, outer)


def marked_worker() -> type:
    """A worker that notes the clock on the way to its first step; made late, for it imports Ray."""

    from tune_lora.search.place import Place
    from tune_lora.search.ray_worker import TrialWorker

    class MarkedPlace(Place):
        """Marks what its trial goes through."""

        def run(self, *given: Any) -> Any:
            mark("worker")
            from tune_lora.trainer import base, run

            mark("worker imported")
            marked(base, "load_base")
            marked(run, "score_base")
            marked(run, "run_trial")
            begin = run._Rungs.on_step_begin

            def on_step_begin(self: Any, *given: Any, **named: Any) -> None:
                mark("first step")
                begin(self, *given, **named)

            run._Rungs.on_step_begin = on_step_begin
            return super().run(*given)

    class MarkedWorker(TrialWorker):  # type: ignore[misc]
        """Has such a place."""

        kind = MarkedPlace

    return MarkedWorker


def child(arguments: list[str]) -> None:
    """``tune-lora`` with its parts marked."""
    from tune_lora import cli
    from tune_lora.search import driver, ray_early

    sys.argv = ["tune-lora", *arguments]
    marked(ray_early, "start_ray")
    begin = driver._start_ray

    def start(*given: Any, **named: Any) -> Any:
        found = begin(*given, **named)
        mark("driver imports")
        from tune_lora.search import course, preflight

        mark("driver imported")
        marked(course, "preflight")
        marked(preflight, "tokenize")
        marked(preflight, "meta_model")
        inner = course._fit_with_ray

        def fit(*given: Any, **named: Any) -> Any:
            mark("tune imports")
            from tune_lora.search import ray_tune

            mark("tune imported")
            ray_tune.TrialWorker = marked_worker()  # type: ignore[misc]
            marked(ray_tune, "fit")
            return inner(*given, **named)

        course._fit_with_ray = fit
        return found

    driver._start_ray = start
    cli.console_main()


def one(data: Path) -> dict[str, float]:
    """Seconds of each part, of one cold start."""
    with tempfile.TemporaryDirectory() as folder:
        marks = Path(folder) / "marks"
        space = Path(folder) / "space.yaml"
        body = {
            "model": {"name": MODEL},
            "data": {"train": str(data), "limit": {"train": 512, "validation": 8, "test": 8}},
            "train": {
                "max_steps": 1,
                "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 1,
            },
            "search": {"trials": 1, "scheduler": "none"},
        }
        space.write_text(json.dumps(body), encoding="utf-8")
        start = time.time()
        command = [sys.executable, __file__, "--child", "search", str(space)]
        subprocess.run(
            [*command, "--run", f"{folder}/run"],
            env={
                **os.environ,
                MARKS: str(marks),
                "RAY_worker_niceness": "0",
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_CACHE": f"{folder}/datasets",
            },
            check=True,
            stdout=subprocess.DEVNULL,
        )
        noted: dict[str, float] = {"start": start, "end": time.time()}
        for line in marks.read_text(encoding="utf-8").splitlines():
            name, moment = json.loads(line)
            noted.setdefault(name, moment)
    return {label: noted[end] - noted[begin] for label, begin, end in PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="jsonl of pairs")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    runs = [one(given.data.resolve()) for _ in range(given.runs)]
    for label, *_ in PARTS:
        values = [run[label] for run in runs]
        middle = statistics.median(values)
        print(f"{middle:7.2f} s  ({min(values):.2f} to {max(values):.2f})  {label}")
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    else:
        main()
