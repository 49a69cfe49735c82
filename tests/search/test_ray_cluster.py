"""Searches on a Ray cluster of nodes with two GPUs each: where trials run, and what is said.

In the first of them a node dies and another joins.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster as RayCluster
from ray_clusters import Attempt, Loss, attempts_of, cluster_of, instant, joined
from rich.console import Console
from tiny_models import save_tiny
from tune_lora.search import ray_tune
from tune_lora.search.driver import SearchOutcome, new_run, run_search
from tune_lora.search.ray_cluster import Cluster
from tune_lora.search.ray_nodes import NodeChecks
from tune_lora.spaces import Space, SpaceError, load_space
from tune_lora.trainer.base import BaseSpec
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder

TRIALS = 10
SPACE = """
model: {{name: {model}, quantization: none, dtype: fp32}}
data: {{train: {pairs}, max_length: 128}}
lora: {{r: 4, target_modules: all-linear}}
train: {{learning_rate: {{log_uniform: [1.0e-3, 1.0e-1]}}, max_steps: 4}}
search: {{trials: 10, sampler: random,
         scheduler: {{asha: {{grace_steps: 1, reduction_factor: 2}}}}}}
resources: {{threads: 1}}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with cluster_of("alpha", "beta") as made:
        yield made


@pytest.fixture(scope="module")
def space_at(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Callable[..., Space]:
    folder = tmp_path_factory.mktemp("space")
    path = folder / "tiny.yaml"
    text = SPACE.format(model=save_tiny(folder / "llama"), pairs=pairs)
    path.write_text(text, encoding="utf-8")
    return lambda *overrides: load_space(path, overrides)


class Searched:
    """A finished search on the cluster.

    Args:
        space: what to search.
        root: of its run folder.
        cluster: Ray's own.
        at_once: see ``instant``.
        doomed: a node that dies while trials are on it; then one called gamma joins.
    """

    def __init__(
        self, space: Space, root: Path, cluster: RayCluster, at_once: int, doomed: Any = None
    ) -> None:
        self.run, said = new_run(space, root), io.StringIO()
        self._cluster, self._doomed = cluster, doomed
        loss = None
        if doomed is not None:
            before = frozenset(node.node_id for node in cluster.worker_nodes)
            loss = Loss(doomed.node_id, before)
        self.died = math.inf
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as beside:
            patch.setattr(ray_tune, "TrialWorker", instant(at_once, loss))
            console, address = Console(file=said, width=200), cluster.address
            # In this order: Linux ends a node with the thread that began it.
            running = beside.submit(
                run_search, space, self.run, console, local=False, address=address
            )
            if doomed is not None:
                self._change(running)
            self.outcome = running.result()
        self.said = said.getvalue()
        self.attempts = attempts_of(self.run)
        self.names = {node["NodeID"]: node["NodeName"] for node in nodes(self)}

    def _change(self, running: Future[SearchOutcome]) -> None:
        """As soon as all four trials are under way, the node dies, and another joins."""
        while len(attempts_of(self.run)) < 4:
            assert not running.done(), "there were no four trials"
            time.sleep(0.05)
        self._cluster.remove_node(self._doomed, allow_graceful=False)
        self.died = time.monotonic()
        joined(self._cluster, "gamma")

    def most_at_once(self, of: Callable[[Attempt], object]) -> int:
        """Of the trials that have ``of`` in common, the most that ran at a moment."""
        spans = [(a.begun, a.ended or self.died, of(a)) for a in self.attempts]
        return max(
            sum(begun <= at < ended and common == kind for begun, ended, common in spans)
            for at, _, kind in spans
        )

    def where(self, attempt: Attempt) -> str:
        """``alpha GPU 0``."""
        return f"{self.names[attempt.node]} GPU {attempt.devices}"


@pytest.fixture(scope="module")
def searched(
    cluster: RayCluster,
    space_at: Callable[..., Space],
    tmp_path_factory: pytest.TempPathFactory,
) -> Searched:
    doomed = next(node for node in cluster.worker_nodes if name_of(node) == "beta")
    root = tmp_path_factory.mktemp("run") / "run"
    return Searched(space_at(), root, cluster, at_once=4, doomed=doomed)


def name_of(node: Any) -> str:
    return str(node._ray_params.node_name)


def place(attempt: Attempt) -> object:
    return attempt.node, attempt.devices


def test_every_trial_is_on_the_leaderboard_once_and_none_is_lost(searched: Searched) -> None:
    trials = [row.trial for row in searched.outcome.board.rows if row.trial is not None]
    assert sorted(trials) == [*range(TRIALS)]
    assert searched.outcome.reason is None
    assert all(row.state in ("COMPLETE", "PRUNED") for row in searched.outcome.board.rows)


def test_each_running_trial_has_a_gpu_of_its_own(searched: Searched) -> None:
    assert {attempt.devices for attempt in searched.attempts} == {"0", "1"}
    assert searched.most_at_once(place) == 1
    assert searched.most_at_once(lambda attempt: None) == 4


def test_the_dead_nodes_trials_are_taken_up_elsewhere(searched: Searched) -> None:
    killed = [attempt for attempt in searched.attempts if attempt.ended is None]
    assert [searched.names[attempt.node] for attempt in killed] == ["beta", "beta"]
    for attempt in killed:
        again = [a for a in searched.attempts if a.trial == attempt.trial and a is not attempt]
        assert [searched.names[a.node] in ("alpha", "gamma") for a in again] == [True]
        retry = "its worker died; it is taken up again (retry 1 of 3)"
        assert searched.said.count(f"trial-{attempt.trial:04d}  {retry}") == 1


def test_the_node_that_joined_is_used(searched: Searched) -> None:
    assert "gamma" in {searched.names[attempt.node] for attempt in searched.attempts}


def test_it_is_said_and_kept_where_a_trial_ran(searched: Searched) -> None:
    ran = {a.trial: searched.where(a) for a in searched.attempts}
    assert {result.number: result.place for result in searched.run.results()} == ran
    for a in searched.attempts:
        line = f"trial-{a.trial:04d}  runs on   {searched.where(a)}\n"
        assert searched.said.count(line) == 1


def nodes(searched: Searched) -> list[dict[str, Any]]:
    address = json.loads(searched.run.about.read_text(encoding="utf-8"))["layout"]["address"]
    ray.init(address=address, log_to_driver=False)
    try:
        return list(ray.nodes())
    finally:
        ray.shutdown()


def test_the_cluster_goes_on_after_the_search(searched: Searched) -> None:
    alive = sorted(node["NodeName"] for node in nodes(searched) if node["Alive"])
    assert alive == ["alpha", "gamma", "head"]


def test_what_is_not_measured_on_a_cluster_is_said(searched: Searched) -> None:
    assert "4 worker(s) of 1 GPU" in searched.said
    assert "layout: not measured" in searched.said
    assert "ray:    3 node(s) with {GPU: 4, CPU: 8" in searched.said


def test_workers_get_the_variables_of_local_ones(searched: Searched) -> None:
    assert {attempt.arenas for attempt in searched.attempts} == {"1"}


def test_no_token_is_left(searched: Searched) -> None:
    assert not searched.run.token.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "at_once", "devices", "sharing"),
    [(0.5, 8, {"0", "1"}, 2), (2.0, 2, {"0,1"}, 1)],
)
def test_parts_of_a_gpu_and_several(
    cluster: RayCluster,
    space_at: Callable[..., Space],
    tmp_path: Path,
    share: float,
    at_once: int,
    devices: set[str],
    sharing: int,
) -> None:
    space = space_at(f"resources.gpus_per_trial={share}")
    found = Searched(space, tmp_path / "run", cluster, at_once)
    assert {attempt.devices for attempt in found.attempts} == devices
    assert found.most_at_once(place) == sharing
    assert found.most_at_once(lambda attempt: None) == at_once


