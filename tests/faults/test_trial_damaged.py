"""Checkpoints and metrics that were damaged: noticed, and the trial still ends the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cut_trials import CutError, Left, cutting, resumed
from tune_lora.trainer.base import BaseModel
from tune_lora.trainer.data import TokenizedData
from tune_lora.trainer.folder import TrialFolder


def truncate(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def garble(file: Path) -> None:
    file.write_bytes(b"\xff\x00 no JSON")


def empty_object(file: Path) -> None:
    file.write_text("{}", encoding="utf-8")


def plain_list(file: Path) -> None:
    file.write_text("[1, 2]", encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("adapter_model.safetensors", truncate),
        ("adapter_model.safetensors", flip),
        ("optimizer.pt", truncate),
        ("optimizer.pt", Path.unlink),
        ("scheduler.pt", Path.unlink),
        ("rng_state.pth", flip),
        ("trainer_state.json", truncate),
        ("checkpoint.json", Path.unlink),
        ("checkpoint.json", truncate),
        ("checkpoint.json", garble),
        ("checkpoint.json", empty_object),
        ("checkpoint.json", plain_list),
    ],
)
def test_a_damaged_checkpoint_means_starting_over(
    whole: Left,
    cut: TrialFolder,
    lent: BaseModel,
    rows: TokenizedData,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[Path], None],
) -> None:
    damage(cut.checkpoint / name)
    asked: list[int] = []
    left = resumed(cut, lent, rows, report=lambda r: bool(asked.append(r.step)) or True)
    left.same_as(whole)
    assert asked[0] == 2
    assert "starts over" in caplog.text
    if name != "checkpoint.json":
        assert name in caplog.text


def test_a_line_that_was_never_finished_is_dropped(
    whole: Left, cut: TrialFolder, lent: BaseModel, rows: TokenizedData
) -> None:
    with cut.metrics.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "lo')
    resumed(cut, lent, rows).same_as(whole)


@pytest.mark.parametrize("torn", ["", '{"step": 5, "eval_loss"', "5\n"])
def test_lines_past_the_checkpoint_are_not_doubled(
    whole: Left, cut: TrialFolder, lent: BaseModel, rows: TokenizedData, torn: str
) -> None:
    with pytest.raises(CutError):
        resumed(cutting(cut, "loss", 9), lent, rows)
    with cut.metrics.open("a", encoding="utf-8") as file:
        file.write(torn)
    resumed(cut, lent, rows).same_as(whole)
