"""Workers, threads and trials in a pass: settled once, for every worker and every resume."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tune_lora.search import layout, settle
from tune_lora.search.layout import Layout, settle_layout
from tune_lora.search.preflight import preflight
from tune_lora.search.resources import Allocation, allocate
from tune_lora.search.settle import settle_workers
from tune_lora.spaces import Space, SpaceError
from tune_lora.trainer.base import BaseSpec, meta_model
from tune_lora.trainer.folder import RunFolder, write_json
from tune_lora.trainer.unpacking import PROCESS

SpaceOf = Callable[..., Space]
Answering = Callable[..., list[dict[str, Any]]]
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without GPUs")
REWRITING: list[dict[str, Any]] = [
    {"init_lora_weights": {"choice": [True, "pissa"]}},
    {"bias": {"choice": ["none", "all"]}},
    {"layer_replication": [[0, 2], [0, 2]]},
]


def settled(space: Space, run: RunFolder, cores: int = 4) -> Layout:
    return settle_layout(space, preflight(space), allocate(space, cores, 0), cores, run)


def shape(found: Layout) -> tuple[int, int, int]:
    taken = found.allocation
    return taken.workers, taken.threads, taken.pack


def rates(*found: tuple[int, int, int, float]) -> str:
    keys = ("workers", "threads", "pack", "rate")
    return json.dumps([dict(zip(keys, one, strict=True)) for one in found])


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """In place of the probe's process: answers; gives the list of what is asked."""
    monkeypatch.setattr(layout, "_LEAST", 0.0)

    def answer(stdout: str | Exception) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            asked.append(json.loads(options["input"]))
            if isinstance(stdout, Exception):
                raise stdout
            return subprocess.CompletedProcess(command, 0, stdout, "")

        monkeypatch.setattr(layout.subprocess, "run", run)
        return asked

    return answer


