"""Killed in the middle of replacing a folder, or between the adapter and its checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cut_trials import OFTEN, CutError, Left, cut_at, cutting, resumed
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import TrialFolder


@pytest.mark.parametrize("name", ["checkpoint", "adapter"])
def test_killed_between_the_two_moves_that_replace_a_folder(
    whole: Left, cut: TrialFolder, lent: BaseModel, rows: TokenizedData, name: str
) -> None:
    # replace_folder has moved the old one aside, and the new one lies ready.
    target = cut.root / name
    shutil.copytree(target, cut.scratch / name)
    target.rename(cut.root / f".{name}.old")
    asked: list[int] = []
    left = resumed(cut, lent, rows, report=lambda r: bool(asked.append(r.step)) or True)
    assert asked[0] == 5
    left.same_as(whole)


@pytest.mark.parametrize("name", ["checkpoint", "adapter"])
def test_killed_before_the_old_folder_was_removed(
    whole: Left, cut: TrialFolder, lent: BaseModel, rows: TokenizedData, name: str
) -> None:
    shutil.copytree(cut.root / name, cut.root / f".{name}.old")
    resumed(cut, lent, rows).same_as(whole)


def test_the_adapter_of_a_later_evaluation_than_the_checkpoints(
    whole: Left, cut: TrialFolder, lent: BaseModel, rows: TokenizedData, tmp_path: Path
) -> None:
    # Killed after the adapter of step 10 was saved and before its checkpoint was.
    shutil.copytree(cut.checkpoint, tmp_path / "before")
    with pytest.raises(CutError):
        resumed(cut, lent, rows, report=cut_at(10))
    shutil.rmtree(cut.checkpoint)
    (tmp_path / "before").rename(cut.checkpoint)
    asked: list[int] = []
    left = resumed(cut, lent, rows, report=lambda r: bool(asked.append(r.step)) or True)
    assert asked[0] == 5
    left.same_as(whole)


def test_the_adapter_of_a_later_evaluation_than_a_checkpoint_between_rungs(
    whole: Left, cut: TrialFolder, lent: BaseModel, rows: TokenizedData, tmp_path: Path
) -> None:
    # The best adapter of that checkpoint's moment, step 5's, is then nowhere any more.
    with pytest.raises(CutError):
        resumed(cutting(cut, "eval_loss", 10), lent, rows, config=OFTEN)
    shutil.copytree(cut.checkpoint, tmp_path / "before")
    with pytest.raises(CutError):
        resumed(cut, lent, rows, report=cut_at(10))
    shutil.rmtree(cut.checkpoint)
    (tmp_path / "before").rename(cut.checkpoint)
    resumed(cut, lent, rows).same_as(whole)


def test_an_adapter_without_its_weights_is_no_adapter(
    whole: Left, cut: TrialFolder, lent: BaseModel, rows: TokenizedData
) -> None:
    shutil.rmtree(cut.adapter)
    resumed(cut, lent, rows).same_as(whole)
