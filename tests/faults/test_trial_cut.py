"""A trial cut off at any moment goes on as if nothing had happened, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cut_trials import (
    CONFIG,
    OFTEN,
    RUNGS,
    CutError,
    Left,
    cut_at,
    cutting,
    resumed,
)
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import TrialFolder
from tune_lora.trainer.result import TrialResult, TrialState
from tune_lora.trainer.run import run_trial


@pytest.fixture
def folder(tmp_path: Path) -> TrialFolder:
    return TrialFolder(tmp_path / "trial")


@pytest.mark.parametrize("step", RUNGS[:-1])
def test_cut_at_a_rung(
    whole: Left, folder: TrialFolder, lent: BaseModel, rows: TokenizedData, step: int
) -> None:
    with pytest.raises(CutError):
        resumed(folder, lent, rows, report=cut_at(step))
    asked: list[int] = []

    def report(result: TrialResult) -> bool:
        asked.append(result.step)
        return True

    left = resumed(folder, lent, rows, report=report)
    left.same_as(whole)
    # The question that was cut off is asked again; nothing before it is.
    assert asked == [rung for rung in RUNGS[:-1] if rung >= step]


@pytest.mark.parametrize(
    ("key", "step"),
    [("loss", step) for step in (1, 2, 3, 8, 9, 10, 12)]
    + [("eval_loss", step) for step in (2, 10, 12)],
)
def test_cut_between_rungs(
    whole: Left, folder: TrialFolder, lent: BaseModel, rows: TokenizedData, step: int, key: str
) -> None:
    with pytest.raises(CutError):
        resumed(cutting(folder, key, step), lent, rows, config=OFTEN)
    assert folder.checkpoint.is_dir() is (step > 1)
    resumed(folder, lent, rows, config=OFTEN).same_as(whole)


def test_cut_at_every_rung_and_in_between(
    whole: Left, folder: TrialFolder, lent: BaseModel, rows: TokenizedData
) -> None:
    for step in (1, 3, 4, 7, 9, 11):
        with pytest.raises(CutError):
            resumed(cutting(folder, "loss", step), lent, rows, config=OFTEN)
    resumed(folder, lent, rows, config=OFTEN).same_as(whole)


def test_stopped_at_the_question_that_was_cut_off(
    folder: TrialFolder, lent: BaseModel, rows: TokenizedData, whole: Left
) -> None:
    with pytest.raises(CutError):
        resumed(folder, lent, rows, report=cut_at(5))
    result = resumed(folder, lent, rows, report=lambda _: False).result
    assert (result.state, result.step) == (TrialState.PRUNED, 5)
    assert [e.eval_loss for e in result.evaluations] == [
        e.eval_loss for e in whole.result.evaluations[:2]
    ]


def test_time_goes_on_where_it_stood(
    folder: TrialFolder, lent: BaseModel, rows: TokenizedData
) -> None:
    with pytest.raises(CutError):
        resumed(folder, lent, rows, report=cut_at(10))
    result = resumed(folder, lent, rows).result
    clock = [e.seconds for e in result.evaluations]
    assert clock == sorted(clock)
    assert result.seconds >= clock[-1]


def test_without_resume_a_trial_starts_over(
    whole: Left, folder: TrialFolder, lent: BaseModel, rows: TokenizedData
) -> None:
    with pytest.raises(CutError):
        resumed(folder, lent, rows, config=OFTEN, report=cut_at(10))
    other = replace(CONFIG, train={**CONFIG.train, "seed": 4})
    with pytest.raises(CutError):
        run_trial(other, lent, rows, cut_at(2), folder)
    begun = resumed(folder, lent, rows, config=other)
    assert begun.result.score != whole.result.score
    steps = [line["step"] for line in begun.lines if "loss" in line]
    assert steps == list(range(1, 13))


GROUPED = replace(OFTEN, train={**CONFIG.train, "train_sampling_strategy": "group_by_length"})


def test_batches_of_like_length_are_the_same_again(
    folder: TrialFolder, lent: BaseModel, rows: TokenizedData, tmp_path: Path, whole: Left
) -> None:
    uncut = resumed(TrialFolder(tmp_path / "uncut"), lent, rows, config=GROUPED)
    assert uncut.result.score != whole.result.score
    # Within the first epoch, at its end, and in the second one.
    for step in (3, 8, 11):
        with pytest.raises(CutError):
            resumed(cutting(folder, "loss", step), lent, rows, config=GROUPED)
    resumed(folder, lent, rows, config=GROUPED).same_as(uncut)
