"""A packed search under Ray: two engines with a GPU each, both of whose processes are killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from outcomes import read_back
from tiny_models import save_tiny
from tune_lora.reports import build
from tune_lora.search import ray_early, ray_tune
from tune_lora.search.driver import new_run
from tune_lora.search.ledger import Ledger
from tune_lora.search.preflight import preflight
from tune_lora.search.ray_worker import Engine, SeatWorker
from tune_lora.search.resources import Allocation
from tune_lora.search.study import Study
from tune_lora.spaces import load_space
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState

TRIALS, PACK = 9, 2
SPACE = """
model: {{name: {model}, quantization: none, dtype: fp32}}
data: {{train: {pairs}, max_length: 128}}
lora: {{r: {{choice: [2, 4]}}, lora_alpha: 8, target_modules: {{choice: [all-linear, qv]}}}}
train:
  learning_rate: {{log_uniform: [1.0e-6, 1.0e-1]}}
  warmup_steps: 0
  max_steps: 8
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 1
  gradient_checkpointing: false
  optim: adamw_torch
search: {{trials: 9, sampler: random, keep_adapters: 2, retries: 3, pack: 2,
         scheduler: {{asha: {{grace_steps: 1, reduction_factor: 2}}}}}}
"""


def mortals(root: Path) -> tuple[type[Engine], type[SeatWorker]]:
    """Engines that note what they do, of which one is killed, and seats, of which one is.

    The engine at step 2 of trial 0, the seat at its first evaluation after that.
    """

    # Of this module, workers can import nothing.
    def once(mark: str) -> bool:
        try:
            (root / mark).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    class Witness(Engine):
        def begin(self, config: dict[str, Any], pid: int) -> bool:
            begun = super().begin(config, pid)
            self._note(number=config["number"], begun=begun, at_once=len(self._taken))
            return begun

        def advance(self, pid: int) -> dict[str, Any]:
            found = super().advance(pid)
            result = json.loads(found["result"])
            self._note(trial=result["number"], step=result["step"])
            if (result["number"], result["step"]) == (0, 2) and once("engine-killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        def _note(self, **note: Any) -> None:
            note |= {"pid": os.getpid(), "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}
            with (root / "notes.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")

    class Mortal(SeatWorker):
        def step(self) -> dict[str, Any]:
            found = super().step()
            going_on = not found["done"] and (root / "engine-killed").exists()
            if going_on and once("seat-killed"):
                (root / "seat-killed").write_text(str(found["number"]), encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
            return found

    return Witness, Mortal


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, pairs: Path
) -> Iterator[tuple[RunFolder, list[psutil.Process]]]:
    """The finished search, done once for all tests here, and the processes it had."""
    folder = tmp_path_factory.mktemp("packed")
    path = folder / "tiny.yaml"
    text = SPACE.format(model=save_tiny(folder / "llama"), pairs=pairs)
    path.write_text(text, encoding="utf-8")
    space = load_space(path)
    run = new_run(space, folder / "run")
    ready = preflight(space)
    ready.data.save(run.data)
    ledger = Ledger(space, run, Study(space, run.study, run.name))
    allocation = Allocation(workers=2, threads=1, gpus=1.0, pack=PACK)
    family: dict[int, psutil.Process] = {}
    # What other tests in this process have begun (wandb's own service) is none of its.
    others = {p.pid for p in psutil.Process().children(recursive=True)}

    def look() -> bool:
        found = psutil.Process().children(recursive=True)
        family.update({p.pid: p for p in found if p.pid not in others})
        return False

    with pytest.MonkeyPatch.context() as patch:
        engine, seat = mortals(run.root)
        patch.setattr(ray_tune, "Engine", engine)
        patch.setattr(ray_tune, "SeatWorker", seat)
        ray_early.start_ray(2, gpus=2)
        try:
            ray_tune.fit(ledger, ready.spec.to_dict(), allocation, look)
        finally:
            ray_early.stop_ray()
    return run, list(family.values())


@pytest.fixture(scope="module")
def run(searched: tuple[RunFolder, list[psutil.Process]]) -> RunFolder:
    return searched[0]


@pytest.fixture(scope="module")
def notes(run: RunFolder) -> list[dict[str, Any]]:
    text = (run.root / "notes.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_trial_is_there_once_and_has_come_to_its_end(run: RunFolder) -> None:
    assert sorted(row.trial for row in build(run).rows if row.trial is not None) == [*range(TRIALS)]
    states = {result.number: result.state for result in run.results()}
    assert set(states.values()) == {TrialState.PRUNED, TrialState.COMPLETE}
    assert states[0] is TrialState.COMPLETE
    assert [trial.state.name for trial in read_back(run)] == list(states.values())


def test_seats_are_taken_again_but_never_more_than_there_are(notes: list[dict[str, Any]]) -> None:
    begun = [note for note in notes if note.get("begun")]
    assert max(note["at_once"] for note in begun) == PACK
    by_engine: dict[int, int] = {}
    for note in begun:
        by_engine[note["pid"]] = by_engine.get(note["pid"], 0) + 1
    assert max(by_engine.values()) > PACK


def test_each_engine_has_a_gpu_of_its_own(notes: list[dict[str, Any]]) -> None:
    devices: dict[int, set[str]] = {}
    for note in notes:
        devices.setdefault(note["pid"], set()).add(note["devices"])
    # Two, and the one that took the place of the one that was killed.
    assert sorted(map(sorted, devices.values())) in ([["0"], ["0"], ["1"]], [["0"], ["1"], ["1"]])


def test_an_engine_was_killed_and_its_trials_went_on(
    run: RunFolder, notes: list[dict[str, Any]]
) -> None:
    assert (run.root / "engine-killed").exists()
    steps = [note["step"] for note in notes if note.get("trial") == 0]
    # Step 2 is asked about again, step 1 is not trained again.
    assert steps == [1, 2, 2, 4, 8]
    assert len({note["pid"] for note in notes if note.get("trial") == 0}) == 2


def test_a_seat_was_killed_and_its_trial_went_on(
    run: RunFolder, notes: list[dict[str, Any]]
) -> None:
    number = int((run.root / "seat-killed").read_text(encoding="utf-8"))
    begun = [note for note in notes if note.get("begun") and note["number"] == number]
    assert len(begun) >= 2
    (result,) = (result for result in run.results() if result.number == number)
    assert result.state in (TrialState.COMPLETE, TrialState.PRUNED)


def test_what_is_written_is_of_one_course(run: RunFolder) -> None:
    """However often a trial was taken up again: every step once, every rung once."""
    for result in run.results():
        lines = run.trial(result.number).metrics.read_text(encoding="utf-8").splitlines()
        steps = [row["step"] for row in map(json.loads, lines) if "loss" in row]
        assert steps == [*range(1, result.step + 1)]
        rungs = [evaluation.step for evaluation in result.evaluations]
        assert rungs == [rung for rung in (1, 2, 4, 8) if rung <= result.step]


def test_nothing_is_left_running(searched: tuple[RunFolder, list[psutil.Process]]) -> None:
    assert psutil.wait_procs(searched[1], timeout=20)[1] == []


def test_the_base_was_scored_once(run: RunFolder) -> None:
    base = run.read_base()
    assert base is not None
    assert base.rows == 4
