"""How fast trials train, measured: which layouts are tried, and what happens to those that fail."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TASKS
from tune_lora.trainer import probe
from tune_lora.trainer.base import BaseModel, BaseSpec, load_base
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.probe import Measured, measure, rate

Tiny = Callable[..., Path]
TRAIN = {"per_device_train_batch_size": 2, "max_steps": 4}


def trial_of(architecture: str = "llama") -> TrialConfig:
    lora = {"r": 2, "target_modules": "all-linear"}
    return TrialConfig(0, TASKS[architecture], lora, TRAIN, (4,))


def loaded(folder: Path, architecture: str = "llama") -> BaseModel:
    torch.set_num_threads(1)
    labels = ("a", "b") if architecture == "bert" else ()
    task = TASKS[architecture]
    return load_base(BaseSpec(str(folder), architecture, task=task, dtype="fp32", labels=labels))


def measured(
    monkeypatch: pytest.MonkeyPatch, rates: dict[tuple[int, int, int], float]
) -> list[Measured]:
    """What ``measure`` finds where things are as fast as that."""

    def given(base: Any, trial: Any, tokens: int, *shape: int) -> float:
        return rates[shape]  # type: ignore[index]

    monkeypatch.setattr(probe, "rate", given)
    found = measure(None, trial_of(), 8, [(4, 1), (2, 2), (1, 4)], [2, 4])  # type: ignore[arg-type]
    assert [one.rate for one in found] == [
        rates[one.workers, one.threads, one.pack] for one in found
    ]
    return found


def test_it_stops_at_the_first_that_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {(4, 1, 1): 9.0, (2, 2, 1): 8.0, (4, 1, 2): 10.0, (4, 1, 4): 9.5}
    found = [(one.workers, one.threads, one.pack) for one in measured(monkeypatch, rates)]
    assert found == [(4, 1, 1), (2, 2, 1), (4, 1, 2), (4, 1, 4)]
    rates = {(4, 1, 1): 9.0, (2, 2, 1): 9.5, (1, 4, 1): 8.0, (2, 2, 2): 9.0}
    found = [(one.workers, one.threads, one.pack) for one in measured(monkeypatch, rates)]
    assert found == [(4, 1, 1), (2, 2, 1), (1, 4, 1), (2, 2, 2)]


def test_long_passes_are_not_tried_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four workers that make three passes a second together take 1.3 s for each."""
    assert len(measured(monkeypatch, {(4, 1, 1): 3.0, (2, 2, 1): 2.0})) == 2


def test_where_memory_is_short_fewer_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {(4, 1, 1): 0.0, (2, 2, 1): 0.0, (1, 4, 1): 2.0, (1, 4, 2): 0.0}
    assert len(measured(monkeypatch, rates)) == 4


@pytest.mark.parametrize("architecture", ["llama", "t5", "bert"])
def test_processes_train_at_once(tiny: Tiny, architecture: str) -> None:
    """Every kind of task, by two forks; forks of this process, whose base stays as it was."""
    base = loaded(tiny(architecture), architecture)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    assert rate(base, trial_of(architecture), 8, 2, 1, 1) > 0
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_several_trials_in_a_pass_count_each(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes are given a length, so that the figure is known: three a second, of two trials."""
    base = loaded(tiny())
    monkeypatch.setattr(probe, "joint_pass", lambda *_: time.sleep(1 / 3))
    assert rate(base, trial_of(), 8, 2, 1, 2) == pytest.approx(2 * 2 * 3, rel=0.2)


def _no_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("injected")


def _killed(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("failing", [_no_memory, _killed])
def test_too_little_memory_is_no_error(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, failing: Callable[..., None]
) -> None:
    base = loaded(tiny())
    monkeypatch.setattr(probe, "joint_pass", failing)
    assert rate(base, trial_of(), 8, 2, 1, 2) == 0.0


def test_anything_else_is(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    base = loaded(tiny())
    monkeypatch.setattr(probe, "joint_pass", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="exit code"):
        rate(base, trial_of(), 8, 2, 1, 2)
