"""What the fault tests share: a tiny base with its data, and the command line as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from cut_trials import Left
    from tune_lora.spaces import Space
    from tune_lora.trainer.base import BaseModel
    from tune_lora.trainer.data import TokenizedData
    from tune_lora.trainer.folder import TrialFolder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def lent(tiny: Callable[..., Path]) -> BaseModel:
    """A tiny Llama in fp32, bare again after every trial, however it was cut off."""
    from cut_trials import load_tiny

    return load_tiny(tiny())


@pytest.fixture(scope="session")
def rows(pairs: Path, lent: BaseModel) -> TokenizedData:
    from cut_trials import tokenized

    return tokenized(pairs, lent)


@pytest.fixture(scope="session")
def whole(lent: BaseModel, rows: TokenizedData, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """The trial of ``cut_trials`` without an interruption."""
    from cut_trials import RUNGS, resumed
    from tune_lora.trainer.folder import TrialFolder

    left = resumed(TrialFolder(tmp_path_factory.mktemp("whole") / "trial"), lent, rows)
    losses = {e.step: e.eval_loss for e in left.result.evaluations}
    assert list(losses) == list(RUNGS)
    assert len(set(losses.values())) == len(RUNGS)
    return left


@pytest.fixture
def cut(tmp_path: Path, lent: BaseModel, rows: TokenizedData) -> TrialFolder:
    """A trial that was cut off at its second rung."""
    from cut_trials import CutError, cut_at, resumed
    from tune_lora.trainer.folder import TrialFolder

    folder = TrialFolder(tmp_path / "trial")
    with pytest.raises(CutError):
        resumed(folder, lent, rows, report=cut_at(5))
    return folder


@pytest.fixture
def small(space_file: Callable[..., Path]) -> Callable[..., Space]:
    """``small("lora.r=4", search={...})``: the tiny space with overrides and blocks."""
    from tune_lora.spaces import load_space

    def load(*overrides: str, **blocks: dict[str, object]) -> Space:
        return load_space(space_file(**blocks), overrides)

    return load


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command line in a process group of its own; none outlives the test."""
    begun: list[psutil.Process] = []

    def start(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tune_lora.cli", *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        begun.append(psutil.Process(process.pid))
        return process

    yield start
    for process in begun:
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            for member in [*process.children(recursive=True), process]:
                member.send_signal(signal.SIGKILL)
