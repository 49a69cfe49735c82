"""Every packaged space on a tiny model of its architecture: preflight, and a trial that learns."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from tiny_models import ARCHITECTURES
from tune_lora.search.driver import new_run, run_search
from tune_lora.spaces import load_space, packaged_spaces
from tune_lora.trainer.result import TrialState

SMALL = (
    "model.dtype=fp32",
    "data.limit={train: 24, validation: 8, test: 4}",
    "search.trials=2",
    "search.scheduler=none",
    "train.max_steps=2",
    "train.per_device_train_batch_size=2",
    "train.gradient_accumulation_steps=1",
)


def test_there_is_one_for_each_architecture() -> None:
    assert set(packaged_spaces()) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_runs(
    name: str, tiny: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    space = load_space(name, [f"model.name={tiny(name)}", *SMALL])
    run = new_run(space, tmp_path / "run")
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        outcome = run_search(space, run, Console(file=nowhere), local=True)
    assert outcome.reason is None
    states = [result.state for result in run.results()]
    assert states == [TrialState.COMPLETE] * 2, [result.error for result in run.results()]
    assert (run.read_base() or pytest.fail("the base was not scored")).rows == 8
