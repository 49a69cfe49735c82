"""A search on a Ray cluster of which one node dies in the middle and another joins."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from outcomes import read_back
from ray_clusters import cluster_of, joined, notes_of
from tiny_models import save_tiny
from tune_lora.reports import Leaderboard, build
from tune_lora.search import ray_tune
from tune_lora.search.driver import new_run
from tune_lora.search.ledger import Ledger
from tune_lora.search.preflight import preflight
from tune_lora.search.ray_cluster import Cluster
from tune_lora.search.ray_worker import TrialWorker
from tune_lora.search.study import Study
from tune_lora.spaces import load_space
from tune_lora.trainer.folder import RunFolder, write_text
from tune_lora.trainer.result import TrialState

pytestmark = pytest.mark.slow

TRIALS, RUNGS = 10, (1, 2, 4, 8)
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
search: {{trials: 10, sampler: random, retries: 1,
         scheduler: {{asha: {{grace_steps: 1, reduction_factor: 2}}}}}}
resources: {{threads: 1}}
"""


def halting(doomed: str) -> type[TrialWorker]:
    """A worker that notes where each step was taken; on the ``doomed`` node none goes past 4.

    On the others, none goes on between a node's joining and its first note.
    """

    class Halting(TrialWorker):
        def step(self) -> dict[str, Any]:
            found = super().step()
            result = json.loads(found["result"])
            node = ray.get_runtime_context().get_node_id()
            note = {"trial": result["number"], "step": result["step"], "node": node}
            notes = self._place.root.root / "notes.jsonl"
            with notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")
            newcomer, end = self._place.root.root / "joined", time.monotonic() + 200
            while newcomer.exists() and newcomer.read_text("utf-8") not in notes.read_text("utf-8"):
                assert time.monotonic() < end, "the node that joined is not used"
                time.sleep(0.05)
            while node == doomed and result["step"] == 4:
                time.sleep(0.05)
            return found

    return Halting


class Moved:
    """The finished search.

    Attributes:
        names: of the nodes, by Ray's ids.
        said: what was noted of trials.
    """

    def __init__(self, folder: Path, pairs: Path) -> None:
        path = folder / "tiny.yaml"
        text = SPACE.format(model=save_tiny(folder / "llama"), pairs=pairs)
        path.write_text(text, encoding="utf-8")
        space = load_space(path)
        self.run = new_run(space, folder / "run")
        self.said: list[tuple[int, str]] = []
        ready = preflight(space)
        ready.data.save(self.run.data)
        ledger = Ledger(space, self.run, Study(space, self.run.study, self.run.name))
        ledger.note = lambda *note: self.said.append(note)
        with cluster_of("alpha") as made, pytest.MonkeyPatch.context() as patch:
            doomed = [joined(made, "beta")]
            member = Cluster(made.address)
            self.names = {node.id: node.name for node in member.nodes}
            beta = next(node for node, name in self.names.items() if name == "beta")
            patch.setattr(ray_tune, "TrialWorker", halting(beta))
            allocation = member.allocate(space)
            self.workers = allocation.workers
            member.check(self.run, ready.spec, allocation)

            def change() -> bool:
                """As soon as a trial is in the middle there: beta dies, gamma joins."""
                if doomed and (self.run.root / "notes.jsonl").exists():
                    there = [n for n in notes_of(self.run) if n["node"] == beta]
                    if any(note["step"] == 4 for note in there):
                        made.remove_node(doomed.pop(), allow_graceful=False)
                        gamma = joined(made, "gamma").node_id
                        write_text(self.run.root / "joined", gamma)
                return False

            spec = ready.spec.to_dict()
            ray_tune.fit(ledger, spec, allocation, change, member)
            self.names |= {node.id: node.name for node in member.nodes}
            member.stop()
        self.notes = [(n["trial"], self.names[n["node"]], n["step"]) for n in notes_of(self.run)]

    def steps(self, trial: int, *nodes: str) -> list[int]:
        """Those that a trial took on some nodes, in order."""
        return [step for number, node, step in self.notes if number == trial and node in nodes]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Iterator[Moved]:
    return Moved(tmp_path_factory.mktemp("moves"), pairs)


@pytest.fixture(scope="module")
def run(moved: Moved) -> RunFolder:
    return moved.run


def test_every_trial_is_there_once_and_none_is_lost(run: RunFolder) -> None:
    board: Leaderboard = build(run)
    assert sorted(row.trial for row in board.rows if row.trial is not None) == [*range(TRIALS)]
    states = [result.state for result in run.results()]
    assert set(states) <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.state.name for trial in read_back(run)] == [state.value for state in states]


def test_the_dead_nodes_trials_go_on_from_their_checkpoints(moved: Moved) -> None:
    halted = [n for n, node, step in moved.notes if (node, step) == ("beta", 4)]
    assert halted
    for number in halted:
        assert moved.steps(number, "beta") == [1, 2, 4]
        # Step 4 is asked about again, and nothing before it is trained again.
        assert moved.steps(number, "alpha", "gamma")[0] == 4
        assert (number, "its worker died; it is taken up again (retry 1 of 1)") in moved.said


def test_the_node_that_joined_is_used(moved: Moved) -> None:
    assert moved.workers == 4
    assert any(node == "gamma" for _, node, _ in moved.notes)


def test_what_is_written_is_of_one_course(run: RunFolder) -> None:
    for result in run.results():
        lines = run.trial(result.number).metrics.read_text(encoding="utf-8").splitlines()
        steps = [row["step"] for row in map(json.loads, lines) if "loss" in row]
        assert steps == [*range(1, result.step + 1)]
        found = [evaluation.step for evaluation in result.evaluations]
        assert found == [rung for rung in RUNGS if rung <= result.step]


def test_results_say_where_their_trials_ended(moved: Moved) -> None:
    for result in moved.run.results():
        last = [node for number, node, _ in moved.notes if number == result.number][-1]
        assert result.place in (f"{last} GPU 0", f"{last} GPU 1")
