"""A worker that holds ever more makes way for a fresh process; one that does not stays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tune_lora.search import ray_early, ray_tune
from tune_lora.search.driver import new_run
from tune_lora.search.ledger import Ledger
from tune_lora.search.place import Place
from tune_lora.search.preflight import preflight
from tune_lora.search.ray_worker import TrialWorker
from tune_lora.search.resources import Allocation
from tune_lora.search.study import Study
from tune_lora.spaces import Space
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState

MIB = 2**20


def worker(leaked: int) -> type[TrialWorker]:
    """A worker that trains nothing, keeps so many bytes of every trial, and notes its process."""

    class LeakingPlace(Place):
        bound = 48 * MIB

        def _train(self, trial: TrialConfig, *_: Any) -> TrialResult:
            if not hasattr(self, "kept"):
                self.kept: list[bytes] = []
            self.kept.append(os.urandom(leaked))
            note = json.dumps({"trial": trial.number, "pid": os.getpid()})
            with (self.root.root / "notes.jsonl").open("a", encoding="utf-8") as file:
                file.write(note + "\n")
            found = (Evaluation(1, 2.0, 0.0),)
            running = TrialResult(
                trial.number, TrialState.RUNNING, trial.to_dict(), 2.0, 1, 1, found
            )
            return running.ended(TrialState.COMPLETE)

    class Leaking(TrialWorker):
        kind = LeakingPlace

    return Leaking


@pytest.fixture(scope="module")
def ray() -> Iterator[Allocation]:
    allocation = Allocation(workers=1, threads=1, gpus=0.0)
    ray_early.start_ray(1)
    yield allocation
    ray_early.stop_ray()


@pytest.mark.parametrize(
    ("leaked", "processes"),
    [(32 * MIB, [1, 1, 1, 2]), pytest.param(0, [1, 1, 1, 1], marks=pytest.mark.slow)],
)
def test_the_process_of_each_trial(
    ray: Allocation,
    space_of: Callable[..., Space],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    leaked: int,
    processes: list[int],
) -> None:
    # A worker that makes way is no failure: none is forgiven here.
    space = space_of(
        "search.trials=4", "search.retries=0", "search.scheduler=none", "train.max_steps=1"
    )
    run = new_run(space, tmp_path / "run")
    said: list[tuple[int, str]] = []
    _search(space, run, ray, worker(leaked), monkeypatch, said)
    assert [result.state for result in run.results()] == [TrialState.COMPLETE] * 4
    lines = (run.root / "notes.jsonl").read_text(encoding="utf-8").splitlines()
    notes = [json.loads(line) for line in lines]
    assert [note["trial"] for note in notes] == [0, 1, 2, 3]
    pids = list(dict.fromkeys(note["pid"] for note in notes))
    assert [pids.index(note["pid"]) + 1 for note in notes] == processes
    moved = [number for number, text in said if "goes to a fresh worker" in text]
    assert moved == ([3] if leaked else [])


def _search(
    space: Space,
    run: RunFolder,
    allocation: Allocation,
    kind: type[TrialWorker],
    monkeypatch: pytest.MonkeyPatch,
    said: list[tuple[int, str]],
) -> None:
    ready = preflight(space)
    ready.data.save(run.data)
    ledger = Ledger(space, run, Study(space, run.study, run.name))
    monkeypatch.setattr(ray_tune, "TrialWorker", kind)

    def note(number: int, text: str) -> None:
        said.append((number, text))

    ledger.note = note
    ray_tune.fit(ledger, ready.spec.to_dict(), allocation, lambda: False)
