"""Run folders on a real file system that fills up, or that cannot be written at all."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_disk import fill, mounted, read_only
from tune_lora.search import driver
from tune_lora.spaces import Space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from tune_lora.trainer.result import TrialState
from whole_searches import Interjecting, numbers, search, study_states

Small = Callable[..., Space]
Command = Callable[..., subprocess.Popen[str]]
MIB = 24


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", MIB) as folder:
        yield folder


@pytest.mark.parametrize(
    "moment",
    [
        "trial-0000  started",
        "trial-0000  step   1/4",
        "trial-0001  started",
        "trial-0001  step   2/4",
        "trial-0001  step   4/4",
        "trial-0002  step   4/4",
    ],
)
def test_full_at_any_moment_then_freed(small: Small, disk: Path, moment: str) -> None:
    run = driver.new_run(small(), disk / "run")
    console = Interjecting(moment, lambda: fill(disk))
    with pytest.raises(TrialError) as caught:
        search(small(), run, console)
    assert console.acted
    said = str(caught.value)
    assert str(run.root) in said
    assert "--resume" in said
    assert "space" in said or "full" in said
    before = {r.number: r for r in run.results() if r.state is TrialState.COMPLETE}
    with pytest.raises(TrialError, match=r"full|free|space"):
        search(small(), driver.resumed_run(small(), run.root))

    (disk / "filler").unlink()
    search(small(), driver.resumed_run(small(), run.root))
    assert numbers(run) == [0, 1, 2]
    assert study_states(run) == ["COMPLETE"] * 3
    after = {r.number: r for r in run.results()}
    # A trial whose end was only half written down is taken up again.
    assert {n: r.score for n, r in before.items()}.items() <= {
        n: r.score for n, r in after.items()
    }.items()


@pytest.mark.slow
def test_a_disk_that_fills_up_under_ray(
    space_file: Callable[..., Path], disk: Path, command: Command
) -> None:
    train = {"max_steps": 40, "eval_steps": 1}
    search_ = {"trials": 3, "scheduler": "none", "sampler": "random"}
    path = space_file(train=train, search=search_, resources={"workers": 1})
    run = RunFolder(disk / "run")
    process = command("search", path, "--run", run.root)
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if run.trials.is_dir() and any(result.evaluations for result in run.results()):
            break
        time.sleep(0.05)
    fill(disk)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 1, shown
    assert "Traceback" not in shown
    assert str(run.root) in shown
    assert f"--resume {run.root}" in shown

    (disk / "filler").unlink()
    again = command("search", path, "--resume", run.root)
    shown, _ = again.communicate(timeout=180)
    assert again.returncode == 0, shown
    assert numbers(run) == [0, 1, 2]
    assert study_states(run) == ["COMPLETE"] * 3


def test_a_disk_that_is_too_small_is_refused_before_any_trial(small: Small, disk: Path) -> None:
    space = small("lora.r=4096", "lora.target_modules=all-linear")
    run = driver.new_run(space, disk / "run")
    with pytest.raises(TrialError, match="free"):
        search(space, run)
    assert not run.root.exists()


def test_a_folder_that_cannot_be_written_is_named(small: Small, disk: Path) -> None:
    run = driver.new_run(small(), disk / "run")
    with read_only(disk):
        with pytest.raises(TrialError, match="cannot be written"):
            search(small(), run)
        with pytest.raises(TrialError, match="cannot be made"):
            driver.new_run(small(), disk / "other")
        with pytest.raises(TrialError, match="cannot be written"):
            driver.resumed_run(small("search.trials=5"), run.root)


def test_a_file_in_the_way_is_named(small: Small, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(TrialError, match=f"{root}: "):
            driver.new_run(small(), root)
