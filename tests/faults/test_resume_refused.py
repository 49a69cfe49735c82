"""``--resume`` with another space: every difference at once; a changed budget is welcome."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tune_lora.search import driver
from tune_lora.spaces import Space, SpaceError, load_space

Small = Callable[..., Space]
CHANGES = ("train.max_steps=8", "lora.r=4", "search.seed=5", "data.max_length=64")
KEYS = {"train.max_steps", "lora.r", "search.seed", "data.max_length"}


def test_every_difference_is_in_one_error(small: Small, tmp_path: Path) -> None:
    run = driver.new_run(small(), tmp_path / "run")
    before = run.space.read_bytes()
    with pytest.raises(SpaceError) as caught:
        driver.resumed_run(small(*CHANGES), run.root)
    named = {".".join(fault.path.split(".")[:2]) for fault in caught.value.faults}
    assert named == KEYS
    assert all("was begun with" in fault.rule for fault in caught.value.faults)
    assert run.space.read_bytes() == before


def test_the_command_line_says_so_and_exits_with_2(
    small: Small,
    space_file: Callable[..., Path],
    tmp_path: Path,
    command: Callable[..., subprocess.Popen[str]],
) -> None:
    run = driver.new_run(small(), tmp_path / "run")
    process = command("search", space_file(), *CHANGES, "--resume", run.root)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 2, shown
    assert all(key in shown for key in KEYS), shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    "override",
    [
        "search.trials=9",
        "search.time_limit_minutes=3",
        "search.keep_adapters=7",
        "search.checkpoint_minutes=1",
        "search.retries=5",
        "resources.workers=1",
        "resources.threads=1",
    ],
)
def test_a_changed_budget_is_accepted_and_kept(small: Small, tmp_path: Path, override: str) -> None:
    run = driver.new_run(small(), tmp_path / "run")
    space = small(override)
    assert driver.resumed_run(space, run.root).root == run.root
    assert load_space(run.space).resolved() == space.resolved()