def test_of_a_short_search_nothing_is_measured(
    space_of: SpaceOf, run: RunFolder, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(rates((1, 4, 1, 9.0)))
    monkeypatch.undo()
    assert settled(space_of("search.trials=8"), run) == Layout(Allocation(4, 1, 0.0))
    assert asked == []


@pytest.mark.parametrize(
    ("steps", "accumulation", "batch", "trials"),
    [(1_000_000, 1, 4, 8), (1_000, 50, 80, 8), (1_000, 1, 4, 8000)],
)
def test_a_long_one_is_worth_it(
    space_of: SpaceOf, run: RunFolder, steps: int, accumulation: int, batch: int, trials: int
) -> None:
    """By an estimate of its own: weights, tokens, and four operations for each pair."""
    space = space_of(
        train={
            "max_steps": steps,
            "gradient_accumulation_steps": accumulation,
            "per_device_train_batch_size": batch,
        },
        search={"trials": trials, "baseline": False},
    )
    ready = preflight(space)
    some = layout.some_trials(space, ready)
    stats = ready.data.stats["train"]
    tokens = stats["tokens"] / stats["rows"] * batch * accumulation * steps * trials
    expected = 4 * sum(p.numel() for p in ready.modules.parameters()) * tokens
    assert layout._arithmetic(space, ready, some) == pytest.approx(expected, rel=0.05)


def test_the_fastest_is_taken(space_of: SpaceOf, run: RunFolder, answering: Answering) -> None:
    asked = answering(rates((4, 1, 1, 3.0), (2, 2, 1, 4.0), (1, 4, 1, 2.0), (2, 2, 2, 5.0)))
    found = settled(space_of("search.trials=8"), run)
    assert shape(found) == (2, 2, 2)
    assert found.reason == (
        "measured passes a second: 3.00 by 4 x 1 thread(s), 4.00 by 2 x 2 thread(s), "
        "2.00 by 1 x 4 thread(s), 5.00 by 2 x 2 thread(s) with 2 trials in each"
    )
    (question,) = asked
    assert question["layouts"] == [[4, 1], [2, 2], [1, 4]]
    assert question["packs"] == [2]
    assert question["trial"]["lora"]["r"] in (2, 4)


@pytest.mark.parametrize(
    ("answer", "taken"),
    [
        # Fewer workers must gain a twentieth, packing a fifth.
        (rates((4, 1, 1, 3.0), (2, 2, 1, 3.1)), (4, 1, 1)),
        (rates((4, 1, 1, 3.0), (4, 1, 2, 3.5)), (4, 1, 1)),
        (rates((4, 1, 1, 3.0), (4, 1, 2, 3.7)), (4, 1, 2)),
        (rates((4, 1, 1, 3.0), (4, 1, 2, 3.7), (4, 1, 4, 4.5)), (4, 1, 4)),
        # Memory was not enough for four processes.
        (rates((4, 1, 1, 0.0), (2, 2, 1, 1.0)), (2, 2, 1)),
        (f"a warning of somebody's\n{rates((4, 1, 1, 3.0), (2, 2, 1, 9.0))}", (2, 2, 1)),
        ("[]", (4, 1, 1)),
        ("nonsense", (4, 1, 1)),
        ("", (4, 1, 1)),
        (subprocess.CalledProcessError(1, "probe", stderr="Killed"), (4, 1, 1)),
        (subprocess.TimeoutExpired("probe", 300), (4, 1, 1)),
    ],
)
def test_it_goes_by_the_measurement(
    space_of: SpaceOf, run: RunFolder, answering: Answering, answer: Any, taken: tuple[int, ...]
) -> None:
    answering(answer)
    found = settled(space_of("search.trials=16"), run)
    assert shape(found) == taken
    assert found.reason is not None


def test_what_the_space_says_is_not_asked_about(
    space_of: SpaceOf, run: RunFolder, answering: Answering
) -> None:
    asked = answering(rates((4, 1, 1, 1.0)))
    two = {"workers": 2, "threads": 1}
    found = settled(space_of(search={"trials": 16, "pack": 3}, resources=two), run)
    assert (shape(found), found.reason, asked) == ((2, 1, 3), None, [])
    settled(space_of(search={"trials": 16, "pack": "auto"}, resources=two), run)
    settled(space_of(search={"trials": 16, "pack": 1}), run)
    assert [question["layouts"] for question in asked] == [[[2, 1]], [[4, 1], [2, 2], [1, 4]]]
    assert [question["packs"] for question in asked] == [[2, 4], []]


@pytest.mark.parametrize("lora", REWRITING)
def test_a_base_that_trials_change_is_not_shared(
    space_of: SpaceOf, run: RunFolder, answering: Answering, lora: dict[str, Any]
) -> None:
    asked = answering(rates((4, 1, 1, 1.0)))
    (key,) = lora
    settled(space_of("search.trials=16", lora=lora), run)
    assert asked[0]["packs"] == []
    with pytest.raises(SpaceError) as caught:
        settled(space_of("search.pack=2", lora=lora), run)
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("search.pack", 2)
    assert f"lora.{key} changes the base" in fault.rule
    assert "write 1 or auto" in fault.rule


@pytest.mark.parametrize(
    "lora",
    [
        {"lora_dropout": {"uniform": [0.0, 0.1]}},
        {"use_dora": {"choice": [True, False]}},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_trials_that_cannot_share_a_pass_are_not_tried_together(
    space_of: SpaceOf, run: RunFolder, lora: dict[str, Any], answering: Answering
) -> None:
    asked = answering(rates((4, 1, 1, 1.0)))
    settled(space_of("search.trials=16", lora=lora), run)
    assert asked[0]["packs"] == []


def test_a_resumed_run_goes_on_as_it_began(
    space_of: SpaceOf, run: RunFolder, answering: Answering
) -> None:
    asked = answering(rates((4, 1, 1, 1.0), (2, 2, 1, 2.0), (2, 2, 2, 4.0)))
    space = space_of("search.trials=16")
    first = settled(space, run)
    write_json(run.about, {"layout": first.to_dict(4)})
    again = settled(space, run)
    assert (shape(again), again.reason, len(asked)) == ((2, 2, 2), None, 1)
    assert shape(settled(space_of("search.trials=16", "search.pack=3"), run)) == (2, 2, 3)
    assert shape(settled(space_of("search.trials=16", "resources.workers=1"), run)) == (1, 4, 2)
    assert len(asked) == 1
    # Another machine is measured anew.
    settled(space, run, cores=8)
    assert len(asked) == 2


def test_no_more_workers_than_memory_is_enough_for(
    space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of("search.trials=16")
    spec = BaseSpec.of(space.model)
    modules = meta_model(spec)
    each = 2 * 4 * sum(p.numel() for p in modules.parameters()) + PROCESS

    def workers(free: float, *overrides: str) -> tuple[int, int]:
        monkeypatch.setattr(settle, "free_here", lambda device: int(free))
        wanted = space_of("search.trials=16", *overrides)
        found = settle_workers(wanted, spec, modules, allocate(wanted, 8, 0), 8)
        return found.workers, found.threads

    assert workers(100 * each) == (8, 1)
    assert workers(3.5 * each) == (3, 2)
    assert workers(0) == (1, 8)
    assert workers(3.5 * each, "resources.threads=1") == (3, 1)
    assert workers(0, "resources.workers=4") == (4, 2)


def test_the_probe_itself(
    space_of: SpaceOf, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own process and its forks, on a tiny model."""
    monkeypatch.setattr(layout, "_LEAST", 0.0)
    found = settled(space_of("search.trials=8"), run, cores=2)
    assert found.reason is not None
    assert found.reason.startswith("measured passes a second: ")
    assert " by 2 x 1 thread(s), " in found.reason
    assert " by 1 x 2 thread(s)" in found.reason
    assert shape(found)[:2] in ((2, 1), (1, 2))
