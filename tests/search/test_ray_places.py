"""What is said of trials that wait, and whether a cluster answers, without any Ray running."""

from __future__ import annotations

import re
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tune_lora.search import ray_cluster, ray_places
from tune_lora.search.ray_cluster import Cluster, Pulse
from tune_lora.search.ray_nodes import Finding, fault
from tune_lora.search.ray_places import Whereabouts
from tune_lora.search.resources import Allocation
from tune_lora.trainer.errors import TrialError

HERE = Finding("token", True, {"config.json": 10, "model.safetensors": 99}, {"torch": "2.9"}, 1, ())


class Clock:
    """In place of ``time``."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(ray_places, "time", made)
    monkeypatch.setattr(ray_cluster, "time", made)
    return made


class Books:
    """A ledger of which only this is asked."""

    def __init__(self) -> None:
        self.halted: str | None = None
        self.places: dict[int, str] = {}
        self.said: list[tuple[int, str]] = []

    def halt(self, said: str) -> None:
        self.halted = said

    def note(self, number: int, text: str) -> None:
        self.said.append((number, text))

    def placed(self, number: int, place: str) -> None:
        self.places[number] = place


def trial(number: int, status: str) -> Any:
    return SimpleNamespace(status=status, config={"number": number}, trial_id=str(number))


@pytest.fixture
def watched(clock: Clock) -> tuple[Whereabouts, Books, SimpleNamespace, list[tuple[int, str]]]:
    books = Books()
    cluster = SimpleNamespace(check_joined=lambda: None, waiting=lambda _: "waits for {GPU: 1}")
    allocation = Allocation(2, 1, 1.0)
    made = Whereabouts(books, allocation, cluster)  # type: ignore[arg-type]
    return made, books, cluster, books.said


def test_a_wait_is_said_once_until_a_trial_is_placed(watched: Any, clock: Clock) -> None:
    seen, _, _, said = watched
    trials = [trial(0, "RUNNING"), trial(3, "PENDING")]
    for clock.now in range(1, 120):
        seen.on_step_end(0, trials)
    assert said == [(3, "waits for {GPU: 1}")]
    seen._of_actor["1a"] = "alpha GPU 0"
    placed = trial(3, "RUNNING")
    placed.temporary_state = SimpleNamespace(ray_actor=SimpleNamespace(_actor_id=b"\x1a"))
    seen.on_trial_start(0, trials, placed)
    for clock.now in range(120, 200):
        seen.on_step_end(0, [trial(4, "PENDING")])
    assert said[1:] == [(4, "waits for {GPU: 1}")]


def test_no_wait_is_said_where_none_is_long(watched: Any, clock: Clock) -> None:
    seen, _, _, said = watched
    for clock.now in range(1, 120):
        waits = "PENDING" if clock.now % 20 else "RUNNING"
        seen.on_step_end(0, [trial(3, waits)])
    assert said == []


def test_a_node_that_joins_and_lacks_something_halts_the_search(watched: Any, clock: Clock) -> None:
    seen, books, cluster, _ = watched
    cluster.check_joined = lambda: "node gamma: torch is 2.8"
    clock.now = 5
    seen.on_step_end(0, [])
    assert books.halted == "node gamma: torch is 2.8"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"memory": 7, "gpus": (5,)}, None),
        ({"token": None}, r"node n: does not see the run folder /runs/x; give --run a folder on"),
        ({"token": "other"}, "does not see the run folder"),
        ({"writes": False}, "may not write in the run folder /runs/x"),
        ({"files": {"config.json": 10}}, r"files in /hf/m \(model\.safetensors\); put HF_HOME on"),
        ({"files": {**HERE.files, "config.json": 9}}, r"files in /hf/m \(config\.json\)"),
        ({"versions": {"torch": "2.8"}}, r"torch is 2\.8, and 2\.9 here; install the same"),
        ({"versions": {"torch": None}}, r"torch is not installed, and 2\.9 here"),
    ],
)
def test_what_a_node_lacks_is_named_with_the_remedy(
    change: dict[str, Any], said: str | None
) -> None:
    found = fault("n", replace(HERE, **change), HERE, Path("/runs/x"), "/hf/m")
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(said, found)


def test_a_cluster_that_answers_no_more_is_given_up_only_after_a_while(clock: Clock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        pulse = Pulse(f"127.0.0.1:{server.getsockname()[1]}", patience=40)
        clock.now = 100
        assert pulse()
    for clock.now in (110, 139):
        assert pulse()
    clock.now = 141
    assert not pulse()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://head:10001", "Ray Client is not for Ray Tune"),
        ("127.0.0.1:1", "nothing answers there; give HOST:PORT"),
        ("nonsense", "nothing answers there"),
    ],
)
def test_addresses_that_cannot_be_joined(address: str, said: str) -> None:
    with pytest.raises(TrialError, match=said):
        Cluster(address)
