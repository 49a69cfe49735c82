"""What a trial sees that has several GPUs, or a part of one, of those that exist in name only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ray_searches import TinySearch, ray_search
from tiny_models import save_tiny
from tune_lora.search.ray_worker import TrialWorker
from tune_lora.search.resources import Allocation
from tune_lora.trainer.result import TrialState

TRIALS = 4


def seeing() -> type[TrialWorker]:
    """A worker that notes what each of its trials sees."""

    class Seeing(TrialWorker):
        def step(self) -> dict[str, Any]:
            found = super().step()
            seen = os.environ.get("CUDA_VISIBLE_DEVICES"), self.where()[1]
            note = {"trial": found["number"], "pid": os.getpid(), "seen": seen}
            with (self._place.root.root / "seen.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")
            return found

    return Seeing


@pytest.mark.parametrize(
    ("gpus", "share", "devices"),
    [(4, 2.0, {"0,1", "2,3"}), (1, 0.5, {"0"})],
    ids=["several", "part"],
)
def test_a_trial_sees_its_own(
    tmp_path: Path, pairs: Path, gpus: int, share: float, devices: set[str]
) -> None:
    model = save_tiny(tmp_path / "llama")
    wanted = TinySearch(tmp_path, model, pairs, {"trials": TRIALS, "scheduler": "none"})
    run = ray_search(wanted, seeing(), Allocation(workers=2, threads=1, gpus=share), gpus)
    results = list(run.results())
    assert [result.state for result in results] == [TrialState.COMPLETE] * TRIALS
    notes = [json.loads(line) for line in (run.root / "seen.jsonl").read_text().splitlines()]
    assert {note["trial"] for note in notes} == set(range(TRIALS))
    assert all(note["seen"][0] == ",".join(note["seen"][1]) for note in notes)
    of_process = {note["pid"]: note["seen"][0] for note in notes}
    # Two processes, which train side by side: what they see is apart, or the one GPU's two parts.
    assert len(of_process) == 2
    assert set(of_process.values()) == devices
    assert {result.place for result in results} == {f"GPU {seen}" for seen in devices}
