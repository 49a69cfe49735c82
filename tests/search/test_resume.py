"""Interrupted searches go on, with every trial once; other spaces and folders are refused."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import read_back
from rich.console import Console
from searches import board, numbers, searched
from tune_lora.search import driver
from tune_lora.spaces import Space, SpaceError
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.result import TrialState

SpaceOf = Callable[..., Space]


def test_a_search_that_ran_out_of_time_is_finished_on_resume(
    space_of: SpaceOf, tmp_path: Path
) -> None:
    hurried = space_of("search.trials=4", "search.time_limit_minutes=0.001")
    run = driver.new_run(hurried, tmp_path / "run")
    stopped = searched(hurried, run)
    assert stopped.reason is not None
    assert "time limit" in stopped.reason
    done = {r.number: r for r in run.results() if r.state.finished}
    assert len(done) < 4

    space = space_of("search.trials=4")
    outcome = searched(space, driver.resumed_run(space, run.root))
    assert outcome.reason is None
    assert numbers(run) == [0, 1, 2, 3]
    assert [t.state for t in read_back(run)] == [OptunaState.COMPLETE] * 4
    assert done.items() <= {r.number: r for r in run.results()}.items()
    assert [r.baseline for r in run.results()] == [True, False, False, False]


def test_a_stop_within_a_trial_leaves_it_to_the_resumed_search(
    space_of: SpaceOf, tmp_path: Path
) -> None:
    space = space_of("search.trials=3")
    run = driver.new_run(space, tmp_path / "run")
    console = _Interrupting("trial-0001  step   2/4")
    outcome = driver.run_search(space, run, console, local=True)
    assert outcome.reason == "interrupted"
    states = {r.number: r.state for r in run.results()}
    assert states == {0: TrialState.COMPLETE, 1: TrialState.RUNNING}
    first = next(run.results())
    assert [t.state for t in read_back(run)] == [OptunaState.COMPLETE, OptunaState.RUNNING]

    searched(space, driver.resumed_run(space, run.root))
    assert numbers(run) == [0, 1, 2]
    assert {row["state"] for row in board(run)} == {"COMPLETE"}
    assert next(run.results()) == first


class _Interrupting(Console):
    """Presses Ctrl-C when a line is shown."""

    def __init__(self, line: str) -> None:
        super().__init__(file=io.StringIO())
        self.awaited = line

    def print(self, *objects: object, **options: object) -> None:  # type: ignore[override]
        if any(self.awaited in str(shown) for shown in objects):
            signal.raise_signal(signal.SIGINT)


def test_more_trials_on_resume_add_to_those_that_were(space_of: SpaceOf, tmp_path: Path) -> None:
    run = driver.new_run(space_of("search.trials=2"), tmp_path / "run")
    searched(space_of("search.trials=2"), run)
    before = {r.number: r for r in run.results()}
    more = space_of("search.trials=3")
    searched(more, driver.resumed_run(more, run.root))
    assert numbers(run) == [0, 1, 2]
    assert {r.number: r for r in run.results() if r.number < 2} == before


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("train.max_steps=8", "train.max_steps"),
        ("lora.r=4", "lora.r"),
        ("search.seed=5", "search.seed"),
        ("data.max_length=64", "data.max_length"),
    ],
)
def test_another_space_is_refused_on_resume(
    space_of: SpaceOf, tmp_path: Path, override: str, key: str
) -> None:
    run = driver.new_run(space_of(), tmp_path / "run")
    before = run.space.read_text(encoding="utf-8")
    with pytest.raises(SpaceError, match="only the budget may change") as caught:
        driver.resumed_run(space_of(override), run.root)
    assert [fault.path.startswith(key) for fault in caught.value.faults] == [True]
    assert run.space.read_text(encoding="utf-8") == before


def test_resume_needs_a_run(space_of: SpaceOf, tmp_path: Path) -> None:
    with pytest.raises(TrialError, match="no run folder"):
        driver.resumed_run(space_of(), tmp_path)
