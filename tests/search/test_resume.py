"""Interrupted searches go on, with every trial once; other spaces and folders are refused."""

from __future__ import annotations

import io
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import read_back
from rich.console import Console
from searches import board, numbers, searched
from tune_lora.search import driver, preflight
from tune_lora.spaces import Space, SpaceError
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
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


def _stopped(space_of: SpaceOf, root: Path, data: Path) -> RunFolder:
    """A run that its time limit ended, on rows of its own."""
    hurried = space_of("search.time_limit_minutes=0.001", f"data.train={data}")
    run = driver.new_run(hurried, root)
    assert searched(hurried, run).reason is not None
    return run


@pytest.fixture
def own(tmp_path: Path, pairs: Path) -> Path:
    return Path(shutil.copy(pairs, tmp_path / "own.jsonl"))


def test_rows_are_tokenized_once_a_search(
    space_of: SpaceOf, tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _stopped(space_of, tmp_path / "run", own)
    files = {path: path.stat().st_mtime_ns for path in run.data.rglob("*.arrow")}
    assert files
    monkeypatch.setattr(preflight, "tokenize", None)
    space = space_of(f"data.train={own}")
    searched(space, driver.resumed_run(space, run.root))
    assert numbers(run) == [0, 1, 2]
    assert {path: path.stat().st_mtime_ns for path in run.data.rglob("*.arrow")} == files


@pytest.mark.parametrize("damage", ["cut", "gone", "other"])
def test_damaged_rows_are_tokenized_again(
    space_of: SpaceOf, tmp_path: Path, own: Path, damage: str
) -> None:
    run = _stopped(space_of, tmp_path / "run", own)
    (path,) = (run.data / "train").glob("*.arrow")
    before = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(before[: len(before) // 2])
    else:
        middle = len(before) // 2
        flipped = bytes(byte ^ 1 for byte in before[middle : middle + 64])
        path.write_bytes(before[:middle] + flipped + before[middle + 64 :])
    space = space_of(f"data.train={own}")
    searched(space, driver.resumed_run(space, run.root))
    assert numbers(run) == [0, 1, 2]
    (again,) = (run.data / "train").glob("*.arrow")
    assert again.read_bytes() == before


def test_other_rows_are_refused_on_resume(space_of: SpaceOf, tmp_path: Path, own: Path) -> None:
    run = _stopped(space_of, tmp_path / "run", own)
    own.write_text(own.read_text("utf-8").replace("apples", "pears"), encoding="utf-8")
    space = space_of(f"data.train={own}")
    with pytest.raises(SpaceError, match="not those that the run was begun with") as caught:
        searched(space, driver.resumed_run(space, run.root))
    assert caught.value.faults[0].path == "data.train"
