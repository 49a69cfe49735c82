"""A search under Ray: two workers with a GPU each, ASHA, and a worker that is killed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import read_back
from tiny_models import save_tiny
from tune_lora.reports import Leaderboard, build
from tune_lora.search import ray_early, ray_tune
from tune_lora.search.driver import new_run
from tune_lora.search.ledger import Ledger
from tune_lora.search.preflight import preflight
from tune_lora.search.ray_worker import TrialWorker
from tune_lora.search.resources import Allocation
from tune_lora.search.study import Study
from tune_lora.spaces import load_space
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState

TRIALS = 8
SPACE = """
model: {{name: {model}, quantization: none, dtype: fp32}}
data: {{train: {pairs}, max_length: 128}}
lora: {{r: 4, target_modules: all-linear}}
train:
  learning_rate: {{log_uniform: [1.0e-6, 1.0e-1]}}
  warmup_steps: 0
  max_steps: 8
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 1
  gradient_checkpointing: false
  optim: adamw_torch
search: {{trials: 8, sampler: random, keep_adapters: 2, retries: 1,
         scheduler: {{asha: {{grace_steps: 1, reduction_factor: 2}}}}}}
"""


def witness() -> type[TrialWorker]:
    """A worker that notes where each step was taken, and that is killed at some of them.

    In trial 1 whenever it comes to step 2; in trial 0 only the first time.
    """

    class Witness(TrialWorker):
        def step(self) -> dict[str, Any]:
            found = super().step()
            result = json.loads(found["result"])
            note = {
                "trial": result["number"],
                "step": result["step"],
                "pid": os.getpid(),
                "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
                "threads": os.environ.get("OMP_NUM_THREADS"),
            }
            with (self._place.root.root / "notes.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")
            mark = self._place.root.root / "killed-once"
            once = result["number"] == 0 and not mark.exists()
            if result["step"] == 2 and (result["number"] == 1 or once):
                if once:
                    mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return found

    return Witness


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Iterator[RunFolder]:
    """The finished search, done once for all tests here."""
    folder = tmp_path_factory.mktemp("ray")
    path = folder / "tiny.yaml"
    text = SPACE.format(model=save_tiny(folder / "llama"), pairs=pairs)
    path.write_text(text, encoding="utf-8")
    space = load_space(path)
    run = new_run(space, folder / "run")
    ready = preflight(space)
    ready.data.save(run.data)
    ledger = Ledger(space, run, Study(space, run.study, run.name))
    allocation = Allocation(workers=2, threads=1, gpus=1.0)

    def note(number: int, text: str) -> None:
        with (folder / "run" / "said.txt").open("a", encoding="utf-8") as file:
            file.write(f"{number}: {text}\n")

    ledger.note = note
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_tune, "TrialWorker", witness())
        ray_early.start_ray(2, gpus=2)
        try:
            ray_tune.fit(ledger, ready.spec.to_dict(), allocation, lambda: False)
        finally:
            ray_early.stop_ray()
    return run


@pytest.fixture(scope="module")
def board(run: RunFolder) -> Leaderboard:
    return build(run)


@pytest.fixture(scope="module")
def notes(run: RunFolder) -> list[dict[str, Any]]:
    text = (run.root / "notes.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def states(run: RunFolder) -> dict[int, TrialState]:
    return {result.number: result.state for result in run.results()}


def test_every_trial_is_there_once(board: Leaderboard) -> None:
    trials = [row.trial for row in board.rows if row.trial is not None]
    assert sorted(trials) == list(range(TRIALS))


def test_the_killed_workers_trial_is_lost_and_the_search_went_on(run: RunFolder) -> None:
    found = states(run)
    assert [number for number, state in found.items() if state is TrialState.LOST] == [1]
    assert set(found.values()) == {TrialState.LOST, TrialState.PRUNED, TrialState.COMPLETE}
    lost = next(result for result in run.results() if result.number == 1)
    assert (lost.step, lost.error) == (1, "the worker process died")


def test_each_retry_is_said(run: RunFolder) -> None:
    said = sorted((run.root / "said.txt").read_text(encoding="utf-8").splitlines())
    again = "its worker died; it is taken up again (retry 1 of 1)"
    assert said == [f"0: {again}", f"1: {again}"]


def test_a_trial_whose_worker_was_killed_once_goes_on_from_its_checkpoint(
    run: RunFolder, notes: list[dict[str, Any]]
) -> None:
    first = next(result for result in run.results() if result.number == 0)
    assert first.state is TrialState.COMPLETE
    assert [evaluation.step for evaluation in first.evaluations] == [1, 2, 4, 8]
    steps = [note["step"] for note in notes if note["trial"] == 0]
    # Step 2 is asked about again, step 1 is not trained again.
    assert steps == [1, 2, 2, 4, 8]
    assert len({note["pid"] for note in notes if note["trial"] == 0}) == 2


def test_the_study_is_told_what_the_results_say(run: RunFolder) -> None:
    told = read_back(run)
    as_told = {
        TrialState.COMPLETE: OptunaState.COMPLETE,
        TrialState.PRUNED: OptunaState.PRUNED,
        TrialState.LOST: OptunaState.FAIL,
    }
    assert [trial.state for trial in told] == [as_told[s] for s in states(run).values()]
    for result, trial in zip(run.results(), told, strict=True):
        assert trial.intermediate_values == {e.step: e.eval_loss for e in result.evaluations}
        if result.state is TrialState.COMPLETE:
            assert trial.value == result.score


def test_stopped_trials_stopped_at_a_rung_and_the_baseline_did_not(run: RunFolder) -> None:
    for result in run.results():
        steps = [evaluation.step for evaluation in result.evaluations]
        assert steps == [s for s in (1, 2, 4, 8) if s <= result.step]
        assert (result.step < 8) is (result.state is not TrialState.COMPLETE)
    baseline = next(run.results())
    assert (baseline.baseline, baseline.state) == (True, TrialState.COMPLETE)


def test_a_stopped_trial_was_behind_at_its_last_rung(run: RunFolder) -> None:
    results = list(run.results())
    for stopped in (r for r in results if r.state is TrialState.PRUNED):
        at_rung = [e.eval_loss for r in results for e in r.evaluations if e.step == stopped.step]
        assert stopped.evaluations[-1].eval_loss > min(at_rung)


def test_each_worker_has_a_gpu_of_its_own(notes: list[dict[str, Any]]) -> None:
    devices: dict[int, set[str]] = {}
    for note in notes:
        devices.setdefault(note["pid"], set()).add(note["devices"])
    assert all(len(seen) == 1 for seen in devices.values())
    assert set().union(*devices.values()) == {"0", "1"}
    # The first note of each: trial 0 was taken up again later.
    of_trial = {note["trial"]: note["devices"] for note in reversed(notes)}
    assert of_trial[0] != of_trial[1]


def test_workers_serve_trial_after_trial(notes: list[dict[str, Any]]) -> None:
    pids = {note["trial"]: note["pid"] for note in notes}
    assert len(pids) == TRIALS
    # Fewer processes than trials, though three were killed.
    assert len(set(pids.values())) <= 5
    assert all(note["threads"] == "1" for note in notes)


def test_only_the_best_adapters_are_left(run: RunFolder, board: Leaderboard) -> None:
    kept = [row.trial for row in board.rows if row.has_adapter]
    assert kept == [row.trial for row in board.rows if row.rank in (1, 2)]


def test_the_base_was_scored_once(run: RunFolder) -> None:
    base = run.read_base()
    assert base is not None
    assert base.rows == 4
