"""Two answers, side by side or one after the other."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from tune_lora.cli.generate import side_by_side

ANSWERS = {"best-adapter": '{"item": "lamp"}', "base model (a/b)": "[bold] a lamp, I think.\nYes."}


def shown(width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(side_by_side(ANSWERS, width))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_columns_where_there_is_room() -> None:
    lines = shown(120)
    assert any("best-adapter" in line and "base model (a/b)" in line for line in lines)
    assert any('{"item": "lamp"}' in line and "[bold] a lamp, I think." in line for line in lines)
    assert {len(line) for line in lines} == {120}


@pytest.mark.parametrize("width", [40, 99])
def test_one_after_the_other_where_there_is_not(width: int) -> None:
    lines = shown(width)
    text = [line.strip("─ ") for line in lines]
    assert text == [
        "best-adapter",
        '{"item": "lamp"}',
        "base model (a/b)",
        "[bold] a lamp, I think.",
        "Yes.",
    ]
    assert max(map(len, lines)) <= width
