"""The table for a terminal: what it names, and that it fits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make_run, mixed_run, result
from rich.console import Console
from rich.table import Table
from tune_lora.reports import build, merge, terminal_table
from tune_lora.trainer.result import TrialState


def shown(table: Table, width: int = 100) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def headings(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


NAMED = [
    *("#", "trial", "state", "eval loss", "ppl", "step"),
    *("r", "\N{GREEK SMALL LETTER ALPHA}", "targets", "lr"),
    *("trainable", "tok/s", "peak mem"),
]


def test_all_columns_fit_in_100(tmp_path: Path) -> None:
    table = terminal_table(build(mixed_run(tmp_path / "run")))
    assert headings(table) == NAMED
    lines = shown(table)
    assert all(len(line) <= 100 for line in lines)
    assert any("trial-0004" in line and "q_proj,v_proj" in line for line in lines)
    assert sum(line.lstrip(" 0123456789").startswith("trial-") for line in lines) == 10 + 4


def wide(number: int, **settings: Any) -> Any:
    return result(
        number,
        123.456,
        TrialState.COMPLETE,
        lora={"r": 256, "lora_alpha": 1024, "target_modules": ["q_proj", "k_proj", "o_proj"] * 4},
        train={"max_steps": 100_000, **settings},
        step=99_999,
        trainable=123_456_789,
        tokens_per_second=123_456.0,
    )


def test_wide_values_still_fit_in_100(tmp_path: Path) -> None:
    table = terminal_table(build(make_run(tmp_path, [wide(0), wide(1)])))
    assert headings(table) == NAMED
    lines = shown(table)
    assert all(len(line) <= 100 for line in lines)
    assert sum("99999/100000" in line for line in lines) == 2  # one line a row: nothing wrapped
    assert len(lines) == 2 + 3


@pytest.mark.parametrize("width", [50, 60, 72, 80, 100, 140])
def test_no_row_wraps_at_any_width(tmp_path: Path, width: int) -> None:
    board = build(make_run(tmp_path, [wide(0, weight_decay=0.1), wide(1, weight_decay=0.2)]))
    table = terminal_table(board, width=width)
    lines = shown(table, width)
    assert headings(table)[:6] == NAMED[:6]
    assert sum("trial-" in line for line in lines) == 2
    assert len(lines) <= 2 + 3
    assert ("weight_decay" in headings(table)) == (width == 140)


def test_rows_in_board_order(tmp_path: Path) -> None:
    board = build(mixed_run(tmp_path / "run"))
    cells = [str(cell) for cell in terminal_table(board).columns[1].cells]
    assert cells == ["default" if row.kind == "default" else row.name for row in board.rows]


def test_limit_keeps_base_and_default(tmp_path: Path) -> None:
    board = build(mixed_run(tmp_path / "run"))
    table = terminal_table(board, limit=2)
    cells = [str(cell) for cell in table.columns[1].cells]
    assert cells == ["trial-0004", "trial-0002", "default", "base model"]
    assert "8 more rows are not shown" in "\n".join(shown(table))


def test_markup_is_shown_not_obeyed(tmp_path: Path) -> None:
    failed = result(1, None, TrialState.FAILED, error="[red]boom[/red] [/]")
    bold = result(0, 0.5, lora={"target_modules": "[b]q[/b]"})
    text = "\n".join(shown(terminal_table(build(make_run(tmp_path, [bold, failed])))))
    assert "[b]q[/b]" in text
    assert "[red]boom[/red] [/]" in text


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    board = build(make_run(tmp_path, [result(0, 0.5, lora={"target_modules": "a\x1b[2Jb\nc"})]))
    text = "\n".join(shown(terminal_table(board)))
    assert "\x1b" not in text
    assert "a [2Jb c" in text


def test_reasons_stand_below(tmp_path: Path) -> None:
    text = "\n".join(shown(terminal_table(build(mixed_run(tmp_path / "run")))))
    assert "trial-0005 DIVERGED: its loss became NaN or infinite after step 9" in text
    assert "trial-0007 FAILED: ValueError: no targets" in text
    assert "trial-0006 OUT_OF_MEMORY: torch.OutOfMemoryError: 2 GiB" in text


def test_gpu_memory_where_there_is_one(tmp_path: Path) -> None:
    table = terminal_table(build(make_run(tmp_path, [result(0, 0.5, gpu_memory_bytes=2**30)])))
    assert headings(table)[-1] == "GPU mem"
    assert str(next(iter(table.columns[-1].cells))) == "1 GiB"


def test_several_runs_are_numbered(tmp_path: Path) -> None:
    boards = [build(make_run(tmp_path / n, [wide(0)], fingerprint=n)) for n in ("left", "right")]
    table = terminal_table(merge(boards))
    lines = shown(table)
    assert headings(table)[1] == "run"
    assert all(len(line) <= 100 for line in lines)
    text = " ".join(" ".join(lines).split())
    assert "run 1: left run 2: right" in text
    assert "the runs' data differ" in text


def test_an_empty_run(tmp_path: Path) -> None:
    assert headings(terminal_table(build(make_run(tmp_path, [], base=None)))) == NAMED
