"""One search a run folder: the second is refused, and a killed one leaves no lock behind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tune_lora.search import driver
from tune_lora.spaces import load_space
from tune_lora.trainer.folder import RunFolder
from whole_searches import numbers, search, study_states

LONG = {"max_steps": 400, "eval_steps": 1}


def evaluated(run: RunFolder, process: subprocess.Popen[str]) -> None:
    """Wait until a trial has been evaluated."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if run.trials.is_dir() and any(result.evaluations for result in run.results()):
            return
        time.sleep(0.05)
    raise AssertionError(f"no evaluation; exit code {process.poll()}")


def test_a_second_search_is_refused_until_the_first_is_killed(
    space_file: Callable[..., Path],
    tmp_path: Path,
    command: Callable[..., subprocess.Popen[str]],
) -> None:
    path = space_file(train=LONG, search={"trials": 2, "scheduler": "none"})
    run = RunFolder(tmp_path / "run")
    first = command("search", path, "--local", "--run", run.root)
    evaluated(run, first)

    second = command("search", path, "--local", "--resume", run.root)
    shown, _ = second.communicate(timeout=120)
    assert second.returncode == 1, shown
    assert "another search is running in it" in shown
    assert f"process {first.pid}" in shown
    assert "Traceback" not in shown
    assert first.poll() is None

    first.kill()
    first.wait()
    assert study_states(run) == ["RUNNING"]
    before = next(run.results())
    space = load_space(path)
    # The rest of 400 steps is more than this test needs.
    stopping = load_space(path, ["search.time_limit_minutes=0.05"])
    outcome = search(stopping, driver.resumed_run(space, run.root))
    assert outcome.reason is not None
    assert numbers(run) == [0]
    after = next(run.results())
    assert len(after.evaluations) > len(before.evaluations)
    assert after.evaluations[: len(before.evaluations)] == before.evaluations
