"""The command line with ``search.pack``: the driver killed, resumed, interrupted, resumed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from outcomes import read_back
from tune_lora.trainer.folder import RunFolder

COMMAND = [sys.executable, "-m", "tune_lora.cli", "search"]
AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They outlive a killed driver by a minute, and do nothing meanwhile."""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command line in a process group of its own; none outlives the test."""
    begun: list[subprocess.Popen[str]] = []
    seen: dict[int, psutil.Process] = {}

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        if process.poll() is None:
            seen |= {p.pid: p for p in psutil.Process(process.pid).children(recursive=True)}
            process.kill()
    for member in seen.values():
        if member.is_running():
            member.kill()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def evaluated(run: RunFolder, process: subprocess.Popen[str], more_than: int) -> int:
    """Wait until the trials together have been evaluated more often than that; how often."""
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        results = list(run.results()) if run.trials.is_dir() else []
        count = sum(len(result.evaluations) for result in results)
        if count > more_than:
            return count
        time.sleep(0.05)
    pytest.fail(f"no evaluation; exit code {process.poll()}")


def assert_gone(members: list[psutil.Process]) -> None:
    alive = psutil.wait_procs(members, timeout=30)[1]
    assert [p for p in alive if not " ".join(p.cmdline()).startswith(AGENTS)] == []


@pytest.mark.slow
def test_killed_and_interrupted_and_audited(
    start: Start, space_file: Callable[..., Path], tmp_path: Path
) -> None:
    space = space_file(
        train={"max_steps": 16, "learning_rate": {"log_uniform": [1e-6, 1e-1]}},
        search={"trials": 7, "pack": 2, "sampler": "random"},
        resources={"workers": 2, "threads": 1},
    )
    run = RunFolder(tmp_path / "run")
    begin = [space.name, "--audit", "1"]
    process = start(*begin, "--run", "run")
    count = evaluated(run, process, 0)
    members = family(process)
    engines = [p for p in members if "Engine" in " ".join(p.cmdline())]
    assert len(engines) == 2
    process.kill()
    process.wait()
    assert_gone(members)

    process = start(*begin, "--resume", "run")
    evaluated(run, process, count)
    members = family(process)
    os.killpg(process.pid, signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    assert psutil.wait_procs(members, timeout=30)[1] == []

    process = start(*begin, "--resume", "run")
    shown, _ = process.communicate(timeout=240)
    assert process.returncode == 0, shown
    assert "2 worker(s) of 1 CPU thread(s), 2 trials in each" in shown
    with run.leaderboard("csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] != "base"]
    assert sorted(row["trial"] for row in rows) == [*"0123456"]
    assert {row["state"] for row in rows} == {"COMPLETE", "PRUNED"}
    assert {trial.state.name for trial in read_back(run)} == {"COMPLETE", "PRUNED"}
    (audit,) = run.audits().values()
    assert audit.step == 16
    assert run.read_about()["layout"]["pack"] == 2