@pytest.fixture
def member(cluster: RayCluster) -> Iterator[Cluster]:
    made = Cluster(cluster.address)
    yield made
    made.stop()


@pytest.mark.parametrize(
    ("override", "key", "rule"),
    [
        ("resources.gpus_per_trial=4", "resources.gpus_per_trial", "more than 2 GPU"),
        ("resources.threads=5", "resources.threads", "{GPU: 1, CPU: 5}, and no node"),
        ("search.pack=2", "search.pack", "one machine"),
    ],
)
def test_what_no_node_can_give_is_refused(
    member: Cluster, space_at: Callable[..., Space], override: str, key: str, rule: str
) -> None:
    with pytest.raises(SpaceError, match=rule) as caught:
        member.allocate(space_at(override))
    assert [fault.path for fault in caught.value.faults] == [key]


def test_a_node_that_does_not_see_the_run_folder_is_named(
    member: Cluster, run: RunFolder, tiny: Callable[..., Path]
) -> None:
    checks = NodeChecks(run, BaseSpec(str(tiny()), "tiny"))
    usable = [node for node in member.nodes if node.resources.get("GPU")]
    assert [found.files.keys() >= {"config.json"} for found in checks.of(usable)] == [True, True]
    run.token.unlink()
    with pytest.raises(
        TrialError, match=r"node (alpha|beta|gamma): does not see the run folder .*--run"
    ):
        checks.of(usable)


def test_what_a_trial_waits_for_is_said(member: Cluster, space_at: Callable[..., Space]) -> None:
    said = member.waiting(member.allocate(space_at()))
    assert said.startswith("waits for {GPU: 1, CPU: 1}: the cluster has {GPU: 4, CPU: 8, memory: ")
    assert said.endswith(" in all, {GPU: 4, CPU: 8} free now")
