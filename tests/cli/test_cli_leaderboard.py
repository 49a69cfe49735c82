"""``leaderboard``: one run and several, in every format."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make_run, mixed_run, result
from tune_lora.trainer.folder import RunFolder, write_text

Tool = Callable[..., Any]


def run_of(folder: RunFolder) -> Path:
    """A made-up run with the space that makes a folder a run."""
    write_text(folder.space, "")
    return folder.root


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return run_of(mixed_run(tmp_path / "one"))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    results = [result(0, 0.9, baseline=True), result(1, 0.5)]
    return run_of(make_run(tmp_path / "two", results, fingerprint="e" * 64))


# By score: 0.412, the tie of 0.75 by size, 1.02, 1.5, 2.9.
RANKED = ["trial-0004", "trial-0002", "trial-0001", "trial-0000", "trial-0010", "trial-0003"]


def test_csv(tool: Tool, one: Path) -> None:
    code, out, err = tool("leaderboard", one, "--format", "csv")
    assert (code, err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["name"] for row in rows if row["rank"]] == RANKED
    assert len(rows) == 12


def test_json(tool: Tool, one: Path) -> None:
    code, out, _ = tool("leaderboard", one, "--format", "json")
    found = json.loads(out)
    assert code == 0
    assert found["best"] == {"run": "one", "name": "trial-0004"}
    assert [row["name"] for row in found["rows"] if row["rank"]] == RANKED


def test_markdown(tool: Tool, one: Path) -> None:
    code, out, _ = tool("leaderboard", one, "--format", "md")
    assert code == 0
    assert out.startswith("# Leaderboard: one\n")
    cells = [line.split("|")[2].strip() for line in out.splitlines() if line.startswith("| ")]
    shown = [cell.removesuffix(" (default)") for cell in cells if cell.startswith("trial-")]
    assert [name for name in shown if name in RANKED] == RANKED


def test_table(tool: Tool, one: Path) -> None:
    code, out, err = tool("leaderboard", one)
    assert (code, err) == (0, "")
    assert "0.4120" in out
    assert "Best: trial-0004" in out


def test_top_shortens_the_table(tool: Tool, one: Path) -> None:
    _, whole, _ = tool("leaderboard", one)
    _, short, _ = tool("leaderboard", one, "--top", 2)
    assert "trial-0010" in whole
    assert "trial-0010" not in short
    assert "trial-0002" in short


def test_two_runs_are_ranked_together(tool: Tool, one: Path, two: Path) -> None:
    code, out, _ = tool("leaderboard", one, two, "--format", "csv")
    assert code == 0
    ranked = [(r["run"], r["trial"]) for r in csv.DictReader(io.StringIO(out)) if r["rank"]]
    assert ranked[:5] == [("one", "4"), ("two", "1"), ("one", "2"), ("one", "1"), ("two", "0")]


@pytest.mark.parametrize("form", ["table", "json", "md"])
def test_runs_of_different_data_are_said_to_be_so(
    tool: Tool, one: Path, two: Path, form: str
) -> None:
    code, out, _ = tool("leaderboard", one, two, "--format", form)
    assert code == 0
    assert "data differ" in " ".join(out.split())


def test_no_run_there(tool: Tool, tmp_path: Path) -> None:
    code, out, err = tool("leaderboard", tmp_path)
    assert (code, out) == (1, "")
    assert err == f"error: {tmp_path}: no run folder (it has no space.yaml)\n"


def test_an_unknown_format_is_wrong_input(tool: Tool, one: Path) -> None:
    code, _, err = tool("leaderboard", one, "--format", "xml")
    assert code == 2
    assert "'table', 'csv', 'json', 'md'" in err
