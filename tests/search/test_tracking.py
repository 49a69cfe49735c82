"""What trackers are shown of trials, each row once and in order; and that they can end no trial."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import followed
import pytest
from followed import VARIED, course, new_run, reached, rows, with_adapter
from tune_lora.search import tracking
from tune_lora.search.tracking import Follower, Reached, Searched, require_trackers, searched_keys
from tune_lora.spaces import load_space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialResult, TrialState

NEVER = 60.0


class Listener:
    """A tracker that remembers, and breaks where it is told to."""

    word = "listener"

    def __init__(self, breaks: Sequence[str] = ()) -> None:
        self.breaks = breaks
        self.rows: dict[int, list[Mapping[str, Any]]] = {}
        self.closed: list[TrialResult] = []
        self.begun: list[int] = []
        self.crowned: list[tuple[int, Path]] = []
        self.over: list[bool] = []

    def begin(self, result: TrialResult) -> _Heard:
        self.begun.append(result.number)
        self.breaking("begin")
        return _Heard(self, result.number)

    def crown(self, result: TrialResult, adapter: Path) -> None:
        self.breaking("crown")
        self.crowned.append((result.number, adapter))

    def close(self, *, over: bool) -> None:
        self.over.append(over)

    def breaking(self, where: str) -> None:
        if where in self.breaks:
            raise ConnectionError(f"no service to {where}")


class _Heard:
    def __init__(self, listener: Listener, number: int) -> None:
        self._listener, self._number = listener, number
        self._rows = listener.rows.setdefault(number, [])
        self.reached = Reached.of(self._rows[-1]) if self._rows else Reached()

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._listener.breaking("log")
        self._rows += rows

    def close(self, result: TrialResult) -> None:
        self._listener.breaking("close")
        self._listener.closed.append(result)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return new_run(tmp_path / "run", "none")


def looked(follower: Follower) -> None:
    """One look, without the thread."""
    follower._look()


def test_rows_come_once_and_in_order_while_the_trial_writes(run: RunFolder) -> None:
    listener = Listener()
    follower = Follower(run, [listener])
    for step in (1, 3, 4, 4, 8):
        follower.update(reached(run, 0, step))
        looked(follower)
        assert listener.rows[0] == rows(0, range(1, step + 1))
    assert listener.begun == [0]
    assert listener.closed == []


def test_half_a_line_is_read_when_it_is_whole(run: RunFolder) -> None:
    listener = Listener()
    follower = Follower(run, [listener])
    follower.update(reached(run, 0, 1))
    metrics = run.trial(0).metrics
    line = json.dumps({"step": 2, "loss": 9.0}) + "\n"
    for part in (line[:7], line[7:]):
        with metrics.open("a", encoding="utf-8") as file:
            file.write(part)
        looked(follower)
    assert listener.rows[0][1:] == [{"step": 2, "loss": 9.0}]


def test_trial_that_falls_back_to_its_checkpoint_repeats_nothing(run: RunFolder) -> None:
    listener = Listener()
    follower = Follower(run, [listener])
    for step in (7, 4, 5, 8):
        follower.update(reached(run, 0, step))
        looked(follower)
    assert listener.rows[0] == rows(0, range(1, 9))


def test_ended_trial_is_closed_at_once_and_a_running_one_when_the_search_ends(
    run: RunFolder,
) -> None:
    listener = Listener()
    ended, running = reached(run, 0, 4, TrialState.PRUNED), reached(run, 1, 3)
    follower = Follower(run, [listener], [ended, running], NEVER)
    with follower:
        looked(follower)
        assert listener.closed == [ended]
    assert listener.closed == [ended, running]


def test_resumed_search_goes_on_where_the_runs_were(run: RunFolder) -> None:
    listener = Listener()
    ended = reached(run, 0, 4, TrialState.PRUNED)
    with Follower(run, [listener], [ended, reached(run, 1, 3)], NEVER):
        pass
    last = reached(run, 1, 8, TrialState.COMPLETE)
    with Follower(run, [listener], [ended, last], NEVER):
        pass
    assert listener.begun == [0, 1, 1]
    assert listener.rows[1] == rows(1, range(1, 9))
    assert [result.number for result in listener.closed] == [0, 1, 1]
    assert listener.closed[-1] == last


@pytest.mark.parametrize("breaks", ["begin", "log", "close"])
def test_tracker_that_breaks_is_logged_and_what_it_lacks_made_good_later(
    run: RunFolder, caplog: pytest.LogCaptureFixture, breaks: str
) -> None:
    listener, other = Listener([breaks]), Listener()
    other.word = "other"
    known = [reached(run, n, 8, TrialState.COMPLETE) for n in (0, 1, 2)]
    with caplog.at_level(logging.WARNING):
        follower = Follower(run, [listener, other], known, NEVER)
        with follower:
            looked(follower)
    said = [record.getMessage() for record in caplog.records]
    untracked = [f"listener: trial-000{n} goes on untracked" for n in (0, 1, 2)]
    assert [line.split(": no ")[0].removeprefix("tracking: ") for line in said] == [
        *untracked,
        "listener lacks trial-0000, and maybe more",
    ]
    assert [result.number for result in other.closed] == [0, 1, 2]
    listener.breaks = ()
    with Follower(run, [listener, other], known, NEVER):
        pass
    assert [result.number for result in listener.closed] == [0, 1, 2]
    assert listener.rows[2] == rows(2, range(1, 9))
    assert len(other.closed) == 3


def test_best_is_crowned_once_and_only_at_the_end(run: RunFolder) -> None:
    listener = Listener()
    best, other = (reached(run, n, 8, TrialState.COMPLETE) for n in (0, 1))
    adapters = [with_adapter(run, n) for n in (0, 1)]
    for result, over in ((best, False), (best, True), (best, True), (other, True)):
        follower = Follower(run, [listener], [best, other], NEVER)
        with follower:
            pass
        follower.crown(result, over=over)
    assert listener.crowned == [(0, adapters[0]), (1, adapters[1])]
    assert listener.over == [False, True, True, True]


def test_crowning_that_fails_is_logged(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    best = reached(run, 0, 8, TrialState.COMPLETE)
    with_adapter(run, 0)
    with caplog.at_level(logging.WARNING):
        Follower(run, [Listener(["crown"])], [best], NEVER).crown(best, over=True)
    assert "listener does not know the best trial: no service to crown" in caplog.text


def test_without_trackers_there_is_no_thread_and_no_file(run: RunFolder) -> None:
    follower = Follower(run, [], [], NEVER)
    with follower:
        assert not follower._thread.is_alive()
    follower.crown(None, over=True)
    assert not run.tracking.exists()


def test_charts_get_what_is_varied_as_single_values(run: RunFolder) -> None:
    keys = searched_keys(load_space(run.space))
    assert Searched(run, "s", "t", keys).varied(reached(run, 0, 1)) == VARIED


def test_values_that_an_option_brings_are_varied(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    option = (
        "{value: true, with: {train.weight_decay: 0.1, train.max_grad_norm: {uniform: [0, 1]}}}"
    )
    head = "model: {name: m}\ndata: {train: d.jsonl}\n"
    path.write_text(f"{head}lora: {{use_dora: {{choice: [false, {option}]}}}}\n", "utf-8")
    names = {"lora.use_dora", "train.weight_decay", "train.max_grad_norm"}
    assert set(searched_keys(load_space(path))) == names


def test_identities_differ_between_searches_of_one_name(tmp_path: Path) -> None:
    runs = [new_run(tmp_path / str(n) / "a search#1", "tensorboard") for n in (0, 1)]
    made = [tracker for run in runs for _ in (1, 2) for tracker in followed.trackers(run)]
    trial = reached(runs[0], 0, 1)
    found = [tracker._search.identity(trial) for tracker in made]  # type: ignore[attr-defined]
    assert found[0] == found[1] != found[2] == found[3]
    assert found[0].startswith("a-search-1-")


def test_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name == "mlflow" else name)
    run = new_run(tmp_path / "run", "[tensorboard, mlflow]")
    with pytest.raises(
        TrialError, match=r"mlflow is not installed; pip install 'tune-lora\[mlflow"
    ):
        require_trackers(load_space(run.space))


def test_damaged_books_are_an_error(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", "tensorboard")
    run.tracking.write_text('{"tocken": "x"}', encoding="utf-8")
    with pytest.raises(TrialError, match="is damaged"):
        followed.trackers(run)


def test_rows_of_the_stand_in_are_told_apart() -> None:
    places = [Reached.of(row) for row in rows(0, (1, 2, 3))]
    assert places == [(1, False), (2, False), (2, True), (3, False)]
    assert places == sorted(places)
    assert course(0, "eval_loss", 4).keys() == {2, 4}
