"""What the driver itself takes of a search: trials that end at once, through the real one.

    python benchmarks/driver_overhead.py --data PAIRS.jsonl [--trials 100 1000] [--sampler tpe]
        [--local] [--profile] [--out FILE.json]

Ray, study, ledger, reports and run folder are the real ones; only the worker's training is
replaced: it reports made-up losses at the rungs. Seconds a trial, by tenths of the search, say
whether the overhead grows with the number of trials. ``--local`` leaves Ray out: what remains is
the study, the ledger and the reports. ``--profile`` prints where the driver's time goes.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import json
import pstats
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import yaml
from configurations import MODEL
from instant import InstantWorker, instant
from rich.console import Console
from tune_lora.search import driver, local, ray_tune
from tune_lora.search.ledger import Ledger
from tune_lora.spaces import Space, load_space
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.result import BaseScore, TrialResult

PARTS = 10


class Moment(NamedTuple):
    """When a trial ended.

    Attributes:
        wall: seconds.
        driver: seconds of a core that this process has taken.
    """

    wall: float
    driver: float

    @classmethod
    def now(cls) -> Moment:
        """This one."""
        return cls(time.perf_counter(), time.process_time())


def make_space(data: Path, trials: int, sampler: str, folder: Path) -> Space:
    """The example search's space with as many trials, few rows and the given sampler."""
    path = folder / "space.yaml"
    body = {
        "model": {"name": MODEL},
        "data": {"train": str(data), "limit": {"train": 64, "validation": 8, "test": 8}},
        "lora": {
            "r": {"choice": [8, 16, 32, 64]},
            "lora_alpha": {"ratio_of": "r", "choice": [1, 2, 4]},
            "target_modules": {"choice": ["qv", "attention", "mlp", "all-linear"]},
        },
        "train": {"learning_rate": {"log_uniform": [3e-5, 2e-3]}, "max_steps": 27},
        "search": {"trials": trials, "sampler": sampler, "pack": 1},
        "resources": {"threads": 1},
    }
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return load_space(path)


def search(
    space: Space, root: Path, *, in_process: bool, profile: bool, address: str | None = None
) -> list[Moment]:
    """Run the search; the moments at which its trials ended, from the first trial's start."""
    moments: list[Moment] = []
    told, asked = Ledger.ended, Ledger.next_config

    def ended(self: Ledger, result: TrialResult) -> None:
        told(self, result)
        moments.append(Moment.now())

    def next_config(self: Ledger) -> TrialConfig | None:
        if not moments:
            moments.append(Moment.now())
        return asked(self)

    def run_trial(
        config: TrialConfig, base: Any, data: Any, report: Any, *_: Any, **__: Any
    ) -> Any:
        return instant(config, report)

    Ledger.ended, Ledger.next_config = ended, next_config  # type: ignore[method-assign]
    ray_tune.TrialWorker = InstantWorker  # type: ignore[misc]
    local.run_trial = run_trial
    local.load_base = lambda spec: SimpleNamespace(spoiled=False)  # type: ignore[assignment]
    local.score_base = lambda *_: BaseScore(4.0, 8, 100, 0.0)
    profiler = cProfile.Profile()
    console = Console(file=io.StringIO())
    try:
        run = driver.new_run(space, root)
        if profile:
            profiler.enable()
        driver.run_search(space, run, console, local=in_process, address=address)
    finally:
        profiler.disable()
        Ledger.ended, Ledger.next_config = told, asked  # type: ignore[method-assign]
    if profile:
        for order in ("cumulative", "tottime"):
            pstats.Stats(profiler).sort_stats(order).print_stats(45)
    return moments


def tenths(moments: list[Moment]) -> list[float]:
    """Mean seconds a trial in each tenth of the search."""
    count = len(moments) - 1
    bounds = [round(part * count / PARTS) for part in range(PARTS + 1)]
    return [
        (moments[end].wall - moments[start].wall) / (end - start)
        for start, end in pairwise(bounds)
        if end > start
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="jsonl of pairs")
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found = []
    for trials in given.trials:
        with tempfile.TemporaryDirectory() as folder:
            space = make_space(given.data, trials, given.sampler, Path(folder))
            root = Path(folder) / "run"
            moments = search(space, root, in_process=given.local, profile=given.profile)
        seconds = tenths(moments)
        found.append(
            {
                "trials": len(moments) - 1,
                "sampler": given.sampler,
                "local": given.local,
                "seconds_a_trial": (moments[-1].wall - moments[0].wall) / (len(moments) - 1),
                "by_tenths": seconds,
            }
        )
        print(
            f"{trials} trials, {given.sampler}: {found[-1]['seconds_a_trial']:.3f} s a trial; "
            f"first tenth {seconds[0]:.3f}, median {statistics.median(seconds):.3f}, "
            f"last {seconds[-1]:.3f}",
            flush=True,
        )
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
