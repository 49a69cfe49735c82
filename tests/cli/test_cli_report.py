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


def test_watching_a_run_that_is_over_shows_its_ranking(
    tool: Tool, tmp_path: Path, space_file: Callable[..., Path]
) -> None:
    run = make_run(tmp_path / "run", [result(0, 0.5), result(1, 0.3)])
    write_text(run.space, space_file().read_text("utf-8"))
    code, out, err = tool("watch", run.root)
    assert (code, err) == (0, "")
    assert "trial-0000  step  27/" in out
    assert "Best: trial-0001, eval_loss 0.3" in out


def test_a_dashboard_wants_a_study_and_the_program(
    tool: Tool, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = tool("dashboard", one)
    assert code == 1
    assert "there is no study yet" in err
    (one / "study.db").touch()
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.executable", str(one / "python"))
    code, _, err = tool("dashboard", one)
    assert code == 1
    assert "pip install 'tune-lora[dashboard]'" in err
    program = one / "optuna-dashboard"
    program.write_text('#!/bin/sh\necho "$@" > "$(dirname "$0")/asked"\nexit 3\n', "utf-8")
    program.chmod(0o755)
    assert tool("dashboard", one, "--port", "9090")[0] == 3
    asked = (one / "asked").read_text("utf-8").split()
    assert asked == [f"sqlite:///{one}/study.db", "--host", "127.0.0.1", "--port", "9090"]


def test_figures_are_written_beside_the_report(
    tool: Tool, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []

    async def images(figures: Any, form: str) -> list[bytes]:
        drawn.extend(figures)
        return [form.encode() for _ in drawn]

    monkeypatch.setattr("tune_lora.reports.static.need_browser", lambda: None)
    monkeypatch.setattr("tune_lora.reports.static._images", images)
    folder = tmp_path / "figures"
    code, out, err = tool("report", one, "--figures", folder, "--format", "png")
    assert (code, err) == (0, "")
    files = {path.name for path in folder.iterdir()}
    assert {"learning-curves.png", "score-and-parameters.png"} <= files
    assert len(files) == len(drawn)
    assert all(path.read_bytes() == b"png" for path in folder.iterdir())
    assert out.startswith(f"Report: {one}/report.html\nFigures: {folder} (learning-curves.png, ")


def test_without_a_browser_nothing_is_written(
    tool: Tool, one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browsers = pytest.importorskip("choreographer.browsers")
    monkeypatch.setattr(browsers.Chromium, "find_browser", lambda **_: None)
    code, out, err = tool("report", one, "--figures", tmp_path / "figures")
    assert (code, out) == (1, "")
    assert err.startswith("error: figures as files are drawn by Chrome or Chromium")
    assert err.count("\n") == 1
    assert not (one / "report.html").exists()


def test_a_format_goes_with_figures(tool: Tool, one: Path) -> None:
    code, _, err = tool("report", one, "--format", "png")
    assert code == 2
    assert "--figures DIR" in err
    assert tool("report", one, "--figures", "f", "--format", "eps")[0] == 2
