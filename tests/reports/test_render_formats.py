"""CSV, JSON and Markdown: the same rows, exact numbers, nothing that escapes its cell."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make_run, mixed_run, result
from tune_lora.reports import Leaderboard, build, render, to_csv, to_json, to_markdown
from tune_lora.reports.markdown import escape
from tune_lora.trainer.result import TrialState


def csv_rows(board: Leaderboard) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(board))))


def json_rows(board: Leaderboard) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"bare {name}")

    rows = json.loads(to_json(board), parse_constant=refuse)["rows"]
    assert isinstance(rows, list)
    return rows


def markdown_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    board = build(mixed_run(tmp_path / "run"))
    names = [row.name for row in board.rows]
    assert [row["name"] for row in csv_rows(board)] == names
    assert [row["name"] for row in json_rows(board)] == names
    shown = [row[1].removesuffix(" (default)") for row in markdown_rows(to_markdown(board))[2:]]
    assert shown == names


def test_json_numbers_are_exact(tmp_path: Path) -> None:
    score = 0.1 + 0.2
    board = build(make_run(tmp_path, [result(0, score, tokens_per_second=1 / 3)], base=math.pi))
    row = json_rows(board)[0]
    assert row["eval_loss"] == score
    assert row["tokens_per_second"] == 1 / 3
    assert row["gain_over_base"] == math.pi - score
    assert row["settings"]["max_steps"] == 27


def test_csv_numbers_are_raw(tmp_path: Path) -> None:
    board = build(make_run(tmp_path, [result(0, 3.5, TrialState.PRUNED, step=9)]))
    row = csv_rows(board)[-1]
    assert float(row["gain_over_base"]) == 2.34 - 3.5  # negative, and not taken for a formula
    assert int(row["peak_memory_bytes"]) == 1_342_177_280
    assert float(row["trainable_share"]) == 0.005
    assert row["has_adapter"] == "false"
    assert row["gpu_memory_bytes"] == ""


def test_nothing_is_written_as_nan(tmp_path: Path) -> None:
    results = [
        result(0, math.nan),
        result(1, 1000.0, tokens_per_second=math.inf, lora={"lora_dropout": math.nan}),
        result(2, 0.5, lora={"lora_dropout": 0.1}),
    ]
    board = build(make_run(tmp_path, results, base=math.nan))
    row = next(row for row in json_rows(board) if row["trial"] == 1)
    assert row["perplexity"] is None  # exp(1000) overflows
    assert row["tokens_per_second"] is None
    assert row["params"]["lora_dropout"] is None
    line = next(row for row in csv_rows(board) if row["trial"] == "1")
    assert line["perplexity"] == line["tokens_per_second"] == line["lora_dropout"] == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_defuses_formulas(tmp_path: Path, text: str) -> None:
    board = build(make_run(tmp_path, [result(0, 0.5, lora={"target_modules": [text]})]))
    value = csv_rows(board)[0]["target_modules"]
    assert value.startswith("'")
    assert value[1:].strip() == text.strip()


def test_csv_defuses_errors(tmp_path: Path) -> None:
    failed = result(0, None, TrialState.FAILED, error='=HYPERLINK("x")')
    assert csv_rows(build(make_run(tmp_path, [failed])))[-1]["error"] == '\'=HYPERLINK("x")'


def test_csv_keeps_commas_and_quotes_in_their_cell(tmp_path: Path) -> None:
    targets = ["q_proj", 'a"b']
    board = build(make_run(tmp_path, [result(0, 0.5, lora={"target_modules": targets})]))
    assert csv_rows(board)[0]["target_modules"] == 'q_proj,a"b'


def test_markdown_cells_hold_their_pipes(tmp_path: Path) -> None:
    regex = r".*\.(q|v)_proj"
    failed = result(1, None, TrialState.FAILED, error="a | b\nc <script>")
    run = make_run(tmp_path, [result(0, 0.5, lora={"target_modules": regex}), failed])
    rows = markdown_rows(to_markdown(build(run)))
    assert len({len(row) for row in rows}) == 1
    cell = rows[2][rows[0].index("target_modules")]
    assert re.sub(r"\\([^A-Za-z0-9\s])", r"\1", cell) == regex
    assert "<script>" not in to_markdown(build(run)).replace(r"\<", "")
    assert rows[-1][-1] == r"a \| b"


def test_markdown_numbers(tmp_path: Path) -> None:
    gpu: dict[str, Any] = {"gpu_memory_bytes": 3 * 2**30, "gpu_utilization": 87.4}
    board = build(make_run(tmp_path, [result(0, 0.412, **gpu)], adapters=[0]))
    header, _, row, base = markdown_rows(to_markdown(board))
    cells = dict(zip(header, row, strict=True))
    assert cells["eval_loss"] == "0.4120"
    assert cells["perplexity"] == "1.51"
    assert cells["gain over base"] == "1.9280"
    assert cells["steps"] == "27/27"
    assert cells["learning_rate"] == "0.0002"
    assert (cells["trainable"], cells["share"]) == ("1M", "0.5%")
    assert (cells["peak memory"], cells["GPU memory"]) == ("1.25 GiB", "3 GiB")
    assert cells["GPU use"] == "87%"
    assert cells["time"] == "2:06"
    assert base[1] == "base model"


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("q_proj", "q_proj"),
        ("_x_", r"\_x\_"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("[x](y)", r"\[x\](y)"),
        ("two\nlines", "two lines"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_write_replaces_all_three(tmp_path: Path) -> None:
    run = mixed_run(tmp_path / "run")
    board = build(run)
    render.write(run, board)
    render.write(run, board)
    assert run.leaderboard("csv").read_text(encoding="utf-8") == to_csv(board)
    assert run.leaderboard("json").read_text(encoding="utf-8") == to_json(board)
    assert run.leaderboard("md").read_text(encoding="utf-8") == to_markdown(board)
    assert not list(run.root.glob(".leaderboard*"))
