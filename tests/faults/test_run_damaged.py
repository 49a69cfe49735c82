"""Damage and contradictions in a run folder or its data: restored, or refused in plain words."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tune_lora.search import driver
from tune_lora.search.study import Study
from tune_lora.spaces import Space, SpaceError, load_space
from tune_lora.trainer.errors import TrialError
from tune_lora.trainer.folder import RunFolder
from whole_searches import Interjecting, numbers, search, study_states

Small = Callable[..., Space]


@pytest.fixture
def begun(small: Small, tmp_path: Path) -> RunFolder:
    """A search of three trials, interrupted in the second."""
    run = driver.new_run(small(), tmp_path / "run")
    press = Interjecting("trial-0001  step   2/4", lambda: signal.raise_signal(signal.SIGINT))
    assert search(small(), run, press).reason == "interrupted"
    return run


def test_a_damaged_result_comes_back_from_the_study(small: Small, begun: RunFolder) -> None:
    file = begun.trial(0).result
    before = file.read_bytes()
    file.write_bytes(before[: len(before) // 2])
    search(small(), driver.resumed_run(small(), begun.root))
    assert file.read_bytes() == before
    assert numbers(begun) == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"number": 1}', b"\xff\xfe"])
def test_a_damaged_result_of_a_running_trial_is_no_obstacle(
    small: Small, begun: RunFolder, content: bytes
) -> None:
    begun.trial(1).result.write_bytes(content)
    search(small(), driver.resumed_run(small(), begun.root))
    assert numbers(begun) == [0, 1, 2]
    assert study_states(begun) == ["COMPLETE"] * 3


def test_a_trials_folder_that_is_gone_is_no_obstacle(small: Small, begun: RunFolder) -> None:
    shutil.rmtree(begun.trial(1).root)
    search(small(), driver.resumed_run(small(), begun.root))
    assert numbers(begun) == [0, 1, 2]


def test_an_end_that_had_not_reached_the_study_is_told(
    small: Small, begun: RunFolder, tmp_path: Path
) -> None:
    # As it is when the kill falls between the result file and the study.
    study = tmp_path / "before.db"
    shutil.copy(begun.study, study)
    search(small(), driver.resumed_run(small("search.trials=2"), begun.root))
    (ended,) = (result for result in begun.results() if result.number == 1)
    shutil.copy(study, begun.study)
    assert study_states(begun) == ["COMPLETE", "RUNNING"]
    search(small(), driver.resumed_run(small("search.trials=2"), begun.root))
    assert Study(small(), begun.study, begun.name).result(1) == ended


def test_a_study_that_is_no_database_is_named(small: Small, begun: RunFolder) -> None:
    begun.study.write_bytes(b"no database" * 100)
    with pytest.raises(TrialError, match=r"study\.db: cannot be opened as an Optuna study"):
        search(small(), driver.resumed_run(small(), begun.root))


def test_a_bad_row_in_the_middle_of_the_data_is_named(
    small: Small, tmp_path: Path, pairs: Path
) -> None:
    lines = pairs.read_text(encoding="utf-8").splitlines()
    lines[20] = '{"instruction": "cut o'
    bad = tmp_path / "bad.jsonl"
    bad.write_text("\n".join(lines), encoding="utf-8")
    space = small(f"data.train={bad}")
    run = driver.new_run(space, tmp_path / "run")
    with pytest.raises(SpaceError, match="row 20") as caught:
        search(space, run)
    assert caught.value.faults[0].path == "data.train"
    assert not run.root.exists()


def test_a_row_without_its_field_is_named(small: Small, tmp_path: Path, pairs: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    del rows[20]["response"]
    bad = tmp_path / "bad.jsonl"
    bad.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    space = small(f"data.train={bad}")
    run = driver.new_run(space, tmp_path / "run")
    with pytest.raises(SpaceError, match=f"empty response, the first is line 21 of {bad}"):
        search(space, run)
    assert not run.root.exists()


KILLED_WRITING = """
import os, signal, sys
from pathlib import Path
from tune_lora.search.driver import new_run
from tune_lora.spaces import load_space

os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
new_run(load_space(sys.argv[1]), Path(sys.argv[2]))
"""


def test_killed_while_the_folder_was_made(space_file: Callable[..., Path], tmp_path: Path) -> None:
    path, root = space_file(), tmp_path / "run"
    ended = subprocess.run([sys.executable, "-c", KILLED_WRITING, path, root], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [file.name[:12] for file in root.iterdir()] == [".space.yaml."]
    run = driver.new_run(load_space(path), root)
    assert list(root.iterdir()) == [run.space]


@pytest.mark.parametrize("name", [".space.yaml.swp", "notes.txt", "space.yaml"])
def test_a_file_of_the_users_own_is_left_alone(small: Small, tmp_path: Path, name: str) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / name).write_text("mine", encoding="utf-8")
    with pytest.raises(TrialError, match="is not empty"):
        driver.new_run(small(), root)
    assert (root / name).read_text(encoding="utf-8") == "mine"
