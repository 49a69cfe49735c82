"""``doctor`` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tune_lora.cli.doctor import Check
from tune_lora.search import doctor
from tune_lora.search.doctor_finding import failed, ok, warning

Tool = Callable[..., Any]
FOUND = [ok("gpu", "none"), warning("hub", "away", "come back")]


@pytest.fixture
def finding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """``finding(findings)``: they are what is found; gives the list of what is asked."""

    def find(found: list[Any]) -> list[Any]:
        asked: list[Any] = []

        def diagnose(runs: Path, skip: list[str]) -> list[Any]:
            asked.append((runs, skip))
            return found

        monkeypatch.setattr(doctor, "diagnose", diagnose)
        return asked

    return find


def test_each_line_has_a_state_and_a_remedy(tool: Tool, finding: Callable[..., Any]) -> None:
    asked = finding(FOUND)
    code, out, _ = tool("doctor", "--skip", "ray", "--runs", "elsewhere")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["ok", "gpu", "none"]
    assert lines[1].split() == ["warning", "hub", "away"]
    assert lines[2].split() == ["come", "back"]
    assert asked == [(Path("elsewhere"), ["ray"])]


def test_a_failure_is_exit_code_1(tool: Tool, finding: Callable[..., Any]) -> None:
    finding([*FOUND, failed("disk", "full", "free some")])
    code, out, _ = tool("doctor", "--json")
    assert code == 1
    assert [one["state"] for one in json.loads(out)] == ["ok", "warning", "failed"]
    assert json.loads(out)[2]["remedy"] == "free some"


def test_an_unknown_check_is_wrong_input(tool: Tool) -> None:
    assert tool("doctor", "--skip", "moon").code == 2


def test_every_check_can_be_left_out(tmp_path: Path) -> None:
    every = [check.value for check in Check]
    found = doctor.diagnose(tmp_path, skip=every)
    assert [one.check for one in found] == every
    assert {one.state.value for one in found} == {"skipped"}
