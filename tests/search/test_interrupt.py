"""Ctrl-C in a search under Ray, pressed as a terminal presses it, and the resumed search."""

from __future__ import annotations

import csv
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from optuna.trial import TrialState as OptunaState
from outcomes import read_back
from tune_lora.cli import main
from tune_lora.trainer.folder import RunFolder

COMMAND = [sys.executable, "-m", "tune_lora.cli"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command line in a process group of its own, as a shell does."""
    begun: list[subprocess.Popen[str]] = []

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
            os.killpg(process.pid, signal.SIGKILL)


def first_evaluation(run: RunFolder, process: subprocess.Popen[str]) -> None:
    """Wait until a trial has been evaluated."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if run.trials.is_dir() and any(result.evaluations for result in run.results()):
            return
        time.sleep(0.05)
    pytest.fail(f"no evaluation; exit code {process.poll()}")


def test_interrupted_then_resumed(
    start: Start,
    space_file: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = {"max_steps": 20, "learning_rate": {"log_uniform": [1e-3, 1e-2]}}
    space = space_file(
        train=train, search={"trials": 2, "scheduler": "none"}, resources={"workers": 1}
    )
    run = RunFolder(tmp_path / "run")
    process = start(
        "search", space.name, "train.eval_steps=1", "lora.r={choice: [2, 4]}", "--run", "run"
    )
    first_evaluation(run, process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("ray" in " ".join(member.cmdline()) for member in family)

    os.killpg(process.pid, signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    assert "Stopped: interrupted. What was won is kept in run" in shown
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    open_trials = [t for t in read_back(run) if t.state is OptunaState.RUNNING]
    assert open_trials
    finished = {r.number: r for r in run.results() if r.state.finished}

    (again,) = (line for line in shown.splitlines() if line.startswith("Go on with:"))
    verb, *arguments = shlex.split(again.removeprefix("Go on with:"))
    assert (verb, arguments[-2:]) == ("tune-lora", ["--resume", "run"])
    # In this process: under Ray, test_ray_confirm resumes one.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tune-lora", *arguments, "--local"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    with run.leaderboard("csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] != "base"]
    assert sorted(row["trial"] for row in rows) == ["0", "1"]
    assert {row["state"] for row in rows} == {"COMPLETE"}
    assert [t.state for t in read_back(run)] == [OptunaState.COMPLETE] * 2
    assert finished.items() <= {r.number: r for r in run.results()}.items()
