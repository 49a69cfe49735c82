"""A trial that ran out of memory spares later ones that need no less."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from modelless import space_in
from optuna.trial import TrialState as OptunaState
from outcomes import outcome, read_back
from searches import board, searched
from tune_lora.reports import build, render
from tune_lora.search.bounds import MemoryBounds
from tune_lora.search.ledger import Ledger
from tune_lora.search.study import Study
from tune_lora.spaces import Space
from tune_lora.trainer import run as trainer_run
from tune_lora.trainer.config import TrialConfig
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState

Queue = list[Mapping[str, Any]]

SPACE: Mapping[str, Mapping[str, Any]] = {
    "lora": {
        "r": {"choice": [2, 4, 8]},
        "target_modules": {"choice": ["qv", "attention"]},
        "lora_dropout": {"choice": [0.0, 0.1]},
    },
    "train": {
        "learning_rate": {"log_uniform": [1e-3, 1e-1]},
        "per_device_train_batch_size": 8,
        "gradient_checkpointing": {"choice": [False, True]},
    },
    "search": {"trials": 12, "sampler": "random", "baseline": False, "priors": False},
}


@pytest.fixture
def opened(tmp_path: Path, run: RunFolder) -> Callable[..., Ledger]:
    """``opened([{"r": 4}, {"r": 8}])``: the ledger, and the trials that it is to begin with."""
    space = space_in(tmp_path, **SPACE)

    def ledger(wanted: Queue = (), size: Any = None) -> Ledger:  # type: ignore[assignment]
        first = [_params(rate, **fields) for rate, fields in enumerate(wanted)]
        study = Study(space, run.study, run.name, first)
        return Ledger(space, run, study, memory=MemoryBounds(size))

    return ledger


def _params(place: int, **fields: Any) -> dict[str, Any]:
    return {
        "lora.r": fields.get("r", 4),
        "lora.target_modules": fields.get("targets", "qv"),
        "lora.lora_dropout": fields.get("dropout", 0.0),
        "train.learning_rate": 1e-3 * (1 + place),
        "train.gradient_checkpointing": fields.get("checkpointing", False),
    }


def following(ledger: Ledger) -> TrialConfig:
    config = ledger.next_config()
    assert config is not None
    return config


def ran(ledger: Ledger, config: TrialConfig, micro_batch: int) -> None:
    """It came to its end with so many rows a forward pass."""
    ledger.ended(outcome(config, TrialState.COMPLETE, [2.0, 1.5, 1.0], micro_batch=micro_batch))


def starved(ledger: Ledger, config: TrialConfig) -> None:
    """Even a single row was too much."""
    ledger.ended(outcome(config, TrialState.OUT_OF_MEMORY, [], micro_batch=1))


def begins(config: TrialConfig) -> int:
    return config.micro_batches()[0]


def test_a_larger_adapter_begins_with_the_rows_that_fitted(opened: Callable[..., Ledger]) -> None:
    ledger = opened([{"r": 4}, {"r": 8}, {"r": 4}, {"r": 2}])
    first = following(ledger)
    assert begins(first) == 8
    ran(ledger, first, 2)
    larger, equal, smaller = (following(ledger) for _ in range(3))
    assert [begins(c) for c in (larger, equal, smaller)] == [2, 2, 8]
    # The effective batch, and so the schedule, is what it was.
    assert larger.effective_batch == first.effective_batch
    assert larger.lora["r"] == 8


def test_what_ran_as_written_says_nothing(opened: Callable[..., Ledger]) -> None:
    ledger = opened([{"r": 4}, {"r": 8}])
    ran(ledger, following(ledger), 8)
    assert begins(following(ledger)) == 8


def test_of_several_the_one_that_had_least_counts(opened: Callable[..., Ledger]) -> None:
    ledger = opened([{"r": 2}, {"r": 4}, {"r": 8}])
    first, second, third = (following(ledger) for _ in range(3))
    ran(ledger, first, 4)
    ran(ledger, second, 1)
    assert begins(third) == 8
    ledger = opened()
    ledger.restore()
    assert begins(following(ledger)) == 1


@pytest.mark.parametrize(
    ("had", "has", "rows"),
    [
        ({"checkpointing": False}, {"checkpointing": True, "r": 8}, 8),
        ({"targets": "attention"}, {"targets": "qv", "r": 8}, 8),
        ({"targets": "qv"}, {"targets": "attention", "r": 8}, 8),
        ({"dropout": 0.1}, {"dropout": 0.0, "r": 8}, 8),
        ({"dropout": 0.0}, {"dropout": 0.1}, 2),
    ],
)
def test_only_what_surely_needs_no_less_is_bound(
    opened: Callable[..., Ledger], had: dict[str, Any], has: dict[str, Any], rows: int
) -> None:
    ledger = opened([had, has])
    ran(ledger, following(ledger), 2)
    assert begins(following(ledger)) == rows


@pytest.mark.parametrize(
    ("had", "has", "rows"),
    [
        ({"targets": "qv"}, {"targets": "attention"}, 2),
        ({"targets": "attention"}, {"targets": "qv"}, 8),
        # More parameters in all, and yet a narrower forward pass.
        ({"targets": "attention", "r": 2}, {"targets": "qv", "r": 8}, 8),
        ({"targets": "qv", "r": 4}, {"targets": "attention", "r": 2}, 8),
    ],
)
def test_where_sizes_are_known_wider_targets_are_bound(
    opened: Callable[..., Ledger], had: dict[str, Any], has: dict[str, Any], rows: int
) -> None:
    def size(lora: Mapping[str, Any]) -> int:
        return int(lora["r"]) * {"qv": 100, "attention": 200}[lora["target_modules"]]

    ledger = opened([had, has], size)
    ran(ledger, following(ledger), 2)
    assert begins(following(ledger)) == rows


def test_where_one_row_was_too_much_larger_ones_do_not_run(
    opened: Callable[..., Ledger], run: RunFolder
) -> None:
    ledger = opened([{"r": 4}, {"r": 8}, {"r": 8, "checkpointing": True}, {"r": 2}])
    starved(ledger, following(ledger))
    # Trial 1 has come to its end without being handed out.
    assert following(ledger).number == 2
    smaller = following(ledger)
    assert (smaller.number, begins(smaller)) == (3, 8)
    result = ledger.results[1]
    assert (result.state, result.step) == (TrialState.OUT_OF_MEMORY, 0)
    assert result.error == "not run: trial-0000 needs no more, and one row a pass was too much"
    assert [trial.state for trial in read_back(run)] == [
        OptunaState.FAIL,
        OptunaState.FAIL,
        OptunaState.RUNNING,
        OptunaState.RUNNING,
    ]
    render.write(run, build(run))
    (row,) = (row for row in board(run) if row["trial"] == "1")
    assert (row["state"], row["error"]) == ("OUT_OF_MEMORY", result.error)
    assert (row["rank"], row["eval_loss"]) == ("", "")


def test_one_that_ended_with_more_rows_says_nothing(opened: Callable[..., Ledger]) -> None:
    """It had changed the base, and was not tried with fewer."""
    ledger = opened([{"r": 4}, {"r": 8}])
    config = following(ledger)
    ledger.ended(outcome(config, TrialState.OUT_OF_MEMORY, [], micro_batch=4))
    assert begins(following(ledger)) == 8


def test_a_search_that_starts_again_remembers(opened: Callable[..., Ledger]) -> None:
    wanted: Queue = [{"r": 4}, {"r": 2, "dropout": 0.1}, {"r": 8}, {"r": 4, "dropout": 0.1}]
    ledger = opened(wanted)
    starved(ledger, following(ledger))
    ran(ledger, following(ledger), 4)
    again = opened()
    again.restore()
    # Trial 0 needs no more than either: their ends are known, and neither is handed out.
    config = following(again)
    assert again.results[2].state is TrialState.OUT_OF_MEMORY
    assert again.results[3].state is TrialState.OUT_OF_MEMORY
    assert config.number >= 4


def test_a_trial_that_is_taken_up_is_bound_too_and_stays_the_same_trial(
    opened: Callable[..., Ledger],
) -> None:
    ledger = opened([{"r": 4}, {"r": 8}])
    first, second = following(ledger), following(ledger)
    ran(ledger, first, 2)
    again = opened()
    again.restore()
    taken = following(again)
    assert taken == replace(second, micro_batch=2)
    assert taken.digest() == second.digest()


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Memory for 32 units of rank x rows a forward pass, and every training that was begun."""
    begun: list[tuple[int, int]] = []
    train = trainer_run._train

    def within_limits(model: Any, config: TrialConfig, *rest: Any) -> None:
        rows = rest[2].result.micro_batch
        begun.append((config.number, rows))
        if int(config.lora["r"]) * rows > 32:
            raise torch.OutOfMemoryError("injected")
        train(model, config, *rest)

    monkeypatch.setattr(trainer_run, "_train", within_limits)
    return begun


