"""How many trials share a pass: settled once, for every worker and every resume."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tune_lora.search import packing
from tune_lora.search.packing import settle_packing
from tune_lora.search.preflight import preflight
from tune_lora.search.resources import Allocation
from tune_lora.spaces import Space, SpaceError
from tune_lora.trainer import pack_probe
from tune_lora.trainer.base import BaseSpec, load_base
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder, write_json

SpaceOf = Callable[..., Space]
REWRITING: list[dict[str, Any]] = [
    {"init_lora_weights": {"choice": [True, "pissa"]}},
    {"bias": {"choice": ["none", "all"]}},
    {"layer_replication": [[0, 2], [0, 2]]},
]


def settle(space: Space, run: RunFolder, workers: int = 1) -> tuple[int, str | None]:
    found = settle_packing(space, preflight(space), Allocation(workers, 1, 0), run)
    return found.pack, found.reason


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """In place of the probe's process: answers; gives the list of what is asked."""

    def answer(stdout: str | Exception) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
            asked.append(json.loads(options["input"]))
            if isinstance(stdout, Exception):
                raise stdout
            return subprocess.CompletedProcess(command, 0, stdout, "")

        monkeypatch.setattr(packing.subprocess, "run", run)
        return asked

    return answer


@pytest.mark.parametrize("number", [2, 5])
def test_a_number_is_taken_at_its_word(space_of: SpaceOf, run: RunFolder, number: int) -> None:
    assert settle(space_of(f"search.pack={number}"), run) == (number, "as search.pack says")


def test_one_is_not_worth_a_word(space_of: SpaceOf, run: RunFolder) -> None:
    assert settle(space_of("search.pack=1"), run) == (1, None)


@pytest.mark.parametrize("lora", REWRITING)
def test_a_base_that_trials_change_is_not_shared(
    space_of: SpaceOf, run: RunFolder, lora: dict[str, Any]
) -> None:
    (key,) = lora
    pack, reason = settle(space_of(lora=lora), run)
    assert pack == 1
    assert reason == f"lora.{key} changes the base that packed trials share"
    with pytest.raises(SpaceError) as caught:
        settle(space_of("search.pack=2", lora=lora), run)
    (fault,) = caught.value.faults
    assert (fault.path, fault.value) == ("search.pack", 2)
    assert "write 1" in fault.rule


@pytest.mark.parametrize(
    "lora",
    [
        {"lora_dropout": {"uniform": [0.0, 0.1]}},
        {"use_dora": {"choice": [True, False]}},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_auto_does_not_pack_trials_that_cannot_share(
    space_of: SpaceOf, run: RunFolder, lora: dict[str, Any], answering: Callable[..., Any]
) -> None:
    asked = answering('{"2": 9.0}')
    space = space_of("search.trials=8", lora=lora)
    assert settle(space, run) == (1, "its trials cannot share a pass")
    assert asked == []


@pytest.mark.parametrize(
    ("answer", "pack"),
    [
        ('{"2": 1.3, "4": 1.6}', 4),
        ('{"2": 1.3, "4": 1.2}', 2),
        ('{"2": 1.05, "4": 1.09}', 1),
        ('a warning of somebody\'s\n{"2": 1.5}', 2),
        ("{}", 1),
        ("nonsense", 1),
        ("", 1),
        (subprocess.CalledProcessError(1, "probe"), 1),
        (subprocess.TimeoutExpired("probe", 300), 1),
    ],
)
def test_auto_goes_by_the_measurement(
    space_of: SpaceOf, run: RunFolder, answering: Callable[..., Any], answer: Any, pack: int
) -> None:
    asked = answering(answer)
    found, reason = settle(space_of("search.trials=8"), run, workers=2)
    assert found == pack
    assert reason is not None
    (question,) = asked
    assert (question["most"], question["threads"]) == (4, 1)
    assert TrialConfig.from_dict(question["trial"]).lora["r"] in (2, 4)


@pytest.mark.parametrize(("trials", "workers", "most"), [(8, 4, 2), (6, 2, 3), (3, 2, None)])
def test_no_more_are_tried_than_there_are_for_every_worker(
    space_of: SpaceOf,
    run: RunFolder,
    answering: Callable[..., Any],
    trials: int,
    workers: int,
    most: int | None,
) -> None:
    asked = answering('{"2": 1.0}')
    assert settle(space_of(f"search.trials={trials}"), run, workers)[0] == 1
    assert [question["most"] for question in asked] == ([] if most is None else [most])


@pytest.mark.parametrize(("about", "pack"), [({"pack": 4}, 4), ({"pack": 1}, 1), ({}, 1)])
def test_a_resumed_run_goes_on_as_it_began(
    space_of: SpaceOf,
    run: RunFolder,
    answering: Callable[..., Any],
    about: dict[str, int],
    pack: int,
) -> None:
    asked = answering('{"2": 9.0}')
    write_json(run.about, about)
    assert settle(space_of("search.trials=8"), run) == (pack, "as the run was begun")
    assert asked == []
    assert settle(space_of("search.trials=8", "search.pack=3"), run)[0] == 3


def test_the_probe_itself(space_of: SpaceOf, run: RunFolder) -> None:
    """Its own process, on a tiny model whose passes are nearly all overhead."""
    pack, reason = settle(space_of("search.trials=8"), run)
    assert reason is not None
    assert reason.startswith("measured: 2 together ")
    assert ", 4 together " in reason
    assert pack in (1, 2, 4)


def test_the_probe_leaves_out_what_memory_is_too_small_for(
    space_of: SpaceOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = space_of()
    base = load_base(BaseSpec.of(space.model))
    trial = TrialConfig(0, "CAUSAL_LM", {"r": 2, "target_modules": "qv"}, space_train(), (4,))
    real = pack_probe.joint_pass

    def scarce(base: Any, requests: Any) -> Any:
        if len(requests) > 2:
            raise torch.OutOfMemoryError("injected")
        return real(base, requests)

    monkeypatch.setattr(pack_probe, "joint_pass", scarce)
    assert list(pack_probe.gains(base, trial, 16, 4)) == [2]
    monkeypatch.setattr(pack_probe, "joint_pass", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pack_probe.gains(base, trial, 16, 4)


def space_train() -> dict[str, Any]:
    return {"per_device_train_batch_size": 2, "max_steps": 4}
