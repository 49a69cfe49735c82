"""Another process holds the study's file: the search waits, and gives up in plain words."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tune_lora.search import driver, study
from tune_lora.spaces import Space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.result import TrialState
from whole_searches import Interjecting, numbers, search, study_states

_HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("ROLLBACK")
"""
Hold = Callable[[Path, float], None]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """``hold(file, seconds)`` returns as soon as another process has the file to itself."""
    holders: list[subprocess.Popen[str]] = []

    def start(file: Path, seconds: float) -> None:
        command = [sys.executable, "-c", _HOLD, str(file), str(seconds)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


def test_it_waits_and_goes_on(small: Callable[..., Space], tmp_path: Path, hold: Hold) -> None:
    space = small("search.trials=2")
    run = driver.new_run(space, tmp_path / "run")
    held_from = []

    def lock() -> None:
        held_from.append(time.monotonic())
        hold(run.study, 3)

    outcome = search(space, run, Interjecting("trial-0001  step   2/4", lock))
    assert outcome.reason is None
    assert time.monotonic() - held_from[0] > 3
    assert numbers(run) == [0, 1]
    assert study_states(run) == ["COMPLETE"] * 2


def test_it_gives_up_in_plain_words_and_can_be_resumed(
    small: Callable[..., Space], tmp_path: Path, hold: Hold, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "_LOCK_SECONDS", 1)
    space = small("search.trials=3")
    run = driver.new_run(space, tmp_path / "run")
    console = Interjecting("trial-0001  step   1/4", lambda: hold(run.study, 6))
    with pytest.raises(TrialError, match="database is locked") as caught:
        search(space, run, console)
    assert console.acted
    assert str(run.root) in str(caught.value)
    assert "--resume" in str(caught.value)
    states = {result.number: result.state for result in run.results()}
    assert states == {0: TrialState.COMPLETE, 1: TrialState.RUNNING}

    # Still held: it cannot even be opened.
    with pytest.raises(TrialError, match="database is locked"):
        search(space, driver.resumed_run(space, run.root))
    monkeypatch.setattr(study, "_LOCK_SECONDS", 60)
    search(space, driver.resumed_run(space, run.root))
    assert numbers(run) == [0, 1, 2]
    assert study_states(run) == ["COMPLETE"] * 3
