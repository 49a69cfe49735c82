"""``report`` and ``compare``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runs import make_run, mixed_run, result
from tune_lora.trainer.folder import RunFolder, write_text

Tool = Callable[..., Any]


def run_of(folder: RunFolder) -> Path:
    write_text(folder.space, "lora: {r: 8}\n")
    return folder.root


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return run_of(mixed_run(tmp_path / "one"))


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return run_of(make_run(tmp_path / "two", [result(0, 0.3)], fingerprint="e" * 64))


def test_a_report_is_written_into_the_run(tool: Tool, one: Path) -> None:
    code, out, err = tool("report", one)
    assert (code, out, err) == (0, f"Report: {one}/report.html\n", "")
    assert (one / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_or_elsewhere(tool: Tool, one: Path, tmp_path: Path) -> None:
    assert tool("report", one, "--out", tmp_path / "a" / "page.html")[0] == 0
    assert (tmp_path / "a" / "page.html").is_file()
    assert not (one / "report.html").exists()


def test_no_run_no_report(tool: Tool, tmp_path: Path) -> None:
    code, _, err = tool("report", tmp_path)
    assert code == 1
    assert "no run folder" in err


def test_two_runs_side_by_side(tool: Tool, one: Path, two: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, _ = tool("compare", one, two, "--html", page)
    assert code == 0
    assert "CAUTION: the runs' data differ" in out
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines if line[:1] in (["one"], ["two"])][:2] == ["two", "one"]
    assert "The spaces are the same." in out
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_as_json(tool: Tool, one: Path, two: Path) -> None:
    code, out, err = tool("compare", one, two, "--format", "json")
    assert (code, err) == (0, "")
    assert [standing["run"] for standing in json.loads(out)["standings"]] == ["two", "one"]


def test_one_run_is_nothing_to_compare(tool: Tool, one: Path) -> None:
    code, _, err = tool("compare", one)
    assert code == 2
    assert "two runs or more" in err
