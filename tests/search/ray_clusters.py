"""A Ray cluster of several nodes on this machine, with GPUs that exist in name only."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from tune_lora.search.place import Place
from tune_lora.search.ray_worker import TrialWorker
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import Evaluation, TrialResult, TrialState

_NODE = {"num_cpus": 4, "num_gpus": 2}


@contextmanager
def cluster_of(*names: str) -> Iterator[Cluster]:
    """A head that runs no trials, and nodes with two GPUs each."""
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "node_name": "head",
        # A node's death is noticed in a second, and no process is started before it is needed.
        "_system_config": {
            "health_check_initial_delay_ms": 1000,
            "health_check_period_ms": 500,
            "health_check_timeout_ms": 1000,
            "health_check_failure_threshold": 2,
            "enable_worker_prestart": False,
            "prestart_worker_first_driver": False,
        },
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for name in names:
            cluster.add_node(node_name=name, **_NODE)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def joined(cluster: Cluster, name: str) -> Any:
    """Another node like the others."""
    return cluster.add_node(node_name=name, **_NODE)


@dataclass(frozen=True)
class Attempt:
    """A trial on a node, from its beginning to its end there.

    Attributes:
        node: Ray's id.
        devices: CUDA_VISIBLE_DEVICES.
        arenas: MALLOC_ARENA_MAX.
        ended: None where its process was killed; seconds of the machine's monotonic clock.
    """

    trial: int
    node: str
    devices: str | None
    arenas: str | None
    begun: float
    ended: float | None = None


@dataclass(frozen=True)
class Loss:
    """A node that dies in the middle, as workers know of it.

    Attributes:
        doomed: its id. Trials go no further there.
        before: ids of all nodes before. On the others, trials wait until another node is used.
    """

    doomed: str
    before: frozenset[str]


def instant(at_once: int, loss: Loss | None = None) -> type[TrialWorker]:
    """A worker that trains nothing and notes where it was, in ``notes.jsonl`` of the run folder.

    Args:
        at_once: trials that wait for each other before their first evaluation.
        loss: of a node, in the middle.
    """

    # Of this module, workers can import nothing: not this class either.
    doomed = None if loss is None else loss.doomed
    before = None if loss is None else loss.before

    class InstantPlace(Place):
        def run(self, config: dict[str, Any], report: Callable[[TrialResult], bool]) -> TrialResult:
            trial = TrialConfig.from_dict(json.loads(config["trial"]))
            note = {
                "trial": trial.number,
                "node": ray.get_runtime_context().get_node_id(),
                "devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
                "arenas": os.environ.get("MALLOC_ARENA_MAX"),
                "begun": time.monotonic(),
            }
            self.note(note)
            self.wait(lambda: len({n["trial"] for n in self.notes()}) >= at_once)
            if note["node"] == doomed:
                self.wait(lambda: False)
            self.wait(lambda: before is None or any(n["node"] not in before for n in self.notes()))
            result = TrialResult(trial.number, TrialState.RUNNING, trial.to_dict())
            for step in trial.rungs:
                value = 3.0 - 10 * float(trial.train["learning_rate"]) + 1 / step
                found = (*result.evaluations, Evaluation(step, value, 0.0))
                result = replace(result, step=step, score=value, best_step=step, evaluations=found)
                if step < trial.max_steps and not report(result):
                    break
            self.note({**note, "ended": time.monotonic()})
            ended = result.step == trial.max_steps
            return result.ended(TrialState.COMPLETE if ended else TrialState.PRUNED)

        def wait(self, condition: Callable[[], bool]) -> None:
            end = time.monotonic() + 90
            while not condition():
                assert time.monotonic() < end, "waited in vain"
                time.sleep(0.02)

        def note(self, note: dict[str, Any]) -> None:
            with (self.root.root / "notes.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(note) + "\n")

        def notes(self) -> list[dict[str, Any]]:
            lines = (self.root.root / "notes.jsonl").read_text(encoding="utf-8").splitlines()
            return [json.loads(line) for line in lines]

    class InstantWorker(TrialWorker):
        kind = InstantPlace

    return InstantWorker


def notes_of(run: RunFolder) -> list[dict[str, Any]]:
    """What its workers noted."""
    path: Path = run.root / "notes.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def attempts_of(run: RunFolder) -> list[Attempt]:
    """What its ``instant`` workers noted, in the order in which trials began."""
    found = {(note["trial"], note["begun"]): Attempt(**note) for note in notes_of(run)}
    return sorted(found.values(), key=lambda attempt: attempt.begun)
