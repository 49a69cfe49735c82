"""The books of a search: result files, disk, leaderboard, watchers, study."""

from __future__ import annotations

import csv
from collections.abc import Callable

import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import outcome, read_back
from tune_lora.search.ledger import Ledger
from tune_lora.search.study import Study
from tune_lora.spaces import Space
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialResult, TrialState

SpaceOf = Callable[..., Space]


@pytest.fixture
def books(space_of: SpaceOf, run: RunFolder) -> Callable[..., Ledger]:
    def opened(*overrides: str) -> Ledger:
        space = space_of("search.trials=8", *overrides)
        return Ledger(space, run, Study(space, run.study, run.name))

    return opened


def started(ledger: Ledger, adapter: bool = True) -> TrialConfig:
    """The next trial, its adapter saved as its first evaluation would."""
    config = ledger.next_config()
    assert config is not None
    if adapter:
        ledger.run.trial(config.number).adapter.mkdir()
    return config


def with_adapter(ledger: Ledger) -> list[int]:
    return [n for n in ledger.results if ledger.run.trial(n).adapter.is_dir()]


def end(ledger: Ledger, loss: float, state: TrialState = TrialState.COMPLETE, **more: int) -> None:
    config = started(ledger)
    losses = [loss] if state is not TrialState.COMPLETE else [loss + 1, loss, loss + 0.5]
    ledger.ended(outcome(config, state, losses, **more))


def test_the_best_adapters_stay_and_the_losers_go(books: Callable[..., Ledger]) -> None:
    ledger = books("search.keep_adapters=2")
    seen = []
    for loss in (3.0, 4.0, 2.0, 5.0, 1.0):
        end(ledger, loss)
        seen.append(with_adapter(ledger))
    assert seen == [[0], [0, 1], [0, 2], [0, 2], [2, 4]]


def test_a_stopped_trial_may_keep_its_adapter_a_broken_one_never(
    books: Callable[..., Ledger],
) -> None:
    ledger = books("search.keep_adapters=2")
    for state in ("PRUNED", "DIVERGED", "FAILED", "LOST", "OUT_OF_MEMORY"):
        end(ledger, 1.0, TrialState(state))
    assert with_adapter(ledger) == [0]


def test_of_equal_scores_the_smaller_adapter_stays(books: Callable[..., Ledger]) -> None:
    ledger = books("search.keep_adapters=1")
    for size in (300, 100, 200):
        end(ledger, 1.0, trainable_parameters=size)
    assert with_adapter(ledger) == [1]


def test_a_running_trials_adapter_stays(books: Callable[..., Ledger]) -> None:
    ledger = books("search.keep_adapters=1")
    running = started(ledger)
    ledger.progress(outcome(running, TrialState.RUNNING, [9.0]))
    end(ledger, 1.0)
    assert with_adapter(ledger) == [0, 1]


def test_every_move_is_on_disk_at_once(books: Callable[..., Ledger], run: RunFolder) -> None:
    ledger = books()
    config = started(ledger)
    assert [r.state for r in run.results()] == [TrialState.RUNNING]
    ledger.progress(outcome(config, TrialState.RUNNING, [2.0]))
    assert [r.score for r in run.results()] == [2.0]
    assert read_back(run)[0].intermediate_values == {1: 2.0}
    ledger.ended(outcome(config, TrialState.PRUNED, [2.0]))
    assert [r.state for r in run.results()] == [TrialState.PRUNED]
    with run.leaderboard("csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["state"], row["eval_loss"]) for row in rows] == [
        ("0", "PRUNED", "2.0")
    ]
    assert run.leaderboard("json").is_file()
    assert run.leaderboard("md").is_file()


def test_watchers_see_every_move_in_order(books: Callable[..., Ledger]) -> None:
    ledger = books()
    seen: list[TrialResult] = []
    ledger.watchers.append(seen.append)
    config = started(ledger)
    ledger.progress(outcome(config, TrialState.RUNNING, [2.0]))
    ledger.ended(outcome(config, TrialState.COMPLETE, [2.0, 1.0, 1.5]))
    assert [(r.state, r.step) for r in seen] == [("RUNNING", 0), ("RUNNING", 1), ("COMPLETE", 4)]


def test_a_lost_trial_keeps_what_it_had_reached(
    books: Callable[..., Ledger], run: RunFolder
) -> None:
    ledger = books()
    config = started(ledger)
    ledger.progress(outcome(config, TrialState.RUNNING, [2.0]))
    ledger.lost(config.number, "the worker process died")
    (kept,) = run.results()
    assert (kept.state, kept.step, kept.error) == (TrialState.LOST, 1, "the worker process died")
    assert read_back(run)[0].state is OptunaState.FAIL


def test_closed_it_writes_nothing(books: Callable[..., Ledger], run: RunFolder) -> None:
    ledger = books("search.keep_adapters=1")
    config, other = started(ledger), started(ledger)
    ledger.progress(outcome(config, TrialState.RUNNING, [2.0]))
    ledger.closed = True
    seen: list[TrialResult] = []
    ledger.watchers.append(seen.append)
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*")}
    ledger.progress(outcome(config, TrialState.RUNNING, [2.0, 1.0]))
    ledger.ended(outcome(config, TrialState.COMPLETE, [2.0, 1.0, 0.5]))
    ledger.lost(other.number, "the worker process died")
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*")} == before
    assert seen == []
    told = read_back(run)
    assert [t.state for t in told] == [OptunaState.RUNNING] * 2
    assert told[0].intermediate_values == {1: 2.0}
