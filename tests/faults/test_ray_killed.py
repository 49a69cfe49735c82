"""Processes of a search under Ray that are killed, and all that its user gets to see of it."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tune_lora.search import driver
from tune_lora.spaces import load_space
from tune_lora.trainer.folder import RunFolder
from whole_searches import numbers, search, study_states

Command = Callable[..., subprocess.Popen[str]]
Begin = Callable[..., tuple[subprocess.Popen[str], list[psutil.Process]]]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def begin(space_file: Callable[..., Path], run: RunFolder, command: Command) -> Begin:
    """Starts a search of trial after trial, and waits for an evaluation."""

    def start(**block: int) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
        path = space_file(
            train={"max_steps": 60, "eval_steps": 20},
            search={"sampler": "random", "scheduler": "none", **block},
            resources={"workers": 1, "threads": 1},
        )
        process = command("search", path, "--run", run.root)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if run.trials.is_dir() and any(result.evaluations for result in run.results()):
                return process, psutil.Process(process.pid).children(recursive=True)
            time.sleep(0.02)
        raise AssertionError(f"no evaluation; exit code {process.poll()}")

    return start


def workers(family: list[psutil.Process]) -> list[psutil.Process]:
    """Those that train, by the titles that Ray gives them."""
    found = []
    for process in family:
        # Some of Ray's helpers live only for a moment.
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and "IDLE" not in title and "Agent" not in title:
                found.append(process)
    return found


def no_word_of_rays(shown: str) -> None:
    for theirs in ("Traceback", "raylet", "ERROR", "tune_controller", "GCS", "did not complete"):
        assert theirs not in shown, shown


@pytest.mark.parametrize(
    ("retries", "said", "states"),
    [
        (1, "its worker died; it is taken up again (retry 1 of 1)", ["COMPLETE"]),
        pytest.param(0, "LOST", ["FAIL", "COMPLETE"], marks=pytest.mark.slow),
    ],
)
def test_a_killed_worker_is_one_line(
    begin: Begin, run: RunFolder, retries: int, said: str, states: list[str]
) -> None:
    process, family = begin(retries=retries, trials=len(states))
    (worker,) = workers(family)
    worker.kill()
    shown, _ = process.communicate(timeout=240)
    assert process.returncode == 0, shown
    (line,) = (line for line in shown.splitlines() if said in line and "trial-0000  " in line)
    assert not line.startswith("trial-0000")  # that would be the leaderboard's
    no_word_of_rays(shown)
    assert study_states(run) == states


@pytest.mark.parametrize("daemon", ["gcs_server", pytest.param("raylet", marks=pytest.mark.slow)])
def test_without_rays_own_processes_a_search_ends_and_can_go_on(
    begin: Begin, run: RunFolder, daemon: str
) -> None:
    process, family = begin(trials=1)
    training = workers(family)
    assert training
    (victim,) = (member for member in family if member.name() == daemon)
    victim.kill()
    shown, _ = process.communicate(timeout=50)  # Ray itself takes 60 seconds to see it.
    assert process.returncode == 1, shown
    assert "error: Ray has died" in shown
    assert shown.endswith(f"go on with --resume {run.root}\n")
    no_word_of_rays(shown.replace("Ray has died", ""))
    assert study_states(run) == ["RUNNING"]
    assert psutil.wait_procs(training, timeout=20)[1] == []

    space = load_space(run.space)
    assert search(space, driver.resumed_run(space, run.root)).reason is None
    assert numbers(run) == [0]
    assert study_states(run) == ["COMPLETE"]