def test_a_search_runs_into_the_limit_once(
    space_of: Callable[..., Space], run: RunFolder, tight: list[tuple[int, int]]
) -> None:
    space = space_of(
        "search.trials=4",
        lora={"r": {"choice": [16, 32, 64, 4]}},
        train={"learning_rate": 1e-2, "per_device_train_batch_size": 4},
        search={"sampler": "grid", "baseline": False, "priors": False},
    )
    outcomes = searched(space, run)
    assert outcomes.reason is None
    ranks = {r.number: int(r.config["lora"]["r"]) for r in run.results()}
    states = {ranks[r.number]: r.state for r in run.results()}
    assert states == {
        4: TrialState.COMPLETE,
        16: TrialState.COMPLETE,
        32: TrialState.COMPLETE,
        64: TrialState.OUT_OF_MEMORY,
    }
    rows = {ranks[r.number]: r.micro_batch for r in run.results()}
    assert rows == {4: 4, 16: 2, 32: 1, 64: 1}
    # Each begins with what the smaller ones before it had left: nothing is tried in vain twice.
    most = {}
    for number, rows_tried in tight:
        smaller = [most[n] for n in most if n != number and ranks[n] <= ranks[number]]
        assert rows_tried <= min([4, *smaller])
        if ranks[number] * rows_tried <= 32:
            most[number] = rows_tried
